"""Greedy gain on a matrix read in passes.

Sparse matrices and operators: the recursion of `cssp.methods.greedy` with AAᴴ applied to a vector, two products a pick.

Dask arrays: composable core-sets, as Altschuler, Bhaskara, Fu, Mirrokni, Rostamizadeh and Zadimoghaddam, "Greedy column
subset selection: new bounds and distributed algorithms", ICML 2016 [altschuler2016]. Every block of columns offers its own
greedy picks, and greedy chooses among what is offered. All of them reconstruct the projection of A on its leading left
singular vectors, found by a sketch; Farahat et al. 2015 [farahat2015] reconstruct a sketch.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from cssp.errors import UnsupportedError, check_integer
from cssp.linalg import basis, column_norms2, orthogonalise, project_off
from cssp.linalg import squares as sq
from cssp.methods.greedy import largest_gain
from cssp.passes.blocks import BLOCK
from cssp.passes.chunks import ChunkSource
from cssp.passes.problem import PassProblem
from cssp.passes.source import Local, Source
from cssp.pivoting import norm_slack, stale_level, tie_bar
from cssp.pivoting.exponents import norms2_without, smallest_p_norm
from cssp.problem import Picks, Problem
from cssp.residuals import as_exponent
from cssp.vectors import orthonormal

__all__ = ["greedy"]

#: Columns that a core-set offers for each column to choose.
OFFER = 2

#: Most columns of a matrix read in passes for exponents other than 2.
MOST = 8192

#: Core-sets merged at a time.
FAN = 8

#: A matrix of no more rows than this many times k is reconstructed itself, instead of its projection.
WIDE = 4


def greedy(problem: PassProblem, *, oversample: int = 10, p: float = 2) -> Picks:
    """Choose by greedy gain; of a dask array by core-sets, in four passes.

    Parameters
    ----------
    oversample : int
        Singular vectors beyond k, for dask arrays.
    p : float
        As in memory; other exponents than 2 keep n x n numbers, so that n is limited, and of a dask array they choose among all
        columns, in about two passes a pick, in more where scores tie.
    """
    l = problem.k + check_integer("oversample", oversample, low=0)
    p = as_exponent(p)
    if p != 2:
        if problem.n > MOST:
            raise UnsupportedError(
                f"p = {p:g} needs the products of all pairs of residuals, {problem.n} x {problem.n} numbers, and {MOST} columns "
                "are the most for a matrix read in passes; expected p=2, or method='residual', which lowers the largest residual"
            )
        double = problem.numpy("double")
        return smallest_p_norm(double, _Read(double.A, double.norms2), p)
    return _coresets(problem, l) if isinstance(problem.A, ChunkSource) else _direct(problem)


class _Read:
    """A matrix read in passes, see `cssp.pivoting.exponents.Columns`."""

    def __init__(self, A: Source, norms2: np.ndarray) -> None:
        self.A, self.whole2 = A, norms2

    def take(self, J: list[int]) -> np.ndarray:
        return self.A.take(J)

    def products(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        r = self.A.sweep(q[:, None])[0].whole()[0]
        return r, r

    def rows(self, J: np.ndarray, Q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        step = max(1, BLOCK // self.A.shape[0])
        parts = [project_off(self.A.take(J[a : a + step].tolist()), Q) for a in range(0, J.size, step)]
        R = np.concatenate([self.A.sweep(E)[0].whole() for E in parts])
        return np.concatenate([column_norms2(E) for E in parts]), R

    def columns(self, J: np.ndarray, Q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        norms2, R = self.rows(J, Q)
        return norms2, R.conj().T

    def norms2(self, Q: np.ndarray) -> np.ndarray:
        return self.A.residual_norms2(Q)

    def norms2_after(self, Q: np.ndarray, E: np.ndarray) -> np.ndarray:
        f, explained = self.A.residual_norms2(Q), sq(self.A.sweep(E)[0].whole())
        left = f - explained
        cancelled = np.flatnonzero(np.any(explained > f / 2, axis=0) | (f < self.whole2 / 16))
        step = max(1, BLOCK // self.A.shape[0])
        for a in range(0, cancelled.size, step):
            J = cancelled[a : a + step]
            left[:, J] = norms2_without(project_off(self.A.take(J.tolist()), Q), E)
        return left


def _coresets(p: PassProblem, l: int) -> Picks:
    A = p.A
    assert isinstance(A, ChunkSource)
    Q = np.eye(p.m) if p.m <= WIDE * l else orthonormal(A.gaussian(l, p.rng))
    lam, U = np.linalg.eigh(np.sum(A.sweep(Q, after=_outer)[0].map(_part), axis=0))
    Y = (Q @ (U * np.sqrt(np.maximum(lam, 0)))).astype(A.dtype)  # YYᴴ = QQᴴAAᴴQQᴴ: all that gains depend on
    C = p.take(p.include)
    first = partial(_offer, Y=Y, k=OFFER * p.k, C=C, candidates=p.candidates)
    merge = partial(_merged, Y=Y, k=OFFER * p.k, C=C)
    offers = A.reduced(first, merge, FAN)
    place, _ = _merged(offers, Y=Y, k=p.k, C=C)
    return Picks([*p.include, *place.tolist()])


def _offer(
    X: np.ndarray,
    start: int,
    *,
    Y: np.ndarray,
    k: int,
    C: np.ndarray,
    candidates: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return greedy picks among columns of one block: their numbers and the columns themselves."""
    place = start + np.flatnonzero(candidates[start : start + X.shape[1]])
    return _best(place, X[:, place - start], Y, k, C)


