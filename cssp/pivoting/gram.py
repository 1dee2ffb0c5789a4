"""Greedy residual on the Gram matrix, as far as its picks are certain, on the host.

Pivoted Cholesky on G = AᴴA makes the picks of pivoted QR on A [businger1965; harbrecht2012]. G costs as much as n/2 passes
over A, but at the speed of a matrix product, and the steps then read n × k numbers instead of A: the cheapest way where k
is not small beside n. What it loses is accuracy, so every norm carries an estimate E of its error. It starts from what is
seen on the diagonal of G, and each pivot p hands the share |r_pj|²/r_pp² of its own error on, as if errors were
independent. A pick among columns that E cannot tell apart is decided by explicit residuals a_j - A_S x, in which errors
of x are of second order. Where too many columns are in doubt the method stops, and the caller continues from the picks
so far. Where what is left is of the size of rounding, explicit residuals, projected twice, tell whether it is nothing but that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from cssp.linalg import BLOCK, column_norms2, squares, take_columns
from cssp.pivoting import norm_slack, stale_level, tie_bar
from cssp.problem import Picks, Problem

#: Error of an entry of G, in units of the difference seen on the diagonal and in units of rounding.
SEEN, LEAST = 2.0, 4.0

#: How far the growth of errors may exceed its estimate.
MOST_GROWTH = 64.0

#: Most columns in doubt between which explicit residuals decide.
MOST = 32


class DenseColumns:
    """What the algorithm needs of a matrix: its Gram matrix, some columns, and products with the columns chosen so far."""

    def __init__(self, A: np.ndarray, steps: int) -> None:
        self.A, self.dtype = A, A.dtype
        self.C, self.copied = np.empty((A.shape[0], steps), dtype=A.dtype, order="F"), 0

    def gram(self) -> np.ndarray:
        """Return AᴴA, shape (n, n)."""
        return self.A.T @ self.A if self.dtype.kind == "f" else self.A.conj().T @ self.A

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

    One loop on purpose: every pick reads and writes the norms, their errors and the factor, a dozen arrays that parts of it
    would have to hand to each other.

    Parameters
    ----------
    p : Problem
    A : DenseColumns
        Or anything else with its methods.
    """
    m, n, eps = p.m, p.n, p.eps
    steps, single = min(p.k, m), A.dtype in (np.float32, np.complex64)
    G = A.gram()
    norms2 = np.array(p.norms2)
    N, exact = norms2.copy(), norms2.copy()
    seen = float(np.max(np.abs(G.diagonal().real - N) / np.where(N > 0, N, 1)))
    unit = max(SEEN * seen, LEAST * eps)
    E, carried = unit * N, unit * N
    least = max(p.noise, p.reach if single else 0.0) ** 2
    score = np.where(p.candidates, N, -math.inf)
    formed = np.full(n, -1)  # the step at which N was formed from the column itself
    R = np.empty((steps, n), dtype=A.dtype)
    X = np.zeros((steps, steps), dtype=A.dtype)  # the inverse of R's columns S
    S: list[int] = []
    lengths2 = np.empty(steps, dtype=N.dtype)  # norms2[S]
    heights: list[float] = []
    below_rounding = reached = False
    while (t := len(S)) < steps:
        first = int(score.argmax())
        top = float(score[first])
        below_rounding = not top > least or not 8 * float(E[first]) < top
        if t and p.tol is not None and float(N.sum()) <= p.goal:
            unseen = np.setdiff1d(np.arange(n), S)
            N[unseen] = exact[unseen] = _norms2(p, A, S, X[:t, :t], R[:t], unseen)
            score[unseen] = np.where(p.candidates[unseen], N[unseen], -math.inf)
            E[unseen] = LEAST * eps * np.sqrt(norms2[unseen] * N[unseen])
            formed[unseen] = t
            reached = float(N.sum()) <= p.goal
            if reached:
                break
            continue
        if below_rounding:
            break
        # Those that may be among the contenders of the rule, N + slack ≥ band·top; N itself is beyond doubt at first.
        slack, bar = norm_slack(exact, eps), tie_bar(top, eps)
        doubt = E + float(E[first]) if t else 0.0
        near = np.flatnonzero(score + slack + doubt >= bar)[: None if t else 1]
        j = int(near[0])
        tied = N[j] + slack[j] - 2 * float(E[j] + E[first]) >= bar  # beyond doubt
        half = stale_level(exact, eps)
        stale = bool(np.any(half[near] >= N[near]))
        if stale or (near.size > 1 and not tied):
            fresh = near[formed[near] < t]
            if stale:  # all others that are, too, if they are few
                more = np.flatnonzero((score > -math.inf) & (half >= N) & (formed < t))
                fresh = np.union1d(fresh, more) if more.size <= MOST else fresh
            if fresh.size > MOST:
                break
            if fresh.size:
                e = _residuals(A, S, X[:t, :t], R[:t], fresh, twice=stale)
                N[fresh] = score[fresh] = exact[fresh] = column_norms2(e)
                E[fresh] = LEAST * eps * np.sqrt(norms2[fresh] * N[fresh])
                formed[fresh] = t
                continue
            j = int(near[int(np.argmax(N[near] + slack[near] >= tie_bar(float(N[near].max()), eps)))])
        # A_S x, x = X r, is the part of a_j in the span so far. Errors of G enter N_j as |x|² of them; where that is much
        # more than what was carried along, errors are correlated (Kahan's matrix), and all estimates are raised.
        x = X[:t, :t] @ R[:t, j]
        grown = unit * float(squares(x) @ lengths2[:t])
        below_rounding = not 8 * float(carried[j]) < float(N[j])  # the next row would be rounding only
        if below_rounding:
            break
        if grown > MOST_GROWTH * float(carried[j]):
            E *= grown / float(carried[j])
            carried *= grown / float(carried[j])
            continue
        row = R[t]
        if t:
            np.dot(R[:t, j].conj(), R[:t], out=row)
            np.subtract(G[j], row, out=row)
        else:
            row[:] = G[j]
        height = float(N[j])
        row /= math.sqrt(height)
        lengths2[t], X[t, t] = norms2[j], 1 / math.sqrt(height)
        X[:t, t] = x * -X[t, t]
        loss = squares(row)
        N -= loss
        score -= loss
        np.maximum(N, 0, out=N)
        lost = loss * (float(carried[j]) / height)
        E += lost
        carried += lost
        N[j], score[j] = 0, -math.inf
        S.append(j)
        heights.append(math.sqrt(height))
    rank = p.pivots(S, heights).rank
    left = np.flatnonzero(score > -math.inf)
    # Where more is left than rounding, the first of them show it.
    left = left[np.argsort(-N[left], kind="stable")]
    nothing = below_rounding and not any(
        np.any(_norms2(p, A, S, X[:t, :t], R[:t], part) > p.noise**2) for part in (left[:8], left[8:])
    )
    return GramRun(Picks(S, rank, exhausted=nothing), heights, R[:t], reached or nothing or t == p.k)


def _residuals(
    A: Any, S: list[int], X: np.ndarray, R: np.ndarray, columns: np.ndarray, twice: bool = True
) -> np.ndarray:
    """Return the residuals of these columns after S; projected twice, they are accurate however small they are."""
    if not S:
        return np.asarray(A.take(columns))
    e = A.take(columns) - A.combined(S, X @ R[:, columns])
    return e - A.combined(S, X @ (X.conj().T @ A.products(S, e))) if twice else e


def _norms2(
    p: Problem, A: Any, S: list[int], X: np.ndarray, R: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """Return the squared norms of the residuals of these columns, formed from the columns."""
    step = max(1, BLOCK // p.m)
    parts = [columns[a : a + step] for a in range(0, columns.size, step)]
    return np.concatenate([np.zeros(0), *(column_norms2(_residuals(A, S, X, R, part)) for part in parts)])
