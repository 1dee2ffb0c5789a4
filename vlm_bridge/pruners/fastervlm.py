"""FasterVLM: the tokens of highest attention from CLS (arXiv 2412.01818, first version; Theia-4869/FasterVLM, f5d5f12).

VisPruner is its successor, by the same authors: with ``important_ratio=1`` it has no pool to thin, and what is left is
FasterVLM. So this row is that point of VisPruner.
"""

from __future__ import annotations

from torch import Tensor

from vlm_bridge.pruners.plan import Plan, Pruner
from vlm_bridge.pruners.vispruner import vispruner


def fastervlm(features: Tensor, k: int, weights: None, *, cls_attention: Tensor) -> Plan:
    """Pick the k largest mean attentions from CLS."""
    return vispruner(features, k, weights, cls_attention=cls_attention, important_ratio=1.0)


ROW = Pruner(
    "fastervlm",
    "highest attention from CLS",
    "zhang2024fastervlm",
    fastervlm,
    weighted=False,
    elsewhere="the authors' (VisPruner, issue 1): mean attention received, joined like the patches",
)
