"""Runs of picks of greedy gain on the Gram matrix, as far as they are certain.

With G the residual Gram matrix, column j is picked for f_j/g_j = ‖G_j‖²/G_jj. Then G becomes G - rᴴr for r = G_j/√G_jj, and f loses
2 Re(r̄k) for k = rG - ½‖r‖²r [farahat2011]. A step reads G once; G itself is updated after a run.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from cssp.linalg import squares
from cssp.pivoting import norm_slack, stale_level, tie_bar
from cssp.problem import Problem

__all__ = ["KEPT", "Gains", "Run", "accurate", "certain_run"]

#: A row of the Gram matrix stands for a product with A where its pick has kept this share of what all columns have kept on average.
KEPT = 1 / 4

#: A row of the Gram matrix is not used where its pick's squared norm has an error of more than the square root of rounding over this.
WRONG = 1 / 16

#: A run ends where the error of a squared norm has grown by this factor in it.
GROWN = 16


class Gains(NamedTuple):
    """What greedy gain knows of columns, arrays of shape (n,).

    Attributes
    ----------
    f, g : array
        Squared norms of the columns of the residual Gram matrix, and its diagonal.
    f0, g0 : array
        What they were when last formed anew, or would have been for the rounding that they have.
    d : array
        An entry G_ij has an error of some units of rounding of √(d_i d_j).
    rough : bool array
        Columns whose f is known so badly that a tie with them has to be decided by their residuals.
    open : bool array
        Columns that may be picked.
    unit : float
        These units.
    """

    f: np.ndarray
    g: np.ndarray
    f0: np.ndarray
    g0: np.ndarray
    d: np.ndarray
    rough: np.ndarray
    open: np.ndarray
    unit: float


class Run(NamedTuple):
    """Picks of the rule with their rows r, shape (s, n), f, g and φ after them, and the columns that leave the next pick in doubt."""

    picks: list[int]
    R: np.ndarray
    f: np.ndarray
    g: np.ndarray
    phi: float
    doubtful: np.ndarray


def certain_run(p: Problem, G: np.ndarray, known: Gains, length: int, phi: float, phi0: float) -> Run:
    """Return up to ``length`` picks; fewer where a norm that might win is stale or rough, or the tolerance may be met.

    Parameters
    ----------
    G : array, shape (n, n)
        Residual Gram matrix.
    phi, phi0 : float
        Squared norm of the residual, and what it was when last formed anew.
    """
    n, eps, complex_ = len(G), float(np.finfo(G.dtype).eps), G.dtype.kind == "c"
    R, picks, f, g = np.empty((length, n), dtype=G.dtype), list[int](), known.f.copy(), known.g.copy()
    tracked = known.open & (known.g0 > p.noise**2)
    half_f, half_g = (np.where(tracked, stale_level(x, eps), -math.inf) for x in (known.f0, known.g0))
    slack_f, slack_g = norm_slack(known.f0, eps), norm_slack(known.g0, eps)
    least, total = np.where(known.open, p.floor**2, math.inf), float(known.d.sum())
    goal, worst = max(p.goal, stale_level(phi0, eps)), WRONG / math.sqrt(eps)
    doubtful = np.zeros(0, dtype=np.int64)
    for s in range(length):
        lost = (g < half_g) | (f < half_f)
        fresh = (g > least) & ~lost
        safe = np.where(fresh, g, math.inf)
        score = f / safe
        rounding = (slack_f + score * slack_g) / safe
        if lost.any():
            i = np.flatnonzero(lost)
            stale = np.maximum(g[i], slack_g[i])
            gain = f[i] / stale
            risky = gain + (slack_f[i] + gain * slack_g[i]) / stale >= tie_bar(float(score.max()), eps)
            if risky.any():
                doubtful = i[risky]
                break
        tied = np.flatnonzero(fresh & (score + rounding >= tie_bar(float((score - rounding).max()), eps)))
        if not tied.size or (s and phi <= goal):
            break
        heights = g[tied]
        j = int(tied[(heights + slack_g[tied] >= tie_bar(float(heights.max()), eps)).argmax()])
        height = float(g[j])
        if tied.size > 1 and known.rough[tied].any():
            doubtful = tied[known.rough[tied]]
            break
        if height * total < KEPT * phi * float(known.d[j]) or height < known.unit * worst * float(known.d[j]):
            doubtful = np.asarray([j])
            break
        r = R[s]
        coefficients = R[:s, j].conj() if complex_ else R[:s, j]
        np.subtract(G[j], coefficients @ R[:s], out=r)
        r /= math.sqrt(height)
        products = R[: s + 1] @ (r.conj() if complex_ else r)  # of r with itself and those before
        products[s] *= 0.5
        k = r @ G - (products.conj() if complex_ else products) @ R[: s + 1]
        loss = squares(r)
        f -= 2 * (r.real * k.real + r.imag * k.imag) if complex_ else 2 * r * k
        g -= loss
        phi -= float(loss.sum())
        picks.append(j)
        half_f[j], half_g[j], least[j] = -math.inf, -math.inf, math.inf
    return Run(picks, R[: len(picks)], f, g, phi, doubtful)


def accurate(run: Run, d: np.ndarray) -> int:
    """Return how many picks of a run are made before errors have grown by `GROWN`.

    With y the coefficients of a pick in those before, its squared residual norm has an error of some units of rounding of
    d_j + Σ|y_i|²d_i, which grows as fast as 4ˢ for Kahan's matrix.
    """
    T = np.triu(run.R[:, run.picks])
    X = np.triu(np.linalg.inv(T))
    grown = d[run.picks] @ squares(X / X.diagonal()) > GROWN * d[run.picks]
    return int(grown.argmax()) if grown.any() else len(run.picks)
