"""Swap refinement: exchange one chosen column for another while that lowers the Frobenius error.

The local search of Zou, Huang, Xu, Wang and Feng, "Linear time approximation algorithm for column subset selection
with local search", NeurIPS 2024 [zou2024], with all k (n - k) swaps tried instead of a sample, from any start. It ends
where no single swap lowers the error by more than 0.1 %. The error never rises, so a bound on the start's Frobenius
error holds for the result. Other exponents p than 2 replace the sum of squared residual norms by that of their p-th powers.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from cssp import bounds, linalg
from cssp.errors import ArgumentError, UnsupportedError
from cssp.linalg import (
    adjoint,
    basis,
    blocks,
    column_norms2,
    conjugate,
    frobenius2,
    gram,
    host,
    project_off,
    triangle,
)
from cssp.linalg import squares as sq
from cssp.methods._exchange import best_exchange
from cssp.methods._shared import CLEAR, Rest, completed, rest, shortest
from cssp.methods.row import FORCED, METHODS, Guarantee, Method
from cssp.problem import Picks, Problem
from cssp.progress import UNLIMITED, Deadline, silent
from cssp.residuals import as_exponent, p_norm

#: Least share of the squared error that a swap must bring.
LEAST_GAIN = 1e-3


def local_search(
    problem: Problem, *, p: float = 2, start: str = "residual", time_limit: float | None = None
) -> Picks:
    """Make the best swap, from the columns of method ``start``, until none lowers F by more than 0.1 %.

    F = Σ_j h_j^p, h_j being the residual norms of all columns: the squared Frobenius error for p = 2. For p = inf it is the
    largest h_j², and among swaps that lower it equally the one with the least Frobenius error is made.
    A start that cannot honour a target chooses for A itself.

    Parameters
    ----------
    p : float
        From 1 to infinity. Another exponent than 2 costs kn² powers a swap.
    start : str
        Name of another method.
    time_limit : float, optional
        Seconds for each matrix, after which no further swap is looked for and a `TimeLimitWarning` says so. The start is
        not cut short, and what is proven of its Frobenius error holds for what is found by then.
    """
    deadline = Deadline(time_limit, "a swap may still lower the error by more than 0.1 %")
    return searched(problem, start, deadline, as_exponent(p))


def searched(p: Problem, start: str, deadline: Deadline, exponent: float = 2) -> Picks:
    """Return the start's columns after all swaps that pay, or as many as there is time for."""
    if not isinstance(start, str) or start not in METHODS or start == "local_search":
        names = ", ".join(repr(name) for name in sorted(METHODS) if name != "local_search")
        raise ArgumentError(f"start = {start!r}: expected the name of another method, one of {names}")
    supports = METHODS[start].supports
    asked = {"include": bool(p.include), "exclude": int(host(p.candidates).sum()) + len(p.include) < p.n}
    for argument in ("include", "exclude"):
        if asked[argument] and argument not in supports:
            raise UnsupportedError(f"start = {start!r}: that method cannot honour {argument}")
    if "complex" not in supports and p.xp.isdtype(p.A.dtype, "complex floating"):
        raise UnsupportedError(f"start = {start!r}: that method cannot honour complex A")

    def run(q: Problem) -> Picks:
        q = q.reduced
        target = q.target if "target" in supports else None
        found = METHODS[start].function(replace(q, tol=None, target=target, progress=silent))
        return refined(q, found, deadline, exponent)

    return shortest(p, run)


def refined(p: Problem, picks: Picks, deadline: Deadline = UNLIMITED, exponent: float = 2) -> Picks:
    """Return the picks after all swaps that pay; progress counts them."""
    a = rest(p)
    if exponent == 2 and a.B.shape[1] > a.B.shape[0]:  # only B Bᴴ matters
        a = replace(a, B=adjoint(triangle(a.B)))
    S = list(picks.indices)[len(p.include) :]
    # Only independent columns have swaps; the others are replaced first, which cannot raise the error. A
    # column that is independent by a few units of rounding only counts as another: its direction is not to be trusted.
    _, independent = basis(a.E[:, S], CLEAR * a.noise)
    S = [j for j, yes in zip(S, independent, strict=True) if yes]
    S = list(completed(p, S).indices)[len(p.include) :]
    S = [j for j in S if a.open[j]]
    F, swaps, least = _error(a, S, exponent), 0, _least_gain(exponent)
    while a.noise**2 < F and not deadline.over():
        swap = _best_swap(a, S, F) if exponent == 2 else best_exchange(a, S, F * (1 - least), exponent)
        if swap is None:
            break
        i, j = swap
        T = [*S[:i], j, *S[i + 1 :]]
        lower = _error(a, T, exponent)
        if not lower < F * (1 - least / 2):  # rounding promised more than there is
            break
        S, F, swaps = T, lower, swaps + 1
        p.progress(swaps, None)
    return completed(p, S)


