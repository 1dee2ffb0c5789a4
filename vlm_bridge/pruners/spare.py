"""SPARE: visual tokens as a column subset (Lee, Wen and Choi, arXiv 2606.18681, 2026).

The core is greedy residual selection on the raw projected tokens: no cosine normalisation, so that
magnitude counts. The paper adds "anti-relevance" guidance. How the two are combined is not published in any
text that we could read: the weight min-max(∓score)^alpha on the residual, the value of ``alpha`` and the
choice of CLIP's joint space with the mean over text segments are *ours*, by analogy with CDPruner and
ResPrune. Pass another `Relevance`, or scores, to choose differently; the default is reconstruction alone.
"""

from __future__ import annotations

from torch import Tensor

from vlm_bridge.pruners.plan import Plan, Pruner


def spare(features: Tensor, k: int, weights: Tensor | None, *, alpha: float = 1.0) -> Plan:
    """Pick by greedy residual on x_i · w_i^alpha; without relevance on x_i."""
    return Plan(features.mT, "residual", None if weights is None else weights**alpha)


ROW = Pruner(
    "spare", "greedy residual on raw tokens, optionally anti-relevance weighted", "lee2026spare", spare
)
