"""Randomly pivoted QR by rejection on a matrix read in passes [epperly2024]: one pass for a block of proposals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cssp.linalg import squares
from cssp.methods import _sampling as sampling
from cssp.methods.random_pivot import _rejecting
from cssp.passes.problem import PassProblem
from cssp.passes.source import residual_norms2
from cssp.problem import Picks

__all__ = ["random_pivot"]


def random_pivot(p: PassProblem) -> Picks:
    """Return the picks of ``random_pivot`` with ``accelerated=True`` for the same rng."""
    return Picks(_rejecting(_Residual(p), p.rng).indices)


class _Columns:
    """``A[:, S]`` of a source."""

    def __init__(self, p: PassProblem) -> None:
        self.source, self.dtype = p.A.view(p.A.wide), p.A.wide

    def __getitem__(self, place: tuple[slice, Any]) -> np.ndarray:
        _, j = place
        return self.source.take([j])[:, 0] if np.ndim(j) == 0 else self.source.take(np.asarray(j).tolist())


class _Residual(sampling.Residual):
    """As in memory; norms are brought up to date by a pass."""

    A: Any  # _Columns

    def __init__(self, p: PassProblem) -> None:
        self.p, self.k = p.numpy("double"), p.k
        self.A = _Columns(p)
        self.open_, self.unseen = p.candidates.copy(), np.ones(p.n, dtype=bool)
        self.Q = np.zeros((p.m, min(p.k, p.m)), dtype=p.A.wide)
        self.r = self.known = 0
        self.N = np.array(p.norms2)
        self.exact = self.N.copy()
        self.include(self.A[:, list(p.include)])
        self.update()

    def update(self) -> None:
        if self.known == self.r:
            return
        Q = self.Q[:, self.known : self.r]
        self.known = self.r
        self.N = self.N - np.concatenate(self.A.source.sweep(Q, after=_energy)[0].map(_row))
        half = math.sqrt(float(np.finfo(np.float64).eps))
        stale = self.unseen & (half * self.exact >= self.N) & (self.exact > self.p.noise**2)
        self.N = np.where(self.unseen, np.maximum(self.N, 0.0), 0.0)
        if np.any(stale):
            self._form(stale)

    def reached(self) -> bool:
        if self.p.tol is None or self.r == 0 or float(np.sum(self.N)) > self.p.goal:
            return False
        self._form(self.unseen)
        return float(np.sum(self.N)) <= self.p.goal

    def _form(self, which: np.ndarray) -> None:
        """Form the norms of these columns from the columns themselves."""
        place, Q = np.flatnonzero(which), self.Q[:, : self.r]
        if place.size * self.p.m <= 1 << 22:
            self.N[place] = residual_norms2(self.A.source.take(place.tolist()), Q)
        elif place.size:
            self.N[place] = self.A.source.residual_norms2(Q)[place]
        self.exact[place] = self.N[place]


def _energy(R: np.ndarray) -> np.ndarray:
    return np.sum(squares(R), axis=0)[None, :]


def _row(part: np.ndarray, start: int) -> np.ndarray:
    return part[0]
