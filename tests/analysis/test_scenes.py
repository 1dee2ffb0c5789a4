"""Scenes are reproducible, questions have the one right answer, and priors are flat."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest

from analysis import scenes
from analysis.scenes import questions
from analysis.scenes.drawing import Thing, coverage
from analysis.training import data

SOME = [scenes.make(i, "test", family=family) for family in scenes.FAMILIES for i in range(60)]


def test_a_scene_is_a_function_of_split_and_seed():
    a, b, c = scenes.make(5, "test"), scenes.make(5, "test"), scenes.make(5, "train")
    assert np.array_equal(a.pixels, b.pixels)
    assert a.questions == b.questions
    assert not np.array_equal(a.pixels, c.pixels)
    assert not np.array_equal(a.pixels, scenes.make(5, "test", family="digits").pixels)
    with pytest.raises(ValueError, match="split must be one of"):
        scenes.make(0, "holdout")
    with pytest.raises(ValueError, match="family must be one of objects, digits"):
        scenes.make(0, family="charts")


def right_answer(scene: scenes.Scene, text: str) -> str:
    """Answers a question from the list of objects alone, by another route than the generator's."""
    w = text.rstrip(" ?").split()
    colours, shapes = set(scenes.drawing.COLOURS), set(scenes.drawing.SHAPES)
    named = [(w[i], w[i + 1]) for i in range(len(w) - 1) if w[i] in colours and w[i + 1] in shapes]

    def only(found: list[Thing]) -> Thing:
        assert len(found) == 1, (text, found)
        return found[0]

    def find(colour=None, shape=None, size=None) -> list[Thing]:
        return [
            t
            for t in scene.things
            if colour in (None, t.colour) and shape in (None, t.shape) and size in (None, t.size)
        ]

    size = next((x for x in w if x in scenes.drawing.SIZES), None)
    if text.startswith("is there"):
        return "yes" if find(*named[0]) else "no"
    if text.startswith("what colour is"):
        return only(find(shape=w[-1], size=size)).colour
    if text.startswith("what shape is"):
        return only(find(colour=w[-2], size=size)).shape
    if text.startswith("how many"):
        return questions.COUNTS[len(find(colour=w[2]) if w[2] in colours else find(shape=w[2]))]
    if "where" in text and len(named) == 1:
        t = only(find(*named[0]))
        return w[0] if (t.x if w[0] == "left" else t.y) < 48 else w[1]
    if text.startswith("how large") and len(named) == 1:
        return {"large": "larger", "small": "smaller"}[only(find(*named[0])).size]
    if text.startswith("where"):
        a, b = (only(find(*n)) for n in named)
        dx, dy = a.x - b.x, a.y - b.y
        return ("left" if dx < 0 else "right") if abs(dx) > abs(dy) else ("above" if dy < 0 else "below")
    if text.startswith("how large"):
        a, b = (only(find(*n)) for n in named)
        return "equal" if a.size == b.size else ("larger" if a.radius > b.radius else "smaller")
    if text.startswith("what shape shares"):
        anchor = only(find(shape=w[-1]))
        return only([t for t in find(colour=anchor.colour) if t is not anchor]).shape
    if text.startswith("what colour shares"):
        anchor = only(find(colour=w[-1]))
        return only([t for t in find(shape=anchor.shape) if t is not anchor]).colour
    return f"d{scene.marks[0].value}" if "digit" in text else scene.background


def right_digit(scene: scenes.Scene, text: str) -> str:
    """The same for scenes of digits."""
    w = text.rstrip(" ?").split()
    inks = [x for x in w if x in scenes.drawing.COLOURS]
    values = [int(x[1]) for x in w if x in questions.DIGITS]
    marks = list(scene.marks)
    of_ink = [m for m in marks if m.colour in inks]
    of_value = [[m for m in marks if m.value == v] for v in values]

    def place(found):
        (mark,) = found
        return mark.patch

    if text.startswith("is there"):
        return "yes" if any(m.value == values[0] for m in of_ink) else "no"
    if text.startswith("what colour"):
        (mark,) = of_value[0]
        return mark.colour
    if text.startswith("how many"):
        return questions.COUNTS[len(of_ink if inks else of_value[0])]
    if "largest" in w or "smallest" in w:
        return f"d{(max if 'largest' in w else min)(m.value for m in of_ink)}"
    if text.startswith("which digit"):
        (mark,) = of_ink
        return f"d{mark.value}"
    if "where" in text and len(values) == 1:
        row, column = place(of_value[0])
        return w[0] if (column if w[0] == "left" else row) < 6 else w[1]
    if text.startswith("where"):
        (r0, c0), (r1, c1) = place(of_value[0]), place(of_value[1])
        if abs(c0 - c1) > abs(r0 - r1):
            return "left" if c0 < c1 else "right"
        return "above" if r0 < r1 else "below"
    return scene.background


