"""VisionZip: dominant tokens by the attention from CLS, all others merged into contextual ones (CVPR 2025;
dvlab-research/VisionZip, 3151f6d).

k = dominant + contextual. Dominant tokens have the highest attention, summed over heads; CLS takes one of
their places. The others, in raster order, are strided: every ⌊m/contextual⌋-th of the m is an anchor. Each
that is no anchor goes to the anchor whose key (mean over heads) has the highest cosine with its own. A
contextual token is the anchor's row *plus* the mean of the rows that went to it; as in the official code it
is not halved. Rows are those of the vision tower, before the projector.

The official code takes both counts: 54 + 10 of 64, 108 + 20 of 128, 162 + 30 of 192 in its evaluation. Here
``contextual_ratio`` is the share 10/64 that these have in common, rounded. The official code always has the
CLS row; here it takes its place where `vision_cls` is given, and then stands at the first token that stands
for nothing else. Contextual tokens stand at their anchors.

For Qwen2.5-VL, whose tower has no CLS and whose merger joins four patches, the authors take the attention received
from all patches and the keys of the last block, means over the four, and merge tokens behind the merger. So here for
every tower without CLS, and behind every projector that joins patches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlm_bridge.pruners.plan import Plan, Pruner
from vlm_bridge.pruners.ranking import at_least_float32, check_share, complement, descending
from vlm_bridge.pruners.relevance import unit_rows


def visionzip(
    features: Tensor,
    k: int,
    weights: None,
    *,
    cls_attention: Tensor,
    vision_keys: Tensor,
    vision_cls: Tensor | None = None,
    contextual_ratio: float = 10 / 64,
) -> Plan:
    """Keep CLS (if given), dominant tokens in order of attention, then contextual tokens at their anchors."""
    check_share("contextual_ratio", contextual_ratio)
    n, cls = features.shape[0], int(vision_cls is not None)
    contextual = min(round(k * contextual_ratio), k - cls)
    attention = at_least_float32(cls_attention).sum(0)
    dominant: list[int] = descending(attention)[: k - cls - contextual].tolist()
    others = complement(dominant, n)
    at, anchors, members = contextual_tokens(vision_keys[:, others], contextual)
    rest = torch.tensor(others, dtype=torch.int64, device=features.device)

    merge = torch.zeros(k, n + cls, dtype=attention.dtype, device=features.device)
    merge[range(cls, cls + len(dominant)), dominant] = 1
    merge[k - contextual :, rest[at]] = torch.eye(contextual, dtype=merge.dtype, device=merge.device)
    merge[k - contextual :, rest[members]] = anchors
    places = dominant + rest[at].tolist()
    if cls:
        merge[0, n] = 1
        places = [complement(places, n)[0], *places]
    return Plan(indices=tuple(places), merge=merge)


def contextual_tokens(keys: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Choose `count` anchors among tokens with keys (heads, m, d), and assign the other tokens to them.

    Returns
    -------
    at : Tensor (count,)
        Places of the anchors.
    shares : Tensor (count, m − count)
        Share of each other token in the mean that is added to the anchor.
    members : Tensor (m − count,)
        Places of the others.
    """
    unit = unit_rows(at_least_float32(keys).mean(0))
    m = unit.shape[0]
    at = torch.arange(count, device=unit.device) * (m // max(1, count))
    is_anchor = torch.zeros(m, dtype=torch.bool, device=unit.device)
    is_anchor[at] = True
    members = (~is_anchor).nonzero()[:, 0]
    if count == 0:
        return at, unit.new_zeros(0, m), members
    cosine = unit[members] @ unit[at].mT
    assigned = torch.nn.functional.one_hot(cosine.argmax(1), count).to(unit.dtype).mT
    return at, assigned / assigned.sum(1, keepdim=True).clamp(min=1), members


ROW = Pruner(
    "visionzip",
    "highest attention from CLS; the others merged into strided anchors",
    "yang2025visionzip",
    visionzip,
    weighted=False,
    merges="added to the anchor with the nearest key, as the mean of all that go there",
    before_projector=True,
    elsewhere="the authors' for Qwen2.5-VL: mean attention received, mean keys, merged behind the projector; no CLS row there",
)
