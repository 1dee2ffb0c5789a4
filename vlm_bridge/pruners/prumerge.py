"""LLaVA-PruMerge and PruMerge+ (ICCV 2025; 42Shawn/LLaVA-PruMerge, 097c0411).

Tokens of highest attention from CLS are kept. To each the 32 tokens with the nearest keys (cosine, kept ones
too) are added, each times its attention. One token more is the sum of all that are not kept, each times its
attention. None of these sums is divided by its weights. Rows are those of the vision tower, before the
projector. Kept tokens stand where they were; the last one, which the official code appends, stands at the
first token that is not kept.

How many: ``adaptive=True`` keeps as many as Tukey's rule finds outliers, as the official evaluation does;
`keep` is then an upper bound, and an image without outliers becomes the one sum. Otherwise k − 1 are kept.

``plus=True`` keeps evenly spaced tokens besides. With a fixed budget half of the kept tokens are spaced as
the official code spaces them; there one that attention has chosen already comes twice, here the next free
one comes instead. With ``adaptive=True`` the step is a third of n/outliers, and what exceeds the budget is
dropped evenly. The official code has 576 tokens written into it and divides by zero without outliers.

The official attention is of *one* head as wide as the tower, at its last layer, though the rows are those of
the layer before; keys are those of the same layer. To reproduce it pass that attention as (1, n). The
official count is ⌊n · (outliers/n)⌋, which for some n, not 576, loses one by rounding.

For towers without CLS the authors give no rule; here the mean attention that a patch receives stands in, as in VisPruner
and VisionZip, and where the projector joins patches, tokens are merged behind it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlm_bridge.pruners.plan import Plan, Pruner
from vlm_bridge.pruners.ranking import (
    at_least_float32,
    check_count,
    check_switch,
    complement,
    descending,
    head_mean,
    outliers,
)
from vlm_bridge.pruners.relevance import unit_rows


def prumerge(
    features: Tensor,
    k: int,
    weights: None,
    *,
    cls_attention: Tensor,
    vision_keys: Tensor,
    plus: bool = False,
    adaptive: bool = False,
    neighbors: int = 32,
) -> Plan:
    """Keep tokens in order of attention, evenly spaced ones (`plus`), then the sum of all others."""
    check_switch(plus=plus, adaptive=adaptive)
    check_count("neighbors", neighbors)
    n, attention = features.shape[0], head_mean(cls_attention)
    room = k - 1
    count = min(outliers(attention), room) if adaptive else room
    order: list[int] = descending(attention).tolist()
    if not plus:
        kept = order[:count]
    elif adaptive:
        kept = order[:count] + thinned(spaced(order[:count], n), room - count)
    else:
        top = room - room // 2
        kept = order[:top] + between(order[:top], room // 2, n)
    rest = complement(kept, n)

    merge = attention.new_zeros(len(kept) + 1, n)
    near = nearest(vision_keys, kept, min(neighbors, n - 1))
    merge[:-1].scatter_(1, near, attention[near])
    merge[range(len(kept)), kept] = 1
    merge[-1, rest] = attention[rest]
    return Plan(indices=(*kept, rest[0]), merge=merge)


def nearest(vision_keys: Tensor, kept: list[int], count: int) -> Tensor:
    """Return for each kept token the `count` others (len(kept), count) with the nearest keys, all heads as one."""
    unit = unit_rows(at_least_float32(vision_keys).transpose(0, 1).flatten(1))
    cosine = unit[kept] @ unit.mT
    cosine[range(len(kept)), kept] = -torch.inf
    return cosine.sort(dim=-1, descending=True, stable=True).indices[:, :count]


def spaced(top: list[int], n: int) -> list[int]:
    """List tokens at steps of a third of n/len(top), without those in `top`."""
    if not top:
        return []
    step = max(1, n // len(top) // 3)
    return [j for j in range(0, n - 1, step) if j not in set(top)]


def thinned(tokens: list[int], room: int) -> list[int]:
    """Thin tokens out to `room` evenly spaced ones, or return all."""
    if len(tokens) <= room:
        return tokens
    return [tokens[j * len(tokens) // room] for j in range(room)]


def between(top: list[int], count: int, n: int) -> list[int]:
    """Pick `count` tokens in the middle of equal stretches, or the next free one where that is taken."""
    taken = set(top)
    found = []
    for i in range(count):
        j = (2 * i + 1) * n // (2 * count)
        while j in taken:
            j = (j + 1) % n
        taken.add(j)
        found.append(j)
    return found


ROW = Pruner(
    "prumerge",
    "highest attention from CLS, each with its neighbours' rows added",
    "shang2025prumerge",
    prumerge,
    weighted=False,
    merges="added, times attention, to kept tokens with near keys and to one token for all others",
    before_projector=True,
    elsewhere="ours (asked for in PruMerge, issue 21): as VisionZip's",
)