def _merged(
    offers: list[tuple[np.ndarray, np.ndarray]],
    *,
    Y: np.ndarray,
    k: int,
    C: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    place = np.concatenate([offer[0] for offer in offers])
    order = np.argsort(place)  # a tie goes to the lowest index
    return _best(place[order], np.hstack([offer[1] for offer in offers])[:, order], Y, k, C)


def _best(
    place: np.ndarray, X: np.ndarray, Y: np.ndarray, k: int, C: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    c, n = C.shape[1], place.size
    free = np.concatenate([np.zeros(c, dtype=bool), np.ones(n, dtype=bool)])
    p = Problem(A=np.hstack([C, X]), k=min(k, c + n), candidates=free, include=tuple(range(c)), target=Y)
    found = np.array(largest_gain(p).indices[c:], dtype=np.int64) - c
    return place[found], np.asfortranarray(X[:, found])


def _direct(p: PassProblem) -> Picks:
    """Choose argmax f_j/g_j, f_j = ‖Eᴴe_j‖² and g_j = ‖e_j‖² of residuals; f, g downdated and formed anew as in memory.

    In memory the residual of a column formed anew replaces the column. Here the column itself stays in use, so that every later
    product with it rounds by eps·‖a_j‖: f0 and g0, which rounding is relative to, grow by what that costs.
    """
    p = p.numpy("double")
    A = p.A
    assert isinstance(A, Local)
    eps = float(np.finfo(np.float64).eps)
    Q = np.zeros((p.m, min(p.k, p.m)), dtype=A.dtype)
    r = 0
    g = np.array(p.norms2)
    f = A.gains()
    f0, g0, norms = f.copy(), g.copy(), np.sqrt(g)
    renewed = np.zeros(p.n, dtype=bool)  # f and g were formed anew, and more than rounding was left
    open_ = p.candidates.copy()
    indices = list(p.include)
    given = list(basis(A.take(indices), p.floor)[0].T)  # directions of the included columns
    while given or len(indices) < p.k:
        if given:
            q = given.pop(0)
        else:
            if (
                p.tol is not None
                and r
                and float(np.sum(g)) <= p.goal
                and float(np.sum(A.residual_norms2(Q[:, :r]))) <= p.goal
            ):
                break
            j = _best_gain(p, A, Q[:, :r], open_, f, g, f0, g0, renewed, eps)
            if j is None:
                break
            e, norm = orthogonalise(A.take([j])[:, 0], Q[:, :r])
            open_[j] = False
            if not (norm > p.noise and r < p.m):
                continue
            indices.append(j)
            p.progress(len(indices), p.k)
            q = e / norm
        w = A.sweep(q[:, None])[0].whole()[0]  # qᴴA
        v = project_off(A.right(w.conj()[:, None]), Q[:, :r])[:, 0]  # EEᴴq
        v -= q * np.vdot(q, v)
        Q[:, r] = q
        r += 1
        ss = float(np.sum(sq(w)))
        h = A.sweep(v[:, None])[0].whole()[0] + ss * w
        size, reach = np.abs(w), float(np.linalg.norm(v)) + 2 * ss
        g0 += np.where(renewed, norms * size, 0)
        f0 += np.where(renewed, norms * (np.abs(h) + size * reach), 0)
        f = np.maximum(f - 2 * (w.conj() * h).real + ss * sq(w), 0)
        g = np.maximum(g - sq(w), 0)
    return Picks(indices)


def _best_gain(
    p: PassProblem,
    A: Local,
    Q: np.ndarray,
    open_: np.ndarray,
    f: np.ndarray,
    g: np.ndarray,
    f0: np.ndarray,
    g0: np.ndarray,
    renewed: np.ndarray,
    eps: float,
) -> int | None:
    """Return the open column of largest gain; stale f and g are formed anew where they might win, and marked as renewed."""
    while True:
        lost = (g < stale_level(g0, eps)) | (f < stale_level(f0, eps))
        stale = open_ & lost & (g0 > p.noise**2)
        fresh = p.eligible(g, open_ & ~stale)
        eligible = fresh | stale
        if not eligible.any():
            return None
        slack = norm_slack(g0, eps)
        safe = np.where(stale, np.maximum(g, slack), g)
        safe = np.where(eligible, safe, 1.0)
        score = np.where(eligible, f / safe, 0.0)
        rounding = norm_slack(f0 + score * g0, eps) / safe
        sure = np.where(stale, np.where(renewed, score - rounding, 0.0), score)
        bar = tie_bar(max(0.0, np.max(sure)), eps)
        risky = np.flatnonzero(stale & (score + rounding >= bar))
        if not np.any(g[fresh] > p.floor**2) and not np.any((g - slack)[risky] > p.floor**2):
            risky = np.flatnonzero(stale)  # one of them may be the only independent column left
        if not risky.size:
            break
        step = max(1, BLOCK // p.m)
        for a in range(0, risky.size, step):
            place = risky[a : a + step]
            E = project_off(A.take(place.tolist()), Q)
            f[place], g[place] = _energy(A, E), column_norms2(E)
        f0[risky], g0[risky] = f[risky], g[risky]
        renewed[risky] = g[risky] > p.noise**2
    return p.best_gain(score, g, fresh, rounding, slack)


def _energy(A: Local, E: np.ndarray) -> np.ndarray:
    """Return ‖(A - QQᴴA)ᴴe‖² = ‖Aᴴe‖² for each column e of E, which is orthogonal to Q."""
    step = max(1, BLOCK // A.shape[1])
    out = [A.sweep(E[:, a : a + step], after=_row_energy)[0] for a in range(0, E.shape[1], step)]
    return np.concatenate([np.sum(held.map(_same), axis=0) for held in out])


def _row_energy(G: np.ndarray) -> np.ndarray:
    return np.sum(sq(G), axis=1)[:, None]


def _outer(G: np.ndarray) -> np.ndarray:
    return G @ G.conj().T


def _part(part: np.ndarray, start: int) -> np.ndarray:
    return part


def _same(part: np.ndarray, start: int) -> np.ndarray:
    return part[:, 0]
