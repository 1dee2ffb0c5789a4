"""What the sampling methods share: draws, projection-DPP sampling, residual norms, rounds.

Every random decision passes through `draw`, `coin`, `coins` or `proposals`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cssp.linalg import basis, column_norms2, host, orthogonalise, project_off, residual_norms2
from cssp.linalg import squares as sq
from cssp.pivoting import stale_level
from cssp.pivoting.run import Columns
from cssp.problem import Picks, Problem
from cssp.vectors import Vectors, leading_svd

__all__ = [
    "Residual",
    "coin",
    "coins",
    "draw",
    "in_order",
    "in_rounds",
    "leading",
    "projection_dpp",
    "proposals",
    "successive",
]


def draw(weights: np.ndarray, rng: np.random.Generator) -> int:
    """Return an index with probability proportional to its weight, by inverting the distribution function.

    Parameters
    ----------
    weights : float array, shape (n,)
        Nonnegative, at least one positive; an index of weight zero is never drawn.
    """
    return int(proposals(weights, 1, rng)[0])


def proposals(weights: np.ndarray, b: int, rng: np.random.Generator) -> np.ndarray:
    """Return b independent draws, as `draw`."""
    F = np.cumsum(weights)
    last = int(np.flatnonzero(weights)[-1])
    return np.minimum(np.searchsorted(F, rng.random(b) * F[-1], side="right"), last)


def coin(probability: float, rng: np.random.Generator) -> bool:
    """Return True with that probability."""
    return bool(rng.random() < probability)


def coins(probability: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return independent coins."""
    return rng.random(probability.shape[0]) < probability


def successive(weights: np.ndarray, k: int, rng: np.random.Generator) -> list[int]:
    """Return independent draws, repeats discarded, until k are distinct or no weight is left."""
    w = weights.copy()
    J: list[int] = []
    while len(J) < k and np.any(w > 0):
        J.append(draw(w, rng))
        w[J[-1]] = 0
    return J


def in_order(p: Problem, order: Sequence[int]) -> Picks:
    """Return the included columns, then the first ones of an order that do not depend on those before; the others come last."""
    picks, last = list(p.include), []
    place, step = 0, p.free
    while place < len(order) and len(picks) < p.k:
        block = [int(j) for j in order[place : place + step]]
        place, step = place + step, 4 * p.k  # few are left where this goes on
        independent = p.independent([*picks, *block])[len(picks) :]
        last += [j for j, yes in zip(block, independent, strict=True) if not yes]
        picks += [j for j, yes in zip(block, independent, strict=True) if yes]
    every = len(order) == int(np.sum(host(p.candidates)))
    return Picks([*picks, *last][: p.k], exhausted=every and len(picks) < p.k)


def projection_dpp(V: np.ndarray, rng: np.random.Generator) -> list[int]:
    """Return J with probability |det V_J|², in exchangeable order, for V (n, k) with orthonormal columns.

    Randomly pivoted QR of Vᴴ: draw a row with probability proportional to its squared norm, project all rows off its
    direction, repeat. The mass left after t draws is k - t, never near zero. The norms are downdated, and formed anew before
    that costs half of the digits; V is only read.
    """
    k, eps = V.shape[1], float(np.finfo(V.dtype).eps)
    d = column_norms2(V.T)
    formed, Q = d.copy(), np.zeros((k, k), dtype=V.dtype)
    J: list[int] = []
    for t in range(k):
        d[J] = 0
        J.append(draw(d, rng))
        if len(J) == k:
            break
        q, height = orthogonalise(V[J[-1]].conj(), Q[:, :t])
        Q[:, t] = q / height
        d -= sq(V @ Q[:, t])
        np.maximum(d, 0, out=d)
        stale = np.flatnonzero(d < stale_level(formed, eps))
        if stale.size:
            left = column_norms2(project_off(V[stale].conj().T, Q[:, : t + 1]))
            d[stale] = formed[stale] = np.where(left > (k * eps) ** 2 * formed[stale], left, 0)
    return J


def leading(
    E: np.ndarray, below: float, k: int, how: str, p: Problem, most: int | None = None
) -> tuple[np.ndarray, Vectors]:
    """Return the singular values above rounding, at least one, and the right singular vectors.

    Of a sketch (``how="sketched"``, see `cssp.vectors`) about k of them; else the first ``most`` vectors.

    Parameters
    ----------
    E : array, shape (m, n)
    below : float
        Rounding of the data, in the unit of E.
    p : Problem
        The problem of whose columns E are residuals.
    """
    s, Vh = leading_svd(E, k, how, p.rng, most)
    cut = max(below, max(p.height, E.shape[1]) * np.finfo(np.float64).eps * s[0])
    r = max(1, int(np.sum(s > cut)))
    return s[:r], Vh[:r]


