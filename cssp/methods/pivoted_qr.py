"""LAPACK's column-pivoted QR, the reference implementation.

Businger and Golub, Numer. Math. 7:269-276, 1965 [businger1965], as xGEQP3 of LAPACK (Quintana-Ortí, Sun and
Bischof, SIAM J. Sci. Comput. 19:1486-1494, 1998 [quintanaorti1998]). Ties are broken as LAPACK does: the
first maximum in the current order of the columns, swaps included; of a tall matrix, which is reduced to its triangular factor
first, those of exact arithmetic only up to rounding.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg

from cssp import bounds
from cssp.linalg import basis, project_off
from cssp.methods.row import FORCED, Guarantee, Method
from cssp.problem import Picks, Problem


def pivoted_qr(p: Problem) -> Picks:
    """Choose the first k pivots of LAPACK's factorisation, the included columns projected away first."""
    h = p.reduced.numpy()
    free = np.flatnonzero(h.candidates)
    Q, independent = basis(h.A[:, list(p.include)], p.floor)
    C = project_off(h.A[:, free], Q)
    if free.size == 0:
        return Picks(list(p.include))
    R, order = scipy.linalg.qr(C, mode="r", pivoting=True, check_finite=False)
    heights = np.abs(np.diagonal(R))[: min(p.free, h.m - sum(independent))]
    found = int(np.sum(np.logical_and.accumulate(heights > p.noise)))
    return p.pivots([*p.include, *free[order[:found]].tolist()], heights[:found].tolist())


#: Of pivoted QR in exact arithmetic, whichever way the norms are kept.
GUARANTEE = Guarantee(
    "T <= ((4^k - 1)/3 (n - k) + 1) s_{k+1}², the least upper bound; F <= (n - k)(4^k + 2)/3 OPT_k",
    "kawamura2021",
    "every run",
    frobenius=lambda m, n, k, **options: bounds.pivoted_qr_frobenius(n, k),
    spectral=lambda m, n, k, **options: bounds.pivoted_qr(n, k),
    name="pivoted QR",
    largest=lambda m, n, k, **options: bounds.greedy_width(k),
    largest_source="binev2011",
)


ROW = Method(
    name="pivoted_qr",
    function=pivoted_qr,
    summary="LAPACK's column-pivoted QR (geqp3), the reference",
    citation="businger1965",
    cost="4mn min(m, n)",
    nested=True,
    supports=FORCED | {"tol", "complex"},
    guarantee=GUARANTEE,
)
