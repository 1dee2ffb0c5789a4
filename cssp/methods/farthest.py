"""Farthest-point traversal: Euclidean k-center on the columns, a diversity baseline.

Gonzalez, "Clustering to minimize the maximum intercluster distance", Theor. Comput. Sci. 38:293-306, 1985
[gonzalez1985]: the largest distance of a column to its nearest chosen one is at most twice the optimum. It
says nothing about the error of reconstruction.

One product a pick gives all distances as ‖x‖² + ‖y‖² - 2xᴴy, which cancels where points are close; with its
rounding it bounds them. Only the columns that may be the farthest are measured by their differences.
"""

from __future__ import annotations

import math

import numpy as np
from array_api_compat import array_namespace

from cssp.linalg import BLOCK, basis, column_norms2, host, orthogonalise, take_columns
from cssp.methods.row import FORCED, NATIVE, Method
from cssp.pivoting import tie_bar
from cssp.problem import Array, Picks, Problem


def farthest(p: Problem) -> Picks:
    """Choose the longest column, then k - 1 times the one farthest from all chosen so far; dependent columns last."""
    xp, q = p.xp, p.reduced
    open_ = xp.asarray(p.candidates, copy=True)
    distances = _Distances(p)
    indices, dependent = list(p.include), []
    Q = q.xp.zeros((q.m, min(p.k, q.m)), dtype=q.A.dtype, device=q.device)
    have, _ = basis(q.take(indices), p.floor)
    r = have.shape[1]
    Q[:, :r] = have
    for j in indices:
        distances.add(j)
    while len(indices) < p.k:
        distance = distances.of_farthest(open_) if indices else p.norms2
        if not bool(xp.any(open_ & (distance > 0))):
            break
        j = p.argmax(distance, open_)
        open_[j] = False
        e, norm = orthogonalise(q.A[:, j], Q[:, :r])
        if not (norm > p.floor and r < q.m):
            dependent.append(j)
            continue
        Q[:, r] = e / norm
        r += 1
        indices.append(j)
        distances.add(j)
    return Picks([*indices, *dependent][: p.k])


class _Distances:
    """Squared distance of every column to its nearest chosen one, between bounds, exact where it matters."""

    def __init__(self, p: Problem) -> None:
        self.p, self.q = p, p.reduced
        self.chosen: list[int] = []
        self.norms2 = host(self.q.norms2).astype(np.float64)
        self.low, self.high, self.exact = np.full((3, p.n), math.inf)
        self.measured = np.zeros(p.n, dtype=np.int64)  # chosen columns that `exact` has seen

    def add(self, j: int) -> None:
        """Update the bounds for one more column chosen: m + 4 roundings of the products, relative to the norms."""
        q = self.q
        self.chosen.append(j)
        both = self.norms2 + self.norms2[j]
        product = host(q.A[:, j] @ q.A).astype(np.float64)
        slack = (q.height + 4) * q.eps * both
        self.low = np.minimum(self.low, both - 2 * product - slack)
        self.high = np.minimum(self.high, both - 2 * product + slack)

    def of_farthest(self, allowed: Array) -> Array:
        """Return the distances by differences of all columns that may be the farthest; −inf of the others."""
        p = self.p
        allowed = host(allowed)
        bar = tie_bar(self.low[allowed].max(initial=-math.inf), p.eps)
        near = np.flatnonzero(allowed & (self.high >= bar))
        if near.size > 1 or not np.all(self.low[near] > 0):
            self._measure(near)
            self.low[near] = self.high[near] = self.exact[near]
        found = np.full(p.n, -math.inf)
        found[near] = self.high[near]
        return p.xp.asarray(found, dtype=p.norms2.dtype, device=p.device)

    def _measure(self, columns: np.ndarray) -> None:
        """Update `exact`, column by column or chosen one by chosen one, whichever takes fewer."""
        A, t = self.p.A, len(self.chosen)
        behind = columns[self.measured[columns] < t]
        if not behind.size:
            return
        first = int(self.measured[behind].min())
        if behind.size <= t - first:
            for j in behind.tolist():
                new = take_columns(A, self.chosen[self.measured[j] :])
                self.exact[j] = min(self.exact[j], host(_distances2(new, A[:, j : j + 1])).min())
        else:
            for s in range(first, t):
                late = behind[self.measured[behind] <= s]
                c = self.chosen[s]
                found = host(_distances2(take_columns(A, late.tolist()), A[:, c : c + 1]))
                self.exact[late] = np.minimum(self.exact[late], found)
        self.measured[behind] = t


def _distances2(A: Array, a: Array) -> Array:
    """Return the squared distances of all columns to one, of differences."""
    m, n = A.shape
    step = max(1, BLOCK // m)
    return array_namespace(A).concat(
        [column_norms2(A[:, b : min(b + step, n)] - a) for b in range(0, n, step)]
    )


ROW = Method(
    name="farthest",
    function=farthest,
    summary="farthest-point traversal, Euclidean k-center",
    citation="gonzalez1985",
    cost="3mnk",
    nested=True,
    backends=NATIVE,
    supports=FORCED | {"tol", "constraint"},
)
