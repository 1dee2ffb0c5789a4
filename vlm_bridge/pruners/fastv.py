"""FastV: drop what the last token does not look at (ECCV 2024; pkunlp-icler/FastV, d1659729).

From decoder layer K on, those image tokens stay that draw the most attention from the prompt's last token in
layer K − 1, averaged over heads. Positions stay. The official code reads full attention maps, batch item 0
only, and takes the image's place by hand; its other variants (masking instead of dropping, no cache, random
tokens for K = 0) are not reproduced. Its ties fall as `topk` has them, here to the lowest index.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlm_bridge.errors import BridgeError
from vlm_bridge.pruners._greedy import largest
from vlm_bridge.pruners.inside import Inside, single
from vlm_bridge.pruners.plan import Plan, Pruner


def fastv(features: Tensor, k: int, weights: None, *, attention: Tensor) -> Plan:
    """Pick the k tokens with the most attention from the last query, by head mean."""
    return Plan(indices=most_attended(attention[:, -1:], k))


def most_attended(attention: Tensor, k: int) -> tuple[int, ...]:
    """Return the k tokens of largest mean attention over heads and queries, of `attention` (heads, queries, n)."""
    return ranked(mean_attention(attention))[:k]


def mean_attention(attention: Tensor) -> Tensor:
    """Average attention (heads, queries, n) over the heads, then over the queries, to (n,)."""
    if attention.ndim != 3 or 0 in attention.shape:
        raise BridgeError(f"attention of shape {tuple(attention.shape)}: expected (heads, queries, n).")
    return attention.to(torch.promote_types(attention.dtype, torch.float32)).mean(0).mean(0)


def ranked(score: Tensor) -> tuple[int, ...]:
    """Return all indices by descending score (n,); ties go to the lowest index."""
    return largest(score, len(score))


ROW = Pruner(
    "fastv",
    "most attention from the last token in the layer before",
    "chen2024fastv",
    fastv,
    weighted=False,
    inside=Inside(single),
)
