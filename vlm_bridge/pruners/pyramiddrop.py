"""PyramidDrop: fewer tokens at every stage (CVPR 2025; Cooperx521/PyramidDrop, 6444f304).

Three times, before layers 8, 16 and 24 of 32, image tokens are ranked by the attention that the last token
of the instruction would pay them in the layer to come (its own query and key projections, averaged over
heads); 50 %, 25 % and 12.5 % of the image stay. Counts are cut, not rounded: int(n · share).

The official code packs positions anew at every stage (``positions="compact"``); by default they stay here.
It has no way to ask for a budget: `keep` is the average over all layers, to which the shares are scaled;
``keep=None`` takes them as they are. Ties fall to the lowest index.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from vlm_bridge.budget import is_share
from vlm_bridge.pruners.fastv import most_attended
from vlm_bridge.pruners.inside import (
    Inside,
    Stage,
    check_shares,
    check_stages,
    count_of,
    counts_for_average,
    scaled_stages,
)
from vlm_bridge.pruners.plan import Plan, Pruner

STAGES, SHARES = (8, 16, 24), (0.5, 0.25, 0.125)


def pyramiddrop(features: Tensor, k: int, weights: None, *, attention: Tensor) -> Plan:
    """Pick the k tokens with the most attention from the last query, by head mean."""
    return Plan(indices=most_attended(attention[:, -1:], k))


def schedule(
    layers: int,
    n: int,
    keep: Any,
    *,
    stages: Sequence[int] | None = None,
    shares: Sequence[float] = SHARES,
) -> tuple[Stage, ...]:
    """Schedule the stages by the official shares, or by shares scaled to an average over all layers."""
    cut = check_stages(scaled_stages(STAGES, layers) if stages is None else stages, layers)
    check_shares(shares, cut)
    if keep is None:
        counts: Sequence[int] = [max(1, int(n * share)) for share in shares]
    else:
        counts = counts_for_average(layers, cut, n, shares, average_of(keep, n))
    return tuple(Stage(layer, count) for layer, count in zip(cut, counts, strict=True))


def average_of(keep: Any, n: int) -> Any:
    """Return the average that a count, a share or an `AtMost` asks for, of n tokens; a share is not rounded."""
    count = count_of(keep, n)
    return keep * n if is_share(keep) else count


ROW = Pruner(
    "pyramiddrop",
    "most attention from the last token, in stages",
    "xing2025pyramiddrop",
    pyramiddrop,
    weighted=False,
    inside=Inside(schedule, ranks="at"),
)
