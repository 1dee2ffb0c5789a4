"""LAPACK's column-pivoted QR, the reference implementation.

Businger and Golub, Numer. Math. 7:269-276, 1965 [businger1965], as xGEQP3 of LAPACK (Quintana-Ortí, Sun and
Bischof, SIAM J. Sci. Comput. 19:1486-1494, 1998 [quintanaorti1998]). Ties are broken as LAPACK does: the
first maximum in the current order of the columns, swaps included; of tall and of wide matrices, of which LAPACK sees the
triangular factor or few columns, those of exact arithmetic only up to rounding.

LAPACK knows no k, and makes all min(m, n) steps. Of a wide matrix it is given few columns, with the same first k pivots: those
without a rival among the others.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg

from cssp import linalg
from cssp.linalg import basis, blocks, column_norms2, project_off, squares
from cssp.methods.residual import GUARANTEE, residual
from cssp.methods.row import FORCED, Method
from cssp.problem import Picks, Problem

#: Few columns are one in so many.
FEW = 4


def pivoted_qr(p: Problem) -> Picks:
    """Choose the first k pivots of LAPACK's factorisation, the included columns projected away first."""
    h = p.reduced.numpy()
    free = np.flatnonzero(h.candidates)
    Q, independent = basis(h.A[:, list(p.include)], p.floor)
    A = h.A if free.size == h.n else h.A[:, free]
    C = project_off(A, Q)
    if free.size == 0:
        return Picks(list(p.include))
    k = min(p.free, h.m - sum(independent))
    order, heights = _pivots(C, k)
    found = int(np.sum(np.logical_and.accumulate(heights > p.noise)))
    return p.pivots([*p.include, *free[order[:found]].tolist()], heights[:found].tolist())


def _pivots(C: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first k pivots of LAPACK, and the heights of their columns above those before."""
    m, n = C.shape
    among = np.arange(n)
    if k and n >= linalg.WIDE * m and C.size >= linalg.LARGE:
        start = residual(Problem(A=C, k=k, candidates=np.ones(n, dtype=bool))).indices
        # A pivot changes places with one of the first m columns.
        among = np.union1d(among[:m], np.array(start, dtype=int))
    while True:
        R, order = scipy.linalg.qr(C[:, among], mode="r", pivoting=True, check_finite=False)
        order, heights = among[order[:k]], np.abs(np.diagonal(R))[:k]
        more = among if among.size == n else np.union1d(among, _rivals(C, order, heights))
        if more.size == among.size:
            return order, heights
        among = more if FEW * more.size < n else np.arange(n)


def _rivals(C: np.ndarray, S: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """Return the columns that may be as high as one of the columns S when that is chosen.

    LAPACK downdates a norm until half of its digits are lost, and the squares here are right to rounding of the column's.
    """
    eps = np.finfo(C.dtype).eps
    bar = (1 - 8 * np.sqrt(eps)) * heights[:, None] ** 2
    Qh = np.linalg.qr(C[:, S])[0].conj().T
    found = []
    for part in blocks(C):
        norms2, taken = column_norms2(C[:, part]), squares(Qh @ C[:, part])
        left = (1 + 8 * len(C) * eps) * norms2 - (np.cumsum(taken, axis=0) - taken)
        found.append(np.flatnonzero(np.any(left >= bar, axis=0)) + part.start)
    return np.concatenate(found)


ROW = Method(
    name="pivoted_qr",
    function=pivoted_qr,
    summary="LAPACK's column-pivoted QR (geqp3), the reference",
    citation="businger1965",
    cost="4mn min(m, n); of wide ones 4mnk",
    nested=True,
    supports=FORCED | {"tol", "complex"},
    guarantee=GUARANTEE,
)
