"""Length-squared sampling without replacement.

Frieze, Kannan and Vempala, "Fast Monte-Carlo algorithms for finding low-rank approximations", J. ACM
51:1025-1041, 2004 [frieze2004]. Their bound is for independent draws; distinct columns are drawn here one
after the other, each with probability proportional to its squared norm among those left.
"""

from __future__ import annotations

import numpy as np

from cssp import bounds
from cssp.linalg import host
from cssp.methods.row import FORCED, NATIVE, PASSES, Guarantee, Method
from cssp.problem import Picks, Problem
from cssp.sampling import in_order


def norm(p: Problem) -> Picks:
    """Draw k distinct columns with probability proportional to the squared norm, dependent ones last.

    The order of the arrival times Exp(1)/‖a_j‖² is that of sequential draws without replacement; their logarithms, as
    the times themselves leave the range.
    """
    rate = host(p.norms2).astype(np.float64)
    clock = np.log(p.rng.standard_exponential(p.n))
    arrival = np.full(p.n, np.inf)
    arrival[rate > 0] = clock[rate > 0] - np.log(rate[rate > 0])
    arrival[~host(p.candidates)] = np.inf
    order = np.argsort(arrival, kind="stable")[: int(np.sum(np.isfinite(arrival)))]
    return in_order(p, order.tolist())


ROW = Method(
    name="norm",
    function=norm,
    summary="sampling without replacement, probability proportional to the squared norm",
    citation="frieze2004",
    cost="2mn",
    deterministic=False,
    nested=True,
    backends=(*NATIVE, *PASSES),
    supports=FORCED | {"tol"},
    guarantee=Guarantee(
        "one column: E F = Σs² - Σs⁴/Σs² <= 2 OPT_1; "
        "k columns: E err_j <= OPT_j + (j/k)‖A‖_F² for the best rank j in their span",
        "frieze2004",
        "expectation",
        frobenius=lambda m, n, k: bounds.volume(1) if k == 1 else None,
        name="length-squared sampling",
    ),
)
