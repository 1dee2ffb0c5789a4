"""Adaptive randomized pivoting on the leading right singular vectors.

Cortinovis and Kressner, "Adaptive randomized pivoting for column subset selection, DEIM and low-rank
approximation", 2024 [cortinovis2024]. With V = V_k, P(J) = |det V_J|² and E‖A - P_J A‖_F² ≤ (k + 1)
OPT_k; the same law as the projection DPP of Belhadji, Bardenet and Chainais, J. Mach. Learn. Res. 21,
2020 [belhadji2020].
"""

from __future__ import annotations

import numpy as np

from cssp import bounds, sampling
from cssp.methods.row import FORCED, Guarantee, Method
from cssp.problem import Picks, Problem
from cssp.vectors import exact_only


def arp(p: Problem, *, svd: str = "exact") -> Picks:
    """Draw a row of V_k with probability proportional to its squared norm, deflate V_k, k times.

    V_k is that of the candidates' residuals on the included columns; excluded columns have no part in it.

    Parameters
    ----------
    svd : {"exact", "sketched"}
        Take V_k from an SVD, or from a Gaussian sketch: a few products with k + 10 vectors, and no factor.
    """

    def choose(E: np.ndarray, k: int, below: float) -> list[int]:
        _, Vh = sampling.leading(E, below, k, svd, p, k)
        return sampling.projection_dpp(Vh[:k].formed().T, p.rng)

    return sampling.in_rounds(p, choose)


ROW = Method(
    name="arp",
    function=arp,
    summary="adaptive randomized pivoting: projection DPP of the leading right singular vectors",
    citation="cortinovis2024",
    cost="SVD + 2nk²",
    deterministic=False,
    supports=FORCED | {"complex"},
    guarantee=Guarantee(
        "E F <= (k + 1) OPT_k; E T <= min{(k + 1)(min(m, n) - k), k (n - k + 1)} s_{k+1}²",
        "cortinovis2024",
        "expectation",
        frobenius=exact_only(lambda m, n, k: bounds.arp(k)),
        spectral=exact_only(
            lambda m, n, k: min(bounds.volume_spectral(m, n, min(m, n, k)), bounds.arp_inverse(n, k))
        ),
        name="adaptive randomized pivoting",
    ),
)
