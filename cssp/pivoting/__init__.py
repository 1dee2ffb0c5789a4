"""The rules of pivoting, each once: what a tie is, when a downdated norm is stale, what counts as dependent.

Greedy residual, that is column-pivoted QR [businger1965], and pivoted Cholesky on the Gram matrix [harbrecht2012] are one
rule on squared residual norms N: take the largest, subtract from N what the new direction explains, and form a norm anew
before downdating costs more than half of its digits [drmac2008]. NumPy, torch, the Array API, matrices read in passes, `Gram`
matrices and the Triton kernel all decide by the functions below; only the matrix products differ.

`cssp.pivoting.run` makes several picks with one product; `cssp.pivoting.memory` does so in host memory, `cssp.pivoting.gram`
on the Gram matrix. `cssp.pivoting.exponents` chooses by another p-norm of the residual norms than the Frobenius error.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = [
    "CLEAR",
    "DOWNDATE_SLACK",
    "FEW",
    "MANY",
    "SINGLE_REACH",
    "TIE_BAND",
    "floor",
    "noise",
    "norm_slack",
    "stale_level",
    "tie_bar",
    "tie_bias",
]

Array = Any

#: Scores within this many units of rounding of the largest are a tie, and the lowest index wins it.
TIE_BAND = 64

#: Rounding of a downdated norm in units of its last exact value; closer scores than that are a tie.
DOWNDATE_SLACK = 8

#: Columns beyond so many no longer raise `floor`: rounding of one column does not grow with their number, and
#: n·eps of a million columns in single precision is a tenth.
MANY = 1 << 14

#: Units of rounding that a QR decomposition adds however small the matrix is.
FEW = 10

#: Residuals so many times above the threshold of dependence, or above it by so many times `noise`, are beyond doubt, whatever
#: rounding downdating has left in them.
CLEAR = 64

#: Residuals this far below the largest column have lost half the digits of single precision: continue in double precision.
SINGLE_REACH = 2.0**-10


def tie_bar(top: Array, eps: float) -> Array:
    """Return the score from which on a column ties with the best one, whose score is ``top`` ≥ 0.

    Two correct programs differ by a few units of rounding in every score, by more than 64 in none that was tried; the lowest
    index among all that reach the bar is therefore the same for both.
    """
    return top * (1 - TIE_BAND * eps)


def tie_bias(n: int, eps: float) -> np.ndarray:
    """Return factors that fall a little with the index, shape (n,): of scores that tie, the largest product has the lowest index."""
    return 1 - TIE_BAND * eps * np.linspace(0, 1, n)


def norm_slack(exact: Array, eps: float) -> Array:
    """Return the rounding of a downdated squared norm, where ``exact`` is its value when last formed from the column.

    Each step subtracts a number known to a unit of its own size, and these numbers add up to no more than ``exact``.
    """
    return DOWNDATE_SLACK * eps * exact


def stale_level(exact: Array, eps: float) -> Array:
    """Return the squared norm at or below which downdating from ``exact`` has cost half of the digits.

    The error eps·exact is then at least √eps of what is left: the test of LAPACK Working Note 176 [drmac2008].
    """
    return math.sqrt(eps) * exact


def floor(m: int, n: int, unit: float, largest: float) -> float:
    """Return the residual norm at or below which a column counts as dependent: max(m, n)·unit·largest.

    That is the backward error of Householder QR with its constant left out [higham2002, theorem 19.4]; n counts up to `MANY`,
    and `FEW` at least.
    """
    return max(FEW, m, min(n, MANY)) * unit * largest


def noise(m: int, n: int, unit: float, largest: float) -> float:
    """Return the residual norm at or below which nothing is left but rounding: 2·√min(m, n)·unit·largest.

    Roundings of a column add up like independent numbers: as the root of how many there are.
    """
    return min(max(m, n), 2 * math.sqrt(min(m, n))) * unit * largest
