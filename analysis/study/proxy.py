"""How well a predictor foretells the accuracy of pruners and budgets that were not seen."""

from __future__ import annotations

import numpy as np

from analysis.study.bootstrap import Draws, Stratum, mean_known
from analysis.study.results import Results


def proxy(draws: Draws, name: str = "error") -> dict[str, np.ndarray]:
    """Return how well accuracy is foretold out of sample: 1 − (squared error of the forecast) / (that of the budget alone).

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
    """Return the forecasts (1 + B, A) at `at` from a least-squares parabola through x, y (1 + B, K, A) without the own pruner."""
    powers = np.stack([np.ones_like(x), x, x**2], -1)  # (1 + B, K, A, 3)
    gram = np.einsum("bkai,bkaj->baij", powers, powers)
    load = np.einsum("bkai,bka->bai", powers, y)
    gram, load = gram.sum(1, keepdims=True) - gram, load.sum(1, keepdims=True) - load
    gram = gram + 1e-9 * np.eye(3)
    weights = np.linalg.solve(gram, load[..., None])[..., 0]
    return weights[..., 0] + weights[..., 1] * at + weights[..., 2] * at**2
