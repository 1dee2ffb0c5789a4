"""Figures made of squares: accuracy over two exponents, and the patches that arms keep."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np

from analysis.scenes import PATCH
from analysis.study.answering import answers
from analysis.study.arms import ALPHAS, ARMS, BETAS, SPACES, plane_arm
from analysis.study.bootstrap import Draws
from analysis.study.drawing import ACCENT, INK, Panel, panel, percent, tokens
from analysis.study.encoding import encode_image
from analysis.study.kept_tokens import kept
from analysis.study.plan import CONFIRM, EXPLORE, scene_of

SHOWN = ("auto", "spare", "divprune", "greedy", "cdpruner", "vispruner", "random")


def plane(draws: Draws) -> list[Panel]:
    """Draw the accuracy over the two exponents of the family, a panel a space and budget."""
    results = draws.results
    spaces = [s for s in SPACES if any(plane_arm(0.0, ALPHAS[0], s).name == a for a in results.arms)]
    keeps = [k for k in results.keeps if results.index(plane_arm(0.0, 0.0, "llm").name, k) is not None]
    panels = []
    for number, (space, keep) in enumerate(product(spaces, keeps)):
        at = [[results.index(plane_arm(b, a, space).name, keep) for a in ALPHAS] for b in BETAS]
        table = 100 * draws.accuracy[0][np.array(at)]
        figure, ax = plt.subplots(figsize=(4.7, 3.2))
        ax.pcolormesh(table, cmap="YlGnBu")
        middle = (np.nanmin(table) + np.nanmax(table)) / 2
        points = {"SPARE": (1.0, 0.0)} | (
            {"CDPruner": (0.0, -1.0)} if space == "clip" else {"ResPrune": (1.0, 0.5)}
        )
        named = {(BETAS.index(b), ALPHAS.index(a)): name for name, (b, a) in points.items()}
        for (i, j), v in np.ndenumerate(table):
            shade, name = "#ffffff" if v > middle else "#101828", named.get((i, j))
            middle_of = {"ha": "center", "va": "center", "color": shade}
            ax.text(j + 0.5, i + (0.66 if name else 0.5), f"{v:.0f}", fontsize=8.5, **middle_of)
            if name:
                ax.add_patch(plt.Rectangle((j, i), 1, 1, fill=False, ec=ACCENT, lw=2, clip_on=False))
                ax.text(j + 0.5, i + 0.25, name, fontsize=6.5, fontweight="bold", **middle_of)
        ax.set_xticks(np.arange(len(ALPHAS)) + 0.5, [f"{a:+g}" if a else "0" for a in ALPHAS])
        ax.set_yticks(np.arange(len(BETAS)) + 0.5, [f"{b:g}" for b in BETAS])
        ax.grid(visible=False)
        ax.tick_params(length=0, colors=INK)
        ax.set_title(f"{SPACES[space]}, {percent(keep)} kept ({tokens(results, keep):.0f} tokens)")
        ax.set_xlabel("against relevance   ←   exponent α   →   with relevance", fontsize=8.5)
        ax.set_ylabel("cosines  ←  exponent β  →  raw", fontsize=8.5)
        ends = f"from {np.nanmin(table):.0f} % to {np.nanmax(table):.0f} %"
        told = ", ".join(f"{name} {table[i, j]:.0f} %" for (i, j), name in named.items())
        alt = f"Right answers over the exponents α and β in {SPACES[space]} at {percent(keep)} kept, {ends}: {told}."
        panels.append(panel(figure, f"plane-{number}", alt))
    return panels


def draw_kept_tokens(
    checkpoint,
    keep: float = 0.06,
    arms: Sequence[str] = SHOWN,
    scenes: Sequence[tuple[str, int]] = (),
) -> list[Panel]:
    """Draw over scenes which patches every arm keeps, with one question and what the model answers: a panel a scene."""
    wanted = scenes or (("objects", EXPLORE + 3), ("objects", EXPLORE + 8), ("digits", EXPLORE + 2))
    assert all(number < CONFIRM for _, number in wanted)
    arms = [
        a
        for a in arms
        if checkpoint.clip is not None or not {"clip_text", "clip_patches"} & set(ARMS[a].signals)
    ]
    columns = 4
    rows = -(-(len(arms) + 1) // columns)
    panels = []
    for number, (family, scene_number) in enumerate(wanted):
        figure, axes = plt.subplots(rows, columns, figsize=(1.45 * columns, 1.85 * rows), squeeze=False)
        scene = scene_of(family, scene_number)
        question = next((q for q in scene.questions if q.skill in ("two hops", "layout")), scene.questions[0])
        encoded = encode_image(checkpoint, scene.image, [question.text])
        first, *others = axes.flat
        first.imshow(scene.image, interpolation="none")
        first.set_title(f"{fill(question.text, 20)}\n→ {question.answer}", fontsize=7.5)
        told = []
        for ax, arm in zip(others, arms, strict=False):
            ((one,),) = kept(ARMS[arm], encoded, [keep], [scene_number])
            ((word,),) = answers(checkpoint, encoded, [one.prefix])
            said = checkpoint.processor.tokenizer.convert_ids_to_tokens(word)
            side = round(len(encoded.tokens) ** 0.5)
            shade = np.ones((side, side))
            shade.flat[one.places.numpy()] = 0
            shade = np.kron(shade, np.ones((PATCH, PATCH)))[..., None]
            pixels = (scene.pixels * (1 - 0.82 * shade) + 0.82 * 255 * shade).astype(np.uint8)
            ax.imshow(pixels, interpolation="none")
            ax.set_title(f"{arm}\n{said} {'✓' if said == question.answer else '✗'}", fontsize=7.5)
            told.append(f"{arm}: {said}")
        for ax in axes.flat:
            ax.set_axis_off()
        alt = f"A scene and the patches that pruners keep of it at {percent(keep)}. {question.text} Right: {question.answer}. {', '.join(told)}."
        panels.append(panel(figure, f"kept-{number}", alt))
    return panels
