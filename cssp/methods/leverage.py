"""Leverage-score sampling.

Drineas, Mahoney and Muthukrishnan, "Relative-error CUR matrix decompositions", SIAM J. Matrix Anal. Appl.
30:844-881, 2008 [drineas2008]: independent draws with probability ‖V_r[j, :]‖²/r. Their theorem asks for
thousands of times r² draws (`cssp.bounds.leverage_sampled`); k distinct columns have no guarantee.
"""

from __future__ import annotations

import numpy as np

from cssp import sampling
from cssp.errors import check_integer
from cssp.methods.row import FORCED, PASSES, Method
from cssp.problem import Picks, Problem


def leverage(p: Problem, *, rank: int | None = None, svd: str = "auto") -> Picks:
    """Draw with probability ‖V_r[j, :]‖²/r, repeats discarded, until k columns are distinct.

    So each column is drawn with probability proportional to its score among those left. Should fewer
    than k columns have a positive score, the others are drawn by the scores of what those leave of A.
    Excluded columns have no part in V_r.

    Parameters
    ----------
    rank : int, optional
        The r of V_r, at most min(m, n); k by default. Never more than the numerical rank is used.
    svd : {"auto", "exact", "sketched"}
        Take V_r from an SVD, or from a Gaussian sketch: a few products with r + 10 vectors. "auto" takes the sketch where
        min(m, n) is at least 1024 and 8 (r + 10).
    """
    r = p.free if rank is None else check_integer("rank", rank, high=min(p.m, p.n))

    def choose(E: np.ndarray, k: int, below: float) -> list[int]:
        _, Vh = sampling.leading(E, below, r, svd, p, r)
        scores = Vh[:r].norms2()
        scores[scores <= (scores.size * np.finfo(np.float64).eps) ** 2] = 0
        return sampling.successive(scores, k, p.rng)

    return sampling.in_rounds(p, choose)


ROW = Method(
    name="leverage",
    function=leverage,
    summary="leverage-score sampling without replacement",
    citation="drineas2008",
    cost="SVD",
    deterministic=False,
    backends=("numpy", *PASSES),
    supports=FORCED | {"complex"},
)
