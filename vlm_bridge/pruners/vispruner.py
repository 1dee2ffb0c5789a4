"""VisPruner: important tokens by the attention from CLS, the others thinned of duplicates (ICCV 2025;
Theia-4869/VisPruner, aefa01a).

The ⌊k · important_ratio⌋ tokens of highest attention (mean over heads) stay. All others form a pool in
descending order of attention. In each round the pool is split into its even and its odd places; the 8 evens
that are most similar (cosine) to any odd are dropped, and the pool becomes the surviving evens in descending
order of similarity, then the odds. It ends when the pool fills the rest of the budget.

The official code fails where a round meets a pool of odd size or fewer than 8 evens. Here an odd pool has
one even more, and a round drops no more than there are. The official cosines are those of the vision
tower's rows: pass them as `vision_clip`; without them the features are compared.

Of towers without CLS (Qwen2.5-VL) the authors take the mean attention that a patch receives from all, join it as
the merger joins the patches, and compare the joined tokens (their repository, issue 1). So here: where the projector
joins patches, a live model's features are compared.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlm_bridge.pruners.plan import Plan, Pruner
from vlm_bridge.pruners.ranking import check_share, descending, head_mean
from vlm_bridge.pruners.relevance import unit_rows

_ROUND = 8
"""Tokens dropped in one round."""


def vispruner(
    features: Tensor,
    k: int,
    weights: None,
    *,
    cls_attention: Tensor,
    vision_clip: Tensor | None = None,
    important_ratio: float = 0.5,
) -> Plan:
    """Pick ⌊k · important_ratio⌋ tokens by attention, the rest of k from a pool without near duplicates."""
    check_share("important_ratio", important_ratio)
    order = descending(head_mean(cls_attention))
    important = int(k * important_ratio)
    pool = order[important:]
    rows = (features if vision_clip is None else vision_clip)[pool]
    diverse = pool[thinned(rows, k - important)] if important < k else pool[:0]
    return Plan(indices=tuple(order[:important].tolist() + diverse.tolist()))


def thinned(rows: Tensor, count: int) -> Tensor:
    """Return the indices of `count` >= 1 of the rows (R, d), those that are left when the rounds end.

    Cosines of rows in one cone may be equal in float32; their order is torch's own, as in the official code.
    """
    unit = unit_rows(rows)
    cosine = unit @ unit.mT
    pool = torch.arange(len(rows), device=rows.device)
    while len(pool) > count:
        even, odd = pool[::2], pool[1::2]
        dropped = min(_ROUND, len(pool) - count)
        nearest = cosine[even[:, None], odd].amax(-1)
        pool = torch.cat([even[nearest.argsort(descending=True)[dropped:]], odd])
    return pool


ROW = Pruner(
    "vispruner",
    "highest attention from CLS, then a pool thinned of near duplicates",
    "zhang2025vispruner",
    vispruner,
    weighted=False,
    elsewhere="the authors' (VisPruner, issue 1): mean attention received, joined like the patches; joined tokens compared",
    unjoined=("vision_clip",),
)
