"""Seeded inputs of the pruner tests; official outputs under data/ were computed on the same."""

import numpy as np
import torch


def rows(rng: np.random.Generator, n: int, d: int) -> torch.Tensor:
    """(n, d) float32 with a common mean and rows of unequal length."""
    x = (rng.standard_normal((n, d)) + 0.5) * rng.uniform(0.5, 2, (n, 1))
    return torch.from_numpy(x.astype(np.float32))


def cls_attention(rng: np.random.Generator, heads: int, n: int, sharp: float = 1.5) -> torch.Tensor:
    """(heads, n) float32: a softmax over n patches and CLS, without CLS."""
    e = np.exp(sharp * rng.standard_normal((heads, n + 1)))
    return torch.from_numpy((e / e.sum(1, keepdims=True))[:, 1:].astype(np.float32))


def one_head(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """(1, n): attention of one head as wide as the tower, from CLS, the first of the (1 + n, d) rows."""
    return (q[:1] @ k.mT / q.shape[1] ** 0.5).softmax(-1)[:, 1:]
