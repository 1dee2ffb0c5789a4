"""``python -m analysis best``: which pruner is best at which task, those that came after the rules of the study among them.

The rule is that of the amendment in docs/study/plan.md. The new pruners' rows lie beside those of the study; they are joined where the
arms that were run in both answered every question alike.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analysis.benchmarks.tables import table
from analysis.study import decimer
from analysis.study.arms import ARMS, FULL, RECENT
from analysis.study.bootstrap import Draws, Interval, interval, simultaneous
from analysis.study.results import Results, read
from analysis.study.verdict import TIGHT, points

FOLDER = Path(__file__).parent
#: Which rows explore, which confirm: those of the study, and those of the new pruners.
ROWS = {"exploring": ("rows.npz", "recent.npz"), "confirming": ("confirm.npz", "recent-confirm.npz")}
GROUPS = ("published", "baseline", "cssp", RECENT)
#: The model that has a joint space with text: pruners that read it were run there alone.
SHIPPED = "reference"
#: Shown wherever they stand.
ALWAYS = ("spare", "divprune", "greedy", "random", "image made smaller")


@dataclass(frozen=True)
class Standing:
    """Of one task and set of scenes.

    Attributes
    ----------
    best : str
        The pruner with which the others are compared.
    accuracy : dict of Interval
        By arm, the mean over tight budgets; the largest first.
    gap : dict of Interval
        By arm but the best, its accuracy minus the best one's; the intervals hold for all of them together.
    full : float
        Accuracy with all tokens.
    """

    best: str
    accuracy: dict[str, Interval]
    gap: dict[str, Interval]
    full: float

    @property
    def equals(self) -> list[str]:
        """Arms that are not told apart from the best, or are above it."""
        return [arm for arm in self.accuracy if arm in self.gap and not self.gap[arm].high < 0]


def together(first: Results, more: Results) -> Results:
    """Return the units of both with the cells of both.

    Raises
    ------
    ValueError
        A cell that was run in both has other answers.
    """
    at = {unit: i for i, unit in enumerate(first.units)}
    missing = [unit for unit in more.units if unit not in at]
    if missing:
        raise ValueError(f"no rows of the study on {missing[0]}: expected the same scenes in both")
    places = [at[unit] for unit in more.units]
    asked = np.concatenate([np.flatnonzero(first.owner == i) for i in places])
    order = np.concatenate([np.flatnonzero(more.owner == i) for i in range(len(more.units))])
    if not np.array_equal(first.skill[asked], more.skill[order]):
        raise ValueError("the questions differ: expected the same in both")
    score = more.score[:, order]
    for i, cell in enumerate(more.cells):
        j = first.index(*cell)
        if j is not None and not np.array_equal(first.score[j, asked], score[i], equal_nan=True):
            raise ValueError(f"{cell[0]} at {cell[1]:g} answers otherwise than in the rows of the study")
    new = [i for i, cell in enumerate(more.cells) if first.index(*cell) is None]
    return Results(
        first.cells + tuple(more.cells[i] for i in new), more.units, more.owner[order], more.skill[order],
        np.concatenate([first.score[:, asked], score[new]]), np.concatenate([first.tokens[:, places], more.tokens[new]]),
        {}, first.blind, first.norm_and_thing[places] if len(first.norm_and_thing) else first.norm_and_thing,
    )  # fmt: skip


def compared(results: Results) -> list[str]:
    """Return the arms that are compared: pruners in front of the language model that were run on all scenes at all tight budgets."""
    tight = [k for k in results.keeps if k <= TIGHT]
    return [
        arm
        for arm in results.arms
        if (ARMS[arm].group in GROUPS and not ARMS[arm].inside if arm in ARMS else 0 < results.keeps[-1] < 1)
        and all((i := results.index(arm, k)) is not None and results.ran[i].all() for k in tight)
    ]


def standing(results: Results, task: str, best: str | None = None, blind: bool = False) -> Standing:
    """Return how the arms stand in a task.

    Parameters
    ----------
    best : str, optional
        The arm to compare with; without, the one with the largest number.
    blind : bool
        Only arms that do not read the question.
    """
    draws, skills = Draws(results), results.of_task(task)
    arms = [a for a in compared(results) if not (blind and a in ARMS and ARMS[a].asks)]
    tight = [k for k in results.keeps if k <= TIGHT]
    every = draws.mean(lambda s: s.accuracy(skills))
    values = np.stack(
        [np.mean([every[:, results.cells.index((arm, k))] for k in tight], axis=0) for arm in arms], 1
    )
    order = np.argsort(-values[0], kind="stable")
    best = arms[order[0]] if best is None else best
    others = [i for i in order if arms[i] != best]
    bars = simultaneous(values[:, others] - values[:, [arms.index(best)]])
    full = results.index(FULL, 1.0)
    return Standing(
        best,
        {arms[i]: interval(values[:, i], within=1) for i in order},
        {arms[i]: bar for i, bar in zip(others, bars, strict=True)},
        float("nan") if full is None else float(every[0, full]),
    )


def page(exploring: Results, confirming: Results | None = None) -> str:
    """Return sentences and a table for every task, as Markdown."""
    parts = []
    for task in exploring.tasks:
        first = standing(exploring, task)
        again = standing(confirming, task, first.best) if confirming and task in confirming.tasks else None
        parts += [f"### {task.capitalize()}", sentence(exploring, task, first, again)]
        one = standing(exploring, task, blind=True)
        if one.best != first.best:
            two = standing(confirming, task, one.best, blind=True) if again and confirming else None
            parts.append(f"*Of those that do not read the question:* {sentence(exploring, task, one, two)}")
        parts.append(table(lines(first, again)))
    return "\n\n".join(parts) + "\n"


def sentence(results: Results, task: str, first: Standing, again: Standing | None) -> str:
    """Return who is best, and from whom that cannot be told."""
    mine = np.isin(results.skill, results.of_task(task))
    images = len({results.units[i][1:] for i in results.owner[mine]})
    asked = sum(results.counts(skill=s)["questions"] for s in results.of_task(task))
    text = f"`{first.best}` is the best with {first.accuracy[first.best].written('{:.1f}', 100)} % right, {_told(first.equals)}"
    text += f" ({asked:,} questions on {images} images; {100 * first.full:.1f} % with all tokens)."
    if again:
        text += f" On the confirming scenes it has {again.accuracy[again.best].written('{:.1f}', 100)} %, {_told(again.equals)}"
        top = next(iter(again.accuracy))
        text += (
            f"; the largest number there is that of `{top}`."
            if top != again.best
            else ", and the largest number there, too."
        )
    return text


def _told(equals: Sequence[str]) -> str:
    names = ", ".join(f"`{arm}`" for arm in equals)
    return f"and not told apart from {names}" if equals else "alone"


def lines(first: Standing, again: Standing | None) -> list[tuple[str, ...]]:
    """Return the lines of the table: the best ones, the new ones, and those that are always shown."""
    head = ["pruner", "reads the question", "right, %", "minus the best, points"]
    head += ["right, %, confirming scenes", "minus the same one"] if again else []
    found = [tuple(head)]
    for rank, arm in enumerate(first.accuracy):
        known = ARMS.get(arm)
        if not (rank < 6 or arm in ALWAYS or (known and known.group == RECENT) or arm in first.equals):
            continue
        new = known is not None and known.group == RECENT
        row = [f"`{arm}`{' (new)' if new else ''}", "yes" if known and known.asks else "no"]
        for one in (first, again) if again else (first,):
            row.append(one.accuracy[arm].written("{:.1f}", 100) if arm in one.accuracy else "–")
            row.append(points(one.gap[arm]) if arm in one.gap else "–")
        found.append(tuple(row))
    return found


def load(folder: Path, name: str) -> Results:
    """Return the rows of the study that explore, or confirm, with those of the new pruners where there are any."""
    old, new = (folder / file for file in ROWS[name])
    return together(read(old), read(new)) if new.exists() else read(old)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument(
        "--rows", type=Path, default=FOLDER, help="folder of packed rows (those that are shipped)"
    )
    parser.add_argument("--docs", type=Path, help="write study/best.inc into this folder")


def main(arguments: argparse.Namespace) -> int:
    """Print who is best at what; 2 where there are no rows, or where they do not belong together."""
    try:
        both = [load(arguments.rows, name) for name in ROWS]
        text = f"## Both models\n\n{page(*both)}\n"
        text += f"## The shipped model alone\n\n{page(*(one.only(SHIPPED) for one in both))}"
        drawings = decimer.beside(arguments.rows / ROWS["exploring"][0])
        if drawings.exists():
            text += f"\n## DECIMER\n\n{page(*(decimer.read(drawings, confirm=c) for c in (False, True)))}"
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    print(text)
    if arguments.docs is not None:
        (arguments.docs / "study" / "best.inc").write_text(text)
    return 0
