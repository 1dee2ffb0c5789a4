"""Q-DEIM: pivoted QR of the transposed right singular vectors.

Drmač and Gugercin, "A new selection operator for the discrete empirical interpolation method: improved a priori error
bound and extensions", SIAM J. Sci. Comput. 38(2), 2016 [drmac2016]: ‖V_S⁻¹‖₂ ≤ √(n-k+1) √(4^k+6k-1) / 3, hence the
error is at most the square of that times the optimum, in both norms, squared.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from cssp import bounds
from cssp.methods._shared import completed, rest, shortest
from cssp.methods.residual import residual
from cssp.methods.row import FORCED, Guarantee, Method
from cssp.problem import Picks, Problem
from cssp.vectors import exact_only


def qdeim(p: Problem, *, svd: str = "exact") -> Picks:
    """Return the first k pivots of the QR factorisation of V_kᵀ.

    Parameters
    ----------
    svd : {"exact", "sketched"}
        Take V_k from an SVD, or from a Gaussian sketch: a few products with k + 10 vectors, and no factor.
    """
    return shortest(p, partial(_pivoted, svd=svd))


def _pivoted(p: Problem, svd: str) -> Picks:
    a = rest(p)
    _, Vh, k = a.svd(svd)
    if k == 0:
        return completed(p, ())
    return completed(
        p,
        residual(
            replace(a.problem, A=Vh[:k].formed(), k=k, candidates=a.open, include=(), target=None, tol=None)
        ).indices,
    )


ROW = Method(
    name="qdeim",
    function=qdeim,
    summary="pivoted QR of the transposed right singular vectors",
    citation="drmac2016",
    cost="SVD + 2nk²",
    supports=FORCED | {"tol", "complex"},
    guarantee=Guarantee(
        "F <= c OPT_k and T <= c s_{k+1}² with c = (n - k + 1)(4^k + 6k - 1)/9",
        "drmac2016",
        "every run",
        frobenius=exact_only(lambda m, n, k: bounds.qdeim(n, k)),
        spectral=exact_only(lambda m, n, k: bounds.qdeim(n, k)),
        name="Q-DEIM",
    ),
)
