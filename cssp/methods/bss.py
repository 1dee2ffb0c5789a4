"""Dual-set sparsification: more columns than the rank they are to reach, chosen along a barrier.

Boutsidis, Drineas and Magdon-Ismail, "Near-optimal column-based matrix reconstruction", SIAM J. Comput. 43(2), 2014
[boutsidis2014], after Batson, Spielman and Srivastava [batson2012]. r > k columns with weights s_j such that
λ_k(Σ s_j v_j v_jᵀ) ≥ (1 - √(k/r))² and Σ s_j ‖e_j‖² ≤ ‖E‖_F², v_j the columns of V_kᵀ and e_j those of E = A - A_k.
Hence F ≤ (1 + 1 / (1 - √(k/r))²) OPT_k. The paper's r is the library's k, its k the option `rank`.
"""

from __future__ import annotations

import math

import numpy as np

from cssp import bounds
from cssp.errors import ArgumentError, check_integer
from cssp.methods._shared import Rest, completed, rest, shortest, weighted_squares
from cssp.methods.row import FORCED, Guarantee, Method
from cssp.problem import Picks, Problem


def bss(p: Problem, *, rank: int | None = None) -> Picks:
    """Raise the lower barrier L_t = t - √(rk) in r steps; keep the columns of these steps, filled up to r by greedy residual."""
    if rank is None:
        return shortest(p, lambda q: _barrier_steps(q, bss_rank(q.free)))
    if not (rank := check_integer("rank", rank)) < p.k:
        raise ArgumentError(
            f"rank = {rank}: must be less than k = {p.k}; bss reaches the error of a low rank with more columns than "
            "that, and the default is max(1, k // 4)"
        )
    return shortest(p, lambda q: _barrier_steps(q, rank))


def bss_rank(k: int, rank: int | None = None) -> int:
    """Return the rank to be reached with k columns, a quarter of them by default."""
    return max(1, k // 4) if rank is None else int(rank)


def _barrier_steps(p: Problem, rank: int) -> Picks:
    a, r = rest(p), p.free
    s, Vh, most = a.svd(every=True)
    k = min(rank, most)
    if not 0 < k < r:  # too few columns for a barrier
        return completed(p, ())
    tail = np.where(s > a.zero, s, 0)  # what is rounding would be magnified to the size of V
    tail[:k] = 0
    return completed(p, dict.fromkeys(j for j, _ in dual_set(a, Vh[:k].formed(), Vh.norms2(tail**2), r)))


def dual_set(a: Rest, V: np.ndarray, e2: np.ndarray, r: int) -> list[tuple[int, float]]:
    """Return the steps (j, t) of the algorithm: weight t goes to column j; the paper's weights are their sums times (1 - √(k/r))/r.

    Parameters
    ----------
    V : array, shape (k, n)
        V_kᵀ.
    e2 : array, shape (n,)
        ‖e_j‖².
    r : int
        Steps, more than k.
    """
    k = V.shape[0]
    shrink = 1 - math.sqrt(k / r)
    U = e2 * (shrink / (np.sum(e2) or 1.0))
    A = np.zeros((k, k), dtype=V.dtype)
    steps: list[tuple[int, float]] = []
    for tau in range(r):
        lower = tau - math.sqrt(r * k)
        x, Z = np.linalg.eigh(A)
        gap = x - (lower + 1)
        growth = np.sum(1 / gap) - np.sum(1 / (x - lower))
        L = weighted_squares((1 / gap**2 / growth - 1 / gap)[None], Z, V)[0, a.first]
        # Some j has U_j ≤ L_j, for the sums over all columns are ordered so; the widest gap, and the least weight.
        free = a.open & (L > 0) & (U <= L)
        if not free.any():
            break
        j = a.best(np.maximum(L - U, 0), free)
        t = float(1 / L[j])
        A = A + t * np.outer(V[:, j], V[:, j].conj())
        steps.append((j, t))
    return steps


ROW = Method(
    name="bss",
    function=bss,
    summary="dual-set sparsification: k columns for the error of a lower rank",
    citation="boutsidis2014",
    cost="SVD + 2nk rank²",
    supports=FORCED | {"tol", "complex"},
    guarantee=Guarantee(
        "F <= (1 + 1/(1 - √(rank/k))²) OPT_rank, rank < k",
        "boutsidis2014",
        "every run",
        frobenius=lambda m, n, k, rank=None: (
            bounds.bss_frobenius(bss_rank(k, rank), k) if bss_rank(k, rank) < k else None
        ),
        rank=lambda m, n, k, rank=None: bss_rank(k, rank),
        name="dual-set sparsification",
    ),
)
