"""Figures made of squares: tables in colour over skills and over norms and rules, and the patches that arms keep."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np

from analysis.scenes import PATCH, SKILLS
from analysis.study.answering import answers
from analysis.study.arms import ARMS, FACTORIAL, FULL
from analysis.study.bootstrap import Draws, mean_known
from analysis.study.drawing import HIGHLIGHTED, INK, SOFT, percent, save
from analysis.study.encoding import encode_image
from analysis.study.kept_tokens import kept
from analysis.study.plan import CONFIRM, EXPLORE, scene_of
from analysis.study.tasks import THINGS
from analysis.study.verdict import TIGHT

SHOWN = ("auto", "spare", "divprune", "greedy", "cdpruner", "vispruner", "random")


def skills(draws: Draws, path: Path) -> bool:
    """Draw the points lost against all tokens, arm by skill, at a tight budget."""
    results = draws.results
    keep = min(results.keeps, key=lambda k: abs(k - 0.06))
    names = [s for s in SKILLS if s in results.skills] or results.skills
    arms = [
        a
        for a in results.arms
        if results.index(a, keep) is not None
        and (
            a in HIGHLIGHTED
            or a.endswith(" + fold")
            or (ARMS.get(a, None) is not None and ARMS[a].group == "published")
        )
    ]
    full = results.index(FULL, 1.0)
    table = np.full((len(arms), len(names)), np.nan)
    for (i, arm), (j, skill) in product(enumerate(arms), enumerate(names)):
        cell = results.index(arm, keep)
        table[i, j] = 100 * draws.mean(lambda s, c=cell, k=skill: s.gap(c, full, [k]))[0]
    order = np.argsort(-np.nanmean(table, 1))
    arms, table = [arms[i] for i in order], table[order]
    figure, ax = plt.subplots(figsize=(1.6 + 0.72 * len(names) + 1.5, 1.3 + 0.27 * len(arms)))
    picture = ax.imshow(table, cmap="RdYlBu", vmin=-60, vmax=60, aspect="auto")
    ax.set_xticks(range(len(names)), names, rotation=40, ha="left")
    ax.xaxis.tick_top()
    ax.set_yticks(range(len(arms)), arms)
    ax.tick_params(length=0, colors=INK)
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    for (i, j), v in np.ndenumerate(table):
        if np.isfinite(v):
            ax.text(
                j,
                i,
                f"{v:+.0f}" if round(v) else "0",
                ha="center",
                va="center",
                fontsize=7.5,
                color="white" if abs(v) > 42 else INK,
            )
    bar = figure.colorbar(picture, ax=ax, shrink=0.5, pad=0.02)
    bar.set_label(f"points against all tokens, {percent(keep)} kept", color=SOFT)
    bar.outline.set_visible(False)
    save(figure, path)
    return True


def factorial(draws: Draws, path: Path) -> bool:
    """Draw the accuracy on things by what the rule looks at and by the rule, a table a model."""
    results = draws.results
    if any(arm not in results.arms for arm in FACTORIAL.values()) or not results.of_task(THINGS):
        return False
    tight = [k for k in results.keeps if k <= TIGHT] or results.keeps[-1:]
    columns, rules = (list(dict.fromkeys(key[i] for key in FACTORIAL)) for i in (0, 1))
    models = [m for m, _ in results.strata()]
    tables = {}
    for model in dict.fromkeys(models):
        own = Draws(results.only(model), resamples=2)
        if own.results.of_task(THINGS):
            tables[model] = np.array(
                [[_tight_accuracy(own, FACTORIAL[c, r], tight) for r in rules] for c in columns]
            )
    figure, axes = plt.subplots(1, len(tables), figsize=(3.6 * len(tables) + 1.2, 2.9), squeeze=False, sharey=True)
    low, high = (f([np.nanmin(t) if f is min else np.nanmax(t) for t in tables.values()]) for f in (min, max))
    for ax, (model, table) in zip(axes[0], tables.items(), strict=True):
        picture = ax.imshow(table, cmap="YlGnBu", vmin=low, vmax=high, aspect="auto")
        for (i, j), v in np.ndenumerate(table):
            ax.text(j, i, f"{v:.1f}", ha="center", va="center", color="white" if v > (low + high) / 2 else INK)
        ax.set_xticks(range(len(rules)), rules)
        ax.set_yticks(range(len(columns)), columns)
        ax.grid(visible=False)
        ax.tick_params(length=0, colors=INK)
        own = results.only(model)
        asked = int(np.isin(own.skill, own.of_task(THINGS)).sum())
        ax.set_title(f"{model}\n{asked:,} questions about things", linespacing=1.4)
    bar = figure.colorbar(picture, ax=axes[0].tolist(), pad=0.02)
    bar.set_label("right answers at tight budgets, %", color=SOFT)
    bar.outline.set_visible(False)
    save(figure, path)
    return True


def _tight_accuracy(draws: Draws, arm: str, keeps: Sequence[float]) -> float:
    cells = [i for k in keeps if (i := draws.results.index(arm, k)) is not None]
    skills = draws.results.of_task(THINGS)
    return 100 * float(draws.mean(lambda s: mean_known(list(s.accuracy(skills, cells).T)))[0])


def draw_kept_tokens(
    checkpoint,
    path: Path,
    keep: float = 0.06,
    arms: Sequence[str] = SHOWN,
    scenes: Sequence[tuple[str, int]] = (),
) -> bool:
    """Draw over scenes which patches every arm keeps, with one question and what the model answers."""
    wanted = scenes or (("objects", EXPLORE + 3), ("objects", EXPLORE + 8), ("digits", EXPLORE + 2))
    assert all(number < CONFIRM for _, number in wanted)
    arms = [
        a
        for a in arms
        if checkpoint.clip is not None or not {"clip_text", "clip_patches"} & set(ARMS[a].signals)
    ]
    figure, axes = plt.subplots(
        len(wanted), len(arms) + 1, figsize=(1.85 * (len(arms) + 1), 2.25 * len(wanted)), squeeze=False
    )
    for row, (family, number) in zip(axes, wanted, strict=True):
        scene = scene_of(family, number)
        question = next((q for q in scene.questions if q.skill in ("two hops", "layout")), scene.questions[0])
        encoded = encode_image(checkpoint, scene.image, [question])
        row[0].imshow(scene.image)
        row[0].set_title(f"{fill(question.text, 26)}\n→ {question.answer}", fontsize=7)
        for ax, arm in zip(row[1:], arms, strict=True):
            ((one,),) = kept(ARMS[arm], encoded, [keep], [number])
            ((word,),) = answers(checkpoint, encoded, [one.prefix])
            said = " ".join(checkpoint.processor.tokenizer.convert_ids_to_tokens(word.tolist()))
            side = round(len(encoded.tokens) ** 0.5)
            shade = np.ones((side, side))
            shade.flat[one.places.numpy()] = 0
            shade = np.kron(shade, np.ones((PATCH, PATCH)))[..., None]
            ax.imshow((scene.pixels * (1 - 0.82 * shade) + 0.82 * 255 * shade).astype(np.uint8))
            right = said == question.answer
            ax.set_title(
                f"{arm}\n{said} {'✓' if right else '✗'}",
                fontsize=7.5,
                color="#15803d" if right else "#b42318",
                loc="center",
            )
    for ax in axes.flat:
        ax.set_axis_off()
    figure.tight_layout()
    save(figure, path)
    return True
