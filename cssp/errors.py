"""What can go wrong, in one family: everything raised here is a ``CsspError``, which is a ``ValueError``."""

from __future__ import annotations

__all__ = [
    "ArgumentError",
    "CsspError",
    "RankDeficientError",
    "RankDeficientWarning",
    "UnknownNameError",
    "UnsupportedError",
]


class CsspError(ValueError):
    """Base of all errors of this package."""


class ArgumentError(CsspError):
    """An argument has the wrong type, shape, range or content."""


class UnknownNameError(CsspError):
    """No method, or no option of the method, has that name."""


class UnsupportedError(CsspError):
    """The method cannot honour an argument that others can."""


class RankDeficientError(CsspError):
    """More columns were asked for than the numerical rank, under ``deficient="raise"``."""


class RankDeficientWarning(UserWarning):
    """More columns were asked for than the numerical rank; the surplus picks add nothing to the span."""
