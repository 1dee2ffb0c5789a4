"""mlxtend's forward selection with groups of features, for a linear model."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression

import cssp
from analysis.peer_tasks.task import Task, script


def tasks() -> list[Task]:
    """Return the task: 4 of 10 groups of a table whose numbers stand as dummies of their quintiles."""
    from mlxtend.feature_selection import SequentialFeatureSelector

    table, y = load_diabetes(return_X_y=True)
    blocks = []
    for x in table.T:
        edges = np.unique(np.quantile(x, [0.2, 0.4, 0.6, 0.8]))
        level = np.searchsorted(edges, x)
        blocks.append((level[:, None] == np.unique(level)[1:]).astype(float))
    X = np.hstack(blocks)
    labels = np.repeat(np.arange(len(blocks)), [b.shape[1] for b in blocks])
    groups, k = [np.flatnonzero(labels == g).tolist() for g in range(len(blocks))], 4

    def theirs(_: int) -> np.ndarray:
        search = SequentialFeatureSelector(
            LinearRegression(), k_features=k, scoring="r2", cv=0, feature_groups=groups
        )
        return np.asarray(search.fit(X, y).k_feature_idx_)

    def ours(_: int) -> np.ndarray:
        return cssp.select(
            X - X.mean(axis=0), k, "greedy", groups=labels, target=(y - y.mean())[:, None]
        ).indices

    return [
        Task(
            title="mlxtend: 4 groups of dummies for a linear model",
            text=f"The ten columns of diabetes as {X.shape[1]} dummies of their quintiles, 442 samples.",
            page="https://rasbt.github.io/mlxtend/user_guide/feature_selection/SequentialFeatureSelector/",
            measure="R² of the linear model on the same data, more is better",
            runs={"mlxtend SequentialFeatureSelector": theirs, "cssp greedy": ours},
            result=lambda S: float(LinearRegression().fit(X[:, S], y).score(X[:, S], y)),
        )
    ]


if __name__ == "__main__":
    script(tasks())
