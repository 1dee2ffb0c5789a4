"""Discrete empirical interpolation on the right singular vectors.

Chaturantabut and Sorensen, "Nonlinear model reduction via discrete empirical interpolation", SIAM J. Sci. Comput.
32(5), 2010 [chaturantabut2010]; for column subsets Sorensen and Embree, "A DEIM induced CUR factorization", SIAM J.
Sci. Comput. 38(3), 2016 [sorensen2016]: ‖V_S⁻¹‖₂ < √(nk/3) 2^k, hence the error is at most (nk/3) 4^k times the
optimum, in both norms, squared.
"""

from __future__ import annotations

import numpy as np

from cssp import bounds
from cssp.methods._shared import completed, rest
from cssp.methods.row import FORCED, Guarantee, Method
from cssp.problem import Picks, Problem
from cssp.vectors import exact_only


def deim(p: Problem, *, svd: str = "exact") -> Picks:
    """Choose, for v_1, ..., v_k in turn, the largest entry of v_t - V c, where c interpolates v_t at the chosen.

    The residuals over their largest entries are L of Gaussian elimination with partial pivoting, and take the place of the
    vectors: the same numbers with a triangular system per step.

    Parameters
    ----------
    svd : {"exact", "sketched"}
        Take V_k from an SVD, or from a Gaussian sketch: a few products with k + 10 vectors, and no factor.
    """
    a = rest(p)
    _, Vh, k = a.svd(svd)
    V = Vh[:k].formed().T
    open_ = a.open.copy()
    S: list[int] = []
    for t in range(k):
        if not open_.any():
            break
        r = V[:, t] - V[:, :t] @ np.linalg.solve(V[S, :t], V[S, t])
        j = a.best(np.abs(r), open_)
        if abs(r[j]) <= len(r) * a.problem.eps:
            break
        V[:, t] = r / r[j]
        S.append(j)
        open_[j] = False
    return completed(p, S)


ROW = Method(
    name="deim",
    function=deim,
    summary="discrete empirical interpolation on the right singular vectors",
    citation="sorensen2016",
    cost="SVD + nk²",
    nested=True,
    supports=FORCED | {"tol", "complex"},
    guarantee=Guarantee(
        "F <= (nk/3) 4^k OPT_k, T <= (nk/3) 4^k s_{k+1}²",
        "sorensen2016",
        "every run",
        frobenius=exact_only(lambda m, n, k: bounds.deim(n, k)),
        spectral=exact_only(lambda m, n, k: bounds.deim(n, k)),
        name="DEIM",
    ),
)
