"""AnchorPrune: tokens relevant to the question first, then important and novel ones (arXiv 2607.07033;
MULTI-cau/AnchorPrune, 9aa2774).

The *anchor* are the most relevant tokens: at least `least`, at most ⌊`most` · k⌋. Between the two it ends with the token that is
the third (`patience`) whose novelty, 1 − the largest cosine to the first `least`, exceeds `novelty`. Then each
pick takes the largest a_i · min(1, 1 − largest cosine to those chosen), a_i being the attention from CLS: ZOO-Prune's rule with
another quality, and a distance that does not exceed 1.

Relevance is CDPruner's, and the anchor's cosines are between patches in CLIP's joint space; later cosines are between the vision tower's
rows. The features stand in for either where it is not given. For Qwen2.5-VL the authors take the attention received.
"""

from __future__ import annotations

from torch import Tensor

from vlm_bridge.pruners._greedy import max_min, number
from vlm_bridge.pruners.plan import Plan, Pruner
from vlm_bridge.pruners.ranking import check_count, check_share, descending, head_mean
from vlm_bridge.pruners.relevance import Relevance, unit_rows


def anchorprune(
    features: Tensor,
    k: int,
    weights: Tensor,
    *,
    cls_attention: Tensor,
    clip_patches: Tensor | None = None,
    vision_clip: Tensor | None = None,
    least: int = 5,
    most: float = 0.5,
    novelty: float = 0.2,
    patience: int = 3,
) -> Plan:
    """Pick the anchor by relevance, then greedily the largest attention times distance."""
    check_count("least", least)
    check_count("patience", patience)
    check_share("most", most)
    novelty = number("novelty", novelty, 0, 2)
    ranked = descending(weights)
    least = min(least, k)
    candidates = ranked[least : max(least, int(most * k))]
    unit = unit_rows(features if clip_patches is None else clip_patches)
    novel = 1 - (unit[candidates] @ unit[ranked[:least]].mT).amax(-1) > novelty
    enough = (novel.cumsum(0) >= patience).nonzero()
    size = least + (int(enough[0]) + 1 if len(enough) else len(candidates))
    rows = unit_rows((features if vision_clip is None else vision_clip).double())
    quality = head_mean(cls_attention).double().clamp(min=0)
    return Plan(indices=max_min(rows, quality, k, *ranked[:size].tolist(), far=1.0))


ROW = Pruner(
    "anchorprune",
    "the most relevant tokens, then attention from CLS times max-min cosine distance",
    "oh2026anchorprune",
    anchorprune,
    Relevance(space="clip", reduction="mean", sign="anti"),
    elsewhere="the authors' for Qwen2.5-VL, but for relevance, which they take from that model: mean attention received",
)
