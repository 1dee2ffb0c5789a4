"""The rules of pivoting as numbers, for steps that run where no function of ours can be called."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cssp.pivoting import SINGLE_REACH, TIE_BAND, floor, norm_slack, stale_level

__all__ = ["RESOLVED", "SEEN", "Rules"]

#: Error of the Gram matrix in units of the difference seen on its diagonal, and what the steps themselves add.
SEEN, ADDED = 1.25, 2.0

#: A pivot is resolved where it exceeds this many times its estimated error.
RESOLVED = 4.0


class Rules:
    """Numbers that decide picks, for one precision of the input and one of the steps.

    Attributes
    ----------
    band, slack : float
        Tie band relative to the best score; slack of a score relative to its column's squared norm.
    refresh : float
        Below this share the reference forms the norm anew, and its slack shrinks with it.
    least : float
        Pivots below this share of the largest squared norm are not resolved.
    reach : float
        Nor are those below this share of the column's own squared norm.
    eps, low, high : float
        Rounding of the steps, and the range of squared norms in which they may be trusted.
    exact : bool
        Whether a zero is a zero, or may be a square that underflowed.
    """

    def __init__(self, reference: torch.dtype, compute: torch.dtype, m: int, n: int) -> None:
        eps = torch.finfo(reference).eps
        self.band, self.slack, self.refresh = TIE_BAND * eps, norm_slack(1.0, eps), stale_level(1.0, eps)
        self.least = floor(m, n, eps, 1.0) ** 2
        if reference == torch.float32:
            self.least = max(self.least, SINGLE_REACH**2)
        self.eps = torch.finfo(compute).eps
        self.reach = n * self.eps
        self.low, self.high = (2.0**-60, 2.0**100) if compute == torch.float32 else (2.0**-700, 2.0**900)
        self.exact = reference != compute

    @classmethod
    def of(cls, A: Tensor, compute: torch.dtype | None = None) -> Rules:
        """Return the rules for the input A; halves and float32 are compared as the reference compares float32."""
        reference = torch.float64 if A.dtype == torch.float64 else torch.float32
        return cls(reference, compute or reference, *A.shape[1:])

    def added(self, steps: int) -> float:
        """Return the relative error that the steps themselves add."""
        return ADDED * (1 + math.sqrt(steps) / 8) * self.eps
