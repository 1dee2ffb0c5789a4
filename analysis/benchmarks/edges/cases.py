"""The hostile inputs, each small enough for exact arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Case:
    """One input: A (m, n), or a batch of them, and how many columns; `words` of which a clear refusal has one.

    ``like`` names the case whose picks every routine must repeat here; ``senseless`` input must be refused.
    """

    name: str
    A: np.ndarray
    k: int = 4
    words: tuple[str, ...] = ()
    like: str = ""
    senseless: bool = False
    weights: np.ndarray | None = None
    costs: bool = False  # the weights are as senseless taken for additive costs

    @property
    def items(self) -> np.ndarray:
        """A as a batch, of one where it is a matrix."""
        return self.A if self.A.ndim == 3 else self.A[None]


def _cases() -> list[Case]:
    rng = np.random.default_rng(0)
    A = rng.standard_normal((8, 10))
    small = rng.integers(-9, 10, (8, 10))
    low = (rng.integers(-5, 6, (8, 2)) @ rng.integers(-5, 6, (2, 10))).astype(float)  # exactly of rank 2
    nan, inf = A.copy(), A.copy()
    nan[2, 6], inf[5, 3] = np.nan, np.inf
    decay = np.linalg.qr(rng.standard_normal((20, 16)))[0] * 10.0 ** -np.linspace(0, 12, 16)
    graded = decay @ np.linalg.qr(rng.standard_normal((16, 16)))[0]
    hadamard = np.array([[(-1.0) ** bin(i & j).count("1") for j in range(8)] for i in range(8)])
    wide = np.zeros((16, 20))
    wide[::2, ::2] = A
    strided = wide[::2, ::2]
    strided.setflags(write=False)
    weights = np.linspace(1, 2, 10)
    bad, negative = weights.copy(), weights.copy()
    bad[4], negative[7] = np.nan, -1.0
    meaningless = ("nan", "inf", "infinity", "infinite", "finite")
    rank = ("rank", "dependent", "independent", "singular")
    dtype = ("dtype", "float", "float64", "type")
    return [
        Case("plain", A),
        Case("rank 2", low, words=rank),
        Case("all zero", np.zeros((8, 10)), words=rank),
        Case("identical columns", np.ones((8, 10)) * np.arange(1.0, 9)[:, None], words=rank),
        Case("every column twice", np.repeat(small[:, :5].astype(float), 2, axis=1)),
        Case("one zero column", A * (np.arange(10) != 0), k=6),
        Case("eight zero columns", A * (np.arange(10) % 5 == 3), words=rank),
        Case("more picks than rows", small[:3].astype(float), words=(*rank, "rows", "samples")),
        Case("every column wanted", A[:, :7], k=7),
        Case("a single column", A[:, :1], k=1),
        Case("a single row", A[:1], k=1),
        Case("NaN in one column", nan, words=meaningless, senseless=True),
        Case("one Inf", inf, words=meaningless, senseless=True),
        Case("times 1e200", A * 1e200, like="plain"),
        Case("times 1e-200", A * 1e-200, like="plain"),
        Case("times 5e307", A * 5e307, like="plain"),
        Case("subnormal", np.round(A * 2**20) * 5e-324),
        Case("float32 times 1e30", (A * 1e30).astype(np.float32), like="plain", words=dtype),
        Case("float32 times 1e-30", (A * 1e-30).astype(np.float32), like="plain", words=dtype),
        Case("float16 up to 65504", (A * (65504 / np.abs(A).max())).astype(np.float16), words=dtype),
        Case("integers", small, words=dtype),
        Case("8-bit integers", np.clip(small * 14, -127, 127).astype(np.int8), words=dtype),
        Case("booleans", small > 0, words=dtype),
        Case("read-only, strided", strided, like="plain"),
        Case("graded to 1e-12", graded, k=12),
        Case("equal norms", hadamard),
        Case("batch: rank 2 beside full rank", np.stack([low, A]), k=6, words=rank),
        Case("batch: NaN in one item", np.stack([A, nan]), words=meaningless, senseless=True),
        Case("weights with NaN", A, words=("weight", "cost"), senseless=True, weights=bad, costs=True),
        Case("a negative weight", A, words=("weight", "cost"), senseless=True, weights=negative),
        Case("weights", A, weights=weights),
    ]


CASES = _cases()
