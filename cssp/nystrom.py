"""Landmarks of a positive semidefinite matrix: pivoted Cholesky, read by rows, K never formed.

Pivoted Cholesky [harbrecht2012] and randomly pivoted Cholesky [chen2025], also by rejection [epperly2024], choose on K what
`cssp.select` chooses on any A with AᴴA = K; the errors are those of A, squared. What differs is rounding: K holds the
squares of A's singular values, so a residual below √eps of the largest column of A is beyond it.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import array_api_compat
import numpy as np
import scipy.linalg

from cssp import arguments as check
from cssp.errors import (
    ArgumentError,
    RankDeficientError,
    RankDeficientWarning,
    UnknownNameError,
)
from cssp.gram import Gram, as_gram, rough
from cssp.methods import METHODS
from cssp.methods._sampling import draw, proposals
from cssp.problem import DOWNDATE_SLACK, TIE_BAND, Array
from cssp.scaling import shifted
from cssp.selection import Certificate

__all__ = ["GramSelection", "select_gram"]

#: Proposals a round of rejection: the first one, and the limits of twice the number accepted in the round before.
FIRST, FEWEST, MOST = 16, 8, 128

#: Rows that are read at once where the order of choice is known.
BLOCK = 32

#: Order of K from which "auto" rejects; below, a round costs entries that are not few beside n.
LARGE = 1 << 8

#: Residuals within this many units of noise are mostly rounding: no ratio to them tells anything.
CLEAR = 8


def select_gram(
    K: Any,
    k: int | None = None,
    method: str = "residual",
    *,
    X: Any = None,
    n: int | None = None,
    diagonal: Any = None,
    tol: float | None = None,
    weights: Any = None,
    include: Any = None,
    exclude: Any = None,
    deficient: str = "fill",
    rng: int | np.random.Generator | None = None,
    **options: Any,
) -> GramSelection:
    """Choose rows and columns S of a positive semidefinite K so that K[:, S] K[S, S]⁺ K[S, :] is near K.

    Parameters
    ----------
    K : array, shape (n, n), or callable, or str
        A symmetric or Hermitian matrix, NumPy or torch, of which only the rows chosen are read; or a function
        ``K(I, J)`` of two int64 arrays that returns the block (len(I), len(J)); or the name of a kernel of
        scikit-learn, such as "rbf", between the rows of `X`. What is read is checked, the rest is not.
    k : int
        Number of landmarks. It may be left out where `tol` is given.
    method : {"residual", "random_pivot", "greedy", "norm", "uniform"}
        As in `cssp.select` on A with K = AᴴA. "residual" and "random_pivot" evaluate (k + 1)n entries, "greedy"
        (k + 1)n² of them.
    X : array, shape (n, p), optional
        Data of a named kernel, one point per row.
    n : int, optional
        Order of K where it is a function.
    diagonal : float, or array, shape (n,), optional
        Diagonal of a function or a named kernel; without it, it is asked for in small blocks.
    tol : float in (0, 1], optional
        Stop at the first pick with tr(K - K_S) ≤ tol·tr(K): the square of the tol of `cssp.select`.
    weights : array, shape (n,), optional
        The same as ``select_gram(diag(weights) K diag(weights), ...)``.
    include, exclude, deficient, rng
        As in `cssp.select`.
    **options
        ``accelerated`` of "random_pivot": True draws by rejection in blocks, False one by one, "auto" (default) goes
        by n; and the parameters of a named kernel, such as ``gamma``.

    Returns
    -------
    GramSelection

    Raises
    ------
    CsspError
        K is seen to be not symmetric, not positive semidefinite or not finite, or an argument is wrong.

    Warns
    -----
    RankDeficientWarning
        k exceeds the numerical rank: residuals fall below n·eps·(largest diagonal entry).

    Examples
    --------
    >>> import numpy as np, cssp
    >>> A = np.array([[3.0, 0.0, 1.0], [0.0, 2.0, 1.0]])
    >>> cssp.select_gram(A.T @ A, 2).indices
    array([0, 1])
    """
    if not isinstance(method, str) or method not in RULES:
        raise UnknownNameError(f"method = {method!r}: one of {', '.join(map(repr, RULES))} is wanted")
    own = {name: options.pop(name) for name in ("accelerated",) if name in options}
    if own and method != "random_pivot":
        raise UnknownNameError(f"option 'accelerated' is unknown to method {method!r}; 'random_pivot' has it")
    G = as_gram(K, X, n, diagonal, weights, options)
    counts, tol = check.as_counts(k, ()), check.as_tolerance(tol)
    if counts is None and tol is None:
        raise ArgumentError(
            "neither k nor tol is given: say how many landmarks, or how small an error, is wanted"
        )
    if deficient not in ("fill", "truncate", "raise"):
        raise ArgumentError(f"deficient = {deficient!r}: 'fill', 'truncate' or 'raise' is wanted")
    first, never = (
        check.as_columns(name, index, (), G.n) for name, index in (("include", include), ("exclude", exclude))
    )
    check.check_disjoint(first, never)
    admissible = G.n - never.size
    wanted = admissible if counts is None else int(counts)
    if wanted > admissible or wanted < 1:
        raise ArgumentError(f"k = {wanted}, but only {admissible} of {G.n} indices may be chosen")
    if first.size > wanted:
        raise ArgumentError(f"include has {first.size} indices, more than k = {wanted}")
    candidates = np.ones(G.n, dtype=bool)
    candidates[never] = candidates[first] = False
    L = Cholesky(G, wanted, candidates, first.tolist(), tol)
    RULES[method](L, check.as_generator(rng), **own)
    own_picks = tuple(L.indices)
    length = _length(L, counts is not None)
    if length > len(L.indices):
        unused = np.setdiff1d(np.flatnonzero(candidates), L.indices)
        for j in unused[: length - len(L.indices)].tolist():
            L.append(j)
    L.cut(length)
    if counts is not None and len(L.indices) == wanted and L.rank < wanted and not L.reached():
        rank = L.rank if method == "residual" and not L.include else _rank(L)
        if rank < wanted and deficient == "raise":
            raise RankDeficientError(
                f"k = {wanted} exceeds the numerical rank {rank} of K (deficient='raise')"
            )
        if rank < wanted and deficient == "truncate":
            L.truncate()
        elif rank < wanted:
            warnings.warn(
                f"k exceeds the numerical rank of K: only {L.rank} of {wanted} landmarks are independent, the "
                "others add nothing (deficient='fill'); use deficient='truncate' or 'raise', or tol",
                RankDeficientWarning,
                stacklevel=2,
            )
    return _record(K, L, method, own, own_picks)


class Cholesky:
    """Partial factor F of K ≈ FᴴF, row by row, and the diagonal d of K - FᴴF.

    Attributes
    ----------
    indices : list of int
        Picks, the included ones from the start.
    independent : list of bool
        Whether each pick added a row to F.
    d : float64 array, shape (n,)
    trace : list of float
        Trace of K - FᴴF after 0, 1, ... picks.
    noise, floor : float
        Residual of nothing but rounding; of one that counts for the rank.
    seen : float
        Rounding of K itself, as far as rows contradict each other: residuals below it count for nothing.
    """

    def __init__(
        self, G: Gram, k: int, candidates: np.ndarray, include: list[int], tol: float | None = None
    ) -> None:
        self.G, self.k, self.include = G, k, include
        self.open_ = candidates.copy()
        self.candidates = candidates
        self.d = G.diagonal.copy()
        self.F = np.zeros((min(k, 64), G.n))
        self.r = self.rank = 0
        self.indices: list[int] = []
        self.independent: list[bool] = []
        self.clear: list[bool] = []
        self.trace = [math.fsum(self.d)]
        self.seen = 0.0
        admissible = candidates.copy()
        admissible[include] = True
        self.top = float(np.max(G.diagonal[admissible]))
        self.goal = -1.0 if tol is None else tol * self.trace[0]
        self._scale()
        for j in include:
            self.take(j, forced=True)

    def _scale(self) -> None:
        """Levels of rounding; a function tells its precision with its first block."""
        n, eps = self.G.n, self.G.eps
        self.floor = n * eps * self.top
        self.noise = min(n, 2 * math.sqrt(n)) * eps * self.top
        self.gross = rough(eps) * float(np.max(self.G.diagonal))

    @property
    def wanted(self) -> int:
        """Number of picks still to be made."""
        return self.k - len(self.indices)

    @property
    def factor(self) -> np.ndarray:
        """F, shape (r, n)."""
        return self.F[: self.r]

    def reached(self) -> bool:
        """Whether the tolerance is met."""
        return self.trace[-1] <= self.goal

    def residual(self, J: Any, rows: np.ndarray | None = None) -> np.ndarray:
        """Rows J of K - FᴴF."""
        rows = self.G.rows(J) if rows is None else rows
        return rows - self.factor[:, J].conj().T @ self.factor if self.r else rows

    def eligible(self) -> np.ndarray:
        """Open indices whose residual is more than rounding."""
        return self.open_ & (self.d > max(self.noise, self.seen))

    def take(self, j: int, *, forced: bool = False) -> bool:
        """Choose j unless its residual is rounding; whether it added a direction."""
        return self.push(j, self.residual([j])[0], forced=forced)

    def take_block(self, J: list[int], *, forced: bool = False) -> None:
        """Choose all of J in this order, or those before the tolerance is met; their rows are read at once."""
        start, rows = self.r, self.residual(J)
        for j, c in zip(J, rows, strict=True):
            if self.reached():
                break
            new = self.F[start : self.r]
            self.push(j, c - new[:, j].conj() @ new, forced=forced)

    def push(self, j: int, c: np.ndarray, *, forced: bool = False) -> bool:
        """As `take`, c being row j of the residual.

        Without pivoting a small pivot magnifies rounding for all later ones, so that a pick that was not made for its size
        counts as dependent where half of its digits are gone.
        """
        self._scale()
        pivot = float(c[j].real)
        before = [s for s, yes in zip(self.indices, self.independent, strict=True) if yes]
        if before:  # zero but for rounding: that of K, too
            self.seen = max(self.seen, float(np.max(np.abs(c[before]))))
        if self.seen > self.gross:
            s = before[int(np.argmax(np.abs(c[before])))]
            raise ArgumentError(f"K is not symmetric: rows {j} and {s} contradict each other")
        left = self.d - _squares(c) / pivot if pivot > self.noise else None
        if left is None or float(np.min(left)) < -self.noise:
            self._doubt(j, pivot, c)
        least = math.sqrt(self.G.eps) * float(self.G.diagonal[j]) if forced else 0.0
        independent = left is not None and pivot > max(self.seen, least)
        self.open_[j] = False
        if left is not None and independent:
            row = c / math.sqrt(pivot)
            row[before] = 0
            if self.r == len(self.F):
                more = min(self.k, 2 * self.r) - self.r
                self.F = np.concatenate([self.F, np.zeros((more, self.G.n), dtype=self.F.dtype)])
            if row.dtype.kind == "c" and self.F.dtype.kind != "c":
                self.F = self.F.astype(np.complex128)
            self.F[self.r] = row
            self.r, self.rank = self.r + 1, self.rank + (pivot > max(self.floor, self.seen))
            self.d = np.maximum(left, 0)
            self.d[j] = 0
        if independent or forced:
            self.append(j, independent, pivot > max(self.floor, self.seen))
        return independent

    def _doubt(self, j: int, pivot: float, c: np.ndarray) -> None:
        """Take what no semidefinite matrix has, the negative eigenvalue of a minor [[p, c], [c̄, d]], for rounding of K."""
        lowest = (pivot + self.d - np.sqrt((pivot - self.d) ** 2 + 4 * _squares(c))) / 2
        low = int(np.argmin(lowest))
        self.seen = max(self.seen, -float(lowest[low]))
        if self.seen > self.gross:
            raise ArgumentError(
                f"K is not positive semidefinite: entry ({j}, {low}) is too large for the diagonal; "
                "add a multiple of the identity if that is meant"
            )

    def append(self, j: int, independent: bool = False, clear: bool = False) -> None:
        """Record a pick."""
        self.indices.append(int(j))
        self.independent.append(independent)
        self.clear.append(clear)
        self.trace.append(float(np.sum(self.d)) if independent else self.trace[-1])

    def cut(self, length: int) -> None:
        """The first picks alone."""
        del self.indices[length:], self.independent[length:], self.clear[length:], self.trace[length + 1 :]
        self.r, self.rank = sum(self.independent), sum(self.clear)

    def truncate(self) -> None:
        """The independent picks and the included ones, at least one."""
        keep = [yes or j in self.include for j, yes in zip(self.indices, self.clear, strict=True)]
        keep = keep if any(keep) else [True] + [False] * (len(keep) - 1)
        F = self.factor
        place = np.cumsum(self.independent) - 1
        rows = [int(p) for p, yes, row in zip(place, keep, self.independent, strict=True) if yes and row]
        trace = [self.trace[0], *(t for t, yes in zip(self.trace[1:], keep, strict=True) if yes)]
        self.F, self.r, self.trace = F[rows], len(rows), trace
        for name in ("indices", "independent", "clear"):
            setattr(self, name, [x for x, yes in zip(getattr(self, name), keep, strict=True) if yes])

    def best(self, score: np.ndarray, allowed: np.ndarray, slack: np.ndarray) -> int:
        """Allowed index of the largest score, the lowest one in a tie."""
        masked = np.where(allowed, score, -math.inf)
        return int(np.argmax(masked + slack >= masked.max() * (1 - TIE_BAND * self.G.eps)))


def _squares(x: np.ndarray) -> np.ndarray:
    """Squared moduli."""
    return x.real**2 + x.imag**2 if x.dtype.kind == "c" else x**2


def residual(L: Cholesky, rng: np.random.Generator) -> None:
    """Largest diagonal entry of the residual first."""
    slack = DOWNDATE_SLACK * L.G.eps * L.G.diagonal
    while L.wanted and not L.reached() and np.any(allowed := L.eligible()):
        L.take(L.best(L.d, allowed, slack))


def greedy(L: Cholesky, rng: np.random.Generator) -> None:
    """Largest decrease of the trace first: max ‖R e_j‖²/R_jj, R = K - FᴴF; K is read once a pick.

    With c the new row of F, R₊e_j = R e_j - cᴴc_j gives f₊ = f - 2 Re(c_j h_j) + |c_j|²‖c‖² for f_j = ‖R e_j‖², h = R cᴴ.
    """
    if not L.wanted:
        return
    eps = L.G.eps
    f = f0 = _row_norms2(L)
    fresh = True
    while L.wanted and not L.reached() and np.any(allowed := L.eligible()):
        clear = L.open_ & (L.d > CLEAR * L.noise)
        allowed = clear if np.any(clear) else allowed
        g = np.where(allowed, L.d, 1.0)
        score = np.where(allowed, f / g, 0.0)
        rounding = np.where(allowed, DOWNDATE_SLACK * eps * (f0 + score * L.G.diagonal) / g, 0.0)
        worn = allowed & (f < math.sqrt(eps) * f0)
        if not fresh and np.any(worn & (score + rounding >= score.max())):
            f = f0 = _row_norms2(L)
            fresh = True
            continue
        j, r = L.best(score, allowed, rounding), L.r
        if not L.take(j):
            continue
        c = L.factor[-1]
        h = np.empty(L.G.n, dtype=L.F.dtype)
        for J, rows in L.G.all_rows():
            h[J] = rows @ c.conj()
        h -= L.F[:r].conj().T @ (L.F[:r] @ c.conj())
        f = np.maximum(f - 2 * (c * h).real + np.abs(c) ** 2 * float(np.vdot(c, c).real), 0)
        fresh = False


def _row_norms2(L: Cholesky) -> np.ndarray:
    """Squared norms of the rows of the residual."""
    f = np.empty(L.G.n)
    for J, rows in L.G.all_rows():
        f[J] = np.sum(np.abs(L.residual(J, rows)) ** 2, axis=1)
    return f


def random_pivot(L: Cholesky, rng: np.random.Generator, *, accelerated: bool | str = "auto") -> None:
    """Draw an index with probability proportional to the diagonal of the residual, again and again."""
    if not (isinstance(accelerated, bool) or (isinstance(accelerated, str) and accelerated == "auto")):
        raise ArgumentError(f"accelerated = {accelerated!r}: True, False or 'auto' is wanted")
    if L.G.n >= LARGE if accelerated == "auto" else accelerated:
        _rejecting(L, rng)
        return
    while L.wanted and not L.reached() and np.any(allowed := L.eligible()):
        L.take(draw(np.where(allowed, L.d, 0.0), rng))


def _rejecting(L: Cholesky, rng: np.random.Generator) -> None:
    """Propose from the diagonal d at the start of a round; accept with probability (entry now)/d."""
    b = FIRST
    while L.wanted and not L.reached() and np.any(allowed := L.eligible()):
        d = np.where(allowed, L.d, 0.0)
        S = proposals(d, b, rng)
        U = rng.random(b)
        H = L.G.block(S, S)
        H = H - L.factor[:, S].conj().T @ L.factor[:, S]
        exact, T = H.diagonal().real.copy(), list[int]()
        for i in range(b):
            pivot = float(H[i, i].real)
            if (
                len(T) < L.wanted
                and pivot > max(L.noise, L.seen)
                and U[i] * d[S[i]] < pivot
                and S[i] not in S[T]
            ):
                T.append(i)
                row = H[i] / math.sqrt(pivot)
                H = H - np.outer(row.conj(), row)
        # What was proposed has its entry formed anew: one that is rounding alone would be proposed for ever.
        L.d[S] = np.maximum(exact, 0.0)
        if T:
            L.take_block(S[T].tolist())
        b = min(max(2 * len(T), FEWEST), MOST)


def norm(L: Cholesky, rng: np.random.Generator) -> None:
    """Draw with probability proportional to the diagonal of K, without replacement: by arrival times Exp(1)/K_jj."""
    clock = np.log(rng.standard_exponential(L.G.n))
    live = np.flatnonzero(L.open_ & (L.G.diagonal > 0))
    arrival = clock[live] - np.log(L.G.diagonal[live])
    _in_order(L, live[np.argsort(arrival, kind="stable")][: L.wanted].tolist())


def uniform(L: Cholesky, rng: np.random.Generator) -> None:
    """Draw uniformly without replacement."""
    order = rng.permutation(L.G.n)
    _in_order(L, order[L.open_[order]][: L.wanted].tolist())


def _in_order(L: Cholesky, order: list[int]) -> None:
    for a in range(0, len(order), BLOCK):
        if not L.reached():
            L.take_block(order[a : a + BLOCK], forced=True)


RULES: Mapping[str, Callable[..., None]] = {
    "residual": residual,
    "random_pivot": random_pivot,
    "greedy": greedy,
    "norm": norm,
    "uniform": uniform,
}


def _length(L: Cholesky, counted: bool) -> int:
    """Number of picks: to the first place that meets the tolerance, else k, or the independent ones without k."""
    least = max(1, len(L.include))
    met = next((t for t, trace in enumerate(L.trace) if trace <= L.goal), None)
    if met is not None:
        return max(least, met)
    return L.k if counted else max(least, L.rank)


def _rank(L: Cholesky) -> int:
    """Numerical rank of the admissible part of K, or k if it is larger: pivoting goes on from the picks of L."""
    other = copy.copy(L)
    for name in ("indices", "independent", "clear", "trace"):
        setattr(other, name, list(getattr(L, name)))
    other.open_, other.d, other.goal = L.candidates.copy(), L.d.copy(), -1.0
    other.open_[L.include] = True
    other.k = len(L.indices) + L.k - L.rank
    residual(other, np.random.default_rng(0))
    return other.rank


@dataclass(frozen=True, eq=False, repr=False)
class GramSelection:
    """Landmarks chosen by `cssp.select_gram`.

    Errors are traces, which are trace norms here and the squared Frobenius errors of A where K = AᴴA. With weights all
    speaks of diag(w) K diag(w).

    Attributes
    ----------
    indices : int64 array, shape (k,)
        In order of choice, distinct, in the namespace and on the device of K where that is an array.
    method : str
    rank : int
        Numerical rank of K[S, S].
    k : int
        Number of landmarks.
    options : dict
    entries : int
        Entries of K that were evaluated for the selection.
    errors : float64 array, shape (k + 1,)
        Trace of K - K_S after 0, ..., k picks, K_S = K[:, S] K[S, S]⁺ K[S, :].
    """

    indices: Array
    method: str
    rank: int
    k: int
    options: Mapping[str, Any]
    entries: int
    errors: Array
    _F: np.ndarray
    _picks: tuple[int, ...]
    _full: bool
    _gram: Gram = field(repr=False)
    _like: Array | None

    @property
    def error(self) -> float:
        """Trace of K - K_S."""
        return float(self.errors[-1])

    @cached_property
    def relative_error(self) -> float:
        """`error` over the trace of K; 0 for a zero matrix."""
        return self.error / float(self.errors[0]) if self.errors[0] > 0 else 0.0

    def mask(self) -> Array:
        """Landmarks as a bool array (n,)."""
        mask = np.zeros(self._gram.n, dtype=bool)
        mask[list(self._picks)] = True
        return self._gather(mask)

    def nystrom(self) -> Array:
        """F (n, r) with F Fᴴ = K_S; r is less than k where landmarks are dependent."""
        return self._gather(shifted(self._F.conj().T, self._gram.exponent))

    def coefficients(self) -> Array:
        """T (k, n) = K[S, S]⁺ K[S, :], so that K_S = K[:, S] T."""
        L = self._F[:, list(self._picks)].conj().T  # K[S, S] = L Lᴴ
        if L.shape[0] == L.shape[1]:
            return self._gather(scipy.linalg.solve_triangular(L, self._F, trans="C", lower=True))
        return self._gather(np.linalg.pinv(L.conj().T) @ self._F)

    def reconstruct(self) -> Array:
        """K_S, shape (n, n)."""
        return self._gather(shifted(self._F.conj().T @ self._F, 2 * self._gram.exponent))

    def certificate(self) -> Certificate:
        """Compare with the best approximation of rank k and with the method's theorem.

        This does form K, and costs its eigenvalues. As K = AᴴA, the squared Frobenius and spectral norms of the
        residual of A are the trace and the spectral norm of K - K_S.
        """
        G, k, picks = self._gram, self.k, list(self._picks)
        K = np.concatenate([rows for _, rows in G.all_rows()])
        K = (K + K.conj().T) / 2
        values, V = np.linalg.eigh(K)
        values, V = np.maximum(values[::-1], 0), V[:, ::-1]
        noise = G.n * G.eps * float(values[0])
        error = float(np.ldexp(self.errors[-1], -2 * G.exponent))
        spread = float(np.max(np.abs(np.linalg.eigvalsh(K - self._F.conj().T @ self._F))))
        optimum, next_ = float(np.sum(values[k:])), float(values[k]) if k < G.n else 0.0
        law = METHODS[self.method].guarantee if self._full and self.rank == k else None
        size = (G.n, G.n, k)
        factor = law.frobenius(*size) if law and law.frobenius else None
        spectral = law.spectral(*size) if law and law.spectral else None
        r = min(k, int(np.sum(values > noise)))
        least = float(np.linalg.svd(V[picks, :r], compute_uv=False)[-1]) if r else 1.0
        scale = 2.0 ** (2 * G.exponent)
        return Certificate(
            error=error * scale,
            optimum=min(optimum, error) * scale,
            ratio=_ratio(error, optimum, noise),
            factor=factor,
            source=law.source if law and factor is not None else None,
            a_posteriori=1 / least**2 if least > 4 * G.n * float(np.finfo(np.float64).eps) else math.inf,
            rank=self.rank,
            holds=law.holds if law and (factor, spectral) != (None, None) else None,
            spectral_error=spread * scale,
            spectral_optimum=min(next_, spread) * scale,
            spectral_ratio=_ratio(spread, next_, noise),
            spectral_factor=spectral,
            spectral_source=law.source if law and spectral is not None else None,
        )

    def __repr__(self) -> str:
        shown = np.array2string(np.asarray(self._picks), separator=", ", threshold=10)
        return f"GramSelection(method={self.method!r}, k={self.k}, rank={self.rank}, indices={shown})"

    def _gather(self, x: np.ndarray) -> Array:
        if self._like is None:
            return x
        xp = array_api_compat.array_namespace(self._like)
        return xp.asarray(x, device=array_api_compat.device(self._like))


def _ratio(error: float, optimum: float, noise: float) -> float:
    if optimum > noise:
        return max(1.0, error / optimum)
    return 1.0 if error <= 4 * noise else math.inf if optimum == 0 else error / optimum


def _record(K: Any, L: Cholesky, method: str, options: dict[str, Any], own: tuple[int, ...]) -> GramSelection:
    G = L.G
    like = None
    if not isinstance(K, (str, list, tuple)) and not callable(K):
        xp = array_api_compat.array_namespace(K)
        like = xp.empty((0,), device=array_api_compat.device(K))
    with np.errstate(over="ignore", under="ignore"):
        errors = np.ldexp(np.asarray(L.trace), 2 * G.exponent)
    picks = tuple(L.indices)
    row = METHODS[method]
    sound = own == picks or (row.nested and own[: len(picks)] == picks)
    fixed = L.goal < 0 or row.deterministic
    selection = GramSelection(
        indices=np.asarray(picks, dtype=np.int64),
        method=method,
        rank=L.rank,
        k=len(picks),
        options=options,
        entries=G.entries,
        errors=errors,
        _F=L.factor.copy(),
        _picks=picks,
        _full=sound and fixed and not L.include and bool(L.candidates.all()),
        _gram=G,
        _like=like,
    )
    for name in ("indices", "errors"):
        object.__setattr__(selection, name, selection._gather(getattr(selection, name)))
    return selection
