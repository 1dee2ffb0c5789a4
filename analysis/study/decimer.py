"""Rows of DECIMER on drawn molecules, which ``python -m analysis real --pack`` writes, as results of the study.

Every molecule is a scene, every drawing of it a question, to write down all that is there; the score is the share of right symbols, given
the ones before. Drawings count that are read exactly from all tokens.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from analysis.study.arms import FULL
from analysis.study.predictors import NAMES, PS, error_name
from analysis.study.results import Results

MODEL, FAMILY, SKILL = "DECIMER", "drawings", "transcription"
TOKENS = 256
#: Rows of both pretrained models, which belong to the shipped rows of the study.
SHIPPED = Path(__file__).parents[1] / "real" / "rows.npz"
#: Molecules below this number explore, the others confirm.
CONFIRM = 100
#: How molecules are drawn, by the plan: wide bonds, turned, noise, low contrast.
STYLES = ("thick", "rotated", "noisy", "faint")
#: Arms that have another name in the study.
ARMS = {"residual": "spare"}


def beside(rows: Path) -> Path:
    """Return the file with the drawings that belong to packed rows of the study: ``decimer.npz`` beside all but the shipped ones."""
    return SHIPPED if rows.parent == Path(__file__).parent else rows.with_name("decimer.npz")


def read(path: Path, confirm: bool = False) -> Results:
    """Return the rows of the molecules that explore, or of those that confirm.

    Raises
    ------
    ValueError
        The file has no rows of these molecules.
    """
    with np.load(path) as file:
        columns = {
            name: file[name] for name in ("content", "group", "number", "arm", "keep", "accuracy", "exact")
        }
        columns |= {error_name(p): file[f"error {p:g}"] for p in PS if f"error {p:g}" in file}
    exact = columns["content"][(columns["arm"] == FULL) & (columns["exact"] == 1)]
    at = np.flatnonzero(np.isin(columns["group"], STYLES) & np.isin(columns["content"], exact))
    number = np.zeros(len(columns["arm"]), dtype=int)
    number[at] = columns["number"][at].astype(int)
    at = at[(number[at] >= CONFIRM) == confirm]
    at = at[~np.char.endswith(columns["arm"][at].astype(str), "(oracle)")]
    if not len(at):
        raise ValueError(
            f"{path}: expected rows of molecules {'from' if confirm else 'below'} number {CONFIRM} that are read exactly from all tokens."
        )
    drawn = [(int(number[i]), str(columns["group"][i])) for i in at]
    questions = sorted(set(drawn))
    molecules = sorted({molecule for molecule, _ in questions})
    owner = np.array([molecules.index(molecule) for molecule, _ in questions])
    arms = [ARMS.get(arm, arm) for arm in columns["arm"][at].tolist()]
    cells = list(dict.fromkeys(zip(arms, (columns["keep"][at].astype(int) / TOKENS).tolist(), strict=True)))
    score = np.full((len(cells), len(questions)), np.nan)
    errors = {error_name(p): np.full(score.shape, np.nan) for p in PS}
    for i, arm, one in zip(at, arms, drawn, strict=True):
        place = cells.index((arm, int(columns["keep"][i]) / TOKENS)), questions.index(one)
        score[place] = 1.0 if arm == FULL else columns["accuracy"][i]
        for name, values in errors.items():
            values[place] = columns[name][i] if name in columns else np.nan
    of_molecule = [owner == i for i in range(len(molecules))]
    known = np.stack([np.isfinite(score[:, own]).any(1) for own in of_molecule], 1)
    shares = np.array([keep for _, keep in cells])
    predictors = {name: np.full(known.shape, np.nan) for name in NAMES}
    predictors |= {
        name: np.stack([_mean(values[:, own]) for own in of_molecule], 1) for name, values in errors.items()
    }
    return Results(
        tuple(cells),
        tuple((MODEL, FAMILY, str(molecule)) for molecule in molecules),
        owner,
        np.full(len(questions), SKILL),
        score,
        np.where(known, TOKENS * shares[:, None], np.nan),
        predictors,
        frozenset(arm for arm in arms if arm != FULL),
        np.full(len(molecules), np.nan),
    )


def _mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over the last axis of what is known."""
    known = np.isfinite(values)
    return np.where(known.any(1), np.where(known, values, 0).sum(1) / np.maximum(known.sum(1), 1), np.nan)
