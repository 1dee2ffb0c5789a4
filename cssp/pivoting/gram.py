"""Greedy residual on the Gram matrix, as far as its picks are certain, on the host.

Pivoted Cholesky on G = AᴴA makes the picks of pivoted QR on A [businger1965; harbrecht2012]. G costs as much as n/2 passes
over A, but at the speed of a matrix product, and the steps then read n × k numbers instead of A: the cheapest way where k
is not small beside n. What it loses is accuracy. So picks are made in runs, and each run is judged before it counts:

1. Pivoted Cholesky, with nothing between the steps but what the rule itself asks for, makes a run of up to `LENGTH` picks.
2. Every norm carries an estimate E of its error. It starts from what is seen on the diagonal of G, and each pivot p hands
   the share |r_pj|²/r_pp² of its own error on, as if errors were independent; where they are seen to be correlated
   (Kahan's matrix), all estimates are raised. A pick is certain if E tells it from all other columns.
3. The columns that E cannot tell apart, and the picks of the run, are projected off the picks before it. The Gram matrix of
   these residuals is as accurate as they are small, and the same steps on it decide.
4. Picks up to the first wrong one count, and the right one begins the next run.

Where norms have lost half of their digits, or most columns are in doubt, the method stops, and the caller continues from the
picks so far. Where what is left is of the size of rounding, explicit residuals, projected twice, tell whether it is nothing
but that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg

from cssp.linalg import BLOCK, column_norms2, gram, squares, take_columns
from cssp.pivoting import norm_slack, stale_level, tie_bar
from cssp.problem import Picks, Problem

__all__ = ["DenseColumns", "GramRun", "gram_picks"]

#: Picks of a run.
LENGTH = 64

#: Error of an entry of G, in units of the difference seen on the diagonal and in units of rounding.
SEEN, LEAST = 2.0, 4.0

#: How far the growth of errors may exceed its estimate.
MOST_GROWTH = 4.0

#: Most columns in doubt, on average over the picks that are in doubt.
MOST = 32

#: An error estimate above this share of the largest norm means that only rounding is left.
CLEAR = 1 / 8


class DenseColumns:
    """What the algorithm needs of a matrix: its Gram matrix, some columns, and products with the columns chosen so far."""

    def __init__(self, A: np.ndarray, steps: int) -> None:
        self.A, self.dtype = A, A.dtype
        self.C, self.copied = np.empty((A.shape[0], steps), dtype=A.dtype, order="F"), 0

    def gram(self) -> np.ndarray:
        """Return AᴴA, shape (n, n)."""
        return np.asarray(gram(self.A))

    def take(self, columns: np.ndarray) -> np.ndarray:
        """Return these columns of A as a dense array."""
        return take_columns(self.A, columns)

    def combined(self, S: list[int], Y: np.ndarray) -> np.ndarray:
        """Return A_S Y."""
        if 2 * len(S) < self.A.shape[1]:
            return self._chosen(S) @ Y
        wide = np.zeros((self.A.shape[1], Y.shape[1]), dtype=self.dtype)  # cheaper than a copy of most of A
        wide[S] = Y
        return self.A @ wide

    def products(self, S: list[int], E: np.ndarray) -> np.ndarray:
        """Return A_Sᴴ E."""
        if 2 * len(S) < self.A.shape[1]:
            return self._chosen(S).conj().T @ E
        return (E.conj().T @ self.A)[:, S].conj().T

    def _chosen(self, S: list[int]) -> np.ndarray:
        self.C[:, self.copied : len(S)], self.copied = take_columns(self.A, S[self.copied :]), len(S)
        return self.C[:, : len(S)]


@dataclass(frozen=True, eq=False)
class GramRun:
    """Picks of the rule up to the first that is in doubt.

    Attributes
    ----------
    picks : Picks
    heights : list of float
        Their residual norms.
    R : array, shape (t, n)
        Rows of the pivoted Cholesky factor: the columns in the orthonormal coordinates that the picks give.
    final : bool
        Whether the picks are all: k, or enough for the tolerance, or nothing is left.
    """

    picks: Picks
    heights: list[float]
    R: np.ndarray
    final: bool


def gram_picks(p: Problem, A: Any) -> GramRun:
    """Run pivoted Cholesky on AᴴA, included columns being left out.

    Parameters
    ----------
    p : Problem
    A : DenseColumns
        Or anything else with its methods.
    """
    s = _Steps(p, A)
    while len(s.S) < s.most and not s.reached() and s.advance():
        p.progress(len(s.S), p.k)
    nothing = s.rounding and s.nothing_left()
    t = len(s.S)
    picks = Picks(s.S, p.pivots(s.S, s.heights).rank, exhausted=nothing)
    return GramRun(picks, s.heights, s.R[:t], nothing or s.met or t == p.k)


class _Steps:
    """The picks S so far with their heights; R, and the inverse X of its columns S; the squared norms N and their errors E.

    Row i of `scores` holds what N is before the i-th step of a run, and minus infinity where a column may not be picked.
    """

    def __init__(self, p: Problem, A: Any) -> None:
        self.p, self.A, self.G = p, A, A.gram()
        self.most, dtype = min(p.k, p.m), A.dtype
        self.N, self.exact = np.array(p.norms2), np.array(p.norms2)
        seen = np.abs(self.G.diagonal().real - self.N) / np.where(self.N > 0, self.N, 1)
        self.unit = max(SEEN * float(np.max(seen)), LEAST * p.eps)
        self.E = self.unit * self.N
        self.least = max(p.noise, p.reach if dtype in (np.float32, np.complex64) else 0.0) ** 2
        self.scores = np.empty((min(LENGTH, self.most) + 1, p.n), dtype=self.N.dtype)
        self.scores[0] = np.where(p.candidates, self.N, -math.inf)
        self.slack, self.half = norm_slack(self.exact, p.eps), stale_level(self.exact, p.eps)
        self.R, self.X = np.empty((self.most, p.n), dtype=dtype), np.zeros((self.most, self.most), dtype=dtype)
        self.S: list[int] = []
        self.heights: list[float] = []
        self.next: int | None = None  # the pick that begins the next run, where a verification has found it
        self.rounding = self.met = False

    def advance(self) -> bool:
        """Add the picks of a run that count, and return whether another run may follow."""
        run = self.guess()
        if not run.size:
            return False
        begun = len(self.S)
        losses = squares(self.R[begun : begun + run.size])
        self.invert(run)
        own = self.own_errors(run, losses)
        heights = self.scores[np.arange(run.size), run]
        growth = own / heights
        errors = np.empty((run.size + 1, self.p.n), dtype=self.N.dtype)
        errors[0] = self.E
        np.multiply(losses, growth[:, None], out=errors[1:])
        np.cumsum(errors, axis=0, out=errors)
        taken, doubtful, near, more = self.judge(run, own, errors)
        self.next = None
        if np.count_nonzero(near[doubtful]) > MOST * doubtful.size:
            taken, more, self.rounding = int(doubtful[0]), False, False
        elif doubtful.size and (decided := self.decide(run, doubtful, near)) < taken:
            taken, more, self.rounding = decided, True, False
        self.keep(run[:taken], heights, losses, errors)
        return more

    def guess(self) -> np.ndarray:
        """Make the steps of a run, and return its picks."""
        G, R, Z, slack, begun = self.G, self.R, self.scores, self.slack, len(self.S)
        run: list[int] = []
        fair = np.empty_like(slack)
        first = self.next
        for i in range(min(len(Z) - 1, self.most - begun)):
            score, t = Z[i], begun + i
            np.add(score, slack, out=fair)
            bar = tie_bar(float(score.max()), self.p.eps)
            j = int((fair >= bar).argmax()) if i or first is None else first
            self.rounding = not float(score[j]) > self.least
            if self.rounding:
                break
            row = R[t]
            if t:
                np.dot(R[:t, j].conj(), R[:t], out=row)
                np.subtract(G[j], row, out=row)
            else:
                row[:] = G[j]
            row /= math.sqrt(score[j])
            np.subtract(score, squares(row), out=Z[i + 1])
            Z[i + 1, j] = -math.inf
            run.append(j)
        return np.asarray(run, dtype=np.int64)

    def invert(self, run: np.ndarray) -> None:
        """Extend X by the columns of the run."""
        a, b = len(self.S), len(self.S) + run.size
        T = np.triu(self.R[a:b, run])
        np.fill_diagonal(T, np.sqrt(self.scores[np.arange(run.size), run]))
        X = scipy.linalg.solve_triangular(T, np.eye(run.size, dtype=T.dtype), check_finite=False)
        self.X[a:b, a:b] = X
        if a:
            self.X[:a, a:b] = self.X[:a, :a] @ (-self.R[:a, run] @ X)

    def own_errors(self, run: np.ndarray, losses: np.ndarray) -> np.ndarray:
        """Return the error estimate of each pick of the run when it is picked: what it has of the picks before included."""
        heights = self.scores[np.arange(run.size), run]
        shares = np.tril((losses[:, run] / heights[:, None]).T, -1)
        own: np.ndarray = scipy.linalg.solve_triangular(
            np.eye(run.size) - shares, self.E[run], lower=True, unit_diagonal=True, check_finite=False
        )
        return own.astype(self.N.dtype)

    def judge(
        self, run: np.ndarray, own: np.ndarray, errors: np.ndarray
    ) -> tuple[int, np.ndarray, np.ndarray, bool]:
        """Return how many picks can count, which of them are in doubt, between which columns, and whether there may be more."""
        p, steps, size = self.p, np.arange(run.size), run.size
        Z, E = self.scores[:size], errors[:size]
        first = Z.argmax(axis=1)
        top, doubt = Z[steps, first], E[steps, first]
        bar = tie_bar(top, p.eps)
        near = Z + (self.slack + E) >= (bar - doubt)[:, None]
        tied = Z[steps, run] + self.slack[run] - 2 * (E[steps, run] + doubt) >= bar
        certain = (np.count_nonzero(near, axis=1) == 1) | ((near.argmax(axis=1) == run) & tied)
        certain[0] |= not self.S or self.next is not None  # norms themselves, or columns, have decided
        rounding = ~(doubt < CLEAR * top) | ~(own < CLEAR * Z[steps, run])
        stale = np.any(near & (self.half >= Z), axis=1)
        # A_S x, x = X r, is the part of a_j in the span so far. Errors of G enter N_j as |x|² of them; where that is much
        # more than what was carried along, errors are correlated (Kahan's matrix), and all estimates are raised.
        a = len(self.S)
        S = np.asarray([*self.S, *run.tolist()])
        x2 = squares(np.triu(self.X[: a + size, a : a + size], 1 - a)) * Z[steps, run]
        grown = self.unit * (p.norms2[S] @ x2)
        raised = grown > MOST_GROWTH * own
        ends = rounding | stale | raised
        taken, more = size, not self.rounding
        if ends.any():
            taken = int(np.argmax(ends))
            self.rounding = bool(rounding[taken])
            more = not (rounding[taken] or stale[taken])
            if more:
                self.E *= float(grown[taken] / own[taken])
        return taken, np.flatnonzero(~certain[:taken]), near, more

    def decide(self, run: np.ndarray, doubtful: np.ndarray, near: np.ndarray) -> int:
        """Return how many picks are those of the rule, by residuals of the columns in doubt; `next` is the right one after them."""
        eps, last = self.p.eps, int(doubtful[-1])
        columns = np.union1d(run[: last + 1], np.flatnonzero(near[doubtful].any(axis=0)))
        e = self.residuals(columns)
        G = e.conj().T @ e
        where = np.searchsorted(columns, run[: last + 1])
        N = column_norms2(e)
        R = np.empty((last + 1, columns.size), dtype=G.dtype)
        slack = self.slack[columns]
        unsure = set(doubtful.tolist())
        for i, j in enumerate(where.tolist()):
            if i in unsure:
                here = near[i, columns]
                fair = np.where(here, N + slack, -math.inf)
                best = int((fair >= tie_bar(float(N[here].max()), eps)).argmax())
                if best != j:
                    self.next = int(columns[best])
                    return i
            R[i] = (G[j] - R[:i, j].conj() @ R[:i]) / math.sqrt(N[j])
            N = N - squares(R[i])
        return run.size

    def keep(
        self, run: np.ndarray, heights: np.ndarray, losses: np.ndarray, errors: np.ndarray
    ) -> None:
        """Let these picks count."""
        size = run.size
        self.S += run.tolist()
        self.heights += np.sqrt(heights[:size]).tolist()
        self.N = np.maximum(self.N - losses[:size].sum(axis=0), 0)
        self.N[run] = 0
        self.E = self.E + (errors[size] - errors[0])
        self.scores[0] = self.scores[size]

    def reached(self) -> bool:
        """Return whether the tolerance is met, norms being formed from the columns before that is believed."""
        p = self.p
        if p.tol is None or not self.S or float(self.N.sum()) > p.goal:
            return False
        unseen = np.setdiff1d(np.arange(p.n), self.S)
        self.N[unseen] = self.norms2(unseen)
        self.met = float(self.N.sum()) <= p.goal
        return self.met

    def nothing_left(self) -> bool:
        """Return whether the columns left are nothing but rounding; where they are not, the first of them show it."""
        left = np.flatnonzero(self.scores[0] > -math.inf)
        left = left[np.argsort(-self.N[left], kind="stable")]
        return not any(np.any(self.norms2(part) > self.p.noise**2) for part in (left[:8], left[8:]))

    def residuals(self, columns: np.ndarray, twice: bool = False) -> np.ndarray:
        """Return the residuals of these columns after S; projected twice, they are accurate however small they are."""
        S, t = self.S, len(self.S)
        if not S:
            return np.asarray(self.A.take(columns))
        X = self.X[:t, :t]
        e = self.A.take(columns) - self.A.combined(S, X @ self.R[:t, columns])
        return e - self.A.combined(S, X @ (X.conj().T @ self.A.products(S, e))) if twice else e

    def norms2(self, columns: np.ndarray) -> np.ndarray:
        """Return the squared norms of the residuals of these columns, formed from the columns."""
        step = max(1, BLOCK // self.p.m)
        parts = [columns[a : a + step] for a in range(0, columns.size, step)]
        return np.concatenate([np.zeros(0), *(column_norms2(self.residuals(part, True)) for part in parts)])
