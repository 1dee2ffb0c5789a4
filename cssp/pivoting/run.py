"""Speculative pivoting: the picks of greedy residual in a few passes over A.

Textbook pivoting reads A once per pick, to find the next residual norms. Here p picks are guessed, then verified
with one matrix product:

1. The b columns of largest residual norm make a block C. Pivoted Cholesky on the Gram matrix of its residuals, which is
   that of the columns less what QᴴA says, guesses p picks; the first is right by the rule itself.
2. The guessed columns become orthonormal directions V (Cholesky QR, twice, and once more against Q).
3. R = VᴴA is the one pass. N - |R₁|² - ... - |R_s|² are the squared residual norms of *all* columns after s guesses.
4. The longest prefix is kept in which each guess is the pick of the textbook rule. A wrong guess costs time only.

A norm that has lost half of its digits to downdating since it was last formed from its column, and could still win, ends
the prefix and is formed anew: the rule of LAPACK Working Note 176 [drmac2008], applied where it can matter. See
docs/theory/speculation.md for the proof and the cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, Self

import numpy as np

from cssp import linalg
from cssp.linalg import orthogonalise, squares, take_columns
from cssp.pivoting import norm_slack, stale_level, tie_bar, tie_bias
from cssp.pivoting.bases import basis, orthonormal, pivots, reorthonormalised
from cssp.problem import Problem

__all__ = ["NARROWEST", "Columns", "Guessed", "Held", "Run", "fallen", "row_of"]

#: Columns in the block for each pick guessed, and at the least: a share of all columns, between two bounds.
WIDTH, SHARE, NARROWEST, ENOUGH = 3, 1 / 9, 192, 320

#: A guess ends where its squared residual falls below this share of the first one's: beyond, Cholesky QR is not safe.
DROP = 1e-4

#: Columns that are looked at together.
STEP = 4096


class Columns(Protocol):
    """What pivoting needs of a matrix: columns, what directions explain of all columns, norms of residuals."""

    def take(self, columns: Sequence[int]) -> np.ndarray:
        """Return these columns in the precision of the computation, shape (m, c)."""

    def explained(self, Q: np.ndarray) -> np.ndarray:
        """Return the squared norms of the columns of QᴴA, shape (n,)."""

    def residual_norms2(self, place: Any, Q: np.ndarray) -> np.ndarray:
        """Return the squared norms of these columns of A - QQᴴA, formed from the columns."""


class Held(Protocol):
    """A matrix of n columns, kept by ranges of columns where it was computed."""

    def map(self, f: Callable[..., Any], *vectors: np.ndarray) -> list[Any]:
        """Return f(part, start, *slices) for each range; the slices are those of vectors of length n."""


class Guessed(Columns, Protocol):
    """What a `Run` that guesses needs of a matrix besides."""

    dtype: np.dtype

    def norms2(self) -> np.ndarray:
        """Return the squared column norms, in an array that the caller may write into."""

    def block(self, run: Run, b: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return about b columns that may come next, ascending; their entries or residuals; the Gram matrix of the residuals."""

    def fallen(self, run: Run, V: np.ndarray) -> Held:
        """Return `fallen` of VᴴA, from one pass over A."""

    def widened(self) -> Self:
        """Return the same matrix for computation in double precision."""


