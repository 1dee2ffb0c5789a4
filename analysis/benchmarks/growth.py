"""How time grows with m, n, k and the batch: slopes of log time against log size, beside those of the flop count."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from analysis.benchmarks.implementations import (
    IMPLEMENTATIONS,
    PRODUCTS,
    RESIDUAL,
    SCIPY,
    TEXTBOOK,
    Implementation,
)
from analysis.benchmarks.inputs import Size, matrix
from analysis.benchmarks.timing import Interval, alternate, median

__all__ = ["AXES", "measure", "read", "slopes"]

#: Axis -> (the size that is varied, the values it takes).
AXES = {
    "m": (Size(0, 1024, 64), (1024, 2048, 4096, 8192)),
    "n": (Size(2048, 0, 64), (512, 1024, 2048, 4096)),
    "k": (Size(2048, 1024, 0), (32, 64, 128, 256)),
    "batch": (Size(1024, 576, 64, batch=0), (1, 2, 4, 8)),
}
ENTERED = (PRODUCTS, RESIDUAL, TEXTBOOK, "greedy", SCIPY)
REPEATS = 7

_FIELDS = ("name", "axis", "value", "cost", "seconds")


def varied(axis: str, value: int, axes: dict[str, tuple[Size, tuple[int, ...]]] = AXES) -> Size:
    """Return the size at a point of an axis."""
    return replace(axes[axis][0], **{axis: value})


def cost(c: Implementation, size: Size) -> float:
    """Return the flops to leading order, of all items. Greedy also pays for the Gram action, see its row of METHODS."""
    one = c.cost(size.m, size.n, size.k)
    if c.name == "greedy":
        one = 2 * size.m * size.n * min(size.m, size.n) + 6 * size.m * size.n * size.k
    return size.batch * one


def measure(
    path: Path,
    axes: dict[str, tuple[Size, tuple[int, ...]]] = AXES,
    repeats: int = REPEATS,
    entered: Sequence[str] = ENTERED,
) -> None:
    """Measure the axes that have no lines in the file yet."""
    have = {row["axis"] for row in read(path)}
    racing = [c for c in IMPLEMENTATIONS if c.name in entered]
    for axis, (_, values) in axes.items():
        if axis in have:
            continue
        print(f"growth with {axis}", flush=True)
        runs: dict[str, Callable[[], object]] = {}
        lines = {}
        for value in values:
            size = varied(axis, value, axes)
            A = matrix("decay", size)
            for c in racing:
                key = f"{c.name} {value}"
                runs[key] = c.prepare(A, size.k)
                runs[key]()
                lines[key] = [c.name, axis, value, f"{cost(c, size):.6g}"]
        found = alternate(runs, dict.fromkeys(runs, repeats), np.random.default_rng(0))
        new = not path.exists()
        with open(path, "a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(_FIELDS)
            writer.writerows(
                [*lines[key], " ".join(f"{s:.6g}" for s in seconds)] for key, seconds in found.items()
            )


def read(path: Path) -> list[dict[str, str]]:
    """Return the lines measured so far."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def slopes(rows: Sequence[dict[str, str]]) -> dict[tuple[str, str], tuple[Interval, float]]:
    """Return (name, axis) -> slope of each repeat's times, as a median, and the slope of the flop count at the same points."""
    found = {}
    for name, axis in dict.fromkeys((row["name"], row["axis"]) for row in rows):
        points = [row for row in rows if (row["name"], row["axis"]) == (name, axis)]
        x = np.log([float(row["value"]) for row in points])
        y = np.log([[float(s) for s in row["seconds"].split()] for row in points])
        theory = np.polyfit(x, np.log([float(row["cost"]) for row in points]), 1)[0]
        found[name, axis] = median(np.polyfit(x, y, 1)[0].tolist()), float(theory)
    return found
