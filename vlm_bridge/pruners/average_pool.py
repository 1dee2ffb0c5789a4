"""Average pooling to exactly k cells, a baseline that merges (Wen et al., Findings of ACL 2025).

The (h, w) grid is cut into bands of rows and each band into columns, in the numbers in which `uniform_grid`
spreads its tokens; a cell becomes the mean of its tokens, at the place of the token at its centre. On grids
that divide evenly these are the tokens of `uniform_grid`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlm_bridge.pruners.plan import Plan, Pruner
from vlm_bridge.pruners.uniform_grid import grid_of, shares


def average_pool(features: Tensor, k: int, weights: None, *, grid: tuple[int, int] | None = None) -> Plan:
    """Form the means of k rectangles that tile an (h, w) grid, of one line where n is no square and none is given."""
    n = features.shape[0]
    height, width = grid_of(n, grid)
    dtype = torch.promote_types(features.dtype, torch.float32)
    merge = torch.zeros(k, n, dtype=dtype, device=features.device)
    centres = []
    for row, (top, bottom, left, right) in zip(merge, cells(k, height, width), strict=True):
        row.view(height, width)[top:bottom, left:right] = 1 / ((bottom - top) * (right - left))
        centres.append((top + bottom) // 2 * width + (left + right) // 2)
    return Plan(indices=tuple(centres), merge=merge)


def cells(k: int, height: int, width: int) -> list[tuple[int, int, int, int]]:
    """Tile the grid by k rectangles (top, bottom, left, right), ends excluded."""
    rectangles, bands = [], shares(k, height, width)
    for i, share in enumerate(bands):
        top, bottom = i * height // len(bands), (i + 1) * height // len(bands)
        rectangles += [(top, bottom, j * width // share, (j + 1) * width // share) for j in range(share)]
    return rectangles


ROW = Pruner(
    "average_pool",
    "means of k rectangles of the grid",
    "wen2025token",
    average_pool,
    weighted=False,
    merges="every token enters the mean of its cell",
)
