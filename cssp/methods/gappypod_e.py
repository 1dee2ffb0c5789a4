"""More columns than modes: Q-DEIM first, then the columns that raise the smallest singular value of V_S most.

Peherstorfer, Drmač and Gugercin, "Stability of discrete empirical interpolation and gappy proper orthogonal decomposition with
randomized and deterministic sampling points", SIAM J. Sci. Comput. 42(5), 2020 [peherstorfer2020], GappyPOD+E. A column
v of V_rᵀ adds v vᵀ to M = V_Sᵀ V_S. With the eigenvalues λ_1 ≥ ... ≥ λ_r of M, ū = Wᴴv in its eigenvectors and the gap
g = λ_{r-1} - λ_r, the smallest eigenvalue rises by at least (g + ‖ū‖² - √((g + ‖ū‖²)² - 4g|ū_r|²))/2 (Ipsen and Nadler,
"Refined perturbation bounds for eigenvalues of Hermitian and non-Hermitian matrices", SIAM J. Matrix Anal. Appl. 31(1), 2009
[ipsen2009]); the column for which that is largest is next. It never falls, so the bound of Q-DEIM holds for r: the error is at
most (n - r + 1)(4^r + 6r - 1)/9 times the optimum of rank r, in both norms, squared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from cssp import bounds
from cssp.errors import ArgumentError, check_integer
from cssp.linalg import blocks, squares
from cssp.methods._shared import TIES, Rest, completed, rest, shortest
from cssp.methods.residual import residual
from cssp.methods.row import FORCED, Guarantee, Method
from cssp.problem import Picks, Problem
from cssp.vectors import exact_only

#: Halvings of an interval that holds an eigenvalue.
HALVINGS = 60


def gappypod_e(p: Problem, *, rank: int | None = None, criterion: str = "bound", svd: str = "exact") -> Picks:
    """Choose rank columns as `qdeim` does, and then one after the other those that steady the fit of the modes most.

    Included columns are sensors that are there already; Q-DEIM completes them until they determine all modes.

    Parameters
    ----------
    rank : int, optional
        Number r of modes, at most k; half of k by default, and at most the rank of A.
    criterion : {"bound", "smallest", "determinant", "random"}
        What the columns beyond r make largest: the guaranteed rise of the smallest eigenvalue of V_Sᵀ V_S (GappyPOD+E), that eigenvalue
        itself, or the determinant; or draw them uniformly (GappyPOD+R).
    svd : {"exact", "sketched"}
        Take V_r from an SVD, or from a Gaussian sketch: a few products with k + 10 vectors, and no factor.
    """
    if criterion not in _SCORES and criterion != "random":
        raise ArgumentError(
            f"criterion = {criterion!r}: expected 'bound', 'smallest', 'determinant' or 'random'"
        )
    if rank is not None and (rank := check_integer("rank", rank)) > p.k:
        raise ArgumentError(f"rank = {rank}: expected at most k = {p.k}, a column for every mode")
    return shortest(p, lambda q: _oversampled(q, modes(q.k, rank), criterion, svd))


def modes(k: int, rank: int | None = None) -> int:
    """Return the number of modes for k columns, half as many by default."""
    return max(1, k // 2) if rank is None else min(rank, k)


def _oversampled(p: Problem, rank: int, criterion: str, svd: str) -> Picks:
    a = rest(replace(p, include=()))  # included columns are measured, not taken away
    _, Vh, most = a.svd(svd)
    V = Vh[: min(rank, most)].formed()
    if not V.size:
        return completed(p, ())
    start = _start(p, a, V)
    S, allowed = list(start.indices), a.open.copy()
    allowed[S] = False
    while len(S) < p.k and allowed.any():
        if criterion == "random":
            j = int(p.rng.choice(np.flatnonzero(allowed)))
        else:
            j = _best(a, V, S, allowed, _SCORES[criterion])
        S.append(j)
        allowed[j] = False
    return completed(p, S[len(p.include) :])


def _start(p: Problem, a: Rest, V: np.ndarray) -> Picks:
    """Return the included columns, and by Q-DEIM as many more as make V_S of full rank."""
    q = replace(a.problem, A=V, candidates=a.open, include=p.include, target=None, tol=None)
    return residual(replace(q, k=min(p.k, len(p.include) + len(V))))


def _best(a: Rest, V: np.ndarray, S: list[int], allowed: np.ndarray, score: Callable[..., np.ndarray]) -> int:
    """Return the column of the best score; a tie goes to the one with most in the space of the smallest eigenvalues."""
    eigenvalues, W = np.linalg.eigh(V[:, S] @ V[:, S].conj().T)
    noise = len(V) * np.finfo(np.float64).eps * float(eigenvalues[-1])
    lowest = eigenvalues <= eigenvalues[0] + TIES * eigenvalues[-1]
    value, reach = np.empty((2, V.shape[1]))
    for part in blocks(V):
        U2 = squares(W.conj().T @ V[:, part])
        value[part], reach[part] = score(np.maximum(eigenvalues, noise), U2), np.sum(U2[lowest], axis=0)
    value, reach = value[a.first], reach[a.first]
    return a.problem.best_gain(value, reach, allowed, TIES * value + 8 * noise * reach, TIES * reach)


def _guaranteed_rise(eigenvalues: np.ndarray, U2: np.ndarray) -> np.ndarray:
    """Return the bound of the module's docstring for every column; eigenvalues ascend."""
    gap = eigenvalues[1] - eigenvalues[0] if len(eigenvalues) > 1 else np.inf
    return bounds.eigenvalue_rise(gap, np.sum(U2, axis=0), U2[0])


def _smallest_eigenvalue(eigenvalues: np.ndarray, U2: np.ndarray) -> np.ndarray:
    """Return the rise itself: where 1 + Σ |ū_i|²/(λ_i - μ) changes its sign between the two smallest eigenvalues."""
    if len(eigenvalues) == 1:
        return U2[0]
    above = (eigenvalues - eigenvalues[0])[:, None]
    low, high = np.zeros(U2.shape[1]), np.full(U2.shape[1], above[1, 0])
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            below = 1 + np.sum(U2 / (above - middle), axis=0) < 0
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return low


def _determinant(eigenvalues: np.ndarray, U2: np.ndarray) -> np.ndarray:
    """Return vᴴM⁻¹v: the determinant becomes 1 + that times as large."""
    return np.sum(U2 / eigenvalues[:, None], axis=0)


_SCORES: dict[str, Callable[..., np.ndarray]] = {
    "bound": _guaranteed_rise,
    "smallest": _smallest_eigenvalue,
    "determinant": _determinant,
}


def _promised(
    m: int, n: int, k: int, rank: int | None = None, criterion: str = "bound", svd: str = "exact"
) -> float | None:
    return exact_only(lambda m, n, k: bounds.qdeim(n, modes(k, rank)))(m, n, k, svd=svd)


ROW = Method(
    name="gappypod_e",
    function=gappypod_e,
    summary="more columns than modes: Q-DEIM, then the smallest singular value of V_S is raised",
    citation="peherstorfer2020",
    cost="SVD + nk rank²",
    supports=FORCED | {"tol", "complex"},
    oversamples=True,
    guarantee=Guarantee(
        "F <= c OPT_rank and T <= c s_{rank+1}² with c = (n - rank + 1)(4^rank + 6 rank - 1)/9, rank <= k",
        "peherstorfer2020",
        "every run",
        frobenius=_promised,
        spectral=_promised,
        rank=lambda m, n, k, rank=None, **_: modes(k, rank),
        name="GappyPOD+E",
    ),
)
