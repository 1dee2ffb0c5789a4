"""PruneSID: groups of tokens along principal directions, thinned of near copies (ICLR 2026, arXiv 2603.09480;
ZhengyaoFang/PruneSID, 4ef17d9).

The logistic function of the vision tower's rows, transposed and centred over its coordinates, has max(1, ⌊K/4⌋) leading right singular
vectors; a token belongs to the one in which its entry is largest in size. In each group tokens are taken in
descending order of attention, and those whose cosine with one taken exceeds (K/32) · (mean cosine of all pairs) are put behind the others.
Every group keeps one token at least and 5⌈K/64⌉ at most; between the two, places go by the number of tokens that the thinning left. If they do
not suffice, the upper limits grow by one token for all groups at once.

K = k + 1, since the official code keeps the CLS row beside k patches; here those patches alone are kept. Its singular vectors are of
a randomised algorithm and depend on a global seed; here they are exact. Wherever its groups differ, so do the tokens.
For Qwen2-VL the authors go by the entry of the singular vector in the place of attention.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vlm_bridge.pruners.plan import Plan, Pruner
from vlm_bridge.pruners.ranking import at_least_float32, descending, head_mean
from vlm_bridge.pruners.relevance import unit_rows


def prunesid(
    features: Tensor, k: int, weights: None, *, cls_attention: Tensor, vision_clip: Tensor | None = None
) -> Plan:
    """Pick each group's share of its tokens, thinned ones by attention and then the others."""
    rows = at_least_float32(features if vision_clip is None else vision_clip)
    attention, budget = head_mean(cls_attention), k + 1
    group = principal_groups(rows, budget // 4)
    unit = unit_rows(rows)
    cosine = unit @ unit.mT
    pairs = len(rows) * (len(rows) - 1) / 2
    threshold = budget / 32 * float(cosine.triu(1).sum()) / max(1, pairs)
    ordered: list[list[int]] = []
    thinned: list[int] = []
    for g in range(int(group.max()) + 1):
        members = (group == g).nonzero()[:, 0]
        members = members[descending(attention[members])]
        first, later = apart(cosine[members][:, members], threshold)
        ordered.append(members[first + later].tolist())
        thinned.append(len(first))
    counts = shares(thinned, [len(members) for members in ordered], k, 5 * math.ceil(budget / 64))
    return Plan(indices=tuple(j for members, c in zip(ordered, counts, strict=True) for j in members[:c]))


def principal_groups(rows: Tensor, count: int) -> Tensor:
    """Return for each row (n, d) which of the `count` principal directions of its logistic function it lies along (n,)."""
    table = torch.sigmoid(rows).double().mT
    directions = torch.linalg.svd(table - table.mean(0), full_matrices=False).Vh[: max(1, count)]
    return directions.abs().argmax(0)


def apart(cosine: Tensor, threshold: float) -> tuple[list[int], list[int]]:
    """Divide tokens, in order, into those taken and those too close to one taken before."""
    first: list[int] = []
    later: list[int] = []
    free = torch.ones(len(cosine), dtype=torch.bool)
    close = (cosine > threshold).cpu()
    for j in range(len(cosine)):
        (first if free[j] else later).append(j)
        if free[j]:
            free &= ~close[j]
    return first, later


def shares(thinned: list[int], sizes: list[int], k: int, most: int) -> list[int]:
    """Divide k places among groups by the number of tokens that thinning left.

    Parameters
    ----------
    thinned, sizes : list of int
        Tokens of each group behind and before the thinning.
    most : int
        Upper limit of a group.
    """
    low = [min(1, size) for size in sizes]
    high = [min(most, left) for left in thinned]
    while sum(high) < k + 1 and high != sizes:
        high = [min(h + 1, size) for h, size in zip(high, sizes, strict=True)]
    part = torch.tensor(thinned) / sum(
        thinned
    )  # halves are rounded by float32's last bit, as in the official code
    marks: list[int] = (part.cumsum(0) * max(0, k - sum(low))).round().long().tolist()
    steps = [b - a for a, b in zip([0, *marks], marks, strict=False)]
    counts = [min(a + b, h) for a, b, h in zip(low, steps, high, strict=True)]
    for g in sorted(range(len(sizes)), key=lambda g: -thinned[g]):
        counts[g] += min(high[g] - counts[g], max(0, k - sum(counts)))
    for g in reversed(range(len(sizes))):  # more groups than places
        counts[g] -= min(counts[g], max(0, sum(counts) - k))
    return counts


ROW = Pruner(
    "prunesid",
    "by attention from CLS in groups along principal directions, near copies last",
    "fang2026prunesid",
    prunesid,
    weighted=False,
    elsewhere="ours: mean attention received (the authors' rule for Qwen2-VL ranks by the singular vectors' entries instead)",
)
