"""ToDRE, first stage: tokens of least total similarity to those chosen (arXiv 2505.18757, second version; no code found).

The token of highest attention from CLS comes first. Each pick has the least sum of cosines with those chosen, which is greedy max-sum
diversification of cosine distances (Borodin, Lee and Ye 2012). By unit rows u it is the least u_i · Σ_j u_j, the row most against the mean of the
choice: nothing keeps two picks from being copies of each other.

The rule is that of a description. The second stage, which drops all visual tokens from a late layer of the LLM on, is not here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlm_bridge.pruners.plan import Plan, Pruner
from vlm_bridge.pruners.ranking import descending, head_mean
from vlm_bridge.pruners.relevance import unit_rows


def todre(features: Tensor, k: int, weights: None, *, cls_attention: Tensor) -> Plan:
    """Pick greedily the least sum of cosines with those chosen."""
    unit = unit_rows(features, torch.float64)
    chosen = [int(descending(head_mean(cls_attention))[0])]
    taken = torch.zeros(len(unit), dtype=torch.bool, device=unit.device)
    total = torch.zeros_like(unit[0])
    while len(chosen) < k:
        taken[chosen[-1]] = True
        total = total + unit[chosen[-1]]
        chosen.append(int((unit @ total).masked_fill(taken, torch.inf).argmin()))
    return Plan(indices=tuple(chosen))


ROW = Pruner(
    "todre",
    "least sum of cosines with those chosen, from the highest attention from CLS",
    "li2025todre",
    todre,
    weighted=False,
    elsewhere="ours: mean attention received for the first token",
)
