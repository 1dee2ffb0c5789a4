"""fastcan's unsupervised selection: features that correlate most with the principal components."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn.datasets import load_digits, load_iris
from sklearn.decomposition import PCA

import cssp
from analysis.peer_tasks.task import Task, script


def tasks() -> list[Task]:
    """Return the tasks: iris, which fastcan's page shows, and digits, which have more features."""
    return [_task("iris", load_iris().data, 2), _task("digits", load_digits().data, 20)]


def _task(name: str, X: np.ndarray, k: int) -> Task:
    """Return the task; its sum of squared canonical correlations is ‖P_S U‖², U the components scaled to length one."""
    from fastcan import FastCan

    def components() -> np.ndarray:
        return PCA(n_components=k, svd_solver="full").fit_transform(X)

    def theirs(_: int) -> np.ndarray:
        return FastCan(n_features_to_select=k, verbose=0).fit(X, components()).indices_

    def ours(aimed: bool) -> Callable[[int], np.ndarray]:
        def run(_: int) -> np.ndarray:
            A = X - X.mean(axis=0)
            U = components() if aimed else None
            return cssp.select(
                A, k, "greedy", target=None if U is None else U / np.linalg.norm(U, axis=0)
            ).indices

        return run

    def correlation(picks: np.ndarray) -> float:
        A, U = X - X.mean(axis=0), components()
        Q = np.linalg.qr(A[:, picks])[0]
        return float(np.linalg.norm(Q.T @ (U / np.linalg.norm(U, axis=0))) ** 2)

    return Task(
        title=f"fastcan: {k} of {X.shape[1]} features of {name}",
        text=f"{X.shape[0]} samples, {k} principal components as targets; they are computed within each run that uses them.",
        page="https://fastcan.readthedocs.io/en/latest/unsupervised.html",
        measure=f"sum of squared canonical correlations with the components, more is better, {k} at most",
        runs={
            "fastcan": theirs,
            "cssp greedy, components as target": ours(True),
            "cssp greedy, the data itself": ours(False),
        },
        result=correlation,
    )


if __name__ == "__main__":
    script(tasks())
