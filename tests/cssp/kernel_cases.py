"""Matrices and arguments for the tests of the batched kernel, on the host and in the interpreter."""

from __future__ import annotations

import numpy as np
from optional import torch

EPS = 2.0**-23

FAMILIES = (
    "noise",
    "decay",
    "mean",
    "spread",
    "positive",
    "outliers",
    "unit norms",
    "small integers",
    "graded",
    "low rank",
    "duplicates",
    "zero columns",
)


def matrix(family, m, n, rng):
    """An (m, n) float64 tensor of the family."""
    U = rng.standard_normal((m, n))
    r = min(m, n)
    if family == "decay":
        U = (rng.standard_normal((m, r)) * np.arange(1, r + 1) ** -0.7) @ rng.standard_normal(
            (r, n)
        ) + 0.1 * U
    elif family == "mean":
        U = U + 3 * rng.standard_normal((m, 1))
    elif family == "spread":
        U = U * np.exp(1.5 * rng.standard_normal(n))
    elif family == "positive":
        U = np.abs(U)
    elif family == "outliers":
        U[:, n // 3] *= 100
        U[:, n // 2] = U[:, n // 3] + 0.5 * U[:, n // 2]
    elif family == "unit norms":
        U = U / np.linalg.norm(U, axis=0)
    elif family == "small integers":
        U = rng.integers(-2, 3, (m, n)).astype(float)
    elif family == "graded":
        Q, P = (np.linalg.qr(rng.standard_normal((s, r)))[0] for s in (m, n))
        U = Q * np.logspace(0, -5, r) @ P.T
    elif family == "low rank":
        U = rng.standard_normal((m, max(1, r // 4))) @ rng.standard_normal((max(1, r // 4), n))
    elif family == "duplicates":
        U[:, n - n // 2 :] = U[:, : n // 2]
    elif family == "zero columns":
        U[:, rng.random(n) < 0.5] = 0
    return torch.from_numpy(U)


def arguments(seed, dtype, B=3):
    """A batch with padding full of NaN, and every argument `residual_select` takes."""
    rng = np.random.default_rng(seed)
    m, n = int(rng.integers(16, 40)), int(rng.integers(14, 40))
    A = torch.stack([matrix(FAMILIES[int(rng.integers(7))], m, n, rng) for _ in range(B)]).to(dtype)
    valid = torch.from_numpy(rng.random((B, n)) < 0.9)
    candidates = torch.from_numpy(rng.random((B, n)) < 0.8)
    include = torch.full((B, 2), -1)
    k = torch.zeros(B, dtype=torch.int64)
    for b in range(B):
        allowed = torch.nonzero(valid[b])[:, 0].numpy()
        chosen = rng.choice(allowed, int(rng.integers(3)), replace=False)
        include[b, : len(chosen)] = torch.from_numpy(chosen)
        free = int((valid[b] & candidates[b]).sum())
        k[b] = len(chosen) + int(rng.integers(1, max(2, min(7, free - 2))))
    A = torch.where(valid.unsqueeze(1), A, torch.nan)
    weights = torch.from_numpy(rng.uniform(0.2, 2, (B, n)).astype(np.float32))
    return A, {"k": k, "weights": weights, "valid": valid, "candidates": candidates, "include": include}


def near_ties(kind, B, rng, m=96, n=12):
    """Once what columns share is gone, two residuals differ by ten to a million units of rounding, the others widely."""
    A = np.empty((B, m, n))
    for a in A:
        u, v, *W = np.linalg.qr(rng.standard_normal((m, n)))[0].T
        squares = 1 + 0.1 * rng.permutation(n - 2)
        i, j = rng.permutation(n - 2)[:2]
        squares[i] = squares[j] * (1 + rng.choice([-1, 1]) * EPS * 10 ** rng.uniform(1, 6))
        W = np.array(W).T * np.sqrt(squares)
        a[:, 0] = 100 * u
        if kind == "large common part":
            a[:, 1] = 3 * v
            a[:, 2:] = 10 * rng.random(n - 2) * u[:, None] + W
        else:  # small columns spoiled through a pivot of which most is gone
            a[:, 1] = 99 * u + 10 * v
            a[:, 2:] = 2 * rng.random(n - 2) * v[:, None] + W
    return torch.from_numpy(A)
