"""What all figures of the study share: colours for light and dark pages, labels that do not collide, and panels as SVG."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from analysis.study.results import Results

INK, SOFT, GRID, OTHER, ACCENT = "#1d2330", "#667085", "#e4e7ec", "#98a2b3", "#c2410c"
FONTS = "system-ui, Roboto, sans-serif"
#: Arms with a colour of their own in every figure; the others are grey.
HIGHLIGHTED = {
    "auto": "#7a1f4b", "spare": ACCENT, "residual, cosine": "#d97b29", "divprune": "#2456a6", "greedy": "#15803d", "strong rrqr": "#5b8c12",
    "osinsky": "#0d9488", "cdpruner": "#7c3aed", "vispruner": "#be185d", "resprune": "#a16207", "uniform grid": "#64748b",
    "random": "#8b919c",
}  # fmt: skip

#: Colours of figures on a light page, and what a dark page shows instead. All others stay as they are.
DARK = {
    INK: "#e6e9f0", SOFT: "#a3acbd", GRID: "#333b4b", OTHER: "#667085", ACCENT: "#fb923c", "#7a1f4b": "#f0a6cb", "#d97b29": "#fcd34d",
    "#2456a6": "#7db0ff", "#15803d": "#4ade80", "#5b8c12": "#a3e635", "#0d9488": "#2dd4bf", "#7c3aed": "#b794ff", "#be185d": "#fb7ab5",
    "#a16207": "#e0b84f", "#64748b": "#94a3b8", "#8b919c": "#c3c8d2",
}  # fmt: skip

#: For `matplotlib.pyplot.rc_context`: what others draw in the same process stays as it is.
STYLE = {
    "font.size": 9, "axes.edgecolor": SOFT, "axes.labelcolor": INK, "text.color": INK, "xtick.color": SOFT, "ytick.color": SOFT,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.7,
    "axes.axisbelow": True, "axes.titlesize": 10, "axes.titlelocation": "left", "svg.fonttype": "none", "svg.hashsalt": "study",
    "figure.constrained_layout.use": True,
}  # fmt: skip


class Panel(NamedTuple):
    """One drawing of a figure: its name, which is unique on a page, and its SVG, with a description for those who do not see it."""

    name: str
    svg: str


def panel(figure, name: str, alt: str) -> Panel:
    """Return a figure as SVG to be put into a page, and close it.

    Text stays text. Colours are CSS variables of the page, with those of a light page where there is no page; ids begin with the name.
    """
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    plt.close(figure)
    text = re.sub(r"^.*?(?=<svg)|<metadata>.*?</metadata>\s*", "", file.getvalue(), flags=re.DOTALL)
    text = re.sub(r'\b(id="|xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r"#[0-9a-f]{6}\b", lambda found: colour(found[0]), text)
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r" font-family: [^;\"]*;?", "", text)
    return Panel(
        name, text.replace("<svg", f'<svg role="img" aria-label="{escape(alt)}" font-family="{FONTS}"', 1)
    )


def colour(light: str) -> str:
    """Return the CSS of a colour, which follows the page if it is one of `DARK`."""
    return f"var({variable(light)}, {light})" if light in DARK else light


def variable(light: str) -> str:
    """Return the name of the CSS variable that holds a colour of `DARK`."""
    return f"--c{light[1:]}"


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> np.ndarray:
    """Return places at least `gap` apart and within [low, high], in the order of those wanted and nearest to them in the least squares.

    Places less a multiple of the gap must ascend: that is isotonic regression, solved by pooling neighbours that do not. Where not
    all fit, the gap shrinks.
    """
    order = np.argsort(wanted, kind="stable")
    steps = np.arange(len(order)) * min(gap, (high - low) / max(len(order) - 1, 1))
    pools: list[list[float]] = []
    for value in np.asarray(wanted, float)[order] - steps:
        pools.append([value])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            last = pools.pop()
            pools[-1] += last
    level = np.concatenate([np.full(len(pool), np.mean(pool)) for pool in pools]) if pools else np.empty(0)
    found = np.empty(len(order))
    found[order] = np.clip(level, low, high - steps[-1:].sum()) + steps
    return found


class End(NamedTuple):
    """The end of a curve, what it is called, and its colour."""

    x: float
    y: float
    name: str
    colour: str


def label_ends(ax, ends: Sequence[End], x: float, size: float = 8) -> None:
    """Write the names of curves left of x, on a logarithmic axis, apart from each other, each with a line to its curve.

    Limits and size of the axes must be what they will be: call it last.
    """
    low, high = ax.get_ylim()
    points = ax.get_position().height * ax.get_figure().get_size_inches()[1] * 72
    gap = 1.3 * size * (high - low) / points
    places = spread([end.y for end in ends], gap, low + gap / 2, high - gap / 2)
    for end, place in zip(ends, places, strict=True):
        ax.plot([end.x, x * 0.9], [end.y, place], color=end.colour, lw=0.6)
        ax.text(x * 0.88, place, end.name, ha="right", va="center", fontsize=size, color=end.colour)


def percent(keep: float) -> str:
    """Return a share as text, such as 11 %."""
    return f"{100 * keep:g} %"


def tokens(results: Results, keep: float) -> float:
    """Return the mean number of tokens kept at a budget."""
    cells = [
        i for i, (a, k) in enumerate(results.cells) if k == keep and a in ("spare", "random", "divprune")
    ]
    cells = cells or [i for i, (_, k) in enumerate(results.cells) if k == keep]
    ran = results.ran[cells]
    return float(results.tokens[cells][ran].mean())
