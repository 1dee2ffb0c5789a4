"""Nyström approximation as RPCholesky's paper does it, beside scikit-learn's."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits
from sklearn.kernel_approximation import Nystroem

import cssp
from analysis.kernels import gaussian, smile
from analysis.peer_tasks.task import Task, script

N, K = 4000, 100


def tasks() -> list[Task]:
    """Return the tasks: the paper's smile, whose eyes hold few points, and digits."""
    face = smile(N, np.random.default_rng(0))
    digits = load_digits().data / 16
    return [_task("a smile", face, 0.5 / 2.0**2), _task("digits", digits, 0.05)]


def published(X: np.ndarray, gamma: float, k: int, rng: np.random.Generator) -> np.ndarray:
    """Run RPCholesky as its pseudocode reads, one pivot at a time [chen2025]."""
    n = len(X)
    F, d = np.zeros((n, k)), np.ones(n)
    S = []
    for i in range(k):
        s = int(rng.choice(n, p=d / d.sum()))
        g = gaussian(X, X[s : s + 1], gamma)[:, 0] - F[:, :i] @ F[s, :i]
        F[:, i] = g / np.sqrt(g[s])
        d = np.maximum(d - F[:, i] ** 2, 0)
        S.append(s)
    return np.asarray(S)


def _task(name: str, X: np.ndarray, gamma: float) -> Task:
    def K_of(I: np.ndarray, J: np.ndarray) -> np.ndarray:
        return gaussian(X[I], X[J], gamma)

    def lost(S: np.ndarray) -> float:
        C = gaussian(X, X[S], gamma)
        U, s, _ = np.linalg.svd(C[S])
        keep = s > len(S) * np.finfo(float).eps * s[0]
        F = C @ (U[:, keep] / np.sqrt(s[keep]))
        return 1 - float(np.linalg.norm(F) ** 2) / len(X)

    def gram(method: str, **options: object):
        def run(seed: int) -> np.ndarray:
            return cssp.select_gram(K_of, K, method, n=len(X), diagonal=1.0, rng=seed, **options).indices

        return run

    return Task(
        title=f"RPCholesky: {K} landmarks of {name}",
        text=f"{len(X):,} points, Gaussian kernel. The first run is the published pseudocode in NumPy; all but scikit-learn's, which "
        "draws uniformly and also forms its map, evaluate the kernel by the same function.",
        page="https://github.com/eepperly/randomly-pivoted-cholesky",
        measure="relative trace error, mean of ten seeds, less is better",
        runs={
            "RPCholesky, pseudocode": lambda seed: published(X, gamma, K, np.random.default_rng(seed)),
            "scikit-learn Nystroem": lambda seed: (
                Nystroem(gamma=gamma, n_components=K, random_state=seed).fit(X).component_indices_
            ),
            "cssp random_pivot": gram("random_pivot"),
            "cssp random_pivot, one by one": gram("random_pivot", accelerated=False),
            "cssp residual": gram("residual"),
        },
        result=lost,
        random=frozenset(
            (
                "RPCholesky, pseudocode",
                "scikit-learn Nystroem",
                "cssp random_pivot",
                "cssp random_pivot, one by one",
            )
        ),
    )


if __name__ == "__main__":
    script(tasks())
