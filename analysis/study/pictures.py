"""Figures made of squares: tables in colour over skills and exponents, and the patches that arms keep."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np

from analysis.scenes import PATCH, SKILLS
from analysis.study.answering import answers
from analysis.study.arms import ALPHAS, ARMS, BETAS, FULL, SPACES, plane_arm
from analysis.study.bootstrap import Draws
from analysis.study.drawing import HIGHLIGHTED, INK, SOFT, percent, save, tokens
from analysis.study.encoding import encode_image
from analysis.study.kept_tokens import kept
from analysis.study.plan import CONFIRM, EXPLORE, scene_of

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


def plane(draws: Draws, path: Path) -> bool:
    """Draw the accuracy over the two exponents of the family."""
    results = draws.results
    spaces = [s for s in SPACES if any(plane_arm(0.0, ALPHAS[0], s).name == a for a in results.arms)]
    keeps = [k for k in results.keeps if results.index(plane_arm(0.0, 0.0, "llm").name, k) is not None]
    if not spaces or not keeps:
        return False
    figure, axes = plt.subplots(
        len(spaces), len(keeps), figsize=(4.9 * len(keeps), 3.3 * len(spaces)), squeeze=False
    )
    for row, space in zip(axes, spaces, strict=True):
        for ax, keep in zip(row, keeps, strict=True):
            at = [[results.index(plane_arm(b, a, space).name, keep) for a in ALPHAS] for b in BETAS]
            table = 100 * draws.accuracy[0][np.array(at)]
            picture = ax.imshow(table, origin="lower", cmap="YlGnBu", aspect="auto")
            middle = (np.nanmin(table) + np.nanmax(table)) / 2
            for (i, j), v in np.ndenumerate(table):
                ax.text(
                    j,
                    i,
                    f"{v:.0f}",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if v > middle else INK,
                )
            ax.set_xticks(range(len(ALPHAS)), [f"{a:+g}" if a else "0" for a in ALPHAS])
            ax.set_yticks(range(len(BETAS)), [f"{b:g}" for b in BETAS])
            ax.grid(visible=False)
            ax.tick_params(length=0, colors=INK)
            ax.set_title(f"{SPACES[space]}, {percent(keep)} kept ({tokens(results, keep):.0f} tokens)")
            ax.set_xlabel("against relevance   ←   exponent α   →   with relevance", fontsize=8.5)
            ax.set_ylabel("cosines  ←  exponent β  →  raw", fontsize=8.5)
            points = {"SPARE": (1.0, 0.0)} | (
                {"CDPruner": (0.0, -1.0)} if space == "clip" else {"ResPrune": (1.0, 0.5)}
            )
            for name, (b, a) in points.items():
                j, i = ALPHAS.index(a), BETAS.index(b)
                ax.add_patch(plt.Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, ec="#c2410c", lw=1.8))
                ax.text(
                    j,
                    i - 0.33,
                    name,
                    ha="center",
                    va="center",
                    fontsize=5.6,
                    color="#c2410c",
                    fontweight="bold",
                )
            bar = figure.colorbar(picture, ax=ax, pad=0.02)
            bar.set_label("right answers, %", color=SOFT)
            bar.outline.set_visible(False)
    figure.tight_layout()
    save(figure, path)
    return True


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
        encoded = encode_image(checkpoint, scene.image, [question.text])
        row[0].imshow(scene.image)
        row[0].set_title(f"{fill(question.text, 26)}\n→ {question.answer}", fontsize=7)
        for ax, arm in zip(row[1:], arms, strict=True):
            ((one,),) = kept(ARMS[arm], encoded, [keep], [number])
            ((word,),) = answers(checkpoint, encoded, [one.prefix])
            said = checkpoint.processor.tokenizer.convert_ids_to_tokens(word)
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
