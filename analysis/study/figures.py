"""Figures of the study. All but the kept tokens are drawn from the rows alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import inf
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D

import cssp
from analysis.study.arms import (
    BLIND,
    FILLS,
    FULL,
    GREEDY_PS,
    STARTS,
    SWAP_PS,
    TWINS,
    exponent,
    greedy,
    swapped,
)
from analysis.study.bootstrap import Draws, Interval, band, interval, mean_known, retained
from analysis.study.correlations import correlation
from analysis.study.drawing import HIGHLIGHTED, INK, SOFT, STYLE, percent, save, tokens
from analysis.study.encoding import Checkpoint
from analysis.study.pictures import draw_kept_tokens, factorial, skills
from analysis.study.predictors import NAMES, ORACLES, PS, SIGN, error_name
from analysis.study.results import Results
from analysis.study.tasks import THINGS, TRANSCRIPTION
from analysis.study.verdict import TIGHT

BANDS = ("auto", "spare", "divprune", "greedy", "random")


MODELS = ("#c2410c", "#2456a6", "#15803d", "#7c3aed")


def _names_of_models(draws: Draws) -> list[str]:
    return list(dict.fromkeys(model for model, _ in draws.results.strata()))


def _of_model(draws: Draws, model: str) -> Draws:
    return Draws(draws.results.only(model), resamples=len(draws.strata[0].weights) - 1)


def _apart(places: Sequence[float], gap: float) -> list[float]:
    """Return places of labels that are at least a gap apart and keep their order, as near to what they name as that allows."""
    order = np.argsort(places, kind="stable")
    found = np.array(places, float)
    for _ in range(200):
        moved = False
        for low, high in pairwise(order):
            short = gap - (found[high] - found[low])
            if short > 1e-9:
                found[low], found[high], moved = found[low] - short / 2, found[high] + short / 2, True
        if not moved:
            break
    return found.tolist()


def which_error(draws: Draws, path: Path) -> bool:
    """Draw the correlation of error_p and accuracy against p, a panel a task, a line a model."""
    results = draws.results
    models = {m: _of_model(draws, m) for m in _names_of_models(draws)}
    found = {
        task: {
            m: [interval(correlation(d, error_name(p), task), within=1) for p in PS]
            for m, d in models.items() if task in d.results.tasks
        }
        for task in results.tasks
    }  # fmt: skip
    found = {t: {m: b for m, b in lines.items() if np.isfinite(b[0].value)} for t, lines in found.items()}
    found = {task: lines for task, lines in found.items() if lines}
    if not found:
        return False
    figure, axes = plt.subplots(1, len(found), figsize=(1.2 + 4.1 * len(found), 4.4), sharey=True, squeeze=False)
    for ax, (task, lines) in zip(axes[0], found.items(), strict=True):
        labels = _apart([bars[-1].value for bars in lines.values()], 0.09)
        for i, ((model, bars), label) in enumerate(zip(lines.items(), labels, strict=True)):
            colour = MODELS[list(models).index(model) % len(MODELS)]
            x = np.arange(len(PS)) + 0.09 * (i - (len(lines) - 1) / 2)
            ax.plot(x, [b.value for b in bars], "o-", color=colour, lw=1.6, ms=5)
            ax.vlines(x, [b.low for b in bars], [b.high for b in bars], color=colour, lw=1.1)
            ax.annotate(model, (len(PS) - 0.75, label), color=colour, va="center", fontsize=8.5)
        ax.axhline(0, color=INK, lw=0.8)
        asked = int(np.isin(results.skill, results.of_task(task)).sum())
        ax.set_title(f"{task}\n{asked:,} answers", linespacing=1.4)
        ax.set_xticks(range(len(PS)), [exponent(p) for p in PS])
        ax.set_xlim(-0.5, len(PS) + 0.7)
        ax.set_ylim(-1.05, 1.05)
    axes[0][0].set_ylabel("correlation ρ of error and right answers, over pruners\n← lower error, better answers     lower error, worse answers →")
    figure.supxlabel("p: 1 = every token's residual counts alike, 2 = Frobenius, ∞ = only the largest residual counts", fontsize=9.5)
    figure.tight_layout()
    save(figure, path)
    return True


def _dots(ax, rows: Sequence[tuple[str, Interval, str]], scale: float = 100) -> None:
    """Draw intervals as rows from top to bottom: name, interval, colour; an empty name is a gap."""
    for y, (_, bar, colour) in enumerate(rows):
        if np.isfinite(bar.value):
            ax.plot([scale * bar.low, scale * bar.high], [y, y], color=colour, lw=1.4)
            ax.plot(scale * bar.value, y, "o", color=colour, ms=5)
    ax.set_yticks([y for y, row in enumerate(rows) if row[0]], [row[0] for row in rows if row[0]])
    ax.tick_params(axis="y", length=0, labelcolor=INK)
    ax.set_ylim(len(rows) - 0.4, -0.6)


def _tight(results: Results) -> list[float]:
    return [k for k in results.keeps if k <= TIGHT] or results.keeps[-1:]


def _mean_accuracy(draws: Draws, arm: str, task: str) -> Interval:
    """Return the accuracy of an arm, mean over tight budgets."""
    cells = [i for k in _tight(draws.results) if (i := draws.results.index(arm, k)) is not None]
    return interval(draws.mean(lambda s: mean_known(list(s.accuracy(draws.results.of_task(task), cells).T))))


def interventions(draws: Draws, path: Path) -> bool:
    """Draw the ladder: accuracy of greedy rules by p, and of sets that swaps have moved towards p."""
    results = draws.results
    ladders = [[greedy(p) for p in GREEDY_PS] + ["spare"]]
    ladders += [[start, *(swapped(start, p) for p in SWAP_PS)] for start in STARTS]
    ladders = [[a for a in ladder if a in results.arms] for ladder in ladders]
    ladders = [ladder for ladder in ladders if len(ladder) > 1]
    if not ladders or not results.tasks:
        return False
    nothing = Interval(np.nan, np.nan, np.nan)
    colours = (INK, *MODELS)
    count = sum(map(len, ladders)) + len(ladders) - 1
    figure, axes = plt.subplots(
        1, len(results.tasks), figsize=(2.2 + 3.6 * len(results.tasks), 0.9 + 0.24 * count), sharey=True, squeeze=False
    )  # fmt: skip
    for ax, task in zip(axes[0], results.tasks, strict=True):
        rows: list[tuple[str, Interval, str]] = []
        for ladder, colour in zip(ladders, colours, strict=False):
            rows += [("", nothing, INK)] if rows else []
            rows += [(arm, _mean_accuracy(draws, arm, task), colour) for arm in ladder]
        _dots(ax, rows)
        ax.set_title(task)
        ax.set_xlabel("right answers at tight budgets, %")
    figure.tight_layout()
    save(figure, path)
    return True


def filling(draws: Draws, path: Path) -> bool:
    """Draw what twins gain over dropping: folded, and filled in four ways, on things."""
    results = draws.results
    twins = ("fold", *FILLS)
    parents = [a for a in TWINS if all(f"{a} + {t}" in results.arms for t in twins)]
    if not parents or not results.of_task(THINGS):
        return False
    skills = results.of_task(THINGS)
    figure, axes = plt.subplots(1, len(parents), figsize=(1.6 + 2.5 * len(parents), 2.4), sharey=True, squeeze=False)
    for ax, parent in zip(axes[0], parents, strict=True):
        gains = [interval(draws.gaps(f"{parent} + {t}", parent, _tight(results), skills)) for t in twins]
        _dots(ax, [(t, bar, HIGHLIGHTED[parent]) for t, bar in zip(twins, gains, strict=True)])
        ax.axvline(0, color=INK, lw=0.8)
        ax.set_title(parent)
    figure.supxlabel("points gained on dropping, things, tight budgets", fontsize=9)
    figure.tight_layout()
    save(figure, path)
    return True


def error_and_accuracy(draws: Draws, path: Path) -> bool:
    """Draw accuracy against the Frobenius error and against the largest residual at one tight budget, a row of panels a task."""
    results = draws.results
    tasks = [t for t in results.tasks if t != TRANSCRIPTION] or results.tasks
    if not tasks or not results.keeps:
        return False
    keep = min(results.keeps, key=lambda k: abs(k - 0.06))
    figure, axes = plt.subplots(len(tasks), 2, figsize=(9.6, 3.3 * len(tasks)), squeeze=False)
    arms = [a for a in results.distinct if results.index(a, keep) is not None]
    for row, task in zip(axes, tasks, strict=True):
        accuracy = draws.mean(lambda s, t=task: s.accuracy(results.of_task(t)))
        full = accuracy[0, results.index(FULL, 1.0)]
        for ax, p in zip(row, (2, inf), strict=True):
            error = draws.mean(lambda s, p=p: s.predictor(error_name(p)))[0]
            named = []
            for arm in arms:
                i = results.index(arm, keep)
                if not np.isfinite([error[i], accuracy[0, i]]).all():
                    continue
                colour = HIGHLIGHTED.get(arm, "#b6bcc6")
                bar = interval(accuracy[:, i])
                ax.errorbar(
                    error[i], 100 * bar.value, yerr=100 * np.maximum([[bar.value - bar.low], [bar.high - bar.value]], 0),
                    color=colour, marker="o", ms=5, elinewidth=0.9, mec="white", mew=0.5, zorder=3 if arm in HIGHLIGHTED else 2,
                )  # fmt: skip
                if arm in HIGHLIGHTED:
                    named.append((100 * bar.value, arm, colour))
            low, high = ax.get_ylim()
            edge = ax.get_xlim()[1]
            for y, (_, arm, colour) in zip(
                _apart([y for y, *_ in named], (high - low) / 15), named, strict=True
            ):
                ax.annotate(arm, (edge, y), (4, 0), textcoords="offset points", va="center", fontsize=8, color=colour, annotation_clip=False)  # fmt: skip
            ax.axhline(100 * full, color=INK, lw=0.8, ls=":")
            rho = interval(correlation(draws, error_name(p), task, [keep]), within=1)
            ax.set_title(f"{task}, ρ = {rho.written('{:+.2f}')}")
            words = {2: "Frobenius error (p = 2)", inf: "largest residual (p = ∞)"}
            ax.set_xlabel(f"{words[p]}, {percent(keep)} kept ({tokens(results, keep):.0f} tokens)")
        row[0].set_ylabel("right answers, %")
    figure.tight_layout()
    save(figure, path)
    return True


def retained_accuracy(draws: Draws, path: Path) -> bool:
    """Draw the accuracy kept against tokens kept."""
    results = draws.results
    values = 100 * retained(draws)
    blind = results.index(BLIND, 0.0)
    arms = [a for a in HIGHLIGHTED if a in results.arms]
    figure, ax = plt.subplots(figsize=(7.2, 4.8))
    x = {k: tokens(results, k) for k in results.keeps}
    ends: list[tuple[float, str, str]] = []
    for rank, arm in enumerate(arms):
        at = [(k, i) for k in results.keeps if (i := results.index(arm, k)) is not None]
        xs, line = [x[k] for k, _ in at], values[:, [i for _, i in at]]
        above = 3 - rank / len(arms)  # lines that coincide show the arm named first
        ax.plot(xs, line[0], color=HIGHLIGHTED[arm], lw=1.7, marker="o", ms=3.5, zorder=above)
        if arm in BANDS:
            ax.fill_between(xs, *band(line), color=HIGHLIGHTED[arm], alpha=0.13, lw=0)
        ends.append((line[0, -1], arm, HIGHLIGHTED[arm]))
    _labels(ax, ends, min(x.values()))
    ax.axhline(100, color=INK, lw=0.8)
    if blind is not None:
        ax.axhline(values[0, blind], color=SOFT, lw=0.8, ls=":")
        ax.annotate(
            "no tokens at all", (max(x.values()), values[0, blind]), ha="right", va="bottom", fontsize=8, color=SOFT,
        )  # fmt: skip
    ax.set_xscale("log")
    ticks = sorted({round(v) for v in x.values()})
    ax.set_xticks(ticks, [str(t) for t in ticks])
    ax.minorticks_off()
    ax.set_xlim(min(x.values()) / 2.3, max(x.values()) * 1.1)
    ax.set_xlabel(f"visual tokens kept, of {np.nanmax(results.tokens[results.index(FULL, 1.0)]):.0f}")
    ax.set_ylabel("accuracy, % of that with all tokens")
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
    """Draw how well each number predicts accuracy over arms, a panel a task."""
    names = list(NAMES)
    found = {
        task: [interval(SIGN[n] * correlation(draws, n, task), within=1) for n in names]
        for task in draws.results.tasks
    }
    known = [i for i in range(len(names)) if any(np.isfinite(bars[i].value) for bars in found.values())]
    if not known:
        return False
    first = next(iter(found.values()))
    order = sorted(known, key=lambda i: -first[i].value if np.isfinite(first[i].value) else 9)
    figure, axes = plt.subplots(1, len(found), figsize=(3 + 2.9 * len(found), 1 + 0.22 * len(order)), sharey=True, squeeze=False)
    for ax, (task, bars) in zip(axes[0], found.items(), strict=True):
        _dots(ax, [(names[i], bars[i], "#c2410c" if names[i] in ORACLES else INK) for i in order], 1)
        ax.axvline(0, color=SOFT, lw=0.8)
        ax.set_title(task)
        ax.set_xlim(-1.05, 1.05)
        ax.set_xlabel("correlation with accuracy\n(right of 0: as meant)")
    figure.tight_layout()
    save(figure, path)
    return True


def tightness(results: Results, path: Path) -> bool:
    """Draw the squared error over the best possible, measured, beside the factor that a theorem allows."""
    methods = {
        "spare": "residual",
        "osinsky": "osinsky",
        "volume": "volume",
        "random pivot": "random_pivot",
        swapped("spare", 2): "local_search",
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
    "which_error": which_error,
    "error_and_accuracy": error_and_accuracy,
    "interventions": interventions,
    "factorial": factorial,
    "filling": filling,
    "retained_accuracy": retained_accuracy,
    "predictors": predictors,
    "skills": skills,
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
