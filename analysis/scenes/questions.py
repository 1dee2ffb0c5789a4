"""Questions about a scene, balanced so that a blind reader stays near chance.

Every question is asked only where the scene has exactly one right answer. The answer is drawn first
(uniformly among those the scene can give) and the question second: that is what keeps the prior flat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from analysis.scenes.backgrounds import NAMES as BACKGROUNDS
from analysis.scenes.drawing import COLOURS, SHAPES, SIZES, Mark, brighter_sides

if TYPE_CHECKING:
    from analysis.scenes import Scene

COUNTS = ("zero", "one", "two", "three", "four")
DIGITS = tuple(f"d{i}" for i in range(10))
DIRECTIONS = ("left", "right", "above", "below")
RELATIVE = ("larger", "smaller", "equal")
ROWS = tuple(f"r{i}" for i in range(1, 13))  # of patches
COLUMNS = tuple(f"c{i}" for i in range(1, 13))

T = TypeVar("T")


@dataclass(frozen=True)
class Question:
    """One question: its skill, the prompt's words and the one right answer, a word unless it is a transcription."""

    skill: str
    text: str
    answer: str


def _pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]


def _unique(all_of: Sequence[T], key: Callable[[T], object]) -> list[T]:
    """Return those that alone have their value of ``key``."""
    seen = [key(t) for t in all_of]
    return [t for t, value in zip(all_of, seen, strict=True) if seen.count(value) == 1]


def _by_answer(rng: np.random.Generator, cases: list[tuple[str, str]]) -> tuple[str, str] | None:
    """Draw a (text, answer) whose answer is uniform among those that occur."""
    if not cases:
        return None
    wanted = _pick(rng, sorted({answer for _, answer in cases}))
    return _pick(rng, [case for case in cases if case[1] == wanted])


def _question(skill: str, case: tuple[str, str] | None) -> Question | None:
    return None if case is None else Question(skill, *case)


# ---- objects


