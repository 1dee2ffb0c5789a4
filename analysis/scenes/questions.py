"""Questions about a scene, nine skills, answers balanced so that a blind reader stays near chance.

Every question is asked only where the scene has exactly one right answer. The answer is drawn first
(uniformly among those the scene can give) and the question second: that is what keeps the prior flat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .backgrounds import NAMES as BACKGROUNDS
from .drawing import COLOURS, SHAPES, Thing

if TYPE_CHECKING:
    from . import Scene

COUNTS = ("zero", "one", "two", "three", "four")
DIGITS = tuple(f"d{i}" for i in range(10))
DIRECTIONS = ("left", "right", "above", "below")
RELATIVE = ("larger", "smaller", "equal")


@dataclass(frozen=True)
class Question:
    """One question: its skill, the prompt's words and the one right word."""

    skill: str
    text: str
    answer: str


def _pick(rng: np.random.Generator, options: list):
    return options[int(rng.integers(len(options)))]


def _unique(scene: Scene, key: Callable[[Thing], object]) -> list[Thing]:
    """Objects that alone have their value of ``key``."""
    seen = [key(t) for t in scene.things]
    return [t for t, value in zip(scene.things, seen, strict=True) if seen.count(value) == 1]


def existence(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Yes/no; a "no" asks for a colour and a shape that are both there, but on different objects."""
    pairs = {(t.colour, t.shape) for t in scene.things}
    if rng.random() < 0.5:
        colour, shape = _pick(rng, sorted(pairs))
        answer = "yes"
    else:
        colours, shapes = sorted({c for c, _ in pairs}), sorted({s for _, s in pairs})
        if rng.random() < 0.4:
            colours, shapes = list(COLOURS), list(SHAPES)
        absent = [(c, s) for c in colours for s in shapes if (c, s) not in pairs]
        if not absent:
            return None
        colour, shape = _pick(rng, absent)
        answer = "no"
    return Question("existence", f"is there a {colour} {shape} ?", answer)


def colour(scene: Scene, rng: np.random.Generator) -> Question | None:
    things = _unique(scene, lambda t: t.shape)
    if not things:
        return None
    t = _pick(rng, things)
    return Question("colour", f"what colour is the {t.shape} ?", t.colour)


def shape(scene: Scene, rng: np.random.Generator) -> Question | None:
    things = _unique(scene, lambda t: t.colour)
    if not things:
        return None
    t = _pick(rng, things)
    return Question("shape", f"what shape is the {t.colour} object ?", t.shape)


def count(scene: Scene, rng: np.random.Generator) -> Question | None:
    tally: dict[int, list[str]] = {}
    for word in COLOURS + SHAPES:
        n = sum(word in (t.colour, t.shape) for t in scene.things)
        tally.setdefault(n, []).append(f"{word} object" if word in COLOURS else word)
    n = int(
        rng.choice(len(COUNTS), p=(0.11, 0.13, 0.15, 0.24, 0.37))
    )  # high counts are rarer: draw them more often
    if n not in tally:
        return None
    return Question("count", f"how many {_pick(rng, tally[n])} ?", COUNTS[n])


def spatial(scene: Scene, rng: np.random.Generator) -> Question | None:
    things = _unique(scene, lambda t: (t.colour, t.shape))
    if len(things) < 2:
        return None
    wanted = _pick(rng, list(DIRECTIONS))
    pairs = [(a, b) for a in things for b in things if a is not b and direction(a, b) == wanted]
    if not pairs:
        return None
    a, b = _pick(rng, pairs)
    return Question("spatial", f"where is the {a.colour} {a.shape} from the {b.colour} {b.shape} ?", wanted)


def direction(a: Thing, b: Thing) -> str | None:
    """Where ``a`` lies as seen from ``b``; None where neither axis clearly dominates."""
    dx, dy = a.x - b.x, a.y - b.y
    if abs(dx) > max(1.5 * abs(dy), 12):
        return "right" if dx > 0 else "left"
    if abs(dy) > max(1.5 * abs(dx), 12):
        return "below" if dy > 0 else "above"
    return None


def comparison(scene: Scene, rng: np.random.Generator) -> Question | None:
    things = _unique(scene, lambda t: (t.colour, t.shape))
    wanted = RELATIVE[int(rng.choice(len(RELATIVE), p=(0.37, 0.37, 0.26)))]
    order = {("large", "small"): "larger", ("small", "large"): "smaller"}
    pairs = [
        (a, b)
        for a in things
        for b in things
        if a is not b and order.get((a.size, b.size), "equal") == wanted
    ]
    if not pairs:
        return None
    a, b = _pick(rng, pairs)
    return Question(
        "comparison", f"how large is the {a.colour} {a.shape} against the {b.colour} {b.shape} ?", wanted
    )


def two_hops(scene: Scene, rng: np.random.Generator) -> Question | None:
    """From an object to its twin in colour (or shape), and to what that twin is."""
    by_colour = rng.random() < 0.5
    anchors = _unique(scene, (lambda t: t.shape) if by_colour else (lambda t: t.colour))
    cases = []
    for a in anchors:
        twins = [
            t
            for t in scene.things
            if t is not a and (t.colour == a.colour if by_colour else t.shape == a.shape)
        ]
        if len(twins) == 1:
            cases.append((a, twins[0]))
    if not cases:
        return None
    a, twin = _pick(rng, cases)
    if by_colour:
        return Question("two hops", f"what shape shares the colour of the {a.shape} ?", twin.shape)
    return Question("two hops", f"what colour shares the shape of the {a.colour} object ?", twin.colour)


def digit(scene: Scene, rng: np.random.Generator) -> Question:
    return Question("fine detail", "which digit is written ?", DIGITS[scene.digit])


def background(scene: Scene, rng: np.random.Generator) -> Question:
    return Question("background", "what is behind ?", scene.background)


def size(scene: Scene, rng: np.random.Generator) -> Question | None:
    """A stepping stone to comparison: one object's size."""
    things = _unique(scene, lambda t: (t.colour, t.shape))
    if not things:
        return None
    t = _pick(rng, things)
    return Question(
        "size", f"how large is the {t.colour} {t.shape} ?", "larger" if t.size == "large" else "smaller"
    )


def place(scene: Scene, rng: np.random.Generator) -> Question | None:
    """A stepping stone to spatial relations: the half of the picture an object lies in."""
    things = _unique(scene, lambda t: (t.colour, t.shape))
    across = rng.random() < 0.5
    off_centre = [t for t in things if abs((t.x if across else t.y) - 48) > 6]
    if not off_centre:
        return None
    t = _pick(rng, off_centre)
    pair = DIRECTIONS[:2] if across else DIRECTIONS[2:]
    answer = pair[int((t.x if across else t.y) > 48)]
    return Question("place", f"where is the {t.colour} {t.shape} {' '.join(pair)} ?", answer)


SKILLS: dict[str, Callable[..., Question | None]] = {
    "existence": existence,
    "colour": colour,
    "shape": shape,
    "count": count,
    "spatial": spatial,
    "comparison": comparison,
    "two hops": two_hops,
    "fine detail": digit,
    "background": background,
}
# Asked in training only: without them nothing rewards finding an object's size or place before comparing two.
STEPPING_STONES: dict[str, Callable[..., Question | None]] = {"size": size, "place": place}
ANSWERS = ("yes", "no", *COLOURS, *SHAPES, *COUNTS, *DIRECTIONS, *RELATIVE, *DIGITS, *BACKGROUNDS)
_TEMPLATES = (
    "is there a what colour is the what shape is the object how many where is the from the how large is the against the "
    "what shape shares the colour of the what colour shares the shape of the which digit is written what is behind ?"
)
WORDS = tuple(dict.fromkeys([*_TEMPLATES.split(), *ANSWERS]))


def ask(scene: Scene, rng: np.random.Generator, per_skill: dict[str, int]) -> Iterator[Question]:
    """Distinct questions about a scene, up to ``per_skill[name]`` of each skill.

    A skill that cannot be asked with the answer drawn is tried again a few times.
    """
    for name, wanted in per_skill.items():
        found: dict[str, Question] = {}
        for _ in range(3 * wanted):
            question = (SKILLS | STEPPING_STONES)[name](scene, rng)
            if question is not None:
                found.setdefault(question.text, question)
            if len(found) == wanted:
                break
        yield from found.values()
