"""Elementary symmetric polynomials of squared singular values, without overflow or underflow.

Terms are all non-negative, so the recursion E_j <- E_j + x E_{j-1} loses nothing to cancellation. What it
loses is range: 60 values of 1e6 overflow. Each E_j is therefore a mantissa in [0.5, 1) and an integer
exponent.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cssp.bounds._record import check_int, check_spectrum

_FAR = 1100  # a shift by more than this many binary places leaves nothing of a float64
_ZERO = np.int64(-(2**40))  # exponent of an exact zero

Table = tuple[NDArray[np.float64], NDArray[np.int64]]


def _normalised(mantissa: NDArray[np.float64], exponent: NDArray[np.int64]) -> Table:
    fraction, shift = np.frexp(mantissa)
    return fraction, np.where(fraction == 0.0, _ZERO, exponent + shift.astype(np.int64))


def symmetric_table(mantissa: NDArray[np.float64], exponent: NDArray[np.int64], order: int) -> Table:
    """Return e_0 .. e_order of the numbers mantissa * 2**exponent, as mantissas and exponents."""
    e_m = np.zeros(order + 1)
    e_x = np.full(order + 1, _ZERO)
    e_m[0], e_x[0] = 0.5, 1
    for x, q in zip(mantissa, exponent, strict=True):
        if x == 0.0:
            continue
        term, term_x = e_m[:-1] * x, e_x[:-1] + q
        top = np.maximum(e_x[1:], term_x)
        left = np.ldexp(e_m[1:], np.maximum(e_x[1:] - top, -_FAR).astype(np.int32))
        right = np.ldexp(term, np.maximum(term_x - top, -_FAR).astype(np.int32))
        e_m[1:], e_x[1:] = _normalised(left + right, top)
    return e_m, e_x


def squares(s: NDArray[np.float64]) -> Table:
    """Return the squares of `s` as mantissas and exponents: exact range where ``s**2`` would over- or underflow."""
    fraction, exponent = np.frexp(s)
    return _normalised(fraction**2, 2 * exponent.astype(np.int64))


def elementary_symmetric(s2: ArrayLike, order: int | None = None) -> NDArray[np.float64]:
    """Return the logarithms of the elementary symmetric polynomials e_0, ..., e_order of `s2`.

    Parameters
    ----------
    s2 : array_like, shape (n,)
        Finite non-negative numbers, for instance squared singular values or kernel eigenvalues.
    order : int, optional
        Highest order to compute, at most n; default n.

    Returns
    -------
    ndarray, shape (order + 1,)
        log e_j; -inf where e_j is zero. Before the logarithm the relative error is a few n eps.

    Raises
    ------
    ValueError
        Naming `s2` (negative, not finite, not a vector) or `order`.

    Examples
    --------
    >>> np.exp(elementary_symmetric([1.0, 2.0, 3.0])).round(9).tolist()
    [1.0, 6.0, 11.0, 6.0]
    >>> round(float(elementary_symmetric(np.full(200, 1e300))[200]), 6)  # log of 1e60000
    138155.10558
    """
    values = check_spectrum(s2, "s2")
    order = values.size if order is None else check_int("order", order, 0, values.size, "len(s2)")
    fraction, exponent = np.frexp(values)
    e_m, e_x = symmetric_table(fraction, exponent.astype(np.int64), order)
    with np.errstate(divide="ignore"):
        logs = np.log(e_m) + e_x * np.log(2.0)
    return np.where(e_m == 0.0, -np.inf, logs)


def symmetric_ratio(s2: ArrayLike, k: int) -> float:
    """Return e_{k+1}(s2) / e_k(s2), to a few n eps; 0 where e_{k+1} vanishes.

    Raises
    ------
    ValueError
        Naming `s2` when e_k is zero (fewer than k positive numbers), or `k`.

    Examples
    --------
    >>> symmetric_ratio([1.0, 2.0, 3.0], 1)
    1.8333333333333333
    """
    values = check_spectrum(s2, "s2")
    k = check_int("k", k, 0, values.size, "len(s2)")
    fraction, exponent = np.frexp(values)
    mantissa, power = ratio_of_orders((fraction, exponent.astype(np.int64)), k, "s2")
    return to_number(mantissa, power)


def ratio_of_orders(values: Table, k: int, name: str) -> tuple[float, int]:
    """Return e_{k+1} / e_k of numbers given as mantissas and exponents, in the same form."""
    if k == values[0].size:
        return 0.0, 0
    e_m, e_x = symmetric_table(*values, k + 1)
    if e_m[k] == 0.0:
        raise ValueError(f"{name} must hold at least k = {k} positive values: the volume law needs rank >= k")
    return float(e_m[k + 1] / e_m[k]), 0 if e_m[k + 1] == 0.0 else int(e_x[k + 1] - e_x[k])


def to_number(mantissa: float, exponent: int) -> float:
    """Return mantissa * 2**exponent as a float: inf or 0 beyond its range, never an exception."""
    with np.errstate(over="ignore", under="ignore"):
        return float(np.ldexp(mantissa, np.int32(np.clip(exponent, -4000, 4000))))