def in_rounds(p: Problem, choose: Callable[[np.ndarray, int, float], Sequence[int]]) -> Picks:
    """Return the included columns, then ``choose(E, k, below)``, until ``p.k`` are found or only rounding is left.

    E holds the residuals of the eligible candidates (see `Problem.eligible`) against all columns chosen, in double
    precision; k is the number still wanted, `below` the size of rounding; at least one of E's
    columns comes back. Where the rank allows it a method is done in the first round; with included
    columns that is the method on the residual problem.
    """
    h = p.numpy("double")
    threshold = h.floor
    A = np.ascontiguousarray(h.A)
    open_ = h.candidates.copy()
    indices = list(p.include)
    for _ in range(p.free + 1):  # each round finds at least one, but for the one that lowers the threshold
        if len(indices) == p.k:
            break
        place = np.flatnonzero(open_)
        Q, _ = basis(A[:, indices], threshold)
        if p.tol is not None and indices and np.sum(residual_norms2(A, Q)) <= h.goal:
            break
        E = project_off(A if place.size == h.n else A[:, place], Q)
        live = column_norms2(E) > threshold**2
        if not np.any(live):
            if threshold == h.noise:
                break
            threshold = h.noise  # no independent column is left
            continue
        if not live.all():
            place, E = place[live], np.ascontiguousarray(E[:, live])
        found = list(choose(E, p.k - len(indices), h.noise))
        J = place[found][np.array(basis(E[:, found], threshold)[1])]
        indices += J.tolist()
        open_[J] = False
    return Picks(indices)


class InMemory:
    """An array as `cssp.pivoting.run.Columns`."""

    def __init__(self, A: np.ndarray) -> None:
        self.A = A

    def take(self, columns: Sequence[int]) -> np.ndarray:
        """Return these columns, shape (m, c)."""
        return self.A[:, columns]

    def explained(self, Q: np.ndarray) -> np.ndarray:
        """Return the squared norms of the columns of QᴴA."""
        return np.sum(sq(Q.conj().T @ self.A), axis=0)

    def residual_norms2(self, place: Any, Q: np.ndarray) -> np.ndarray:
        """Return the squared norms of these columns of A - QQᴴA."""
        return residual_norms2(self.A[:, place], Q)


class Residual:
    """An orthonormal basis of the columns chosen and the squared residual norms of all columns.

    Attributes
    ----------
    indices : list of int
        Columns chosen, the included ones from the start.
    N : array, shape (n,)
        Squared residual norms, downdated, and formed anew before that costs half of the digits
        [drmac2008].
    """

    def __init__(self, p: Problem, A: Columns | None = None) -> None:
        """Start from a problem in double precision; the columns are those of its A in memory by default."""
        self.p, self.A = p, InMemory(np.ascontiguousarray(p.A)) if A is None else A
        self.k = p.k
        self.indices: list[int] = []
        self.open_ = self.p.candidates.copy()
        self.unseen = np.ones(p.n, dtype=bool)
        self.indices = list(p.include)
        self.unseen[self.indices] = False
        C = self.A.take(self.indices)
        have, _ = basis(C, p.floor)
        self.r, self.known = have.shape[1], 0  # directions in Q, and those of them that N knows of
        self.Q = np.zeros((p.m, min(p.k, p.m)), dtype=C.dtype)
        self.Q[:, : self.r] = have
        if A is None:
            self.N, self.known = self.A.residual_norms2(slice(None), have), self.r
        else:
            self.N = np.array(p.norms2)
        self.exact = self.N.copy()
        self.update()

    def weights(self) -> np.ndarray:
        """Return the squared residual norms of the eligible columns, zero for the others."""
        may = self.p.eligible(self.N, self.open_)
        self.least = self.p.floor if np.any(self.N[may] > self.p.floor**2) else self.p.noise
        return np.where(may, self.N, 0.0)

    def take(self, j: int) -> bool:
        """Choose column j unless it depends on those chosen; whether it was independent."""
        e, height = orthogonalise(self.A.take([j])[:, 0], self.Q[:, : self.r])
        if not (height > self.least and self.r < self.p.m):
            self.N[j] = self.exact[j] = height**2
            self.open_[j] = height > self.p.noise  # to be asked again once no independent column is left
            return False
        self.open_[j] = self.unseen[j] = False
        self.Q[:, self.r] = e / height
        self.r += 1
        self.indices.append(int(j))
        self.p.progress(len(self.indices), self.k)
        return True

    def update(self) -> None:
        """Update N for Q."""
        if self.known == self.r:
            return
        Q = self.Q[:, self.known : self.r]
        self.known = self.r
        self.N = self.N - self.A.explained(Q)
        stale = self.unseen & (stale_level(self.exact, self.p.eps) >= self.N) & (self.exact > self.p.noise**2)
        self.N = np.where(self.unseen, np.maximum(self.N, 0.0), 0.0)
        self._form(stale)

    def reached(self) -> bool:
        """Return whether the residual is below the goal, the downdated norms being confirmed by exact ones."""
        if self.p.tol is None or self.r == 0 or float(np.sum(self.N)) > self.p.goal:
            return False
        self._form(self.unseen)
        return float(np.sum(self.N)) <= self.p.goal

    def _form(self, which: np.ndarray) -> None:
        """Form the norms of these columns from the columns themselves."""
        place = np.flatnonzero(which)
        if place.size:
            self.N[place] = self.exact[place] = self.A.residual_norms2(place, self.Q[:, : self.r])

    @property
    def wanted(self) -> int:
        """Number of picks still to be made."""
        return self.k - len(self.indices)
