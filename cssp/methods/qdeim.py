"""Q-DEIM: pivoted QR of the transposed right singular vectors.

Drmač and Gugercin, "A new selection operator for the discrete empirical interpolation method: improved a priori error
bound and extensions", SIAM J. Sci. Comput. 38(2), 2016 [drmac2016]: ‖V_S⁻¹‖₂ ≤ √(n-k+1) √(4^k+6k-1) / 3, hence the
error is at most the square of that times the optimum, in both norms, squared.
"""

from __future__ import annotations

from dataclasses import replace

from cssp.methods._shared import completed, rest, shortest
from cssp.methods.residual import residual
from cssp.problem import Picks, Problem


def qdeim(p: Problem) -> Picks:
    """The first k pivots of the QR factorisation of V_kᵀ."""
    return shortest(p, _pivoted)


def _pivoted(p: Problem) -> Picks:
    a = rest(p)
    _, Vh, k = a.svd()
    if k == 0:
        return completed(p, ())
    return completed(
        p,
        residual(
            replace(a.problem, A=Vh[:k], k=k, candidates=a.open, include=(), target=None, tol=None)
        ).indices,
    )
