"""IDPruner's rule: maximal marginal relevance of importance and cosine (arXiv 2602.13315; YF-T/IDPruner, 6aeb9dc).

The most important token comes first; each later pick takes the largest balance · a_i − (1 − balance) · (largest cosine to
those chosen), with a the importance, min-max scaled, and cosines of the tokens that enter the LLM. With ``balance=1`` it ranks
by importance alone.

The authors' importance is a scorer that they train for each model. Training-free is only the rule: here importance is the
attention from CLS, as in FasterVLM.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlm_bridge.pruners._greedy import min_max
from vlm_bridge.pruners.plan import Plan, Pruner
from vlm_bridge.pruners.ranking import check_share, head_mean
from vlm_bridge.pruners.relevance import unit_rows


def idpruner(features: Tensor, k: int, weights: None, *, cls_attention: Tensor, balance: float = 0.5) -> Plan:
    """Pick greedily by importance less similarity."""
    check_share("balance", balance)
    unit = unit_rows(features, torch.float64)
    importance = min_max(head_mean(cls_attention))
    nearest = torch.full_like(importance, -1)
    taken = torch.zeros(len(unit), dtype=torch.bool, device=unit.device)
    chosen: list[int] = []
    for _ in range(k):
        gain = balance * importance - (1 - balance) * nearest if chosen else importance
        chosen.append(int(gain.masked_fill(taken, -torch.inf).argmax()))
        taken[chosen[-1]] = True
        nearest = torch.maximum(nearest, unit @ unit[chosen[-1]])
    return Plan(indices=tuple(chosen))


ROW = Pruner(
    "idpruner",
    "attention from CLS less the largest cosine to those chosen",
    "idpruner2026",
    idpruner,
    weighted=False,
    elsewhere="ours: mean attention received, in place of the trained scorer of each model",
)