class Run:
    """The picks so far, their basis Q[:, :r], and the squared residual norms N of all columns.

    Attributes
    ----------
    indices : list of int
        Picks, included columns first.
    heights : list of float
        Residual norms of the picks, those of included columns left out.
    N, exact : array, shape (n,)
        Downdated norms, zero for picks, and what they were when last formed from the columns themselves.
    first : int
        The next pick, where `ready` found one.
    """

    def __init__(self, p: Problem, matrix: Guessed, heights: list[float] | None = None) -> None:
        """Begin with the included columns, which are independent and known to be so where ``heights`` are given."""
        self.p, self.matrix = p, matrix
        self.indices, self.heights = list(p.include), heights or []
        self.open = p.candidates.copy()
        self.bias = tie_bias(p.n, self.eps)
        self.given = list(p.include)  # included columns that add a direction
        if heights is None:
            independent = linalg.basis(matrix.take(self.given), p.floor)[1]
            self.given = [j for j, yes in zip(self.given, independent, strict=True) if yes]
        self._start(self.given)

    @property
    def eps(self) -> float:
        """Unit of rounding of the computation."""
        return float(np.finfo(self.matrix.dtype).eps)

    @property
    def single(self) -> bool:
        """Whether the computation is in single precision."""
        return self.matrix.dtype in (np.float32, np.complex64)

    @property
    def basis(self) -> np.ndarray:
        """Orthonormal directions of the picks, shape (m, r)."""
        return self.Q[:, : self.r]

    @property
    def directions(self) -> list[int]:
        """The columns that brought the directions of Q."""
        return self.given + self.indices[len(self.p.include) :]

    def _start(self, directions: list[int]) -> None:
        """Form Q and N for these columns."""
        p = self.p
        # Zeros: kernels of BLAS may load what lies after the columns in use, and set floating-point flags for it.
        self.Q = np.zeros((p.m, min(p.k, p.m)), dtype=self.matrix.dtype, order="F")
        self.exact = self.matrix.norms2()
        self.N, self.r = self.exact.copy(), 0
        if directions:
            have = basis(self.matrix.take(directions), p.noise)
            self.r = have.shape[1]
            self.Q[:, : self.r] = have
            self.N -= self.matrix.explained(self.basis)
            np.maximum(self.N, 0, out=self.N)
        self.N[self.indices] = 0

    def ready(self) -> bool:
        """Return whether there is a column to pick, after forming anew the norms that decide about it."""
        p = self.p
        if p.tol is not None and self.r and float(np.sum(self.N)) <= p.goal:
            unseen = np.ones(p.n, dtype=bool)
            unseen[self.indices] = False
            self._form(unseen)
            if float(np.sum(self.N)) <= p.goal:
                return False
        if self.r == p.m or not self.open.any():
            return False
        while True:
            score, slack = np.where(self.open, self.N, -math.inf), norm_slack(self.exact, self.eps)
            top = float(score.max())
            contend = score + slack >= tie_bar(top, self.eps)
            stale = (stale_level(self.exact, self.eps) >= self.N) & (self.exact > p.noise**2)
            if not np.any(contend & stale):
                break
            self._form(self.open & stale)
        if not top > p.noise**2:
            return False
        if self.single and top < p.reach**2:
            self.matrix = self.matrix.widened()
            self._start(self.directions)
            return self.ready()
        self.first = int(np.argmax(contend))
        return True

    def _form(self, which: np.ndarray) -> None:
        """Form the norms of these columns from the columns themselves."""
        place = np.flatnonzero(which)
        self.N[place] = self.exact[place] = self.matrix.residual_norms2(place, self.basis)

    def step(self) -> int:
        """Make one textbook pick, with one product; return 0, and none is made, where the first candidate is dependent."""
        e, norm = orthogonalise(self.matrix.take([self.first])[:, 0], self.basis)
        if norm > self.p.noise:
            return self.verify(np.array([self.first]), (e / norm)[:, None])
        self.open[self.first], self.N[self.first] = False, 0
        return 0

    def longest(self, length: int) -> int:
        """Return ``length``, or fewer where fewer picks are left to make."""
        return min(length, self.p.k - len(self.indices), self.p.m - self.r, int(self.open.sum()))

    def largest(self, b: int) -> np.ndarray:
        """Return the b columns of largest residual norm, in ascending order."""
        if b >= int(np.count_nonzero(self.open)):
            return np.flatnonzero(self.open)
        score = np.where(self.open, self.N * self.bias, -1.0)
        score[self.first] = math.inf
        return np.sort(np.argpartition(score, -b)[-b:])

    def guess(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Return up to ``length`` columns that may come next, and orthonormal directions for them."""
        Q = self.basis
        least = min(max(NARROWEST, int(SHARE * self.p.n)), ENOUGH)
        C, E, G = self.matrix.block(self, max(least, WIDTH * length))
        order, R = self.pivot(G, C, length)
        E = take_columns(E, order)
        if order.size < 2:
            return C[order], E
        if self.r:
            E = E - Q @ (Q.conj().T @ E)
        V = orthonormal(np.ascontiguousarray(E.T), R[:, order])
        if self.r:
            V -= (V @ Q.conj()) @ Q.T
        V = reorthonormalised(V)
        return C[order[: len(V)]], V.T

    def pivot(self, G: np.ndarray, C: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the pivots and rows of the pivoted Cholesky factor of G, with the ties of the rule."""
        d = G.diagonal().real
        first = int(np.searchsorted(C, self.first))
        slack = norm_slack(self.exact[C], self.eps)
        return pivots(G, d, slack, first, length, DROP * float(d[first]), self.eps)

    def verify(self, guess: np.ndarray, V: np.ndarray) -> int:
        """Keep the longest prefix of the guess that the rule would pick, and return its length, at least 1."""
        p, size, taken = self.p, guess.size, 1
        held = self.matrix.fallen(self, V)
        top = np.array([self.N[self.first]])
        if size > 1:
            ask = partial(_prefix_maxima, guess=guess, eps=self.eps)
            highest, guessed, below, stale = np.max(held.map(ask, self.N, self.exact, self.open), axis=0)
            top = np.append(top, highest)
            bar = tie_bar(highest, self.eps)
            right = (guessed >= bar) & (below < bar) & (stale < bar) & (highest > p.noise**2)
            if self.single:
                right &= highest >= p.reach**2
            taken += size - 1 if right.all() else int(np.argmin(right))
        chosen = guess[:taken]
        self.Q[:, self.r : self.r + taken] = V[:, :taken]
        self.r += taken
        self.heights += np.sqrt(top[:taken]).tolist()
        self.N -= np.concatenate(held.map(partial(row_of, s=taken - 1)))
        np.maximum(self.N, 0, out=self.N)
        self.N[chosen] = 0
        self.open[chosen] = False
        self.indices += chosen.tolist()
        return taken


# What happens where the products are.


def fallen(R: np.ndarray) -> np.ndarray:
    """Return what squared norms lose to the first 1, 2, ... directions, for R = VᴴA."""
    lost = squares(R)
    return np.cumsum(lost, axis=0, out=lost)


def row_of(part: np.ndarray, start: int, s: int = 0) -> np.ndarray:
    """Return row s of a part."""
    out: np.ndarray = part[s]
    return out


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
    out = np.full((4, guess.size - 1), -math.inf, dtype=N.dtype)
    for a in range(0, N.size, STEP):
        b = min(a + STEP, N.size)
        score = np.where(open_[a:b], N[a:b], -math.inf) - fallen[:-1, a:b]
        mine = guess - start - a
        for g in np.flatnonzero((mine >= 0) & (mine < b - a)):
            score[g:, mine[g]] = -math.inf
        fair = score + norm_slack(exact[a:b], eps)
        stale = np.where(score <= stale_level(exact[a:b], eps), fair, -math.inf).max(axis=1)
        np.maximum(out[0], score.max(axis=1), out=out[0])
        np.maximum(out[3], stale, out=out[3])
        for s, j in enumerate(mine[1:].tolist()):
            if 0 <= j < b - a:
                out[1, s] = fair[s, j]
            if j > 0:
                out[2, s] = max(out[2, s], float(fair[s, :j].max()))
    return out
