"""Greedy residual in host memory: from the Gram matrix, by guesses, or with one product a pick, whichever costs least."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from cssp import linalg
from cssp.linalg import blocks, column_norms2, residual_norms2, squares, take_columns
from cssp.pivoting import norm_slack, tie_bar, worn_level
from cssp.pivoting.gram import DenseColumns, gram_picks
from cssp.pivoting.run import Run, fallen
from cssp.problem import Picks, Problem

__all__ = ["Matrix", "Pace", "speculative"]

#: First and longest guess.
FIRST, LONGEST = 32, 128

#: Residuals of the block are formed explicitly where their squared norms are below this share of those of the columns.
FRESH = 2.0**-10

#: A guess costs as much as so many textbook picks: for the product, and for the block, which does not grow with n.
JUDGED, BLOCKED = 4, 24_000

#: After a guess that was right in part the next one is this many times as long as that part.
GROW = 2.0

#: Bytes of a matrix that is widened as a whole; of a larger one only blocks are.
WIDENED = 1 << 26

#: Bytes of a matrix that stays in the cache: products are cheaper than guesses there.
CACHE = 1 << 22

#: The Gram matrix is cheapest from this many columns on, and up to this many times k columns (fewer in the cache).
GRAM_FROM, GRAM, GRAM_CACHED = 256, 10, 6


def speculative(p: Problem, guesses: bool | None = None) -> Picks:
    """Greedy residual on the host.

    By default in the way that costs least: from the Gram matrix where k is not small beside n, by guesses where A is larger
    than the cache, one product per pick otherwise. ``guesses`` insists on guesses, or on one product per pick.
    """
    with np.errstate(invalid="ignore"):  # all numbers are finite; BLAS flags lanes that it does not use
        return _speculative(p.numpy(), guesses)


def _speculative(p: Problem, guesses: bool | None) -> Picks:
    A = _fit_for_blas(p.A)
    in_cache = A.nbytes <= CACHE
    whole, heights = p, None
    if guesses is None:
        guesses = not in_cache
        most = (GRAM_CACHED if in_cache else GRAM) * p.k
        if GRAM_FROM <= p.n <= most and p.n**2 * A.itemsize <= CACHE and not p.include:
            found = gram_picks(p, DenseColumns(A, min(p.k, p.m)))
            begun, heights = list(found.picks.indices), found.heights
            if found.final:
                return found.picks
            left = p.candidates.copy()
            left[begun] = False
            p = replace(p, include=tuple(begun), candidates=left)
    run = Run(p, Matrix(p, A), heights)
    pace = Pace(run)
    while len(run.indices) < p.k and run.ready():
        pace.advance(run, guesses)
        p.progress(len(run.indices), p.k)
    return whole.pivots(run.indices, run.heights)


class Matrix:
    """A in host memory, and W = QᴴA for the directions of a run: `cssp.pivoting.run.Guessed`."""

    def __init__(self, p: Problem, A: np.ndarray, dtype: np.dtype | None = None) -> None:
        self.p, self.A, self.dtype = p, A, A.dtype if dtype is None else dtype
        self.W = np.zeros((min(p.k, p.m), p.n), dtype=self.dtype)

    def take(self, columns: Any) -> np.ndarray:
        """Columns of A in the precision of the work."""
        return take_columns(self.A, columns).astype(self.dtype, copy=False)

    def norms2(self) -> np.ndarray:
        """Squared column norms in the precision of the work."""
        if self.dtype == self.p.A.dtype:
            return np.array(self.p.norms2)
        return np.concatenate([column_norms2(self.A[:, part].astype(self.dtype)) for part in blocks(self.A)])

    def explained(self, Q: np.ndarray) -> np.ndarray:
        """Squared norms of the columns of QᴴA, which becomes W."""
        W = self.W[: Q.shape[1]]
        W[:] = self.products(Q)
        return column_norms2(W)

    def residual_norms2(self, place: np.ndarray, Q: np.ndarray) -> np.ndarray:
        """Formed from the columns, block by block."""
        parts = np.array_split(place, max(1, place.size * self.p.m // linalg.BLOCK))
        return np.concatenate([residual_norms2(self.take(part.tolist()), Q) for part in parts])

    def fallen(self, run: Run, V: np.ndarray) -> Whole:
        """Of VᴴA, which becomes the next rows of W."""
        R = self.W[run.r : run.r + V.shape[1]]
        R[:] = self.products(V)
        return Whole(fallen(R))

    def block(self, run: Run, b: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The b columns of largest residual norm, they or their residuals, and the Gram matrix of the residuals.

        It is EᴴE of the columns less what QᴴA says that the basis takes away, as long as that leaves digits enough; of
        residuals formed explicitly where it does not.
        """
        C = run.largest(b)
        E, W = self.take(C), self.W[: run.r, C]
        if run.r and float(run.N[C].max()) < FRESH * float(run.exact[C].max()):
            E -= run.basis @ W
            G = E.conj().T @ E
        else:
            G = E.conj().T @ E - W.conj().T @ W
        np.fill_diagonal(G, run.N[C])  # what the judgement goes by
        return C, E, G

    def widened(self) -> Matrix:
        """The same in double precision; a large A stays as it is, and blocks of it are widened."""
        dtype = np.dtype(np.complex128 if self.A.dtype.kind == "c" else np.float64)
        return Matrix(self.p, self.A.astype(dtype) if self.A.nbytes <= WIDENED else self.A, dtype)

    def products(self, V: np.ndarray) -> np.ndarray:
        """VᴴA; of an A in another precision block by block."""
        if self.A.dtype == self.dtype:
            return (self.A.T @ V.conj()).T  # n × p is faster than p × n where A lies by columns
        parts = (self.A[:, part].astype(self.dtype) for part in blocks(self.A))
        return np.concatenate([V.conj().T @ X for X in parts], axis=1)


