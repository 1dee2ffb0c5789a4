"""Greedy residual in host memory: from the Gram matrix, by guesses, or with one product a pick, whichever costs least."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from cssp import linalg
from cssp.linalg import blocks, column_norms2, project_off, residual_norms2, squares, take_columns
from cssp.pivoting import norm_slack, stale_level, tie_bar
from cssp.pivoting.bases import basis
from cssp.pivoting.gram import DenseColumns, gram_picks
from cssp.pivoting.run import Run, fallen
from cssp.problem import Picks, Problem

__all__ = ["Matrix", "Pace", "speculative"]

#: First and longest guess, and the share of the rows of A, whose products with A are kept meanwhile, that is longest.
FIRST, LONGEST, SHARE = 32, 128, 8

#: Products of directions with A are kept for up to one direction in so many rows of A.
KEEP = 4

#: Columns that are multiplied at a time: what they give stays in the cache.
STEP = 1024

#: Residuals of the block are formed explicitly where their squared norms are below this share of those of the columns.
FRESH = 2.0**-8

#: A guess costs VERIFY_COST + BLOCK_COST / n textbook picks: its product, and its block, whose cost does not grow with n.
VERIFY_COST, BLOCK_COST = 4, 24_000

#: After a guess that was right in part the next one is this many times as long as that part.
GROW = 2.0

#: Bytes of a matrix that is widened as a whole; of a larger one only blocks are.
WIDENED = 1 << 26

#: Bytes of a matrix that stays in the cache: products are cheaper than guesses there.
CACHE = 3 << 22

#: Bytes of a matrix from which on the Gram matrix of residuals is cheapest after included columns.
INCLUDED = 1 << 22

#: The Gram matrix is cheapest from this many columns on, up to this many times k columns, fewer where A stays in the cache, and while n² is
#: at most this many times k.
GRAM_FROM, GRAM, GRAM_IN_CACHE, GRAM_SQUARE = 256, 10, 6, 8192

#: The triangular factor of a tall A costs less than one product a pick from this share of n picks on.
FOLDED = 10

#: Another Gram matrix, of the residuals, is formed after so many picks from one at the least.
LEAST_GAIN = 32

#: Bytes of a Gram matrix that is formed although A is smaller.
LARGEST_GRAM = 1 << 28


def speculative(p: Problem, guesses: bool | None = None) -> Picks:
    """Return the picks of greedy residual, found on the host.

    The default is what costs least: the Gram matrix where k is not small beside n, the triangular factor of a tall A unless k is
    very small, guesses where A is larger than the cache, one product per pick otherwise. ``guesses=True`` forces guesses,
    ``guesses=False`` one product per pick.
    """
    p = p.numpy()
    A = _fit_for_blas(p.A)
    if guesses is None and (not p.include or A.nbytes > INCLUDED) and _gram_is_cheapest(A, p.free):
        return _from_gram(p, A)
    if guesses is None and p.tall:  # a guess would copy most of A
        if FOLDED * p.free > p.n:
            return speculative(p.folded())
        guesses = False
    return _from_columns(p, A, Run(p, Matrix(p, A)), A.nbytes > CACHE if guesses is None else guesses)


def _from_columns(p: Problem, A: np.ndarray, run: Run, guesses: bool) -> Picks:
    """Return the picks, those that a run has not made by guesses or with one product each."""
    pace = Pace(run)
    while len(run.indices) < p.k and run.ready():
        pace.advance(run, guesses)
        p.progress(len(run.indices), p.k)
    return p.pivots(run.indices, run.heights)


def _gram_is_cheapest(A: np.ndarray, k: int) -> bool:
    """Return whether k picks cost least from the Gram matrix, and it fits."""
    n = A.shape[1]
    few = n <= (GRAM if A.nbytes > CACHE else GRAM_IN_CACHE) * k and n**2 <= GRAM_SQUARE * k
    return n >= GRAM_FROM and few and n**2 * A.itemsize <= max(LARGEST_GRAM, A.nbytes)


def _without(p: Problem, picks: list[int]) -> Problem:
    """Return the problem that goes on after these picks."""
    candidates = p.candidates.copy()
    candidates[picks] = False
    return replace(p, include=tuple(picks), candidates=candidates)


def _from_gram(p: Problem, A: np.ndarray) -> Picks:
    """Return the picks, from Gram matrices as far as these say something.

    Where one says no more, and many picks are to come, the next is that of the residuals.
    """
    picks, heights = list(p.include), list[float]()
    X, N, q = A, p.norms2, p
    while True:
        if picks:  # above half of the digits projecting once is enough
            X = project_off(A, basis(take_columns(A, picks), p.noise), times=1)
            N, q = column_norms2(X), replace(_without(p, picks), k=p.k - len(picks), include=())
            N[picks] = 0
        found = gram_picks(q, DenseColumns(X), N)
        picks += found.picks.indices
        heights += found.heights
        if found.final:
            return replace(p.pivots(picks, heights), exhausted=found.picks.exhausted)
        if found.low or len(found.heights) < LEAST_GAIN or not _gram_is_cheapest(A, p.k - len(picks)):
            left = _without(p, picks)
            return _from_columns(p, A, Run(left, Matrix(left, A), heights), A.nbytes > CACHE)


class Matrix:
    """A in host memory: `cssp.pivoting.run.Guessed`; and W = QᴴA for the directions of a run, where it is small beside A, else None."""

    def __init__(self, p: Problem, A: np.ndarray, dtype: np.dtype | None = None) -> None:
        self.p, self.A, self.dtype = p, A, A.dtype if dtype is None else dtype
        most = min(p.k, p.m)
        self.W = np.zeros((most, p.n), dtype=self.dtype) if KEEP * most <= p.m else None

    def take(self, columns: Any) -> np.ndarray:
        """Return columns of A in the precision of the computation."""
        return take_columns(self.A, columns).astype(self.dtype, copy=False)

    def norms2(self) -> np.ndarray:
        """Return the squared column norms in the precision of the computation."""
        if self.dtype == self.p.A.dtype:
            return np.array(self.p.norms2)
        return np.concatenate([column_norms2(self.A[:, part].astype(self.dtype)) for part in blocks(self.A)])

    def explained(self, Q: np.ndarray) -> np.ndarray:
        """Return the squared norms of the columns of QᴴA."""
        return np.concatenate([column_norms2(self.products(Q, 0, part)) for part in self.parts()])

    def residual_norms2(self, place: np.ndarray, Q: np.ndarray) -> np.ndarray:
        """Return squared residual norms formed from these columns, block by block."""
        parts = np.array_split(place, max(1, place.size * self.p.m // linalg.BLOCK))
        return np.concatenate([residual_norms2(self.take(part.tolist()), Q) for part in parts])

    def fallen(self, run: Run, V: np.ndarray) -> Whole:
        """Return `cssp.pivoting.run.fallen` of VᴴA."""
        out = np.empty((V.shape[1], self.p.n), dtype=run.N.dtype)
        for part in self.parts():
            out[:, part] = fallen(self.products(V, run.r, part))
        return Whole(out)

    def block(self, run: Run, b: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the b columns of largest residual norm, their entries or residuals, and the Gram matrix of the residuals.

        The Gram matrix is that of the columns minus that of their projections, as long as the difference has enough digits,
        and otherwise that of residuals formed explicitly.
        """
        C = run.largest(b)
        E = self.take(C)
        W = run.basis.conj().T @ E if self.W is None else self.W[: run.r, C]
        if run.r and float(run.N[C].max()) < FRESH * float(run.exact[C].max()):
            E -= run.basis @ W
            G = E.conj().T @ E
        else:
            G = E.conj().T @ E - W.conj().T @ W
        np.fill_diagonal(G, run.N[C])  # the norms that the verification uses
        return C, E, G

    def widened(self) -> Matrix:
        """Return the same matrix in double precision; a large A stays as it is, and blocks of it are widened."""
        dtype = np.dtype(np.complex128 if self.A.dtype.kind == "c" else np.float64)
        return Matrix(self.p, self.A.astype(dtype) if self.A.nbytes <= WIDENED else self.A, dtype)

    def parts(self) -> Iterator[slice]:
        """Yield ranges of columns that are multiplied at a time, `linalg.blocks` where they are widened for that."""
        if self.A.dtype != self.dtype:
            return blocks(self.A)
        return (slice(a, a + STEP) for a in range(0, self.p.n, STEP))

    def products(self, V: np.ndarray, r: int, part: slice) -> np.ndarray:
        """Return VᴴA for the directions V after the first r, and a part of the columns of A."""
        X = self.A[:, part]
        if X.dtype != self.dtype:
            X = X.astype(self.dtype)
        R = (X.T @ V.conj()).T  # n × p is faster than p × n where A lies by columns
        if self.W is not None:
            self.W[r : r + len(R), part] = R
        return R


