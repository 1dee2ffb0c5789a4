"""Scenes on photographs, of two families, with questions that have one right answer.

A scene is 96 x 96 pixels, that is 12 x 12 patches of 8, with a crop of a photograph behind. In the family ``objects``
five to ten things (shape, colour, size) lie on it that do not overlap, and one handwritten digit that fills exactly one
patch. In the family ``digits`` five to nine handwritten digits in coloured ink do, each in a patch of its own. Scenes are
a pure function of (family, split, seed): ``make(7, "test")`` is the same picture everywhere. Test scenes show other
halves of the photographs and other handwriting than training scenes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from analysis.scenes import backgrounds, drawing
from analysis.scenes.drawing import COLOURS, RADII, SHAPES, SIZES, Mark, Thing
from analysis.scenes.questions import (
    ANSWERS,
    AUXILIARY_SKILLS,
    FAMILIES,
    PATCH_SKILLS,
    SKILLS,
    TRANSCRIPTIONS,
    WORDS,
    Question,
    ask,
    patch_words,
)

__all__ = [
    "ANSWERS",
    "AUXILIARY_SKILLS",
    "FAMILIES",
    "GRID",
    "IMAGE",
    "PATCH",
    "PATCH_SKILLS",
    "SKILLS",
    "TRANSCRIPTIONS",
    "WORDS",
    "Mark",
    "Question",
    "Scene",
    "Thing",
    "ask",
    "make",
    "patch_words",
]

IMAGE, PATCH = 96, 8
GRID = IMAGE // PATCH
SPLITS = ("train", "validation", "test")
QUESTIONS = dict.fromkeys(SKILLS, 2) | {"fine detail": 1, "background": 1}


@dataclass(frozen=True)
class Scene:
    """A picture, what is on it, and what one may ask.

    ``pixels`` uint8 (96, 96, 3); ``owner`` int8 (12, 12): the object that covers at least 30 % of the patch, or -1.
    """

    family: str
    split: str
    seed: int
    pixels: np.ndarray
    things: tuple[Thing, ...]
    marks: tuple[Mark, ...]
    background: str
    owner: np.ndarray
    questions: tuple[Question, ...]

    @property
    def image(self) -> Image.Image:
        """The picture as an RGB image."""
        return Image.fromarray(self.pixels)


def make(
    seed: int, split: str = "test", per_skill: dict[str, int] | None = None, family: str = "objects"
) -> Scene:
    """Return the scene number ``seed`` of a split and family, with its questions (by default ``QUESTIONS``).

    Of ``per_skill`` only the skills of the family are asked.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}; got {split!r}")
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}; got {family!r}")
    rng = np.random.default_rng([SPLITS.index(split), seed, list(FAMILIES).index(family)])
    behind = backgrounds.NAMES[int(rng.integers(len(backgrounds.NAMES)))]
    canvas = backgrounds.crop(behind, IMAGE, split == "train", rng)
    things = tuple(_place(rng, int(rng.integers(5, 11)))) if family == "objects" else ()
    share = np.zeros((max(1, len(things)), GRID, GRID))
    for i, thing in enumerate(things):
        share[i] = drawing.paint(canvas, thing, rng).reshape(GRID, PATCH, GRID, PATCH).mean((1, 3))
    owner = np.where(share.max(0) >= 0.3, share.argmax(0), -1).astype(np.int8)
    free = rng.permutation(np.argwhere(share.sum(0) == 0))
    colours: list[str | None] = [None]
    if family == "digits":
        palette = rng.permutation(COLOURS)[: int(rng.integers(3, len(COLOURS) + 1))]
        colours = [str(c) for c in rng.choice(palette, int(rng.integers(5, 10)))]
    values = rng.permutation(10)[: int(rng.integers(3, 9))] if family == "digits" else np.arange(10)
    marks = tuple(
        drawing.write(canvas, int(rng.choice(values)), (int(r), int(c)), colour, PATCH, split == "train", rng)
        for (r, c), colour in zip(free, colours, strict=False)
    )
    canvas += rng.normal(0, 3, canvas.shape).astype(np.float32)
    pixels = np.clip(canvas, 0, 255).astype(np.uint8)
    scene = Scene(family, split, seed, pixels, things, marks, behind, owner, ())
    asked = {name: n for name, n in (per_skill or QUESTIONS).items() if name in FAMILIES[family]}
    questions = tuple(ask(scene, rng, asked))
    return Scene(family, split, seed, pixels, things, marks, behind, owner, questions)


def _place(rng: np.random.Generator, wanted: int) -> list[Thing]:
    """Return objects that keep at least two pixels apart; a few attributes repeat so that counts and twins exist."""
    things: list[Thing] = []
    palette = list(rng.permutation(COLOURS)[: int(rng.integers(3, len(COLOURS) + 1))])
    forms = list(rng.permutation(SHAPES)[: int(rng.integers(3, len(SHAPES) + 1))])
    for _ in range(120):
        size = SIZES[int(rng.random() < 0.4)]
        radius = rng.uniform(*RADII[size])
        x, y = rng.uniform(radius + 1, IMAGE - radius - 1, 2)
        if all(np.hypot(x - t.x, y - t.y) > 1.08 * (radius + t.radius) + 2 for t in things):
            shape, colour = str(rng.choice(forms)), str(rng.choice(palette))
            angle = rng.uniform(-0.25, 0.25)
            things.append(Thing(shape, colour, size, float(x), float(y), float(radius), float(angle)))
        if len(things) == wanted:
            break
    return things
