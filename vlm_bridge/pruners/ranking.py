"""Shared by pruners that rank tokens by a score."""

from __future__ import annotations

from collections.abc import Collection
from numbers import Integral, Real

import numpy as np
import torch
from torch import Tensor

from vlm_bridge.errors import BridgeError


def head_mean(attention: Tensor) -> Tensor:
    """Average attention (heads, n) over the heads, at least in float32."""
    return at_least_float32(attention).mean(0)


def at_least_float32(x: Tensor) -> Tensor:
    """Convert `x` to float32 where its precision is lower."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def descending(scores: Tensor) -> Tensor:
    """Return all indices (n,) by descending score (n,); ties go to the lowest index."""
    return scores.sort(descending=True, stable=True).indices


def outliers(scores: Tensor) -> int:
    """Count the scores (n,) that exceed Q3 + 1.5 (Q3 − Q1), Tukey's rule, with interpolated quartiles.

    The count is in float32, as by PruMerge and TRIM, where small values of a softmax underflow to zero.
    """
    values = scores.float().cpu().numpy()
    low, high = np.percentile(values, [25, 75])
    return int((values > high + 1.5 * (high - low)).sum())


def complement(taken: Collection[int], n: int) -> list[int]:
    """Return the ascending indices below n that are not in `taken`."""
    excluded = set(taken)
    return [j for j in range(n) if j not in excluded]


def check_share(name: str, value: float) -> None:
    """Refuse an option that must lie in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value <= 1:
        raise BridgeError(f"{name} = {value!r}: expected a number from 0 to 1.")


def check_count(name: str, value: int) -> None:
    """Refuse an option that must be a positive whole number."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise BridgeError(f"{name} = {value!r}: expected a whole number of at least 1.")


def check_switch(**options: bool) -> None:
    """Refuse options that must be True or False."""
    for name, value in options.items():
        if not isinstance(value, bool):
            raise BridgeError(f"{name} = {value!r}: expected True or False.")
