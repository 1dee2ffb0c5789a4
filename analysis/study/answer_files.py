"""Answers to one question, cell by cell, in a file that records what they were made from and is used for nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from analysis.study import digest
from analysis.study.arms import Arm
from analysis.study.units import write


class Answer(NamedTuple):
    """The answer of one arm at one budget.

    Attributes
    ----------
    said : str
    tokens : int
        Visual tokens kept; 0 where the arm cannot keep so few, and nothing was asked.
    seconds : float
        To choose them.
    elapsed : float
        Seconds of the whole answer.
    predictors : array (predictors,)
        As in `predictors.NAMES`.
    """

    said: str
    tokens: int
    seconds: float
    elapsed: float
    predictors: np.ndarray


def key(arm: Arm | None, keep: float) -> str:
    """Return what `prune` is given in a cell; an arm of another name that gives it the same has the same key."""
    if arm is None:
        return "all tokens"
    return repr((arm.method, arm.relevance, arm.fold, sorted(arm.options.items()), float(keep)))


def load(folder: Path, made_from: Mapping[str, str]) -> dict[str, Answer]:
    """Return the answers by the keys of their cells; none where there is no file, or one that is damaged or made from anything else."""
    try:
        with _path(folder, made_from).open("rb") as file:
            found = dict(np.load(file))
        if json.loads(str(found["made_from"])) != dict(made_from):
            return {}
        columns = (found[name] for name in ("cells", *Answer._fields))
        return {
            str(cell): Answer(str(said), int(tokens), float(seconds), float(elapsed), predictors)
            for cell, said, tokens, seconds, elapsed, predictors in zip(*columns, strict=True)
        }
    except Exception:  # a damaged archive fails in as many ways as it has bytes
        return {}


def save(folder: Path, made_from: Mapping[str, str], answers: Mapping[str, Answer]) -> None:
    """Write the whole file or none of it."""
    columns = {name: np.array([getattr(a, name) for a in answers.values()]) for name in Answer._fields}
    made = np.array(json.dumps(dict(made_from)))
    write(_path(folder, made_from), made_from=made, cells=np.array(list(answers)), **columns)


def _path(folder: Path, made_from: Mapping[str, str]) -> Path:
    return folder / f"{digest.of_parts(made_from.items())}.npz"
