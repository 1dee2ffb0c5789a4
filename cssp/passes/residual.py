"""Greedy residual in few passes: the speculative pivoting of `cssp.methods._speculative` on a matrix read in passes.

A guess is verified in one pass, in which workers form QᴴA and report, for each pick guessed, how its column stands among
theirs. A pool of columns in the caller's memory provides the guesses; columns of large residual norm join it in the
same pass.
"""

from __future__ import annotations

import math
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cssp.files import as_path, check_writable
from cssp.linalg import orthogonalise, residual_norms2, squares
from cssp.methods._gram import gram_picks
from cssp.methods._speculative import NARROWEST, _basis, _Run
from cssp.passes.checkpoint import State
from cssp.passes.problem import PassProblem
from cssp.passes.source import SparseSource
from cssp.problem import DOWNDATE_SLACK, SINGLE_REACH, TIE_BAND, Picks

__all__ = ["residual"]

#: First and longest guess: a pass is expensive, a longer product in it is not.
FIRST, LONGEST = 64, 128

#: How much wider a block is than in memory where columns are expensive to read, as a better guess saves passes.
WIDER = 2

#: Columns in the pool: at least, for each pick, and at most.
POOL = 256, 8, 1536

#: Entries of a Gram matrix at the most, and products of its rows for each product of a pass.
LARGEST_GRAM, CHEAP = 1 << 25, 4

#: Most entries in the pool: columns of a tall matrix are large.
ROOM = 1 << 24

#: Columns of a worker's part that are looked at together.
STEP = 4096


def residual(p: PassProblem, *, checkpoint: str | os.PathLike[str] | None = None) -> Picks:
    """Return the picks of greedy residual in memory, near-ties apart; from the Gram matrix of a sparse matrix where that is cheap.

    Parameters
    ----------
    checkpoint : path, optional
        The state is kept in this file after each pass over the data, and taken from it if it is there: a run that was
        interrupted goes on where it was. The file (npz) holds two numbers a column and the basis, and is refused where it
        is damaged or belongs to another matrix or other arguments.
    """
    if isinstance(p.A, SparseSource) and checkpoint is None and not p.include and gram_is_cheap(p.A, p.k):
        found = gram_picks(p.numpy("double"), SparseColumns(p.A.view(p.A.wide)))
        begun = list(found.picks.indices)
        if found.final:
            return found.picks
        left = p.candidates.copy()
        left[begun] = False
        run = PassRun(replace(p, include=tuple(begun), candidates=left), found.heights)
    else:
        run = PassRun(p)
    state = None if checkpoint is None else as_path("checkpoint", checkpoint)
    if state is not None:
        check_writable("checkpoint", state)
        if state.exists():
            run.load(state)
    with np.errstate(invalid="ignore"):
        while len(run.indices) < p.k and run.ready():
            run.advance()
            p.progress(len(run.indices), p.k)
            if state is not None:
                run.save(state)
    return p.pivots(run.indices, run.heights)


def gram_is_cheap(A: SparseSource, k: int) -> bool:
    """Return whether AᴴA costs less than k passes, and fits."""
    row = np.bincount(A.A.indices, minlength=A.shape[0]).astype(np.float64)
    return A.shape[1] ** 2 <= LARGEST_GRAM and float(np.sum(row**2)) <= max(
        CHEAP * A.A.nnz * k, A.shape[1] ** 2
    )


class SparseColumns:
    """As `cssp.methods._gram.DenseColumns`."""

    def __init__(self, A: SparseSource) -> None:
        self.A, self.take, self.dtype = A.A, A.take, A.dtype

    def gram(self) -> np.ndarray:
        """Return AᴴA as a dense array, shape (n, n)."""
        return np.asarray((self.A.conj().T @ self.A).toarray())

    def combined(self, S: list[int], Y: np.ndarray) -> np.ndarray:
        """Return A_S Y."""
        return np.asarray(self.A[:, S] @ Y)

    def products(self, S: list[int], E: np.ndarray) -> np.ndarray:
        """Return A_Sᴴ E."""
        return np.asarray(self.A[:, S].conj().T @ E)


