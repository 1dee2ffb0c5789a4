"""OTPrune: tokens whose distribution is close to that of all, by a log-determinant (CVPR 2026, arXiv 2602.20205;
xiwenc1/OTPrune, 3414730).

Every *coordinate* is divided by its norm over the tokens. With Z the rows that this gives, the official code runs greedy MAP for the kernel

    I + γ (Z Zᵀ)²,   γ = 0.01.

That is pivoted Cholesky on a Gram matrix, hence greedy residual selection on the columns (I; √γ Z Zᵀ), stacked: the
identity makes each token its own direction, so that the residual of none vanishes, and the choice is defined beyond
the rank. A coordinate that is zero for every token stays zero; the official code divides by zero there.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vlm_bridge.pruners._greedy import doubles, number
from vlm_bridge.pruners.plan import Plan, Pruner
from vlm_bridge.pruners.relevance import unit_rows


def otprune(features: Tensor, k: int, weights: None, *, gamma: float = 0.01) -> Plan:
    """Pick by greedy residual on the columns (I; √gamma · Z Zᵀ), Z the tokens with coordinates of norm one."""
    root = math.sqrt(number("gamma", gamma, 0))
    z = unit_rows(doubles(features).mT).mT
    gram = z @ z.mT
    return Plan(torch.cat([torch.eye(len(z), dtype=gram.dtype, device=gram.device), root * gram]), "residual")


ROW = Pruner(
    "otprune",
    "greedy log-determinant of I + γ (Z Zᵀ)², coordinates scaled over the tokens",
    "chen2026otprune",
    otprune,
    weighted=False,
)