class Whole:
    """`cssp.pivoting.run.Held` in one piece."""

    def __init__(self, X: np.ndarray) -> None:
        self.X = X

    def map(self, f: Callable[..., Any], *vectors: np.ndarray) -> list[Any]:
        """f of the one piece."""
        return [f(self.X, 0, *vectors)]


class Pace:
    """When to guess, and how many picks: as many as were right of late, none for a while where too few were."""

    def __init__(self, run: Run) -> None:
        self.worth = JUDGED + min(8, BLOCKED // max(1, run.p.n))
        self.length, self.walk, self.pause = FIRST, 1, self.worth

    def advance(self, run: Run, guesses: bool) -> None:
        """Pick at least one column more, or find that the first one in line is dependent."""
        length = run.longest(self.length)
        if self.walk or length < 2 or not guesses:
            steps = self.walk if guesses else run.p.k
            self.walk = max(0, self.walk - max(1, _one_by_one(run, steps) or run.step()))
            return
        guess, V = run.guess(length)
        taken = run.judge(guess, V) if guess.size > 1 else run.step()
        if taken < self.worth < length:
            self.pause = min(2 * self.pause, run.p.k)
            self.walk = self.pause
        elif taken == length:
            self.length, self.pause = min(2 * self.length, LONGEST), self.worth
        else:
            self.length, self.pause = max(self.worth + 1, min(self.length, int(GROW * taken))), self.worth


def _one_by_one(run: Run, steps: int) -> int:
    """Up to ``steps`` picks of the textbook, one product each, with as little as possible between the products.

    Stops where anything needs care: a norm that may be worn, single precision exhausted, a dependent column.
    """
    p, M, Q, N, r, eps = run.p, run.matrix, run.Q, run.N, run.r, run.eps
    assert isinstance(M, Matrix)
    if M.A.dtype != M.dtype:
        return 0
    A, W, noise2 = M.A.T, M.W, p.noise**2
    score, slack = np.where(run.open, N, -math.inf), norm_slack(run.exact, eps)
    # Above this no norm that may win is worn.
    worn = worn_level(float(run.exact.max(where=run.open, initial=0)), eps)
    least = (worn + float(slack.max())) / tie_bar(1.0, eps)
    least = max(least, noise2, p.reach**2 if run.single else 0.0)
    fair, lost = np.empty_like(score), np.empty_like(score)
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
            e = e - V @ (Vh @ e)
            e -= V @ (Vh @ e)
        norm2 = float(np.vdot(e, e).real)
        if not norm2 > noise2:
            return taken
        q = e / math.sqrt(norm2)
        Q[:, r] = q
        if A.dtype.kind == "c":
            W[r] = A @ q.conj()
            lost[:] = squares(W[r])
        else:
            np.matmul(A, q, out=W[r])
            np.square(W[r], out=lost)
        N -= lost
        score -= lost
        N[j], score[j], run.open[j] = 0, -math.inf, False
        np.maximum(N, 0, out=N)
        run.indices.append(j)
        run.r = r = r + 1
        run.heights.append(math.sqrt(norm2))
    return steps


def _fit_for_blas(A: np.ndarray) -> np.ndarray:
    """A itself where a matrix product reads it without copying it, else a copy."""
    rows, columns = A.strides
    size = A.itemsize
    if (columns == size and rows >= size * A.shape[1]) or (rows == size and columns >= size * A.shape[0]):
        return A
    return np.ascontiguousarray(A)
