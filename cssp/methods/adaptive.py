"""Adaptive sampling: rounds of columns drawn with probability proportional to the squared residual norm.

Deshpande, Rademacher, Vempala and Wang, "Matrix approximation and projective clustering via volume
sampling", Theory of Computing 2:225-247, 2006 [deshpande2006]. One round is norm sampling [frieze2004];
rounds of one column are randomly pivoted QR, with its bound 2ᵏ OPT_k [chen2025]. Larger rounds have a
bound against a rank below k (`cssp.bounds.adaptive`), none against OPT_k.
"""

from __future__ import annotations

import numpy as np

from cssp import bounds, sampling
from cssp.errors import ArgumentError, check_integer
from cssp.methods.row import FORCED, Guarantee, Method
from cssp.problem import Picks, Problem

#: Rounds where the caller names neither their number nor their size.
ROUNDS = 8


def adaptive(p: Problem, *, rounds: int | None = None, batch: int | None = None) -> Picks:
    """Draw columns from the residual norms, repeats and dependent ones discarded; update the norms; again.

    Within a round the norms stay those at its start. As repeats are replaced, a round of s columns
    contains s independent draws' span, which is what the theorem asks for.

    Parameters
    ----------
    rounds : int, optional
        Number of rounds, of equal size up to one column; 8 by default, never more than k.
    batch : int, optional
        Columns a round, instead of `rounds`.
    """
    sizes = _sizes(p.free, rounds, batch)
    E = sampling.Residual(p.numpy("double"))
    for s in sizes:
        if E.reached():
            break
        d = E.weights()
        while s and np.any(d):
            j = sampling.draw(d, p.rng)
            d[j] = 0
            s -= E.take(j)
        E.update()
    while E.wanted and not E.reached():  # a round ran out of columns: dependent ones
        d = E.weights()
        if not np.any(d):
            break
        E.take(sampling.draw(d, p.rng))
        E.update()
    return Picks(E.indices)


def _sizes(k: int, rounds: int | None, batch: int | None) -> list[int]:
    """Return the columns of each round."""
    if rounds is not None and batch is not None:
        raise ArgumentError(f"rounds = {rounds!r} and batch = {batch!r}: give one of them")
    if batch is not None:
        s = check_integer("batch", batch)
        return [min(s, k - t) for t in range(0, k, s)]
    t = min(max(1, k), ROUNDS if rounds is None else check_integer("rounds", rounds))
    return [k // t + (i < k % t) for i in range(t)]


def factor(m: int, n: int, k: int, *, rounds: int | None = None, batch: int | None = None) -> float | None:
    """Return 2ᵏ where every round draws one column, None otherwise."""
    return bounds.random_pivot(k) if max(_sizes(k, rounds, batch)) == 1 else None


ROW = Method(
    name="adaptive",
    function=adaptive,
    summary="rounds of columns drawn by squared residual norm",
    citation="deshpande2006",
    cost="2mnk",
    deterministic=False,
    supports=FORCED | {"tol", "complex"},
    guarantee=Guarantee(
        "E F <= 2^k OPT_k where a round is one column",
        "chen2025",
        "expectation",
        frobenius=factor,
        name="adaptive sampling",
    ),
)
