"""Farthest-point traversal: Euclidean k-center on the columns, a diversity baseline.

Gonzalez, "Clustering to minimize the maximum intercluster distance", Theor. Comput. Sci. 38:293-306, 1985
[gonzalez1985]: the largest distance of a column to its nearest chosen one is at most twice the optimum. It
says nothing about the error of reconstruction.
"""

from __future__ import annotations

import math

from array_api_compat import array_namespace

from cssp.linalg import BLOCK, column_norms2
from cssp.problem import Array, Picks, Problem


def farthest(p: Problem) -> Picks:
    """Choose the longest column, then k - 1 times the one farthest from all chosen so far."""
    xp = p.xp
    open_ = xp.asarray(p.candidates, copy=True)
    D = xp.full_like(p.norms2, math.inf)
    indices: list[int] = []
    while len(indices) < p.k:
        if len(indices) < len(p.include):
            j = p.include[len(indices)]
        else:
            distance = D if indices else p.norms2
            if not bool(xp.any(open_ & (distance > 0))):
                break
            j = p.argmax(distance, open_)
        indices.append(j)
        open_[j] = False
        D = xp.minimum(D, _distances2(p.A, p.A[:, j : j + 1]))
    return Picks(indices)


def _distances2(A: Array, a: Array) -> Array:
    """Squared distances of all columns to one; of differences, since ‖x‖² + ‖y‖² - 2xᵀy cancels."""
    m, n = A.shape
    step = max(1, BLOCK // m)
    return array_namespace(A).concat(
        [column_norms2(A[:, b : min(b + step, n)] - a) for b in range(0, n, step)]
    )
