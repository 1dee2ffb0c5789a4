"""Figures of the study as panels of SVG, each small enough for a narrow page. All but the kept tokens are drawn from the rows alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

import cssp
from analysis.study import correlations
from analysis.study.arms import BLIND, FULL, PLANE
from analysis.study.bootstrap import Draws, band, full_and_blind, interval, retained
from analysis.study.drawing import (
    ACCENT,
    HIGHLIGHTED,
    INK,
    OTHER,
    SOFT,
    STYLE,
    End,
    Panel,
    label_ends,
    panel,
    percent,
    tokens,
)
from analysis.study.encoding import Checkpoint
from analysis.study.pictures import draw_kept_tokens, plane
from analysis.study.predictors import NAMES, SIGN
from analysis.study.results import Results

BANDS = ("auto", "spare", "divprune", "greedy", "random")


class Figure(NamedTuple):
    """One figure of the page: a title, a caption, its panels, and which cells (arm, keep) it shows (None: all)."""

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    cells: frozenset[tuple[str, float]] | None = None


def error_and_accuracy(draws: Draws) -> list[Panel]:
    """Draw one panel a budget: error against accuracy, a point an arm."""
    results, full = draws.results, full_and_blind(draws)[0].value
    error = draws.mean(lambda s: s.predictor("error"))
    bars = [interval(column) for column in draws.accuracy.T]
    shown = [i for i, (a, _) in enumerate(results.cells) if a in results.blind and np.isfinite(error[0, i])]
    top = max([full, *(bars[i].value for i in shown)])
    panels = []
    for number, keep in enumerate(results.keeps):
        here = [i for i in shown if results.cells[i][1] == keep]
        if not here:
            continue
        figure, ax = plt.subplots(figsize=(3.9, 3.1))
        for i in here:
            arm, bar = results.cells[i][0], bars[i]
            known = arm in HIGHLIGHTED
            ends = [[100 * max(bar.value - bar.low, 0)], [100 * max(bar.high - bar.value, 0)]]
            ax.errorbar(
                error[0, i], 100 * bar.value, yerr=ends, color=HIGHLIGHTED.get(arm, OTHER), marker="o", ms=6 if known else 4.5,
                elinewidth=0.9, zorder=4 if arm == "spare" else 3 if known else 2,
            )  # fmt: skip
        ax.axhline(100 * full, color=INK, lw=0.8, ls=":")
        ax.set_ylim(0, 100 * top + 4)
        rho = interval(correlations.within(draws, keep)).written("{:+.2f}")
        ax.set_title(f"{percent(keep)} kept ({tokens(results, keep):.0f} tokens)\nρ = {rho}", linespacing=1.4)
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.set_xlabel("reconstruction error")
        ax.set_ylabel("right answers, %")
        best = max(here, key=lambda i: bars[i].value)
        panels.append(
            panel(
                figure,
                f"error-{number}",
                f"Scatter plot at {percent(keep)} of the tokens kept: right answers against reconstruction error, {len(here)} pruners, "
                f"Spearman's correlation {rho}. Most right answers: {results.cells[best][0]}, {100 * bars[best].value:.1f} %.",
            )
        )
    return panels


def retained_accuracy(draws: Draws) -> list[Panel]:
    """Draw the accuracy kept against tokens kept: pruners first, then what becomes of the dropped tokens."""
    results = draws.results
    parents = [a for a in ("spare", "divprune", "greedy", "random") if f"{a} + fold" in results.arms]
    panels = [_curves(draws, "Tokens dropped", [a for a in HIGHLIGHTED if a in results.arms], twins=False)]
    if parents:
        panels.append(_curves(draws, "Dropped tokens folded in, or filled in", parents, twins=True))
    return [one for one in panels if one is not None]


def _curves(draws: Draws, title: str, arms: Sequence[str], twins: bool) -> Panel | None:
    results = draws.results
    values = 100 * retained(draws)
    x = {k: tokens(results, k) for k in results.keeps}
    kinds = [("", "-", "dropped"), (" + fold", "--", "folded"), (" + fill", ":", "filled in")][
        : 3 if twins else 1
    ]
    figure, ax = plt.subplots(figsize=(5.2, max(3.9, 0.19 * len(arms) + 1.6)))
    ends = []
    for rank, arm in enumerate(arms):
        above = 3 - rank / len(arms)  # lines that coincide show the arm named first
        for suffix, style, _ in kinds:
            at = [(k, i) for k in results.keeps if (i := results.index(arm + suffix, k)) is not None]
            if not at:
                continue
            xs, line = [x[k] for k, _ in at], values[:, [i for _, i in at]]
            marker = None if suffix else "o"
            ax.plot(xs, line[0], style, color=HIGHLIGHTED[arm], lw=1.7, marker=marker, ms=3.5, zorder=above)
            if arm in BANDS and suffix == (" + fold" if twins else ""):
                ax.fill_between(xs, *band(line), color=HIGHLIGHTED[arm], alpha=0.13, lw=0)
            if not suffix:
                ends.append(End(xs[-1], line[0, -1], arm, HIGHLIGHTED[arm]))
    if not ends:
        plt.close(figure)
        return None
    ax.axhline(100, color=INK, lw=0.8)
    blind = results.index(BLIND, 0.0)
    if blind is not None:
        ax.axhline(values[0, blind], color=SOFT, lw=0.8, ls=":")
        ax.text(
            max(x.values()),
            values[0, blind],
            "no tokens at all",
            ha="right",
            va="bottom",
            fontsize=8,
            color=SOFT,
        )
    ax.set_xscale("log")
    ticks = sorted({round(v) for v in x.values()})
    ax.set_xticks(ticks, [str(t) for t in ticks])
    ax.minorticks_off()
    ax.set_xlim(min(x.values()) / 3, max(x.values()) * 1.1)
    ax.set_xlabel(f"visual tokens kept, of {results.tokens[results.index(FULL, 1.0)].max():.0f}")
    ax.set_ylabel("accuracy, % of that with all tokens")
    ax.set_title(title)
    if twins:
        key = [Line2D([], [], color=INK, ls=style, label=label) for _, style, label in kinds]
        figure.legend(handles=key, loc="outside lower center", ncols=3, frameon=False)
    ax.set_ylim(*ax.get_ylim())
    figure.canvas.draw()  # the layout gives the axes their height
    label_ends(ax, ends, min(x.values()))
    last = ", ".join(f"{end.name} {end.y:.0f} %" for end in sorted(ends, key=lambda end: -end.y))
    alt = f"Curves of accuracy as a share of that with all tokens, over the number of tokens kept. {title}. At their left ends: {last}."
    return panel(figure, "retained-twins" if twins else "retained", alt)


def predictors(draws: Draws) -> list[Panel]:
    """Draw how well each number predicts accuracy: over arms within a budget, and over images within an arm."""
    names = [n for n in NAMES if np.isfinite(correlations.partial(draws, n)[0])]
    if not names:
        return []
    asked: Sequence[tuple[str, Callable[[Draws, str], np.ndarray]]] = (
        ("over pruners, given the budget", correlations.partial),
        ("over pruners, for one image", correlations.across_arms),
        ("over images, for one pruner", correlations.across_images),
    )
    order: list[int] = []
    panels = []
    for number, (title, statistic) in enumerate(asked):
        bars = [interval(SIGN[n] * statistic(draws, n)) for n in names]
        order = order or np.argsort([bar.value for bar in bars]).tolist()
        figure, ax = plt.subplots(figsize=(3.9, 1.2 + 0.24 * len(names)))
        for y, i in enumerate(order):
            shade = ACCENT if names[i] == "error" else INK
            ax.plot([bars[i].low, bars[i].high], [y, y], color=shade, lw=1.6)
            ax.plot(bars[i].value, y, "o", color=shade, ms=5)
        ax.axvline(0, color=SOFT, lw=0.8)
        ax.set_title(title)
        ax.set_xlim(-1, 1)
        ax.set_xticks((-1, -0.5, 0, 0.5, 1))
        ax.set_xlabel("correlation with accuracy\n(right of 0: as meant)")
        ax.set_yticks(range(len(names)), [names[i] for i in order])
        ax.tick_params(axis="y", length=0, labelcolor=INK)
        told = ", ".join(f"{names[i]} {bars[i].value:+.2f}" for i in reversed(order))
        panels.append(panel(figure, f"predictors-{number}", f"Correlations with accuracy {title}: {told}."))
    return panels


def tightness(results: Results) -> list[Panel]:
    """Draw the squared error over the best possible, measured, beside the factor that a theorem allows: a panel a method."""
    methods = {
        "spare": "residual", "strong rrqr": "strong_rrqr", "osinsky": "osinsky", "volume": "volume", "random pivot": "random_pivot",
        "local search": "local_search",
    }  # fmt: skip
    shown = [a for a in (*methods, "greedy", "divprune", "random") if a in results.arms]
    ratio = results.predictors["error / optimum"] ** 2
    n = round(float(results.tokens.max()))
    panels = []
    for number, arm in enumerate(shown):
        measured = {}
        for keep in results.keeps:
            i = results.index(arm, keep)
            values = ratio[i][np.isfinite(ratio[i])] if i is not None else np.array([])
            if len(values):
                measured[tokens(results, keep)] = np.quantile(values, (0, 0.5, 1))
        if not measured:
            continue
        guarantee = cssp.METHODS[methods[arm]].guarantee if arm in methods else None
        factors = {
            k: factor
            for k in measured
            if guarantee and guarantee.frobenius and (factor := guarantee.frobenius(256, n, round(k)))
        }
        figure, ax = plt.subplots(figsize=(2.9, 2.5))
        shade = HIGHLIGHTED.get(arm, SOFT)
        for k, (low, middle, high) in measured.items():
            ax.plot([k, k], [low, high], color=shade, lw=4, alpha=0.35, solid_capstyle="round")
            ax.plot(k, middle, "o", color=shade, ms=4.5)
        ax.plot(list(factors), list(factors.values()), "_", color=INK, ms=13, mew=2)
        ax.set_title(arm + ("" if factors else " (no bound)"), fontsize=9)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_ylim(0.8, 1e7)
        ax.set_yticks(
            [10.0**power for power in range(8)], ["1", "10", "100", "10³", "10⁴", "10⁵", "10⁶", "10⁷"]
        )
        ticks = [round(k) for k in measured][::2]
        ax.set_xticks(ticks, [str(t) for t in ticks])
        ax.minorticks_off()
        ax.axhline(1, color=SOFT, lw=0.8, ls=":")
        ax.set_xlabel("visual tokens kept")
        ax.set_ylabel("squared error / least", fontsize=8)
        worst = max(high for _, _, high in measured.values())
        bound = (
            f"the theorem allows {min(factors.values()):.3g} or more" if factors else "no theorem bounds it"
        )
        alt = f"{arm}: squared error at most {worst:.1f} times the least possible on any image; {bound}."
        panels.append(panel(figure, f"tightness-{number}", alt))
    return panels


#: Name, title, caption, and the function that draws the panels (none where the rows do not have what it takes).
DRAWN: tuple[tuple[str, str, str, Callable[[Draws], list[Panel]]], ...] = (
    (
        "error",
        "Does a lower error go with more right answers?",
        "Each panel is a budget, each point a pruner. The reconstruction error, ‖X − PX‖ / ‖X‖ with P the projection on the "
        "span of the kept tokens, grows to the right. If error told accuracy, points would fall along a line. ρ is "
        "Spearman's correlation, with its 95 % interval; the dotted line is the accuracy with all tokens. Pruners that read the question, "
        "merge tokens or act inside the language model are left out here: error does not describe what they hand on.",
        error_and_accuracy,
    ),
    (
        "retained",
        "What is left when tokens go",
        "Accuracy as a share of that with all tokens, against the number of tokens kept (logarithmic). Bands are 95 % intervals. In the "
        "second panel the same kept tokens three ways: the others dropped; folded into the nearest kept one; or put back as their projection "
        "on the span of the kept ones, so that every position stays filled.",
        retained_accuracy,
    ),
    (
        "predictors",
        "What predicts accuracy best?",
        "Numbers that need no answers; each is explained below. Correlations are turned so that to the right of 0 means the number points "
        "the way its author meant. Lines are 95 % intervals.",
        predictors,
    ),
    (
        "plane",
        "One family, two exponents",
        "Right answers, in percent, of the greedy residual rule on tokens of length ‖x‖ᵝ times relevanceᵅ. Published pruners are single "
        "cells of this plane: outlined and named.",
        plane,
    ),
    (
        "tightness",
        "How far theorems are from what happens",
        "Squared error over the least that any subspace of as many dimensions allows: measured on every image (bar: all, dot: the median), "
        "and the factor that the method's theorem grants (dash; above 10⁷ it is not drawn). Both axes are logarithmic; 1 is the best possible.",
        lambda draws: tightness(draws.results),
    ),
)  # fmt: skip


KEPT = (
    "What the pruners look at",
    "Patches dropped before the language model are faded. Under each name: what the model then answers to the question above the first picture.",
)


def draw(draws: Draws, folder: Path, checkpoint: Checkpoint | None = None) -> list[Figure]:
    """Draw all figures that the rows allow, a file a panel; the kept tokens where a model is given, or from an earlier run."""
    found = []
    with plt.rc_context(STYLE):
        for name, title, caption, panels in DRAWN:
            if drawn := panels(draws):
                cells = frozenset((arm, keep) for arm in PLANE for keep in draws.results.keeps)
                found.append(Figure(name, title, caption, tuple(drawn), cells if name == "plane" else None))
        kept = [] if checkpoint is None else draw_kept_tokens(checkpoint)
    kept = kept or [Panel(path.stem, path.read_text()) for path in sorted(folder.glob("kept-*.svg"))]
    if kept:
        found.append(Figure("kept", *KEPT, tuple(kept), frozenset()))
    for one in [one for figure in found for one in figure.panels]:
        (folder / f"{one.name}.svg").write_text(one.svg)
    return found
