"""Partial Cholesky factors of a `Gram`, and the rules by which the next pivot is chosen.

Harbrecht, Peters and Schneider, "On the low-rank approximation by the pivoted Cholesky decomposition", Appl. Numer. Math.
62:428-440, 2012 [harbrecht2012]; Chen, Epperly, Tropp and Webber, "Randomly pivoted Cholesky", Comm. Pure Appl. Math.
78:995-1041, 2025 [chen2025]; Epperly, Tropp and Webber, "Embrace rejection", 2024 [epperly2024].
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cssp.errors import ArgumentError
from cssp.gram import Gram, rough
from cssp.linalg import squares
from cssp.pivoting import TIE_BAND, norm_slack, stale_level, tie_bar
from cssp.sampling import draw, proposals
from cssp.scaling import shifted

__all__ = ["RULES", "Cholesky", "rank_of"]

#: Proposals a round of rejection: the first one, and the limits of twice the number accepted in the round before.
FIRST, FEWEST, MOST = 16, 8, 128

#: Units of rounding that K, a sum of products itself, may carry however small it is.
FEW = 64

#: Rows that are read at once where the order of choice is known.
BLOCK = 32

#: Order of K from which "auto" rejects; below, a round costs entries that are not few beside n.
LARGE = 1 << 8

#: Residuals within this many units of noise are mostly rounding: no ratio to them means anything.
CLEAR = 8


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
    tol_max : float or None
        Residual at or below which no index is chosen, but for the first, in the unit of diag(w) K diag(w).
    noise, floor : float64 array, shape (n,)
        Residuals of nothing but rounding, which is relative to each diagonal entry; of what counts for the rank.
    seen : float
        Rounding of K itself, relative to its diagonal, as far as rows contradict each other.
    allowed : callable or None
        ``allowed(chosen)``: which indices may follow, bool, shape (n,).
    price : float64 array, shape (n,), or 1.0
        What scores are divided by.
    """

    def __init__(
        self,
        G: Gram,
        k: int,
        candidates: np.ndarray,
        include: list[int],
        tol: float | None = None,
        tol_max: float | None = None,
        allowed: Callable[[list[int]], np.ndarray] | None = None,
        price: np.ndarray | float = 1.0,
    ) -> None:
        self.G, self.k, self.include, self.allowed, self.price = G, k, include, allowed, price
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
        self.tol_max = tol_max
        self._scale()
        for j in include:
            self.take(j, forced=True)

    def _scale(self) -> None:
        """Set the levels of rounding; the precision of a function is known from its first block."""
        n, eps, g = self.G.n, self.G.eps, self.G.diagonal
        count = max(n, FEW) * eps
        unit = max(min(n, 2 * math.sqrt(n)), FEW / 4) * eps
        self.floor = np.maximum(count * g, count**2 * self.top)
        self.noise = np.maximum(unit * g, unit**2 * self.top)

    @property
    def wanted(self) -> int:
        """Number of picks still to be made."""
        return self.k - len(self.indices)

    @property
    def factor(self) -> np.ndarray:
        """F, shape (r, n)."""
        return self.F[: self.r]

    def reached(self) -> bool:
        """Return whether the tolerance is met."""
        return self.trace[-1] <= self.goal or self.small()

    def small(self) -> bool:
        """Return whether, after a pick at least, no index that may follow has a residual above ``tol_max``."""
        if self.tol_max is None or not self.indices:
            return False
        return not bool(np.any(self.d[self.may_follow()] > shifted(self.tol_max, -2 * self.G.exponent)))

    def residual(self, J: Any, rows: np.ndarray | None = None) -> np.ndarray:
        """Return the rows J of K - FᴴF."""
        rows = self.G.rows(J) if rows is None else rows
        return rows - self.factor[:, J].conj().T @ self.factor if self.r else rows

    def eligible(self) -> np.ndarray:
        """Open indices that are allowed and whose residual is more than rounding."""
        return self.may_follow() & (self.d > np.maximum(self.noise, self.seen * self.G.diagonal))

    def may_follow(self) -> np.ndarray:
        """Return the open indices that are allowed."""
        return self.open_ if self.allowed is None else self.open_ & self.allowed(self.indices)

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
        """Add index j as `take` does, given row j of the residual as c.

        Without pivoting a small pivot magnifies rounding for all later ones, so that a pick that was not made for its size
        counts as dependent where half of its digits are gone.
        """
        self._scale()
        pivot, diagonal, gross = float(c[j].real), float(self.G.diagonal[j]), rough(self.G.eps)
        before = [s for s, yes in zip(self.indices, self.independent, strict=True) if yes]
        if before and diagonal > 0:  # zero but for rounding: that of K, too
            error = np.abs(c[before]) / np.sqrt(diagonal * self.G.diagonal[before])
            self.seen = max(self.seen, float(np.max(error)))
            if self.seen > gross:
                s = before[int(np.argmax(error))]
                raise ArgumentError(f"K is not symmetric: rows {j} and {s} contradict each other")
        left = self.d - squares(c) / pivot if pivot > self.noise[j] else None
        if left is None or bool(np.any(left < -self.noise)):
            self._doubt(j, c, gross)
        least = max(self.seen, math.sqrt(self.G.eps) if forced else 0.0) * diagonal
        independent = left is not None and pivot > least
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
            self.r, self.rank = self.r + 1, self.rank + self._counts(j, pivot)
            self.d = np.maximum(left, 0)
            self.d[j] = 0
        if independent or forced:
            self.append(j, independent, independent and self._counts(j, pivot))
        return independent

    def _counts(self, j: int, pivot: float) -> bool:
        """Return whether a pivot counts for the rank."""
        return pivot > max(float(self.floor[j]), self.seen * float(self.G.diagonal[j]))

    def _doubt(self, j: int, c: np.ndarray, gross: float) -> None:
        """Take what no semidefinite matrix has for rounding of K: the negative eigenvalue of [[p, c̄], [c, d]].

        Entries are relative to the diagonal of K here.
        """
        g = np.maximum(self.G.diagonal, np.finfo(np.float64).tiny)
        with np.errstate(over="ignore"):
            p, d, cc = float(c[j].real) / g[j], self.d / g, squares(c / math.sqrt(g[j]) / np.sqrt(g))
            lowest = (p + d - np.sqrt((p - d) ** 2 + 4 * cc)) / 2
        low = int(np.argmin(lowest))
        self.seen = max(self.seen, -float(lowest[low]))
        if self.seen > gross:
            raise ArgumentError(
                f"K is not positive semidefinite: entry ({j}, {low}) is too large for the diagonal; "
                "add a multiple of the identity if that is meant"
            )

    def append(self, j: int, independent: bool = False, clear: bool = False) -> None:
        """Append a pick."""
        self.indices.append(int(j))
        self.independent.append(independent)
        self.clear.append(clear)
        self.trace.append(float(np.sum(self.d)) if independent else self.trace[-1])

    def cut(self, length: int) -> None:
        """Keep only the first picks."""
        del self.indices[length:], self.independent[length:], self.clear[length:], self.trace[length + 1 :]
        self.r, self.rank = sum(self.independent), sum(self.clear)

    def truncate(self) -> None:
        """Keep the independent picks, at least one."""
        keep = list(self.clear) if any(self.clear) else [True] + [False] * (len(self.clear) - 1)
        F = self.factor
        place = np.cumsum(self.independent) - 1
        rows = [int(p) for p, yes, row in zip(place, keep, self.independent, strict=True) if yes and row]
        trace = [self.trace[0], *(t for t, yes in zip(self.trace[1:], keep, strict=True) if yes)]
        self.F, self.r, self.trace = F[rows], len(rows), trace
        for name in ("indices", "independent", "clear"):
            setattr(self, name, [x for x, yes in zip(getattr(self, name), keep, strict=True) if yes])

    def best(self, score: np.ndarray, allowed: np.ndarray, slack: np.ndarray) -> int:
        """Return the allowed index of the largest score per price, the lowest one in a tie."""
        masked = np.where(allowed, score / self.price, -math.inf)
        return int(np.argmax(masked + slack / self.price >= tie_bar(masked.max(), self.G.eps)))


