"""Blocks of a matrix that is read in passes: made dense, scaled, multiplied; and random matrices made block by block."""

from __future__ import annotations

from typing import Any

import numpy as np

from cssp.errors import ArgumentError
from cssp.linalg import column_norms2

__all__ = ["BLOCK", "dense", "gaussian_rows", "ready", "residual_norms2", "seed_of", "stretched"]

#: Entries of a dense block of columns.
BLOCK = 1 << 22

#: Rows of a Gaussian matrix that come from one seed.
PIECE = 1024


def dense(block: Any) -> np.ndarray:
    """Return a block as a plain array: sparse ones filled, long double in double; other kinds are refused by name."""
    for fill in ("toarray", "todense"):
        block = getattr(block, fill)() if hasattr(block, fill) else block
    if np.ma.is_masked(block):
        raise ArgumentError("A has masked entries: fill them, with numpy.ma.filled, or leave them out")
    if not isinstance(block, (np.ndarray, np.generic)):
        kind = f"{type(block).__module__.partition('.')[0]}.{type(block).__name__}"
        raise ArgumentError(
            f"A has a block of type {kind}: expected NumPy arrays or sparse matrices; convert it block by block"
        )
    X = np.asarray(block)
    if X.dtype.char not in "gG":
        return X
    with np.errstate(over="ignore"):  # what is beyond the range of double is refused as Inf
        return X.astype(np.float64 if X.dtype.char == "g" else np.complex128)


def ready(block: Any, dtype: np.dtype, factor: tuple[np.ndarray, np.ndarray] | None) -> np.ndarray:
    """Return a block as it is stored in the precision of products, its columns multiplied by the factor."""
    return stretched(dense(block).astype(dtype, copy=False), factor)


def stretched(X: np.ndarray, factor: tuple[np.ndarray, np.ndarray] | None) -> np.ndarray:
    """Return X·diag(mantissa·2**exponent) in two steps, of which neither leaves the range unless the result does."""
    if factor is None:
        return X
    real = np.float32 if X.dtype in (np.float32, np.complex64) else np.float64
    mantissa, exponent = factor
    half = exponent // 2
    with np.errstate(under="ignore", over="ignore"):
        first = np.ldexp(mantissa, half).astype(real)
        return (X * first) * np.ldexp(np.ones_like(mantissa), exponent - half).astype(real)


def seed_of(rng: np.random.Generator) -> int:
    """Return a seed below 2**63, drawn from ``rng``."""
    return int(rng.integers(2**63))


def gaussian_rows(seed: int, a: int, b: int, l: int) -> np.ndarray:
    """Return the rows a, ..., b-1 of a Gaussian matrix with l columns, made in pieces that do not depend on a and b."""
    out = np.empty((b - a, l))
    for piece in range(a // PIECE, -(-b // PIECE)):
        low, high = max(a, piece * PIECE), min(b, (piece + 1) * PIECE)
        X = np.random.default_rng([seed, piece]).standard_normal((high - piece * PIECE, l))
        out[low - a : high - a] = X[low - piece * PIECE :]
    return out


def residual_norms2(C: np.ndarray, Q: np.ndarray) -> np.ndarray:
    """Return the squared norms of the columns of C - QQᴴC, projected twice."""
    for _ in range(2 if Q.shape[1] else 0):
        C = C - Q @ (Q.conj().T @ C)
    return column_norms2(C).astype(np.float64)
