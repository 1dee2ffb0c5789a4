"""A lower bound on the error of every completion: shares of columns instead of columns.

The factorization bound of maximum-entropy sampling, which Li and Xie also state for the trace of the inverse of a
principal submatrix (A-MESP), in "Best principal submatrix selection for the maximum entropy sampling problem"
[li2020], with the spectrum shifted by ψ. Here M need not be invertible. docs/theory/foundations.md has the proof.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["relaxed"]

#: Shares below this would cost digits.
LEAST_SHARE = 0.02
#: ψ in units of its limit, 1/λ_max(M).
SHIFT = 0.98
#: Directions with less than this share of λ_max(M) are left out, which lowers the bound.
CUT = 1e-10
#: What rounding may add to a bound, in units of the trace of Y.
ROUNDING = 1e-12
STEPS = 12


def relaxed(
    M: np.ndarray,
    E: np.ndarray,
    allowed: np.ndarray,
    r: int,
    enough: np.ndarray,
    x: np.ndarray,
    over: Callable[[], bool] = lambda: False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return lower bounds on tr(M (I - P_S)) over all sets S of r allowed columns of E, for b problems at once.

    x_j is the share of column j that is left out. With Y(x) = M + Σ_j (1/x_j - 1) e_j e_jᴴ the finite eigenvalues of Y
    add up to the error where every x_j is 0 or 1. Their sum, convexified, is lowered over Σx = u - r by projected
    gradients; a tangent at any x bounds all sets.

    Parameters
    ----------
    M : array, shape (b, h, h)
        M - E Eᴴ must be positive semidefinite.
    E : array, shape (b, h, n)
        Zero where not allowed.
    allowed : bool array, shape (b, n)
        u > r columns of each problem.
    r : int
    enough : array, shape (b,)
        A problem is left as soon as its bound reaches this, or cannot.
    x : array, shape (b, n)
        Where to start; 1 where not allowed.
    over : callable
        Asked before each step; once true, the bounds stay as they are.

    Returns
    -------
    bound : array, shape (b,)
        At least the sum of the h - r least eigenvalues of M.
    x : array, shape (b, n)
        Where it ended.
    """
    s2, U = np.linalg.eigh(M)
    live = s2 > CUT * s2[:, -1:]
    rank = np.sum(live, axis=1)
    skipped = s2.shape[1] - rank[:, None]
    place = np.arange(s2.shape[1])
    bound = np.sum(s2, axis=1, where=(place >= skipped) & (place < s2.shape[1] - r))
    bound -= ROUNDING * np.sum(s2, axis=1)
    psi = SHIFT / np.where(s2[:, -1] > 0, s2[:, -1], 1)
    stretch = np.where(live, 1 / (1 - psi[:, None] * s2), 0)
    F = np.sqrt(stretch)[:, :, None] * (np.swapaxes(U.conj(), 1, 2) @ E)
    out = np.sum(allowed, axis=1) - r
    problem = _Problem(F, s2 * stretch, live, psi, rank - r, allowed, out)
    x = _onto(x, allowed, out)
    here = np.flatnonzero((rank > r) & (bound < enough))
    last_x, last_g = np.zeros_like(x), np.zeros_like(x)
    for step in range(STEPS):
        if not here.size or over():
            break
        p, y = problem.at(here), x[here]
        value, g, tangent = p.tangent(y)
        bound[here] = np.maximum(bound[here], tangent)
        length = 0.3 / np.max(np.abs(g), axis=1)
        if step:  # Barzilai and Borwein
            dx, dg = y - last_x[here], g - last_g[here]
            bent = np.sum(dx * dg, axis=1)
            length = np.where(bent > 0, np.sum(dx * dx, axis=1) / np.where(bent > 0, bent, 1), length)
        last_x[here], last_g[here] = y, g
        go = (bound[here] < enough[here]) & (value > enough[here])
        y = _onto(y - length[:, None] * g, p.allowed, p.out)
        here = here[go]
        x[here] = y[go]
    return bound, x


@dataclass(frozen=True)
class _Problem:
    """In eigenvectors of M, stretched by (1 - ψM)^(-1/2): columns F, and the eigenvalues D that M has then."""

    F: np.ndarray
    D: np.ndarray
    live: np.ndarray
    psi: np.ndarray
    q: np.ndarray
    allowed: np.ndarray
    out: np.ndarray

    def at(self, here: np.ndarray) -> _Problem:
        return _Problem(*(field[here] for field in vars(self).values()))

    def tangent(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the value and gradient at x of the convex function, and the least value of the tangent."""
        place = np.arange(self.D.shape[1])
        Y = (self.F * (1 / x - 1)[:, None, :]) @ np.swapaxes(self.F.conj(), 1, 2)
        Y[:, place, place] += self.D
        size = np.trace(Y, axis1=1, axis2=2).real
        Y[:, place, place] += np.where(self.live, 0, size[:, None])  # directions left out come last
        mu, V = np.linalg.eigh(Y)
        real = place < np.sum(self.live, axis=1)[:, None]
        lam = np.where(real, 1 / np.maximum(mu, 1e-16 * size[:, None]), 0)
        # q numbers stand for all: the largest as they are, then the mean t of what is left, as often as is left.
        times = self.q[:, None] - place
        tail = np.cumsum(lam[:, ::-1], axis=1)[:, ::-1]
        mean = np.where(times > 0, tail / np.maximum(times, 1), np.inf)
        first = np.argmax(mean >= lam, axis=1)[:, None]
        t, times = np.take_along_axis(mean, first, 1), np.take_along_axis(times, first, 1)
        alone = place < first
        f = 1 / (self.psi[:, None] + np.where(alone, lam, t))
        value = np.sum(f, axis=1, where=alone) + times[:, 0] * f[:, -1]
        Z = np.swapaxes(V.conj(), 1, 2) @ self.F
        slope = (f * lam) ** 2
        gradient = -np.squeeze(slope[:, None, :] @ (Z.conj() * Z).real, 1) / x**2
        least = np.sort(np.where(self.allowed, gradient, np.inf), axis=1)
        best = np.sum(least, axis=1, where=np.arange(x.shape[1]) < self.out[:, None])
        here = np.sum(gradient * x, axis=1, where=self.allowed)
        return value, gradient, value + best - here - ROUNDING * size


def _onto(x: np.ndarray, allowed: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return the nearest shares between `LEAST_SHARE` and 1 that add up to ``total``; 1 where not allowed."""
    inside = np.where(allowed, x, 0.5)
    low, high = np.min(inside, axis=1) - 1, np.max(inside, axis=1)
    for _ in range(24):
        middle = (low + high) / 2
        much = np.sum(np.clip(x - middle[:, None], LEAST_SHARE, 1), axis=1, where=allowed) > total
        low, high = np.where(much, middle, low), np.where(much, high, middle)
    return np.where(allowed, np.clip(x - high[:, None], LEAST_SHARE, 1), 1.0)
