"""The most relevant tokens alone, without reconstruction or diversity: the ablation of guided pruners.

SPARE's paper shows it for anti-relevance (the choice is redundant), ResPrune's for relevance. The default is
CDPruner's relevance, scaled per image; `relevance="normal"` or a `Relevance` turn it.
"""

from __future__ import annotations

from torch import Tensor

from vlm_bridge.pruners._greedy import largest
from vlm_bridge.pruners.plan import Plan, Pruner
from vlm_bridge.pruners.relevance import Relevance


def top_relevance(features: Tensor, k: int, weights: Tensor) -> Plan:
    """Pick the k largest relevance weights."""
    return Plan(indices=largest(weights, k))


ROW = Pruner(
    "relevance",
    "largest relevance weights, nothing else",
    "lee2026spare",
    top_relevance,
    Relevance(space="clip", reduction="mean", sign="anti", scope="image"),
)
