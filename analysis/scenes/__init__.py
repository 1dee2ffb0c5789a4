"""Compositional scenes on photographic backgrounds, with questions that have one right answer.

A scene is 96 x 96 pixels, that is 12 x 12 patches of 8: three to eight objects (shape, colour, size) that do not
overlap, one handwritten digit that fills exactly one patch, and a crop of a photograph behind. Scenes are a pure
function of (split, seed): ``make(7, "test")`` is the same picture everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from . import backgrounds, drawing
from .drawing import COLOURS, RADII, SHAPES, SIZES, Thing
from .questions import ANSWERS, SKILLS, WORDS, Question, ask

__all__ = [
    "ANSWERS",
    "GRID",
    "IMAGE",
    "PATCH",
    "SKILLS",
    "WORDS",
    "Question",
    "Scene",
    "Thing",
    "ask",
    "make",
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

    split: str
    seed: int
    pixels: np.ndarray
    things: tuple[Thing, ...]
    background: str
    digit: int
    digit_patch: tuple[int, int]
    owner: np.ndarray
    questions: tuple[Question, ...]

    @property
    def image(self) -> Image.Image:
        return Image.fromarray(self.pixels)


def _place(rng: np.random.Generator, wanted: int) -> list[Thing]:
    """Objects that keep at least two pixels apart; a few attributes repeat so that counts and twins exist."""
    things: list[Thing] = []
    palette = list(rng.permutation(COLOURS)[: int(rng.integers(3, len(COLOURS) + 1))])
    forms = list(rng.permutation(SHAPES)[: int(rng.integers(3, len(SHAPES) + 1))])
    for _ in range(60):
        size = SIZES[int(rng.integers(2))]
        radius = rng.uniform(*RADII[size])
        x, y = rng.uniform(radius + 1, IMAGE - radius - 1, 2)
        if all(np.hypot(x - t.x, y - t.y) > 1.12 * (radius + t.radius) + 2 for t in things):
            shape, colour = (
                str(forms[int(rng.integers(len(forms)))]),
                str(palette[int(rng.integers(len(palette)))]),
            )
            angle = rng.uniform(-0.25, 0.25)
            things.append(Thing(shape, colour, size, float(x), float(y), float(radius), float(angle)))
        if len(things) == wanted:
            break
    return things


def make(seed: int, split: str = "test", per_skill: dict[str, int] | None = None) -> Scene:
    """The scene number ``seed`` of a split, with its questions (two a skill, one for digit and background)."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}; got {split!r}")
    rng = np.random.default_rng([SPLITS.index(split), seed])
    behind = backgrounds.NAMES[int(rng.integers(len(backgrounds.NAMES)))]
    canvas = backgrounds.crop(behind, IMAGE, rng)
    things = tuple(_place(rng, int(rng.integers(3, 9))))
    cover = np.stack([drawing.paint(canvas, thing, rng) for thing in things])
    share = cover.reshape(len(things), GRID, PATCH, GRID, PATCH).mean((2, 4))
    owner = np.where(share.max(0) >= 0.3, share.argmax(0), -1).astype(np.int8)
    free = np.argwhere(share.sum(0) == 0)
    row, col = (int(v) for v in free[int(rng.integers(len(free)))])
    digit = drawing.paint_digit(canvas, row, col, PATCH, split != "train", rng)
    canvas += rng.normal(0, 3, canvas.shape).astype(np.float32)
    pixels = np.clip(canvas, 0, 255).astype(np.uint8)
    scene = Scene(split, seed, pixels, things, behind, digit, (row, col), owner, ())
    questions = tuple(ask(scene, rng, per_skill or QUESTIONS))
    return Scene(split, seed, pixels, things, behind, digit, (row, col), owner, questions)
