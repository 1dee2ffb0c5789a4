"""Cen-Prune: centred geometry for diversity pruners (arXiv 2608.30263, 2026; no code published).

Cosines of visual tokens are mostly positive, so a pruner that goes by them tells copies from the rest and
little more. Cen-Prune takes cosines after the image's mean token has been subtracted, and gives back what
centring takes away, a preference for unusual tokens: the distinctiveness g_i, minus the mean cosine of token
i to the others *before* centring, scaled to [0, 1] and multiplied on the score. Centring alone makes matters
worse, says the paper.

``base`` is the pruner that is corrected: "divprune" (seed as in DivPrune, then g_i · smallest distance) or
"cdpruner" (determinantal: greedy residual on g_i · r_i · unit centred rows, with the relevance r where one is
given). The third, ZOO-Prune, is `zoo_prune` with ``centered=True``. The paper uses ``scale="minmax"`` for
LLaVA; for Qwen2.5-VL, on what the merger is given, ``standardize=True`` (each coordinate divided by its
standard deviation over the image) and ``scale="sigmoid"`` (the logistic function of the z-score).

Ours: zero rows have cosine zero; a relevance given with "divprune" multiplies g_i.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlm_bridge.errors import BridgeError
from vlm_bridge.pruners._greedy import doubles, max_min, min_max
from vlm_bridge.pruners.divprune import most_isolated
from vlm_bridge.pruners.plan import Plan, Pruner
from vlm_bridge.pruners.relevance import unit_rows

_CHOICES = {"base": ("divprune", "cdpruner"), "scale": ("minmax", "sigmoid")}
_ROUNDING = 1e-13
"""A centred row this small beside the largest row is rounding: the token is the mean."""


def cen_prune(
    features: Tensor,
    k: int,
    weights: Tensor | None,
    *,
    base: str = "divprune",
    scale: str = "minmax",
    standardize: bool = False,
) -> Plan:
    """Pick as DivPrune or CDPruner on centred rows, times distinctiveness."""
    for name, value in (("base", base), ("scale", scale)):
        if value not in _CHOICES[name]:
            raise BridgeError(f"{name} = {value!r}: expected one of {', '.join(map(repr, _CHOICES[name]))}.")
    rows = doubles(features)
    if standardize:
        deviation = (rows - rows.mean(0)).square().mean(0).sqrt()
        rows = rows / torch.where(deviation > _ROUNDING, deviation, 1)
    quality = distinctiveness(rows, scale)
    if weights is not None:
        quality = quality * weights.double()
    unit = centred_rows(rows)
    if base == "cdpruner":
        return Plan(unit.mT, "residual", quality)
    return Plan(indices=max_min(unit, quality, k, most_isolated(1 - unit @ unit.mT)))


def centred_rows(rows: Tensor) -> Tensor:
    """Subtract the mean of rows (n, d) of float64, and divide them by their norms; zero where nothing is left."""
    centred = rows - rows.mean(0)
    left = centred.norm(dim=-1) > _ROUNDING * rows.norm(dim=-1).amax()
    return unit_rows(torch.where(left[:, None], centred, 0))


def distinctiveness(rows: Tensor, scale: str = "minmax") -> Tensor:
    """Return minus the mean cosine of each row of `rows` (n, d) to the others, scaled to [0, 1]."""
    unit = unit_rows(rows)
    score = (unit.square().sum(-1) - unit @ unit.sum(0)) / (len(unit) - 1)
    if scale == "minmax":
        return min_max(score)
    spread = score.std(correction=0)
    if spread <= _ROUNDING:
        return torch.full_like(score, 0.5)
    return torch.sigmoid((score - score.mean()) / spread)


ROW = Pruner(
    "cen_prune",
    "DivPrune or CDPruner on centred tokens, times distinctiveness before centring",
    "wen2026cenprune",
    cen_prune,
)
