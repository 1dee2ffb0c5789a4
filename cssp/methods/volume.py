"""Volume sampling: k columns with probability proportional to the squared volume they span.

Deshpande, Rademacher, Vempala and Wang, "Matrix approximation and projective clustering via volume
sampling", Theory of Computing 2:225-247, 2006 [deshpande2006]; the same law as a k-DPP with kernel AᴴA,
sampled exactly as by Kulesza and Taskar, "Determinantal point processes for machine learning", 2012
[kulesza2012]. With weights it is a k-DPP of that quality. P(S) ∝ det(A_SᴴA_S) gives E‖A - P_S A‖_F² = (k
+ 1) e_{k+1}(s²)/e_k(s²), at most (k + 1) OPT_k.
"""

from __future__ import annotations

import numpy as np

from cssp import bounds, sampling
from cssp.methods.row import FORCED, PASSES, Guarantee, Method
from cssp.problem import Picks, Problem


def volume(p: Problem) -> Picks:
    """Draw S ⊇ include, S without excluded columns, with P(S) ∝ det(A_SᴴA_S).

    Where k exceeds the rank r no such law exists: r columns are drawn by volume, and nothing independent
    is left.
    """

    def choose(E: np.ndarray, k: int, below: float) -> list[int]:
        s, Vh = sampling.leading(E, below, k, "exact", p)
        k = min(k, s.size)
        chosen = _eigenvectors((s / s[0]) ** 2, k, p.rng)
        return sampling.projection_dpp(Vh[chosen].formed().T, p.rng)

    return sampling.in_rounds(p, choose)


def _eigenvectors(lam: np.ndarray, k: int, rng: np.random.Generator) -> list[int]:
    """Return k of the numbers 0, ..., r-1, a set T with probability Π_{T} λ / e_k(λ)."""
    P = inclusion(lam, k)
    chosen: list[int] = []
    for j in range(lam.size - 1, -1, -1):
        if len(chosen) == k:
            break
        if sampling.coin(P[k - len(chosen), j], rng):
            chosen.append(j)
    return chosen


def inclusion(lam: np.ndarray, k: int) -> np.ndarray:
    """Return P[l, j] = λ_j e_{l-1}(λ_0, ..., λ_{j-1}) / e_l(λ_0, ..., λ_j), shape (k + 1, r).

    With ρ_l = e_l/e_{l-1} of the first j numbers, ρ_l ← (ρ_l + λ_j)/(1 + λ_j/ρ_{l-1}) and P = λ_j/(ρ_l +
    λ_j). The ρ stay between λ_min/r and r·λ_max. No term is negative, and ρ_l ≤ ρ_{l-1} (Newton) makes
    the recursion nonexpansive for relative errors, so these grow as r·eps at most.

    Parameters
    ----------
    lam : array, shape (r,)
        Positive.
    k : int
        At most r.
    """
    P = np.zeros((k + 1, lam.size))
    rho = np.zeros(k + 1)
    rho[0] = np.inf
    for j, x in enumerate(lam):
        top = min(k, j + 1)
        P[1 : top + 1, j] = x / (rho[1 : top + 1] + x)
        rho[1 : top + 1] = (rho[1 : top + 1] + x) / (1 + x / rho[:top])
    return P


ROW = Method(
    name="volume",
    function=volume,
    summary="volume sampling: exact k-DPP on the Gram matrix",
    citation="deshpande2006",
    cost="SVD + 2nk²",
    deterministic=False,
    backends=("numpy", *PASSES),
    supports=FORCED | {"complex"},
    guarantee=Guarantee(
        "E F = (k + 1) e_{k+1}(s²)/e_k(s²) <= (k + 1) OPT_k",
        "deshpande2006",
        "expectation",
        frobenius=lambda m, n, k: bounds.volume(k),
        spectral=lambda m, n, k: bounds.volume_spectral(m, n, min(m, n, k)),
        name="volume sampling",
    ),
)
