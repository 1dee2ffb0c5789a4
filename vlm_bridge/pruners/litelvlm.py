"""LiteLVLM: the patches that CLIP finds least like the text, then context (ICML 2026, arXiv 2605.13178;
sejong-rcv/LiteLVLM, 5896153).

Of k tokens, each of P phrases takes the k // P patches with the *lowest* dot product with it in CLIP's joint
space, neither side normalised; patches taken by several phrases count once. The places left go to the
patches with the largest attention from CLS times the length of their value vector.

The official code forms that attention itself: at the last layer of the tower, the softmax over the patches
of the cosine of query and key (all heads as one) divided by the root of the width, which is almost uniform;
so its context is mostly the length of the values. It hands the context first and the patches of the text
behind it to the LLM, out of their order in the image. Here `cls_attention` is the mean over the heads of
what is given, for a live model the tower's own at its feature layer, and `vision_values` (heads, n, d) is
optional: without it the attention decides alone. With the official attention and values the choice is the
official one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlm_bridge.errors import BridgeError
from vlm_bridge.pruners._greedy import largest
from vlm_bridge.pruners.plan import Plan, Pruner


def litelvlm(
    features: Tensor,
    k: int,
    weights: None,
    *,
    clip_patches: Tensor,
    clip_text: Tensor,
    cls_attention: Tensor,
    vision_values: Tensor | None = None,
) -> Plan:
    """Pick the lowest text-patch products of each phrase, and fill up with attended tokens."""
    if clip_text.shape[-1] != clip_patches.shape[-1] or len(clip_text) == 0:
        raise BridgeError(
            f"clip_text of shape {tuple(clip_text.shape)}: expected (M, {clip_patches.shape[-1]}) with "
            "M >= 1, the space of clip_patches."
        )
    products = clip_text.double() @ clip_patches.double().mT
    empty = (clip_patches == 0).all(-1)  # no patch behind it: a row separator is like the mean patch
    if empty.any() and not empty.all():
        products[:, empty] = products[:, ~empty].mean(-1, keepdim=True)
    share = k // len(products)
    chosen = [j for row in products for j in largest(-row, share)]
    context = cls_attention.double().mean(0)
    if vision_values is not None:
        context = context * lengths(vision_values, len(context))
    chosen += largest(context, len(context))
    return Plan(indices=tuple(dict.fromkeys(chosen))[:k])


def lengths(values: Tensor, n: int) -> Tensor:
    """Return the norms (n,) of value vectors (heads, n, d), all heads as one."""
    if values.ndim != 3 or values.shape[1] != n:
        raise BridgeError(f"vision_values of shape {tuple(values.shape)}: expected (heads, {n}, dimension).")
    return torch.linalg.vector_norm(values.double(), dim=(0, 2))


ROW = Pruner(
    "litelvlm",
    "lowest CLIP product with the text, then CLS attention",
    "lee2026litelvlm",
    litelvlm,
    weighted=False,
    elsewhere="none: no other tower has its patches in a joint space with text",
)