def existence(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Ask whether a thing exists; a "no" asks for a colour and a shape that are both there, but on different objects."""
    pairs = {(t.colour, t.shape) for t in scene.things}
    case = _presence(rng, pairs, COLOURS, SHAPES)
    return case and Question("existence", f"is there a {case[0]} {case[1]} ?", case[2])


def _presence(
    rng: np.random.Generator, pairs: set[tuple[str, str]], first: Sequence[str], second: Sequence[str]
) -> tuple[str, str, str] | None:
    if rng.random() < 0.5:
        return *_pick(rng, sorted(pairs)), "yes"
    here = sorted({c for c, _ in pairs}), sorted({s for _, s in pairs})
    if rng.random() < 0.4:
        here = list(first), list(second)
    absent = [(c, s) for c in here[0] for s in here[1] if (c, s) not in pairs]
    return (*_pick(rng, absent), "no") if absent else None


def colour(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Ask for the colour of an object that its shape names, or its size and shape."""
    plain = _unique(scene.things, lambda t: t.shape)
    sized = _unique(scene.things, lambda t: (t.size, t.shape))
    cases = [(f"what colour is the {t.shape} ?", t.colour) for t in plain]
    cases += [(f"what colour is the {t.size} {t.shape} ?", t.colour) for t in sized if t not in plain]
    return _question("colour", _by_answer(rng, cases))


def shape(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Ask for the shape of an object."""
    plain = _unique(scene.things, lambda t: t.colour)
    sized = _unique(scene.things, lambda t: (t.size, t.colour))
    cases = [(f"what shape is the {t.colour} object ?", t.shape) for t in plain]
    cases += [(f"what shape is the {t.size} {t.colour} object ?", t.shape) for t in sized if t not in plain]
    return _question("shape", _by_answer(rng, cases))


def count(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Ask how many objects have a colour or a shape."""
    tally = {w: sum(w in (t.colour, t.shape) for t in scene.things) for w in COLOURS + SHAPES}
    cases = [(f"how many {w} {'object' if w in COLOURS else ''} ?", n) for w, n in tally.items()]
    return _counted(rng, "count", cases)


def _counted(rng: np.random.Generator, skill: str, cases: list[tuple[str, int]]) -> Question | None:
    """Ask for a count, drawing high counts more often because they are rarer."""
    n = int(rng.choice(len(COUNTS), p=(0.15, 0.15, 0.17, 0.22, 0.31)))
    texts = [text for text, many in cases if many == n]
    return Question(skill, " ".join(_pick(rng, texts).split()), COUNTS[n]) if texts else None


def spatial(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Ask where one object lies, seen from another."""
    things = _unique(scene.things, lambda t: (t.colour, t.shape))
    cases = [
        (f"where is the {a.colour} {a.shape} from the {b.colour} {b.shape} ?", where)
        for a in things
        for b in things
        if a is not b and (where := direction(a.x - b.x, a.y - b.y, 12)) is not None
    ]
    return _question("spatial", _by_answer(rng, cases))


def direction(dx: float, dy: float, least: float) -> str | None:
    """Return where something lies that is (dx, dy) away; None where neither axis clearly dominates."""
    if abs(dx) > max(1.5 * abs(dy), least):
        return "right" if dx > 0 else "left"
    if abs(dy) > max(1.5 * abs(dx), least):
        return "below" if dy > 0 else "above"
    return None


def comparison(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Ask how large one object is against another."""
    things = _unique(scene.things, lambda t: (t.colour, t.shape))
    order = {("large", "small"): "larger", ("small", "large"): "smaller"}
    wanted = RELATIVE[int(rng.choice(len(RELATIVE), p=(0.38, 0.38, 0.24)))]
    cases = [
        (f"how large is the {a.colour} {a.shape} against the {b.colour} {b.shape} ?", wanted)
        for a in things
        for b in things
        if a is not b and order.get((a.size, b.size), "equal") == wanted
    ]
    return _question("comparison", _by_answer(rng, cases))


def two_hops(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Ask from an object to its only twin in colour (or shape), and to what that twin is.

    Without a question mark: to hand the answer on to one is a third hop, and four layers learn it for half of these questions only.
    """
    cases = []
    for a in _unique(scene.things, lambda t: t.shape):
        twins = [t for t in scene.things if t is not a and t.colour == a.colour]
        if len(twins) == 1:
            cases.append((f"what shape shares the colour of the {a.shape}", twins[0].shape))
    for a in _unique(scene.things, lambda t: t.colour):
        twins = [t for t in scene.things if t is not a and t.shape == a.shape]
        if len(twins) == 1:
            cases.append((f"what colour shares the shape of the {a.colour}", twins[0].colour))
    return _question("two hops", _by_answer(rng, cases))


def digit(scene: Scene, rng: np.random.Generator) -> Question:
    """Ask which digit is written."""
    return Question("fine detail", "which digit is written ?", DIGITS[scene.marks[0].value])


def background(scene: Scene, rng: np.random.Generator) -> Question:
    """Ask what is behind the objects."""
    return Question("background", "what is behind ?", scene.background)


def size(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Ask for one object's size, a first step to comparison."""
    things = _unique(scene.things, lambda t: (t.colour, t.shape))
    answer = {"large": "larger", "small": "smaller"}
    cases = [(f"how large is the {t.colour} {t.shape} ?", answer[t.size]) for t in things]
    return _question("size", _by_answer(rng, cases))


def place(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Ask, as a first step to spatial relations, for the half of the picture an object lies in."""
    cases = []
    for t in _unique(scene.things, lambda t: (t.colour, t.shape)):
        for pair, at in ((DIRECTIONS[:2], t.x), (DIRECTIONS[2:], t.y)):
            if abs(at - 48) > 6:
                cases.append((f"{' '.join(pair)} where is the {t.colour} {t.shape} ?", pair[int(at > 48)]))
    return _question("place", _by_answer(rng, cases))


# ---- digits


def reading(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Ask which digit has a colour."""
    marks = _unique(scene.marks, lambda m: m.colour)
    return _question("reading", _by_answer(rng, [(f"which digit is {m.colour} ?", _d(m)) for m in marks]))


def ink(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Ask for the colour of a digit."""
    marks = _unique(scene.marks, lambda m: m.value)
    cases = [(f"what colour is the {_d(m)} ?", str(m.colour)) for m in marks]
    return _question("ink", _by_answer(rng, cases))


def presence(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Ask whether a digit of a colour is there."""
    pairs = {(str(m.colour), _d(m)) for m in scene.marks}
    case = _presence(rng, pairs, COLOURS, DIGITS)
    return case and Question("presence", f"is there a {case[0]} {case[1]} ?", case[2])


def tally(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Ask how many digits have a property."""
    cases = [(f"how many {c} digits ?", sum(m.colour == c for m in scene.marks)) for c in COLOURS] + [
        (f"how many {d} ?", sum(_d(m) == d for m in scene.marks)) for d in DIGITS
    ]
    return _counted(rng, "tally", cases)


def order(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Ask for the largest or smallest digit of a colour that several have."""
    cases = []
    for c in COLOURS:
        values = sorted({m.value for m in scene.marks if m.colour == c})
        if len(values) > 1:
            cases.append((f"which {c} digit is the largest ?", DIGITS[values[-1]]))
            cases.append((f"which {c} digit is the smallest ?", DIGITS[values[0]]))
    return _question("order", _by_answer(rng, cases))


def layout(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Ask where one digit lies, seen from another."""
    marks = _unique(scene.marks, lambda m: m.value)
    cases = [
        (f"where is the {_d(a)} from the {_d(b)} ?", where)
        for a in marks
        for b in marks
        if a is not b
        and (where := direction(a.patch[1] - b.patch[1], a.patch[0] - b.patch[0], 1)) is not None
    ]
    return _question("layout", _by_answer(rng, cases))


def ground(scene: Scene, rng: np.random.Generator) -> Question:
    """Ask what is behind the digits."""
    return Question("ground", "what is behind ?", scene.background)


def spot(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Ask, as a first step to the layout, for the half of the picture a digit lies in."""
    cases = []
    for m in _unique(scene.marks, lambda m: m.value):
        for pair, at in ((DIRECTIONS[:2], m.patch[1]), (DIRECTIONS[2:], m.patch[0])):
            cases.append((f"{' '.join(pair)} where is the {_d(m)} ?", pair[int(at > 5)]))
    return _question("spot", _by_answer(rng, cases))


# ---- both families: what every patch shows, background included


def patch_words(scene: Scene) -> np.ndarray:
    """Return a word for every patch, (12, 12) of str: the value of a digit, the colour of an object, else its brighter side."""
    words = brighter_sides(scene.pixels, len(scene.pixels) // len(ROWS))[0].astype(object)
    for i, thing in enumerate(scene.things):
        words[scene.owner == i] = thing.colour
    for mark in scene.marks:
        words[mark.patch] = _d(mark)
    return words


def _brighter_side(skill: str, scene: Scene, rng: np.random.Generator) -> Question | None:
    """Ask for the brighter side of a patch of background, where one slope is clearly the steeper."""
    sides, margins = brighter_sides(scene.pixels, len(scene.pixels) // len(ROWS))
    clear = (margins > 1) & (scene.owner < 0)
    for mark in scene.marks:
        clear[mark.patch] = False
    cases = [(f"brighter side of {ROWS[r]} {COLUMNS[c]} ?", str(sides[r, c])) for r, c in np.argwhere(clear)]
    return _question(skill, _by_answer(rng, cases))


def _transcription(skill: str, scene: Scene, rng: np.random.Generator) -> Question:
    """Ask for the words of a row of patches, from left to right."""
    row = int(rng.integers(len(ROWS)))
    return Question(skill, f"transcribe {ROWS[row]}", " ".join(patch_words(scene)[row]))


def _d(mark: Mark) -> str:
    return DIGITS[mark.value]


Asker = Callable[["Scene", np.random.Generator], Question | None]
# The skills of each family of scenes; those named last are stepping stones, asked in training only: without them nothing
# rewards finding an object's size or place before comparing two.
FAMILIES: dict[str, dict[str, Asker]] = {
    "objects": {
        "existence": existence,
        "colour": colour,
        "shape": shape,
        "count": count,
        "spatial": spatial,
        "comparison": comparison,
        "two hops": two_hops,
        "fine detail": digit,
        "background": background,
        "size": size,
        "place": place,
        "shading": partial(_brighter_side, "shading"),
        "transcription": partial(_transcription, "transcription"),
    },
    "digits": {
        "reading": reading,
        "ink": ink,
        "presence": presence,
        "tally": tally,
        "order": order,
        "layout": layout,
        "ground": ground,
        "spot": spot,
        "light": partial(_brighter_side, "light"),
        "transcript": partial(_transcription, "transcript"),
    },
}
AUXILIARY_SKILLS = ("size", "place", "spot")
# Every patch matters to these, most of all those of the background. They are asked where they are named: models of the first
# recipe do not know their words.
PATCH_SKILLS = ("shading", "light", "transcription", "transcript")
TRANSCRIPTIONS = ("transcription", "transcript")
SKILLS = tuple(
    name for skills in FAMILIES.values() for name in skills if name not in (*AUXILIARY_SKILLS, *PATCH_SKILLS)
)
ANSWERS = ("yes", "no", *COLOURS, *SHAPES, *COUNTS, *DIRECTIONS, *RELATIVE, *DIGITS, *BACKGROUNDS)
_TEMPLATES = (
    "is there a what colour is the what shape is the object ? how many digits where is the from the how large is the "
    "against the what shape shares the colour of the which digit is written what is behind largest smallest"
)
# What only captions say, see ``captions.py``: they are words of the text tower.
_CAPTIONS = "picture of and on with in it"
# Last, so that the others keep their numbers.
_PATCHES = ("brighter", "side", "transcribe", *ROWS, *COLUMNS)
WORDS = tuple(dict.fromkeys([*_TEMPLATES.split(), *SIZES, *ANSWERS, *_CAPTIONS.split(), *_PATCHES]))


def ask(scene: Scene, rng: np.random.Generator, per_skill: dict[str, int]) -> Iterator[Question]:
    """Yield distinct questions about a scene, up to ``per_skill[name]`` of each skill.

    A skill that cannot be asked with the answer drawn is tried again a few times.
    """
    skills = FAMILIES[scene.family]
    for name, wanted in per_skill.items():
        found: dict[str, Question] = {}
        for _ in range(3 * wanted):
            question = skills[name](scene, rng)
            if question is not None:
                found.setdefault(question.text, question)
            if len(found) == wanted:
                break
        yield from found.values()
