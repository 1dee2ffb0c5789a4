"""Columns along a barrier, without weights: the smallest singular value of V_S is kept away from zero.

Kozyrev and Osinsky, "Subset selection for matrices in spectral norm", 2025 [kozyrev2025], algorithm 4 with ε fixed. V
(r, n) are the leading right singular vectors, Y = V_S V_Sᴴ and Φ_l(Y) = tr (Y - l)⁻¹. Each step raises the barrier l
by δ and takes the column for which Φ falls most; it is ε again, so that λ_min(Y) ≥ l + 1/ε. After k ≥ r steps
σ_min(V_S)² ≥ (r/n) ((k - α)/(α - 1))², α = √((k - 1) r + 1), and 1/σ_min² is the factor on the error of rank r, in
both norms. `bss` weighs its columns and reads A - A_r, too: its Frobenius factor does not depend on n.
"""

from __future__ import annotations

import math

import numpy as np

from cssp import bounds
from cssp.errors import ArgumentError, check_integer
from cssp.methods._shared import Rest, completed, rest, shortest, weighted_squares
from cssp.methods.gappypod_e import modes
from cssp.methods.row import FORCED, Guarantee, Method
from cssp.problem import Picks, Problem
from cssp.vectors import exact_only

#: Halvings of the interval that holds the barrier.
HALVINGS = 80


def barrier(p: Problem, *, rank: int | None = None, svd: str = "exact") -> Picks:
    """Choose the column that lowers the potential tr (Y - l)⁻¹ most, and raise l until it is ε again, k times.

    Parameters
    ----------
    rank : int, optional
        Number r of singular vectors, at most k; half of k by default.
    svd : {"exact", "sketched"}
        Take V from an SVD, or from a Gaussian sketch: a few products with k + 10 vectors, and no factor.
    """
    if rank is not None and (rank := check_integer("rank", rank)) > p.k:
        raise ArgumentError(f"rank = {rank}: expected at most k = {p.k}, a column for every vector")
    return shortest(p, lambda q: _along(q, rank, svd))


def _along(p: Problem, rank: int | None, svd: str) -> Picks:
    a = rest(p)
    _, Vh, most = a.svd(svd)
    r = min(modes(max(1, p.free), rank), most)
    return completed(p, steps(a, Vh[:r].formed(), p.free) if r else ())


def steps(a: Rest, V: np.ndarray, k: int) -> list[int]:
    """Return k columns of V (r, n), whose rows are orthonormal, in order of choice; fewer where no more may be."""
    (r, n), S = V.shape, list[int]()
    Y, x, W = np.zeros((r, r), dtype=V.dtype), np.zeros(r), np.eye(r)
    epsilon = _epsilon(n, k, r)
    l, allowed = -r / epsilon, a.open.copy()
    while len(S) < k and allowed.any():
        c = max(0.0, 1 - l - r / epsilon) / (n - len(S))
        b = 1 + epsilon * c
        delta = 2 * c / (b + math.sqrt(max(0.0, b * b - 4 * epsilon * c / r)))
        M = 1 / (x - l - delta) if r > 1 else np.ones(1)
        fall, grown = weighted_squares(np.stack([M**2, M]), W, V)
        j = a.best((fall / (1 + grown))[a.first], allowed)
        S.append(j)
        allowed[j] = False
        Y = Y + np.outer(V[:, j], V[:, j].conj())
        x, W = np.linalg.eigh(Y)
        l = _level(x, epsilon)
    return S


def _epsilon(n: int, k: int, r: int) -> float:
    """Return the ε for which the theorem's bound is largest; of one vector it has no influence."""
    if r == 1:
        return float(n)
    alpha = math.sqrt((k - 1) * r + 1)
    return n * (2 * (alpha - 1) + r * (k * (alpha + r - 2) - 2 * alpha - r + 3)) / ((k - 1) * r * (k - r + 1))


def _level(x: np.ndarray, epsilon: float) -> float:
    """Return the l below all eigenvalues x at which Σ 1/(x - l) = ε."""
    low, high = -len(x) / epsilon, float(x[0])
    for _ in range(HALVINGS):
        l = (low + high) / 2
        with np.errstate(divide="ignore"):
            low, high = (l, high) if np.sum(1 / (x - l)) < epsilon else (low, l)
    return low


def _factor(m: int, n: int, k: int, rank: int | None = None, svd: str = "exact") -> float | None:
    return exact_only(lambda m, n, k: bounds.barrier(n, k, modes(k, rank)))(m, n, k, svd=svd)


ROW = Method(
    name="barrier",
    function=barrier,
    summary="along a barrier below the spectrum of V_S V_Sᵀ: k columns for the error of a lower rank, both norms",
    citation="kozyrev2025",
    cost="SVD + 2nk rank²",
    supports=FORCED | {"tol", "complex"},
    guarantee=Guarantee(
        "F <= c OPT_rank and T <= c s_{rank+1}² with c = (n/rank) ((α - 1)/(k - α))², α² = (k - 1) rank + 1, rank <= k",
        "kozyrev2025",
        "every run",
        frobenius=_factor,
        spectral=_factor,
        rank=lambda m, n, k, rank=None, **_: modes(k, rank),
        name="the barrier method without weights",
    ),
)
