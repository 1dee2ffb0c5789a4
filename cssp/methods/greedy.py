"""Greedy gain: the column whose inclusion lowers the Frobenius error most, k times.

Farahat, Ghodsi and Kamel, "An efficient greedy method for unsupervised feature selection", ICDM 2011
[farahat2011]; with a target, "Greedy column subset selection for large-scale data sets", Knowl. Inf. Syst.
45:1-34, 2015 [farahat2015]. Their recursion, without the n × n matrix, on an orthonormal basis, and started
anew from explicit residuals before cancellation costs more than half of the digits.

On K = AᴴA the gain is the drop of the nuclear norm of K - K_S, so these are the nuclear scores of Fornace and
Lindsey, 2024 [fornace2024]: their deterministic selection makes these picks, here and in `cssp.select_gram`. In every
run they capture 1 - (1 - 1/l)ᵏ of what l volume-sampled columns capture on average, for any l.
"""

from __future__ import annotations

import numpy as np
from array_api_compat import array_namespace

from cssp.linalg import (
    adjoint,
    basis,
    column_norms2,
    conjugate,
    frobenius2,
    gram,
    host,
    in_host_memory,
    orthogonalise,
    places,
    project_off,
    put,
    take_columns,
    widen,
)
from cssp.linalg import squares as sq
from cssp.methods.row import FORCED, NATIVE, PASSES, Guarantee, Method
from cssp.pivoting import bases, norm_slack, stale_level, tie_bar
from cssp.pivoting.exponents import Stored, smallest_p_norm
from cssp.pivoting.gains import KEPT, Gains, accurate, certain_run
from cssp.problem import Array, Picks, Problem
from cssp.residuals import as_exponent

#: Error of an entry of the Gram matrix, in units of the difference seen on the diagonal and in units of rounding.
SEEN, LEAST = 2.0, 4.0

#: Most picks of a run.
LENGTH = 64

#: A doubt costs as much, to decide, as the residuals and products of so many columns where those of all are formed together.
SETTLED = 256

#: After so many doubts their number tells how many are to come.
FEW = 3

#: A row of the Gram matrix formed from a residual is worth its cost where its errors shrink by this factor.
WORTH = 4

#: Rows of the Gram matrix that are updated together.
SLAB = 128


def greedy(problem: Problem, *, p: float = 2) -> Picks:
    """Choose the column after which Σ_j h_j^p is smallest, k times, h_j being the residual norms of all columns.

    For p = 2 that is argmax ‖Fᴴe_j‖²/‖e_j‖², with F and e_j the residuals of the target and of column j. The larger p, the
    more the worst columns count; p = inf lowers the largest residual, as the residual rule does without looking ahead.

    Parameters
    ----------
    p : float
        From 1 to infinity. Other exponents than 2 keep the n x n products of all residuals, and cost n² powers a pick.
    """
    p = as_exponent(p)
    return largest_gain(problem) if p == 2 else smallest_p_norm(problem, Stored(problem), p)


def largest_gain(p: Problem) -> Picks:
    """Return the picks for the exponent 2."""
    if in_host_memory(p.A):
        p = p.numpy()
    s = _State(p)
    open_ = p.xp.asarray(p.candidates, copy=True)
    indices = list(p.include)
    have, independent = basis(take_columns(p.A, indices), p.floor)
    for t, i in enumerate(i for i, yes in zip(indices, independent, strict=True) if yes):
        s.add(i, have[:, t], 0.0)
    while len(indices) < p.k and not s.reached():
        if run := s.run(open_, p.k - len(indices)):
            indices += run
            open_[run] = False
            p.progress(len(indices), p.k)
            continue
        j = s.best(open_)
        if j is None:
            break
        e, norm = orthogonalise(s.A[:, j], s.basis())
        if norm > p.noise and s.r < p.m:
            indices.append(j)
            p.progress(len(indices), p.k)
            open_[j] = False
            s.add(j, e / norm, norm)
        else:
            open_[j] = False
    return Picks(indices, len(indices) if s.independent(indices) else None)


