"""Greedy residual on x_i · ‖x_i‖^(β − 1) · w_i^α, the family of several published pruners.

Pruners of this kind differ in two numbers: β says how much the norm counts, from 0 (cosines) to 1 (raw tokens), and α how
much relevance counts, whose definition and sign are the caller's `relevance`. Members are:

- SPARE: β = 1, with guidance at its `alpha`, α = alpha;
- CDPruner: β = 0, α = 1, relevance as in its row;
- ResPrune: β = 1, α = half its `alpha`, relevance as in its row.

Without a relevance α does nothing, and the default is SPARE's reconstruction.
"""

from __future__ import annotations

from torch import Tensor

from vlm_bridge.pruners._greedy import doubles, number
from vlm_bridge.pruners.plan import Plan, Pruner
from vlm_bridge.pruners.relevance import unit_rows


def family(
    features: Tensor, k: int, weights: Tensor | None, *, beta: float = 1.0, alpha: float = 1.0
) -> Plan:
    """Pick by greedy residual on unit rows times ‖x_i‖^beta · w_i^alpha."""
    beta, alpha = number("beta", beta, 0, 1), number("alpha", alpha, 0)
    return Plan(scaled(features, beta).mT, "residual", None if weights is None else weights**alpha)


def scaled(features: Tensor, beta: float) -> Tensor:
    """Scale rows to norm ‖x_i‖^beta, up to a common factor; zero rows stay zero."""
    if beta == 1:
        return features
    unit = unit_rows(features)
    if beta == 0:
        return unit
    return unit * doubles(features).norm(dim=-1, keepdim=True).pow(beta).to(unit.dtype)


ROW = Pruner(
    "family",
    "greedy residual between cosine and raw tokens, with or against relevance",
    "lee2026spare",
    family,
)
