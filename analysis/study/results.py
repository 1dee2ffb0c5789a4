"""The packed rows of a study, as arrays."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from analysis.study.arms import ARMS, RECENT
from analysis.study.plan import NOT_ASKED, restored
from analysis.study.tasks import TASKS, task_of

Cell = tuple[str, float]


@dataclass(frozen=True)
class Results:
    """The rows of a study.

    Attributes
    ----------
    cells : tuple of (arm, keep)
    units : tuple of (model, family, scene)
    owner : array (questions,) of int
        Unit of each question.
    skill : array (questions,) of str
    score : array (cells, questions)
        Share of the answer that is right; NaN where it was not asked.
    tokens : array (cells, units)
        NaN where the cell was not run.
    predictors : dict of array (cells, units)
    blind : frozenset of str
        Arms of the plan that drop tokens before the language model without reading the question: the correlations are theirs.
    norm_and_thing : array (units,)
        Rank correlation over tokens of norm and whether a thing covers them; NaN where that is not known.
    """

    cells: tuple[Cell, ...]
    units: tuple[tuple[str, str, int], ...]
    owner: np.ndarray
    skill: np.ndarray
    score: np.ndarray
    tokens: np.ndarray
    predictors: dict[str, np.ndarray]
    blind: frozenset[str] = frozenset(
        n for n, a in ARMS.items() if a.drops and not a.asks and a.group != RECENT
    )
    norm_and_thing: np.ndarray = field(default_factory=lambda: np.array([]))

    @property
    def ran(self) -> np.ndarray:
        """(cells, units) of bool: which cells were run on which units."""
        return np.isfinite(self.tokens)

    @property
    def arms(self) -> list[str]:
        """Names of the arms, in the order of the cells."""
        return list(dict.fromkeys(arm for arm, _ in self.cells))

    @cached_property
    def keeps(self) -> list[float]:
        """Budgets below all tokens, the largest first."""
        return sorted({k for _, k in self.cells if 0 < k < 1}, reverse=True)

    @property
    def skills(self) -> list[str]:
        """Names of the skills asked about."""
        return list(dict.fromkeys(self.skill.tolist()))

    @property
    def tasks(self) -> list[str]:
        """Tasks asked about."""
        return [task for task in TASKS if self.of_task(task)]

    def of_task(self, task: str) -> tuple[str, ...]:
        """Return the skills of a task that are asked about."""
        return tuple(skill for skill in self.skills if task_of(skill) == task)

    @cached_property
    def distinct(self) -> list[str]:
        """The blind arms; of those that keep the same tokens everywhere, which their answers and predictors tell, the first."""
        found: dict[bytes, str] = {}
        for arm in self.arms:
            if arm in self.blind:
                at = [i for k in self.keeps if (i := self.index(arm, k)) is not None]
                rows = [self.tokens[at], self.score[at], *(values[at] for values in self.predictors.values())]
                found.setdefault(b"".join(row.tobytes() for row in rows), arm)
        return list(found.values())

    def strata(self) -> list[tuple[str, str]]:
        """Return the pairs (model, family) that occur."""
        return list(dict.fromkeys((m, f) for m, f, _ in self.units))

    def index(self, arm: str, keep: float) -> int | None:
        """Return the place of a cell, None where it was not run."""
        return self._at.get((arm, keep))

    @cached_property
    def _at(self) -> dict[Cell, int]:
        return {cell: i for i, cell in enumerate(self.cells)}

    def only(self, model: str | None = None, family: str | None = None) -> Results:
        """Return the part of one model, or one family."""
        units = [i for i, (m, f, _) in enumerate(self.units) if model in (None, m) and family in (None, f)]
        asked = np.isin(self.owner, units)
        new = np.cumsum(np.isin(np.arange(len(self.units)), units)) - 1
        return Results(
            self.cells, tuple(self.units[i] for i in units), new[self.owner[asked]], self.skill[asked],
            self.score[:, asked], self.tokens[:, units],
            {name: values[:, units] for name, values in self.predictors.items()}, self.blind,
            self.norm_and_thing[units] if len(self.norm_and_thing) else self.norm_and_thing,
        )  # fmt: skip

    def counts(self, cells: Collection[Cell] | None = None, skill: str | None = None) -> dict[str, int]:
        """Return the numbers of questions, scenes and models that any of these cells was run on (without: that there are).

        A question that is put to several models counts once. With a skill, only its questions count, and scenes that have one.
        """
        rows = [i for i, cell in enumerate(self.cells) if cells is None or cell in cells]
        ran = np.ones(len(self.units), bool) if cells is None else self.ran[rows].any(0)
        owner = self.owner if skill is None else self.owner[self.skill == skill]
        sizes = np.bincount(owner, minlength=len(self.units)) * ran
        scenes = {unit[1:]: int(n) for unit, n in zip(self.units, sizes, strict=True) if n}
        models = {unit[0] for unit, n in zip(self.units, sizes, strict=True) if n}
        return {"questions": sum(scenes.values()), "scenes": len(scenes), "models": len(models)}


def read(path: Path) -> Results:
    """Return the packed rows of a study.

    Raises
    ------
    ValueError
        Rows of the first edition, which hold other numbers.
    """
    with np.load(path) as file:
        found = dict(file)
    if "score" not in found:
        raise ValueError(
            f"{path} holds rows of the study's first edition; run `python -m analysis study` again."
        )
    return Results(
        tuple(zip(found["arms"].tolist(), found["keeps"].tolist(), strict=True)),
        tuple(
            zip(found["models"].tolist(), found["families"].tolist(), found["scenes"].tolist(), strict=True)
        ),
        found["owner"],
        found["skills"][found["skill"]],
        np.where(found["score"] == NOT_ASKED, np.nan, found["score"] / np.float32(254)),
        found["tokens"].astype(float),
        dict(zip(found["names"].tolist(), restored(found["predictors"]), strict=True)),
        norm_and_thing=found["norm_and_thing"],
    )


def join(first: Results, second: Results) -> Results:
    """Return the results of two studies of different models as one; what one of them did not run is not known there."""
    cells = tuple(dict.fromkeys([*first.cells, *second.cells]))
    at = [[cells.index(cell) for cell in part.cells] for part in (first, second)]

    def beside(*parts: np.ndarray) -> np.ndarray:
        found = [np.full((len(cells), part.shape[1]), np.nan) for part in parts]
        for table, rows, part in zip(found, at, parts, strict=True):
            table[rows] = part
        return np.hstack(found)

    return Results(
        cells, first.units + second.units, np.concatenate([first.owner, second.owner + len(first.units)]),
        np.concatenate([first.skill, second.skill]), beside(first.score, second.score), beside(first.tokens, second.tokens),
        {name: beside(first.predictors[name], second.predictors[name]) for name in first.predictors},
        first.blind | second.blind, np.concatenate([first.norm_and_thing, second.norm_and_thing]),
    )  # fmt: skip


#: The results of a study that was not run.
EMPTY = Results((), (), np.zeros(0, int), np.zeros(0, str), np.zeros((0, 0)), np.zeros((0, 0)), {})
