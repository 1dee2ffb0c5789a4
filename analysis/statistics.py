"""Statistics of a study, by resampling. They were chosen before the run: docs/study/plan.md says which, and why.

Whatever is estimated is an array whose first row is the sample itself and whose other rows are resamples, drawn alike
for all statistics; so intervals of differences, of several budgets at once, and of correlations come from one place.
Scenes are resampled, within their family and with all their questions, arms and models: questions of a scene are not
independent. Everything is formed in each *stratum* (a model on a family of scenes) and then averaged over strata.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.stats import norm, rankdata

from .study.arms import ARMS, BLIND, FULL
from .study.plan import restored
from .study.predictors import NAMES

RESAMPLES = 1000
LEAST = 8
"""Scenes of a family below which nothing is said about certainty: intervals are NaN."""
Cell = tuple[str, float]


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval, of 95 % unless the text beside it says otherwise."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return self.written("{:.3f}")

    def written(self, pattern: str, scale: float = 1) -> str:
        """As text; what is not known is left out."""
        if np.isnan(self.value):
            return "unknown"
        value, low, high = (pattern.format(scale * v) for v in (self.value, self.low, self.high))
        return (
            f"{value} [{low}, {high}]"
            if np.isfinite([self.low, self.high]).all()
            else f"{value} (no interval)"
        )


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
    right : array (cells, questions) of bool
    ran : array (cells, units) of bool
    tokens : array (cells, units)
    predictors : dict of array (cells, units)
    blind : frozenset of str
        Arms that drop tokens before the language model without reading the question: the correlations are theirs.
    """

    cells: tuple[Cell, ...]
    units: tuple[tuple[str, str, int], ...]
    owner: np.ndarray
    skill: np.ndarray
    right: np.ndarray
    ran: np.ndarray
    tokens: np.ndarray
    predictors: dict[str, np.ndarray]
    blind: frozenset[str] = frozenset(n for n, a in ARMS.items() if a.drops and not a.asks)

    @property
    def arms(self) -> list[str]:
        return list(dict.fromkeys(arm for arm, _ in self.cells))

    @cached_property
    def keeps(self) -> list[float]:
        return sorted({k for _, k in self.cells if 0 < k < 1}, reverse=True)

    @property
    def skills(self) -> list[str]:
        return list(dict.fromkeys(self.skill.tolist()))

    def strata(self) -> list[tuple[str, str]]:
        return list(dict.fromkeys((m, f) for m, f, _ in self.units))

    def index(self, arm: str, keep: float) -> int | None:
        return self._at.get((arm, keep))

    @cached_property
    def _at(self) -> dict[Cell, int]:
        return {cell: i for i, cell in enumerate(self.cells)}

    def only(self, model: str | None = None, family: str | None = None) -> Results:
        """The part of one model, or one family."""
        units = [i for i, (m, f, _) in enumerate(self.units) if model in (None, m) and family in (None, f)]
        asked = np.isin(self.owner, units)
        new = np.cumsum(np.isin(np.arange(len(self.units)), units)) - 1
        return Results(
            self.cells, tuple(self.units[i] for i in units), new[self.owner[asked]], self.skill[asked],
            self.right[:, asked], self.ran[:, units], self.tokens[:, units],
            {name: values[:, units] for name, values in self.predictors.items()}, self.blind,
        )  # fmt: skip


def read(path: Path) -> Results:
    """The packed rows of a study."""
    with np.load(path) as file:
        found = dict(file)
    questions, units = len(found["owner"]), len(found["models"])
    return Results(
        tuple(zip(found["arms"].tolist(), found["keeps"].tolist(), strict=True)),
        tuple(
            zip(found["models"].tolist(), found["families"].tolist(), found["scenes"].tolist(), strict=True)
        ),
        found["owner"],
        found["skills"][found["skill"]],
        np.unpackbits(found["right"], axis=1, count=questions).astype(bool),
        np.unpackbits(found["ran"], axis=1, count=units).astype(bool),
        found["tokens"].astype(float),
        dict(zip(found["names"].tolist(), restored(found["predictors"]), strict=True)),
    )


