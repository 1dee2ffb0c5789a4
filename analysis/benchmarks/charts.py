"""Figures of the benchmark: the comparison at every size with its floors; kinds of matrices, batches and growth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from analysis.benchmarks import machine
from analysis.benchmarks.growth import slopes
from analysis.benchmarks.implementations import GRAM, IMPLEMENTATIONS, PRODUCTS, RESIDUAL, SCIPY, TEXTBOOK
from analysis.benchmarks.inputs import SIZES
from analysis.benchmarks.rows import Row
from analysis.benchmarks.tables import cells
from analysis.benchmarks.timing import median, ratio

__all__ = ["comparison", "growth"]

COLOURS = {"ours": "#c2410c", "peer": "#475569", "loop": "#0e7490"}
WORDS = {"ours": "cssp", "peer": "other libraries", "loop": "loops of published pruners"}
FLOORS = {PRODUCTS: ("#1d4ed8", "--"), GRAM: ("#15803d", "-."), "machine": ("black", ":")}
FLOOR_WORDS = {
    PRODUCTS: "k products Aᵀq",
    GRAM: "one Gram product AᵀA",
    "machine": "the machine: A read once,\nor 2dnk flops",
}
_NAMED = {size.name: size for size in SIZES}


def _time(milliseconds: float, _: object = None) -> str:
    return f"{milliseconds / 1e3:g} s" if milliseconds >= 1000 else f"{milliseconds:g} ms"


def _log(axis) -> None:
    axis.set_major_locator(LogLocator(base=10, numticks=6))
    axis.set_major_formatter(FuncFormatter(_time))
    axis.set_minor_formatter(NullFormatter())


def _laid_out(races: dict[str, dict[str, Row]], across: int) -> list[list[str]]:
    """Return the sizes in rows: single matrices of tokens first, then numerical ones and batches."""
    plain = [s for s in races if s not in _NAMED or not (_NAMED[s].numerical or _NAMED[s].batch > 1)]
    rest = [s for s in races if s not in plain]
    return [part[i : i + across] for part in (plain, rest) for i in range(0, len(part), across)]


def comparison(rows: Sequence[Row], about: dict[str, Any], path: Path) -> Path:
    """Draw a panel for each size: time of every implementation with its interval, the floors as lines."""
    every = cells(rows)
    races = {size: race for (size, kind), race in every.items() if kind == "decay"}
    races = races or {size: race for (size, _), race in every.items()}
    lines = _laid_out(races, 4)
    across = max(map(len, lines))
    names = [
        [c.name for c in IMPLEMENTATIONS if c.group != "floor" and any(c.name in races[s] for s in line)][
            ::-1
        ]
        for line in lines
    ]
    heights = [0.9 + 0.2 * len(shown) for shown in names]
    figure = plt.figure(figsize=(2.4 + 2.9 * across, sum(heights) + 1.3), layout="constrained")
    grid = figure.add_gridspec(len(lines), across, height_ratios=heights)
    for i, (line, shown) in enumerate(zip(lines, names, strict=True)):
        left = None
        for j, size in enumerate(line):
            left = ax = figure.add_subplot(grid[i, j], sharey=left)
            _panel(ax, races[size], shown)
            _floors(ax, races[size], size, about)
            ax.tick_params(axis="y", labelleft=j == 0)
            if j == 0:
                for tick in ax.get_yticklabels():
                    tick.set_color(
                        COLOURS[next(c.group for c in IMPLEMENTATIONS if c.name == tick.get_text())]
                    )
    handles = [Line2D([], [], color=COLOURS[g], marker="o", ls="", label=WORDS[g]) for g in COLOURS]
    handles += [Line2D([], [], color="0.6", marker="x", ls="", label="not run or failed: see the table")]
    handles += [Line2D([], [], color=c, ls=ls, label=FLOOR_WORDS[name]) for name, (c, ls) in FLOORS.items()]
    vacant = [(i, len(line)) for i, line in enumerate(lines) if len(line) < across]
    if vacant:
        ax = figure.add_subplot(grid[vacant[0][0], vacant[0][1]])
        ax.axis("off")
        ax.legend(handles=handles, loc="center", frameon=False, fontsize=9.5, labelspacing=0.9)
    else:
        figure.legend(
            handles=handles, loc="outside lower center", ncols=min(4, 2 * across), frameon=False, fontsize=9
        )
    figure.suptitle(
        "Time to choose k of n columns of length d on the CPU\nmedian and 95 % interval", fontsize=11.5
    )
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def _floors(ax, race: dict[str, Row], size: str, about: dict[str, Any]) -> None:
    at = {name: 1e3 * float(np.median(race[name].seconds)) for name in (PRODUCTS, GRAM)}
    if size in _NAMED:
        at["machine"] = 1e3 * machine.floor(_NAMED[size], about)
    for name, x in at.items():
        ax.axvline(x, color=FLOORS[name][0], ls=FLOORS[name][1], lw=1.3, zorder=1)
    title = _NAMED[size].label if size in _NAMED else size
    ax.set_title(title.replace(", ", "\n", 1) if len(title) > 26 else title, fontsize=9.5)


def _panel(ax, race: dict[str, Row], names: list[str]) -> None:
    """Draw dots with intervals; a cross at the right edge for who was not run."""
    for y, name in enumerate(names):
        row = race.get(name)
        if row is None:
            continue
        if not row.seconds:
            ax.plot(0.97, y, "x", color="0.65", transform=ax.get_yaxis_transform(), markersize=5)
            continue
        t = median(row.seconds)
        ours = name == RESIDUAL
        ax.errorbar(
            1e3 * t.value, y, xerr=[[1e3 * (t.value - t.low)], [1e3 * (t.high - t.value)]], fmt="o", capsize=2,
            color=COLOURS[row.group], markersize=7.5 if ours else 5, elinewidth=1, zorder=3,
            markeredgecolor="white" if ours else None,
        )  # fmt: skip
    ax.set_xscale("log")
    _log(ax.xaxis)
    ax.set_yticks(range(len(names)), names, fontsize=8.5)
    ax.set_ylim(-0.7, len(names) - 0.3)
    ax.grid(axis="x", alpha=0.25)
    ax.grid(axis="y", alpha=0.12)
    ax.tick_params(axis="y", length=0)
    ax.margins(x=0.12)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)


def growth(rows: Sequence[Row], grown: Sequence[dict[str, str]], path: Path) -> Path:
    """Draw, above, time against m, n, k and batch with slopes, and below kinds of matrices, in units of k products."""
    found = slopes(grown)
    axes_ = list(dict.fromkeys(axis for _, axis in found))
    several = [
        size
        for size in dict.fromkeys(s for s, _ in cells(rows))
        if sum(s == size for s, _ in cells(rows)) > 1
    ]
    figure = plt.figure(figsize=(13, 8.2 if several else 4.6))
    grid = figure.add_gridspec(2 if several else 1, 1, height_ratios=[1.1, 1] if several else None)
    upper = grid[0].subgridspec(1, len(axes_), wspace=0.08).subplots(sharey=True, squeeze=False)[0]
    for ax, axis in zip(upper, axes_, strict=True):
        _grown(ax, axis, grown, found)
    times = [1e3 * float(s) for row in grown for s in row["seconds"].split()]
    upper[0].set_ylim(min(times) / 1.5, max(times) * 30)  # room for the legends
    upper[0].set_title("Growth: measured slope (slope of the flop count)", loc="left", fontsize=11, pad=10)
    if several:
        lower = grid[1].subgridspec(1, len(several), wspace=0.08).subplots(sharey=True, squeeze=False)[0]
        for ax, size in zip(lower, several, strict=True):
            _of_kinds(ax, {k: race for (s, k), race in cells(rows).items() if s == size})
            ax.set_title(_NAMED[size].label if size in _NAMED else size, fontsize=10)
        lower[0].set_ylabel("time / (k products Aᵀq)")
        low, high = lower[0].get_ylim()
        lower[0].set_ylim(low, 4 * high)  # room for the legend
        lower[-1].legend(fontsize=8.5, frameon=False, loc="upper right")
    figure.tight_layout(h_pad=2)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


_SERIES = {
    RESIDUAL: ("#c2410c", "o", "residual"),
    TEXTBOOK: ("#fb923c", "s", "residual, speculate=False"),
    "greedy": ("#a21caf", "D", "greedy"),
    SCIPY: ("#475569", "^", "scipy.linalg.qr"),
    PRODUCTS: ("#1d4ed8", "_", "k products"),
}


def _grown(ax, axis: str, grown: Sequence[dict[str, str]], found) -> None:
    for name, (colour, marker, word) in _SERIES.items():
        points = [row for row in grown if (row["name"], row["axis"]) == (name, axis)]
        if not points:
            continue
        x = [float(row["value"]) for row in points]
        t = [median([float(s) for s in row["seconds"].split()]) for row in points]
        y = np.array([(1e3 * i.value, 1e3 * (i.value - i.low), 1e3 * (i.high - i.value)) for i in t])
        slope, theory = found[name, axis]
        ax.errorbar(
            x, y[:, 0], yerr=y[:, 1:].T, color=colour, marker=marker, markersize=5, lw=1.3, capsize=2, elinewidth=0.8,
            ls="--" if name == PRODUCTS else "-", label=f"{word}  {slope.value:.2f} ({theory:.2f})",
        )  # fmt: skip
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    _log(ax.yaxis)
    ax.set_xticks(x, [f"{v:g}" for v in x])
    ax.minorticks_off()
    ax.set_xlabel({"batch": "batch of 1024 × 576, k = 64"}.get(axis, axis))
    ax.grid(alpha=0.25)
    ax.legend(fontsize=7.5, frameon=False, loc="upper left")


def _of_kinds(ax, races: dict[str, dict[str, Row]]) -> None:
    """Draw groups of dots, one a kind."""
    shown = [
        name for name in (RESIDUAL, TEXTBOOK, "greedy", SCIPY) if any(r[name].seconds for r in races.values())
    ]
    for i, name in enumerate(shown):
        colour, marker, word = _SERIES[name]
        for place, race in enumerate(races.values()):
            if not race[name].seconds:
                continue
            r = ratio(race[name].seconds, race[PRODUCTS].seconds)
            ax.errorbar(
                place + 0.14 * (i - (len(shown) - 1) / 2), r.value, yerr=[[r.value - r.low], [r.high - r.value]],
                color=colour, marker=marker, ls="", markersize=6, capsize=2, elinewidth=1, label=word if not place else None,
            )  # fmt: skip
    ax.axhline(1, color="#1d4ed8", ls="--", lw=1.2)
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    ax.set_xticks(range(len(races)), [_short(kind) for kind in races], fontsize=9)
    ax.grid(axis="y", alpha=0.25)


def _short(kind: str) -> str:
    return {"mean": "common\nmean", "norms": "norm\nspread", "tied": "all tied"}.get(kind, kind)
