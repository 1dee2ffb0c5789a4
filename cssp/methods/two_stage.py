"""Two stages: a sample of about k log k columns, then a rank-revealing QR of the sample down to k.

After Boutsidis, Mahoney and Drineas, "An improved approximation algorithm for the column subset selection problem",
SODA 2009, in the corrected version arXiv:0812.4293 [boutsidis2009]. They prove, with probability at least 0.8,
‖A - P_C A‖_F ≤ Θ(k √log k) ‖A - A_k‖_F for Θ(k log k) sampled columns. The constants are not stated, and the size of
the sample here is a choice of ours, so no factor is claimed.
"""

from __future__ import annotations

import math

import numpy as np

from cssp import sampling
from cssp.errors import check_integer
from cssp.methods.row import FORCED, Method
from cssp.methods.strong_rrqr import strong_rrqr
from cssp.problem import Picks, Problem
from cssp.vectors import Vectors

#: The sample has about SHARE·r·(1 + log r) columns, r the rank. A sample that does not span V_r is drawn again.
SHARE = 1


def two_stage(p: Problem, *, rank: int | None = None) -> Picks:
    """Keep column j with probability min(1, c p_j), rescale V_rᵀ, choose k columns of it by strong RRQR.

    p_j is half leverage score, half share of ‖A - A_r‖_F². A sample that does not span V_r is drawn
    again, twice as large.

    Parameters
    ----------
    rank : int, optional
        The r of V_r, at most min(m, n); k by default. Never more than the numerical rank is used.
    """
    r = max(1, p.free) if rank is None else check_integer("rank", rank, high=min(p.m, p.n))

    def choose(E: np.ndarray, k: int, below: float) -> list[int]:
        s, Vh = sampling.leading(E, below, r, "exact", p)
        V = Vh[:r]
        place, M = _sample(V, probabilities(s, Vh, r), p.rng)
        open_ = np.ones(place.size, dtype=bool)
        found = strong_rrqr(Problem(A=M, k=min(k, len(V)), candidates=open_))
        return [int(place[i]) for i in found.indices]

    return sampling.in_rounds(p, choose)


def probabilities(s: np.ndarray, Vh: Vectors, r: int) -> np.ndarray:
    """Return p_j = ‖V_r[j, :]‖²/2r + ‖(A - A_r)_j‖²/2‖A - A_r‖_F², or ‖V_r[j, :]‖²/r where A = A_r."""
    leverage = Vh[:r].norms2() / min(r, s.size)
    if s.size <= r:
        return leverage
    tail = np.where(np.arange(s.size) < r, 0, s / s[r]) ** 2
    return (leverage + Vh.norms2(tail) / np.sum(tail)) / 2


def _sample(V: Vectors, p: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the columns kept, and V_rᵀ S D: those columns of V over the square roots of their probabilities."""
    r = len(V)
    c = math.ceil(SHARE * r * (1 + math.log(r)))
    while True:
        q = np.minimum(1.0, c * p)
        place = np.flatnonzero(sampling.coins(q, rng))
        M = V.columns(place) / np.sqrt(q[place])
        if place.size >= r:
            sigma = np.linalg.svd(M, compute_uv=False)
            if sigma[-1] > math.sqrt(np.finfo(np.float64).eps) * sigma[0]:
                return place, M
        c *= 2


ROW = Method(
    name="two_stage",
    function=two_stage,
    summary="leverage sample of about k log k columns, then a rank-revealing QR of it",
    citation="boutsidis2009",
    cost="SVD + 4k³ log k",
    deterministic=False,
    supports=FORCED | {"complex"},
)
