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
from scipy.linalg import get_lapack_funcs

from cssp.linalg import BLOCK, column_norms2, gram, squares, take_columns
from cssp.pivoting import norm_slack, stale_level, tie_bar, tie_bias
from cssp.pivoting.bases import pivots
from cssp.problem import Picks, Problem

__all__ = ["DenseColumns", "GramRun", "gram_picks"]

#: Picks of a run. Of up to WIDEST columns they are sought among all, else among the MANY of largest norm.
LENGTH, WIDEST, MANY = 64, 768, 384

#: Error of an entry of G, in units of the difference seen on the diagonal and in units of rounding.
SEEN, LEAST = 2.0, 4.0

#: How far the growth of errors may exceed its estimate.
MOST_GROWTH = 4.0

#: Most columns in doubt, on average over the picks that are in doubt.
MOST = 32

#: An error estimate above this share of the largest norm means that only rounding is left.
ROUNDING = 1 / 8


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


class _Steps:
    """The picks S so far with their heights; R, and the inverse X of its columns S; the squared norms N and their errors E.

    `score` is N, and minus infinity where a column may not be picked.
    """

    def __init__(self, p: Problem, A: Any, norms2: np.ndarray) -> None:
        self.p, self.A, self.G = p, A, A.gram()
        self.most, dtype = min(p.k, p.m), A.dtype
        self.N, self.exact = np.array(norms2), np.array(norms2)
        seen = np.abs(self.G.diagonal().real - self.N) / np.where(self.N > 0, self.N, 1)
        self.unit = max(SEEN * float(np.max(seen)), LEAST * p.eps)
        self.E = self.unit * self.N
        self.least = max(p.noise, p.reach if dtype in (np.float32, np.complex64) else 0.0) ** 2
        self.score = np.where(p.candidates, self.N, -math.inf)
        self.slack, self.half = norm_slack(self.exact, p.eps), stale_level(self.exact, p.eps)
        self.R = np.empty((self.most, p.n), dtype=dtype)
        self.X = np.zeros((self.most, self.most), dtype=dtype)
        self.S: list[int] = []
        self.heights: list[float] = []
        self.next: int | None = None  # the pick that begins the next run, where a verification has found it
        self.rounding = self.met = False

    def advance(self) -> bool:
        """Add the picks of a run that count, and return whether another run may follow."""
        run = self.guess()
        if not run.size:
            return False
        begun, size = len(self.S), run.size
        losses = squares(self.R[begun : begun + size])
        scores = np.empty((size + 1, self.p.n), dtype=losses.dtype)
        scores[0] = self.score
        for i, lost in enumerate(losses):
            np.subtract(scores[i], lost, out=scores[i + 1])
        own_scores = scores[:, run]
        heights = own_scores.diagonal().copy()
        own_scores[np.tri(size + 1, size, -1, dtype=bool)] = -math.inf
        scores[:, run] = own_scores
        own = self.own_errors(run, losses, heights)
        errors = np.empty_like(scores)
        errors[0] = self.E
        np.multiply(losses, (own / np.where(heights > 0, heights, 1))[:, None], out=errors[1:])
        for i in range(size):
            errors[i + 1] += errors[i]
        taken, doubtful, near, more = self.judge(run, own, scores[:size], errors)
        if np.count_nonzero(near[doubtful]) > MOST * doubtful.size:
            taken, more, self.rounding, self.next = int(doubtful[0]), False, False, None
        elif doubtful.size:
            decided = self.decide(run, doubtful, near)
            if decided < taken:
                taken, more, self.rounding = decided, True, False
        self.keep(run[:taken], heights, losses, scores[taken], errors[taken])
        return more and (taken > 0 or self.next is not None)

    def guess(self) -> np.ndarray:
        """Make the steps of a run on the columns of largest norm, with their rows of R, and return its picks."""
        G, p, t = self.G, self.p, len(self.S)
        R, first = self.R[:t], self.next
        if first is None:
            bar = tie_bar(float(self.score.max()), p.eps)
            first = int((self.score + self.slack >= bar).argmax())
        C = np.arange(p.n)
        if p.n > WIDEST:
            biased = self.score * tie_bias(p.n, p.eps)
            biased[first] = math.inf
            C = np.sort(np.argpartition(-biased, MANY - 1)[:MANY])
        H = G[np.ix_(C, C)] if C.size < p.n else G
        if t:
            H = H - R[:, C].conj().T @ R[:, C]
        order, T = pivots(
            H,
            self.score[C],
            self.slack[C],
            int(np.searchsorted(C, first)),
            min(LENGTH, self.most - t),
            self.least,
            p.eps,
        )
        run = C[order]
        self.rounding = run.size < min(LENGTH, self.most - t)
        if run.size:
            self.extend(run, np.triu(T[:, order]), T if C.size == p.n else None)
        return run

    def extend(self, run: np.ndarray, T: np.ndarray, new: np.ndarray | None = None) -> None:
        """Extend X by a run, and R by its rows, formed where they are not given; T are the run's own columns of them."""
        a, b = len(self.S), len(self.S) + run.size
        R, X = self.R[:a], get_lapack_funcs("trtri", (T,))(T)[0]
        if new is None:
            rows = self.G[run]
            if a:
                rows = rows - R[:, run].conj().T @ R
            new = X.conj().T @ rows
            new += X.conj().T @ (rows - T.conj().T @ new)  # as accurate as substitution
        self.R[a:b], self.X[a:b, a:b] = new, X
        if a:
            self.X[:a, a:b] = self.X[:a, :a] @ (-R[:, run] @ X)

    def own_errors(self, run: np.ndarray, losses: np.ndarray, heights: np.ndarray) -> np.ndarray:
        """Return the error estimate of each pick of the run when it is picked: what it has of the picks before included."""
        shares = losses[:, run] / np.where(heights > 0, heights, 1)[:, None]  # those above the diagonal count
        solve = get_lapack_funcs("trtrs", (shares,))
        return np.asarray(solve(-shares, self.E[run], trans=1, unitdiag=True)[0])

    def judge(
        self, run: np.ndarray, own: np.ndarray, Z: np.ndarray, E: np.ndarray
    ) -> tuple[int, np.ndarray, np.ndarray, bool]:
        """Return how many picks can count, which of them are in doubt, between which columns, and whether there may be more.

        Parameters
        ----------
        own : array, shape (r,)
            Error of the norm of each pick.
        Z : array, shape (r, n)
            Scores before each step.
        E : array, shape (r + 1, n)
            Their errors, after the last step too; raised where a run ends because of them.
        """
        p, steps, size, a = self.p, np.arange(run.size), run.size, len(self.S)
        first = Z.argmax(axis=1)
        top, doubt = Z[steps, first], E[steps, first]
        bar = tie_bar(top, p.eps)
        near = Z + (self.slack + E[:size]) >= (bar - doubt)[:, None]
        lowest, alone = near.argmax(axis=1), np.count_nonzero(near, axis=1) == 1
        tied = Z[steps, run] + self.slack[run] - 2 * (E[steps, run] + doubt) >= bar
        certain, wrong = (lowest == run) & (alone | tied), (lowest != run) & alone
        if not a or self.next is not None:  # norms themselves, or columns, have decided
            certain[0], wrong[0] = True, False
        rounding = (
            ~(doubt < ROUNDING * top) | ~(own < ROUNDING * Z[steps, run]) | ~(Z[steps, run] > self.least)
        )
        stale = np.any(near & (self.half >= Z), axis=1)
        # A_S x, x = X r, is the part of a_j in the span so far. Errors of G enter N_j as |x|² of them; where that is much
        # more than what was carried along, errors are correlated (Kahan's matrix), and all estimates are raised.
        S = np.asarray([*self.S, *run.tolist()])
        x2 = squares(np.triu(self.X[: a + size, a : a + size], 1 - a)) * Z[steps, run]
        grown = self.unit * (self.exact[S] @ x2)
        ends = wrong | rounding | stale | (grown > MOST_GROWTH * own)
        taken, more, self.next = size, not self.rounding, None
        if ends.any():
            taken = int(np.argmax(ends))
            self.rounding = bool(rounding[taken])
            more = not (rounding[taken] or stale[taken])
            if more and wrong[taken]:
                self.next = int(lowest[taken])
            elif more:
                E[taken] *= float(grown[taken] / own[taken])
        return taken, np.flatnonzero(~certain[:taken]), near, more

    def decide(self, run: np.ndarray, doubtful: np.ndarray, near: np.ndarray) -> int:
        """Return how many picks are those of the rule, by residuals of the columns in doubt; `next` is the right one after them."""
        begun = run[: int(doubtful[-1]) + 1]
        columns = np.union1d(begun, np.flatnonzero(near[doubtful].any(axis=0)))
        e = self.residuals(columns)
        place = np.searchsorted(columns, begun)
        G = (e.conj().T @ e)[place]
        try:
            L = np.linalg.cholesky(G[:, place])
        except np.linalg.LinAlgError:  # the picks depend on each other
            return int(doubtful[0])
        # Solved for all columns at once, threads of SciPy's BLAS would wait beside those of NumPy's, which make the Gram matrix.
        R = get_lapack_funcs("trtri", (L,))(L, lower=True)[0] @ G
        N = column_norms2(e) - np.cumsum(squares(R), axis=0)
        slack = self.slack[columns]
        for i in doubtful.tolist():
            score = np.where(near[i, columns], N[i - 1] if i else column_norms2(e), -math.inf)
            best = int((score + slack >= tie_bar(float(score.max()), self.p.eps)).argmax())
            if columns[best] != run[i]:
                self.next = int(columns[best])
                return i
        return run.size

    def keep(
        self, run: np.ndarray, heights: np.ndarray, losses: np.ndarray, score: np.ndarray, E: np.ndarray
    ) -> None:
        """Let these picks count; scores and errors are those after them."""
        self.S += run.tolist()
        self.heights += np.sqrt(heights[: run.size]).tolist()
        self.N = np.maximum(self.N - losses[: run.size].sum(axis=0), 0)
        self.N[run] = 0
        self.score, self.E = score, E

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
