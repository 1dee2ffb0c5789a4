"""Resamples of a study, and intervals from them; docs/study/plan.md says which were chosen, and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.stats import rankdata

from analysis.study.arms import BLIND, FULL
from analysis.study.results import Results

RESAMPLES = 1000
#: Scenes of a family below which intervals are NaN, as too few clusters remain.
LEAST = 8


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval, of 95 % unless the text beside it says otherwise."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return self.written("{:.3f}")

    def written(self, pattern: str, scale: float = 1) -> str:
        """Return the interval as text; what is not known is left out."""
        if np.isnan(self.value):
            return "unknown"
        value, low, high = (pattern.format(scale * v) for v in (self.value, self.low, self.high))
        return (
            f"{value} [{low}, {high}]"
            if np.isfinite([self.low, self.high]).all()
            else f"{value} (no interval)"
        )


class Draws:
    """The resamples of a study: everything is (1 + resamples, ...), the sample itself first.

    Resamples are drawn alike for all statistics, so intervals of differences, of several budgets at once, and of
    correlations come from one place. Scenes are resampled, within their family and with all their questions, arms and
    models: questions of a scene are not independent. Everything is formed in each *stratum* (a model on a family of
    scenes) and then averaged over strata. Correlations over arms draw the arms, too.
    """

    def __init__(self, results: Results, seed: int = 0, resamples: int = RESAMPLES):
        self.results, self.seed = results, seed
        self.strata: list[Stratum] = []
        drawn: dict[object, np.ndarray] = {}
        for model, family in results.strata():
            own = [i for i, u in enumerate(results.units) if u[:2] == (model, family)]
            asked = np.flatnonzero(np.isin(results.owner, own))
            names = sorted({results.units[i][2] for i in own})
            of_scene = {name: c for c, name in enumerate(names)}
            cluster = np.array([of_scene[results.units[u][2]] for u in results.owner[asked]])
            key = (family, tuple(names))  # the same scenes of all models are drawn together
            if key not in drawn:
                rng = np.random.default_rng([seed, len(drawn)])
                weights = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
                drawn[key] = np.concatenate([np.ones((1, len(names))), weights])
            scene = np.array([of_scene[results.units[i][2]] for i in own])
            self.strata.append(Stratum(results, model, family, asked, cluster, own, scene, drawn[key]))
        if any(weights.shape[1] < LEAST for weights in drawn.values()):
            for weights in drawn.values():
                weights[1:] = np.nan

    def mean(self, statistic: Callable[[Stratum], np.ndarray]) -> np.ndarray:
        """Return the mean over strata; those where it is NaN are left out."""
        return mean_known([statistic(s) for s in self.strata])

    @cached_property
    def accuracy(self) -> np.ndarray:
        """(1 + B, cells)."""
        return self.mean(lambda s: s.accuracy())

    def gap(self, arm: str, against: str, keep: float, skills: Sequence[str] | None = None) -> np.ndarray:
        """Return the accuracy of one arm minus another's, paired, (1 + B,)."""
        return self.gaps(arm, against, [keep], skills)

    def gaps(
        self, arm: str, against: str, keeps: Sequence[float], skills: Sequence[str] | None = None
    ) -> np.ndarray:
        """Return the mean over budgets, in each stratum over those that it has run, of the paired difference, (1 + B,)."""
        cells = [(self.results.index(arm, k), self.results.index(against, k)) for k in keeps]
        pairs = [(i, j) for i, j in cells if i is not None and j is not None]
        if not pairs:
            return np.full(len(self.strata[0].weights), np.nan)
        return self.mean(lambda s: mean_known([s.gap(i, j, skills) for i, j in pairs]))

    def drawn_arms(self, count: int) -> np.ndarray:
        """Return places among so many arms, drawn with replacement, (1 + B, count); the first row is all of them."""
        resamples = len(self.strata[0].weights) - 1
        drawn = np.random.default_rng([self.seed, count, 1]).integers(count, size=(resamples, count))
        return np.concatenate([np.arange(count)[None], drawn])


