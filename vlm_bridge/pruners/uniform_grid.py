"""Uniform sampling of the image grid: the baseline that looks at nothing."""

from __future__ import annotations

import math

from torch import Tensor

from vlm_bridge.errors import BridgeError
from vlm_bridge.pruners.plan import Plan, Pruner


def uniform_grid(features: Tensor, k: int, weights: None, *, grid: tuple[int, int] | None = None) -> Plan:
    """Pick k evenly spaced cells of an (h, w) grid, of one line where n is no square and none is given."""
    return Plan(indices=spread(k, *grid_of(features.shape[0], grid)))


def grid_of(n: int, grid: tuple[int, int] | None) -> tuple[int, int]:
    """Return height and width of the grid of n tokens: as given, else a square, else one line."""
    if grid is None:
        side = math.isqrt(n)
        grid = (side, side) if side * side == n else (1, n)
    height, width = grid
    if height * width != n:
        raise BridgeError(f"grid = {grid} has {height * width} cells, the image has {n} tokens.")
    return height, width


def spread(k: int, height: int, width: int) -> tuple[int, ...]:
    """Pick k distinct cells of a grid: evenly spaced lines, and in each an even share of evenly spaced columns."""
    cells: list[int] = []
    bands = shares(k, height, width)
    for i, share in enumerate(bands):
        row = (2 * i + 1) * height // (2 * len(bands))
        cells += [row * width + (2 * j + 1) * width // (2 * share) for j in range(share)]
    return tuple(cells)


def shares(k: int, height: int, width: int) -> list[int]:
    """Divide k cells among bands of lines, as evenly as possible, so that cells are as square as possible."""
    rows = min(height, max(1, round(math.sqrt(k * height / width))))
    rows = max(min(rows, k), math.ceil(k / width))
    return [(i + 1) * k // rows - i * k // rows for i in range(rows)]


ROW = Pruner("uniform_grid", "evenly spaced grid positions", "baseline", uniform_grid, weighted=False)
