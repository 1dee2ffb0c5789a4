"""Uniformly random tokens: the baseline every pruner has to beat (Wen et al., Findings of ACL 2025)."""

from __future__ import annotations

from torch import Tensor

from vlm_bridge.pruners.plan import Plan, Pruner


def random(features: Tensor, k: int, weights: None) -> Plan:
    """Draw k distinct tokens from the caller's rng; each set is equally likely."""
    return Plan(features.mT, "uniform")


ROW = Pruner("random", "uniformly random tokens", "wen2025token", random, weighted=False)
