"""A fingerprint of a problem that is read in passes: exact sums over the bits of the entries, whatever the chunks [kaser2014].

Column j of a matrix of 32-bit words x has the sum Σ_i r_i·x_ij mod 2⁶⁴. For random 64-bit r two different columns have the same
sum with probability at most 2⁻³³: some x_i - y_i is not 0 and divisible by at most 2³¹, so they agree for one residue of
r_i mod 2³³ only. Two such sums are kept of every column.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from cssp.passes.problem import PassProblem
    from cssp.passes.source import Source

__all__ = ["column_sums", "fingerprint", "sparse_sums"]

#: Sums of each column, and 32-bit words of the largest entry.
SUMS, WORDS = 2, 4

#: Entries of a temporary block.
BLOCK = 1 << 16

#: What a problem holds that does not decide about the picks, or stands for A, whose sums do.
APART = ("A", "given", "record", "rng", "progress")


def column_sums(X: np.ndarray, first: int = 0) -> np.ndarray:
    """Return the sums of the columns of a dense block, uint64 of shape (2, n).

    Parameters
    ----------
    X : array, shape (m, n)
        float32, float64, complex64 or complex128. 0.0 and -0.0 are the same.
    first : int
        Number of the block's first row in the matrix: sums of blocks of rows add up to those of the matrix.
    """
    m, n = X.shape
    total = np.zeros((SUMS, n), dtype=np.uint64)
    r = _multipliers(np.arange(first, first + m), X.itemsize // 4)
    if X.strides[0] < X.strides[1]:
        step = max(1, BLOCK // max(1, m))
        for a in range(0, n, step):
            for w, y in enumerate(_words(X[:, a : a + step].T)):
                for s in range(SUMS):
                    total[s, a : a + step] += np.einsum("i,ji->j", r[w, s], y)
    else:
        step = max(1, BLOCK // max(1, n))
        for a in range(0, m, step):
            for w, y in enumerate(_words(X[a : a + step])):
                for s in range(SUMS):
                    total[s] += np.einsum("i,ij->j", r[w, s, a : a + step], y)
    return total


def sparse_sums(data: np.ndarray, indices: np.ndarray, indptr: np.ndarray) -> np.ndarray:
    """Return `column_sums` of a CSC matrix: zeros add nothing, whether they are stored or not."""
    x = _words(data)
    r = _multipliers(indices, len(x))
    products = sum(x[w] * r[w] for w in range(len(x)))  # (2, entries)
    running = np.concatenate([np.zeros((SUMS, 1), dtype=np.uint64), np.cumsum(products, axis=1)], axis=1)
    return running[:, indptr[1:]] - running[:, indptr[:-1]]


def fingerprint(p: PassProblem) -> bytes:
    """Return 32 bytes that differ wherever the matrix, its weights or an argument that decides about the picks differs."""
    digest = hashlib.blake2b(digest_size=32)
    fields = {
        field.name: getattr(p, field.name) for field in dataclasses.fields(p) if field.name not in APART
    }
    if p.A.content is None:
        p.A.content = (_sums_by_columns(p.A), None)
    fields |= {"content": p.A.content, "dtype": p.A.dtype.str, "m": p.m}
    for name, value in fields.items():
        digest.update(f"\n{name} ".encode())
        _feed(digest, value)
    return digest.digest()


def _sums_by_columns(A: Source) -> np.ndarray:
    """Return the sums of a source whose scan took none: another pass."""
    m, n = A.shape
    step = max(1, 64 * BLOCK // m)
    blocks = [column_sums(A.take(range(a, min(a + step, n)))) for a in range(0, n, step)]
    return np.concatenate(blocks, axis=1)


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, tuple):
        digest.update(f"{len(value)} ".encode())
        for one in value:
            _feed(digest, one)
    elif isinstance(value, np.ndarray):
        digest.update(f"{value.dtype.str} {value.shape} ".encode() + value.tobytes())
    else:
        digest.update(repr(value).encode())


def _words(x: np.ndarray) -> list[np.ndarray]:
    """Return the 32-bit words of the entries, one array of uint64 for each."""
    plain = np.ascontiguousarray(x) + x.dtype.type(0)
    words = plain.view(np.uint32).reshape(*plain.shape, -1)
    return [words[..., w].astype(np.uint64) for w in range(words.shape[-1])]


def _multipliers(rows: np.ndarray, words: int) -> np.ndarray:
    """Return random 64-bit numbers for these rows, shape (words, 2, rows): SplitMix64 of their place."""
    place = np.arange(words * SUMS, dtype=np.uint64).reshape(words, SUMS, 1)
    z = rows.astype(np.uint64) * np.uint64(WORDS * SUMS) + place + np.uint64(1)
    z *= np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
