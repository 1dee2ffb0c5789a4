"""Who is best at which task: on answers made to have a winner, and rows of two runs that must belong together."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest

from analysis.__main__ import main
from analysis.study import best
from analysis.study.arms import ARMS, FULL, RECENT
from analysis.study.results import Results
from analysis.study.tasks import BACKGROUND, THINGS

#: Chances of a right answer, about things and about the background.
CHANCES = {
    "spare": (0.8, 0.3), "auto": (0.95, 0.3), "divprune": (0.8, 0.3), "greedy": (0.3, 0.7), "todre": (0.3, 0.95),
    "spare + fold": (1.0, 1.0), "fastv": (1.0, 1.0), FULL: (1.0, 1.0),
}  # fmt: skip
KEEPS = (0.5, 0.11, 0.06)


def made(arms, seed=0, scenes=40, questions=10):
    """Half of the questions are about things. At half of the tokens all is right, which must not count."""
    g = np.random.default_rng(seed)
    cells = tuple((a, k) for a in arms for k in ([1.0] if a == FULL else KEEPS))
    skill = np.array(["colour", "background"] * (scenes * questions // 2))
    owner = np.repeat(np.arange(scenes), questions)
    draws = g.random((len(KEEPS), len(skill)))  # the same for all arms, so that equals answer alike
    score = np.array(
        [
            draws[KEEPS.index(k) if k < 1 else 0]
            < (1 if k >= 0.5 else np.where(skill == "colour", *CHANCES[a]))
            for a, k in cells
        ],
        float,
    )
    units = tuple(("reference", "objects", str(i)) for i in range(scenes))
    return Results(cells, units, owner, skill, score, np.ones((len(cells), scenes)), {})


def test_the_best_is_named_and_its_equals():
    results = made(CHANCES)
    assert set(best.compared(results)) == {"spare", "auto", "divprune", "greedy", "todre"}
    things, background = (best.standing(results, task) for task in (THINGS, BACKGROUND))
    assert (things.best, things.equals, things.full) == ("auto", [], 1.0)
    assert (background.best, background.equals) == ("todre", [])
    assert things.accuracy["auto"].value == pytest.approx(
        np.mean([results.score[results.index("auto", k)][::2].mean() for k in (0.11, 0.06)])
    )
    gap = things.gap["greedy"]
    assert gap.low < -0.65 < gap.high < 0
    unread = best.standing(results, THINGS, blind=True)  # spare and divprune answer alike here
    assert {unread.best, *unread.equals} == {"spare", "divprune"}
    against = best.standing(results, BACKGROUND, best="greedy")
    assert against.equals == ["todre"]
    assert against.gap["todre"].low > 0


def test_the_intervals_hold_together():
    """They are wider than one by itself: the largest of many gaps by chance is not a loss."""
    names = [n for n, a in ARMS.items() if a.group == "published" and not a.inside][:15]
    cells = tuple((a, k) for a in names for k in KEEPS)
    g = np.random.default_rng(1)
    wrong = 0
    for _ in range(20):
        one = made(["spare"], questions=4)
        score = (g.random((len(cells), len(one.skill))) < 0.5).astype(float)
        equal = dataclasses.replace(one, cells=cells, score=score, tokens=np.ones((len(cells), 40)))
        bars = best.standing(equal, THINGS, best=names[0]).gap.values()
        wrong += any(bar.high < 0 or bar.low > 0 for bar in bars)
    assert wrong <= 4


def test_rows_of_two_runs_become_one():
    whole = made(CHANCES)
    old = [a for a in CHANCES if a != "todre"]
    first = made(old)
    picks = [i for i, (a, _) in enumerate(whole.cells) if a in ("todre", "spare", FULL)]
    units = [7, 3, 11]
    asked = np.concatenate([np.flatnonzero(whole.owner == i) for i in units])
    more = Results(
        tuple(whole.cells[i] for i in picks), tuple(whole.units[i] for i in units), np.repeat(np.arange(3), 10),
        whole.skill[asked], whole.score[np.ix_(picks, asked)], np.ones((len(picks), 3)), {},
    )  # fmt: skip
    joined = best.together(first, more)
    assert joined.units == more.units
    assert set(joined.cells) == set(whole.cells)
    for cell in joined.cells:
        np.testing.assert_array_equal(
            joined.score[joined.index(*cell)], whole.score[whole.index(*cell)][asked]
        )
    changed = more.score.copy()
    changed[more.index("spare", 0.06), 4] = 1 - changed[more.index("spare", 0.06), 4]
    with pytest.raises(ValueError, match=r"spare at 0\.06 answers otherwise"):
        best.together(first, dataclasses.replace(more, score=changed))
    with pytest.raises(ValueError, match="the questions differ"):
        best.together(first, dataclasses.replace(more, skill=more.skill[::-1]))
    with pytest.raises(ValueError, match=r"no rows of the study on .*'99'"):
        best.together(
            first, dataclasses.replace(more, units=(*more.units[:2], ("reference", "objects", "99")))
        )


def test_the_page_shows_the_new_ones_and_what_the_confirming_scenes_say():
    text = best.page(made(CHANCES), made(CHANCES, seed=1))
    things, background = text.split("### Background")
    assert "`auto` is the best with 9" in things
    assert "alone (200 questions on 40 images; 100.0 % with all tokens)" in things
    assert "Of those that do not read the question" in things
    assert "and the largest number there, too" in things
    assert "| `todre` (new)" in things
    assert "`todre` is the best" in background
    assert "fastv" not in text
    assert "fold" not in text


def test_the_table_in_the_docs_is_that_of_the_shipped_rows(tmp_path, capsys):
    """Every new pruner has a line in it."""
    (tmp_path / "study").mkdir()
    assert main(["best", "--docs", str(tmp_path)]) == 0
    made_now = (tmp_path / "study" / "best.inc").read_text()
    assert made_now in capsys.readouterr().out
    assert made_now == (best.FOLDER.parents[1] / "docs" / "study" / "best.inc").read_text()
    for arm, known in ARMS.items():
        if known.group == RECENT:
            assert f"| `{arm}` (new)" in made_now


def test_rows_that_are_missing_are_an_error(tmp_path, capsys):
    assert main(["best", "--rows", str(tmp_path)]) == 2
    assert "rows.npz" in capsys.readouterr().err
    for name in ("rows.npz", "confirm.npz"):
        shutil.copy(best.FOLDER / name, tmp_path)
    shutil.copy(best.FOLDER / "recent.npz", tmp_path / "recent-confirm.npz")
    assert main(["best", "--rows", str(tmp_path)]) == 2
    assert "expected the same scenes in both" in capsys.readouterr().err
