"""scikit-matter's feature selection by CUR, on the atomic environments that it ships."""

from __future__ import annotations

import numpy as np

import cssp
from analysis.peer_tasks.task import Task, script


def tasks() -> list[Task]:
    """Return the tasks: ten and fifty of a hundred features, by the error of the others rebuilt from them."""
    from skmatter.datasets import load_csd_1000r
    from skmatter.feature_selection import CUR
    from skmatter.preprocessing import StandardFlexibleScaler

    X, _ = load_csd_1000r(return_X_y=True)
    X = StandardFlexibleScaler(column_wise=False).fit_transform(X)

    def error(picks: np.ndarray) -> float:
        C = X[:, picks]
        return float(np.linalg.norm(X - C @ np.linalg.lstsq(C, X, rcond=None)[0]) / np.linalg.norm(X))

    return [
        Task(
            title=f"scikit-matter: CUR, {k} of 100 features",
            text="500 atomic environments of CSD-1000R, scaled as a whole.",
            page="https://scikit-matter.readthedocs.io/",
            measure="relative Frobenius error, less is better",
            runs={
                "skmatter CUR": lambda _, k=k: np.asarray(CUR(n_to_select=k).fit(X).selected_idx_)[:k],
                "cssp residual": lambda _, k=k: cssp.select(X, k).indices,
                "cssp greedy": lambda _, k=k: cssp.select(X, k, "greedy").indices,
                "cssp local_search": lambda _, k=k: cssp.select(X, k, "local_search", start="greedy").indices,
            },
            result=error,
        )
        for k in (10, 50)
    ]


if __name__ == "__main__":
    script(tasks())