class Stratum:
    """One model on one family of scenes."""

    def __init__(self, results, model, family, asked, cluster, own, scene, weights):
        self.results, self.model, self.family = results, model, family
        self.asked, self.cluster, self.own, self.scene, self.weights = asked, cluster, own, scene, weights
        self._cache: dict[object, np.ndarray] = {}

    def counts(self, skills: Sequence[str] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the sum of scores and the questions asked, (cells, clusters); a cell that a scene did not run counts none."""
        key = ("counts", None if skills is None else tuple(skills))
        if key not in self._cache:
            chosen = self.asked
            cluster = self.cluster
            if skills is not None:
                mine = np.isin(self.results.skill[chosen], skills)
                chosen, cluster = chosen[mine], cluster[mine]
            one_hot = np.zeros((len(chosen), self.weights.shape[1]), np.float32)
            one_hot[np.arange(len(chosen)), cluster] = 1
            score = self.results.score[:, chosen]
            known = np.isfinite(score)
            right = np.where(known, score, 0).astype(np.float32) @ one_hot
            self._cache[key] = np.stack([right, known.astype(np.float32) @ one_hot])
        right, asked = self._cache[key]
        return right, asked

    def accuracy(self, skills: Sequence[str] | None = None, cells: Sequence[int] | None = None) -> np.ndarray:
        """Return the accuracy of every cell, (1 + B, cells)."""
        if cells is None:
            key = ("accuracy", None if skills is None else tuple(skills))
            if key not in self._cache:
                self._cache[key] = self._accuracy(skills, list(range(len(self.results.cells))))
            return self._cache[key]
        return self._accuracy(skills, list(cells))

    def _accuracy(self, skills: Sequence[str] | None, cells: list[int]) -> np.ndarray:
        right, asked = (x[cells] for x in self.counts(skills))
        total = self.weights @ asked.T
        return np.where(total > 0, self.weights @ right.T / np.maximum(total, 1), np.nan)

    def gap(self, i: int, j: int, skills: Sequence[str] | None = None) -> np.ndarray:
        """Return the accuracy of cell i minus that of cell j over the scenes that both ran, (1 + B,)."""
        right, asked = self.counts(skills)
        both = (asked[i] > 0) & (asked[j] > 0)
        total = self.weights @ (asked[i] * both)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(total > 0, self.weights @ ((right[i] - right[j]) * both) / total, np.nan)

    def by_scene(self, values: np.ndarray) -> np.ndarray:
        """Return (cells, units of the study) as (cells, clusters)."""
        found = np.full((len(values), self.weights.shape[1]), np.nan)
        found[:, self.scene] = values[:, self.own]
        return found

    def predictor(self, name: str) -> np.ndarray:
        """Return the mean over scenes, (1 + B, cells)."""
        key = ("predictor", name)
        if key not in self._cache:
            values = self.by_scene(self.results.predictors[name])
            good = np.isfinite(values)
            total = self.weights @ good.T.astype(float)
            sums = self.weights @ np.where(good, values, 0).T
            self._cache[key] = np.where(total > 0, sums / np.maximum(total, 1), np.nan)
        return self._cache[key]


def mean_known(values: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean of several arrays, entry by entry, without those that are NaN."""
    table = np.stack(values)
    good = np.isfinite(table)
    return np.where(good.any(0), np.where(good, table, 0).sum(0) / np.maximum(good.sum(0), 1), np.nan)


# ---- intervals


def interval(values: np.ndarray, level: float = 0.95, within: float = np.inf) -> Interval:
    """Return the basic bootstrap interval of (1 + B,): twice the estimate minus the quantiles of the resamples.

    ``within``: 1 for correlations and accuracies, whose intervals are cut at −1 and 1. Percentile intervals of correlations are biased, as noise pulls resampled
    correlations towards zero; the basic interval turns that bias round. Davison and Hinkley, Bootstrap Methods and their
    Application, 1997, section 5.2.
    """
    if not np.isfinite(values[0]) or np.isnan(values[1:]).all():
        return Interval(float(values[0]), float("nan"), float("nan"))
    low, high = np.nanquantile(values[1:], ((1 - level) / 2, (1 + level) / 2))
    return _cut(values[0], 2 * values[0] - high, 2 * values[0] - low, within)


def _cut(value: float, low: float, high: float, within: float) -> Interval:
    return Interval(float(value), float(np.maximum(low, -within)), float(np.minimum(high, within)))


def band(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return lower and upper ends of `interval` for (1 + B, m)."""
    bars = [interval(column) for column in values.T]
    return np.array([b.low for b in bars]), np.array([b.high for b in bars])


def simultaneous(
    values: np.ndarray, level: float = 0.95, within: float | Sequence[float] = np.inf
) -> list[Interval]:
    """Return the intervals of (1 + B, m) that hold all together: studentised, with the quantile of the largest deviation (max-t).

    ``within``: what they are cut at, one number for all or one for each.
    """
    point, draws = values[0], values[1:]
    spread = _spread(draws)
    with np.errstate(invalid="ignore", divide="ignore"):
        deviation = np.abs(draws - point) / spread
    known = np.isfinite(deviation)
    wide = float(np.quantile(np.where(known, deviation, 0).max(1), level)) if known.any() else 0.0
    bounds = np.broadcast_to(within, point.shape)
    return [_cut(v, v - wide * s, v + wide * s, w) for v, s, w in zip(point, spread, bounds, strict=True)]


def _spread(draws: np.ndarray) -> np.ndarray:
    """Return the standard deviation over resamples (B, m); NaN where fewer than two are known."""
    good = np.isfinite(draws)
    count = np.maximum(good.sum(0), 1)
    mean = np.where(good, draws, 0).sum(0) / count
    spread = np.sqrt(np.where(good, (draws - mean) ** 2, 0).sum(0) / count)
    return np.where(good.sum(0) > 1, spread, np.nan)


# ---- what is drawn from them


def ranks(draws: Draws, arms: Sequence[str], keeps: Sequence[float]) -> np.ndarray:
    """Return the mean rank (1 is best) of each arm over skills, budgets and strata, (1 + B, arms): every skill counts alike."""

    def one(s: Stratum) -> np.ndarray:
        found = []
        own = list(dict.fromkeys(s.results.skill[s.asked].tolist()))
        for keep in keeps:
            cells = [draws.results.index(a, keep) for a in arms]
            if None in cells:
                continue
            found += [rankdata(-s.accuracy([skill], cells), axis=1) for skill in own]
        return np.mean(found, axis=0) if found else np.full((len(s.weights), len(arms)), np.nan)

    return draws.mean(one)


def retained(draws: Draws) -> np.ndarray:
    """Return the accuracy over that with all tokens on the same scenes, (1 + B, cells)."""
    full = draws.results.index(FULL, 1.0)
    lost = np.stack([draws.mean(lambda s, i=i: s.gap(full, i)) for i in range(len(draws.results.cells))], 1)
    return draws.accuracy / np.maximum(draws.accuracy + lost, 1e-12)


def full_and_blind(draws: Draws) -> tuple[Interval, Interval]:
    """Return the accuracy with all tokens and with none."""
    cells = [draws.results.index(FULL, 1.0), draws.results.index(BLIND, 0.0)]
    both = [
        Interval(float("nan"), float("nan"), float("nan")) if i is None else interval(draws.accuracy[:, i])
        for i in cells
    ]
    return both[0], both[1]
