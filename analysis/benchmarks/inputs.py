"""What the selectors are timed on: sizes and kinds of matrices, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg

from analysis.benchmarks import tokens

__all__ = ["KINDS", "QUICK", "SIZES", "Size", "matrix"]


@dataclass(frozen=True)
class Size:
    """k of n columns of length m, as often as `batch` says; `kinds` is what is timed by default."""

    m: int
    n: int
    k: int
    dtype: str = "float32"
    batch: int = 1
    order: str = "C"
    repeats: int = 7
    kinds: tuple[str, ...] = ("decay",)

    @property
    def name(self) -> str:
        """As --sizes wants it."""
        extra = (f"-{self.dtype}" if self.dtype != "float32" else "") + (
            f"-batch{self.batch}" if self.batch > 1 else ""
        )
        return f"{self.m}x{self.n}x{self.k}{extra}" + ("-fortran" if self.order == "F" else "")

    @property
    def label(self) -> str:
        """As tables and figures have it."""
        words = [f"{self.m} × {self.n}, k = {self.k}"]
        words += [self.dtype] if self.dtype != "float32" else []
        words += [f"batch of {self.batch}"] if self.batch > 1 else []
        words += ["Fortran order"] if self.order == "F" else []
        words += [tokens.MODELS[kind][0] for kind in self.kinds if kind in tokens.MODELS]
        return ", ".join(words)

    @property
    def numerical(self) -> bool:
        """Double precision: a matrix of numerical analysis rather than tokens."""
        return self.dtype == "float64"

    @property
    def bytes(self) -> int:
        """Of A."""
        return self.m * self.n * self.batch * np.dtype(self.dtype).itemsize


def _noise(size: Size, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((size.m, size.n), dtype=np.float32)


def _decay(size: Size, rng: np.random.Generator) -> np.ndarray:
    r = min(128, size.m, size.n)
    left = rng.standard_normal((size.m, r), dtype=np.float32) * np.arange(1, r + 1, dtype=np.float32) ** -0.7
    A = left @ rng.standard_normal((r, size.n), dtype=np.float32)
    return A + np.float32(0.1) * _noise(size, rng)


def _mean(size: Size, rng: np.random.Generator) -> np.ndarray:
    A = _decay(size, rng)
    return A + 3 * rng.standard_normal((size.m, 1), dtype=np.float32)


def _norms(size: Size, rng: np.random.Generator) -> np.ndarray:
    A = _decay(size, rng)
    return A * rng.lognormal(0, 1, size.n).astype(np.float32)


def _clusters(size: Size, rng: np.random.Generator) -> np.ndarray:
    centres = rng.standard_normal((size.m, max(2, size.k // 2)), dtype=np.float32)
    A = centres[:, rng.integers(0, centres.shape[1], size.n)]
    return A + np.float32(0.05) * _noise(size, rng)


def _tied(size: Size, rng: np.random.Generator) -> np.ndarray:
    """Return the orthogonal columns of signs, each as often as n asks: all residuals tie until none is left."""
    p = 1 << (min(size.m, size.n).bit_length() - 1)
    while 2 * p <= size.m and p < size.n:
        p *= 2
    A = np.zeros((size.m, size.n), dtype=np.float32)
    A[:p] = scipy.linalg.hadamard(p, dtype=np.int8)[:, np.arange(size.n) % p]
    return A


#: Of DECIMER's tokens: singular values over the largest one, and between which norms the columns lie.
SPECTRUM, NORMS = {1: 1.0, 4: 0.69, 16: 0.38, 64: 0.10, 128: 0.04}, (1.7, 15.8)


def _spectrum(size: Size, rng: np.random.Generator) -> np.ndarray:
    """Return a spectrum that decays as that of real tokens, with a noise floor behind, and norms as different as theirs."""
    r = min(128, size.m, size.n)
    values = np.exp(
        np.interp(np.log(np.arange(1, r + 1)), np.log(list(SPECTRUM)), np.log(list(SPECTRUM.values())))
    )
    left = np.linalg.qr(rng.standard_normal((size.m, r)))[0] * values
    A = left @ np.linalg.qr(rng.standard_normal((size.n, r)))[0].T
    A += values[-1] * rng.standard_normal((size.m, size.n)) / (np.sqrt(size.m) + np.sqrt(size.n))
    norms = np.exp(rng.uniform(*np.log(NORMS), size.n))
    return (A * (norms / np.linalg.norm(A, axis=0))).astype(np.float32)


def _real(name: str) -> Callable[[Size, np.random.Generator], np.ndarray]:
    return lambda size, rng: tokens.columns(name, size.m, size.n)


#: Name -> (words for the table, columns).
KINDS = {
    "decay": ("decaying spectrum over noise", _decay),
    "noise": ("noise alone", _noise),
    "mean": ("decay, and a common mean", _mean),
    "norms": ("decay, norms spread over e^±2", _norms),
    "clusters": ("k/2 clusters", _clusters),
    "tied": ("orthogonal columns of equal norm: all tied", _tied),
    "spectrum": ("spectrum and norms of real tokens, made", _spectrum),
    **{name: (words, _real(name)) for name, (words, _) in tokens.MODELS.items()},
}

SIZES = (
    Size(1024, 576, 64, repeats=25),
    Size(4096, 576, 64, repeats=15, kinds=("decay", "noise", "tied")),
    Size(4096, 576, 192, repeats=11, kinds=("decay", "spectrum")),
    Size(4096, 2880, 160, repeats=9, kinds=tuple(kind for kind in KINDS if kind not in tokens.MODELS)),
    Size(4096, 2880, 160, repeats=9, order="F"),
    Size(4096, 2880, 640, repeats=7),
    Size(3584, 16384, 1024, repeats=3),
    Size(2000, 20000, 100, "float64", repeats=5),
    Size(5000, 5000, 500, "float64", repeats=3),
    Size(1024, 576, 64, batch=8, repeats=11),
    Size(1024, 576, 64, batch=64, repeats=5),
    Size(256, 576, 64, repeats=15, kinds=("reference",)),
    Size(320, 400, 64, repeats=15, kinds=("lite0",)),
    Size(512, 1024, 128, repeats=15, kinds=("decimer",)),
)
QUICK = SIZES[0]


def matrix(kind: str, size: Size, seed: int = 0) -> np.ndarray:
    """Return the matrix, shape (m, n), or a batch of them, in the dtype and memory order of the size."""
    dtype = np.dtype(size.dtype)
    items = [
        np.asarray(KINDS[kind][1](size, np.random.default_rng([seed, i])), dtype=dtype, order=size.order)
        for i in range(size.batch)
    ]
    return np.stack(items) if size.batch > 1 else items[0]
