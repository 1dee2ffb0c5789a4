"""What all figures of the study share: colours and style, budgets in words, and saving."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from analysis.study.results import Results

INK, SOFT, GRID = "#1d2330", "#667085", "#e4e7ec"
#: Arms with a colour of their own in every figure; the others are grey.
HIGHLIGHTED = {
    "auto": "#111827", "spare": "#c2410c", "residual, cosine": "#ea9a4b", "divprune": "#2456a6", "greedy": "#15803d", "strong rrqr": "#65a30d",
    "osinsky": "#0d9488", "cdpruner": "#7c3aed", "vispruner": "#be185d", "resprune": "#a16207", "uniform grid": "#64748b",
    "random": "#9ca3af",
}  # fmt: skip

#: For `matplotlib.pyplot.rc_context`: what others draw in the same process stays as it is.
STYLE = {
    "font.size": 9, "axes.edgecolor": SOFT, "axes.labelcolor": INK, "text.color": INK, "xtick.color": SOFT, "ytick.color": SOFT,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.7,
    "axes.axisbelow": True, "axes.titlesize": 10, "axes.titlelocation": "left",
}  # fmt: skip


def save(figure, path: Path) -> None:
    """Write a figure and close it."""
    figure.savefig(path, dpi=140, bbox_inches="tight", facecolor="white")
    plt.close(figure)


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
