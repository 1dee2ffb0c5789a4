"""VidCom²: more tokens of unusual frames, and in each frame its unusual tokens (EMNLP 2025; xuyang-liu16/VidCom2, 944a17d).

Rows are cut down to the half of their coordinates that vary least, and divided by their norms. Their likeness to a
center c is Σ_a exp(−‖x − c‖² / 2a) over a in {1/8, 1/4, 1/2, 1, 2}. A frame's share grows with
how little its tokens resemble the mean of the whole video: the softmax, at temperature 0.01, of minus their mean likeness, over the
frames, p_f, makes it (k/n) · (1 + p_f − 1/F), at most all. In a frame those tokens stay that resemble the video's and the frame's mean
least.

The official code rounds each frame's count, so that their sum is near k. Here counts are corrected one token at a time until it is k, where
rounding went furthest. Rows behind the last full frame stay. An image is a video of one frame.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlm_bridge.pruners.frames import by_frame
from vlm_bridge.pruners.plan import Plan, Pruner
from vlm_bridge.pruners.ranking import at_least_float32
from vlm_bridge.pruners.relevance import unit_rows

_WIDTHS = (1 / 8, 1 / 4, 1 / 2, 1, 2)
_TEMPERATURE = 0.01


def vidcom2(features: Tensor, k: int, weights: None, *, frames: Tensor | int) -> Plan:
    """Pick the rows behind the last frame, then each frame's share of its least usual tokens."""
    n = len(features)
    frame, rest = by_frame(steady_half(at_least_float32(features)), frames)
    unit = unit_rows(frame)
    of_video = likeness(unit, unit.mean((0, 1)))
    of_both = of_video + likeness(unit, unit.mean(1, keepdim=True))
    last = list(range(n - len(rest), n))[:k]
    count, size = unit.shape[:2]
    probability = (-of_video.mean(1) / _TEMPERATURE).softmax(0)
    granted = rounded((k - len(last)) / count * (1 + probability - 1 / count), k - len(last), size)
    order = of_both.sort(dim=1, stable=True).indices.tolist()
    kept = [f * size + j for f in range(count) for j in order[f][: granted[f]]]
    return Plan(indices=(*last, *kept))


def steady_half(rows: Tensor) -> Tensor:
    """Return the ⌊d/2⌋, at least one, coordinates of rows (n, d) of least variance."""
    least = rows.var(0, correction=0).sort(stable=True).indices
    return rows[:, least[: max(1, rows.shape[1] // 2)]]


def likeness(unit: Tensor, center: Tensor) -> Tensor:
    """Return the sum of Gaussian kernels (F, t) between rows (F, t, d) and a center that broadcasts to them."""
    distance = (unit - center).square().sum(-1)
    return torch.stack([torch.exp(-distance / (2 * width)) for width in _WIDTHS]).sum(0)


def rounded(shares: Tensor, k: int, size: int) -> list[int]:
    """Round shares (F,) to whole numbers from 0 to `size` whose sum is k <= F · size."""
    exact = shares.clamp(max=size).tolist()
    counts = [max(1, round(share)) for share in exact]
    while sum(counts) != k:
        step = 1 if sum(counts) < k else -1
        open_to = [f for f, c in enumerate(counts) if 0 <= c + step <= size]
        f = max(open_to, key=lambda f: step * (exact[f] - counts[f]))
        counts[f] += step
    return counts


ROW = Pruner(
    "vidcom2",
    "frames by how unusual they are in the video, tokens by how unusual they are in video and frame",
    "liu2025vidcom2",
    vidcom2,
    weighted=False,
)
