"""HoloV: a budget for every crop of the image, spent on attention (NeurIPS 2025; obananas/HoloV, 1d2e65e9).

The raster sequence is cut into contiguous crops; where they do not divide n, the first ones have a token
more. A token's score is 1000·a + 0.09·v·c, with a the attention from CLS (mean over heads), v the variance
of its cosines with the others of its crop, and c the factor that gives v the crop's mean of 1000·a. A crop
of one token scores a. Each crop is given ⌊k · share⌋ tokens of highest attention, its share being that of
its mean score, and the crops of largest share one more each until k are given.

By the factor c the mean of 0.09·v·c over a crop is 0.09 times that of 1000·a, for any v well above 1e-6. So in
effect the variance scales all crops alike, and the shares are those of the mean attention.

The official code for LLaVA has 64 tokens and 16 crops written into it; the one for Qwen2.5-VL chooses
⌊(1024/576) n/k⌋ crops, which is 16 for 64 of 576 and is the default here. A crop that is given more tokens
than it has keeps all of them; what is left over the official code fills with zero rows (LLaVA) or repeats
the last token (Qwen2.5-VL). Here such places go to the tokens of highest attention that are not kept yet.

For Qwen2.5-VL the attention is the mean that a patch receives in the last block, then the mean over the four patches of
a token. The official code takes these in the order of the tower's windows, and tokens in raster order: wherever an image
has several windows, tokens get the attention of others. Here both are in raster order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlm_bridge.errors import BridgeError
from vlm_bridge.pruners.plan import Plan, Pruner
from vlm_bridge.pruners.ranking import at_least_float32, check_count, descending, head_mean

_EPS = 1e-6
"""Added to norms, to the mean variance and to the sum of scores, as in the official code."""


def holov(
    features: Tensor, k: int, weights: None, *, cls_attention: Tensor, crops: int | None = None
) -> Plan:
    """Pick each crop's share of k tokens by attention, then tokens for the places left over."""
    n, attention = features.shape[0], head_mean(cls_attention)
    if (attention < 0).any():
        raise BridgeError("cls_attention: expected no negative value, since they are shares of the budget.")
    if crops is None:
        crops = max(1, int(1024 / 576 * n / k))
    check_count("crops", crops)
    crops = min(crops, n)
    size, longer = divmod(n, crops)
    split = longer * (size + 1)
    rows = at_least_float32(features)
    scores = [
        crop_scores(part.reshape(count, length, rows.shape[1]), values.reshape(count, length))
        for part, values, count, length in (
            (rows[:split], attention[:split], longer, size + 1),
            (rows[split:], attention[split:], crops - longer, size),
        )
    ]
    granted = grants(torch.cat(scores), k)

    order: list[int] = descending(attention).tolist()
    chosen: list[list[int]] = [[] for _ in range(crops)]
    spare: list[int] = []
    for j in order:
        c = j // (size + 1) if j < split else longer + (j - split) // size
        (chosen[c] if len(chosen[c]) < granted[c] else spare).append(j)
    kept = [j for crop in chosen for j in crop]
    return Plan(indices=tuple(kept + spare[: k - len(kept)]))


def crop_scores(rows: Tensor, attention: Tensor) -> Tensor:
    """Average the scores of the tokens of c crops, from rows (c, s, d) and attention (c, s), to (c,)."""
    size = rows.shape[1]
    if size == 1:
        return attention[:, 0]
    unit = rows / (rows.norm(dim=-1, keepdim=True) + _EPS)
    cosine = unit @ unit.mT
    cosine = cosine * (1 - torch.eye(size, dtype=cosine.dtype, device=cosine.device))
    mean = cosine.sum(-1, keepdim=True) / (size - 1)
    variance = (cosine - mean).square().sum(-1) / (size - 1)
    scaled = attention * 1e3
    factor = scaled.mean(-1, keepdim=True) / (variance.mean(-1, keepdim=True) + _EPS)
    return (scaled + 0.09 * variance * factor).mean(-1)


def grants(scores: Tensor, k: int) -> list[int]:
    """Grant tokens to each crop: floors of the shares, then one each in descending order of share."""
    share = scores / (scores.sum() + _EPS)
    granted: list[int] = (share * k).floor().long().tolist()
    for c in descending(share)[: max(0, k - sum(granted))].tolist():
        granted[c] += 1
    return granted


ROW = Pruner(
    "holov",
    "highest attention from CLS within crops that share the budget",
    "zou2025holov",
    holov,
    weighted=False,
    elsewhere="the authors' for Qwen2.5-VL, but for the order: theirs leaves the attention in the order of the windows",
)
