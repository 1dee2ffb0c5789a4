"""Uniform sampling of the image grid: the baseline that looks at nothing."""

from __future__ import annotations

import math

from torch import Tensor

from vlm_bridge.errors import BridgeError
from vlm_bridge.pruners.plan import Plan, Pruner


def uniform_grid(features: Tensor, k: int, weights: None, *, grid: tuple[int, int] | None = None) -> Plan:
    """k evenly spaced cells of an (h, w) grid; of the sequence where n is no square and none is given."""
    n = features.shape[0]
    if grid is None:
        side = math.isqrt(n)
        grid = (side, side) if side * side == n else (1, n)
    height, width = grid
    if height * width != n:
        raise BridgeError(f"grid = {grid} has {height * width} cells, the image has {n} tokens.")
    return Plan(indices=spread(k, height, width))


def spread(k: int, height: int, width: int) -> tuple[int, ...]:
    """k distinct cells of a grid: evenly spaced rows, and in each an even share of evenly spaced columns."""
    rows = min(height, max(1, round(math.sqrt(k * height / width))))
    rows = max(min(rows, k), math.ceil(k / width))
    cells: list[int] = []
    for i in range(rows):
        share = (i + 1) * k // rows - i * k // rows
        row = (2 * i + 1) * height // (2 * rows)
        cells += [row * width + (2 * j + 1) * width // (2 * share) for j in range(share)]
    return tuple(cells)


ROW = Pruner("uniform_grid", "evenly spaced grid positions", "baseline", uniform_grid, weighted=False)
