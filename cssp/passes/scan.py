"""What one look at every entry of a matrix says: column norms, range, finiteness; and the factor that brings it into range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cssp.linalg import squares
from cssp.passes.blocks import BLOCK, dense, stretched
from cssp.passes.fingerprint import column_sums

__all__ = ["Scan", "factor_of", "joined", "scan_from", "what_is_wrong"]


@dataclass(frozen=True)
class Scan:
    """What one look at every entry says of the columns, in a form that no scale throws out of range.

    Attributes
    ----------
    exponent : int array, shape (n,)
        The largest modulus of column j is in [1/2, 1)·2**exponent[j]; 0 for a zero column.
    norms2 : float64 array, shape (n,)
        Squared norm of column j times 2**(-2·exponent[j]).
    bad : tuple of int and str, or None
        The first column with NaN, Inf or a masked entry, and which of the three.
    sums : uint64 array, shape (2, n), or None
        `cssp.passes.fingerprint.column_sums`, where they were asked for.
    """

    exponent: np.ndarray
    norms2: np.ndarray
    bad: tuple[int, str] | None
    sums: np.ndarray | None = None


def scan(C: Any) -> Scan:
    """Return the scan of a block as it is stored."""
    if np.ma.is_masked(C):
        j = int(np.flatnonzero(np.ma.getmaskarray(C).any(axis=0))[0])
        return Scan(np.zeros(C.shape[1], dtype=np.int64), np.zeros(C.shape[1]), (j, "a masked entry"))
    C = dense(C)
    complex_ = C.dtype.kind == "c"
    parts = (C.real, C.imag) if complex_ else (C,)
    bounds = [
        f(part, axis=0) for part in parts for f in (np.max, np.min)
    ]  # no temporary as large as C; NaN passes
    top = np.max(np.abs(bounds), axis=0).astype(np.float64)
    n = C.shape[1]
    if not np.isfinite(top).all():
        j = int(np.flatnonzero(~np.isfinite(top))[0])
        return Scan(np.zeros(n, dtype=np.int64), np.zeros(n), (j, what_is_wrong(C[:, j])))
    exponent = np.frexp(top)[1].astype(np.int64)
    if not complex_ and exponent.min() > -400 and exponent.max() < 400:
        total = np.sum([_squared(C[a : a + 256]) for a in range(0, C.shape[0], 256)], axis=0)
        return Scan(exponent, np.ldexp(total, -2 * exponent), None)
    total = np.zeros(n)
    rows = max(1, BLOCK // (8 * max(1, n)))
    for a in range(0, C.shape[0], rows):
        part = C[a : a + rows].astype(np.complex128 if complex_ else np.float64)
        total += np.sum(squares(stretched(part, (np.ones(n), -exponent))), axis=0)
    return Scan(exponent, total, None)


def scan_from(C: np.ndarray, first: int | None, dtype: Any = None) -> Scan:
    """Return the scan of a dense block, with its sums (in this precision) where its first row in the matrix is given."""
    s = scan(C)
    return s if first is None or s.bad else replace(s, sums=column_sums(C.astype(dtype or C.dtype), first))


def joined(scans: Sequence[Scan], places: Sequence[tuple[int, int]]) -> Scan:
    """Return the scans of blocks as one; ``places`` are their first columns (and numbers among the blocks of the same columns)."""
    bad = [(start + s.bad[0], s.bad[1]) for s, (start, _) in zip(scans, places, strict=True) if s.bad]
    by_range: dict[int, Scan] = {}
    for s, (start, _) in zip(scans, places, strict=True):
        have = by_range.get(start)
        by_range[start] = s if have is None else stacked(have, s)
    ordered = [by_range[start] for start in sorted(by_range)]
    return Scan(
        np.concatenate([s.exponent for s in ordered]),
        np.concatenate([s.norms2 for s in ordered]),
        min(bad) if bad else None,
        None if bad or ordered[0].sums is None else np.concatenate([s.sums for s in ordered], axis=1),
    )


def stacked(one: Scan, two: Scan) -> Scan:
    """Return the scan of two blocks of rows of the same columns."""
    # a zero column has exponent 0 and says nothing about the other block
    e1 = np.where(one.norms2 > 0, one.exponent, two.exponent)
    e2 = np.where(two.norms2 > 0, two.exponent, e1)
    e = np.maximum(e1, e2)
    with np.errstate(under="ignore"):
        total = np.ldexp(one.norms2, 2 * (e1 - e)) + np.ldexp(two.norms2, 2 * (e2 - e))
    sums = None if one.sums is None or two.sums is None else one.sums + two.sums
    return Scan(e, total, min((s.bad for s in (one, two) if s.bad), default=None), sums)


def factor_of(
    s: Scan, weights: np.ndarray | None, single: bool, unit: bool = False
) -> tuple[tuple[np.ndarray, np.ndarray] | None, int, np.ndarray]:
    """Return the factor w·2**-e of the columns (None: 1), e, and squared norms of the scaled columns.

    Columns so far below the largest that their squares leave the range get the factor 0. With ``unit`` columns are divided by
    their norms first.
    """
    n = s.norms2.size
    if unit:
        weights = (1.0 if weights is None else weights) / np.sqrt(np.where(s.norms2 > 0, s.norms2, 1))
    w, t = (np.ones(n), np.zeros(n, dtype=np.int64)) if weights is None else np.frexp(weights)
    t = t.astype(np.int64) + (0 if unit else s.exponent)
    alive = (s.norms2 > 0) & (w > 0)
    e = int(t[alive].max()) if alive.any() else 0
    if weights is None and in_range(e, single):
        e = 0
    shift = np.where(alive, np.clip(2 * (t - e), -5000, 5000), 0)
    with np.errstate(under="ignore", over="ignore"):
        norms2 = np.where(alive, np.ldexp(s.norms2 * w * w, shift), 0.0)
    negligible = alive & (norms2 < 2.0 ** (-120 if single else -900))
    norms2[negligible] = 0
    if weights is None and e == 0 and not negligible.any():
        return None, 0, norms2
    mantissa = np.where(alive & ~negligible, w, 0.0)
    exponent = np.where(alive & ~negligible, t - s.exponent - e, 0)
    return (mantissa, exponent), e, norms2


def in_range(exponent: int, single: bool) -> bool:
    """Return whether fourth powers of entries of this size are in range anyway."""
    low, high = (-4, 10) if single else (-100, 100)
    return low <= exponent <= high


def _squared(C: np.ndarray) -> np.ndarray:
    return np.asarray(np.einsum("ij,ij->j", C, C, dtype=np.float64))


def what_is_wrong(column: np.ndarray) -> str:
    """Return the name of what is not finite in a column that is not."""
    return "NaN" if np.isnan(column).any() else "Inf"
