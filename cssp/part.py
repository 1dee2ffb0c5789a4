"""One batch item of an answer: its problem, its picks, and all that is computed from the two."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import array_api_compat
import numpy as np

from cssp import gradients, linalg
from cssp.certificate import against_width, promised, ratio_of
from cssp.errors import UnsupportedError
from cssp.methods import Guarantee, Method
from cssp.pivoting import CLEAR
from cssp.problem import Array, Problem
from cssp.scaling import default_floating_errors, shifted

__all__ = ["Kept", "Part", "relative"]

#: Entries of a matrix whose singular values are found without a copy of it.
LARGE = 1 << 20


@dataclass(frozen=True, eq=False)
class Part:
    """One batch item: its problem and its picks, as indices into ``problem.A``.

    ``known_rank`` is the rank where the method found it; ``method_picks`` are the picks as the method made them, before `select`
    cut or completed them; ``live`` is what carries gradients, if anything does.
    """

    problem: Problem
    picks: tuple[int, ...]
    known_rank: int | None
    method_picks: tuple[int, ...]
    live: gradients.Live | None = None

    @cached_property
    def indices(self) -> np.ndarray:
        """The picks as the caller numbers the columns."""
        columns, picks = self.problem.columns, np.asarray(self.picks, dtype=np.int64)
        return picks if columns is None else columns[picks]

    @property
    def width(self) -> int:
        """The caller's number of columns."""
        return self.problem.width

    @default_floating_errors
    def __reduce__(self) -> Any:
        """Reduce to what is known of the picks, errors included, without the matrix, which is not pickled."""
        return Kept, (
            self.picks,
            self.indices,
            self.width,
            self.rank,
            self.method_picks,
            self.trace,
            self.wanted_exponent,
        )

    def __deepcopy__(self, memo: Any) -> Part:
        return self  # a record of results, which shares its matrix

    @cached_property
    def reduced(self) -> Problem:
        """The problem, on few rows where it can be: all numbers are said of its A and B."""
        return self.problem.reduced

    @cached_property
    def chosen(self) -> Array:
        """The chosen columns of `reduced` in the widest precision, shape (m, k)."""
        return linalg.widen(linalg.take_columns(self.reduced.A, list(self.picks)))

    @property
    def wanted_exponent(self) -> int:
        """The caller's matrix is ``wanted·2**wanted_exponent``."""
        p = self.problem
        return p.exponent if p.target is None else p.target_exponent

    @cached_property
    def cut(self) -> float:
        """`Problem.floor` in that precision."""
        p = self.problem
        return p.floor * self.eps / p.unit

    @property
    def eps(self) -> float:
        """Unit of rounding of that precision."""
        return float(array_api_compat.array_namespace(self.chosen).finfo(self.chosen.dtype).eps)

    @cached_property
    def basis(self) -> tuple[Array, list[bool]]:
        """Orthonormal basis of the chosen columns, and which of them add to it; all numbers below use it."""
        return linalg.basis(self.chosen, self.cut)

    @cached_property
    def independent(self) -> list[bool]:
        """Which chosen columns count for the rank, in the precision the data came in."""
        p = self.problem
        if self.known_rank == len(self.picks):
            return [True] * self.known_rank
        if p.tall:
            return p.independent(self.picks)
        return self.basis[1] if p.unit == self.eps else linalg.independent_columns(self.chosen, p.floor)

    def clear(self) -> list[bool]:
        """Return which chosen columns are independent by far more than the threshold."""
        return linalg.basis(self.chosen, CLEAR * self.problem.floor)[1]

    @cached_property
    def rank(self) -> int:
        """Numerical rank of the chosen columns."""
        return sum(self.independent) if self.known_rank is None else self.known_rank

    @cached_property
    def left(self) -> tuple[np.ndarray, np.ndarray]:
        """What each direction of the basis takes away, and `column_norms`."""
        return linalg.left_after(self.basis[0], self.reduced.B)

    @cached_property
    def trace(self) -> np.ndarray:
        """Squared errors after 0, ..., k picks, in the unit of ``problem.B``."""
        energies, norms2 = self.left
        return linalg.errors_of(energies, self.basis[1], float(np.sum(norms2[1])))

    @cached_property
    def norms2(self) -> np.ndarray:
        """Squared norms of the columns to be reconstructed and of their residuals in that unit, shape (2, n), in the caller's order."""
        return linalg.host(self.spread(self.column_norms))

    @cached_property
    def column_norms(self) -> np.ndarray:
        """`norms2` without the columns of padding."""
        return self.left[1]

    def scaled(self, x: Any, power: int = 1) -> Any:
        """Return x·2**(power·exponent): from the unit of ``problem.B`` to the caller's."""
        return _scaled(x, power * self.wanted_exponent)

    def coefficients(self) -> Array:
        """Return the least-squares coefficients (k, p) of the matrix to be reconstructed; of least norm if not unique.

        Where the chosen columns are independent but close to dependence, rounding of large coefficients may exceed what
        they explain; a column is then given the coefficients of a truncated SVD, if these fit it better.
        """
        shift = self.wanted_exponent - self.problem.exponent
        Q, independent = self.basis
        if self.live is not None:
            T = gradients.coefficients(*self.live.matrices(self.problem, self.picks), independent, self.cut)
            return shifted(T, shift)
        C, B = self.chosen, self.reduced.B
        xp, place = array_api_compat.array_namespace(C), array_api_compat.device(C)
        R = linalg.adjoint(Q) @ C
        truncated = linalg.truncated_solvers(C, R)
        singular = bool(truncated) and truncated[-1][0].shape[1] < min(R.shape)
        T = xp.zeros((C.shape[1], B.shape[1]), dtype=C.dtype, device=place)
        for part in linalg.blocks(B):
            X = linalg.widen(B[:, part])
            G = linalg.adjoint(Q) @ X
            best = truncated[-1][0] @ (truncated[-1][1] @ X) if singular else linalg.least_norm(R, G)
            left = linalg.column_norms2(X - C @ best) if truncated else None
            for V, W in truncated:
                other = V @ (W @ X)
                less = linalg.column_norms2(X - C @ other)
                best = xp.where(less < left, other, best)
                left = xp.minimum(less, left)
            T[:, part] = best
        return shifted(T, shift)

    def reconstruct(self) -> Array:
        """Return P_S B in the unit of ``problem.B``."""
        p = self.problem
        Q, independent = self.basis
        if self.reduced is not p:  # here the rows themselves are asked for
            Q, independent = linalg.basis(linalg.widen(p.take(self.picks)), self.cut)
        if self.live is not None:
            return gradients.projection(*self.live.matrices(p, self.picks), independent)
        B = p.B
        X = array_api_compat.array_namespace(Q).zeros(
            tuple(B.shape), dtype=Q.dtype, device=array_api_compat.device(Q)
        )
        for part in linalg.blocks(B):
            X[:, part] = Q @ (linalg.adjoint(Q) @ linalg.widen(B[:, part]))
        return X

    def spread(self, X: Array) -> Array:
        """Return X with a zero column in each place where padding was removed."""
        p = self.problem
        if p.columns is None or p.target is not None:
            return X
        xp = array_api_compat.array_namespace(X)
        wide = xp.zeros((X.shape[0], p.width + 1), dtype=X.dtype, device=array_api_compat.device(X))
        place = np.full(p.width, p.n, dtype=np.int64)
        place[p.columns] = np.arange(p.n)
        wide[:, : p.n] = X
        return linalg.take_columns(wide[:, : p.n + 1], place)

    def certificate(self, row: Method, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of `Certificate` for this item."""
        p, k = self.problem, len(self.picks)
        s, V, left = self.spectrum()
        noise = max(p.B.shape) * float(np.finfo(s.dtype).eps) * float(s[0])
        frobenius = _ordered(float(self.trace[-1]), float(np.sum(s[k:] ** 2)), noise)
        spectral = _ordered(left**2, float(s[k]) ** 2 if k < len(s) else 0.0, noise)
        law = row.guarantee if self.is_a_run_of(row) else None
        size = (p.m, p.n, k)
        factor = promised(law.frobenius if law else None, size, options)
        spectral_factor = promised(law.spectral if law else None, size, options)
        if law and law.rank:  # the theorem compares with the best of another rank
            r = law.rank(*size, **options)
            factor = _compared(factor, float(np.sum(s[r:] ** 2)), frobenius[1], noise**2 * len(s))
            spectral_factor = _compared(
                spectral_factor, float(np.sum(s[r : r + 1] ** 2)), spectral[1], noise**2
            )
        return {
            "error": float(self.scaled(math.sqrt(frobenius[0]))),
            "squared_error": float(self.scaled(frobenius[0], 2)),
            "squared_optimum": float(self.scaled(frobenius[1], 2)),
            "ratio": ratio_of(*frobenius, noise**2 * len(s)),
            "factor": factor,
            "source": law.source if law and factor is not None else None,
            "a_posteriori": None if p.target is not None else _oblique(V, s > noise, p.n),
            "rank": self.rank,
            "holds": law.holds if law and (factor, spectral_factor) != (None, None) else None,
            "spectral_error": float(self.scaled(math.sqrt(spectral[0]))),
            "spectral_squared_error": float(self.scaled(spectral[0], 2)),
            "spectral_squared_optimum": float(self.scaled(spectral[1], 2)),
            "spectral_ratio": ratio_of(*spectral, noise**2),
            "spectral_factor": spectral_factor,
            "spectral_source": law.source if law and spectral_factor is not None else None,
            "method": row.name,
            "k": k,
            "algorithm": None,
            **self.max_norm(s, noise, law, options),
        }

    def max_norm(
        self, s: np.ndarray, noise: float, law: Guarantee | None, options: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the fields of `Certificate` about the largest residual norm."""
        p, k, left2 = self.problem, len(self.picks), self.column_norms[1]
        worst, C = int(np.argmax(left2)), None
        if p.target is None and worst not in self.picks:
            C = linalg.host(linalg.widen(self.reduced.take([*self.picks, worst])))
        largest = math.sqrt(float(left2[worst]))
        low, ratio = against_width(largest, s, k, left2.size, C, noise)
        factor = promised(law.largest if law else None, (p.m, p.n, k), options)
        return {
            "max_error": float(self.scaled(largest)),
            "width": float(self.scaled(low)),
            "max_ratio": ratio,
            "max_factor": factor,
            "max_source": law.largest_source if law and factor is not None else None,
        }

    def spectrum(self) -> tuple[np.ndarray, np.ndarray, float]:
        """Return the singular values of the matrix to be reconstructed, its right singular vectors at the picks, the spectral norm of its residual.

        The vectors are the rows of an array (min(m, p), k); without a meaning where there is a target.
        """
        p, picks = self.reduced, list(self.picks)
        (m, n), C = p.B.shape, linalg.host(self.chosen)
        if p.target is None and m * n > LARGE and min(m, n) <= linalg.SQUARE:
            return linalg.spectrum(linalg.triangle(p.B), C if m <= n else None, picks, self.cut)
        B = linalg.host(linalg.widen(p.B))
        left = linalg.project_off(B, linalg.basis(C, self.cut)[0])
        _, s, Vh = linalg.svd(B)
        V = Vh[:, picks] if p.target is None else Vh[:, :0]
        return s, V, float(np.linalg.norm(left, 2))

    def is_a_run_of(self, row: Method) -> bool:
        """Return whether these picks are what the method's theorem is about.

        It had its choice of all columns, to reconstruct A; the picks are all its own and independent. A
        number of columns that chance decided, through `tol`, is beyond a statement in expectation.
        """
        p, k = self.problem, len(self.picks)
        free = p.target is None and not p.include and bool(np.all(linalg.host(p.candidates)))
        unchanged = self.method_picks == self.picks or (row.nested and self.method_picks[:k] == self.picks)
        fixed = p.tol is None or row.deterministic
        return free and unchanged and fixed and self.rank == k


@dataclass(frozen=True, eq=False)
class Kept:
    """What is left of a `Part` that was pickled: everything but the matrix and what is computed from it."""

    picks: tuple[int, ...]
    indices: np.ndarray
    width: int
    rank: int
    method_picks: tuple[int, ...]
    trace: np.ndarray
    wanted_exponent: int

    def scaled(self, x: Any, power: int = 1) -> Any:
        """Return x in the caller's unit, as `Part.scaled` does."""
        return _scaled(x, power * self.wanted_exponent)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise UnsupportedError(
            "this selection was saved or pickled, which leaves its matrix A behind: indices, errors and mask() came with it, "
            "expected A for all else; call it before pickling, or on cssp.select(A, tol=1.0, include=indices)"
        )


def relative(trace: np.ndarray) -> list[float]:
    """Return the relative Frobenius errors of a trace of squared ones."""
    return [math.sqrt(x / trace[0]) if trace[0] > 0 else 0.0 for x in trace]


def _scaled(x: Any, exponent: int) -> Any:
    with np.errstate(over="ignore", under="ignore"):
        return np.ldexp(x, exponent)


def _ordered(error: float, optimum: float, noise: float) -> tuple[float, float]:
    """Return the error and optimum, squared, the optimum not above the error where they differ by rounding only."""
    close = math.sqrt(optimum) <= math.sqrt(error) + 30 * noise
    return error, min(error, optimum) if close else optimum


def _compared(factor: float | None, theirs: float, optimum: float, noise: float) -> float | None:
    """Return the factor against `optimum` that one against another optimum, `theirs`, amounts to."""
    if factor is None or optimum > noise:
        return None if factor is None else factor * theirs / optimum
    return math.inf if theirs > noise else None


def _oblique(V: np.ndarray, present: np.ndarray, n: int) -> float:
    """Return 1 / σ_min(V_k[S, :])², inf where V_k[S, :] is singular to rounding; k no larger than the rank.

    The columns of V are the rows S of the n x n matrix of right singular vectors.
    """
    k = min(V.shape[1], int(present.sum()))
    if k == 0:
        return 1.0
    smallest = float(np.linalg.svd(V[:k], compute_uv=False)[-1])
    singular = smallest <= 4 * n * float(np.finfo(V.dtype).eps)
    return math.inf if singular else max(1.0, 1 / smallest**2)
