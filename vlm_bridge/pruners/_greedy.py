"""Shared by pruners that choose by rules of their own: ties, min-max scales, max-min greedy."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from vlm_bridge.errors import BridgeError

_TIE = 1e-12
"""Scores this close, relative to the largest, are equal: they differ by the rounding of float64."""


def number(name: str, value: Any, low: float, high: float = math.inf, *, open_low: bool = False) -> float:
    """Return an option as a float; refuse all but finite numbers in [low, high], or (low, high] with `open_low`."""
    right = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not right or value > high or value < low or (open_low and value == low):
        bounds = f"{'(' if open_low else '['}{low:g}, {high:g}{']' if high < math.inf else ')'}"
        raise BridgeError(f"{name} = {value!r}: expected a number in {bounds}.")
    return float(value)


def doubles(rows: Tensor) -> Tensor:
    """Convert rows to float64 and divide them by the largest entry, so that no square overflows."""
    rows = rows.detach().double()
    peak = rows.abs().amax()
    return rows / torch.where(peak > 0, peak, 1)


def largest(values: Tensor, k: int) -> tuple[int, ...]:
    """Return the indices of the k largest values in descending order; ties go to the lowest index."""
    return tuple(torch.sort(values, descending=True, stable=True).indices[:k].tolist())


def first_copies(rows: Tensor) -> Tensor:
    """Return for each row of `rows` (n, d) the lowest index of an equal row."""
    _, group = torch.unique(rows, dim=0, return_inverse=True)
    first = torch.full_like(group, len(rows))
    return first.scatter_reduce(0, group, torch.arange(len(rows), device=rows.device), "amin")[group]


def first_largest(values: Tensor) -> int:
    """Return the lowest index whose value is the largest up to rounding."""
    top = values.max()
    return int((values >= top - _TIE * top.abs()).nonzero()[0])


def min_max(values: Tensor, flat: float = _TIE) -> Tensor:
    """Scale values to [0, 1] in float64; all are ones where their spread is at most `flat` of the largest."""
    values = values.double()
    low, spread = values.amin(), values.amax() - values.amin()
    if spread <= flat * values.abs().amax():
        return torch.ones_like(values)
    return (values - low) / spread


def max_min(unit: Tensor, quality: Tensor, k: int, *first: int, far: float = math.inf) -> tuple[int, ...]:
    """Pick greedily the largest quality_i · (1 − largest cosine to those chosen), from the tokens `first`.

    Parameters
    ----------
    unit : Tensor (n, d) of float64, rows of norm 1 or 0
    quality : Tensor (n,) of float64, not negative
    far : float
        Distances above it count as it.
    """
    chosen, taken = list(first), torch.zeros(len(unit), dtype=torch.bool, device=unit.device)
    taken[chosen] = True
    distance = (1 - (unit @ unit[chosen].mT).amax(-1)).clamp(max=far)
    while len(chosen) < k:
        distance = torch.where(distance > _TIE, distance, 0)  # copies of a chosen token are at distance zero
        chosen.append(first_largest((quality * distance).masked_fill(taken, -1)))
        taken[chosen[-1]] = True
        distance = torch.minimum(distance, 1 - unit @ unit[chosen[-1]])
    return tuple(chosen)
