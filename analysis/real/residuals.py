"""How far the tokens that were dropped lie from the span of those that were kept, and a greedy choice that lowers it.

With h_j the distance of token j from the span, the error of exponent p is ‖h‖_p / ‖(‖x_j‖)_j‖_p: p = 2 is the relative
reconstruction error in the Frobenius norm, p = inf the largest distance over the largest norm.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

EXPONENTS = (1, 2, 4, 8, 16, np.inf)


def residual_norms(tokens: np.ndarray, kept: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the distances (n,) of all tokens (n, d) from the span of the kept ones, zero for these."""
    x = np.asarray(tokens, float)
    left, values, _ = np.linalg.svd(x[kept].T, full_matrices=False)
    basis = left[:, values > values.max(initial=0) * max(x.shape) * np.finfo(float).eps]
    h = x - (x @ basis) @ basis.T
    distances = np.linalg.norm(h - (h @ basis) @ basis.T, axis=1)
    distances[kept] = 0
    return distances


def error(distances: np.ndarray, norms: np.ndarray, p: float) -> float:
    """Return the relative error of exponent p, from distances and norms (n,) of the tokens."""
    return float(np.linalg.norm(distances, p) / np.linalg.norm(norms, p))


def greedy(tokens: np.ndarray, k: int, p: float) -> np.ndarray:
    """Return k of n tokens (n, d), each of which lowers the sum of the p-th powers of all distances most.

    p = 2 is the greedy rule of Farahat, Ghodsi and Kamel (KAIS 2013). Time O(k n²), on the Gram matrix of the residuals.
    """
    x = np.asarray(tokens, float)
    gram = x @ x.T
    floor = np.diag(gram).max() * len(x) * np.finfo(float).eps
    chosen: list[int] = []
    for _ in range(k):
        square = np.diag(gram).clip(0)
        usable = square > floor
        usable[chosen] = False
        if not usable.any():
            chosen += [j for j in range(len(x)) if j not in chosen][: k - len(chosen)]
            break
        share = gram[usable] ** 2 / square[usable, None]
        after = (((square - share).clip(0) / square.max()) ** (p / 2)).sum(1)
        j = int(np.flatnonzero(usable)[after.argmin()])
        chosen.append(j)
        gram = gram - np.outer(gram[j], gram[j]) / gram[j, j]
    return np.array(chosen)
