"""Correlations of a predictor, mostly the reconstruction error, with accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

from analysis.study.bootstrap import Draws, Stratum
from analysis.study.results import Results


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the rank correlation along the last axis; NaN where there is nothing to rank."""
    return pearson(rankdata(x, axis=-1), rankdata(y, axis=-1))


def pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation along the last axis; NaN where one side is constant."""
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
    """Return the cells with a predictor, of two or more different values in all."""
    values = s.predictor(name)[0]
    return [i for i in cells if np.isfinite(values[i])]


def within(draws: Draws, keep: float, name: str = "error", skills: Sequence[str] | None = None) -> np.ndarray:
    """Return Spearman correlation over arms at one budget, (1 + B,), mean over strata."""

    def one(s: Stratum) -> np.ndarray:
        cells = _usable(s, _cells(draws.results, keep), name)
        if len(cells) < 3:
            return np.full(len(s.weights), np.nan)
        return spearman(s.predictor(name)[:, cells], s.accuracy(skills)[:, cells])

    return draws.mean(one)


def pooled(draws: Draws, name: str = "error") -> np.ndarray:
    """Return Spearman correlation over all arms and budgets: mostly the budget."""

    def one(s: Stratum) -> np.ndarray:
        cells = _usable(s, _cells(draws.results, None), name)
        return (
            spearman(s.predictor(name)[:, cells], s.accuracy()[:, cells])
            if len(cells) > 2
            else np.full(len(s.weights), np.nan)
        )

    return draws.mean(one)


def partial(draws: Draws, name: str = "error") -> np.ndarray:
    """Return the correlation given the budget: ranks within each budget, as shares, pooled over budgets."""

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
    """Return the correlation over scenes within an arm and budget, mean over such cells: does it answer worse at a larger error?

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
    """Return the correlation over arms within a scene and budget, mean over scenes: is the arm of lower error right more often?"""

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
    """Return Pearson correlation of x and y (n,) under each row of weights (1 + B, n)."""
    total = np.maximum(w.sum(1), 1)
    mx, my = w @ x / total, w @ y / total
    vx, vy = w @ x**2 / total - mx**2, w @ y**2 / total - my**2
    cov = w @ (x * y) / total - mx * my
    scale = np.sqrt(np.maximum(vx, 0) * np.maximum(vy, 0))
    return np.where(scale > 1e-9, cov / np.where(scale > 0, scale, 1), np.nan)
