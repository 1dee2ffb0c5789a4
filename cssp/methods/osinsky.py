"""Adaptive pivoting derandomised: k + 1 times the optimum from a single SVD.

Osinsky, "Close to optimal column approximations with a single SVD", 2023 [osinsky2023]. With V the first k right
singular vectors of A, in every run ‖A - P_J A‖_F² ≤ (k + 1) ‖A - A V Vᵀ‖_F². The rule weighs the rows of V against
the columns of A - A V Vᵀ: a rule that sees V alone breaks that bound (`cssp.matrices.basis_only_killer`).
"""

from __future__ import annotations

from functools import partial

import numpy as np

from cssp import bounds
from cssp.linalg import adjoint, column_norms2
from cssp.methods._shared import completed, rest, shortest
from cssp.methods.row import FORCED, PASSES, Guarantee, Method
from cssp.problem import Picks, Problem
from cssp.vectors import exact_only


def osinsky(p: Problem, *, svd: str = "exact") -> Picks:
    """Choose argmin ‖e_j‖² / ‖w_j‖² and subtract its share from W = Vᵀ and E = A - A V Vᵀ, k times.

    Parameters
    ----------
    svd : {"exact", "sketched"}
        Take V_k from an SVD, or from a Gaussian sketch: a few products with k + 10 vectors, and no factor.
    """
    return shortest(p, partial(_pivoted, svd=svd))


def _pivoted(p: Problem, svd: str) -> Picks:
    a = rest(p)
    s, Vh, k = a.svd(svd)
    W = Vh[:k].copy()
    if len(s) == min(a.E.shape):  # Uᵀ(A - A V Vᵀ): a rotation of E, free of the cancellation in A - A V Vᵀ
        E = np.where(s > a.zero, s, 0)[k:, None] * Vh[k:]
    else:
        E = a.E - (a.E @ adjoint(W)) @ W
    # Far below rounding, δ decides where E vanishes; the proof holds with ‖E‖² + nδ in place of ‖E‖².
    delta = (a.zero / a.E.shape[1]) ** 2 or 1.0
    open_ = a.open.copy()
    J: list[int] = []
    for _ in range(k):
        w2 = column_norms2(W)
        allowed = open_ & (w2 > (W.shape[1] * a.problem.eps) ** 2)
        if not allowed.any():
            break
        j = a.best(w2 / (column_norms2(E) + delta), allowed)
        row = W[:, j].conj() @ W / w2[j]
        E = E - np.outer(E[:, j], row)
        W = W - np.outer(W[:, j], row)
        J.append(j)
        open_[j] = False
    return completed(p, J)


ROW = Method(
    name="osinsky",
    function=osinsky,
    summary="adaptive pivoting derandomised: rows of V_k against columns of the SVD residual",
    citation="osinsky2023",
    cost="SVD + 4nk min(m, n)",
    backends=("numpy", *PASSES),
    supports=FORCED | {"tol", "complex"},
    guarantee=Guarantee(
        "F <= (k + 1) OPT_k, hence T <= (k + 1)(min(m, n) - k) s_{k+1}²",
        "osinsky2023",
        "every run",
        frobenius=exact_only(lambda m, n, k: bounds.osinsky(k)),
        spectral=exact_only(lambda m, n, k: bounds.volume_spectral(m, n, k)),
        name="derandomised adaptive pivoting",
    ),
)
