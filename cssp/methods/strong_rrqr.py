"""Strong rank-revealing QR: swap columns until none multiplies the volume of the chosen ones by more than f.

Gu and Eisenstat, "Efficient algorithms for computing a strong rank-revealing QR factorization", SIAM J. Sci. Comput.
17(4):848-869, 1996 [gu1996], algorithm 4. With A Π = Q [R11 R12; 0 R22] and q² = 1 + f² k (n - k), for all i and j:
σ_i(R11) ≥ σ_i(A) / q, σ_j(R22) ≤ q σ_{k+j}(A), |(R11⁻¹ R12)_ij| ≤ f.

Of very many columns, with `buckets`, it chooses among signed sums of columns first and then among the columns of the
sums chosen: Fakih and Grigori, "Efficient QR-based column subset selection through randomized sparse embeddings",
2025 [fakih2025], with the embedding that has one entry in each column. The bound of that is
`cssp.bounds.strong_rrqr_of_sums`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy.linalg import solve_triangular

from cssp import bounds
from cssp.errors import ArgumentError, check_integer
from cssp.linalg import blocks, column_norms2, project_off
from cssp.linalg import squares as sq
from cssp.methods._shared import Rest, completed, rest, shortest
from cssp.methods.residual import residual
from cssp.methods.row import FORCED, Guarantee, Method
from cssp.problem import Picks, Problem
from cssp.progress import Deadline, silent

#: Swaps that gain less than this factor are rounding, and could be undone by the next.
LEAST_F = 1.001


def strong_rrqr(
    p: Problem, *, f: float = 2.0, buckets: int | None = None, time_limit: float | None = None
) -> Picks:
    """Start from pivoted QR; while max ρ_ij > f exchange i and j, ρ_ij² = (R11⁻¹R12)_ij² + (γ_j(R22) / ω_i(R11))².

    Parameters
    ----------
    f : float
        Largest growth of the volume that a swap may still bring, at least 1.
    buckets : int, optional
        Add up the columns in so many random groups, with random signs, choose k of the sums, and then k of the
        columns in them: for matrices with many more columns than rows. At least k groups are made; no factor is
        claimed, as it depends on the draw.
    time_limit : float, optional
        Seconds for each matrix, after which no further swap is looked for: a `TimeLimitWarning` says so, and no factor is
        claimed.
    """
    if (
        isinstance(f, bool)
        or not isinstance(f, (int, float, np.floating, np.integer))
        or not 1 <= f < math.inf
    ):
        raise ArgumentError(
            f"f = {f!r}: expected a number of at least 1, the largest growth of the volume that a swap may still "
            f"bring (2 is usual; below {LEAST_F} it is taken as {LEAST_F})"
        )
    deadline = Deadline(
        time_limit, "a swap may still multiply the volume by more than f, no factor is claimed"
    )
    f = max(float(f), LEAST_F)
    if buckets is None:
        return shortest(p, lambda q: _swapped(q, f, deadline))
    l = check_integer("buckets", buckets)
    return shortest(p, lambda q: _of_sums(q, f, l, deadline))


def _of_sums(p: Problem, f: float, l: int, deadline: Deadline) -> Picks:
    """Return the swapped columns of those in the swapped sums of columns."""
    a = rest(p)
    place = np.flatnonzero(a.open)
    E = a.E[:, place]
    group, sign = p.rng.integers(max(l, a.k), size=place.size), p.rng.choice([-1.0, 1.0], place.size)
    B = np.zeros((max(l, a.k), len(E)), dtype=E.dtype)
    np.add.at(B, group, (E * sign).T)

    def best(X: np.ndarray) -> tuple[list[int], bool]:
        k = min(a.k, X.shape[1])
        picks = _swapped(Problem(A=X, k=k, candidates=np.ones(X.shape[1], dtype=bool)), f, deadline)
        return list(picks.indices), picks.proven

    sums, proven = best(B.T) if place.size else ([], True)
    among = np.flatnonzero(np.isin(group, sums))
    found, proven_too = best(E[:, among]) if among.size else ([], True)
    return replace(completed(p, place[among[found]]), proven=proven and proven_too)


def _swapped(p: Problem, f: float, deadline: Deadline) -> Picks:
    S = list(residual(replace(p.reduced, tol=None, progress=silent)).indices)[len(p.include) :]
    k = len(S)
    a = rest(p)
    # Each swap multiplies |det R11| by ρ > f, and pivoted QR starts at 1/k! of the largest volume or more
    # (Çivril and Magdon-Ismail 2009): the swaps are counted by the theorem.
    for swaps in range(1 + int(math.lgamma(k + 1) / math.log(f))):
        if deadline.over():
            return replace(completed(p, S), proven=False)
        rho, i, j = _largest_growth(a, S)
        if not rho > f:
            break
        S[i] = j
        p.progress(swaps + 1, None)
    return completed(p, S)


def _largest_growth(a: Rest, S: list[int]) -> tuple[float, int, int]:
    """Return max ρ_ij, the place i in S and the column j; (0, 0, 0) where there is nothing to exchange."""
    k, allowed = len(S), a.open.copy()
    allowed[S] = False
    if k == 0 or not allowed.any():
        return 0.0, 0, 0
    # Factored anew after each swap: swaps are few, and updates would let errors of R11⁻¹ pile up.
    Q, R11 = np.linalg.qr(a.E[:, S])
    omega2_inverse = np.sum(sq(solve_triangular(R11, np.eye(k))), axis=1)

    def growth2(part: slice) -> np.ndarray:
        R12 = Q.conj().T @ a.E[:, part]
        gamma2 = column_norms2(project_off(a.E[:, part], Q))
        gamma2[gamma2 <= a.noise**2] = 0
        return sq(solve_triangular(R11, R12)) + omega2_inverse[:, None] * gamma2

    j = a.best(np.concatenate([np.max(growth2(part), axis=0) for part in blocks(a.E)]), allowed)
    rho2 = growth2(slice(j, j + 1))[:, 0]
    i = a.best(rho2, np.ones(k, dtype=bool))
    return math.sqrt(float(rho2[i])), i, j


def _of_columns(factor: Callable[[int, int, float], float]) -> Callable[..., float | None]:
    """Return a theorem's factor, for runs that chose among the columns themselves."""

    def promised(
        m: int, n: int, k: int, f: float = 2.0, buckets: int | None = None, **limits: float | None
    ) -> float | None:
        return factor(n, k, max(f, LEAST_F)) if buckets is None else None

    return promised


ROW = Method(
    name="strong_rrqr",
    function=strong_rrqr,
    summary="Gu and Eisenstat's strong rank-revealing QR: swaps while the volume grows by more than f",
    citation="gu1996",
    cost="(2 + swaps) 4mnk",
    supports=FORCED | {"tol", "complex"},
    guarantee=Guarantee(
        "s_i(R11) >= s_i/q, s_j(R22) <= q s_{k+j}, |R11⁻¹R12| <= f with q² = 1 + f²k(n - k); F <= q² OPT_k",
        "gu1996",
        "every run",
        frobenius=_of_columns(lambda n, k, f: bounds.strong_rrqr_frobenius(n, k, f)),
        spectral=_of_columns(lambda n, k, f: bounds.strong_rrqr(n, k, f)),
        name="strong rank-revealing QR",
        largest=_of_columns(lambda n, k, f: bounds.volume_width(k, f)),
        largest_source="gu1996",
    ),
)
