"""Greedy gain: the column whose inclusion lowers the Frobenius error most, k times.

Farahat, Ghodsi and Kamel, "An efficient greedy method for unsupervised feature selection", ICDM 2011
[farahat2011]; with a target, "Greedy column subset selection for large-scale data sets", Knowl. Inf. Syst.
45:1-34, 2015 [farahat2015]. Their recursion, without the n × n matrix, on an orthonormal basis, and started
anew from explicit residuals before cancellation costs more than half of the digits.
"""

from __future__ import annotations

import math

from array_api_compat import array_namespace

from cssp.linalg import (
    BLOCK,
    adjoint,
    basis,
    column_norms2,
    conjugate,
    frobenius2,
    orthogonalise,
    project_off,
    take_columns,
    widen,
)
from cssp.linalg import squares as sq
from cssp.problem import DOWNDATE_SLACK, SINGLE_REACH, Array, Picks, Problem

#: Residual norms within this many units of noise have a direction that is mostly rounding: f/g means nothing there.
CLEAR = 8


def greedy(p: Problem) -> Picks:
    """Choose argmax ‖Fᴴe_j‖²/‖e_j‖², k times, with F and e_j the residuals of the target and of column j."""
    xp = p.xp
    s = _State(p)
    open_ = xp.asarray(p.candidates, copy=True)
    indices: list[int] = []
    rank = 0
    while len(indices) < p.k:
        eligible = open_ & (s.g > p.noise**2)
        forced = len(indices) < len(p.include)
        if forced:
            j = p.include[len(indices)]
        else:
            if s.reached() or not bool(xp.any(eligible)):
                break
            clear = eligible & (s.g > (CLEAR * p.noise) ** 2)
            j = s.best(clear if bool(xp.any(clear)) else eligible)
        e, norm = orthogonalise(s.A[:, j], s.basis())
        independent = norm > p.noise and s.r < p.m
        if independent or forced:
            indices.append(j)
        open_[j] = False
        if independent:
            rank += norm > p.floor
            s.add(j, e / norm, open_ & (s.g > p.noise**2))
    return Picks(indices, rank=rank)


