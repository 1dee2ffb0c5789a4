"""Powers of two that keep squares in range: A·diag(w) from 1e-200 to 1e+200 and beyond, exactly."""

from __future__ import annotations

import math
from typing import Any

import array_api_compat
import numpy as np

from cssp.linalg import column_norms2, host

__all__ = ["default_floating_errors", "in_range", "normalised", "shifted", "unit_columns", "weighted"]

Array = Any

#: Decorates what computes: the same reports of floating-point errors, whatever `numpy.seterr` has set outside. Invalid operations
#: are not reported: a matrix product of finite numbers raises that flag too, for lanes of vector registers that it does not use.
default_floating_errors = np.errstate(divide="warn", over="warn", under="ignore", invalid="ignore")


def normalised(A: Array, top: float, always: bool = False) -> tuple[Array, int]:
    """Return A·2**-e and e; A itself and 0 where fourth powers of its entries are in range anyway.

    Parameters
    ----------
    A : array, shape (m, n)
    top : float
        Largest modulus of the entries.
    always : bool
        Bring the largest modulus into [1/2, 1) in any case: another precision, of another range, comes next.
    """
    e = math.frexp(top)[1]
    low, high = _exponents(A)
    return (A, 0) if top == 0 or (low <= e <= high and not always) else (shifted(A, -e), e)


def in_range(A: Array) -> tuple[Array, bool]:
    """Return the squared column norms, and whether they show that all entries are finite and `normalised` leaves A as it is."""
    m, xp = A.shape[0], array_api_compat.array_namespace(A)
    with np.errstate(all="ignore"):
        norms2 = column_norms2(A)
    top2 = float(xp.max(norms2)) if norms2.shape[0] else 0.0
    low, high = _exponents(A)
    return norms2, m * 4.0 ** (low - 1) <= top2 < 4.0 ** (high - 1)


def weighted(A: Array, w: np.ndarray, top: float) -> tuple[Array, int]:
    """Return A·diag(w)·2**-e and e, right also where A·diag(w) itself would over- or underflow.

    Parameters
    ----------
    A : array, shape (m, n)
    w : float64 array, shape (n,)
        Finite, not negative.
    top : float
        Largest modulus of the entries of A.
    """
    xp = array_api_compat.array_namespace(A)
    reach = 90 if _bits(A) == 32 else 700
    if abs(math.frexp(top)[1]) + abs(math.frexp(float(w.max()))[1]) <= reach:
        W = A * _like(A, w)
        largest = float(xp.max(xp.abs(W)))
        if largest > 2.0 ** (-30 if _bits(A) == 32 else -200):
            return normalised(W, largest)
    # Exponents column by column: c of the column, t of its product with the weight, E of the largest product.
    modulus = xp.max(xp.abs(A), axis=0)
    c = np.frexp(host(modulus).astype(np.float64))[1]
    mantissa, exponent = np.frexp(w)
    alive = (host(modulus) > 0) & (w > 0)
    if not alive.any():
        return xp.zeros_like(A), 0
    t = (c + exponent).astype(np.int64)
    E = int(t[alive].max())
    factor = np.where(alive, np.ldexp(mantissa, np.clip(np.where(alive, t - E, -1100), -1100, 0)), 0.0)
    half = -c // 2
    A = A * _like(A, np.ldexp(1.0, half)) * _like(A, np.ldexp(1.0, -c - half))
    return A * _like(A, factor), E


def unit_columns(A: Array) -> Array:
    """Return every column over its norm, of any scale; zero columns stay zero."""
    xp = array_api_compat.array_namespace(A)
    c = np.frexp(host(xp.max(xp.abs(A), axis=0)).astype(np.float64))[1]
    half = -c // 2
    A = A * _like(A, np.ldexp(1.0, half)) * _like(A, np.ldexp(1.0, -c - half))
    norms = xp.sqrt(column_norms2(A))
    return A / xp.where(norms > 0, norms, xp.ones_like(norms))


def _exponents(A: Array) -> tuple[int, int]:
    """Return the least and the largest binary exponent of the largest modulus that leave fourth powers in range."""
    return (-4, 10) if _bits(A) == 32 else (-100, 100)


def shifted(A: Array, e: int) -> Array:
    """Return A·2**e, in steps because 2**e alone may be out of range; what leaves the range becomes inf or 0."""
    steps = max(2, -(-abs(e) // 1000)) if e else 0
    with np.errstate(over="ignore", under="ignore"):
        for i in range(steps):
            A = A * 2.0 ** (e * (i + 1) // steps - e * i // steps)
    return A


def _like(A: Array, x: np.ndarray) -> Array:
    """Return the host vector as a real vector of the precision and device of A."""
    xp = array_api_compat.array_namespace(A)
    real = xp.float32 if _bits(A) == 32 else xp.float64
    with np.errstate(over="ignore", under="ignore"):
        x = x.astype(np.float32 if _bits(A) == 32 else np.float64)
    return xp.asarray(x, dtype=real, device=array_api_compat.device(A))


def _bits(A: Array) -> int:
    """Return the bits of the real precision of A."""
    return int(array_api_compat.array_namespace(A).finfo(A.dtype).bits)
