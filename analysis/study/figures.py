"""Figures of the study. All but the kept tokens are drawn from the rows alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D

import cssp
from analysis.study import correlations
from analysis.study.arms import BLIND, FULL
from analysis.study.bootstrap import Draws, band, full_and_blind, interval, retained
from analysis.study.drawing import HIGHLIGHTED, INK, SOFT, STYLE, percent, save, tokens
from analysis.study.encoding import Checkpoint
from analysis.study.pictures import draw_kept_tokens, plane, skills
from analysis.study.predictors import NAMES, SIGN
from analysis.study.results import Results

BANDS = ("auto", "spare", "divprune", "greedy", "random")


def error_and_accuracy(draws: Draws, path: Path) -> bool:
    """Draw one panel a budget: error against accuracy, a point an arm."""
    results = draws.results
    keeps, full = results.keeps, full_and_blind(draws)[0].value
    columns = min(4, len(keeps) + 1)
    rows = -(-(len(keeps) + 1) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.3 * columns, 3.1 * rows), squeeze=False, sharey=True
    )
    error = draws.mean(lambda s: s.predictor("error"))
    seen: dict[str, str] = {}
    for ax, keep in zip(axes.flat, keeps, strict=False):
        for i, (arm, k) in enumerate(results.cells):
            if k != keep or arm not in results.blind or not np.isfinite(error[0, i]):
                continue
            colour = HIGHLIGHTED.get(arm, "#cbd0d8")
            bar = interval(draws.accuracy[:, i])
            ax.errorbar(
                error[0, i], 100 * bar.value, yerr=[[100 * (bar.value - bar.low)], [100 * (bar.high - bar.value)]],
                color=colour, marker="o", ms=6 if arm in HIGHLIGHTED else 4.5, elinewidth=0.9, mec="white", mew=0.5,
                zorder=4 if arm == "spare" else 3 if arm in HIGHLIGHTED else 2,
            )  # fmt: skip
            seen[arm if arm in HIGHLIGHTED else "other pruners"] = colour
        ax.axhline(100 * full, color=INK, lw=0.8, ls=":")
        rho = interval(correlations.within(draws, keep))
        ax.set_title(
            f"{percent(keep)} kept ({tokens(results, keep):.0f} tokens)\nρ = {rho.written('{:+.2f}')}",
            linespacing=1.4,
        )
        ax.tick_params(labelleft=True)
    for ax in axes[:, 0]:
        ax.set_ylabel("right answers, %")
    for ax in axes.flat[len(keeps) :]:
        ax.set_axis_off()
    order = [a for a in HIGHLIGHTED if a in seen] + (["other pruners"] if "other pruners" in seen else [])
    handles = [Line2D([], [], color=seen[a], marker="o", ls="", label=a) for a in order]
    handles.append(Line2D([], [], color=INK, lw=0.8, ls=":", label="all tokens kept"))
    axes.flat[len(keeps)].legend(handles=handles, loc="center left", frameon=False, fontsize=9)
    figure.supxlabel(
        "reconstruction error: the share of the tokens that lies outside the span of the kept ones, ‖X − P$_S$X‖ / ‖X‖",
        fontsize=9.5,
    )
    figure.tight_layout()
    save(figure, path)
    return True


def retained_accuracy(draws: Draws, path: Path) -> bool:
    """Draw the accuracy kept against tokens kept: pruners on the left, compensation on the right."""
    results = draws.results
    values = 100 * retained(draws)
    blind = results.index(BLIND, 0.0)
    panels = [("Tokens dropped", [a for a in HIGHLIGHTED if a in results.arms], "")]
    parents = [a for a in ("spare", "divprune", "greedy", "random") if f"{a} + fold" in results.arms]
    if parents:
        panels.append(("Compensation: dropped tokens folded in, or filled in", parents, "twins"))
    figure, axes = plt.subplots(1, len(panels), figsize=(6.4 * len(panels), 4.8), sharey=True, squeeze=False)
    x = {k: tokens(results, k) for k in results.keeps}
    for ax, (title, arms, kind) in zip(axes[0], panels, strict=True):
        ends: list[tuple[float, str, str]] = []
        for rank, arm in enumerate(arms):
            above = 3 - rank / len(arms)  # lines that coincide show the arm named first
            for suffix, style, banded in (
                ("", "-", not kind),
                *((((" + fold"), "--", True), (" + fill", ":", False)) if kind else ()),
            ):
                at = [(k, i) for k in results.keeps if (i := results.index(arm + suffix, k)) is not None]
                if not at:
                    continue
                xs, line = [x[k] for k, _ in at], values[:, [i for _, i in at]]
                low, high = band(line)
                marker = None if suffix else "o"
                ax.plot(
                    xs, line[0], style, color=HIGHLIGHTED[arm], lw=1.7, marker=marker, ms=3.5, zorder=above
                )
                if banded and arm in BANDS:
                    ax.fill_between(xs, low, high, color=HIGHLIGHTED[arm], alpha=0.13, lw=0)
                if not suffix:
                    ends.append((line[0, -1], arm, HIGHLIGHTED[arm]))
        _labels(ax, ends, min(x.values()))
        ax.axhline(100, color=INK, lw=0.8)
        if blind is not None:
            ax.axhline(values[0, blind], color=SOFT, lw=0.8, ls=":")
            ax.annotate(
                "no tokens at all",
                (max(x.values()), values[0, blind]),
                ha="right",
                va="bottom",
                fontsize=8,
                color=SOFT,
            )
        ax.set_xscale("log")
        ticks = sorted({round(v) for v in x.values()})
        ax.set_xticks(ticks, [str(t) for t in ticks])
        ax.minorticks_off()
        ax.set_xlim(min(x.values()) / 2.3, max(x.values()) * 1.1)
        ax.set_xlabel(f"visual tokens kept, of {results.tokens[results.index(FULL, 1.0)].max():.0f}")
        ax.set_title(title)
        if kind:
            key = [
                Line2D([], [], color=INK, ls=s, label=t)
                for s, t in (("-", "dropped"), ("--", "folded"), (":", "filled in"))
            ]
            ax.legend(handles=key, loc="lower right", frameon=False, bbox_to_anchor=(1.0, 0.08))
    axes[0][0].set_ylabel("accuracy, % of that with all tokens")
    figure.tight_layout()
    save(figure, path)
    return True


def _labels(ax, ends: list[tuple[float, str, str]], x: float) -> None:
    """Draw names at the left ends of lines, apart from each other."""
    low, high = ax.get_ylim()
    gap, last = (high - low) / 26, -np.inf
    for y, name, colour in sorted(ends):
        last = max(y, last + gap)
        ax.annotate(name, (x, y), (x * 0.93, last), ha="right", va="center", fontsize=8, color=colour)


def predictors(draws: Draws, path: Path) -> bool:
    """Draw how well each number predicts accuracy: over arms within a budget, and over images within an arm."""
    results = draws.results
    names = [n for n in NAMES if np.isfinite(correlations.partial(draws, n)[0])]
    if not names:
        return False
    asked: Sequence[tuple[str, Callable[[Draws, str], np.ndarray]]] = (
        ("over pruners, given the budget", correlations.partial),
        ("over pruners, for one image", correlations.across_arms),
        ("over images, for one pruner", correlations.across_images),
    )
    found = {title: [interval(SIGN[n] * f(draws, n)) for n in names] for title, f in asked}
    order = np.argsort([bar.value for bar in found[asked[0][0]]])
    figure, axes = plt.subplots(1, 3, figsize=(11.5, 0.9 + 0.33 * len(names)), sharey=True)
    for ax, (title, bars) in zip(axes, found.items(), strict=True):
        for y, i in enumerate(order):
            bar = bars[i]
            colour = "#c2410c" if names[i] == "error" else INK
            ax.plot([bar.low, bar.high], [y, y], color=colour, lw=1.6)
            ax.plot(bar.value, y, "o", color=colour, ms=5)
        ax.axvline(0, color=SOFT, lw=0.8)
        ax.set_title(title)
        ax.set_xlim(-1, 1)
        ax.set_xticks((-1, -0.5, 0, 0.5, 1))
        ax.set_xlabel("correlation with accuracy\n(right of 0: as meant)")
        ax.set_yticks(range(len(names)), [names[i] for i in order])
        ax.tick_params(axis="y", length=0, labelcolor=INK)
    figure.tight_layout()
    save(figure, path)
    return bool(results.cells)


def tightness(results: Results, path: Path) -> bool:
    """Draw the squared error over the best possible, measured, beside the factor that a theorem allows."""
    methods = {
        "spare": "residual",
        "strong rrqr": "strong_rrqr",
        "osinsky": "osinsky",
        "volume": "volume",
        "random pivot": "random_pivot",
        "local search": "local_search",
    }
    shown = [a for a in (*methods, "greedy", "divprune", "random") if a in results.arms]
    if not shown:
        return False
    ratio = results.predictors["error / optimum"] ** 2
    columns = min(5, len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.35 * columns, 2.9 * rows), sharey=True, sharex=True, squeeze=False
    )
    for ax in axes.flat[len(shown) :]:
        ax.set_axis_off()
    n = round(float(results.tokens.max()))
    for ax, arm in zip(axes.flat, shown, strict=False):
        colour = HIGHLIGHTED.get(arm, "#475467")
        xs, factors = [], []
        for keep in results.keeps:
            i = results.index(arm, keep)
            values = ratio[i][np.isfinite(ratio[i])] if i is not None else np.array([])
            if not len(values):
                continue
            k = tokens(results, keep)
            low, middle, high = np.quantile(values, (0, 0.5, 1))
            ax.plot([k, k], [low, high], color=colour, lw=4, alpha=0.35, solid_capstyle="round")
            ax.plot(k, middle, "o", color=colour, ms=4.5)
            guarantee = cssp.METHODS[methods[arm]].guarantee if arm in methods else None
            factor = guarantee.frobenius(256, n, round(k)) if guarantee and guarantee.frobenius else None
            if factor:
                xs.append(k)
                factors.append(factor)
        ax.plot(xs, factors, "_", color=INK, ms=13, mew=2)
        ax.set_title(arm + ("" if factors else "\n(no bound)"), fontsize=9)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_ylim(0.8, 1e7)
        ticks = [round(tokens(results, k)) for k in results.keeps][::2]
        ax.set_xticks(ticks, [str(t) for t in ticks])
        ax.minorticks_off()
        ax.axhline(1, color=SOFT, lw=0.8, ls=":")
    for ax in axes[:, 0]:
        ax.set_ylabel("squared error / least possible")
    figure.supxlabel("visual tokens kept", fontsize=9.5)
    key = [
        Line2D([], [], color=SOFT, lw=4, alpha=0.5, marker="o", label="measured: all images, median"),
        Line2D(
            [],
            [],
            color=INK,
            marker="_",
            ms=13,
            mew=2,
            ls="",
            label="what the theorem allows (above 10⁷: not drawn)",
        ),
    ]
    figure.legend(handles=key, loc="upper center", ncols=2, frameon=False, bbox_to_anchor=(0.5, 1.05))
    figure.tight_layout()
    save(figure, path)
    return True


DRAWN: dict[str, Callable[[Draws, Path], bool]] = {
    "error_and_accuracy": error_and_accuracy,
    "retained_accuracy": retained_accuracy,
    "predictors": predictors,
    "skills": skills,
    "plane": plane,
    "tightness": lambda draws, path: tightness(draws.results, path),
}


def draw(draws: Draws, folder: Path, checkpoint: Checkpoint | None = None) -> dict[str, Path]:
    """Draw all figures that the rows allow, as PNG files; the kept tokens where a model is given, or from an earlier run."""
    paths = {}
    with plt.rc_context(STYLE):
        for name, one in DRAWN.items():
            path = folder / f"{name}.png"
            if one(draws, path):
                paths[name] = path
        path = folder / "kept_tokens.png"
        if checkpoint is not None:
            draw_kept_tokens(checkpoint, path)
    if path.exists():
        paths["kept_tokens"] = path
    return paths
