"""What the pruners that rank tokens by a score share."""

from __future__ import annotations

from collections.abc import Collection
from numbers import Integral, Real

import numpy as np
import torch
from torch import Tensor

from vlm_bridge.errors import BridgeError


def head_mean(attention: Tensor) -> Tensor:
    """Mean over heads of attention (heads, n), at least in float32."""
    return at_least_float32(attention).mean(0)


def at_least_float32(x: Tensor) -> Tensor:
    """`x` itself, or in float32 where its precision is lower."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def descending(scores: Tensor) -> Tensor:
    """Indices (n,) by descending score (n,); ties in ascending order of index."""
    return scores.sort(descending=True, stable=True).indices


def outliers(scores: Tensor) -> int:
    """How many scores (n,) exceed Q3 + 1.5 (Q3 − Q1), Tukey's rule, with interpolated quartiles.

    In float32, as PruMerge and TRIM count: what a softmax has let underflow there is no outlier.
    """
    values = scores.float().cpu().numpy()
    low, high = np.percentile(values, [25, 75])
    return int((values > high + 1.5 * (high - low)).sum())


def complement(taken: Collection[int], n: int) -> list[int]:
    """Indices below n that are not in `taken`, ascending."""
    found = set(taken)
    return [j for j in range(n) if j not in found]


def check_share(name: str, value: float) -> None:
    """Refuse an option that must lie in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value <= 1:
        raise BridgeError(f"{name} = {value!r}: allowed are numbers from 0 to 1.")


def check_count(name: str, value: int) -> None:
    """Refuse an option that must be a positive whole number."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise BridgeError(f"{name} = {value!r}: allowed are whole numbers from 1.")


def check_switch(**options: bool) -> None:
    """Refuse options that must be True or False."""
    for name, value in options.items():
        if not isinstance(value, bool):
            raise BridgeError(f"{name} = {value!r}: allowed are True and False.")
