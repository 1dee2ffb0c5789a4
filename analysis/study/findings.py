"""Figures of what the six rules look at: which error goes with which task, swaps, norms and rules, filling. A panel a task, model or pruner."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import matplotlib.pyplot as plt
import numpy as np

from analysis.study.arms import (
    FACTORIAL,
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
from analysis.study.bootstrap import Draws, Interval, interval, mean_known
from analysis.study.correlations import correlation
from analysis.study.drawing import (
    ACCENT,
    HIGHLIGHTED,
    INK,
    OTHER,
    SOFT,
    Panel,
    panel,
    percent,
    spread,
    tokens,
)
from analysis.study.predictors import NAMES, ORACLES, PS, SIGN, error_name
from analysis.study.results import Results
from analysis.study.tasks import THINGS
from analysis.study.verdict import TIGHT

#: Colours of models and of starts, one after the other.
SHADES = (ACCENT, "#2456a6", "#15803d", "#7c3aed")


def which_error(draws: Draws) -> list[Panel]:
    """Draw the correlation of error_p and accuracy against p: a panel a task, a curve a model."""
    results = draws.results
    models = {
        m: Draws(results.only(m), resamples=len(draws.strata[0].weights) - 1)
        for m in dict.fromkeys(m for m, _ in results.strata())
    }
    panels = []
    for number, task in enumerate(results.tasks):
        lines = {
            m: [interval(correlation(d, error_name(p), task), within=1) for p in PS]
            for m, d in models.items() if task in d.results.tasks
        }  # fmt: skip
        lines = {m: bars for m, bars in lines.items() if np.isfinite(bars[0].value)}
        if not lines:
            continue
        figure, ax = plt.subplots(figsize=(4.6, 3.6))
        labels = spread([bars[-1].value for bars in lines.values()], 0.13, -1, 1)
        for i, ((model, bars), label) in enumerate(zip(lines.items(), labels, strict=True)):
            shade = SHADES[list(models).index(model) % len(SHADES)]
            x = np.arange(len(PS)) + 0.1 * (i - (len(lines) - 1) / 2)
            ax.plot(x, [b.value for b in bars], "o-", color=shade, lw=1.6, ms=5)
            ax.vlines(x, [b.low for b in bars], [b.high for b in bars], color=shade, lw=1.1)
            ax.plot([x[-1] + 0.1, len(PS) - 0.6], [bars[-1].value, label], color=shade, lw=0.6)
            ax.text(len(PS) - 0.5, label, model, color=shade, va="center", fontsize=8.5)
        ax.axhline(0, color=INK, lw=0.8)
        asked = sum(results.counts(skill=s)["questions"] for s in results.of_task(task))
        ax.set_title(f"{task} ({asked:,} questions)")
        ax.set_xticks(range(len(PS)), [exponent(p) for p in PS])
        ax.set_xlim(-0.5, len(PS) + 1)
        ax.set_ylim(-1.05, 1.05)
        ax.set_xlabel("exponent p (2: Frobenius, ∞: the largest residual alone)")
        ax.set_ylabel("← lower error, more right      ρ      fewer right →")
        values = "; ".join(
            f"{m} from {b[0].value:+.2f} at p = 1 to {b[-1].value:+.2f} at ∞" for m, b in lines.items()
        )
        alt = f"Correlation of error and right answers on {task} against the exponent p: {values}."
        panels.append(panel(figure, f"which-{number}", alt))
    return panels


def scatter(draws: Draws) -> list[Panel]:
    """Draw right answers against the Frobenius error and against the largest residual, at one tight budget: two panels a task."""
    results = draws.results
    if not results.keeps or results.index(FULL, 1.0) is None:
        return []
    keep = min(results.keeps, key=lambda k: abs(k - 0.06))
    words = {2: "Frobenius error (p = 2)", inf: "largest residual (p = ∞)"}
    panels = []
    for task in results.tasks:
        accuracy = draws.mean(lambda s, t=task: s.accuracy(results.of_task(t)))
        full = accuracy[0, results.index(FULL, 1.0)]
        for p in (2, inf):
            error = draws.mean(lambda s, p=p: s.predictor(error_name(p)))[0]
            at = {a: i for a in results.distinct if (i := results.index(a, keep)) is not None}
            at = {a: i for a, i in at.items() if np.isfinite([error[i], accuracy[0, i]]).all()}
            if not at:
                continue
            figure, ax = plt.subplots(figsize=(4.6, 3.4))
            bars = {a: interval(accuracy[:, i], within=1) for a, i in at.items()}
            for arm, bar in bars.items():
                ends = 100 * np.maximum([[bar.value - bar.low], [bar.high - bar.value]], 0)
                known = arm in HIGHLIGHTED
                ax.errorbar(
                    error[at[arm]], 100 * bar.value, yerr=ends, color=HIGHLIGHTED.get(arm, OTHER), marker="o", ms=6 if known else 4.5,
                    elinewidth=0.9, zorder=3 if known else 2,
                )  # fmt: skip
            ax.axhline(100 * full, color=INK, lw=0.8, ls=":")
            ax.set_ylim(0, max(100 * full, *(100 * b.value for b in bars.values())) + 6)
            low, high = ax.get_xlim()
            named = [a for a in bars if a in HIGHLIGHTED]
            places = spread([100 * bars[a].value for a in named], ax.get_ylim()[1] / 18, 2, ax.get_ylim()[1])
            ax.set_xlim(low, high + 0.4 * (high - low))
            for arm, place in zip(named, places, strict=True):
                ends = (high + 0.03 * (high - low), high + 0.05 * (high - low))
                ax.plot(
                    [error[at[arm]], ends[0]],
                    [100 * bars[arm].value, place],
                    color=HIGHLIGHTED[arm],
                    lw=0.4,
                )
                ax.text(ends[1], place, arm, va="center", fontsize=8, color=HIGHLIGHTED[arm])
            rho = interval(correlation(draws, error_name(p), task, [keep]), within=1).written("{:+.2f}")
            ax.set_title(
                f"{task}, {percent(keep)} kept ({tokens(results, keep):.0f} tokens)\nρ = {rho}",
                linespacing=1.4,
            )
            ax.set_xlabel(words[p])
            ax.set_ylabel("right answers, %")
            alt = f"Scatter plot on {task}: right answers against the {words[p]}, {len(at)} pruners, Spearman's correlation {rho}."
            panels.append(panel(figure, f"error-{task}-{'max' if p == inf else '2'}", alt))
    return panels


def predictors(draws: Draws) -> list[Panel]:
    """Draw how well each number predicts accuracy over pruners: a panel a task, oracles in colour."""
    panels, order = [], list(range(len(NAMES)))
    for number, task in enumerate(draws.results.tasks):
        bars = {n: interval(SIGN[n] * correlation(draws, n, task), within=1) for n in NAMES}
        if not any(np.isfinite(b.value) for b in bars.values()):
            continue
        if not panels:  # every panel has the order of the first
            order = sorted(order, key=lambda i: -np.nan_to_num(list(bars.values())[i].value, nan=-9))
        rows = [(n, bars[n], ACCENT if n in ORACLES else INK) for n in (list(NAMES)[i] for i in order)]
        figure, ax = plt.subplots(figsize=(4.8, 1.2 + 0.2 * len(rows)))
        _dots(ax, rows, 1)
        ax.axvline(0, color=SOFT, lw=0.8)
        ax.set_xlim(-1.05, 1.05)
        ax.set_title(task)
        ax.set_xlabel("correlation (right of 0: as meant)")
        values = ", ".join(f"{n} {b.value:+.2f}" for n, b, _ in rows if np.isfinite(b.value))
        panels.append(
            panel(figure, f"predictors-{number}", f"Correlations with accuracy on {task}: {values}.")
        )
    return panels


def interventions(draws: Draws) -> list[Panel]:
    """Draw the ladder: accuracy of greedy rules by p, and of starts that swaps have moved towards p: a panel a task."""
    results = draws.results
    ladders = [[*(greedy(p) for p in GREEDY_PS), "spare"]]
    ladders += [[start, *(swapped(start, p) for p in SWAP_PS)] for start in STARTS]
    ladders = [known for ladder in ladders if len(known := [a for a in ladder if a in results.arms]) > 1]
    if not ladders:
        return []
    panels = []
    for number, task in enumerate(results.tasks):
        rows: list[tuple[str, Interval, str]] = []
        for ladder, shade in zip(ladders, (INK, *SHADES), strict=False):
            found = [(arm, _accuracy(draws, arm, task), shade) for arm in ladder]
            found = [row for row in found if np.isfinite(row[1].value)]
            rows += [("", Interval(np.nan, np.nan, np.nan), INK)] if rows and found else []
            rows += found
        figure, ax = plt.subplots(figsize=(4.6, 1 + 0.22 * len(rows)))
        _dots(ax, rows)
        ax.set_title(task)
        ax.set_xlabel("right answers at tight budgets, %")
        values = ", ".join(f"{name} {100 * bar.value:.1f} %" for name, bar, _ in rows if name)
        panels.append(
            panel(figure, f"swaps-{number}", f"Right answers on {task} at tight budgets: {values}.")
        )
    return panels


def factorial(draws: Draws) -> list[Panel]:
    """Draw the accuracy on things by what the rule looks at and by the rule: a panel a model."""
    results = draws.results
    if any(arm not in results.arms for arm in FACTORIAL.values()):
        return []
    columns, rules = (list(dict.fromkeys(key[i] for key in FACTORIAL)) for i in (0, 1))
    panels = []
    for number, model in enumerate(dict.fromkeys(m for m, _ in results.strata())):
        own = Draws(results.only(model), resamples=2)
        if not own.results.of_task(THINGS):
            continue
        table = 100 * np.array(
            [[_accuracy(own, FACTORIAL[c, r], THINGS).value for r in rules] for c in columns]
        )
        figure, ax = plt.subplots(figsize=(3.9, 2.7))
        ax.pcolormesh(table[::-1], cmap="YlGnBu")
        middle = (np.nanmin(table) + np.nanmax(table)) / 2
        for (i, j), v in np.ndenumerate(table):
            shade = "#ffffff" if v > middle else "#101828"
            ax.text(j + 0.5, len(columns) - i - 0.5, f"{v:.1f}", ha="center", va="center", color=shade)
        ax.set_xticks(np.arange(len(rules)) + 0.5, rules)
        ax.set_yticks(np.arange(len(columns)) + 0.5, columns[::-1])
        ax.grid(visible=False)
        ax.tick_params(length=0, colors=INK)
        asked = sum(own.results.counts(skill=s)["questions"] for s in own.results.of_task(THINGS))
        ax.set_title(f"{model} ({asked:,} questions about things)")
        values = ", ".join(
            f"{c}, {r} {table[i, j]:.1f} %" for i, c in enumerate(columns) for j, r in enumerate(rules)
        )
        panels.append(
            panel(
                figure,
                f"factorial-{number}",
                f"Right answers of {model} on things at tight budgets: {values}.",
            )
        )
    return panels


def filling(draws: Draws) -> list[Panel]:
    """Draw what twins gain on dropping, folded and filled in four ways, on things: a panel a pruner."""
    results = draws.results
    twins = ("fold", *FILLS)
    parents = [a for a in TWINS if all(f"{a} + {t}" in results.arms for t in twins)]
    skills = results.of_task(THINGS)
    panels = []
    for number, parent in enumerate(parents if skills else []):
        gains = [interval(draws.gaps(f"{parent} + {t}", parent, _tight(results), skills)) for t in twins]
        figure, ax = plt.subplots(figsize=(3.6, 2.1))
        _dots(ax, [(t, bar, HIGHLIGHTED[parent]) for t, bar in zip(twins, gains, strict=True)])
        ax.axvline(0, color=INK, lw=0.8)
        ax.set_title(parent)
        ax.set_xlabel("points gained on dropping")
        values = ", ".join(f"{t} {100 * bar.value:+.1f}" for t, bar in zip(twins, gains, strict=True))
        panels.append(panel(figure, f"filling-{number}", f"Points gained by {parent} on things: {values}."))
    return panels


def _tight(results: Results) -> list[float]:
    return [k for k in results.keeps if k <= TIGHT] or results.keeps[-1:]


def _accuracy(draws: Draws, arm: str, task: str) -> Interval:
    """Return the accuracy of an arm, mean over tight budgets."""
    cells = [i for k in _tight(draws.results) if (i := draws.results.index(arm, k)) is not None]
    skills = draws.results.of_task(task)
    return interval(draws.mean(lambda s: mean_known(list(s.accuracy(skills, cells).T))), within=1)


def _dots(ax, rows: Sequence[tuple[str, Interval, str]], scale: float = 100) -> None:
    """Draw intervals as rows from top to bottom: name, interval, colour; an empty name is a gap."""
    for y, (_, bar, shade) in enumerate(rows):
        if np.isfinite(bar.value):
            ax.plot([scale * bar.low, scale * bar.high], [y, y], color=shade, lw=1.4)
            ax.plot(scale * bar.value, y, "o", color=shade, ms=5)
    ax.set_yticks([y for y, row in enumerate(rows) if row[0]], [row[0] for row in rows if row[0]])
    ax.tick_params(axis="y", length=0, labelcolor=INK)
    ax.set_ylim(len(rows) - 0.4, -0.6)
