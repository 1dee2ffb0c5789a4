"""Greedy choice in another exponent: the column after which the p-norm of all residual norms is smallest, k times.

With e_i the residual of column i and f_j that of the j-th column to be reconstructed, choosing i leaves
    h_j² = ‖f_j‖² - |e_iᴴf_j|²/‖e_i‖²,
so that G = EᴴF and the squared norms give every candidate's score. G loses a matrix of rank one per pick, as in the
recursion of Farahat, Ghodsi and Kamel [farahat2011]; a pick costs O(mn + n²) and n² powers. Rows and columns of G are formed
anew from explicit residuals before downdating costs more than half of their digits.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from array_api_compat import array_namespace

from cssp.linalg import (
    adjoint,
    basis,
    blocks,
    column_norms2,
    conjugate,
    host,
    orthogonalise,
    places,
    project_off,
    put,
    residual_norms2,
    squares,
    take_columns,
    widen,
)
from cssp.pivoting import DOWNDATE_SLACK, TIE_BAND, noise, stale_level
from cssp.problem import Array, Picks, Problem
from cssp.residuals import p_norm

__all__ = ["Columns", "Stored", "norms2_without", "smallest_p_norm"]

#: Most columns in doubt between which explicit residuals decide.
MOST = 32

#: Numbers of G that are worked on at once.
ROOM = 1 << 18


class Columns(Protocol):
    """What the algorithm asks of the candidates A and of the columns B to be reconstructed."""

    def take(self, J: list[int]) -> Array:
        """Return these columns of A, or what is left of them, shape (m, len(J))."""

    def products(self, q: Array) -> tuple[Array, Array]:
        """Return qᴴA and qᴴB for a vector q orthogonal to the columns chosen so far."""

    def rows(self, J: np.ndarray, Q: Array) -> tuple[Array, Array]:
        """Return ‖e_i‖² and e_iᴴF for the columns i in J of A."""

    def columns(self, J: np.ndarray, Q: Array) -> tuple[Array, Array]:
        """Return ‖f_j‖² and Eᴴf_j, one column each, for the columns j in J of B, where B is not A."""

    def norms2(self, Q: Array) -> Array:
        """Return ‖f_j‖² for all columns of B, formed from the columns."""

    def norms2_after(self, Q: Array, E: Array) -> Array:
        """Return what `norms2` would with one more direction, for each column of E, orthonormal to Q, in a row of its own."""


class Stored:
    """Matrices in memory, in double precision; columns are replaced by their residuals where these are asked for."""

    def __init__(self, p: Problem) -> None:
        self.A = p.xp.asarray(widen(p.A), copy=True)
        self.B = self.A if p.target is None else p.xp.asarray(widen(p.target), copy=True)

    def take(self, J: list[int]) -> Array:
        return take_columns(self.A, J)

    def products(self, q: Array) -> tuple[Array, Array]:
        r = conjugate(q) @ self.A
        return r, r if self.B is self.A else conjugate(q) @ self.B

    def rows(self, J: np.ndarray, Q: Array) -> tuple[Array, Array]:
        E = _replaced(self.A, J, Q)
        return column_norms2(E), adjoint(E) @ self.B

    def columns(self, J: np.ndarray, Q: Array) -> tuple[Array, Array]:
        F = _replaced(self.B, J, Q)
        return column_norms2(F), adjoint(self.A) @ F

    def norms2(self, Q: Array) -> Array:
        return residual_norms2(self.B, Q)

    def norms2_after(self, Q: Array, E: Array) -> Array:
        parts = (norms2_without(project_off(self.B[:, part], Q), E) for part in blocks(self.B))
        return array_namespace(E).concat(list(parts), axis=1)


def norms2_without(F: Array, E: Array) -> Array:
    """Return the squared norms of the columns of F without their part along e, one row for each column e of E.

    A difference where at most half cancels, else formed explicitly.
    """
    f, explained, rows = column_norms2(F), squares(adjoint(E) @ F), []
    for t in range(E.shape[1]):
        left, cancelled = f - explained[t, :], explained[t, :] > f / 2
        if (J := places(cancelled)).size:
            left = put(left, cancelled, column_norms2(project_off(take_columns(F, J), E[:, t : t + 1])))
        rows.append(left)
    return array_namespace(E).stack(rows)


def _replaced(X: Array, J: np.ndarray, Q: Array) -> Array:
    """Replace these columns by their residuals, which are returned."""
    E = project_off(take_columns(X, J), Q)
    for t, j in enumerate(J.tolist()):
        X[:, j] = E[:, t]
    return E


def smallest_p_norm(problem: Problem, M: Columns, p: float) -> Picks:
    """Choose the column after which Σ h_j^p, for p = inf the largest h_j, is smallest, until there are k; the lowest index in a tie."""
    s = _State(problem, M, p)
    open_ = problem.xp.asarray(problem.candidates, copy=True)
    indices = list(problem.include)
    for i, q in zip(*_directions(problem, M), strict=True):
        s.add(i, q)
    while len(indices) < problem.k:
        s.refresh(open_)
        if s.reached() or (best := s.best(open_)) is None:
            break
        j = best
        e, norm = orthogonalise(M.take([j])[:, 0], s.basis())
        open_[j] = False
        if norm > problem.noise and s.r < problem.m:
            indices.append(j)
            problem.progress(len(indices), problem.k)
            s.add(j, e / norm)
    return Picks(indices)


def _directions(problem: Problem, M: Columns) -> tuple[list[int], list[Array]]:
    """Return the included columns that are independent, and the direction that each adds."""
    indices = list(problem.include)
    if not indices:
        return [], []
    Q, independent = basis(M.take(indices), problem.floor)
    return [j for j, yes in zip(indices, independent, strict=True) if yes], list(Q.T)


class _State:
    """The basis Q, G = EᴴF, g_i = ‖e_i‖² and f_j = ‖f_j‖²; g0 and f0 are g and f when last formed from the columns."""

    def __init__(self, problem: Problem, M: Columns, p: float) -> None:
        self.problem, self.xp, self.M, self.p = problem, problem.xp, M, p
        self.whole = problem.target is None
        first = M.take([0])
        self.eps = float(self.xp.finfo(first.dtype).eps)
        self.Q = self.xp.zeros(
            (min(problem.k, problem.m), problem.m), dtype=first.dtype, device=problem.device
        ).T
        self.r = 0
        everything = np.arange(problem.n)
        self.g, self.G = M.rows(everything, self.basis())
        self.f = M.norms2(self.basis())
        self.g0, self.f0 = self.g, self.f
        largest = math.sqrt(float(self.xp.max(self.f)))
        self.nothing = noise(problem.m, int(self.f.shape[0]), problem.unit, largest) ** 2

    def basis(self) -> Array:
        """Return an orthonormal basis of the columns chosen so far."""
        return self.Q[:, : self.r]

    def reached(self) -> bool:
        """Return whether the tolerance is met, a downdated error being confirmed by an exact one."""
        p, xp = self.problem, self.xp
        if p.tol is None or self.r == 0 or float(xp.sum(self.f)) > p.goal:
            return False
        return float(xp.sum(self.M.norms2(self.basis()))) <= p.goal

    def add(self, j: int, q: Array) -> None:
        """Extend the basis by the direction q of column j."""
        self.Q[:, self.r] = q
        self.r += 1
        r, s = self.M.products(q)
        self.G = self.G - conjugate(r)[:, None] * s[None, :]
        zero = self.xp.zeros_like(self.g[:1])
        self.g = self.xp.maximum(self.g - squares(r), zero)
        self.f = self.xp.maximum(self.f - squares(s), zero)
        self.g[j] = 0
        if self.whole:
            self.f0 = self.xp.asarray(self.f0, copy=True)
            self.f[j] = self.f0[j] = 0

    def refresh(self, open_: Array, level: float | None = None) -> bool:
        """Form anew what has fallen below this share of its last exact value, by default below √eps; return whether there was any."""
        share = stale_level(1.0, self.eps) if level is None else level
        rows = open_ & (self.g < share * self.g0) & (self.g0 > self.problem.noise**2)
        columns = (self.f < share * self.f0) & (self.f > 0) & (self.f0 > self.nothing)
        if self.whole:
            J = places(rows | columns)
            if J.size:
                norms2, R = self.M.rows(J, self.basis())
                self._put(J, R, axis=0)
                self._put(J, conjugate(R).T, axis=1)
                self._renew(J, norms2, J, norms2)
            return bool(J.size)
        I, J = places(rows), places(columns)
        if J.size:
            f, C = self.M.columns(J, self.basis())
            self._put(J, C, axis=1)
            self._renew(I[:0], f[:0], J, f)
        if I.size:
            g, R = self.M.rows(I, self.basis())
            self._put(I, R, axis=0)
            self._renew(I, g, J[:0], g[:0])
        return bool(I.size or J.size)

    def _put(self, J: np.ndarray, X: Array, axis: int) -> None:
        for t, j in enumerate(J.tolist()):
            if axis:
                self.G[:, j] = X[:, t]
            else:
                self.G[j, :] = X[t, :]

    def _renew(self, I: np.ndarray, g: Array, J: np.ndarray, f: Array) -> None:
        xp = self.xp
        self.g, self.f = xp.asarray(self.g, copy=True), xp.asarray(self.f, copy=True)
        self.g0, self.f0 = xp.asarray(self.g0, copy=True), xp.asarray(self.f0, copy=True)
        for t, i in enumerate(I.tolist()):
            self.g[i] = self.g0[i] = g[t]
        for t, j in enumerate(J.tolist()):
            self.f[j] = self.f0[j] = f[t] if float(f[t]) > self.nothing else 0.0

    def best(self, open_: Array) -> int | None:
        """Return the open column with the smallest score, None at the end; scores that differ by rounding only are formed anew."""
        xp = self.xp
        while True:
            eligible = self.problem.eligible(self.g, open_)
            if not bool(xp.any(eligible)):
                return None
            if float(xp.max(self.f)) <= self.nothing:
                return int(places(eligible)[0])
            score, slack = self._scores(eligible)
            bar = xp.min(score + slack) * (1 + TIE_BAND * self.eps)
            tied = score - slack <= bar
            unsure = tied & (slack > TIE_BAND * self.eps * score)
            J = places(tied)
            if J.size == 1 or not bool(xp.any(unsure)):
                return int(J[0])
            if not self.refresh(open_ & tied, 1 / 16):
                return self._told_apart(J)

    def _told_apart(self, J: np.ndarray) -> int:
        """Return which of these columns leaves the smallest norm, by explicit residuals; of many, which of those with the largest residuals."""
        g = host(self.g)[J]
        J = np.sort(J[np.argsort(-g, kind="stable")[:MOST]])
        directions = []
        for j in J.tolist():
            e, norm = orthogonalise(self.M.take([j])[:, 0], self.basis())
            directions.append(e / norm)
        left = self.M.norms2_after(self.basis(), self.xp.stack(directions, axis=1))
        left = self.xp.where(left > self.nothing, left, self.xp.zeros_like(left))
        scores = host(p_norm(left, self.p))
        return int(J[np.flatnonzero(scores <= scores.min() * (1 + TIE_BAND * self.eps))[0]])

    def _scores(self, eligible: Array) -> tuple[Array, Array]:
        """Return the p-norm of the residual norms after each pick, infinite where not eligible, and its rounding.

        An error δ_j of h_j² changes their p-norm by at most ‖δ‖_{p/2}/(2‖h‖_p) for p ≥ 2, and by √‖δ‖_{p/2} for every p.
        """
        xp, p = self.xp, self.p
        g = xp.where(eligible, self.g, xp.ones_like(self.g))
        unit = DOWNDATE_SLACK * self.eps
        grown = self.g0 / g
        step = max(1, ROOM // int(self.f.shape[0]))
        score, slack = [], []
        for a in range(0, self.problem.n, step):
            part = slice(a, min(a + step, self.problem.n))
            t = self.f - squares(self.G[part, :]) / g[part][:, None]
            if p >= 2:
                score.append(p_norm(xp.maximum(t, xp.zeros_like(t[:1, :1])), p))
                continue
            rounding = unit * (self.f0 + grown[part][:, None] * self.f)
            sure = t > rounding
            score.append(p_norm(xp.where(sure, t, xp.zeros_like(t)), p))
            slack.append(p_norm(xp.maximum(t, xp.zeros_like(t)) + rounding, p) - score[-1])
        scores = xp.concat(score)
        if p >= 2:
            d = unit * (p_norm(self.f0, p) ** 2 + grown * p_norm(self.f, p) ** 2)
            slacks = xp.minimum(xp.sqrt(d), d / xp.where(scores > 0, 2 * scores, xp.sqrt(d)))
        else:
            slacks = xp.concat(slack)
        infinite = xp.full_like(scores, math.inf)
        return xp.where(eligible, scores, infinite), xp.where(eligible, slacks, xp.zeros_like(slacks))
