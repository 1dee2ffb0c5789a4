"""DART: duplicates go (EMNLP 2025; as ported in ModelTC/LightCompress, 9701d03).

Pivots are the image tokens and the text tokens behind the image whose keys have the largest 1-norm. Each
pivot takes in turn the image tokens, of those left, that are least like it: lowest cosine of the hidden
states after the final norm. Kept are image pivots and what was taken. Live, keys are those of layer K − 1 and
hidden states the input of layer K; positions stay.

Pivots take their turn in the order in which Python walks through the set of their places in the prompt, as
in the official code, where the order decides. That code lets every pivot take int(n (1 − reduction) /
pivots) tokens, so that its budget is met only roughly; here `keep` is met exactly, the leftover going to the
first pivots, one each. Where the official count is met (image pivots + pivots · that number) the sets are
equal. With fewer than `image_pivots` to keep, the first of the image pivots are kept. Ties fall to the lowest
index.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlm_bridge.errors import BridgeError
from vlm_bridge.pruners.fastv import ranked
from vlm_bridge.pruners.inside import Inside, single
from vlm_bridge.pruners.plan import Plan, Pruner
from vlm_bridge.pruners.relevance import unit_rows


def dart(
    features: Tensor,
    k: int,
    weights: None,
    *,
    hidden: Tensor,
    keys: Tensor,
    image_start: Tensor | int,
    image_pivots: int = 4,
    text_pivots: int = 4,
) -> Plan:
    """Pick pivots by the 1-norm of keys, then the tokens least like each."""
    n, start = features.shape[0], int(image_start)
    _check(n, start, hidden, keys, image_pivots, text_pivots)
    length = keys.to(torch.promote_types(keys.dtype, torch.float32)).abs().sum((0, 2))
    images = list(ranked(length[start : start + n])[: min(image_pivots, k)])
    texts = [n + j for j in ranked(length[start + n :])[:text_pivots]]
    chosen, pivots = list(images), list({start + i for i in images + texts})
    left = [i for i in range(n) if i not in images]
    unit = unit_rows(hidden)
    share, over = divmod(k - len(images), len(pivots))
    for turn, pivot in enumerate(pivots):
        cosine = unit[[start + i for i in left]] @ unit[pivot]
        taken = [left[j] for j in ranked(-cosine)[: share + (turn < over)]]
        chosen += taken
        left = [i for i in left if i not in taken]
    return Plan(indices=tuple(chosen))


def _check(n: int, start: int, hidden: Tensor, keys: Tensor, image_pivots: int, text_pivots: int) -> None:
    """Refuse options and signals that do not fit each other."""
    for name, value, least in (("image_pivots", image_pivots, 1), ("text_pivots", text_pivots, 0)):
        if not isinstance(value, int) or value < least:
            raise BridgeError(f"{name} = {value!r}: expected an integer of at least {least}.")
    if hidden.ndim != 2 or keys.ndim != 3 or keys.shape[1] != hidden.shape[0]:
        raise BridgeError(
            f"hidden of shape {tuple(hidden.shape)} and keys of shape {tuple(keys.shape)}: expected (L, d) and "
            "(heads, L, d) of the same L tokens."
        )
    if not 0 <= start <= hidden.shape[0] - n:
        raise BridgeError(
            f"image_start = {start}: the image's {n} tokens do not lie within the {hidden.shape[0]} of hidden."
        )


ROW = Pruner(
    "dart",
    "tokens least like a few pivots",
    "wen2025dart",
    dart,
    weighted=False,
    inside=Inside(single),
)
