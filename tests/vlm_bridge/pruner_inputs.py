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


def recent(seed: int) -> dict:
    """Tokens of a video, all that pruners in front of the LLM read beside them, and k.

    Frames repeat each other in part; seeds 2, 6, ... have copies of tokens.
    """
    rng = np.random.default_rng(seed)
    frames, size = 2 + seed % 4, 12 + 3 * (seed % 3)
    n = frames * size
    x = rows(rng, n, 16)
    still = torch.from_numpy(rng.random((frames - 1, size)) < 0.4)
    for f in range(1, frames):
        noise = 0.3 * rows(rng, size, 16)
        here = slice(f * size, (f + 1) * size)
        x[here] = torch.where(still[f - 1, :, None], x[here.start - size : here.start] + noise, x[here])
    vision = rows(rng, n, 24)
    if seed % 4 == 2:
        vision[n // 2 : n // 2 + 4], x[n // 2 : n // 2 + 4] = vision[:4].clone(), x[:4].clone()
    return {
        "features": x,
        "frames": frames,
        "vision_clip": vision,
        "cls_attention": cls_attention(rng, 4, n),
        "clip_patches": rows(rng, n, 10),
        "clip_text": rows(rng, 1 + seed % 4, 10),
        "k": (max(size, n // 4), n // 3, n // 2, n - 5)[seed % 4],
    }


def two_attentions(seed: int, n: int = 576) -> dict:
    """Attention received by n patches in two layers, and features (n, 8)."""
    rng = np.random.default_rng(seed)
    return {
        "features": rows(rng, n, 8),
        "received": cls_attention(rng, 4, n),
        "received_early": cls_attention(rng, 4, n),
    }
