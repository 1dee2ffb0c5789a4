"""Intervals and rank correlations. Scenes are the unit of resampling: questions of one scene are not independent."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % percentile interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Results:
    """The rows of a study as arrays over (cell, scene).

    cells: (method, keep) in order of first appearance; ``right`` and ``asked`` (cells, scenes) answers right and given;
    ``error`` (cells, scenes) mean relative reconstruction error; ``tokens`` (cells,) mean tokens kept.
    """

    cells: tuple[tuple[str, float], ...]
    scenes: tuple[tuple[int, int], ...]
    right: np.ndarray
    asked: np.ndarray
    error: np.ndarray
    tokens: np.ndarray
    skills: dict[str, np.ndarray]

    def accuracy(self) -> np.ndarray:
        return self.right.sum(1) / self.asked.sum(1)

    def index(self, method: str, keep: float) -> int:
        return self.cells.index((method, keep))

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(m for m, _ in self.cells))

    @property
    def keeps(self) -> list[float]:
        return sorted({k for _, k in self.cells}, reverse=True)


def read(path: Path) -> Results:
    """Read ``rows.csv`` of a study."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError(f"{path} has no rows; run `python -m analysis study` first")
    cells = list(dict.fromkeys((r["method"], float(r["keep"])) for r in rows))
    scenes = sorted({(int(r["seed"]), int(r["scene"])) for r in rows})
    skills = list(dict.fromkeys(r["skill"] for r in rows))
    at_cell, at_scene = ({key: i for i, key in enumerate(keys)} for keys in (cells, scenes))
    right, asked, error, tokens = np.zeros((4, len(cells), len(scenes)))
    by_skill = {s: np.zeros((2, len(cells))) for s in skills}
    for r in rows:
        at = at_cell[r["method"], float(r["keep"])], at_scene[int(r["seed"]), int(r["scene"])]
        right[at] += int(r["right"])
        asked[at] += 1
        error[at] += float(r["error"])
        tokens[at] += float(r["tokens"])
        by_skill[r["skill"]][:, at[0]] += int(r["right"]), 1
    return Results(
        tuple(cells), tuple(scenes), right, asked, error / asked, tokens.sum(1) / asked.sum(1), by_skill
    )


def bootstrap(count: int, statistic: Callable[[np.ndarray], np.ndarray], seed: int = 0) -> np.ndarray:
    """Values of ``statistic(weights)`` over resamples; weights (count,) say how often each scene was drawn."""
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    return np.array([statistic(w) for w in draws])


def interval(value: float, draws: np.ndarray) -> Interval:
    if np.isnan(draws).all():
        return Interval(float(value), float("nan"), float("nan"))
    low, high = np.nanquantile(draws, (0.025, 0.975))
    return Interval(float(value), float(low), float(high))


def accuracies(results: Results) -> list[Interval]:
    """Accuracy of every cell."""
    draws = bootstrap(len(results.scenes), lambda w: results.right @ w / (results.asked @ w))
    return [interval(v, draws[:, i]) for i, v in enumerate(results.accuracy())]


def retained(results: Results) -> list[Interval]:
    """Accuracy of every cell over the accuracy with all tokens, on the same scenes."""
    full = next(i for i, (_, keep) in enumerate(results.cells) if keep == 1)

    def ratio(w: np.ndarray) -> np.ndarray:
        accuracy = results.right @ w / (results.asked @ w)
        return accuracy / max(accuracy[full], 1e-12)

    draws = bootstrap(len(results.scenes), ratio)
    return [interval(v, draws[:, i]) for i, v in enumerate(ratio(np.ones(len(results.scenes))))]


def differences(results: Results, against: str, keep: float) -> dict[str, Interval]:
    """Accuracy of every method minus that of ``against`` at one budget, paired by scene."""
    base = results.index(against, keep)

    def gap(w: np.ndarray) -> np.ndarray:
        accuracy = results.right @ w / (results.asked @ w)
        return accuracy - accuracy[base]

    draws, point = bootstrap(len(results.scenes), gap), gap(np.ones(len(results.scenes)))
    return {
        m: interval(point[i], draws[:, i])
        for i, (m, k) in enumerate(results.cells)
        if k == keep and i != base
    }


def error_against_accuracy(results: Results, chosen: np.ndarray) -> Interval:
    """Spearman correlation of reconstruction error and accuracy over the chosen cells."""
    if chosen.sum() < 3:
        return Interval(float("nan"), float("nan"), float("nan"))

    def correlation(w: np.ndarray) -> float:
        accuracy = (results.right @ w / (results.asked @ w))[chosen]
        error = (results.error @ w / w.sum())[chosen]
        return _spearman(error, accuracy)

    return interval(correlation(np.ones(len(results.scenes))), bootstrap(len(results.scenes), correlation))


def within_cells(results: Results, chosen: np.ndarray) -> Interval:
    """Scene by scene: the mean over cells of the Spearman correlation of error and accuracy *within* a cell.

    This is what a pruner would need in order to say beforehand which images it will get wrong. Cells where the error or
    the accuracy does not vary are left out.
    """
    accuracy = results.right / results.asked

    def mean(w: np.ndarray) -> float:
        at = np.repeat(np.arange(len(w)), w.astype(int))
        values = [_spearman(results.error[i, at], accuracy[i, at]) for i in np.flatnonzero(chosen)]
        return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")

    rng = np.random.default_rng(1)
    count = len(results.scenes)
    draws = [mean(rng.multinomial(count, np.full(count, 1 / count))) for _ in range(200)]
    return interval(mean(np.ones(count)), np.array(draws))


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Correlation of average ranks; NaN where there is nothing to rank (scipy's own is slow inside a bootstrap)."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])


def correlations(results: Results) -> dict[str, Interval]:
    """The question of the study, asked three ways: pooled, within every budget, and image by image."""
    keep = np.array([k for _, k in results.cells])
    # A folded arm carries other features than the ones whose error is measured: it is compared, not correlated.
    plain = np.array(["fold" not in m for m, _ in results.cells]) & (keep < 1)
    found = {"all budgets pooled": error_against_accuracy(results, plain)}
    for k in results.keeps:
        if k < 1:
            found[f"within keep = {k:g}"] = error_against_accuracy(results, plain & (keep == k))
    found["image by image, within a method and budget"] = within_cells(results, plain)
    return found