class _State:
    """A and B, or what is left of them; the basis Q; f_j = ‖Fᴴe_j‖², g_j = ‖e_j‖² and φ = ‖F‖_F².

    A and B may be replaced, whole or column by column, by their residuals: F, E and so f, g, φ stay the
    same, and the products that update them no longer cancel.
    """

    def __init__(self, p: Problem) -> None:
        self.p, self.xp, self.A, self.B = p, p.xp, p.A, p.B
        self.Q, self.r = self._room(p.A), 0
        self.own = False  # whether A may be written into
        self.single = widen(p.A[:1, :1]).dtype != p.A.dtype
        self.directions: list[int] = []
        self.phi = frobenius2(self.B)
        self.nothing = 4 * min(p.B.shape) * p.eps**2 * self.phi if p.target is not None else 0.0
        self.f: Array
        self.g: Array
        self.f0: Array
        self.g0: Array
        self._restart(_correlations(self.A, self.B), p.norms2)

    def basis(self) -> Array:
        """Orthonormal basis of the columns chosen so far."""
        return self.Q[:, : self.r]

    def reached(self) -> bool:
        """Whether the residual is below the goal, the downdated φ being confirmed by an exact one."""
        if self.p.tol is None or self.r == 0 or self.phi > self.p.goal:
            return False
        self.phi = frobenius2(project_off(self.B, self.basis()))
        return self.phi <= self.p.goal

    def best(self, eligible: Array) -> int:
        """Eligible column of largest gain; the first one where the target has nothing left to gain."""
        xp, zero = self.xp, self.xp.zeros_like(self.g)
        if self.phi <= self.nothing:
            return self.p.argmax(zero, eligible)
        g = xp.where(eligible, self.g, xp.ones_like(self.g))
        score = xp.where(eligible, self.f / g, zero)
        slack = DOWNDATE_SLACK * float(xp.finfo(self.A.dtype).eps) * (self.f0 + score * self.g0) / g
        return self.p.argmax(score, eligible, slack)

    def add(self, j: int, q: Array, eligible: Array) -> None:
        """Extend the basis by the direction q of column j and update.

        With r = qᴴE, s = Fᴴq and v the part of Fs orthogonal to q: Fs = v + ‖s‖²q, and F₊ᴴe₊ = Fᴴe - s r_j
        gives f₊ = f - 2 Re(r̄_j sᴴFᴴe_j) + ‖s‖²|r_j|² = f - 2 Re(r̄_j vᴴa_j) - ‖s‖²|r_j|².
        """
        xp = self.xp
        self.directions.append(j)
        self.Q[:, self.r] = q
        self.r += 1
        r = conjugate(q) @ self.A
        s = conjugate(r) if self.p.target is None else conjugate(conjugate(q) @ self.B)
        v = project_off(self.B @ s, self.basis())
        cross = conjugate(r) * (conjugate(v) @ self.A)
        cross = xp.real(cross) if xp.isdtype(cross.dtype, "complex floating") else cross
        ss = float(xp.sum(sq(s)))
        zero = xp.zeros_like(self.g)
        self.f = xp.maximum(self.f - ss * sq(r) - 2 * cross, zero)
        self.g = xp.maximum(self.g - sq(r), zero)
        self.phi = max(0.0, self.phi - ss)
        self._renew(eligible)

    def _renew(self, eligible: Array) -> None:
        """Form f and g from explicit residuals where downdating has cancelled half of the digits."""
        xp, half = self.xp, math.sqrt(float(self.xp.finfo(self.A.dtype).eps))
        stale = eligible & ((self.g < half * self.g0) | (self.f < half * self.f0))
        count = int(xp.sum(xp.astype(stale, xp.int64)))
        if self.phi < half * self.phi0 or 4 * count > self.p.n:
            height = float(xp.max(xp.where(eligible, self.g, xp.zeros_like(self.g))))
            if self.single and height < (SINGLE_REACH * self.p.largest) ** 2:
                self._double()
            self._deflate()
        elif count:
            self._deflate_columns(stale)

    def _double(self) -> None:
        """Go back to A and B, in double precision."""
        self.A, self.B, self.single = widen(self.p.A), widen(self.p.B), False
        have, _ = basis(take_columns(self.A, self.directions), self.p.noise)
        self.Q, self.r = self._room(self.A), have.shape[1]
        self.Q[:, : self.r] = have

    def _deflate(self) -> None:
        """Replace A and B by their residuals."""
        self.A = project_off(self.A, self.basis())
        self.B = self.A if self.p.target is None else project_off(self.B, self.basis())
        self.own, self.phi = True, frobenius2(self.B)
        self._restart(_correlations(self.A, self.B), column_norms2(self.A))

    def _deflate_columns(self, stale: Array) -> None:
        place = self.xp.nonzero(stale)[0]
        E = project_off(take_columns(self.A, place), self.basis())
        if not self.own:
            self.A, self.own = self.xp.asarray(self.A, copy=True), True
            self.B = self.A if self.p.target is None else self.B
        for i in range(E.shape[1]):
            self.A[:, int(place[i])] = E[:, i]
        self.f[stale], self.g[stale] = _correlations(E, self.B), column_norms2(E)
        self.f0 = self.xp.where(stale, self.f, self.f0)
        self.g0 = self.xp.where(stale, self.g, self.g0)

    def _restart(self, f: Array, g: Array) -> None:
        self.f, self.g, self.f0, self.g0, self.phi0 = f, g, f, g, self.phi

    def _room(self, A: Array) -> Array:
        return self.xp.zeros((self.p.m, min(self.p.k, self.p.m)), dtype=A.dtype, device=self.p.device)


def _correlations(A: Array, B: Array) -> Array:
    """Squared norms of the columns of BᴴA, through BBᴴ where that is smaller."""
    m, n = A.shape
    if B.shape[1] <= m:
        Bh, step = adjoint(B), max(1, BLOCK // max(m, B.shape[1]))
        xp = array_namespace(A)
        return xp.concat([column_norms2(Bh @ A[:, a : min(a + step, n)]) for a in range(0, n, step)])
    return _quadratic(A, B @ adjoint(B))


def _quadratic(A: Array, K: Array) -> Array:
    """aᴴKa for each column a of A."""
    xp = array_namespace(A)
    product = conjugate(A) * (K @ A)
    total = xp.sum(product, axis=0)
    return xp.real(total) if xp.isdtype(total.dtype, "complex floating") else total
