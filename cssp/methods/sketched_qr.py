"""Column-pivoted QR of a Gaussian sketch.

Duersch and Gu, "Randomized QR with column pivoting", SIAM J. Sci. Comput. 39:C263-C291, 2017
[duersch2017]; Martinsson, Quintana-Ortí, Heavner and van de Geijn, "Householder QR factorization with
randomization for column pivoting (HQRRP)", SIAM J. Sci. Comput. 39:C96-C115, 2017 [martinsson2017].
Pivots are found on B = ΩA, of which all distances are random estimates of those of A. Where (1-η)‖x‖ ≤
‖Ωx‖ ≤ (1+η)‖x‖ on the range of A, the squared factors of pivoted QR hold times ((1+η)/(1-η))²
(`cssp.bounds.sketched`); a sketch of little more than k rows does not reach that, so no factor is
claimed.
"""

from __future__ import annotations

import math

import numpy as np

from cssp import sampling
from cssp.errors import check_integer
from cssp.linalg import basis
from cssp.methods.residual import residual
from cssp.methods.row import FORCED, PASSES, Method
from cssp.problem import Picks, Problem

#: Pivots a sketch where the tolerance decides on their number.
BLOCK = 32


def sketched_qr(p: Problem, *, rank: int | None = None, oversample: int = 10) -> Picks:
    """Choose pivots on ΩA, Ω Gaussian with rank + oversample rows; a new sketch of the residual every `rank`.

    Parameters
    ----------
    rank : int, optional
        Pivots a sketch; k by default, that is one sketch, or at most 32 with a tolerance.
    oversample : int
        Further rows of the sketch, 10 by default.
    """
    b = max(1, p.free if p.tol is None else min(p.free, BLOCK))
    if rank is not None:
        b = check_integer("rank", rank)
    l = b + check_integer("oversample", oversample, low=0)

    def choose(E: np.ndarray, k: int, below: float) -> list[int]:
        Omega = p.rng.standard_normal((l, E.shape[0])) / math.sqrt(l)
        B = Omega @ E
        open_ = np.ones(B.shape[1], dtype=bool)
        J = list(residual(Problem(A=B, k=min(k, b, B.shape[1]), candidates=open_)).indices)
        _, independent = basis(E[:, J], below)
        return [j for j, yes in zip(J, independent, strict=True) if yes]

    return sampling.in_rounds(p, choose)


ROW = Method(
    name="sketched_qr",
    function=sketched_qr,
    summary="column-pivoted QR of a Gaussian sketch",
    citation="duersch2017",
    cost="2mn(k + 10)",
    deterministic=False,
    backends=("numpy", *PASSES),
    supports=FORCED | {"tol", "complex"},
)
