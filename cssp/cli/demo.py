"""``cssp demo``: a field rebuilt from twelve of its places, beside the same number on a grid."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from cssp.errors import ArgumentError
from cssp.files import written
from cssp.select import select

__all__ = ["field", "run"]

#: Rows and columns of the field.
SHAPE = (48, 120)

#: Places on an even grid, row by row.
GRID = (3, 4)


def field(times: np.ndarray) -> np.ndarray:
    """Return the field at these times, shape (times, places): whirls that drift to the right, and six spots that pulse."""
    height, width = SHAPE
    y, x = np.mgrid[:height, :width] / width
    y -= height / width / 2

    def bump(at_x: float, at_y: float, radius: float) -> np.ndarray:
        return np.exp(-((x - at_x) ** 2 + (y - at_y) ** 2) / (2 * radius**2))

    rng = np.random.default_rng(1)
    spots = rng.uniform((0.05, -0.18, 3.0), (0.95, 0.18, 9.0), (6, 3))
    pulsing = np.array([0.8 * bump(at_x, at_y, 0.018).ravel() for at_x, at_y, _ in spots])
    pulses = np.sin(2 * np.pi * np.asarray(times)[:, None] / spots[:, 2])
    onset = 1 / (1 + np.exp(-(x - 0.25) / 0.04))
    drifting = []
    for t in times:
        places = [(0.18 + 0.11 * (i + t % 2), (-1) ** i) for i in range(-2, 14)]
        drifting.append(sum(side * bump(at_x, 0.035 * side, 0.035) for at_x, side in places) * onset)
    return np.reshape(drifting, (len(drifting), -1)) + pulses @ pulsing


def run(o: argparse.Namespace) -> None:
    """Print what twelve chosen places say of the field at times that were not used to choose them, and draw it."""
    if o.output.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise ArgumentError(f"--output {o.output}: expected a name that ends in .png, .pdf or .svg")
    if o.output.exists() and not o.force:
        raise ArgumentError(f"--output {o.output}: the file exists; --force writes over it")
    rng = np.random.default_rng(0)
    seen, unseen = field(rng.uniform(0, 60, 240)), field(rng.uniform(60, 90, 40))
    A = seen + 0.01 * rng.standard_normal(seen.shape)
    k = GRID[0] * GRID[1]
    print(
        f"A field of {SHAPE[0]} x {SHAPE[1]} places, measured {len(A)} times: columns are places, rows are times."
    )
    print(f"selection = cssp.select(A, {k})")
    selection = select(A, k)
    T = selection.coefficients()
    rebuilt = {f"{k} chosen places": (selection.indices, unseen[:, selection.indices] @ T)}
    down, across = (
        ((np.arange(count) + 0.5) * n / count).astype(int) for count, n in zip(GRID, SHAPE, strict=True)
    )
    grid = (down[:, None] * SHAPE[1] + across).ravel()
    rebuilt[f"{k} places on a grid"] = (grid, unseen[:, grid] @ np.linalg.lstsq(A[:, grid], A)[0])
    print(f"\nThe whole field at {len(unseen)} later times, from these places alone:")
    for name, (_, B) in rebuilt.items():
        print(f"  {name}: relative error {np.linalg.norm(B - unseen) / np.linalg.norm(unseen):.3f}")
    print(f"\nselection.certificate() says: {selection.certificate()}")
    _draw(unseen, rebuilt, o.output)


def _draw(unseen: np.ndarray, rebuilt: dict[str, tuple[np.ndarray, np.ndarray]], path: Path) -> None:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        print("\nNo picture: matplotlib is not installed (pip install 'cssp[plot]').")
        return
    shown: dict[str, Any] = {"the field at a time not seen before": (None, unseen)} | rebuilt
    figure = Figure(figsize=(6, 6.6), layout="constrained")
    most = float(np.abs(unseen[0]).max())
    for ax, (name, (places, B)) in zip(figure.subplots(len(shown)), shown.items(), strict=True):
        ax.imshow(B[0].reshape(SHAPE), cmap="RdBu_r", vmin=-most, vmax=most)
        ax.set(xticks=[], yticks=[])
        if places is None:
            ax.set_title(name)
            continue
        ax.plot(places % SHAPE[1], places // SHAPE[1], "o", ms=6, mfc="none", mec="black", mew=1.5)
        ax.set_title(
            f"rebuilt from {name}: error {np.linalg.norm(B[0] - unseen[0]) / np.linalg.norm(unseen[0]):.0%}"
        )
    with written(path) as partial:
        figure.savefig(partial, dpi=120, format=path.suffix[1:].lower())
    print(f"\nPicture: {path}")
