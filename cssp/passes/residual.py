"""Greedy residual in few passes: the `cssp.pivoting.run.Run` of host memory on a matrix read in passes.

A guess is verified in one pass, in which workers form QᴴA and report, for each pick guessed, how its column stands among
theirs. A pool of columns in the caller's memory provides the guesses; columns of large residual norm join it in the
same pass.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from cssp.files import as_path, check_writable
from cssp.passes.checkpoint import State
from cssp.passes.pool import Pool
from cssp.passes.problem import PassProblem
from cssp.passes.source import SparseSource
from cssp.pivoting.gram import gram_picks
from cssp.pivoting.run import Run
from cssp.problem import Picks

__all__ = ["residual"]

#: First and longest guess: a pass is expensive, a longer product in it is not.
FIRST, LONGEST = 64, 128

#: Entries of a Gram matrix at the most, and products of its rows for each product of a pass.
LARGEST_GRAM, CHEAP = 1 << 25, 4


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
        certain = gram_picks(p.numpy("double"), SparseColumns(p.A.view(p.A.wide)))
        begun = list(certain.picks.indices)
        if certain.final:
            return certain.picks
        left = p.candidates.copy()
        left[begun] = False
        run = Run(replace(p, include=tuple(begun), candidates=left), Pool(p), certain.heights)
    else:
        run = Run(p, Pool(p))
    length = FIRST
    state = None if checkpoint is None else as_path("checkpoint", checkpoint)
    if state is not None:
        check_writable("checkpoint", state)
        if state.exists():
            length = _load(run, state)
    while len(run.indices) < p.k and run.ready():
        length = _advance(run, length)
        p.progress(len(run.indices), p.k)
        if state is not None:
            _save(run, length, state)
    return p.pivots(run.indices, run.heights)


def _advance(run: Run, length: int) -> int:
    """Pick at least one more column, or find that the first candidate is dependent; return the length of the next guess."""
    length, most = run.longest(length), length
    guess, V = run.guess(length) if length > 1 else (np.empty(0), None)
    if guess.size < 2:
        run.step()
    else:
        assert V is not None
        taken = run.verify(guess, V)
        most = min(LONGEST, 2 * length if taken == guess.size else max(8, 2 * taken))
    _pool(run).settle(run)
    return most


def _pool(run: Run) -> Pool:
    assert isinstance(run.matrix, Pool)
    return run.matrix


def _save(run: Run, length: int, path: Path) -> None:
    """Keep the state."""
    State(
        indices=np.array(run.indices, dtype=np.int64),
        heights=np.array(run.heights, dtype=np.float64),
        closed=np.flatnonzero(~run.open),
        Q=run.basis,
        N=run.N,
        exact=run.exact,
        length=length,
        passes=_pool(run).source.passes[0],
    ).save(path, _pool(run).p)


def _load(run: Run, path: Path) -> int:
    """Continue from a saved state, and return the length of the next guess."""
    pool = _pool(run)
    state = State.load(path, pool.p, LONGEST)
    if pool.dtype != state.Q.dtype:
        pool = pool.widened()
        run.Q = np.zeros(run.Q.shape, dtype=pool.dtype, order="F")
    run.matrix = pool.at(state.Q.shape[1])
    run.indices, run.heights = state.indices.tolist(), state.heights.tolist()
    run.r = state.Q.shape[1]
    run.Q[:, : run.r] = state.Q
    run.N, run.exact = state.N, state.exact
    run.open[:] = True
    run.open[state.closed] = False
    pool.source.passes[0] += state.passes
    return state.length


def gram_is_cheap(A: SparseSource, k: int) -> bool:
    """Return whether AᴴA costs less than k passes, and fits."""
    row = np.bincount(A.A.indices, minlength=A.shape[0]).astype(np.float64)
    return A.shape[1] ** 2 <= LARGEST_GRAM and float(np.sum(row**2)) <= max(
        CHEAP * A.A.nnz * k, A.shape[1] ** 2
    )


class SparseColumns:
    """As `cssp.pivoting.gram.DenseColumns`."""

    def __init__(self, A: SparseSource) -> None:
        self.A, self.dtype = A.A, A.dtype

    def gram(self) -> np.ndarray:
        """Return AᴴA as a dense array, shape (n, n)."""
        return np.asarray((self.A.conj().T @ self.A).toarray())

    def times(self, W: np.ndarray) -> np.ndarray:
        """Return AW."""
        return np.asarray(self.A @ W)

    def adjoint_times(self, E: np.ndarray) -> np.ndarray:
        """Return AᴴE."""
        return np.asarray(self.A.conj().T @ E)
