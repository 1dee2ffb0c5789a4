"""Adaptive pivoting derandomised: k + 1 times the optimum from a single SVD.

Osinsky, "Close to optimal column approximations with a single SVD", 2023 [osinsky2023]. With V the first k right
singular vectors of A, in every run ‖A - P_J A‖_F² ≤ (k + 1) ‖A - A V Vᵀ‖_F². The rule weighs the rows of V against
the columns of A - A V Vᵀ: a rule that sees V alone breaks that bound (`cssp.matrices.basis_only_killer`).
"""

from __future__ import annotations

from functools import partial

import numpy as np

from cssp import bounds
from cssp.linalg import adjoint, blocks, column_norms2, squares
from cssp.methods._shared import completed, rest, shortest
from cssp.methods.row import FORCED, PASSES, Guarantee, Method
from cssp.problem import Picks, Problem
from cssp.vectors import exact_only

#: Updates that are made together, and the share of a norm below which downdating may not bring it.
PENDING, FRESH = 8, 1e-4


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
    W = Vh[:k]
    if len(s) == min(a.E.shape):  # Uᵀ(A - A V Vᵀ): a rotation of E, free of the cancellation in A - A V Vᵀ
        E = Vh[k:]
        E *= np.where(s > a.zero, s, 0)[k:, None]
    else:
        E = a.E - (a.E @ adjoint(W)) @ W
    # Far below rounding, δ decides where E vanishes; the proof holds with ‖E‖² + nδ in place of ‖E‖².
    delta = (a.zero / a.E.shape[1]) ** 2 or 1.0
    open_ = a.open.copy()
    w, e = _Deflated(W), _Deflated(E)
    J: list[int] = []
    while len(J) < k:
        allowed = open_ & (w.norms2 > (W.shape[1] * a.problem.eps) ** 2)
        if not allowed.any():
            break
        if w.stale(allowed) or e.stale(allowed):
            w.settle()
            e.settle()
            continue
        j = a.best(w.norms2 / (e.norms2 + delta), allowed)
        row = w.products(j) / w.norms2[j]
        e.subtract(j, row, np.real(row.conj() * e.products(j)))
        w.subtract(j, row, squares(row) * w.norms2[j])
        J.append(j)
        open_[j] = False
    return completed(p, J)


class _Deflated:
    """X - C R: a matrix and updates x_j r of rank one that are still to be made, and its squared column norms.

    These are downdated from update to update, and formed anew when the updates are made.
    """

    def __init__(self, X: np.ndarray) -> None:
        self.X = X
        self.C, self.R = (
            np.empty((X.shape[0], PENDING), dtype=X.dtype),
            np.empty((PENDING, X.shape[1]), dtype=X.dtype),
        )
        self.t = 0
        self.norms2 = self.highest = column_norms2(X)

    def products(self, j: int) -> np.ndarray:
        """Return x_jᴴX for column j as it is now."""
        t, x = self.t, self._column(j).conj()
        return x @ self.X - (x @ self.C[:, :t]) @ self.R[:t]

    def subtract(self, j: int, row: np.ndarray, cross: np.ndarray) -> None:
        """Subtract x_j·row, whose inner products with the columns have the real parts ``cross``."""
        self.norms2 = np.maximum(self.norms2 - 2 * cross + squares(row) * self.norms2[j], 0)
        self.highest = np.maximum(self.highest, self.norms2)
        self.C[:, self.t], self.R[self.t], self.t = self._column(j), row, self.t + 1

    def stale(self, which: np.ndarray) -> bool:
        """Return whether it is time to form the norms of some of these columns anew."""
        return self.t > 0 and (
            self.t == PENDING or bool(np.any(self.norms2[which] < FRESH * self.highest[which]))
        )

    def settle(self) -> None:
        """Make the updates."""
        t = self.t
        for part in blocks(self.X):
            self.X[:, part] -= self.C[:, :t] @ self.R[:t, part]
        self.t, self.norms2 = 0, column_norms2(self.X)
        self.highest = self.norms2

    def _column(self, j: int) -> np.ndarray:
        return self.X[:, j] - self.C[:, : self.t] @ self.R[: self.t, j]


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
