"""ResPrune: subspace expansion guided by text (arXiv 2603.21105, 2026).

Score of a token: E_S(x) · r^alpha, with E_S the squared residual and r the largest cosine between the token
and a text token in the LLM's input embedding space. Scaling a column scales its residual and leaves the
span alone, so this is greedy residual selection on r^(alpha/2) · x.

The paper does not say what becomes of negative cosines. Here r is clipped from below at 1e-6: positive ones
enter as published, and tokens that no word speaks for come last, in the order of their residuals. The paper
tunes alpha by hand; 1 is our default.
"""

from __future__ import annotations

from torch import Tensor

from vlm_bridge.pruners.plan import Plan, Pruner
from vlm_bridge.pruners.relevance import Relevance


def resprune(features: Tensor, k: int, weights: Tensor, *, alpha: float = 1.0) -> Plan:
    """Pick by greedy residual on r_i^(alpha/2) · x_i."""
    return Plan(features.mT, "residual", weights ** (alpha / 2))


ROW = Pruner(
    "resprune",
    "greedy residual on tokens weighted by their best cosine with a prompt token",
    "resprune2026",
    resprune,
    Relevance(space="llm", reduction="max", sign="normal", scale="clip"),
)
