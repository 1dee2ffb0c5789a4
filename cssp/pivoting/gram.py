"""Greedy residual on the Gram matrix, as far as its picks are certain, on the host.

Pivoted Cholesky on G = AᴴA makes the picks of pivoted QR on A [businger1965; harbrecht2012]. G costs as much as n/2 passes
over A, but at the speed of a matrix product, and the steps then read n × k numbers instead of A: the cheapest way where k
is not small beside n. What it loses is accuracy. So picks are made in runs, and each run is judged before it counts:

1. Pivoted Cholesky, with nothing between the steps but what the rule itself asks for, makes a run of up to `LENGTH` picks.
2. Every norm carries an estimate E of its error. With y the coefficients of column j in the picks, independent errors of G change
   ‖a_j - A_S y‖² by u (‖a_j‖² + Σ|y_i|²‖a_i‖²) to first order; u is seen on the diagonal of G. Within a run each pivot p
   hands the share |r_pj|²/r_pp² of its own error on; where that falls behind (Kahan's matrix), the run ends. A pick is certain if
   E tells it from all other columns.
3. Of columns that E cannot tell apart, the residuals a_j - A_S y decide: errors of y are of second order in their norms.
4. Picks up to the first wrong one count, and the right one begins the next run.

Where norms have lost half of their digits, or most columns are in doubt, the method stops, and the caller continues from the
picks so far. Where what is left is of the size of rounding, explicit residuals, projected twice, tell whether it is nothing
but that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import get_lapack_funcs

from cssp.linalg import BLOCK, column_norms2, gram, squares
from cssp.pivoting import norm_slack, stale_level, tie_bar, tie_bias
from cssp.pivoting.bases import pivots
from cssp.problem import Picks, Problem

__all__ = ["DenseColumns", "GramRun", "gram_picks"]

#: Picks of a run. They are sought among all columns while the rows of R take no more than so many bytes, then among the
#: MANY of largest norm.
LENGTH, CACHED, MANY = 64, 1 << 21, 384

#: Error of an entry of G, in units of the difference seen on the diagonal and in units of rounding.
SEEN, LEAST = 8.0, 16.0

#: How far errors may grow beyond what the run takes them for.
MOST_GROWTH = 2.0

#: Most columns in doubt, on average over the picks that are in doubt.
MOST = 6

#: Residuals that are formed together.
TOGETHER = 128

#: An error estimate above this share of the largest norm means that only rounding is left.
ROUNDING = 1 / 8


class DenseColumns:
    """What the algorithm needs of a matrix: its Gram matrix, and products with it."""

    def __init__(self, A: np.ndarray) -> None:
        self.A, self.dtype = A, A.dtype

    def gram(self) -> np.ndarray:
        """Return AᴴA, shape (n, n)."""
        return np.asarray(gram(self.A))

    def times(self, W: np.ndarray) -> np.ndarray:
        """Return AW."""
        return self.A @ W

    def adjoint_times(self, E: np.ndarray) -> np.ndarray:
        """Return AᴴE."""
        return (E.conj().T @ self.A).conj().T


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
    low : bool
        Whether residuals are too small for this precision, or nothing but rounding.
    """

    picks: Picks
    heights: list[float]
    R: np.ndarray
    final: bool
    low: bool


def gram_picks(p: Problem, A: Any, norms2: np.ndarray | None = None) -> GramRun:
    """Run pivoted Cholesky on AᴴA, included columns being left out.

    Parameters
    ----------
    p : Problem
    A : DenseColumns
        Or anything else with its methods. The matrix of the problem, or its residual after picks that are no candidates.
    norms2 : array, shape (n,), optional
        Squared norms of the columns of the residual.
    """
    s = _Steps(p, A, p.norms2 if norms2 is None else norms2)
    while len(s.S) < s.most and not s.reached() and s.advance():
        p.progress(len(s.S), p.k)
    nothing = s.rounding and s.nothing_left()
    t = len(s.S)
    picks = Picks(s.S, p.pivots(s.S, s.heights).rank, exhausted=nothing)
    low = not float(s.score.max(initial=0)) > s.least
    return GramRun(picks, s.heights, s.R[:t], nothing or s.met or t == p.k, low)