class Whole:
    """`cssp.pivoting.run.Held` in one piece."""

    def __init__(self, X: np.ndarray) -> None:
        self.X = X

    def map(self, f: Callable[..., Any], *vectors: np.ndarray) -> list[Any]:
        """Return f of the one piece, in a list."""
        return [f(self.X, 0, *vectors)]


class Pace:
    """When to guess, and how many picks: about as many as were right last time, none for a while where too few were."""

    def __init__(self, run: Run) -> None:
        self.break_even = VERIFY_COST + min(8, BLOCK_COST // max(1, run.p.n))
        self.most = min(LONGEST, max(self.break_even + 1, run.p.m // SHARE))
        self.length, self.steps_before_guess, self.pause = min(FIRST, self.most), 1, self.break_even

    def advance(self, run: Run, guesses: bool) -> None:
        """Pick at least one more column, or find that the first candidate is dependent."""
        length = run.longest(self.length)
        if self.steps_before_guess or length < 2 or not guesses:
            steps = self.steps_before_guess if guesses else run.p.k
            self.steps_before_guess = max(
                0, self.steps_before_guess - max(1, _pivot_one_by_one(run, steps) or run.step())
            )
            return
        guess, V = run.guess(length)
        taken = run.verify(guess, V) if guess.size > 1 else run.step()
        if taken < self.break_even < length:
            self.pause = min(2 * self.pause, run.p.k)
            self.steps_before_guess = self.pause
        elif taken == length:
            self.length, self.pause = min(2 * self.length, self.most), self.break_even
        else:
            self.length, self.pause = (
                max(self.break_even + 1, min(self.length, int(GROW * taken))),
                self.break_even,
            )


def _pivot_one_by_one(run: Run, steps: int) -> int:
    """Make up to ``steps`` textbook picks, one product each, and return how many were made.

    This stops at whatever `ready` must settle first: a norm that may be stale, a residual too small for single precision, a
    dependent column.
    """
    p, M, Q, N, r, eps = run.p, run.matrix, run.Q, run.N, run.r, run.eps
    assert isinstance(M, Matrix)
    if M.A.dtype != M.dtype:
        return 0
    A, noise2 = M.A.T, p.noise**2
    score, slack = np.where(run.open, N, -math.inf), norm_slack(run.exact, eps)
    # Above this bound no norm that may win is stale.
    stale = stale_level(float(run.exact.max(where=run.open, initial=0)), eps)
    least = (stale + float(slack.max())) / tie_bar(1.0, eps)
    least = max(least, noise2, p.reach**2 if run.single else 0.0)
    fair, lost, spare = np.empty_like(score), np.empty_like(score), np.empty(p.n, dtype=M.dtype)
    for taken in range(min(steps, p.k - len(run.indices), p.m - r)):
        top = float(score.max())
        if not top > least or (p.tol is not None and float(N.sum()) <= p.goal):
            return taken
        np.add(score, slack, out=fair)
        j = int((fair >= tie_bar(top, eps)).argmax())
        e = A[j]
        if r:
            V = Q[:, :r]
            Vh = V.conj().T
            e = e - V @ (Vh @ e if M.W is None else M.W[:r, j])
            e -= V @ (Vh @ e)
        norm2 = float(np.vdot(e, e).real)
        if not norm2 > noise2:
            return taken
        q = e / math.sqrt(norm2)
        Q[:, r] = q
        row = spare if M.W is None else M.W[r]
        np.matmul(A, q.conj(), out=row)
        lost[:] = squares(row)
        N -= lost
        score -= lost
        N[j], score[j], run.open[j] = 0, -math.inf, False
        np.maximum(N, 0, out=N)
        run.indices.append(j)
        run.r = r = r + 1
        run.heights.append(math.sqrt(norm2))
    return steps


def _fit_for_blas(A: np.ndarray) -> np.ndarray:
    """Return A itself where a matrix product reads it without a copy, else a copy."""
    rows, columns = A.strides
    size = A.itemsize
    if (columns == size and rows >= size * A.shape[1]) or (rows == size and columns >= size * A.shape[0]):
        return A
    return np.ascontiguousarray(A)
