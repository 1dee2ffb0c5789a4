"""ID-Selection: the most important token, then the scores of tokens like it lowered, and so on (arXiv 2604.05601, 2026; no code
by the authors found).

After each pick i the scores become S_j ← max(0, S_j − exp(−γ d²) S_i), d being 1 − the cosine of tokens i and j; γ = 20 is
said to be the paper's. The rule is that of a public port that names the paper's equations, not checked against the paper.

The port's importance is the attention of the last token of the question in an early layer of the LLM, min-max scaled. Here, where nothing of the LLM
has run, it is the attention from CLS.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlm_bridge.pruners._greedy import min_max, number
from vlm_bridge.pruners.plan import Plan, Pruner
from vlm_bridge.pruners.ranking import head_mean
from vlm_bridge.pruners.relevance import unit_rows


def id_selection(
    features: Tensor, k: int, weights: None, *, cls_attention: Tensor, gamma: float = 20.0
) -> Plan:
    """Pick by importance, from which each pick takes a Gaussian of the cosine distance to it."""
    gamma = number("gamma", gamma, 0)
    unit = unit_rows(features, torch.float64)
    score = min_max(head_mean(cls_attention))
    taken = torch.zeros(len(unit), dtype=torch.bool, device=unit.device)
    chosen: list[int] = []
    for _ in range(k):
        j = int(score.masked_fill(taken, -1).argmax())
        distance = (1 - unit @ unit[j]).clamp(min=0)
        score = (score - torch.exp(-gamma * distance.square()) * score[j]).clamp(min=0)
        chosen.append(j)
        taken[j] = True
    return Plan(indices=tuple(chosen))


ROW = Pruner(
    "id_selection",
    "attention from CLS, lowered around each pick by a Gaussian of the cosine distance",
    "huang2026idselection",
    id_selection,
    weighted=False,
    elsewhere="ours: mean attention received, in place of the question's attention in the LLM",
)