@pytest.mark.parametrize("scene", SOME, ids=lambda s: f"{s.family} {s.seed}")
def test_every_question_has_the_one_right_answer(scene):
    wanted = {name: 3 for name in scenes.FAMILIES[scene.family] if name in questions.AUXILIARY_SKILLS}
    stones = tuple(scenes.ask(scene, np.random.default_rng(scene.seed), wanted))
    assert scene.questions
    right = right_answer if scene.family == "objects" else right_digit
    for q in scene.questions + stones:
        assert right(scene, q.text) == q.answer, q


def seen_in(scene: scenes.Scene, row: int, column: int) -> str:
    """The word for a patch, from the objects and, by least squares, from the pixels of a patch of background."""
    for mark in scene.marks:
        if mark.patch == (row, column):
            return f"d{mark.value}"
    box = np.s_[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
    covered = [coverage(t, scenes.IMAGE)[box].mean() for t in scene.things]
    if covered and max(covered) >= 0.3:
        return scene.things[int(np.argmax(covered))].colour
    y, x = np.indices((8, 8)).reshape(2, -1)
    plane = np.stack([np.ones(64), x, y], 1)
    grey = scene.pixels[box].astype(float).sum(-1).reshape(-1)
    _, across, down = np.linalg.lstsq(plane, grey, rcond=None)[0]
    if abs(across) > abs(down) + 1e-9:  # equal slopes count as upright
        return "right" if across > 0 else "left"
    return "below" if down > 0 else "above"


@pytest.mark.parametrize("scene", SOME[::6], ids=lambda s: f"{s.family} {s.seed}")
def test_transcriptions_say_what_every_patch_shows(scene):
    wanted = {name: 4 for name in scenes.FAMILIES[scene.family] if name in scenes.PATCH_SKILLS}
    asked = list(scenes.ask(scene, np.random.default_rng(scene.seed), wanted))
    assert {q.skill for q in asked} == set(wanted)
    for q in asked:
        words = q.text.split()
        row = int(words[1 if q.skill in scenes.TRANSCRIPTIONS else 3][1:]) - 1
        if q.skill in scenes.TRANSCRIPTIONS:
            assert q.answer.split() == [seen_in(scene, row, column) for column in range(scenes.GRID)]
        else:
            column = int(words[4][1:]) - 1
            assert q.answer == seen_in(scene, row, column)
            assert scene.owner[row, column] == -1
            assert (row, column) not in [mark.patch for mark in scene.marks]


def test_neighbours_do_not_give_a_brighter_side_away():
    """The same as the patch to its left in fewer than half of all places, and each of the four sides in a fifth or more."""
    words = np.stack([scenes.patch_words(scene) for scene in SOME])
    sides = np.isin(words, questions.DIRECTIONS)
    both = sides[..., 1:] & sides[..., :-1]
    assert (words[..., 1:] == words[..., :-1])[both].mean() < 0.5
    for side in questions.DIRECTIONS:
        assert (words[sides] == side).mean() > 0.15


def test_what_is_asked_by_default_has_not_changed_with_the_questions_about_patches():
    """The shipped model knows their words no more than the numbers of others have moved."""
    from analysis import reference

    known = reference.load()[1].tokenizer.get_vocab()
    assert [known.get(word, i) for i, word in enumerate(data.VOCABULARY)] == list(range(len(data.VOCABULARY)))
    for scene in SOME:
        assert not {q.skill for q in scene.questions} & set(scenes.PATCH_SKILLS)
        assert {w for q in scene.questions for w in f"{q.text} {q.answer}".split()} <= set(known)


def test_blind_guessing_stays_near_chance():
    said = defaultdict(Counter)
    for scene in [scenes.make(i, "train", family=f) for i in range(300) for f in scenes.FAMILIES]:
        for q in scene.questions:
            said[q.skill][q.answer] += 1
    assert set(said) == set(scenes.SKILLS)
    chance = {
        "existence": 2,
        "colour": 6,
        "shape": 5,
        "count": 5,
        "spatial": 4,
        "comparison": 3,
        "two hops": 11,
        "reading": 10,
        "ink": 6,
        "presence": 2,
        "tally": 5,
        "order": 10,
        "layout": 4,
    }
    for skill, answers in said.items():
        share = answers.most_common(1)[0][1] / answers.total()
        fair = 1 / chance.get(skill, 8)
        # A fair die's commonest face stays below this with probability 1 - 1e-6 (normal tail, 4.9 sigma), plus 0.12 of prior.
        assert share < fair + 4.9 * np.sqrt(fair / answers.total()) + 0.12, (skill, answers)


def test_objects_keep_apart_and_patches_know_their_owner():
    for scene in SOME:
        for mark in scene.marks:
            assert scene.owner[mark.patch] == -1
        assert len({mark.patch for mark in scene.marks}) == len(scene.marks)
        if scene.family == "digits":
            continue
        masks = np.stack([coverage(t, scenes.IMAGE) for t in scene.things])
        assert (masks > 0).sum(0).max() <= 1 or ((masks > 0.5).sum(0).max() <= 1)
        for row, col in np.argwhere(scene.owner >= 0):
            box = np.s_[row * 8 : row * 8 + 8, col * 8 : col * 8 + 8]
            share = masks[(slice(None), *box)].mean((1, 2))
            assert share.argmax() == scene.owner[row, col]
            assert share.max() >= 0.3


def test_held_out_scenes_use_other_handwriting_and_other_halves_of_photographs():
    from analysis.scenes import backgrounds, drawing

    seen = []
    for training in (False, True):
        canvas, rng = np.zeros((96, 96, 3), np.float32), np.random.default_rng(0)
        drawn = set()
        for i in range(300):
            canvas[:] = 0
            drawing.write(canvas, i % 10, (0, 0), None, 8, training, rng)
            drawn.add(canvas[:8, :8].tobytes())
        seen.append(drawn)
    assert not seen[0] & seen[1]
    marked = np.zeros((300, 500, 3), np.uint8)
    marked[:, 300:] = 255
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backgrounds, "photograph", lambda name: scenes.Image.fromarray(marked))
        for seed in range(40):
            crops = [backgrounds.crop("cat", 96, t, np.random.default_rng(seed)) for t in (True, False)]
            assert max(crop.std() for crop in crops) < 1
            assert crops[0].mean() < crops[1].mean()