class _Table(NamedTuple):
    """What is known of all columns before each pick of a run, and after the last one.

    heights, own : array, shape (r,)
        Squared norm of each pick when it is picked, and its error.
    losses : array, shape (r, n)
        What each pick takes off the squared norms.
    scores, errors : array, shape (r + 1, n)
        Squared norms, minus infinity where a column may not be picked, and their errors.
    """

    heights: np.ndarray
    own: np.ndarray
    losses: np.ndarray
    scores: np.ndarray
    errors: np.ndarray


class _Steps:
    """The picks S so far with their heights; R, the inverse X of its columns S, and Y = XR; the squared norms N and their errors E.

    `score` is N, and minus infinity where a column may not be picked.
    """

    def __init__(self, p: Problem, A: Any, norms2: np.ndarray) -> None:
        self.p, self.A, self.G = p, A, A.gram()
        self.most, dtype = min(p.k, p.m), A.dtype
        self.N, self.exact = np.array(norms2), np.array(norms2)
        some = self.N > 0
        seen = np.abs(self.G.diagonal().real[some] / self.N[some] - 1)
        self.unit = max(SEEN * float(np.max(seen, initial=0)), LEAST * p.eps)
        self.E = self.unit * self.N
        self.least = max(p.noise, p.reach if dtype in (np.float32, np.complex64) else 0.0) ** 2
        self.score = np.where(p.candidates, self.N, -math.inf)
        self.slack, self.half = norm_slack(self.exact, p.eps), stale_level(self.exact, p.eps)
        self.R = np.empty((self.most, p.n), dtype=dtype)
        self.X, self.Y = np.zeros((self.most, self.most), dtype=dtype), np.empty_like(self.R)
        self.S: list[int] = []
        self.heights: list[float] = []
        self.next: int | None = None  # the pick that begins the next run, where a verification has found it
        self.rounding = self.met = False

    def advance(self) -> bool:
        """Add the picks of a run that count, and return whether another run may follow."""
        sure = (
            not self.S or self.next is not None
        )  # norms themselves, or residuals, have decided about the first
        run = self.guess()
        if not run.size:
            return False
        table = self.table(run)
        taken, near, more = self.judge(run, table, sure)
        doubtful = np.flatnonzero(near[:taken].any(axis=1))
        if np.count_nonzero(near[doubtful]) > MOST * doubtful.size:
            taken, more, self.rounding, self.next = int(doubtful[0]), False, False, None
        elif doubtful.size:
            decided = self.decide(run, doubtful, near, table.scores)
            if decided < taken:
                taken, more, self.rounding = decided, True, False
        self.keep(run[:taken], table, taken)
        return more and (taken > 0 or self.next is not None)

    def table(self, run: np.ndarray) -> _Table:
        """Return what the rows of R of a run say of all columns before each of its picks, and after the last one."""
        losses = squares(self.R[len(self.S) : len(self.S) + run.size])
        scores = np.empty((run.size + 1, self.p.n), dtype=losses.dtype)
        scores[0] = self.score
        for i, lost in enumerate(losses):  # `numpy.cumsum` is slower
            np.subtract(scores[i], lost, out=scores[i + 1])
        own_scores = scores[:, run]
        heights = own_scores.diagonal().copy()
        own_scores[np.tri(run.size + 1, run.size, -1, dtype=bool)] = -math.inf
        scores[:, run] = own_scores
        own = self.own_errors(run, losses, heights)
        errors = np.empty_like(scores)
        errors[0] = self.E
        np.multiply(losses, (own / np.where(heights > 0, heights, 1))[:, None], out=errors[1:])
        for i in range(run.size):
            errors[i + 1] += errors[i]
        return _Table(heights, own, losses, scores, errors)

    def guess(self) -> np.ndarray:
        """Make the steps of a run, with their rows of R, and return its picks."""
        G, p, t, first = self.G, self.p, len(self.S), self.next
        if first is None:
            bar = tie_bar(float(self.score.max()), p.eps)
            first = int((self.score + self.slack >= bar).argmax())
        R, length = self.R[:t], min(LENGTH, self.most - t)
        narrow = (t + LENGTH) * R.itemsize * p.n > CACHED and p.n > MANY
        if narrow:
            biased = self.score * tie_bias(p.n, p.eps)
            biased[first] = math.inf
            C = np.sort(np.argpartition(-biased, MANY - 1)[:MANY])
            H = G[np.ix_(C, C)] - R[:, C].conj().T @ R[:, C]
            start = int(np.searchsorted(C, first))
            order, T = pivots(H, self.score[C], self.slack[C], start, length, self.least, p.eps)
            run, T = C[order], T[:, order]
        else:
            run, T = pivots(G, self.score, self.slack, first, length, self.least, p.eps, self.R, t)
            T = T[:, run]
        self.rounding = run.size < length
        if run.size:
            self.extend(run, np.triu(T), rows=narrow)
        return run

    def extend(self, run: np.ndarray, T: np.ndarray, rows: bool) -> None:
        """Extend X by a run, whose own columns of its rows of R are T; and form these rows where only some columns of them are known."""
        a, b = len(self.S), len(self.S) + run.size
        X = get_lapack_funcs("trtri", (T,))(T)[0]
        if rows:
            G = self.G[run] - self.R[:a, run].conj().T @ self.R[:a]
            new = X.conj().T @ G
            new += X.conj().T @ (G - T.conj().T @ new)  # as accurate as substitution
            self.R[a:b] = new
        self.X[a:b, a:b], self.X[:a, a:b] = X, self.Y[:a, run] @ -X

    def own_errors(self, run: np.ndarray, losses: np.ndarray, heights: np.ndarray) -> np.ndarray:
        """Return the error estimate of each pick of the run when it is picked: what it has of the picks before included."""
        shares = losses[:, run] / np.where(heights > 0, heights, 1)[:, None]  # those above the diagonal count
        solve = get_lapack_funcs("trtrs", (shares,))
        return np.asarray(solve(-shares, self.E[run], trans=1, unitdiag=True)[0])

    def judge(self, run: np.ndarray, table: _Table, sure: bool) -> tuple[int, np.ndarray, bool]:
        """Return how many picks can count, between which columns each of them is in doubt, and whether there may be more.

        Parameters
        ----------
        sure : bool
            Whether the first pick is certain.
        """
        p, steps, size, a = self.p, np.arange(run.size), run.size, len(self.S)
        Z, E, own = table.scores[:-1], table.errors[:-1], table.own
        first = Z.argmax(axis=1)
        top, doubt = Z[steps, first], E[steps, first]
        bar = tie_bar(top, p.eps)
        near = Z + (self.slack + E) >= (bar - doubt)[:, None]
        lowest, alone = near.argmax(axis=1), np.count_nonzero(near, axis=1) == 1
        tied = Z[steps, run] + self.slack[run] - 2 * (E[steps, run] + doubt) >= bar
        certain = (lowest == run) & (alone | tied)
        certain[0] |= sure
        rounding = (
            ~(doubt < ROUNDING * top) | ~(own < ROUNDING * Z[steps, run]) | ~(Z[steps, run] > self.least)
        )
        stale = np.any(near & (self.half >= Z), axis=1)
        # Where errors are much larger than what the run has carried along (Kahan's matrix), it ends, and they are formed anew.
        S = np.asarray([*self.S, *run.tolist()])
        x2 = squares(np.triu(self.X[: a + size, a : a + size], 1 - a)) * Z[steps, run]
        grown = self.unit * (self.exact[S] @ x2)
        wrong = (lowest != run) & alone & ~certain
        ends = wrong | rounding | stale | (grown > MOST_GROWTH * own)
        taken, more, self.next = size, not self.rounding, None
        if ends.any():
            taken = int(np.argmax(ends))
            self.rounding = bool(rounding[taken])
            more = not (rounding[taken] or stale[taken])
            if more and wrong[taken]:
                self.next = int(lowest[taken])
        near[certain] = False
        return taken, near, more

    def decide(self, run: np.ndarray, doubtful: np.ndarray, near: np.ndarray, scores: np.ndarray) -> int:
        """Return how many picks are those of the rule, by residuals of the columns in doubt; `next` is the right one after them.

        The residual of a column before a step is what the picks before that step leave of it; only its norm is asked for, and only
        where the error of the score as of that step leaves a doubt.
        """
        t, S, eps = len(self.S), [*self.S, *run.tolist()], self.p.eps
        X, before = self.X[: len(S), : len(S)], np.arange(len(S))[:, None]
        for steps in np.array_split(doubtful, math.ceil(np.count_nonzero(near[doubtful]) / TOGETHER)):
            which, columns = np.nonzero(near[steps])
            begin, slack = np.searchsorted(which, np.arange(steps.size)), self.slack[columns]
            Y = X @ np.where(before < t + steps[which], self.R[: len(S), columns], 0)
            N = scores[steps[which], columns]
            E = self.unit * (self.exact[columns] + self.exact[S] @ squares(Y))
            able = N + slack + E >= np.maximum.reduceat(tie_bar(N, eps) - E, begin)[which]
            N[~able] = -math.inf
            able &= (np.add.reduceat(able, begin, dtype=int) > 1)[which]
            N[able] = column_norms2(self.left(columns[able], S, Y[:, able]))
            bar = tie_bar(np.maximum.reduceat(N, begin), eps)[which]
            for i, a, b in zip(steps.tolist(), begin, [*begin[1:], which.size], strict=True):
                right = int(columns[a:b][(N + slack >= bar)[a:b].argmax()])
                if right != run[i]:
                    self.next = right
                    return i
        return run.size

    def left(self, columns: np.ndarray, S: list[int], Y: np.ndarray) -> np.ndarray:
        """Return what is left of these columns without A_S Y."""
        W = np.zeros((self.p.n, columns.size), dtype=self.A.dtype)
        W[S] = -Y
        W[columns, np.arange(columns.size)] += 1
        return np.asarray(self.A.times(W))

    def keep(self, run: np.ndarray, table: _Table, taken: int) -> None:
        """Let these picks, as many as are taken of the run, count."""
        a, b = len(self.S), len(self.S) + taken
        self.S += run.tolist()
        self.heights += np.sqrt(table.heights[:taken]).tolist()
        self.N = np.maximum(self.N - table.losses[:taken].sum(axis=0), 0)
        self.N[run] = 0
        self.score = table.scores[taken]
        if b < self.most:
            self.Y[:a] += self.X[:a, a:b] @ self.R[a:b]
            self.Y[a:b] = self.X[a:b, a:b] @ self.R[a:b]
            self.E = self.unit * (self.exact + self.exact[self.S] @ squares(self.Y[:b]))

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
        left = np.flatnonzero(self.score > -math.inf)
        left = left[np.argsort(-self.N[left], kind="stable")]
        return not any(np.any(self.norms2(part) > self.p.noise**2) for part in (left[:8], left[8:]))

    def residuals(self, columns: np.ndarray) -> np.ndarray:
        """Return the residuals of these columns after S, projected twice: accurate however small they are."""
        t, n = len(self.S), self.p.n
        e = self.left(columns, self.S, self.Y[:t, columns])
        if not t:
            return e
        W, X = np.zeros((n, columns.size), dtype=self.A.dtype), self.X[:t, :t]
        W[self.S] = X @ (X.conj().T @ self.A.adjoint_times(e)[self.S])
        return np.asarray(e - self.A.times(W))

    def norms2(self, columns: np.ndarray) -> np.ndarray:
        """Return the squared norms of the residuals of these columns, formed from the columns."""
        step = max(1, BLOCK // self.p.m)
        parts = [columns[a : a + step] for a in range(0, columns.size, step)]
        return np.concatenate([np.zeros(0), *(column_norms2(self.residuals(part)) for part in parts)])
