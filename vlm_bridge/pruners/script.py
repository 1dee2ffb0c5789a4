"""Script: tokens unlike the text and unlike each other, without orthogonalisation (arXiv 2512.01949;
01yzzyu/script.github.io, 7e5e2f3).

The paper joins a graph of similar tokens with a determinantal point process. In the official code the process has chosen
k tokens when the graph is looked at: those that the graph keeps, too, stay, and the places left over are filled from the same k. So
the graph changes nothing, and neither it nor its constants are here.

The kernel is that of CDPruner, r_i · cos_ij · r_j, and the greedy rule that of its fast MAP but for one line: tokens chosen
earlier are not projected out, since their variance has been set to minus infinity when it is divided by. What is left is

    d_i ← d_i − (K_ij / (√d_j + 1e-6))²

after each pick j, with the original kernel K. It equals greedy residual while the chosen tokens are orthogonal. Later variances are
negative; a pick whose variance is not positive changes none.

The relevance r is minus the mean dot product (not cosine) with the half of the text segments that the image matches most, rounded down and
at least one, scaled by (r − min)/(max − min + 1e-6).
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlm_bridge.errors import BridgeError
from vlm_bridge.pruners.plan import Plan, Pruner
from vlm_bridge.pruners.ranking import at_least_float32, descending
from vlm_bridge.pruners.relevance import unit_rows

_EPS = 1e-6


def script(features: Tensor, k: int, weights: None, *, clip_patches: Tensor, clip_text: Tensor) -> Plan:
    """Pick greedily the largest r_i² less what each pick accounts for by itself."""
    quality = unlikeness(clip_patches, clip_text)
    rows = quality[:, None] * unit_rows(features, torch.float64)
    left, chosen = rows.square().sum(-1), list[int]()
    taken = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    for _ in range(k):
        j = int(left.masked_fill(taken, -torch.inf).argmax())
        if left[j] > 0:
            left = left - (rows @ rows[j] / (left[j].sqrt() + _EPS)).square()
        chosen.append(j)
        taken[j] = True
    return Plan(indices=tuple(chosen))


def unlikeness(patches: Tensor, text: Tensor) -> Tensor:
    """Return r (n,) in [0, 1], float64."""
    if patches.shape[-1] != text.shape[-1]:
        raise BridgeError(
            f"clip_text has dimension {text.shape[-1]}, clip_patches has {patches.shape[-1]}: expected the same."
        )
    table = at_least_float32(patches).double() @ at_least_float32(text).double().to(patches.device).mT
    matched = descending(table.mean(0))[: max(1, table.shape[1] // 2)]
    r = -table[:, matched].mean(1)
    return (r - r.min()) / (r.max() - r.min() + _EPS)


ROW = Pruner(
    "script",
    "greedy on a determinantal kernel with anti-relevance, earlier picks not projected out",
    "yang2025script",
    script,
    weighted=False,
    elsewhere="none: no other tower has its patches in a joint space with text",
)