def test_captions_say_what_is_there():
    from analysis.training.captions import caption

    for scene in SOME[::5]:
        for seed in range(5):
            words = set(caption(scene, np.random.default_rng(seed)).removeprefix("how large is").split())
            things = [{t.size, t.colour, t.shape} for t in scene.things]
            marks = [{m.colour or "", f"d{m.value}"} for m in scene.marks]
            there = set().union(*things, *marks, {scene.background})
            told = set(scenes.drawing.COLOURS) | set(scenes.drawing.SHAPES) | set(questions.DIGITS)
            assert words & (told | set(scenes.drawing.SIZES) | set(questions.BACKGROUNDS)) <= there
            assert words <= set(scenes.WORDS)


def test_packed_questions_can_be_read_back():
    scene = scenes.make(0, "train", {"count": 2, "two hops": 2, "shading": 2, "transcription": 2})
    tokens, segments, targets = data.pack(scene.questions, np.random.default_rng(0))
    words = np.array(data.VOCABULARY)
    read = set()
    for number in range(segments.max() + 1):
        at = np.flatnonzero(segments == number)
        one = list(words[tokens[at]])
        many = scenes.GRID if one[0] == "transcribe" else 1
        text, answer = one[:-many], one[-many:]
        asked = [*answer[:1] * (text[-1] == "?"), *answer, "</s>"]
        assert list(words[targets[at[-len(asked) :]]]) == asked
        assert not targets[at[: -len(asked)]].any()
        read.add((" ".join(text), " ".join(answer)))
    assert read == {(q.text, q.answer) for q in scene.questions}


def test_shards_are_whole_or_absent(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "SHARD", 3)
    with pytest.raises(FileNotFoundError, match="analysis train"):
        data.load(tmp_path, "train")
    data._shard(str(tmp_path), "train", 0)
    data._shard(str(tmp_path), "train", 1)
    (tmp_path / "train-0002.part.npz").write_bytes(b"cut short")
    arrays = data.load(tmp_path, "train")
    assert len(arrays) == 6
    assert np.array_equal(arrays.pixels[4], scenes.make(4, "train", family="digits").pixels)
