"""CDPruner: conditional diversity by a determinantal point process (NeurIPS 2025; Theia-4869/CDPruner,
9541616).

The official code runs fast greedy MAP for the kernel diag(r) · cos · diag(r). That is pivoted Cholesky on a
Gram matrix, hence greedy residual selection on the columns r_i · x_i/‖x_i‖. Its relevance r is the mean
over prompt segments of the *negative* cosine in CLIP's joint space, scaled by (r − min + 1e-6)/(max − min)
over all tiles. The official code chooses a fixed number per tile of LLaVA-NeXT; here `keep` counts an
image's tokens.
"""

from __future__ import annotations

from torch import Tensor

from vlm_bridge.pruners.plan import Plan, Pruner
from vlm_bridge.pruners.relevance import Relevance, unit_rows


def cdpruner(features: Tensor, k: int, weights: Tensor) -> Plan:
    """Pick by greedy residual on r_i · x_i/‖x_i‖."""
    return Plan(unit_rows(features).mT, "residual", weights)


ROW = Pruner(
    "cdpruner",
    "greedy MAP of a DPP on cosines with anti-relevance as quality",
    "zhang2025cdpruner",
    cdpruner,
    Relevance(space="clip", reduction="mean", sign="anti", scope="batch"),
)