class _State:
    """A and B, or what is left of them; the basis Q; f_j = ‖Fᴴe_j‖², g_j = ‖e_j‖² and φ = ‖F‖_F².

    A and B may be replaced, whole or column by column, by their residuals: F, E and so f, g, φ stay the
    same, and the products that update them no longer cancel. f0, g0 and phi0 are the values of that time. The t rows of
    R = QᴴA and Sᴴ, S = BᴴQ, belong to the directions since; what the first of them explain, ``folded``, is no longer in T.

    T = BᴴA where B has few columns, and a step reads A and T once; K = BBᴴ where it has many, and a step reads A once,
    for two products together, and K.

    An entry of T = AᴴA has an error of some units of rounding of √(d_i d_j). At first d_j = ‖a_j‖², or ‖e_j‖² for columns that
    were replaced by their residuals; a pick p whose multiple x_j is taken from column j hands |x_j|²d_p on, as if errors were
    independent. So f_j, formed anew from T, is known to as many units of √(d_j Σ_i d_i|T_ij|²).
    """

    f: Array
    g: Array
    f0: Array
    g0: Array
    phi0: float
    eps: float
    T: Array
    K: Array
    R: Array
    S: Array
    t: int
    folded: int
    d: Array
    d0: Array
    formed: Array  # how many of the t picks there were when d was d0
    unit: float
    C: np.ndarray  # columns of A as they are now: the first `copied` of `directions` since then
    copied: int
    norms2: Array  # of the columns of A as they are now
    settled: list[
        tuple[np.ndarray, np.ndarray]
    ]  # columns whose rows of T are those of their residuals, and these
    rough: Array  # columns whose f, formed from T, is so inaccurate that ties are decided by their residuals
    doubts: int  # how often some columns were replaced by their residuals, or a row of T was too inaccurate, since all were

    def __init__(self, p: Problem) -> None:
        self.p, self.xp, self.A, self.B = p, p.xp, p.A, p.B
        self.Q, self.r = self._rows(p.m).T, 0
        self.own = False  # whether A may be written into
        self.single = widen(p.A[:1, :1]).dtype != p.A.dtype
        self.directions: list[int] = []
        self.pending = 0  # the last directions, which Q does not have yet
        self.phi = float(p.xp.sum(p.norms2)) if p.target is None else frobenius2(p.B)
        self.nothing = 4 * min(p.B.shape) * p.eps**2 * self.phi if p.target is not None else 0.0
        self._restart(p.norms2)

    def basis(self) -> Array:
        """Return an orthonormal basis of the columns chosen so far."""
        if self.pending:
            C = take_columns(self.p.A, self.directions).astype(self.A.dtype, copy=False)
            known = self.Q[:, : self.r] if self.r + self.pending == len(self.directions) else None
            have = bases.basis(C, self.p.noise, known)
            self.r, self.pending = have.shape[1], 0
            self.Q[:, : self.r] = have
        return self.Q[:, : self.r]

    def reached(self) -> bool:
        """Return whether the residual is below the goal, the downdated φ being confirmed by an exact one."""
        if self.p.tol is None or not self.directions or self.phi > self.p.goal:
            return False
        self.phi = frobenius2(project_off(self.B, self.basis()))
        return self.phi <= self.p.goal

    def independent(self, picks: list[int]) -> bool:
        """Return whether R, where it has all of them, shows that the picks are independent: no singular value is below 1/‖R_S⁻¹‖_F."""
        known = self.T is not None and self.p.target is None and isinstance(self.A, np.ndarray)
        if not known or not 0 < self.t == len(self.directions) == len(picks):
            return False
        inverse = np.linalg.inv(np.triu(self.R[: self.t, picks]))
        error = self.unit * float(np.sum(self.norms2[picks]))
        return 1 / float(np.sum(sq(inverse))) - error > self.p.beyond_doubt**2

    def best(self, open_: Array) -> int | None:
        """Open column of largest gain, of largest residual among equals (no other is told from dependence so clearly).

        The first one where the target has nothing left to gain; None at the end.

        f and g that downdating has cost half of their digits are formed anew where they might win.
        """
        xp, p = self.xp, self.p
        if (self._unsettled() and bool(xp.any(self.rough))) or self.phi < stale_level(self.phi0, self.eps):
            self._deflate(open_)
        while True:
            lost = (self.g < stale_level(self.g0, self.eps)) | (self.f < stale_level(self.f0, self.eps))
            stale = open_ & lost & (self.g0 > p.noise**2)
            fresh = p.eligible(self.g, open_ & ~stale)
            eligible = fresh | stale
            if not bool(xp.any(eligible)):
                return None
            slack = norm_slack(self.g0, self.eps)
            g = xp.where(stale, xp.maximum(self.g, slack), self.g)
            g = xp.where(eligible, g, xp.ones_like(g))
            score = xp.where(eligible, self.f / g, xp.zeros_like(g))
            rounding = norm_slack(self.f0 + score * self.g0, self.eps) / g
            bar = tie_bar(xp.max(xp.where(stale, xp.zeros_like(g), score)), self.eps)
            risky = stale & (score + rounding >= bar)
            if not bool(xp.any(fresh & (self.g > p.floor**2))):
                risky = stale  # one of them may be the only independent column left
            if not bool(xp.any(risky)):
                tied = p.tied(score, score - rounding, fresh, rounding)
                risky = tied & self.rough
                if not bool(xp.any(risky)) or count(tied) == 1:
                    break
            elif self._fold():
                continue
            self._doubt()
            if 4 * count(stale) > p.n:
                self._deflate(open_)
            else:
                self._deflate_columns(risky)
        if self.phi <= self.nothing:
            return p.argmax(xp.zeros_like(g), fresh)
        return p.best_gain(score, self.g, fresh, rounding, slack)

    def run(self, open_: Array, most: int) -> list[int]:
        """Make picks that the Gram matrix tells, up to ``most``; none where one with a product with A is due.

        That is where A is not in host memory or has a target, and where no column is above the threshold of dependence.
        """
        p = self.p
        length = min(LENGTH, most, p.m - len(self.directions))
        while p.target is None and self.T is not None and isinstance(self.A, np.ndarray) and length > 0:
            if self.phi < stale_level(self.phi0, self.eps):
                self._deflate(open_)
            self._fold()
            known = Gains(self.f, self.g, self.f0, self.g0, self.d, self.rough, open_, self.unit)
            run = certain_run(p, self.T, known, length, self.phi, self.phi0)
            if run.picks and (right := accurate(run, self.d)) < len(run.picks):
                run = certain_run(p, self.T, known, right, self.phi, self.phi0)
            if t := len(run.picks):
                self.R[self.t : self.t + t], self.t = run.R, self.t + t
                self.f, self.g, self.phi = np.maximum(run.f, 0), np.maximum(run.g, 0), max(0.0, run.phi)
                self.directions += run.picks
                self.pending += t
                return run.picks
            if not run.doubtful.size:
                break
            self._doubt()
            if 4 * run.doubtful.size > p.n or self._unsettled():
                self._deflate(open_)
            else:
                self._settle(run.doubtful, open_)
        if self.settled:  # what T knows of them A does not
            self._deflate(open_)
        return []

    def add(self, j: int, q: Array, norm: float) -> None:
        """Extend the basis by the direction q of column j, whose residual had this norm (0 where it is not known), and update.

        With r = qᴴE and s = Fᴴq, F₊ᴴe₊ = Fᴴe - s r_j gives f₊ = f - 2 Re(r̄_j h_j) + ‖s‖²|r_j|² for h = sᴴFᴴE. It is
        sᴴT without the parts of the directions before, or vᴴA + ‖s‖²r for the part v of Fs = FFᴴq orthogonal to q.
        """
        xp = self.xp
        self.directions.append(j)
        self.Q[:, self.r] = q
        self.r += 1
        if self.T is None:
            v = project_off(self.K @ q, self.basis())
            pair = conjugate(xp.stack([q, v])) @ self.A
            r, h = pair[0, ...], pair[1, ...]
        else:
            r = self._row(j, norm) if self._row_is_accurate(j, norm) else conjugate(q) @ self.A
        s = conjugate(r) if self.p.target is None else conjugate(conjugate(q) @ self.B)
        ss = float(xp.sum(sq(s)))
        if self.T is None:
            h = h + ss * r
        else:
            R, S, t = self.R, self.S, self.t
            since = slice(self.folded, t)
            h = conjugate(s) @ self.T - (conjugate(s) @ adjoint(S[since, :])) @ R[since, :]
            R[t, :], S[t, :], self.t = r, conjugate(s), t + 1
        rh = conjugate(r) * h
        rh = xp.real(rh) if xp.isdtype(rh.dtype, "complex floating") else rh
        zero = xp.zeros_like(self.g)
        self.f = xp.maximum(self.f - 2 * rh + ss * sq(r), zero)
        self.g = xp.maximum(self.g - sq(r), zero)
        self.phi = max(0.0, self.phi - ss)

    def _row_is_accurate(self, j: int, norm: float) -> bool:
        """Return whether qᴴA may be taken from T = AᴴA: column j has kept about as much of its norm as any other.

        The errors of T enter row j by 1/‖e_j‖, so that they cost the norms no more than downdating does.
        """
        if self.p.target is not None or norm == 0.0:
            return False
        total, kept = float(self.xp.sum(self.d)), float(self.xp.sum(self.g))
        return norm**2 * total >= KEPT * kept * float(self.d[j])

    def _row(self, j: int, norm: float) -> Array:
        """Return qᴴA for the direction q of column j, without reading A."""
        R = self.R[self.folded : self.t, :]
        return (self.T[j, :] - conjugate(R[:, j]) @ R) / norm

    def _fold(self) -> bool:
        """Let T be the product of the residuals of today, form f from it where that is more accurate, and say whether it is anywhere."""
        if self.T is None or self.p.target is not None or self.folded == self.t:
            return False
        xp, n, R = self.xp, self.p.n, self.R[self.folded : self.t, :]
        self._errors()
        weights = xp.stack([xp.ones_like(self.d), self.d])
        sums = xp.zeros_like(weights)
        for a in range(0, n, SLAB):  # a product that stays in the cache
            b = min(a + SLAB, n)
            self.T[a:b, :] -= adjoint(R[:, a:b]) @ R
            sums = sums + weights[:, a:b] @ sq(self.T[a:b, :])
        f, error = sums[0, :], self.unit * xp.sqrt(self.d * sums[1, :])
        f0 = f + error / norm_slack(1.0, self.eps)
        better, rough = f0 < self.f0, (f - error < tie_bar(f, self.eps)) & (self.d > WORTH * self.g)
        self.f, self.f0 = xp.where(better, f, self.f), xp.where(better, f0, self.f0)
        self.rough, self.folded = xp.where(better, rough, self.rough), self.t
        return bool(xp.any(better))

    def _errors(self) -> None:
        """Form d from the coefficients of all columns in the picks since d was the squared norm of what is in A, or in a residual."""
        xp, R, chosen = self.xp, self.R[: self.t, :], self.directions[len(self.directions) - self.t :]
        share = sq(xp.linalg.inv(xp.triu(take_columns(R, chosen))) @ R)
        place = xp.arange(self.t, device=self.p.device)[:, None]
        share = xp.where(place < self.formed, xp.zeros_like(share), share)
        self.d = self.d0 + xp.take(self.d0, xp.asarray(chosen, device=self.p.device), axis=0) @ share
        for j in chosen:
            self.d[j] = 0

    def _settle(self, columns: np.ndarray, open_: Array) -> None:
        """Form their rows of T from the residuals of these columns, on the host.

        Residuals are a_j - A_S x for the picks S, whose rows R tell x. What rounding leaves in them of A_S is seen in A_Sᴴe and taken
        from Aᴴe, so that its errors enter as squares; where it is too much, all residuals are formed.
        """
        R, chosen = self.R[: self.t], self.directions[len(self.directions) - self.t :]
        L = np.triu(R[:, chosen])
        E = take_columns(self.A, columns) - self._combined(chosen, np.linalg.solve(L, R[:, columns]))
        T, g = adjoint(self.A) @ E, column_norms2(E)
        seen = sq(T[chosen]) > self.eps * np.outer(self.norms2[chosen], g)
        if np.any(seen[:, g > self.p.floor**2]):
            return self._deflate(open_)
        T -= adjoint(R) @ np.linalg.solve(adjoint(L), T[chosen])
        self.settled.append((columns, E))
        for i, e in self.settled:
            T[i] = adjoint(e) @ E
        self.T[:, columns], self.T[columns] = T, adjoint(T)
        self.g[columns], self.g0[columns], self.d[columns], self.rough[columns] = g, g, g, False
        self.d0[columns], self.formed[columns] = g, self.t
        self.f[columns] = column_norms2(T)
        error = self.unit * np.sqrt(g * (self.d @ sq(T)))
        self.f0[columns] = self.f[columns] + error / norm_slack(1.0, self.eps)

    def _combined(self, chosen: list[int], Y: np.ndarray) -> np.ndarray:
        """Return A_S Y for the columns chosen since A is what it is."""
        t = len(chosen)
        self.C[:, self.copied : t], self.copied = take_columns(self.A, chosen[self.copied :]), t
        return np.asarray(self.C[:, :t] @ Y)

    def _doubt(self) -> None:
        """Count a doubt."""
        if not self.doubts:
            self.first_doubt = len(self.directions)
        self.doubts += 1

    def _unsettled(self) -> bool:
        """Return whether there were so many doubts, or will be, that residuals of all columns, and their products, are cheaper."""
        picks, t = min(self.p.k, self.p.m), len(self.directions)
        to_come = self.doubts * (picks - t) / max(1, t - self.first_doubt) if self.doubts >= FEW else 0
        return max(self.doubts, to_come) * SETTLED > self.p.n + 4 * t

    def _deflate(self, open_: Array) -> None:
        """Replace A and B by their residuals, in double precision where single has lost half its digits."""
        height = float(self.xp.max(self.xp.where(open_, self.g, self.xp.zeros_like(self.g))))
        self.basis()
        if self.single and height < self.p.reach**2:
            self.A, self.B, self.single = widen(self.p.A), widen(self.p.B), False
            have, _ = basis(take_columns(self.A, self.directions), self.p.noise)
            self.Q, self.r = self._rows(self.p.m).T, have.shape[1]
            self.Q[:, : self.r] = have
        lost = open_ & (self.g < stale_level(self.g0, self.eps)) & (self.g0 > self.p.noise**2)
        self.A = project_off(self.A, self.basis(), times=2 if bool(self.xp.any(lost)) else 1)
        self.B = self.A if self.p.target is None else project_off(self.B, self.basis())
        self.own, self.phi = self.r > 0, frobenius2(self.B)
        self._restart(column_norms2(self.A))

    def _deflate_columns(self, which: Array) -> None:
        """Replace these columns of A by their residuals."""
        xp, whole = self.xp, self.p.target is None
        columns = places(which).tolist()
        E = project_off(take_columns(self.A, columns), self.basis())
        if not self.own:
            self.A, self.own = xp.asarray(self.A, copy=True), True
            self.B = self.A if whole else self.B
        for i, j in enumerate(columns):
            self.A[:, j] = E[:, i]
        if self.T is None:
            self.f = put(self.f, which, _quadratic(E, self.K))
        else:
            T = adjoint(self.B) @ E
            for i, j in enumerate(columns):
                self.T[:, j] = T[:, i]
                self.R[: self.t, j] = 0
                if whole:
                    self.T[j, :], self.S[: self.t, j] = conjugate(T[:, i]), 0
            self.f = put(self.f, which, column_norms2(T))
        self.g = put(self.g, which, column_norms2(E))
        self.f0, self.g0 = xp.where(which, self.f, self.f0), xp.where(which, self.g, self.g0)
        self.d, self.d0 = xp.where(which, self.g, self.d), xp.where(which, self.g, self.d0)
        self.rough = self.rough & ~which

    def _restart(self, g: Array) -> None:
        """Form f from the columns as they are now."""
        xp, A, B = self.xp, self.A, self.B
        self.eps = float(self.xp.finfo(A.dtype).eps)
        if B.shape[1] <= 2 * self.p.m:
            self.T, self.K = gram(A) if B is A else adjoint(B) @ A, None
            self.f = column_norms2(self.T)
            self.R, self.t, self.folded = self._rows(self.p.n), 0, 0
            self.S = self.R if B is A else self._rows(B.shape[1])
        else:
            self.T, self.K = None, gram(adjoint(B))
            self.f = _quadratic(A, self.K)
        self.g = self.xp.asarray(g, copy=True)
        self.phi0 = self.phi
        self.rough, self.doubts, self.first_doubt, self.settled, self.norms2 = self.g < 0, 0, 0, [], g
        if isinstance(A, np.ndarray):
            self.C, self.copied = np.empty((self.p.m, min(self.p.k, self.p.m)), A.dtype, order="F"), 0
        self.f0, self.g0, self.d, self.d0 = (
            self.xp.asarray(x, copy=True) for x in (self.f, self.g, self.g, self.g)
        )
        self.formed = self.xp.zeros(self.p.n, dtype=self.xp.int64, device=self.p.device)
        if self.T is not None and B is A:
            seen = xp.abs(xp.abs(xp.linalg.diagonal(self.T)) - self.g) / xp.where(
                self.g > 0, self.g, xp.ones_like(self.g)
            )
            self.unit = max(LEAST * self.eps, SEEN * float(xp.max(seen)))

    def _rows(self, length: int) -> Array:
        """Return memory for a vector of this length for each direction to come."""
        steps = min(self.p.k, self.p.m)
        return self.xp.zeros((steps, length), dtype=self.A.dtype, device=self.p.device)


def count(which: Array) -> int:
    """Return the number of True entries."""
    return int(host(which).sum())


def _quadratic(A: Array, K: Array) -> Array:
    """Return aᴴKa for each column a of A."""
    xp = array_namespace(A)
    product = conjugate(A) * (K @ A)
    total = xp.sum(product, axis=0)
    return xp.real(total) if xp.isdtype(total.dtype, "complex floating") else total


ROW = Method(
    name="greedy",
    function=greedy,
    summary="largest decrease of the Frobenius error first, of A or of a target; or of another p-norm of the residual norms",
    citation="farahat2011",
    cost="2mn min(m, n) + 6mnk",
    nested=True,
    backends=(*NATIVE, *PASSES),
    supports=FORCED | {"tol", "target", "complex", "constraint", "groups", "costs"},
    guarantee=Guarantee(
        "f(S) >= (1 - (1 - 1/l)^k) E f of l volume-sampled columns, any l, f = ‖P_S A‖_F²; f(S) >= (1 - e^-γ) max f, "
        "γ the least 2k-sparse eigenvalue; no factor on the error",
        "fornace2024",
        "every run",
    ),
)
