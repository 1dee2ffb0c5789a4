"""Robust blockwise random pivoting: blocks drawn by squared residual norm, each filtered by pivoted QR.

Dong, Chen, Martinsson and Pearce, "Robust blockwise random pivoting: fast and accurate adaptive interpolative
decomposition", 2023 [dong2023b]. A plain block (`adaptive`) draws from one state of the residual, and may draw many
columns of the same direction; here those that the others of the block nearly span are put back. The rule is that
of the authors' code. Blocks of one column are randomly pivoted QR, with its bound 2ᵏ OPT_k
[chen2025]; larger ones have no factor.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import qr

from cssp import bounds, sampling
from cssp.errors import check_integer
from cssp.linalg import project_off
from cssp.linalg import squares as sq
from cssp.methods.row import FORCED, Guarantee, Method
from cssp.problem import Picks, Problem


def blockwise_pivot(p: Problem, *, block: int = 16) -> Picks:
    """Draw a block from the residual norms, order it by pivoted QR, drop its end of 1/block of its energy; again.

    Parameters
    ----------
    block : int
        Columns drawn before the residual norms are formed anew, 16 by default; at most as many as are still wanted.
    """
    b = check_integer("block", block)
    E = sampling.Residual(p.numpy("double"))
    while E.wanted and not E.reached():
        d = E.weights()
        if not np.any(d):
            break
        J = np.array(sampling.successive(d, min(b, E.wanted), p.rng))
        for j in J[_robust(project_off(E.A.take(J.tolist()), E.Q[:, : E.r]), 1 / b)]:
            E.take(int(j))
        E.update()
    return Picks(E.indices)


def _robust(X: np.ndarray, share: float) -> np.ndarray:
    """Return the pivots of X until they leave no more than this share of ‖X‖_F²; one at the least."""
    R, order = qr(X, mode="r", pivoting=True)
    left = np.cumsum(np.sum(sq(R), axis=1)[::-1])[::-1]  # before each pivot
    return np.asarray(order[: max(1, int(np.sum(left > share * left[0])))])


ROW = Method(
    name="blockwise_pivot",
    function=blockwise_pivot,
    summary="blocks drawn by squared residual norm, without the columns that the rest of a block nearly spans",
    citation="dong2023b",
    cost="2mnk",
    deterministic=False,
    supports=FORCED | {"tol", "complex"},
    guarantee=Guarantee(
        "E F <= 2^k OPT_k where a block is one column",
        "chen2025",
        "expectation",
        frobenius=lambda m, n, k, *, block=16: bounds.random_pivot(k) if min(block, k) == 1 else None,
        name="robust blockwise random pivoting",
    ),
)