class PassRun(_Run):
    """`_Run` on a source: N, exact and open are float64 and bool vectors of length n here, A stays where it is."""

    A: Any  # a Source
    p: PassProblem

    def __init__(self, p: PassProblem, heights: list[float] | None = None) -> None:
        self.p, self.A, self.eps, self.single = p, p.A, p.eps, p.A.single
        self.indices, self.heights = list(p.include), heights or []
        self.open = p.candidates.copy()
        self.length = FIRST
        self.tie_bias = 1 - TIE_BAND * self.eps * np.linspace(0, 1, p.n)
        self.given = list(p.include)
        if heights is None:
            self._drop_dependent(self.A.take(self.given))
        self._start(self.given)

    def _start(self, directions: list[int]) -> None:
        p = self.p
        self.Q = np.zeros((p.m, min(p.k, p.m)), dtype=self.A.dtype, order="F")
        self.exact = np.array(p.norms2, dtype=np.float64)
        self.N, self.r = self.exact.copy(), 0
        self.pool, self.raw = np.empty(0, dtype=np.int64), np.empty((0, p.m), dtype=self.A.dtype)
        self.left, self.known = self.raw, 0  # residuals of the pool, and the directions they know of
        if directions:
            have = _basis(self._columns(directions), p.noise)
            self.r = have.shape[1]
            self.Q[:, : self.r] = have
            held, _ = self.A.sweep(self.basis, after=_energy)
            self.N -= np.concatenate(held.map(_row))
            np.maximum(self.N, 0, out=self.N)
        self.N[self.indices] = 0

    def _double(self) -> None:
        self.A = self.A.view(self.A.wide)
        self.eps, self.single = float(np.finfo(np.float64).eps), False
        self._start(self.directions)

    def _form(self, which: np.ndarray) -> None:
        place = np.flatnonzero(which)
        if place.size <= NARROWEST or (self.A.nearby and place.size < self.p.n // 2):
            for part in np.array_split(place, max(1, place.size * self.p.m >> 22)):
                self.N[part] = self.exact[part] = residual_norms2(self._columns(part.tolist()), self.basis)
        else:
            N = self.A.residual_norms2(self.basis)
            self.N[place] = self.exact[place] = N[place]

    def advance(self, guesses: bool = True) -> None:
        """Pick at least one column more, or find that the first one in line is dependent."""
        length = min(self.length, self.p.k - len(self.indices), self.p.m - self.r, int(self.open.sum()))
        guess, V = self._guess(length) if length > 1 else (np.empty(0), None)
        if guess.size < 2:
            self._step()
            return
        assert V is not None
        taken = self._verify(guess, V)
        self.length = min(LONGEST, 2 * length if taken == guess.size else max(8, 2 * taken))

    def _step(self) -> int:
        e, norm = orthogonalise(self._columns([self.first])[:, 0], self.basis)
        if norm > self.p.noise:
            return self._verify(np.array([self.first]), (e / norm)[:, None])
        self.open[self.first], self.N[self.first] = False, 0
        return 0

    def _largest_norms(self, b: int) -> np.ndarray:
        """Open columns of large residual norm: the b largest, or those of them in the pool where others are expensive to read."""
        C = self._largest(min(b if self.A.nearby else WIDER * b, self._room()))
        there = np.isin(C, self.pool)
        if self.A.nearby or self.first not in self.pool or int(np.count_nonzero(there)) < C.size // 4:
            if not there.all():
                self._join(C[~there], self.A.take(C[~there]), C)
            return C
        return C[there]

    def _largest(self, b: int) -> np.ndarray:
        return super()._largest_norms(b)

    def _block(self, C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the residuals of columns of the pool, and their Gram matrix with the norms that the verification uses."""
        Q = self.Q[:, self.known : self.r]
        if Q.shape[1]:
            self.left = self.left - (self.left @ Q.conj()) @ Q.T
        self.known = self.r
        E = self.left[np.searchsorted(self.pool, C)].T
        G = E.conj().T @ E
        np.fill_diagonal(G, self.N[C])
        return E, G

    def _columns(self, columns: Any) -> np.ndarray:
        """Return the columns of A, from the pool as far as they are there."""
        place = np.asarray(columns, dtype=np.int64)
        there = np.isin(place, self.pool)
        out = np.empty((self.p.m, place.size), dtype=self.A.dtype)
        out[:, there] = self.raw[np.searchsorted(self.pool, place[there])].T
        if not there.all():
            out[:, ~there] = self.A.take(place[~there])
        return out

    def _most(self) -> int:
        """Return the columns in the pool: a block, or more of them where they are expensive to read."""
        least, each, most = POOL
        wanted = least if self.A.nearby else max(least, min(each * self.p.k, most))
        return min(wanted, self._room())

    def _room(self) -> int:
        return max(2, ROOM // self.p.m)

    def _join(self, columns: np.ndarray, X: np.ndarray, needed: np.ndarray) -> None:
        """Add columns to the pool and drop those of least residual norm, except those that are needed."""
        Q = self.Q[:, : self.known]
        rows = X.T
        pool = np.concatenate([self.pool, columns])
        raw = np.concatenate([self.raw, rows])
        left = np.concatenate([self.left, rows - (rows @ Q.conj()) @ Q.T if self.known else rows])
        most = max(self._most(), needed.size)
        order = np.argsort(pool)
        if pool.size > most:
            rank = np.where(self.open[pool], self.N[pool], -1.0)
            rank[np.isin(pool, needed)] = math.inf
            keep = np.zeros(pool.size, dtype=bool)
            keep[np.argpartition(rank, -most)[-most:]] = True
            order = order[keep[order]]
        self.pool, self.raw, self.left = pool[order], raw[order], left[order]

    def _verify(self, guess: np.ndarray, V: np.ndarray) -> int:
        p, size, taken = self.p, guess.size, 1
        ahead = np.empty(0, dtype=np.int64)
        if not self.A.nearby and size < p.k - len(self.indices):
            ahead = np.setdiff1d(self._largest(self._most()), self.pool)
        held, X = self.A.sweep(V, ahead, after=_fallen)
        top = np.array([self.N[self.first]])
        if size > 1:
            ask = partial(_prefix_maxima, guess=guess, eps=self.eps)
            highest, own, below, stale = np.max(held.map(ask, self.N, self.exact, self.open), axis=0)
            top = np.append(top, highest)
            bar = highest * (1 - TIE_BAND * self.eps)
            right = (own >= bar) & (below < bar) & (stale < bar) & (highest > p.noise**2)
            if self.single:
                right &= highest >= (SINGLE_REACH * p.largest) ** 2
            taken += size - 1 if right.all() else int(np.argmin(right))
        chosen = guess[:taken]
        self.Q[:, self.r : self.r + taken] = V[:, :taken]
        self.r += taken
        self.heights += np.sqrt(top[:taken]).tolist()
        self.N -= np.concatenate(held.map(partial(_row, s=taken - 1)))
        np.maximum(self.N, 0, out=self.N)
        self.N[chosen] = 0
        self.open[chosen] = False
        self.indices += chosen.tolist()
        if ahead.size:
            self._join(ahead, X, ahead[:0])
        return taken

    def save(self, path: Path) -> None:
        """Keep the state."""
        State(
            indices=np.array(self.indices, dtype=np.int64),
            heights=np.array(self.heights, dtype=np.float64),
            closed=np.flatnonzero(~self.open),
            Q=self.basis,
            N=self.N,
            exact=self.exact,
            length=self.length,
            passes=self.A.passes[0],
        ).save(path, self.p)

    def load(self, path: Path) -> None:
        """Continue from a saved state."""
        state = State.load(path, self.p, LONGEST)
        if self.A.dtype != state.Q.dtype:
            self.A = self.A.view(state.Q.dtype)
            self.eps, self.single = float(np.finfo(np.float64).eps), False
            self.Q = np.zeros(self.Q.shape, dtype=self.A.dtype, order="F")
        self.indices, self.heights, self.length = state.indices.tolist(), state.heights.tolist(), state.length
        self.r = self.known = state.Q.shape[1]
        self.Q[:, : self.r] = state.Q
        self.N, self.exact = state.N, state.exact
        self.pool, self.raw = self.pool[:0], np.empty((0, self.p.m), dtype=self.A.dtype)
        self.left = self.raw
        self.open[:] = True
        self.open[state.closed] = False
        self.A.passes[0] += state.passes


# What happens where the products are.


def _fallen(R: np.ndarray) -> np.ndarray:
    """Return what squared norms lose to the first 1, 2, ... directions."""
    lost = squares(R)
    return np.cumsum(lost, axis=0, out=lost)


def _energy(R: np.ndarray) -> np.ndarray:
    return np.atleast_2d(np.sum(squares(R), axis=0, dtype=np.float64))


def _row(part: np.ndarray, start: int, s: int = 0) -> np.ndarray:
    row: np.ndarray = part[s]
    return row


def _prefix_maxima(
    fallen: np.ndarray,
    start: int,
    N: np.ndarray,
    exact: np.ndarray,
    open_: np.ndarray,
    *,
    guess: np.ndarray,
    eps: float,
) -> np.ndarray:
    """Return the maxima that verify 1, 2, ... guesses, shape (4, guesses - 1).

    These are, after each number of guesses, the largest squared norm; the score with slack of the guess itself, if it is here;
    the largest score with slack of a column of lower index; and that of a column whose norm is stale.
    """
    out = np.full((4, guess.size - 1), -math.inf)
    for a in range(0, N.size, STEP):
        b = min(a + STEP, N.size)
        score = np.where(open_[a:b], N[a:b], -math.inf) - fallen[:-1, a:b]
        mine = guess - start - a
        for g in np.flatnonzero((mine >= 0) & (mine < b - a)):
            score[g:, mine[g]] = -math.inf
        fair = score + DOWNDATE_SLACK * eps * exact[a:b]
        stale = np.where(score <= math.sqrt(eps) * exact[a:b], fair, -math.inf).max(axis=1)
        np.maximum(out[0], score.max(axis=1), out=out[0])
        np.maximum(out[3], stale, out=out[3])
        for s, j in enumerate(mine[1:].tolist()):
            if 0 <= j < b - a:
                out[1, s] = fair[s, j]
            if j > 0:
                out[2, s] = max(out[2, s], float(fair[s, :j].max()))
    return out