def _error(a: Rest, S: list[int], p: float = 2) -> float:
    """Return the p-norm of the residual norms, squared."""
    Q, _ = basis(a.E[:, S], a.noise)
    R = project_off(a.B, Q)
    return frobenius2(R) if p == 2 else float(p_norm(column_norms2(R), p)) ** 2


def _least_gain(p: float) -> float:
    """Return the share of that square by which a swap must lower it: `LEAST_GAIN` of Σ h^p, of the square itself for p = inf."""
    return LEAST_GAIN if p in (2, math.inf) else 1 - (1 - LEAST_GAIN) ** (2 / p)


def _best_swap(a: Rest, S: list[int], F: float) -> tuple[int, int] | None:
    """Return the place i in S and the column j whose exchange lowers F most, None where none lowers it enough.

    Let u_i be the unit vector of span A_S orthogonal to the chosen columns but i, c_ij = u_iᴴa_j, d_i = u_iᴴB, and e_j,
    R the residuals of a_j and B. Without i they are e_j + c_ij u_i and R + u_i d_i, so that
        F(S - i + j) - F(S) = (‖d_i‖² ‖e_j‖² - 2 Re(c̄_ij d_i Rᴴe_j) - ‖Rᴴe_j‖²) / (‖e_j‖² + |c_ij|²):
    all k (n - k) swaps in O(m n min(m, n)), and no cancellation where F is small.
    """
    allowed = a.open.copy()
    allowed[S] = False
    if not S or not allowed.any():
        return None
    Q, R11 = np.linalg.qr(a.E[:, S])
    U = Q @ np.linalg.inv(R11).conj().T
    U = U / np.sqrt(column_norms2(U))
    R, d = project_off(a.B, Q), adjoint(U) @ a.B
    d2 = np.sum(sq(d), axis=1)[:, None]
    (m, n), k = a.E.shape, len(S)
    wide = n >= linalg.WIDE * m
    if wide:  # in the eigenvectors of R Rᴴ orthogonal to Q one product gives all that is needed of a_j
        N = np.linalg.qr(Q, mode="complete")[0][:, k:]
        x, P = np.linalg.eigh(gram(adjoint(R) @ N))
        weights = np.stack([np.ones_like(x), np.maximum(x, 0)])
        W = np.concatenate([adjoint(N @ P), adjoint(U), d @ adjoint(R)])

    def products(part: slice) -> tuple[np.ndarray, ...]:
        if wide:
            Y = W @ a.E[:, part]
            return *(weights @ sq(Y[: m - k])), Y[m - k : m], Y[m:]
        E = project_off(a.E[:, part], Q)
        return (
            column_norms2(E),
            column_norms2(adjoint(R) @ E),
            adjoint(U) @ a.E[:, part],
            (d @ adjoint(R)) @ E,
        )

    def gains(part: slice) -> np.ndarray:
        e2, f, c, g = products(part)
        below, gain = e2 + sq(c), np.real(conjugate(c) * g)
        gain *= 2
        gain += f
        gain -= d2 * e2
        clear = below > (CLEAR * a.noise) ** 2
        np.divide(gain, below, out=gain, where=clear)
        return np.maximum(gain, 0, out=gain) if clear.all() else np.where(clear, np.maximum(gain, 0), 0)

    j = a.best(np.concatenate([np.max(gains(part), axis=0) for part in blocks(a.E)]), allowed)
    gain = gains(slice(j, j + 1))[:, 0]
    i = a.best(gain, np.ones(len(S), dtype=bool))
    return (i, j) if gain[i] > LEAST_GAIN * F else None


ROW = Method(
    name="local_search",
    function=local_search,
    summary="best swaps from any start until none lowers the error by more than 0.1 %",
    citation="zou2024",
    cost="start + swaps (4mn min(m, n) + 6mnk); of wide ones swaps 2mn(m + k)",
    supports=FORCED | {"tol", "target", "complex"},
    guarantee=Guarantee(
        "F never rises: the Frobenius bound of the start holds; from pivoted QR F <= (n - k)(4^k + 2)/3 OPT_k",
        "kawamura2021",
        "every run",
        frobenius=lambda m, n, k, p=2, start="residual", **limits: (
            bounds.pivoted_qr_frobenius(n, k) if start == "residual" and p == 2 else None
        ),
        name="pivoted QR",
    ),
)
