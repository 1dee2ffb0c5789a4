"""Adaptive pivoting derandomised: k + 1 times the optimum from a single SVD.

Osinsky, "Close to optimal column approximations with a single SVD", 2023 [osinsky2023]. With V the first k right
singular vectors of A, in every run ‖A - P_J A‖_F² ≤ (k + 1) ‖A - A V Vᵀ‖_F². The rule weighs the rows of V against
the columns of A - A V Vᵀ: a rule that sees V alone breaks that bound (`cssp.matrices.basis_only_killer`).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from cssp import bounds
from cssp.linalg import adjoint, squares
from cssp.methods._shared import completed, rest, shortest
from cssp.methods.row import FORCED, PASSES, Guarantee, Method
from cssp.problem import Picks, Problem
from cssp.vectors import Vectors, exact_only

#: Share of a squared norm below which downdating may not bring it.
FRESH = 1e-4


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
    s, Vh, k = a.svd(svd, every=True)
    F, M = (Vh.formed(), np.eye(len(Vh))) if Vh.M is None or Vh[:k].M is None else (Vh.F, Vh.M)
    if len(s) == min(a.E.shape):  # Uᵀ(A - A V Vᵀ): a rotation of E, free of the cancellation in A - A V Vᵀ
        W, E = M[:k], np.where(s > a.zero, s, 0)[k:, None] * M[k:]
    else:
        V = F[:k]
        F = np.concatenate([V, a.E - (a.E @ adjoint(V)) @ V])
        W, E = np.split(np.eye(len(F)), [k])
    # Far below rounding, δ decides where E vanishes; the proof holds with ‖E‖² + nδ in place of ‖E‖².
    delta = (a.zero / a.E.shape[1]) ** 2 or 1.0
    open_ = a.open.copy()
    d = _Deflated(Vectors(F, W, Vh.first), E)
    J: list[int] = []
    while len(J) < k:
        allowed = open_ & (d.w2 > (F.shape[1] * a.problem.eps) ** 2)
        if not allowed.any():
            break
        j = a.best(d.w2 / (d.e2 + delta), allowed)
        d.subtract(j)
        J.append(j)
        open_[j] = False
    return completed(p, J)


class _Deflated:
    """The matrices W = M F and E = N F, from which their shares of chosen columns are subtracted, and the squared norms of their columns.

    Only M and N change. The norms are downdated, and formed anew where half of the digits may be lost.
    """

    def __init__(self, W: Vectors, N: np.ndarray) -> None:
        self.W, self.E = W, replace(W, M=N)
        self.w2, self.e2 = self.W.norms2(), self.E.norms2()
        self.high_w2, self.high_e2 = self.w2.copy(), self.e2.copy()

    def subtract(self, j: int) -> None:
        """Subtract w_j·row and e_j·row, where row = w_jᴴW / ‖w_j‖²: it makes both columns zero."""
        w, e = (X.columns([j])[:, 0] for X in (self.W, self.E))
        row = w.conj() @ self.W.M / self.w2[j]
        of_columns, cross = Vectors(self.W.F, np.stack([row, e.conj() @ self.E.M]), self.W.first).formed()
        share = squares(of_columns)
        cross = np.real(of_columns.conj() * cross)
        self.e2 = np.maximum(self.e2 - 2 * cross + share * self.e2[j], 0)
        self.w2 = np.maximum(self.w2 - share * self.w2[j], 0)
        self.W = replace(self.W, M=self.W.M - np.outer(w, row))
        self.E = replace(self.E, M=self.E.M - np.outer(e, row))
        np.maximum(self.high_e2, self.e2, out=self.high_e2)
        stale = np.flatnonzero((self.w2 < FRESH * self.high_w2) | (self.e2 < FRESH * self.high_e2))
        for X, norms2, high in ((self.W, self.w2, self.high_w2), (self.E, self.e2, self.high_e2)):
            norms2[stale] = high[stale] = X.norms2(place=stale)


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
