"""ZOO-Prune: how much the projector answers to noise, times diversity (CVPR 2026, arXiv 2509.24837;
AIM-SKKU/ZOO-Prune, 159f7f9).

Sensitivity of token i: the mean over directions u_j of ‖M(x_i + h·u_j) − M(x_i − h·u_j)‖ / 2h, where M is the
projector, x_i the row it is given, h the `step`, and the u_j are Gaussian directions of length one, the same
for all tokens. After a min-max scale it multiplies the distance, 1 − the largest cosine of the projected
token with those chosen. The most sensitive token comes first.

The official code runs the projector in float16 and keeps int(ratio · n) tokens. In float16 and bfloat16 the
step 0.01 can vanish in x ± h·u: a bfloat16 of size 1 has neighbours 0.008 apart, an entry of u is about
0.03, so h·u is 0.0003. Here rows, directions and projector are at least float32 (a module is run with wide
copies of its parameters; it stays as it is). A linear projector answers to every token alike: then, and
wherever sensitivities differ by less than 1e-4 of the largest, only the distance counts.

`centered` is the variant of Cen-Prune (see `cen_prune`): cosines of centred rows, sensitivity times
distinctiveness.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from vlm_bridge.errors import BridgeError
from vlm_bridge.pruners._greedy import doubles, first_largest, max_min, min_max, number
from vlm_bridge.pruners.cen_prune import centred_rows, distinctiveness
from vlm_bridge.pruners.plan import Plan, Pruner
from vlm_bridge.pruners.relevance import unit_rows

_FLAT = 1e-4
"""Sensitivities whose spread is below this share of the largest are rounding of float32 over a step of 0.01."""


def zoo_prune(
    features: Tensor,
    k: int,
    weights: None,
    *,
    vision_clip: Tensor,
    projector: Callable[[Tensor], Tensor],
    rng: np.random.Generator,
    samples: int = 64,
    step: float = 0.01,
    centered: bool = False,
) -> Plan:
    """Pick greedily the largest min-max(sensitivity) · distance, from the most sensitive token."""
    step = number("step", step, 0, open_low=True)
    if not isinstance(samples, int) or isinstance(samples, bool) or samples < 1:
        raise BridgeError(f"samples = {samples!r}: expected an integer of at least 1.")
    rows = vision_clip.to(torch.promote_types(vision_clip.dtype, torch.float32))
    directions = torch.from_numpy(rng.standard_normal((samples, rows.shape[-1]))).to(rows)
    quality = min_max(sensitivity(rows, projector, unit_rows(directions), step), _FLAT)
    unit = unit_rows(features, torch.float64)
    if centered:
        quality = quality * distinctiveness(doubles(features))
        unit = centred_rows(doubles(features))
    return Plan(indices=max_min(unit, quality, k, first_largest(quality)))


@torch.no_grad()
def sensitivity(
    rows: Tensor, projector: Callable[[Tensor], Tensor], directions: Tensor, step: float
) -> Tensor:
    """Average the norm of the projector's central difference (n,) over the directions (samples, d)."""
    project = widened(projector, rows.dtype)
    total = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    for u in directions:
        difference = project(rows + step * u) - project(rows - step * u)
        if difference.shape[0] != len(rows):
            raise BridgeError(
                f"projector made {difference.shape[0]} rows of {len(rows)}: expected one for each, since it must map rows one by one."
            )
        total += difference.double().norm(dim=-1) / (2 * step)
    return total / len(directions)


def widened(projector: Callable[[Tensor], Tensor], dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Run a module on copies of its parameters of at least that dtype; return other callables as they are."""
    if not isinstance(projector, nn.Module):
        return projector
    state = {**dict(projector.named_parameters()), **dict(projector.named_buffers())}
    state = {name: t for name, t in state.items() if t.is_floating_point()}
    for t in state.values():
        dtype = torch.promote_types(dtype, t.dtype)
    wide = {name: t.to(dtype) for name, t in state.items()}
    return lambda rows: torch.func.functional_call(projector, wide, (rows.to(dtype),))


ROW = Pruner(
    "zoo_prune",
    "max-min cosine distance times the projector's zeroth-order sensitivity",
    "kim2026zooprune",
    zoo_prune,
    weighted=False,
    elsewhere="ours: noise on the patches that the projector joins, side by side",
)
