"""HiPrune: objects by the attention of an early layer, with their neighbours, the rest by that of a late one (arXiv 2508.00553;
Danielement321/HiPrune, 6e83a12).

Anchors are the round(k · share / 5) tokens that receive most in the early layer; with each come the places before and behind it in raster order and
those a line above and below. All others of the k are those that receive most at the feature layer. Attention received is the mean over heads and
over all that attend, CLS among them.

As in the official code, places beyond the grid are the first or the last token. Where the neighbours are more than k, which the official code
does not allow for, the first of them stay: anchors, then left and right, above and below. Tokens that form no square stand in one line,
which has nothing above, unless `grid` says how they stand.
"""

from __future__ import annotations

from torch import Tensor

from vlm_bridge.pruners.plan import Plan, Pruner
from vlm_bridge.pruners.ranking import check_share, descending, head_mean
from vlm_bridge.pruners.uniform_grid import grid_of


def hiprune(
    features: Tensor,
    k: int,
    weights: None,
    *,
    received: Tensor,
    received_early: Tensor,
    share: float = 0.1,
    grid: tuple[int, int] | None = None,
) -> Plan:
    """Pick anchors and their neighbours, then tokens by attention received at the feature layer."""
    check_share("share", share)
    n = len(features)
    height, width = grid_of(n, grid)
    anchors: list[int] = descending(head_mean(received_early))[: round(k * share / 5)].tolist()
    steps = (0, -1, 1, -width, width) if height > 1 else (0, -1, 1)
    near = dict.fromkeys(min(max(j + step, 0), n - 1) for step in steps for j in anchors)
    others = (j for j in descending(head_mean(received)).tolist() if j not in near)
    return Plan(indices=tuple([*near, *others][:k]))


ROW = Pruner(
    "hiprune",
    "attention received in an early layer, with neighbours, then at the feature layer",
    "liu2025hiprune",
    hiprune,
    weighted=False,
    elsewhere="the authors' for Qwen2.5-VL, given `grid=`: attention received, joined like the patches",
)
