"""Norms of residual norms: one exponent p from the Frobenius error (2) to the largest residual of a column (infinity)."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import array_api_compat
import numpy as np

from cssp.errors import ArgumentError

__all__ = ["as_exponent", "p_norm", "relative_p_norm"]

Array = Any

#: Powers of squares with whole exponents, and half ones, up to this are formed by products, which are many times faster than a power.
PRODUCTS = 64


def as_exponent(p: Any) -> float:
    """Return the exponent p of a norm, refused where it is not a number from 1 to infinity."""
    try:
        exponent = float(p) if isinstance(p, Real) and not isinstance(p, bool | np.bool_) else math.nan
    except OverflowError:  # a number beyond the range of float64
        exponent = math.inf if p > 0 else -math.inf
    if not exponent >= 1:
        raise ArgumentError(
            f"p = {p!r}: expected a number from 1 to infinity; p=2 is the Frobenius error, p=math.inf the largest residual"
        )
    return exponent


def p_norm(x2: Array, p: float) -> Array:
    """Return (Σ x^p)^(1/p) over the last axis from the squares x², and the largest x for p = inf.

    Divided by the largest square first, so that no power leaves the range of the precision.

    Parameters
    ----------
    x2 : array, shape (..., n)
        Not negative; n is at least 1.
    p : float
        From 1 to infinity.

    Examples
    --------
    >>> import numpy as np
    >>> float(p_norm(np.array([9.0, 16.0]), 2)), float(p_norm(np.array([9.0, 16.0]), np.inf))
    (5.0, 4.0)
    """
    xp = array_api_compat.array_namespace(x2)
    top = xp.max(x2, axis=-1)
    if math.isinf(p):
        return xp.sqrt(top)
    unit = xp.where(top > 0, top, xp.ones_like(top))
    total = xp.sum(_power(x2 / unit[..., None], p / 2), axis=-1)
    return xp.sqrt(top) * total ** (1 / p)


def _power(x: Array, a: float) -> Array:
    """Return x^a, entry by entry."""
    if a > PRODUCTS or 2 * a != int(2 * a):
        return x**a
    whole, half = divmod(int(2 * a), 2)
    result = array_api_compat.array_namespace(x).sqrt(x) if half else None
    while whole:
        if whole % 2:
            result = x if result is None else result * x
        whole //= 2
        x = x * x if whole else x
    return result


def relative_p_norm(norms2: np.ndarray, p: float) -> float:
    """Return the p-norm of the residual norms over that of the column norms; 0 where there is nothing but zeros.

    Parameters
    ----------
    norms2 : float64 array, shape (2, n)
        Squared norms of the columns, and of their residuals.
    """
    if not norms2.shape[1]:
        return 0.0
    before, after = p_norm(norms2, p)
    return float(after / before) if before > 0 else 0.0
