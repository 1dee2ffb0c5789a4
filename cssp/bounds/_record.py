"""The record of a theorem, the table of all of them, and the checks every bound makes on its numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

F = TypeVar("F", bound=Callable[..., float])

FLOAT_LIMIT = 1024  # 2**1024 overflows float64


@dataclass(frozen=True)
class Bound:
    """One theorem as a record.

    Attributes
    ----------
    name : str
        Name of the function in `cssp.bounds`.
    function : callable
        Numbers in, factor out.
    norm : str
        "frobenius", "spectral", "both", or the quantity that is bounded when it is not an error of `A`.
    holds : str
        "every run", "expectation", "identity in expectation", "probability 0.7", "probability 1 - failure", "some subset" or
        "this matrix".
    source : str
        Key in ``docs/references.bib``.
    statement : str
        The inequality in one line. F and T are the squared Frobenius and spectral errors, OPT_k the squared
        Frobenius error of the truncated SVD, s_i the singular values.
    derived : bool
        True where the proof is written out in ``docs/theory`` rather than quoted.
    """

    name: str
    function: Callable[..., float]
    norm: str
    holds: str
    source: str
    statement: str
    derived: bool = False

    def __call__(self, *args: Any, **kwargs: Any) -> float:
        """Evaluate the bound."""
        return self.function(*args, **kwargs)


BOUNDS: dict[str, Bound] = {}


def theorem(norm: str, holds: str, source: str, statement: str, *, derived: bool = False) -> Callable[[F], F]:
    """Enter a function into `BOUNDS`; the function itself is returned unchanged."""

    def register(function: F) -> F:
        name = function.__name__
        BOUNDS[name] = Bound(name, function, norm, holds, source, statement, derived)
        return function

    return register


def check_int(name: str, value: Any, low: int, high: int | None = None, high_name: str = "") -> int:
    """Return `value` as an int in [low, high], or raise ValueError naming the argument."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise ValueError(f"{name} must be an integer, got {value!r}")
    if value < low or (high is not None and value > high):
        allowed = (
            f"at least {low}" if high is None else f"between {low} and {high_name or 'its limit'} = {high}"
        )
        raise ValueError(f"{name} must be {allowed}, got {value}")
    return int(value)


def check_real(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """Return `value` as a float in the interval, or raise ValueError naming the argument."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
        raise ValueError(f"{name} must be a real number, got {value!r}")
    try:
        x = float(value)
    except OverflowError:  # an integer beyond the range of float64
        x = math.inf if value > 0 else -math.inf  # type: ignore[operator]
    inside = (x > low if open_low else x >= low) and (x < high if open_high else x <= high)
    if not inside:  # also catches NaN
        left, right = "(" if open_low else "[", ")" if open_high else "]"
        raise ValueError(f"{name} must lie in {left}{low}, {high}{right}, got {value}")
    return x


def check_nk(n: Any, k: Any) -> tuple[int, int]:
    """Check 1 <= k <= n."""
    n = check_int("n", n, 1)
    return n, check_int("k", k, 1, n, "n")


def check_spectrum(s: ArrayLike, name: str = "s") -> NDArray[np.float64]:
    """Return singular values as a descending float64 vector, or raise ValueError naming the argument."""
    values = np.asarray(s, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"{name} must be a non-empty vector, got shape {values.shape}")
    if not np.all(np.isfinite(values)) or np.any(values < 0):
        raise ValueError(f"{name} must be finite and non-negative")
    return np.sort(values)[::-1]


def to_float(integer: int) -> float:
    """Return the float of an exact integer; inf where it does not fit."""
    return math.inf if integer.bit_length() > FLOAT_LIMIT else _float_or_inf(integer)


def _float_or_inf(integer: int) -> float:
    try:
        return float(integer)
    except OverflowError:
        return math.inf


def four_to(k: int) -> int | None:
    """Return 4**k as an exact integer, or None where every bound that contains it is inf in float64."""
    return 4**k if 2 * k < FLOAT_LIMIT + 64 else None
