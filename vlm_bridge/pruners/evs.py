"""EVS: tokens of a video that differ from the same place in the frame before (arXiv 2510.14624; vLLM, 094f117).

A token of the first frame counts as new. One of a later frame is new by 1 − its cosine with the token at its place in the
frame before. The k newest are kept, ties in raster order.

vLLM never keeps less than the first frame. Where k is smaller, and so wherever an image is pruned, the first frame's tokens are all equally
new and nothing else remains: here they are then taken evenly spread, as `uniform_grid` does. Rows behind the last
full frame, such as the separator that ends a video of LLaVA-OneVision, stay.
"""

from __future__ import annotations

from torch import Tensor

from vlm_bridge.pruners.frames import by_frame
from vlm_bridge.pruners.plan import Plan, Pruner
from vlm_bridge.pruners.ranking import descending
from vlm_bridge.pruners.relevance import unit_rows
from vlm_bridge.pruners.uniform_grid import grid_of, spread


def evs(features: Tensor, k: int, weights: None, *, frames: Tensor | int) -> Plan:
    """Pick the rows behind the last frame, the first frame, then the tokens that changed most."""
    n = len(features)
    frame, rest = by_frame(unit_rows(features), frames)
    size = frame.shape[1]
    last = list(range(n - len(rest), n))[:k]
    if k - len(last) < size:
        return Plan(
            indices=(*last, *spread(k - len(last), *grid_of(size, None))) if k > len(last) else tuple(last)
        )
    change = 1 - (frame[1:] * frame[:-1]).sum(-1).flatten()
    later = descending(change)[: k - len(last) - size] + size
    return Plan(indices=(*last, *range(size), *later.tolist()))


ROW = Pruner(
    "evs",
    "tokens of a video that changed most since the frame before",
    "bagrov2025evs",
    evs,
    weighted=False,
)
