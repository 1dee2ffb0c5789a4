"""The tokens of largest norm, a baseline. (`norm` is cssp's length-squared *sampling*.)"""

from __future__ import annotations

from torch import Tensor

from vlm_bridge.pruners._greedy import doubles, largest
from vlm_bridge.pruners.plan import Plan, Pruner


def norm_top(features: Tensor, k: int, weights: Tensor | None) -> Plan:
    """Pick the k largest w_i · ‖x_i‖."""
    length = doubles(features).norm(dim=-1)
    return Plan(indices=largest(length if weights is None else length * weights.double(), k))


ROW = Pruner("norm_top", "largest norms", "baseline", norm_top)
