"""LRCP: tokens that the image's background does not explain (arXiv 2605.15621, 2026; no code published).

The background is the mean token plus the `rank` leading principal directions. The k tokens with the largest
squared distance to it are kept, all at once: unlike greedy residual selection the subspace does not grow
with what has been chosen, so copies of one unusual token all stay.

The default of `rank` is that of a port for LLaVA to a serving engine, which takes 8 for Qwen2.5-VL. The
port also averages the dropped tokens into the nearest kept one by cosine; here that is ``fold=True``, as
for any pruner.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlm_bridge.errors import BridgeError
from vlm_bridge.pruners._greedy import doubles, first_copies, largest
from vlm_bridge.pruners.plan import Plan, Pruner

_ROUNDING = 1e-13
"""Distances this small beside the largest row are rounding, and zero."""


def lrcp(features: Tensor, k: int, weights: None, *, rank: int = 4) -> Plan:
    """Pick the largest distances to the mean plus `rank` principal directions."""
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 0:
        raise BridgeError(f"rank = {rank!r}: expected an integer of at least 0.")
    X = doubles(features)
    U, s, _ = torch.linalg.svd(X - X.mean(0), full_matrices=False)
    distance = (U[:, rank:] * s[rank:]).norm(dim=-1)
    distance = torch.where(distance > _ROUNDING * X.norm(dim=-1).amax(), distance, 0)
    return Plan(indices=largest(distance[first_copies(X)], k))  # rounding does not tell copies apart


ROW = Pruner(
    "lrcp",
    "largest distance to the image's principal subspace, at once",
    "lu2026lrcp",
    lrcp,
    weighted=False,
)
