"""Methods that need singular vectors, on a matrix of few rows with nearly the same geometry; and pivots of a sketch.

The range finder and its a-priori error are those of Halko, Martinsson and Tropp, "Finding structure with randomness",
SIAM Review 53:217-288, 2011 [halko2011].
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cssp.errors import check_integer
from cssp.linalg import basis, project_off
from cssp.methods.leverage import leverage as leverage_of
from cssp.methods.osinsky import osinsky as osinsky_of
from cssp.methods.residual import residual as residual_of
from cssp.methods.sketched_qr import BLOCK
from cssp.methods.volume import volume as volume_of
from cssp.passes.chunks import ChunkSource, HeldChunks
from cssp.passes.problem import PassProblem
from cssp.passes.residual import residual
from cssp.passes.source import Held
from cssp.problem import Picks, Problem
from cssp.scaling import default_floating_errors
from cssp.vectors import orthonormal

__all__ = ["compressed", "leverage", "osinsky", "sketched_optimum", "sketched_qr", "volume"]

#: Rows of a sketch beyond k.
OVERSAMPLE = 10


def compressed(p: PassProblem, rank: int, oversample: int) -> Problem:
    """Return the problem on B = [QᴴA; Ω(A - QQᴴA)], 2(rank + oversample) rows: two passes.

    Q spans A times a Gaussian matrix and Ω is Gaussian: QᴴA has A's leading singular vectors nearly, and BᴴB is AᴴA but for
    the part of A outside Q, whose inner products are estimated. Where Q spans A they are those of A.
    """
    A, (m, n) = p.A.view(p.A.wide), p.A.shape
    rng = p.rng.spawn(1)[0]  # the method's own draws stay what they are in memory
    l = min(m, n, rank + oversample)
    Q = orthonormal(A.gaussian(l, rng))
    Omega = _gaussian(rng, m, l, A.dtype) / math.sqrt(l)
    Omega -= Q @ (Q.conj().T @ Omega)
    B = A.sweep(np.hstack([Q, Omega]) if l < min(m, n) else Q)[0].whole()
    return Problem(A=B, k=p.k, candidates=p.candidates, include=p.include, tol=p.tol, rng=p.rng, width=p.n)


def leverage(p: PassProblem, *, rank: int | None = None, oversample: int = OVERSAMPLE) -> Picks:
    """Return the leverage scores of the leading singular vectors of a sketch."""
    r = p.free if rank is None else check_integer("rank", rank, high=min(p.m, p.n))
    return Picks(leverage_of(_compressed(p, oversample, r), rank=rank).indices)


def osinsky(p: PassProblem, *, oversample: int = OVERSAMPLE) -> Picks:
    """Choose by derandomised adaptive pivoting on a sketch; k + 1 times the optimum of the sketch."""
    return Picks(osinsky_of(_compressed(p, oversample)).indices)


def volume(p: PassProblem, *, oversample: int = OVERSAMPLE) -> Picks:
    """Choose by volume sampling from the Gram matrix of a sketch."""
    return Picks(volume_of(_compressed(p, oversample)).indices)


def _compressed(p: PassProblem, oversample: int, rank: int = 0) -> Problem:
    return compressed(p, max(p.k, rank), check_integer("oversample", oversample, low=0))


def sketched_qr(p: PassProblem, *, rank: int | None = None, oversample: int = OVERSAMPLE) -> Picks:
    """Return the pivots of ΩA, Ω Gaussian with rank + oversample rows: one pass for each `rank` of them, k by default.

    The sketch stays with the workers, and its pivots are found there by `cssp.passes.residual`.
    """
    b = max(1, p.free if p.tol is None else min(p.free, BLOCK))
    if rank is not None:
        b = check_integer("rank", rank)
    l = b + check_integer("oversample", oversample, low=0)
    open_, indices = p.candidates.copy(), list(p.include)
    threshold = p.floor
    while len(indices) < p.k and open_.any():
        C = p.take(indices)
        Q, _ = basis(C, threshold)
        if p.tol is not None and indices and float(np.sum(p.A.residual_norms2(Q))) <= p.goal:
            break
        Omega = p.rng.standard_normal((l, p.m)).conj().T / math.sqrt(l)
        Omega = Omega.astype(p.A.dtype)
        Omega -= Q @ (Q.conj().T @ Omega)
        held, _ = p.A.sweep(Omega)
        J = _pivots(held, l, p, min(p.k - len(indices), b, int(open_.sum())), open_)
        E = project_off(p.take(J), Q)
        _, independent = basis(E, threshold)
        J = [j for j, yes in zip(J, independent, strict=True) if yes]
        if not J:
            if threshold == p.noise:
                break
            threshold = p.noise  # no independent column is left
        indices += J
        p.progress(len(indices), p.k)
        open_[J] = False
    return Picks(indices)


def _pivots(held: Held, rows: int, p: PassProblem, k: int, open_: np.ndarray) -> list[int]:
    """Return the pivots of a held sketch, where it is."""
    if not isinstance(held, HeldChunks):
        return list(residual_of(Problem(A=held.whole(), k=k, candidates=open_)).indices)
    B = ChunkSource(held.array(rows, p.A.dtype), p.A.dtype)
    norms2 = np.concatenate(held.map(_norms2))
    return list(residual(PassProblem(A=B, k=k, candidates=open_, given=norms2)).indices)


@default_floating_errors
def sketched_optimum(
    A: Any, k: int, *, oversample: int = OVERSAMPLE, powers: int = 1, rng: int | None = None
) -> float:
    """Return an estimate of Σ_{i>k} σ_i², the least squared error of rank k, by a randomised SVD [halko2011].

    It is never below the optimum but for rounding: what Q of rank k + oversample captures is no more than what the best
    k directions capture, in expectation close to it. 3 + powers passes, twice `powers` where A has several rows of chunks.

    Parameters
    ----------
    A : dask array, sparse matrix or LinearOperator, shape (m, n)
    k : int
    powers : int
        Multiplications by AAᴴ, which sharpen it where singular values fall slowly.
    """
    from cssp.passes import problem_of

    p = problem_of(A)
    source, (m, n) = p.A.view(p.A.wide), p.A.shape
    generator = np.random.default_rng(rng)
    Q = orthonormal(source.gaussian(min(m, n, k + oversample), generator))
    for _ in range(powers):
        Q = orthonormal(source.outer(Q))
    gram = np.sum(source.sweep(Q, after=_outer)[0].map(_same), axis=0)
    captured = np.linalg.eigvalsh(gram)[::-1][:k]
    left = max(0.0, float(np.sum(p.norms2)) - float(np.sum(captured)))
    with np.errstate(over="ignore"):  # a square beyond the range is inf
        return float(np.ldexp(left, 2 * p.exponent))


def _gaussian(rng: np.random.Generator, rows: int, columns: int, dtype: np.dtype) -> np.ndarray:
    return rng.standard_normal((rows, columns)).astype(dtype)


def _norms2(part: np.ndarray, start: int) -> np.ndarray:
    return np.sum(np.abs(part.astype(np.complex128 if part.dtype.kind == "c" else np.float64)) ** 2, axis=0)


def _outer(G: np.ndarray) -> np.ndarray:
    return G @ G.conj().T


def _same(part: np.ndarray, start: int) -> np.ndarray:
    return part
