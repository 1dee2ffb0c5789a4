"""Figures of the patches that arms keep."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np

from analysis.scenes import PATCH
from analysis.study.answering import answers
from analysis.study.arms import ARMS
from analysis.study.drawing import Panel, panel, percent
from analysis.study.encoding import encode_image
from analysis.study.kept_tokens import kept
from analysis.study.plan import CONFIRM, EXPLORE, scene_of

SHOWN = ("auto", "spare", "divprune", "greedy", "cdpruner", "vispruner", "random")


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
        encoded = encode_image(checkpoint, scene.image, [question])
        first, *others = axes.flat
        first.imshow(scene.image, interpolation="none")
        first.set_title(f"{fill(question.text, 20)}\n→ {question.answer}", fontsize=7.5)
        answered = []
        for ax, arm in zip(others, arms, strict=False):
            ((one,),) = kept(ARMS[arm], encoded, [keep], [scene_number])
            ((word,),) = answers(checkpoint, encoded, [one.prefix])
            said = " ".join(checkpoint.processor.tokenizer.convert_ids_to_tokens(word.tolist()))
            side = round(len(encoded.tokens) ** 0.5)
            shade = np.ones((side, side))
            shade.flat[one.places.numpy()] = 0
            shade = np.kron(shade, np.ones((PATCH, PATCH)))[..., None]
            pixels = (scene.pixels * (1 - 0.82 * shade) + 0.82 * 255 * shade).astype(np.uint8)
            ax.imshow(pixels, interpolation="none")
            ax.set_title(f"{arm}\n{said} {'✓' if said == question.answer else '✗'}", fontsize=7.5)
            answered.append(f"{arm}: {said}")
        for ax in axes.flat:
            ax.set_axis_off()
        alt = f"A scene and the patches that pruners keep of it at {percent(keep)}. {question.text} Right: {question.answer}. {', '.join(answered)}."
        panels.append(panel(figure, f"kept-{number}", alt))
    return panels
