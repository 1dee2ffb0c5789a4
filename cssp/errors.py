"""What can go wrong, in one family: everything raised here is a ``CsspError``, which is a ``ValueError``."""

from __future__ import annotations

import contextlib
import operator
import re
import sys
import warnings
from collections.abc import Iterator
from contextvars import ContextVar

__all__ = [
    "ArgumentError",
    "CsspError",
    "MissingFileError",
    "RankDeficientError",
    "RankDeficientWarning",
    "TimeLimitWarning",
    "UnknownNameError",
    "UnsupportedError",
    "check_integer",
    "speaking_of",
    "warn",
]

#: What is chosen here, "columns" or "rows": messages are written for columns.
_AXIS = ContextVar("_AXIS", default="columns")


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


class TimeLimitWarning(UserWarning):
    """A method ended at its ``time_limit``: what it found is valid, but not all that was promised of it is proven."""


@contextlib.contextmanager
def speaking_of(axis: str) -> Iterator[None]:
    """Exchange the words row and column in the errors and warnings of the block where ``axis`` is "rows"."""
    token = _AXIS.set(axis)
    try:
        yield
    except CsspError as error:
        error.args = (_worded(str(error)),)
        raise
    finally:
        _AXIS.reset(token)


def _worded(message: str) -> str:
    """Return a message about columns as one about what is chosen here; names, which stand in quotes, stay."""
    if _AXIS.get() == "columns":
        return message
    other = {"row": "column", "column": "row"}
    return re.sub(
        r"(?<![=\w])'[^']*'|\b(?:row|column)(?=s?\b)",
        lambda found: other.get(found[0], found[0]),
        message,
    )


def warn(message: str, category: type[Warning]) -> None:
    """Warn, pointing at the line that called this package, however deep inside it the cause is."""
    frame, level = sys._getframe(1), 2
    # NumPy's decorators may stand between two functions of this package.
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("cssp", "numpy"):
        frame, level = frame.f_back, level + 1  # type: ignore[assignment]
    warnings.warn(_worded(message), category, stacklevel=level)


def check_integer(argument: str, value: object, low: int = 1, high: int | None = None) -> int:
    """Return the integer within [low, high]; a bool or a float, even a whole one, is refused."""
    try:
        if isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool"):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise ArgumentError(
            f"{argument} = {value!r} ({type(value).__name__}): "
            f"expected an integer; write int({argument}) if that is meant"
        ) from None
    if number < low or (high is not None and number > high):
        allowed = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ArgumentError(f"{argument} = {number}: must be {allowed}")
    return number
