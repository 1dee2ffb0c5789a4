"""Spearman's correlation of a predictor and accuracy, over arms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

from analysis.study.bootstrap import Draws, Stratum, mean_known
from analysis.study.tasks import BACKGROUND, THINGS


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the rank correlation along the last axis; NaN where there is nothing to rank."""
    x, y = (rankdata(v, axis=-1) for v in (x, y))
    x, y = (v - v.mean(-1, keepdims=True) for v in (x, y))
    scale = np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    return np.where(scale > 1e-12, (x * y).sum(-1) / np.where(scale > 0, scale, 1), np.nan)


def correlation(
    draws: Draws, name: str, task: str | None = None, keeps: Sequence[float] | None = None, share: float | None = None
) -> np.ndarray:  # fmt: skip
    """Return Spearman's correlation over arms within each budget, mean over budgets and then over strata, (1 + B,).

    Arms are those that drop tokens without reading the question; they are drawn with replacement, as scenes are, and those that keep the same
    tokens count once.

    Parameters
    ----------
    name : str
        A predictor.
    task : str, optional
        Of the questions; without, all.
    keeps : sequence of float, optional
        Budgets; without, all.
    share : float, optional
        Instead of a task: the share of background among questions about things and background.
    """
    results = draws.results

    def one(s: Stratum) -> np.ndarray:
        if share is not None:
            parts = [s.accuracy(results.of_task(t)) for t in (THINGS, BACKGROUND)]
            accuracy = (1 - share) * parts[0] + share * parts[1]
        else:
            accuracy = s.accuracy(None if task is None else results.of_task(task))
        predictor = s.predictor(name)
        found = []
        usable = _usable(s, predictor, accuracy)
        for keep in usable if keeps is None else [k for k in keeps if k in usable]:
            cells = np.array(usable[keep])[draws.drawn_arms(len(usable[keep]))]
            found.append(spearman(*(np.take_along_axis(v, cells, 1) for v in (predictor, accuracy))))
        return mean_known(found) if found else np.full(len(s.weights), np.nan)

    return draws.mean(one)


def _usable(s: Stratum, predictor: np.ndarray, accuracy: np.ndarray) -> dict[float, list[int]]:
    """Return, for every budget of a stratum, the cells of the arms that are known at all its budgets; none where they are fewer than three."""
    known = np.isfinite(predictor[0]) & np.isfinite(accuracy[0])
    cells = {
        k: {a: i for a in s.results.distinct if (i := s.results.index(a, k)) is not None and known[i]}
        for k in s.results.keeps
    }
    cells = {k: found for k, found in cells.items() if found}
    if not cells:
        return {}
    arms = [a for a in s.results.distinct if all(a in found for found in cells.values())]
    return {k: [found[a] for a in arms] for k, found in cells.items()} if len(arms) > 2 else {}
