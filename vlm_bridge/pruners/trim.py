"""TRIM: tokens by their similarity with the text in CLIP's joint space (COLING 2025; FreedomIntelligence/TRIM,
f5a232d5).

Score: softmax over tokens of −s, with s the dot product, *not* normalised, of patch and text embedding. The
minus sign is the official code's: in this space patches that match the text have a low s. The tokens of
highest score are kept; the mean of all others, taken of the vision tower's rows before the projector, is
appended as one token.

How many: k − 1 and the mean. ``adaptive=True``: as many as Tukey's rule finds outliers among the scores, as
in the official code's automatic mode; `keep` is then an upper bound. ``mean=False`` leaves the mean out, for
k kept tokens (at least one where adaptive).

The official text is one prompt, cut to the text tower's length; of several segments the mean s counts here.
The mean stands at the first token that is not kept. Softmax keeps the order but for underflow, so that
tokens are ordered by −s and only counted by the softmax.
"""

from __future__ import annotations

from torch import Tensor

from vlm_bridge.errors import BridgeError
from vlm_bridge.pruners.plan import Plan, Pruner
from vlm_bridge.pruners.ranking import at_least_float32, check_switch, complement, descending, outliers


def trim(
    features: Tensor,
    k: int,
    weights: None,
    *,
    clip_patches: Tensor,
    clip_text: Tensor,
    adaptive: bool = False,
    mean: bool = True,
) -> Plan:
    """Keep tokens in ascending order of s, then the mean of the others."""
    check_switch(adaptive=adaptive, mean=mean)
    if clip_patches.shape[-1] != clip_text.shape[-1]:
        raise BridgeError(
            f"clip_text has dimension {clip_text.shape[-1]}, clip_patches has {clip_patches.shape[-1]}."
        )
    n = features.shape[0]
    patches = at_least_float32(clip_patches)
    against = -(patches @ at_least_float32(clip_text).mean(0).to(patches))
    count = k - int(mean)
    if adaptive:
        count = min(count, max(outliers(against.softmax(0)), 1 - int(mean)))
    kept: list[int] = descending(against)[:count].tolist()
    if not mean:
        return Plan(indices=tuple(kept))
    rest = complement(kept, n)
    merge = against.new_zeros(count + 1, n)
    merge[range(count), kept] = 1
    merge[-1, rest] = 1 / len(rest)
    return Plan(indices=(*kept, rest[0]), merge=merge)


ROW = Pruner(
    "trim",
    "lowest dot product with the text in CLIP's joint space",
    "song2025trim",
    trim,
    weighted=False,
    merges="their mean is one token",
    before_projector=True,
    elsewhere="none: no other tower has its patches in a joint space with text",
)