def residual(L: Cholesky, rng: np.random.Generator) -> None:
    """Choose the largest diagonal entry of the residual, again and again."""
    slack = norm_slack(L.G.diagonal, L.G.eps)
    while L.wanted and not L.reached() and np.any(allowed := L.eligible()):
        L.take(L.best(L.d, allowed, slack))


def greedy(L: Cholesky, rng: np.random.Generator) -> None:
    """Choose the largest decrease of the trace, again and again: max ‖R e_j‖²/R_jj, R = K - FᴴF; K is read once a pick.

    With c the new row of F, R₊e_j = R e_j - cᴴc_j gives f₊ = f - 2 Re(c_j h_j) + |c_j|²‖c‖² for f_j = ‖R e_j‖², h = R cᴴ.
    """
    if not L.wanted:
        return
    eps = L.G.eps
    f = f0 = _row_norms2(L)
    fresh = True
    while L.wanted and not L.reached() and np.any(allowed := L.eligible()):
        clear = L.may_follow() & (L.d > CLEAR * L.noise)
        allowed = clear if np.any(clear) else allowed
        g = np.where(allowed, L.d, 1.0)
        score = np.where(allowed, f / g, 0.0)
        rounding = np.where(allowed, TIE_BAND * eps * (f0 + score * L.G.diagonal) / g, 0.0)
        stale = allowed & (f < stale_level(f0, eps))
        if not fresh and np.any(stale & (score + rounding >= score.max())):
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
    """Return the squared norms of the rows of the residual."""
    f = np.empty(L.G.n)
    for J, rows in L.G.all_rows():
        f[J] = np.sum(np.abs(L.residual(J, rows)) ** 2, axis=1)
    return f


def random_pivot(L: Cholesky, rng: np.random.Generator, *, accelerated: bool | str = "auto") -> None:
    """Draw an index with probability proportional to the diagonal of the residual, again and again."""
    if not (isinstance(accelerated, bool) or (isinstance(accelerated, str) and accelerated == "auto")):
        raise ArgumentError(f"accelerated = {accelerated!r}: expected True, False or 'auto'")
    fast = L.G.n >= LARGE if accelerated == "auto" else accelerated
    if fast and L.allowed is None:  # a constraint is asked after every pick
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
        least = np.maximum(L.noise, L.seen * L.G.diagonal)[S]
        for i in range(b):
            pivot = float(H[i, i].real)
            if len(T) < L.wanted and pivot > least[i] and U[i] * d[S[i]] < pivot and S[i] not in S[T]:
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


def rank_of(L: Cholesky) -> int:
    """Return the numerical rank of the admissible part of K, or k if it is larger: pivoting goes on from the picks of L."""
    other = copy.copy(L)
    for name in ("indices", "independent", "clear", "trace"):
        setattr(other, name, list(getattr(L, name)))
    other.open_, other.d, other.goal, other.allowed = L.candidates.copy(), L.d.copy(), -1.0, None
    other.tol_max = None
    other.open_[L.include] = True
    other.k = len(L.indices) + L.k - L.rank
    residual(other, np.random.default_rng(0))
    return other.rank
