"""LAPACK's column-pivoted QR, the reference implementation.

Businger and Golub, Numer. Math. 7:269-276, 1965 [businger1965], as xGEQP3 of LAPACK (Quintana-Ortí, Sun and
Bischof, SIAM J. Sci. Comput. 19:1486-1494, 1998 [quintanaorti1998]). Ties are broken as LAPACK does: the
first maximum in the current order of the columns, swaps included.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg

from cssp.linalg import basis, project_off
from cssp.problem import Picks, Problem


def pivoted_qr(p: Problem) -> Picks:
    """Choose the first k pivots of LAPACK's factorisation, the included columns projected away first."""
    h = p.numpy()
    free = np.flatnonzero(h.candidates)
    Q, independent = basis(h.A[:, list(p.include)], p.floor)
    rank = sum(independent)
    C = project_off(h.A[:, free], Q)
    if free.size == 0:
        return Picks(list(p.include), rank=rank)
    R, order = scipy.linalg.qr(C, mode="r", pivoting=True, check_finite=False)
    heights = np.abs(np.diagonal(R))[: min(p.free, p.m - sum(independent))]
    found = int(np.sum(np.logical_and.accumulate(heights > p.noise)))
    rank += int(np.sum(heights[:found] > p.floor))
    return Picks([*p.include, *free[order[:found]].tolist()], rank=rank)
