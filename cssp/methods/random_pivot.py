"""Randomly pivoted QR: pivots drawn with probability proportional to the squared residual norm.

Deshpande and Vempala, "Adaptive sampling and fast low-rank matrix approximation", 2006 [deshpande2006b];
on the Gram matrix it is the randomly pivoted Cholesky of Chen, Epperly, Tropp and Webber, Comm. Pure
Appl. Math. 78:995-1041, 2025 [chen2025], whose lemma gives E‖A - P_S A‖_F² ≤ 2ᵏ OPT_k. The accelerated
form is the rejection sampling of Epperly, Tropp and Webber, "Embrace rejection", 2024 [epperly2024], of
the same law.
"""

from __future__ import annotations

import numpy as np

from cssp import bounds, sampling
from cssp.errors import ArgumentError
from cssp.linalg import column_norms2, orthogonalise, project_off
from cssp.methods.row import FORCED, PASSES, Guarantee, Method
from cssp.problem import Picks, Problem

#: Proposals a round: the first one, and the limits of twice the number accepted in the round before.
FIRST, FEWEST, MOST = 16, 8, 128

#: Entries of A from which "auto" accelerates; below, a round costs more than the passes it saves.
LARGE = 1 << 20


def random_pivot(p: Problem, *, accelerated: bool | str = "auto") -> Picks:
    """Draw j with probability ‖e_j‖²/‖E‖_F², project it away, k times; E is the current residual.

    Parameters
    ----------
    accelerated : {"auto", True, False}
        Propose pivots in blocks and reject (one pass over A a block), or draw one by one (one pass a
        pivot). The law is the same; for one seed the picks are not. "auto" depends on the number of entries
        of A alone.
    """
    if not (isinstance(accelerated, bool) or (isinstance(accelerated, str) and accelerated == "auto")):
        raise ArgumentError(f"accelerated = {accelerated!r}: expected True, False or 'auto'")
    fast = p.m * p.n >= LARGE if accelerated == "auto" else bool(accelerated)
    E = sampling.Residual(p.numpy("double"))
    return rejecting(E, p.rng) if fast else _one_by_one(E, p.rng)


def _one_by_one(E: sampling.Residual, rng: np.random.Generator) -> Picks:
    while E.wanted and not E.reached():
        d = E.weights()
        if not np.any(d):
            break
        if E.take(sampling.draw(d, rng)):
            E.update()
    return Picks(E.indices)


def rejecting(E: sampling.Residual, rng: np.random.Generator) -> Picks:
    """Propose j from the norms d at the start of a round; accept it with probability (norm now)/d_j."""
    b = FIRST
    while E.wanted and not E.reached():
        d = E.weights()
        if not np.any(d):
            break
        S = sampling.proposals(d, b, rng)
        U = rng.random(b)
        X, start = project_off(E.A.take(S.tolist()), E.Q[:, : E.r]), E.r
        # What was proposed has its norm formed anew: one that is rounding alone would be proposed for ever.
        E.N[S] = E.exact[S] = column_norms2(X)
        for j, u, x in zip(S.tolist(), U, X.T, strict=True):
            if not E.wanted:
                break
            if E.open_[j]:
                _, height = orthogonalise(x, E.Q[:, start : E.r])
                if u * d[j] < height**2:
                    E.take(j)
        b = min(max(2 * (E.r - start), FEWEST), MOST)
        E.update()
    return Picks(E.indices)


ROW = Method(
    name="random_pivot",
    function=random_pivot,
    summary="randomly pivoted QR, one by one or in blocks with rejection",
    citation="chen2025",
    cost="2mnk",
    deterministic=False,
    nested=True,
    backends=("numpy", *PASSES),
    supports=FORCED | {"tol", "complex", "constraint"},
    guarantee=Guarantee(
        "E F <= 2^k OPT_k",
        "chen2025",
        "expectation",
        frobenius=lambda m, n, k, **options: bounds.random_pivot(k),
        name="randomly pivoted QR",
    ),
)