class Draws:
    """The resamples of a study: everything is (1 + resamples, ...), the sample itself first.

    Parameters
    ----------
    results : Results
    unit : {"scene", "question"}
        What is drawn. Questions are the plainer choice, shown beside the other: they are too sure of themselves.
    """

    def __init__(self, results: Results, unit: str = "scene", seed: int = 0, resamples: int = RESAMPLES):
        self.results = results
        self.strata: list[Stratum] = []
        drawn: dict[object, np.ndarray] = {}
        for model, family in results.strata():
            own = [i for i, u in enumerate(results.units) if u[:2] == (model, family)]
            asked = np.flatnonzero(np.isin(results.owner, own))
            if unit == "scene":
                names = sorted({results.units[i][2] for i in own})
                of_scene = {name: c for c, name in enumerate(names)}
                cluster = np.array([of_scene[results.units[u][2]] for u in results.owner[asked]])
            else:
                names, cluster = list(range(len(asked))), np.arange(len(asked))
            key = (family, tuple(names))  # the same scenes of all models are drawn together
            if key not in drawn:
                rng = np.random.default_rng([seed, len(drawn)])
                weights = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
                drawn[key] = np.concatenate([np.ones((1, len(names))), weights])
            scene = (
                np.array([cluster[results.owner[asked] == i][0] for i in own]) if unit == "scene" else None
            )
            self.strata.append(Stratum(results, model, family, asked, cluster, own, scene, drawn[key]))
        if any(weights.shape[1] < LEAST for weights in drawn.values()):
            for weights in drawn.values():
                weights[1:] = np.nan

    def mean(self, statistic: Callable[[Stratum], np.ndarray]) -> np.ndarray:
        """The mean over strata; those where it is NaN are left out."""
        return mean_known([statistic(s) for s in self.strata])

    @cached_property
    def accuracy(self) -> np.ndarray:
        """(1 + B, cells)."""
        return self.mean(lambda s: s.accuracy())

    def gap(self, arm: str, against: str, keep: float, skills: Sequence[str] | None = None) -> np.ndarray:
        """Accuracy of one arm minus another's, paired, (1 + B,)."""
        i, j = self.results.index(arm, keep), self.results.index(against, keep)
        if i is None or j is None:
            return np.full(len(self.strata[0].weights), np.nan)
        return self.mean(lambda s: s.accuracy(skills, [i])[:, 0] - s.accuracy(skills, [j])[:, 0])

    def gaps(
        self, arm: str, against: str, keeps: Sequence[float], skills: Sequence[str] | None = None
    ) -> np.ndarray:
        """The mean of `gap` over budgets."""
        return np.mean([self.gap(arm, against, k, skills) for k in keeps], axis=0)


