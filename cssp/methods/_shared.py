"""What the deterministic methods share: the problem after the included columns, completion, tolerance."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from cssp.linalg import adjoint, basis, blocks, column_norms2, error_trace, host, project_off, squares
from cssp.methods.residual import residual
from cssp.problem import Picks, Problem
from cssp.progress import silent
from cssp.vectors import Vectors, leading_svd

__all__ = [
    "CLEAR",
    "TIES",
    "Rest",
    "completed",
    "first_equal",
    "rest",
    "right_vectors",
    "shortest",
    "weighted_squares",
]

#: Scores within this relative distance of the best are a tie, and the lowest index wins it. They pass through an SVD,
#: which separates equal columns by more than the usual few units of rounding.
TIES = 1e-10


#: Rows that are compared after the first one where equal columns are looked for.
FEW_ROWS = 64

#: Residual norms within this many units of noise have a direction that is mostly rounding: no ratio of two such numbers
#: tells anything.
CLEAR = 8


@dataclass(frozen=True)
class Rest:
    """What the included columns leave of a problem, on the host in double precision.

    Attributes
    ----------
    E : array, shape (m, n)
        Residuals of all columns; exactly zero for the included ones.
    B : array, shape (m, p)
        Residual of what is to be reconstructed; E itself without a target.
    open : bool array, shape (n,)
        Candidates that the included columns leave eligible, see `Problem.eligible`.
    k : int
        Columns still to be chosen.
    noise : float
        Norms of columns of E at or below this are rounding.
    zero : float
        Singular values of E at or below this are rounding.
    first : int array, shape (n,)
        The first column that equals this one in A.
    problem : Problem
        The host problem, for its tie rule.
    """

    E: np.ndarray
    B: np.ndarray
    open: np.ndarray
    k: int
    noise: float
    zero: float
    first: np.ndarray
    problem: Problem

    def svd(self, how: str = "exact", every: bool = False) -> tuple[np.ndarray, Vectors, int]:
        """Return the singular values s of E, the first k vectors Vᴴ, or ``every`` one, and the k of V_k: at most the numerical rank.

        Of a sketch (``how="sketched"``, see `cssp.vectors`) about k of them.
        """
        s, Vh = right_vectors(self.E, self.first, self.k, how, self.problem.rng, None if every else self.k)
        return s, Vh, min(self.k, int(np.sum(s > self.zero)))

    def best(self, score: np.ndarray, allowed: np.ndarray) -> int:
        """Return the index of the largest nonnegative score, the lowest one in a tie."""
        return self.problem.argmax(score, allowed, TIES * score)


def first_equal(A: np.ndarray) -> np.ndarray:
    """Return, for every column, the first one that equals it, shape (n,).

    Rows are compared some at a time, and only of columns that were equal so far to another one.
    """
    _, place, group = np.unique(A[0] + 0.0, return_index=True, return_inverse=True)  # no negative zeros
    first, a, step = place[group], 1, FEW_ROWS
    alike = np.flatnonzero(np.bincount(group)[group] > 1)
    while a < len(A) and alike.size:
        seen: dict[tuple[int, bytes], int] = {}
        rows = np.ascontiguousarray(A[a : a + step][:, alike].T) + 0.0
        for j, x in zip(alike.tolist(), rows, strict=True):
            first[j] = seen.setdefault((int(first[j]), x.tobytes()), j)
        alike = alike[np.bincount(first, minlength=first.size)[first[alike]] > 1]
        a, step = a + step, 2 * step
    return first


def right_vectors(
    E: np.ndarray, first: np.ndarray, k: int, how: str, rng: np.random.Generator, most: int | None
) -> tuple[np.ndarray, Vectors]:
    """Return the singular values and right singular vectors Vᴴ, in which equal columns of E have equal columns.

    The SVD tells them apart by eps times the condition number, far beyond `TIES`.
    """
    s, Vh = leading_svd(E, k, how, rng, most)
    return s, Vh if np.array_equal(first, np.arange(first.size)) else replace(Vh, first=first)


def weighted_squares(weights: np.ndarray, W: np.ndarray, V: np.ndarray) -> np.ndarray:
    """Return ``weights`` @ |WᴴV|², block by block of the columns of V."""
    sums = np.empty((len(weights), V.shape[1]))
    for part in blocks(V):
        sums[:, part] = weights @ squares(adjoint(W) @ V[:, part])
    return sums


def rest(p: Problem) -> Rest:
    """Project the included columns off."""
    d = p.numpy("double")
    A = np.ascontiguousarray(d.A)
    E, B = A, d.B
    if p.include:
        Q, _ = basis(A[:, list(p.include)], d.floor)
        E = project_off(A, Q) if Q.shape[1] else A.copy()
        E[:, list(p.include)] = 0
        B = project_off(d.B, Q)
    return Rest(
        E=E,
        B=E if p.target is None else B,
        open=d.eligible(column_norms2(E), d.candidates),
        k=p.free,
        noise=d.noise,
        first=first_equal(host(p.A)),
        zero=max(d.noise, 4 * d.eps * float(np.sqrt(np.sum(d.norms2)))),
        problem=d,
    )


def completed(p: Problem, found: Iterable[int]) -> Picks:
    """Return the included columns, those found, and greedy residual's choice where that makes fewer than k."""
    picks = (*p.include, *(int(j) for j in found))
    if len(picks) >= p.k:
        return Picks(picks)
    d = p.reduced.numpy()
    left = d.candidates.copy()
    left[list(picks)] = False
    return residual(replace(d, include=picks, candidates=left, tol=None, target=None, progress=silent))


def shortest(p: Problem, run: Callable[[Problem], Picks]) -> Picks:
    """Return the method at the smallest k that meets the tolerance, for methods that are not nested.

    Starts at the least k for which any columns could (Eckart and Young), doubles the step until the method does, and
    bisects: the k found meets the tolerance, k - 1 does not.
    """
    if p.tol is None:
        return run(p)
    d = p.numpy("double")
    goal = p.goal

    def attempt(k: int) -> tuple[Picks, bool]:
        picks = run(replace(p, k=k, tol=None))
        found = basis(d.A[:, list(picks.indices)], d.floor)
        return picks, bool(error_trace(*found, d.B)[-1] <= goal)

    s2 = np.linalg.svd(d.B, compute_uv=False) ** 2
    tail = np.append(np.cumsum(s2[::-1])[::-1], 0.0)
    high = min(p.k, max(1, len(p.include), int(np.argmax(tail <= goal))))
    low, step = high - 1, 1
    picks, met = attempt(high)
    while not met and high < p.k and len(picks.indices) == high:
        low, high, step = high, min(p.k, high + step), 2 * step
        picks, met = attempt(high)
    while met and high - low > 1:
        middle = (low + high) // 2
        shorter, enough = attempt(middle)
        if enough:
            picks, high = shorter, middle
        else:
            low = middle
    return picks
