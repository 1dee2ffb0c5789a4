"""What can go wrong, in one family: everything raised here is a ``CsspError``, which is a ``ValueError``."""

from __future__ import annotations

import operator

__all__ = [
    "ArgumentError",
    "CsspError",
    "MissingFileError",
    "RankDeficientError",
    "RankDeficientWarning",
    "UnknownNameError",
    "UnsupportedError",
    "check_integer",
]


class CsspError(ValueError):
    """Base of all errors of this package."""


class ArgumentError(CsspError):
    """An argument has the wrong type, shape, range or content."""


class MissingFileError(ArgumentError, FileNotFoundError):
    """A file that is to be read is not there."""


class UnknownNameError(CsspError):
    """No method, or no option of the method, has that name."""


class UnsupportedError(CsspError):
    """The method cannot honour an argument that others can."""


class RankDeficientError(CsspError):
    """More columns were asked for than the numerical rank, under ``deficient="raise"``."""


class RankDeficientWarning(UserWarning):
    """More columns were asked for than the numerical rank; the surplus picks add nothing to the span."""


def check_integer(argument: str, value: object, low: int = 1, high: int | None = None) -> int:
    """The integer within [low, high]; a bool or a float, even a whole one, is refused."""
    try:
        if isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool"):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise ArgumentError(
            f"{argument} = {value!r} ({type(value).__name__}): "
            f"an integer is wanted; write int({argument}) if that is meant"
        ) from None
    if number < low or (high is not None and number > high):
        allowed = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ArgumentError(f"{argument} = {number}: must be {allowed}")
    return number
