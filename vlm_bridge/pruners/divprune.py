"""DivPrune: max-min diversity (CVPR 2025; vbdi/divprune, 799e2d9).

Distance 1 − cos. The first token is the one whose nearest neighbour is farthest; then, greedily, the token
farthest from those chosen. On unit vectors ‖x − y‖² = 2(1 − cos), so the greedy part is k-center
(`farthest`) on normalised columns from that seed. Other ports seed with the farthest pair and keep
different tokens. Everything is decided in float64: near 1 a float32 cosine has lost the digits that tell
neighbours apart.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlm_bridge.pruners.plan import Plan, Pruner
from vlm_bridge.relevance import unit_rows

_TIE = 1e-12
"""Nearest-neighbour distances this close are equal, as of mutual neighbours: the lowest index wins."""


def divprune(features: Tensor, k: int, weights: None) -> Plan:
    """Max-min greedy on cosine distance from the most isolated token."""
    unit = unit_rows(features, torch.float64)
    return Plan(unit.mT, "farthest", include=(most_isolated(unit),))


def most_isolated(unit: Tensor) -> int:
    """Index of the row of `unit` (n, d) whose nearest other row is farthest."""
    distances = 1 - unit @ unit.mT
    nearest = distances.fill_diagonal_(float("inf")).amin(0)
    return int((nearest >= nearest.max() - _TIE).nonzero()[0])


ROW = Pruner("divprune", "max-min cosine distance", "alvar2025divprune", divprune, weighted=False)
