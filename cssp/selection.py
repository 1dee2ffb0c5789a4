"""What `cssp.select` returns: the chosen columns, their error, and the certificate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import array_api_compat
import numpy as np

from cssp import gradients, linalg
from cssp.certificate import Certificate
from cssp.errors import UnsupportedError
from cssp.methods import METHODS, Method
from cssp.pivoting import CLEAR
from cssp.problem import Array, Problem
from cssp.residuals import as_exponent, column_norms, relative_p_norm
from cssp.scaling import default_floating_errors, shifted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Certificate", "Part", "Selection"]


#: Entries of a matrix whose singular values are found without a copy of it.
LARGE = 1 << 24


@dataclass(frozen=True, eq=False)
class Part:
    """One batch item: its problem and its picks, as indices into ``problem.A``.

    ``known_rank`` is the rank where the method found it; ``own`` are the picks as the method made them, before `select`
    cut or completed them; ``live`` is what carries gradients, if anything does.
    """

    problem: Problem
    picks: tuple[int, ...]
    known_rank: int | None
    own: tuple[int, ...]
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
            self.own,
            self.trace,
            self.wanted_exponent,
        )

    def __deepcopy__(self, memo: Any) -> Part:
        return self  # a record of results, which shares its matrix

    @cached_property
    def chosen(self) -> Array:
        """The chosen columns in the widest precision, shape (m, k)."""
        return linalg.widen(linalg.take_columns(self.problem.A, list(self.picks)))

    @property
    def wanted_exponent(self) -> int:
        """The caller's matrix is ``wanted·2**wanted_exponent``."""
        p = self.problem
        return p.exponent if p.target is None else p.target_exponent

    @cached_property
    def floor(self) -> float:
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
        return linalg.basis(self.chosen, self.floor)

    @cached_property
    def independent(self) -> list[bool]:
        """Which chosen columns count for the rank, in the precision the data came in."""
        p = self.problem
        if self.known_rank == len(self.picks):
            return [True] * self.known_rank
        return self.basis[1] if p.unit == self.eps else linalg.independent_columns(self.chosen, p.floor)

    def clear(self) -> list[bool]:
        """Return which chosen columns are independent by far more than the threshold."""
        return linalg.basis(self.chosen, CLEAR * self.problem.floor)[1]

    @cached_property
    def rank(self) -> int:
        """Numerical rank of the chosen columns."""
        return sum(self.independent) if self.known_rank is None else self.known_rank

    @cached_property
    def trace(self) -> np.ndarray:
        """Squared errors after 0, ..., k picks, in the unit of ``problem.B``."""
        return linalg.error_trace(*self.basis, self.problem.B)

    @cached_property
    def norms2(self) -> np.ndarray:
        """Squared norms of the wanted columns and of their residuals in that unit, shape (2, n), in the caller's order."""
        return linalg.host(self.spread(self.column_norms()))

    def column_norms(self) -> np.ndarray:
        """Return `norms2` without the columns of padding."""
        return column_norms(self.problem.B, self.basis[0])

    def scaled(self, x: Any, power: int = 1) -> Any:
        """Return x·2**(power·exponent): from the unit of ``problem.B`` to the caller's."""
        return _scaled(x, power * self.wanted_exponent)

    def coefficients(self) -> Array:
        """Return the least-squares coefficients (k, p) of the wanted matrix; of least norm if not unique.

        Where the chosen columns are independent but close to dependence, rounding of large coefficients may exceed what
        they explain; a column is then given the coefficients of a truncated SVD, if these fit it better.
        """
        shift = self.wanted_exponent - self.problem.exponent
        Q, independent = self.basis
        if self.live is not None:
            T = gradients.coefficients(*self.live.matrices(self.problem, self.picks), independent, self.floor)
            return shifted(T, shift)
        C, B = self.chosen, self.problem.B
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
        Q, independent = self.basis
        if self.live is not None:
            return gradients.projection(*self.live.matrices(self.problem, self.picks), independent)
        B = self.problem.B
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
        factor = _promised(law.frobenius if law else None, size, options)
        spectral_factor = _promised(law.spectral if law else None, size, options)
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
            "ratio": _ratio(*frobenius, noise**2 * len(s)),
            "factor": factor,
            "source": law.source if law and factor is not None else None,
            "a_posteriori": None if p.target is not None else _oblique(V, s > noise, p.n),
            "rank": self.rank,
            "holds": law.holds if law and (factor, spectral_factor) != (None, None) else None,
            "spectral_error": float(self.scaled(math.sqrt(spectral[0]))),
            "spectral_squared_error": float(self.scaled(spectral[0], 2)),
            "spectral_squared_optimum": float(self.scaled(spectral[1], 2)),
            "spectral_ratio": _ratio(*spectral, noise**2),
            "spectral_factor": spectral_factor,
            "spectral_source": law.source if law and spectral_factor is not None else None,
            "method": row.name,
            "k": k,
        }

    def spectrum(self) -> tuple[np.ndarray, np.ndarray, float]:
        """Return the singular values of the wanted matrix, its right singular vectors at the picks, the spectral norm of its residual.

        The vectors are the rows of an array (min(m, p), k); without a meaning where there is a target.
        """
        p, picks = self.problem, list(self.picks)
        (m, n), C = p.B.shape, linalg.host(self.chosen)
        if p.target is None and m * n > LARGE and min(m, n) <= linalg.SQUARE:
            return linalg.spectrum(linalg.triangle(p.B), C if m <= n else None, picks, self.floor)
        B = linalg.host(linalg.widen(p.B))
        left = linalg.project_off(B, linalg.basis(C, self.floor)[0])
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
        own = self.own == self.picks or (row.nested and self.own[:k] == self.picks)
        fixed = p.tol is None or row.deterministic
        return free and own and fixed and self.rank == k


