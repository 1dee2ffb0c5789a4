"""A matrix read in passes, as pivoting needs it: columns, products, norms; and a pool of columns kept in the caller's memory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cssp import linalg
from cssp.linalg import squares
from cssp.passes.blocks import residual_norms2
from cssp.passes.problem import PassProblem
from cssp.passes.source import Held, Source
from cssp.pivoting.run import NARROWEST, Run, fallen, row_of

__all__ = ["Pool", "Swept"]

#: How much wider a block is than in memory where columns are expensive to read, as a better guess saves passes.
WIDER = 2

#: Columns in the pool: at least, for each pick, and at most.
POOL = 256, 8, 1536

#: Most entries in the pool: columns of a tall matrix are large.
ROOM = 1 << 24

#: Most entries of columns that are taken instead of a pass.
FEW = 1 << 22


class Swept:
    """A source in its own precision: `cssp.pivoting.run.Columns`."""

    def __init__(self, source: Source) -> None:
        self.source, self.dtype = source, source.dtype

    def take(self, columns: Any) -> np.ndarray:
        """Return these columns of A, shape (m, c)."""
        return self.source.take(columns)

    def explained(self, Q: np.ndarray) -> np.ndarray:
        """Return the squared norms of the columns of QᴴA, from one pass."""
        return np.concatenate(self.source.sweep(Q, after=_energy)[0].map(row_of))

    def residual_norms2(self, place: np.ndarray, Q: np.ndarray) -> np.ndarray:
        """Return squared residual norms formed from these columns, or in a pass where they are many."""
        if place.size * self.source.shape[0] <= FEW:
            return residual_norms2(self.take(place.tolist()), Q)
        return self.source.residual_norms2(Q)[place]


class Pool(Swept):
    """A source that keeps those of its columns that may be picked next: `cssp.pivoting.run.Guessed`.

    Attributes
    ----------
    pool : int array
        The columns that are kept, in ascending order.
    raw, left : array, shape (pool.size, m)
        Their entries, and their residuals after the first ``known`` directions, as rows.
    """

    def __init__(self, p: PassProblem, source: Source | None = None, known: int = 0) -> None:
        super().__init__(p.A if source is None else source)
        self.p, self.known = p, known
        self.pool, self.raw = np.empty(0, dtype=np.int64), np.empty((0, p.m), dtype=self.dtype)
        self.left = self.raw
        self.ahead, self.fetched = self.pool, self.raw.T  # what the last pass read for the pool

    def at(self, known: int) -> Pool:
        """Return an empty pool of the same source, for residuals after so many directions."""
        return Pool(self.p, self.source, known)

    def widened(self) -> Pool:
        """Return an empty pool of the same source in double precision."""
        return Pool(self.p, self.source.view(self.source.wide))

    def norms2(self) -> np.ndarray:
        """Return the squared column norms, float64."""
        return np.array(self.p.norms2, dtype=np.float64)

    def take(self, columns: Any) -> np.ndarray:
        """Return the columns of A, from the pool as far as they are there."""
        place = np.asarray(columns, dtype=np.int64)
        there = np.isin(place, self.pool)
        out = np.empty((self.p.m, place.size), dtype=self.dtype)
        out[:, there] = self.raw[np.searchsorted(self.pool, place[there])].T
        if not there.all():
            out[:, ~there] = self.source.take(place[~there].tolist())
        return out

    def residual_norms2(self, place: np.ndarray, Q: np.ndarray) -> np.ndarray:
        """Return squared residual norms formed from these columns, or in a pass where they are many or expensive to read."""
        if place.size <= NARROWEST or (self.source.nearby and place.size < self.p.n // 2):
            parts = np.array_split(place, max(1, place.size * self.p.m // FEW))
            return np.concatenate([linalg.residual_norms2(self.take(part.tolist()), Q) for part in parts])
        return self.source.residual_norms2(Q)[place]

    def block(self, run: Run, b: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return columns of the pool, their residuals, and the Gram matrix of these with the norms that the verification uses."""
        C = self._largest_norms(run, b)
        Q = run.Q[:, self.known : run.r]
        if Q.shape[1]:
            self.left = self.left - (self.left @ Q.conj()) @ Q.T
        self.known = run.r
        E = self.left[np.searchsorted(self.pool, C)].T
        G = E.conj().T @ E
        np.fill_diagonal(G, run.N[C])
        return C, E, G

    def _largest_norms(self, run: Run, b: int) -> np.ndarray:
        """Return open columns of large residual norm: the b largest, or those of them in the pool where others are expensive to read."""
        nearby = self.source.nearby
        C = run.largest(min(b if nearby else WIDER * b, self._room()))
        there = np.isin(C, self.pool)
        if nearby or run.first not in self.pool or int(np.count_nonzero(there)) < C.size // 4:
            if not there.all():
                self._join(run, C[~there], self.source.take(C[~there].tolist()), C)
            return C
        return C[there]

    def fallen(self, run: Run, V: np.ndarray) -> Held:
        """Return `cssp.pivoting.run.fallen` of VᴴA, formed where A is, in a pass that also reads columns for the pool."""
        if not self.source.nearby and V.shape[1] < self.p.k - len(run.indices):
            self.ahead = np.setdiff1d(run.largest(self._most()), self.pool)
        held, self.fetched = self.source.sweep(V, self.ahead.tolist(), after=fallen)
        return held

    def settle(self, run: Run) -> None:
        """Add the columns that the last pass read to the pool."""
        ahead, self.ahead = self.ahead, self.ahead[:0]
        if ahead.size:
            self._join(run, ahead, self.fetched, ahead[:0])

    def _most(self) -> int:
        """Return how many columns the pool may hold: a block, or more of them where they are expensive to read."""
        least, each, most = POOL
        wanted = least if self.source.nearby else max(least, min(each * self.p.k, most))
        return min(wanted, self._room())

    def _room(self) -> int:
        return max(2, ROOM // self.p.m)

    def _join(self, run: Run, columns: np.ndarray, X: np.ndarray, needed: np.ndarray) -> None:
        """Add columns to the pool and drop those of least residual norm, except those that are needed."""
        Q = run.Q[:, : self.known]
        rows = X.T
        pool = np.concatenate([self.pool, columns])
        raw = np.concatenate([self.raw, rows])
        left = np.concatenate([self.left, rows - (rows @ Q.conj()) @ Q.T if self.known else rows])
        most = max(self._most(), needed.size)
        order = np.argsort(pool)
        if pool.size > most:
            rank = np.where(run.open[pool], run.N[pool], -1.0)
            rank[np.isin(pool, needed)] = math.inf
            keep = np.zeros(pool.size, dtype=bool)
            keep[np.argpartition(rank, -most)[-most:]] = True
            order = order[keep[order]]
        self.pool, self.raw, self.left = pool[order], raw[order], left[order]


def _energy(R: np.ndarray) -> np.ndarray:
    """Return the squared norms of the columns, as one row."""
    return np.atleast_2d(np.sum(squares(R), axis=0, dtype=np.float64))