class Stratum:
    """One model on one family of scenes."""

    def __init__(self, results, model, family, asked, cluster, own, scene, weights):
        self.results, self.model, self.family = results, model, family
        self.asked, self.cluster, self.own, self.scene, self.weights = asked, cluster, own, scene, weights
        self._cache: dict[object, np.ndarray] = {}

    def counts(self, skills: Sequence[str] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Right answers and questions, (cells, clusters); a cell that a scene did not run counts none."""
        key = ("counts", None if skills is None else tuple(skills))
        if key not in self._cache:
            chosen = self.asked
            cluster = self.cluster
            if skills is not None:
                mine = np.isin(self.results.skill[chosen], skills)
                chosen, cluster = chosen[mine], cluster[mine]
            one_hot = np.zeros((len(chosen), self.weights.shape[1]), np.float32)
            one_hot[np.arange(len(chosen)), cluster] = 1
            ran = self.results.ran[:, self.results.owner[chosen]]
            right = (self.results.right[:, chosen] & ran).astype(np.float32) @ one_hot
            self._cache[key] = np.stack([right, ran.astype(np.float32) @ one_hot])
        right, asked = self._cache[key]
        return right, asked

    def accuracy(self, skills: Sequence[str] | None = None, cells: Sequence[int] | None = None) -> np.ndarray:
        """(1 + B, cells)."""
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

    def by_scene(self, values: np.ndarray) -> np.ndarray:
        """(cells, units of the study) as (cells, clusters)."""
        found = np.full((len(values), self.weights.shape[1]), np.nan)
        found[:, self.scene] = values[:, self.own]
        return found

    def predictor(self, name: str) -> np.ndarray:
        """Mean over scenes, (1 + B, cells)."""
        key = ("predictor", name)
        if key not in self._cache:
            values = self.by_scene(self.results.predictors[name])
            good = np.isfinite(values)
            total = self.weights @ good.T.astype(float)
            sums = self.weights @ np.where(good, values, 0).T
            self._cache[key] = np.where(total > 0, sums / np.maximum(total, 1), np.nan)
        return self._cache[key]


# ---- intervals


def interval(values: np.ndarray) -> Interval:
    """Percentile interval of (1 + B,)."""
    if not np.isfinite(values[0]) or np.isnan(values[1:]).all():
        return Interval(float(values[0]), float("nan"), float("nan"))
    low, high = np.nanquantile(values[1:], (0.025, 0.975))
    return Interval(float(values[0]), float(low), float(high))


def band(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends of `interval` for (1 + B, m)."""
    bars = [interval(column) for column in values.T]
    return np.array([b.low for b in bars]), np.array([b.high for b in bars])


def simultaneous(values: np.ndarray, level: float = 0.95) -> list[Interval]:
    """Intervals of (1 + B, m) that hold all together: studentised, with the quantile of the largest deviation (max-t)."""
    point, draws = values[0], values[1:]
    spread = _spread(draws)
    with np.errstate(invalid="ignore", divide="ignore"):
        deviation = np.abs(draws - point) / spread
    known = np.isfinite(deviation)
    wide = float(np.quantile(np.where(known, deviation, 0).max(1), level)) if known.any() else 0.0
    return [
        Interval(float(v), float(v - wide * s), float(v + wide * s))
        for v, s in zip(point, spread, strict=True)
    ]


def _spread(draws: np.ndarray) -> np.ndarray:
    """Standard deviation over resamples (B, m); NaN where fewer than two are known."""
    good = np.isfinite(draws)
    count = np.maximum(good.sum(0), 1)
    mean = np.where(good, draws, 0).sum(0) / count
    spread = np.sqrt(np.where(good, (draws - mean) ** 2, 0).sum(0) / count)
    return np.where(good.sum(0) > 1, spread, np.nan)


def p_values(values: np.ndarray) -> np.ndarray:
    """Two-sided p of zero for each of (1 + B, m), from the bootstrap's standard error."""
    spread = _spread(values[1:])
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(
            spread > 0, 2 * norm.sf(np.abs(values[0]) / spread), np.where(values[0] == 0, 1.0, 0.0)
        )


def holm(p: np.ndarray) -> np.ndarray:
    """p adjusted so that the chance of any false rejection stays below the level (Holm 1979)."""
    order = np.argsort(p)
    steps = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    found = np.empty(len(p))
    found[order] = np.minimum(steps, 1)
    return found


# ---- error and accuracy


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Rank correlation along the last axis; NaN where there is nothing to rank."""
    return pearson(rankdata(x, axis=-1), rankdata(y, axis=-1))


def pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = (v - v.mean(-1, keepdims=True) for v in (x, y))
    scale = np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    return np.where(scale > 1e-12, (x * y).sum(-1) / np.where(scale > 0, scale, 1), np.nan)


def _cells(results: Results, keep: float | None, arms: frozenset[str] | None = None) -> list[int]:
    arms = results.blind if arms is None else arms
    return [
        i
        for i, (a, k) in enumerate(results.cells)
        if a in arms and (0 < k < 1 if keep is None else k == keep)
    ]


def _usable(s: Stratum, cells: list[int], name: str) -> list[int]:
    """Cells with a predictor, of two or more different values in all."""
    values = s.predictor(name)[0]
    return [i for i in cells if np.isfinite(values[i])]


def within(draws: Draws, keep: float, name: str = "error", skills: Sequence[str] | None = None) -> np.ndarray:
    """Spearman correlation over arms at one budget, (1 + B,), mean over strata."""

    def one(s: Stratum) -> np.ndarray:
        cells = _usable(s, _cells(draws.results, keep), name)
        if len(cells) < 3:
            return np.full(len(s.weights), np.nan)
        return spearman(s.predictor(name)[:, cells], s.accuracy(skills)[:, cells])

    return draws.mean(one)


def pooled(draws: Draws, name: str = "error") -> np.ndarray:
    """Spearman correlation over all arms and budgets: mostly the budget."""

    def one(s: Stratum) -> np.ndarray:
        cells = _usable(s, _cells(draws.results, None), name)
        return (
            spearman(s.predictor(name)[:, cells], s.accuracy()[:, cells])
            if len(cells) > 2
            else np.full(len(s.weights), np.nan)
        )

    return draws.mean(one)


def partial(draws: Draws, name: str = "error") -> np.ndarray:
    """Correlation given the budget: ranks within each budget, as shares, pooled over budgets."""

    def one(s: Stratum) -> np.ndarray:
        xs, ys = [], []
        for keep in draws.results.keeps:
            cells = _usable(s, _cells(draws.results, keep), name)
            if len(cells) > 2:
                for values, into in ((s.predictor(name), xs), (s.accuracy(), ys)):
                    ranks = rankdata(values[:, cells], axis=-1)
                    into.append((ranks - ranks.mean(-1, keepdims=True)) / len(cells))
        return (
            pearson(np.concatenate(xs, -1), np.concatenate(ys, -1)) if xs else np.full(len(s.weights), np.nan)
        )

    return draws.mean(one)


def across_images(draws: Draws, name: str = "error", keep: float | None = None) -> np.ndarray:
    """Within an arm at a budget, over scenes: does it answer worse where its error is larger? Mean over such cells.

    Ranks are those of the sample; resampling weighs them.
    """

    def one(s: Stratum) -> np.ndarray:
        cells = _cells(draws.results, keep)
        right, asked = s.counts()
        total = np.zeros(len(s.weights))
        count = np.zeros(len(s.weights))
        values = s.by_scene(draws.results.predictors[name])
        for i in cells:
            at = np.flatnonzero((asked[i] > 0) & np.isfinite(values[i]))
            if len(at) < 4:
                continue
            rho = _weighted(rankdata(values[i, at]), rankdata(right[i, at] / asked[i, at]), s.weights[:, at])
            good = np.isfinite(rho)
            total[good] += rho[good]
            count += good
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    return draws.mean(one)


def across_arms(draws: Draws, name: str = "error", keep: float | None = None) -> np.ndarray:
    """Within one scene at a budget, over arms: is the arm with the lower error right more often? Mean over scenes."""

    def one(s: Stratum) -> np.ndarray:
        right, asked = s.counts()
        values = s.by_scene(draws.results.predictors[name])
        per_scene = []
        for k in draws.results.keeps if keep is None else [keep]:
            cells = _cells(draws.results, k)
            with np.errstate(invalid="ignore"):
                share = right[cells] / np.where(asked[cells] > 0, asked[cells], np.nan)
            full = np.isfinite(values[cells]).all(0) & np.isfinite(share).all(0)
            rho = np.full(values.shape[1], np.nan)
            if full.any() and len(cells) > 2:
                rho[full] = spearman(values[cells][:, full].T, share[:, full].T)
            per_scene.append(rho)
        rho = np.stack(per_scene)
        good = np.isfinite(rho)
        count = s.weights @ good.sum(0)
        return np.where(count > 0, s.weights @ np.where(good, rho, 0).sum(0) / np.maximum(count, 1), np.nan)

    return draws.mean(one)


def _weighted(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Pearson correlation of x and y (n,) under each row of weights (1 + B, n)."""
    total = np.maximum(w.sum(1), 1)
    mx, my = w @ x / total, w @ y / total
    vx, vy = w @ x**2 / total - mx**2, w @ y**2 / total - my**2
    cov = w @ (x * y) / total - mx * my
    scale = np.sqrt(np.maximum(vx, 0) * np.maximum(vy, 0))
    return np.where(scale > 1e-9, cov / np.where(scale > 0, scale, 1), np.nan)


# ---- error as a proxy


def proxy(draws: Draws, name: str = "error") -> dict[str, np.ndarray]:
    """How well accuracy is foretold out of sample: 1 − (squared error of the forecast) / (that of the budget alone).

    - ``unseen pruner``: mean accuracy of the other pruners at that budget, plus a slope in the predictor that they share;
    - ``unseen pruner and budget``: the same, with mean accuracy, mean predictor and slope taken from the other budgets
      (interpolated over the logarithm of the tokens; only budgets between others);
    - ``error alone``: the same cells, from a parabola in the predictor through the other pruners and budgets, no budget known.

    The budget alone is the same forecast without the predictor. 0: it adds nothing; 1: it tells all; < 0: it misleads.
    """
    parts = [_proxy(s, draws.results, name) for s in draws.strata]
    return {
        rule: mean_known([part[rule] for part in parts])
        for rule in ("unseen pruner", "unseen pruner and budget", "error alone")
    }


def mean_known(values: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of several arrays, entry by entry, without those that are NaN."""
    table = np.stack(values)
    good = np.isfinite(table)
    return np.where(good.any(0), np.where(good, table, 0).sum(0) / np.maximum(good.sum(0), 1), np.nan)


def _proxy(s: Stratum, results: Results, name: str) -> dict[str, np.ndarray]:
    keeps = results.keeps
    arms = [
        a for a in results.arms
        if a in results.blind and all((i := results.index(a, k)) is not None and np.isfinite(s.predictor(name)[0, i]) for k in keeps)
    ]  # fmt: skip
    nothing = dict.fromkeys(
        ("unseen pruner", "unseen pruner and budget", "error alone"), np.full(len(s.weights), np.nan)
    )
    if len(arms) < 4 or not keeps:
        return nothing
    at = [[results.index(a, k) for a in arms] for k in keeps]
    y, x = (
        np.stack([v[:, row] for row in at], 1) for v in (s.accuracy(), s.predictor(name))
    )  # (1 + B, K, A)
    if np.isnan(y).any():
        return nothing
    count = len(arms)
    others = lambda v: (v.sum(2, keepdims=True) - v) / (count - 1)  # noqa: E731
    my, mx = others(y), others(x)  # without the pruner in question
    # Centred sums over the other pruners at each budget: Σ (x − m)(y − m) = Σxy − n·mx·my.
    sxy = (x * y).sum(2, keepdims=True) - x * y - (count - 1) * mx * my
    sxx = (x * x).sum(2, keepdims=True) - x * x - (count - 1) * mx * mx
    slope = sxy.sum(1, keepdims=True) / np.maximum(sxx.sum(1, keepdims=True), 1e-12)
    found = {"unseen pruner": _skill(y, my + slope * (x - mx), my)}
    if len(keeps) < 4:
        return nothing | found
    inner = range(1, len(keeps) - 1)
    tokens = np.log([results.tokens[row].mean() for row in at])
    base, both, alone = [], [], []
    for k in inner:
        rest = [j for j in range(len(keeps)) if j != k]
        t = (tokens[k] - tokens[k - 1]) / (tokens[k + 1] - tokens[k - 1])
        between = lambda v: (1 - t) * v[:, k - 1] + t * v[:, k + 1]  # noqa: B023, E731
        b = sxy[:, rest].sum(1) / np.maximum(sxx[:, rest].sum(1), 1e-12)
        base.append(between(my))
        both.append(between(my) + b * (x[:, k] - between(mx)))
        alone.append(_parabola(x[:, rest], y[:, rest], x[:, k]))
    target, floor = y[:, 1:-1], np.stack(base, 1)
    found["unseen pruner and budget"] = _skill(target, np.stack(both, 1), floor)
    found["error alone"] = _skill(target, np.stack(alone, 1), floor)
    return found


def _skill(truth: np.ndarray, forecast: np.ndarray, base: np.ndarray) -> np.ndarray:
    off = ((truth - base) ** 2).sum((1, 2))
    return 1 - ((truth - forecast) ** 2).sum((1, 2)) / np.maximum(off, 1e-12)


def _parabola(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Forecasts (1 + B, A) at `at` from a least-squares parabola through x, y (1 + B, K, A) without the own pruner."""
    powers = np.stack([np.ones_like(x), x, x**2], -1)  # (1 + B, K, A, 3)
    gram = np.einsum("bkai,bkaj->baij", powers, powers)
    load = np.einsum("bkai,bka->bai", powers, y)
    gram, load = gram.sum(1, keepdims=True) - gram, load.sum(1, keepdims=True) - load
    gram = gram + 1e-9 * np.eye(3)
    weights = np.linalg.solve(gram, load[..., None])[..., 0]
    return weights[..., 0] + weights[..., 1] * at + weights[..., 2] * at**2


# ---- rankings


def ranks(draws: Draws, arms: Sequence[str], keeps: Sequence[float]) -> np.ndarray:
    """Mean rank (1 is best) of each arm over skills, budgets and strata, (1 + B, arms): every skill counts alike."""

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
    """Accuracy over that with all tokens, (1 + B, cells)."""
    full = draws.results.index(FULL, 1.0)
    return draws.accuracy / np.maximum(draws.accuracy[:, [full]], 1e-12)


def full_and_blind(draws: Draws) -> tuple[Interval, Interval]:
    """Accuracy with all tokens and with none."""
    cells = [draws.results.index(FULL, 1.0), draws.results.index(BLIND, 0.0)]
    both = [
        Interval(float("nan"), float("nan"), float("nan")) if i is None else interval(draws.accuracy[:, i])
        for i in cells
    ]
    return both[0], both[1]


PREDICTORS = tuple(NAMES)