@dataclass(frozen=True, eq=False)
class Kept:
    """What is left of a `Part` that was pickled: everything but the matrix and what is computed from it."""

    picks: tuple[int, ...]
    indices: np.ndarray
    width: int
    rank: int
    own: tuple[int, ...]
    trace: np.ndarray
    wanted_exponent: int

    def scaled(self, x: Any, power: int = 1) -> Any:
        """Return x in the caller's unit, as `Part.scaled` does."""
        return _scaled(x, power * self.wanted_exponent)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise UnsupportedError(
            "this selection was pickled, which leaves its matrix A behind: indices, errors and mask() came with it, "
            "expected A for all else; call it before pickling, or on cssp.select(A, tol=1.0, include=indices)"
        )


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


def _ratio(error: float, optimum: float, noise: float) -> float:
    if optimum > noise:
        return error / optimum
    return 1.0 if error <= 4 * noise else math.inf if optimum == 0 else error / optimum


def _promised(
    f: Callable[..., float | None] | None, size: tuple[int, int, int], options: Mapping[str, Any]
) -> float | None:
    value = None if f is None else f(*size, **options)
    return None if value is None else float(value)


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


@dataclass(frozen=True, eq=False, repr=False)
class Selection:
    """Columns chosen by `cssp.select`.

    Errors, coefficients and reconstructions are computed from A when first asked for: do not overwrite A
    before. They are about A·diag(w), or about ``target`` where one was given, and of the exact data: half and
    single precision input is widened to float64 for them.

    A pickled selection leaves A behind: its errors are computed before, its residuals, coefficients, reconstruction and
    certificate are refused afterwards. Copies share A.

    Where A is a torch tensor and A, ``weights`` or ``target`` requires a gradient, `coefficients` and `reconstruct` carry
    it, the indices being fixed; indices and errors never do. The selection then holds the graph of these arguments: detach
    them, or select under ``torch.no_grad()``, where no gradient is wanted. If the chosen columns are dependent, both are
    discontinuous, and the derivative is the one along matrices of the same rank.

    Attributes
    ----------
    indices : int64 array, shape (..., k)
        In order of choice, distinct, in the namespace and on the device of A. Where the items of a batch have
        different lengths (one k per item, or ``tol``) the shorter ones are padded with -1.
    method : str
    rank : int, or int64 array of the batch's shape
        Numerical rank of the chosen columns: less than k where k exceeds the numerical rank of A, or where
        a method chose dependent columns.
    k : int, or int64 array of the batch's shape
        Number of columns chosen.
    options : dict
        The method's options of this call.
    passes : float or None
        For a matrix that is not in memory: how often the choice read all of it, parts of it counted as parts (for a
        LinearOperator, products with blocks). `errors` and the others read it again.

    Examples
    --------
    >>> import numpy as np, cssp
    >>> A = np.array([[1.0, 0.0, 1.0], [0.0, 2.0, 2.0]])
    >>> sel = cssp.select(A, 2)
    >>> sel.indices.tolist(), sel.mask().tolist()
    ([2, 0], [True, False, True])
    >>> bool(np.allclose(A[:, sel.indices] @ sel.coefficients(), A)), bool(np.allclose(sel.reconstruct(), A))
    (True, True)
    >>> round(cssp.select(A, 1).certificate().ratio, 2)
    1.15
    """

    indices: Array
    method: str
    rank: Any
    k: Any
    options: Mapping[str, Any]
    passes: float | None
    _parts: tuple[Part, ...]
    _batch: tuple[int, ...]
    _like: Array  # an empty array that carries namespace and device

    @cached_property
    @default_floating_errors
    def errors(self) -> Array:
        """Squared Frobenius residual after 0, ..., k picks, float64, shape (..., k + 1), nonincreasing.

        Shorter items of a batch are padded with their last value. At scales whose squares leave float64
        these are 0 or inf; `error` is not.
        """
        length = max((len(part.picks) for part in self._parts), default=0)
        rows = [
            np.pad(part.scaled(part.trace, 2), (0, length - len(part.picks)), mode="edge")
            for part in self._parts
        ]
        return self._gather(np.reshape(np.asarray(rows, dtype=np.float64), (*self._batch, length + 1)))

    @cached_property
    @default_floating_errors
    def error(self) -> Any:
        """Frobenius norm of the residual, not squared: a float, or an array of the batch's shape."""
        return self._numbers([float(part.scaled(math.sqrt(part.trace[-1]))) for part in self._parts])

    @cached_property
    @default_floating_errors
    def squared_error(self) -> Any:
        """`error` squared, the last of `errors`; 0 or inf where that leaves the range of float64."""
        return self._numbers([float(part.scaled(part.trace[-1], 2)) for part in self._parts])

    @cached_property
    @default_floating_errors
    def relative_error(self) -> Any:
        """`error` over the norm of what is reconstructed; 0 for a zero matrix."""
        return self._numbers([relative(part.trace)[-1] for part in self._parts])

    @cached_property
    @default_floating_errors
    def residuals(self) -> Array:
        """Norms of the residuals of all columns, ‖(I - P_S) a_j‖, float64, shape (..., n), in the order of A.

        Of A·diag(w); of the columns of ``target`` where one was given, shape (..., p). Zero for columns of padding. The
        squares add up to `squared_error`; norms outside the range of float64 are 0 or inf.

        Examples
        --------
        >>> import numpy as np, cssp
        >>> cssp.select(np.array([[3.0, 0.0, 1.0], [0.0, 2.0, 1.0]]), 1).residuals
        array([0., 2., 1.])
        """
        rows = [part.scaled(np.sqrt(part.norms2[1])) for part in self._parts]
        return self._gather(
            np.reshape(np.asarray(rows, dtype=np.float64), (*self._batch, *np.shape(rows)[1:]))
        )

    @property
    def max_error(self) -> Any:
        """The largest of `residuals` over the largest column norm, which is ``error_p(inf)``."""
        return self.error_p(math.inf)

    @default_floating_errors
    def error_p(self, p: float) -> Any:
        """Return (Σ h_j^p)^(1/p) / (Σ ‖a_j‖^p)^(1/p), h_j being the `residuals`; 0 for a zero matrix.

        `relative_error` is ``error_p(2)``; the larger p, the more the worst columns count.

        Parameters
        ----------
        p : float
            From 1 to infinity.

        Returns
        -------
        float, or array of the batch's shape

        Raises
        ------
        CsspError
            p is less than 1, or no number.

        Examples
        --------
        >>> import numpy as np, cssp
        >>> s = cssp.select(np.array([[3.0, 0.0, 1.0], [0.0, 2.0, 1.0]]), 1)
        >>> round(s.error_p(1), 3), round(s.error_p(2), 3), round(s.error_p(np.inf), 3)
        (0.467, 0.577, 0.667)
        """
        p = as_exponent(p)
        return self._numbers([relative_p_norm(part.norms2, p) for part in self._parts])

    def mask(self) -> Array:
        """Return the chosen columns as a bool array (..., n)."""
        width = self._parts[0].width if self._parts else 0
        mask = np.zeros((len(self._parts), width), dtype=bool)
        for chosen, part in zip(mask, self._parts, strict=True):
            chosen[part.indices] = True
        return self._gather(mask.reshape((*self._batch, width)))

    @default_floating_errors
    def coefficients(self) -> Array:
        """Return T (..., k, n) with X[:, S] T ≈ X in the least-squares sense, X = A·diag(w).

        The solution of least norm where the chosen columns are dependent, so always finite (but for coefficients beyond
        the range of the precision). With a target,
        T (..., k, p) and X[:, S] T ≈ target. Rows beyond a shorter item's k are zero; so are columns of
        padding. To reconstruct A itself from A[:, S], use ``w[S][:, None] * T / w``.
        """
        length = max((len(part.picks) for part in self._parts), default=0)
        return self._stack([_tall(part.spread(part.coefficients()), length) for part in self._parts])

    @default_floating_errors
    def reconstruct(self) -> Array:
        """Return P_S X (..., m, n), the projection of X = A·diag(w) on the chosen; with a target, P_S target."""
        return self._stack(
            [shifted(part.spread(part.reconstruct()), part.wanted_exponent) for part in self._parts]
        )

    @default_floating_errors
    def certificate(self) -> Certificate:
        """Compare with the best rank-k approximation and with the method's theorem; costs an SVD of A."""
        records = [part.certificate(METHODS[self.method], self.options) for part in self._parts]
        if not self._batch:
            return Certificate(**records[0])
        columns = {f.name: self._column([record[f.name] for record in records]) for f in fields(Certificate)}
        if not records:
            columns |= {f.name: self._numbers([]) for f in fields(Certificate) if f.type == "Any"}
            columns["method"] = self.method
        return Certificate(**columns)

    def plot(self, ax: Axes | None = None, *, item: Any = None) -> Axes:
        """Draw `errors` beside the SVD optimum and the theorem's bound, see `cssp.plotting.error_trace`."""
        from cssp.plotting import error_trace

        return error_trace(self, ax, item=item)

    def __repr__(self) -> str:
        shape = tuple(self.indices.shape)
        if self._batch:
            shown = f"shape {shape}"
        else:
            shown = np.array2string(self._parts[0].indices, separator=", ", threshold=10)
        return f"Selection(method={self.method!r}, k={self.k}, rank={self.rank}, indices={shown})"

    def _gather(self, x: np.ndarray) -> Array:
        xp = array_api_compat.array_namespace(self._like)
        return xp.asarray(x, device=array_api_compat.device(self._like))

    def _numbers(self, values: list[Any]) -> Any:
        return values[0] if not self._batch else self._gather(np.reshape(np.asarray(values), self._batch))

    def _column(self, values: list[Any]) -> Any:
        known = [value for value in values if value is not None]
        if not known or isinstance(known[0], str):
            return known[0] if known else None
        return self._numbers([math.nan if value is None else value for value in values])

    def _stack(self, matrices: list[Array]) -> Array:
        xp, device = array_api_compat.array_namespace(self._like), array_api_compat.device(self._like)
        if not self._batch and len(matrices) == 1 and type(matrices[0]).__module__.startswith("dask"):
            return matrices[0]
        kind = type(self._like)
        matrices = [X if isinstance(X, kind) else xp.asarray(X, device=device) for X in matrices]
        if not self._batch:
            return matrices[0]
        stacked = xp.stack(matrices)
        return xp.reshape(stacked, (*self._batch, *stacked.shape[1:]))


def relative(trace: np.ndarray) -> list[float]:
    """Return the relative Frobenius errors of a trace of squared ones."""
    return [math.sqrt(x / trace[0]) if trace[0] > 0 else 0.0 for x in trace]


def _tall(T: Array, rows: int) -> Array:
    """Return T with zero rows below."""
    if T.shape[0] == rows:
        return T
    xp = array_api_compat.array_namespace(T)
    more = xp.zeros((rows - T.shape[0], T.shape[1]), dtype=T.dtype, device=array_api_compat.device(T))
    return xp.concat([T, more])
