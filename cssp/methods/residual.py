"""Greedy residual, that is column-pivoted QR stopped at k.

Businger and Golub, "Linear least squares solutions by Householder transformations", Numer. Math. 7:269-276,
1965 [businger1965], with the safe norm downdating of Drmač and Bujanović, ACM TOMS 35(2), 2008 [drmac2008]
(LAPACK Working Note 176, as in LAPACK's dlaqp2). On A·diag(w) this is also greedy MAP inference for a
determinantal point process of quality w, and pivoted Cholesky on its Gram matrix.
"""

from __future__ import annotations

import math

from array_api_compat import is_torch_array

from cssp import bounds
from cssp.errors import ArgumentError
from cssp.linalg import (
    basis,
    conjugate,
    in_host_memory,
    orthogonalise,
    places,
    put,
    residual_norms2,
    squares,
    take_columns,
    widen,
)
from cssp.methods._fused import fused
from cssp.methods.row import FORCED, NATIVE, PASSES, Guarantee, Method
from cssp.pivoting import norm_slack, stale_level
from cssp.pivoting.memory import speculative
from cssp.problem import Array, Picks, Problem


def residual(p: Problem, *, speculate: bool | None = None) -> Picks:
    """Choose the column farthest from the span of those chosen, k times.

    In host memory several picks are guessed, then verified with one product (`cssp.pivoting.memory`): the picks are
    the same, near-ties apart. ``speculate=False`` passes over A once per pick, as devices do that have no fused kernel
    (`cssp.methods._fused`); so does the default where A is small enough to stay in the cache.
    """
    if speculate is not None and not isinstance(speculate, bool):
        raise ArgumentError(f"speculate = {speculate!r}: expected None, True or False")
    if in_host_memory(p.A):
        return speculative(p, speculate)
    found = fused(p) if speculate is not False and is_torch_array(p.A) and p.A.device.type == "cuda" else None
    return textbook(p) if found is None else found


def textbook(p: Problem) -> Picks:
    """Return the algorithm as published, in any Array-API namespace.

    A itself is read once per pick; only an orthonormal basis Q and the squared residual norms N are kept.
    """
    xp, A, eps = p.xp, p.A, p.eps
    single = widen(A[:1, :1]).dtype != A.dtype
    Q = xp.zeros((p.m, min(p.k, p.m)), dtype=A.dtype, device=p.device)
    N = xp.asarray(p.norms2, copy=True)
    exact = xp.asarray(N, copy=True)  # N where it was last formed from the columns
    open_ = xp.asarray(p.candidates, copy=True)
    unseen = xp.ones_like(open_)
    indices = list(p.include)
    heights: list[float] = []
    r = 0
    if indices:
        have, _ = basis(take_columns(A, indices), p.floor)
        r = have.shape[1]
        Q[:, :r] = have
        for j in indices:
            unseen[j] = False
        N = _refresh(xp.where(unseen, N, xp.zeros_like(N)), unseen, A, have)
        exact = xp.asarray(N, copy=True)
    while len(indices) < p.k:
        if _reached(p, N, unseen, A, Q[:, :r]) or not bool(xp.any(open_)):
            break
        j = p.argmax(N, open_, norm_slack(exact, eps))
        height = math.sqrt(float(N[j]))
        if not height > p.noise:
            break
        if single and height < p.reach:
            A, Q, N, r = _doubled(p, indices)
            exact, eps, single = xp.asarray(N, copy=True), float(xp.finfo(A.dtype).eps), False
            continue
        e, norm = orthogonalise(A[:, j], Q[:, :r])
        open_[j] = False
        N[j] = 0
        if not (norm > p.noise and r < p.m):
            continue
        indices.append(j)
        p.progress(len(indices), p.k)
        unseen[j] = False
        q = e / norm
        Q[:, r] = q
        r += 1
        heights.append(norm)
        N = N - squares(conjugate(q) @ A)
        stale = unseen & (stale_level(exact, eps) >= N) & (exact > p.noise**2)
        N = xp.where(unseen & (N > 0), N, xp.zeros_like(N))
        if bool(xp.any(stale)):
            N = _refresh(N, stale, A, Q[:, :r])
            exact = xp.where(stale, N, exact)
    return p.pivots(indices, heights)


def _reached(p: Problem, N: Array, unseen: Array, A: Array, Q: Array) -> bool:
    """Return whether the residual is below the goal, downdated norms being confirmed by exact ones."""
    if p.tol is None or Q.shape[1] == 0 or float(p.xp.sum(N)) > p.goal:
        return False
    return float(p.xp.sum(_refresh(N, unseen, A, Q))) <= p.goal


def _refresh(N: Array, stale: Array, A: Array, Q: Array) -> Array:
    """Return N with the residual norms of the stale columns formed anew from the columns themselves."""
    return put(N, stale, residual_norms2(take_columns(A, places(stale)), Q))


def _doubled(p: Problem, indices: list[int]) -> tuple[Array, Array, Array, int]:
    """Return A, Q, N and the number of directions in Q, in double precision; Q with room for the picks to come."""
    A = widen(p.A)
    have, _ = basis(take_columns(A, indices), p.noise)
    Q = p.xp.zeros((p.m, min(p.k, p.m)), dtype=A.dtype, device=p.device)
    Q[:, : have.shape[1]] = have
    return A, Q, residual_norms2(A, have), have.shape[1]


#: Of pivoted QR in exact arithmetic, whichever way the norms are kept.
GUARANTEE = Guarantee(
    "T <= ((4^k - 1)/3 (n - k) + 1) s_{k+1}², the least upper bound; F <= (n - k)(4^k + 2)/3 OPT_k",
    "kawamura2021",
    "every run",
    frobenius=lambda m, n, k, **options: bounds.pivoted_qr_frobenius(n, k),
    spectral=lambda m, n, k, **options: bounds.pivoted_qr(n, k),
    name="pivoted QR",
    largest=lambda m, n, k, **options: bounds.greedy_width(k),
    largest_source="binev2011",
)


ROW = Method(
    name="residual",
    function=residual,
    summary="largest residual norm first: column-pivoted QR with safe norms, stopped at k",
    citation="businger1965",
    cost="2mnk",
    nested=True,
    backends=(*NATIVE, *PASSES),
    supports=FORCED | {"tol", "complex", "constraint", "groups", "costs"},
    guarantee=GUARANTEE,
)
