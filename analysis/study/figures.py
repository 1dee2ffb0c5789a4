"""Figures of the study as panels of SVG, each small enough for a narrow page. All but the kept tokens are drawn from the rows alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D

import cssp
from analysis.study import findings
from analysis.study.arms import BLIND, FULL, swapped
from analysis.study.bootstrap import Draws, band, retained
from analysis.study.drawing import (
    HIGHLIGHTED,
    INK,
    SOFT,
    STYLE,
    End,
    Panel,
    label_ends,
    panel,
    tokens,
)
from analysis.study.encoding import Checkpoint
from analysis.study.pictures import draw_kept_tokens
from analysis.study.results import Results

BANDS = ("auto", "spare", "divprune", "greedy", "random")


class Figure(NamedTuple):
    """One figure of the page: a title, a caption, its panels, and which cells (arm, keep) it shows (None: all)."""

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    cells: frozenset[tuple[str, float]] | None = None


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
    ax.set_xlabel(f"visual tokens kept, of {np.nanmax(results.tokens[results.index(FULL, 1.0)]):.0f}")
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


def tightness(results: Results) -> list[Panel]:
    """Draw the squared error over the best possible, measured, beside the factor that a theorem allows: a panel a method."""
    methods = {
        "spare": "residual", "osinsky": "osinsky", "volume": "volume", "random pivot": "random_pivot",
        swapped("spare", 2): "local_search",
    }  # fmt: skip
    shown = [a for a in (*methods, "greedy", "divprune", "random") if a in results.arms]
    ratio = results.predictors["error / optimum"] ** 2
    n = round(float(np.nanmax(results.tokens)))
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
Drawing = tuple[str, str, str, Callable[[Draws], list[Panel]]]
FINDINGS: tuple[Drawing, ...] = (
    (
        "which",
        "Which error goes with right answers?",
        "After some tokens are dropped, every token has a residual: what of it cannot be rebuilt from the kept ones. Error p sums the residual norms up: "
        "p = 1 counts every token alike, p = 2 is the Frobenius error, p = ∞ looks at the largest residual only. Below zero: pruners of lower error answer better, "
        "at equal numbers of tokens kept. Lines are 95 % intervals; scenes and pruners are both drawn again. Pruners that read the question, merge tokens or act "
        "inside the language model are left out: error does not describe what they hand on.",
        findings.which_error,
    ),
    (
        "error",
        "The pruners themselves",
        "Each point is a pruner, at one budget: right answers against the Frobenius error, and against the largest residual. Both errors grow to the right. ρ is "
        "Spearman's correlation, with its 95 % interval; the dotted line is the accuracy with all tokens. Points without a name are other pruners.",
        findings.scatter,
    ),
    (
        "swaps",
        "Does lowering an error help?",
        "In black: greedy choice of the token that lowers error p most, and the residual rule (spare). In colours: a set of tokens as it was chosen, and "
        "after single tokens were swapped for others as long as that lowers error p. Mean over tight budgets.",
        findings.interventions,
    ),
    (
        "factorial",
        "The rule, or the norms?",
        "Right answers, in percent, at tight budgets. Rows: what the rule looks at. Classes made equal scales the tokens of things so that their median norm is that of "
        "background; it knows where things are, and explains only. Columns: the rule. Max–min keeps what is farthest from the kept ones, gain lowers the Frobenius error most.",
        findings.factorial,
    ),
    (
        "filling",
        "What returns when dropped positions are filled?",
        "Points gained on dropping, on things, at tight budgets. Fold: each kept token becomes the mean of its cluster. Fill: dropped positions hold the "
        "projections of their tokens; shuffled: the same among permuted positions; mean: the mean of all tokens; dummy: one random token of median norm.",
        findings.filling,
    ),
    (
        "predictors",
        "What predicts accuracy best?",
        "Numbers of a set of kept tokens; each is explained below. In orange: oracles, which need the answers or the truth. Correlations are turned so that to the right of 0 means the number points "
        "the way its author meant. Lines are 95 % intervals.",
        findings.predictors,
    ),
)  # fmt: skip
#: The same of figures that are drawn for models that were asked at the same budgets.
DRAWN: tuple[Drawing, ...] = (
    (
        "retained",
        "What is left when tokens go",
        "Accuracy as a share of that with all tokens, against the number of tokens kept (logarithmic). Bands are 95 % intervals. In the "
        "second panel the same kept tokens three ways: the others dropped; folded into the nearest kept one; or put back as their projection "
        "on the span of the kept ones, so that every position stays filled.",
        retained_accuracy,
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


def draw(
    draws: Draws, folder: Path, checkpoint: Checkpoint | None = None, every: Draws | None = None
) -> list[Figure]:
    """Draw all figures that the rows allow, a file a panel; the kept tokens where a model is given, or from an earlier run.

    ``every``: the resamples of all models, where those of `draws` are not all.
    """
    found = []
    with plt.rc_context(STYLE):
        for drawings, own in ((FINDINGS, every or draws), (DRAWN, draws)):
            for name, title, caption, panels in drawings:
                if drawn := panels(own):
                    found.append(Figure(name, title, caption, tuple(drawn)))
        kept = [] if checkpoint is None else draw_kept_tokens(checkpoint)
    kept = kept or [Panel(path.stem, path.read_text()) for path in sorted(folder.glob("kept-*.svg"))]
    if kept:
        found.append(Figure("kept", *KEPT, tuple(kept), frozenset()))
    for one in [one for figure in found for one in figure.panels]:
        (folder / f"{one.name}.svg").write_text(one.svg)
    return found
