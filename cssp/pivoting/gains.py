"""Runs of picks of greedy gain from the Gram matrix: made with little between them, then judged all together.

With G the residual Gram matrix, column j is picked for f_j/g_j = ‖G_j‖²/G_jj. Then G becomes G - rᴴr for r = G_j/√G_jj, and f loses
2 Re(r̄k) for k = rG - ½‖r‖²r [farahat2011]. A step reads G once; G itself is updated after a run.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from cssp.linalg import conjugate, squares
from cssp.pivoting import norm_slack, stale_level, tie_bar
from cssp.problem import Problem

__all__ = ["KEPT", "Gains", "guessed", "judged", "twice_real"]

#: A row of the Gram matrix stands for a product with A where the pick has kept this share of its norm, others being one.
KEPT = 1 / 16


class Gains(NamedTuple):
    """What greedy gain knows of columns, arrays of shape (n,).

    f and g are the squared norms of the columns of the residual Gram matrix, and its diagonal; f0 and g0 what these
    were when last formed anew; `open` says which columns may be picked.
    """

    f: np.ndarray
    g: np.ndarray
    f0: np.ndarray
    g0: np.ndarray
    open: np.ndarray


def guessed(
    G: np.ndarray, gains: Gains, rough: np.ndarray, first: int, length: int, least: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return up to ``length`` picks as array of int, shape (s,), with r and k, shape (s, n); the first pick is given.

    Parameters
    ----------
    G : array, shape (n, n)
        Residual Gram matrix.
    rough : bool array, shape (n,)
        As in `judged`: picks end where such a column ties.
    least : float
        Picks end where the squared residual norm is no more than that.
    """
    n, eps = len(G), float(np.finfo(G.dtype).eps)
    R, K, order = np.empty((length, n), G.dtype), np.empty((length, n), G.dtype), np.empty(length, np.int64)
    f, g = gains.f.copy(), np.where(gains.open, gains.g, math.inf)
    slack, f_slack, j = norm_slack(gains.g0, eps), norm_slack(gains.f0, eps), first
    for s in range(length):
        height = float(g[j])
        if not least < height < math.inf:
            return order[:s], R[:s], K[:s]
        r, k, order[s] = R[s], K[s], j
        np.subtract(G[j], conjugate(R[:s, j]) @ R[:s], out=r)
        r /= math.sqrt(height)
        products = R[: s + 1] @ conjugate(r)  # of r with itself and those before
        products[s] *= 0.5
        np.subtract(r @ G, conjugate(products) @ R[: s + 1], out=k)
        f -= twice_real(r, k)
        g -= squares(r)
        g[j] = math.inf
        g[g <= least] = math.inf
        score = f / g
        rounding = (f_slack + score * slack) / g
        tied = score + rounding >= tie_bar(float((score - rounding).max()), eps)
        if np.any(rough[tied]) and np.count_nonzero(tied) > 1:
            return order[: s + 1], R[: s + 1], K[: s + 1]
        norms2 = np.where(tied, g, 0)
        j = int((norms2 + slack >= tie_bar(float(norms2.max()), eps)).argmax())
    return order, R, K


def twice_real(r: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Return 2 Re(r̄k), entry by entry."""
    return 2 * (r.real * k.real + r.imag * k.imag) if r.dtype.kind == "c" else 2 * r * k


def judged(
    p: Problem,
    gains: Gains,
    rough: np.ndarray,
    run: np.ndarray,
    r: np.ndarray,
    k: np.ndarray,
    phi: np.ndarray,
    phi0: float,
) -> int:
    """Return how many picks of a run are those of the rule; the first one is.

    A run ends where a norm that might win is stale or rough, where a row of the Gram matrix is too inaccurate, or where the
    tolerance may be met.

    Parameters
    ----------
    gains : Gains
        Before the run.
    rough : bool array, shape (n,)
        Columns whose f is known so badly that a tie with them has to be decided by other means.
    run : array of int, shape (s,)
    r, k : array, shape (s, n)
    phi : array, shape (s + 1,)
        Squared norm of the residual before each pick and after the last; ``phi0`` is what it was when last formed anew.
    """
    eps = float(np.finfo(r.dtype).eps)
    f, g = gains.f - np.cumsum(twice_real(r, k), axis=0), gains.g - np.cumsum(squares(r), axis=0)
    f, g = np.concatenate([gains.f[None], f[:-1]]), np.concatenate([gains.g[None], g[:-1]])
    np.maximum(f, 0, out=f)
    np.maximum(g, 0, out=g)
    steps = np.arange(run.size)
    picked = np.zeros_like(g, dtype=bool)
    picked[:, run] = np.tri(run.size, run.size, -1, dtype=bool)
    g[picked] = 0
    slack, low = norm_slack(gains.g0, eps), -math.inf
    kept = np.max(g / np.where(gains.g0 > 0, gains.g0, 1), axis=1)
    accurate = g[steps, run] >= KEPT * kept * gains.g0[run]
    lost = (g < stale_level(gains.g0, eps)) | (f < stale_level(gains.f0, eps))
    open_ = gains.open & ~picked
    stale = open_ & lost & (gains.g0 > p.noise**2)
    fresh = open_ & ~stale & (g > p.floor**2)
    safe = np.where(stale, np.maximum(g, slack), np.where(fresh, g, 1))
    score = np.where(fresh | stale, f / safe, 0)
    rounding = norm_slack(gains.f0 + score * gains.g0, eps) / safe
    sure = np.where(fresh, score, 0).max(axis=1)
    risky = np.any(stale & (score + rounding >= tie_bar(sure, eps)[:, None]), axis=1)
    bar = tie_bar(np.where(fresh, score - rounding, low).max(axis=1), eps)
    tied = fresh & (score + rounding >= bar[:, None])
    unclear = (np.count_nonzero(tied, axis=1) > 1) & np.any(tied & rough, axis=1)
    height = np.where(tied, g, low)
    first = (height + slack >= tie_bar(height.max(axis=1), eps)[:, None]).argmax(axis=1)
    good = accurate & ~risky & ~unclear & fresh.any(axis=1) & (first == run)
    good &= (phi[:-1] >= stale_level(phi0, eps)) & (phi[:-1] > p.goal)
    good[0] = True
    return run.size if good.all() else int(np.argmin(good))
