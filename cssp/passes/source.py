"""What methods ask of a matrix that is not an array in memory, and what all answers share.

A method asks for three things only: squared column norms, some columns, and products from the left, QᴴA, or from the
right, AX. Everything else happens on vectors of length n and matrices of k columns.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from cssp.errors import ArgumentError
from cssp.linalg import SLAB, column_norms2, folded, squares
from cssp.passes.fingerprint import column_sums, sparse_sums

__all__ = ["Held", "Local", "Pieces", "Products", "Scan", "Source", "SparseSource"]

#: Entries of a dense block of columns.
BLOCK = 1 << 22

#: Rows of a Gaussian matrix that come from one seed.
PIECE = 1024


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


class Held(ABC):
    """A product QᴴA, kept by ranges of columns where it was computed."""

    @abstractmethod
    def map(self, f: Callable[..., Any], *vectors: np.ndarray) -> list[Any]:
        """Return f(part, start, *slices) for each range; the slices are those of vectors of length n."""

    def whole(self) -> np.ndarray:
        """Return the product as one array in the caller's memory."""
        parts = self.map(_same)
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


class Pieces(Held):
    """A product in the caller's memory, whole or by the ranges of columns that begin at ``starts``."""

    def __init__(self, parts: list[np.ndarray], starts: Sequence[int] = (0,)) -> None:
        self.parts, self.starts = parts, starts

    def map(self, f: Callable[..., Any], *vectors: np.ndarray) -> list[Any]:
        ends = [*self.starts[1:], None]
        return [
            f(part, a, *(v[a:b] for v in vectors))
            for part, a, b in zip(self.parts, self.starts, ends, strict=True)
        ]


class Source(ABC):
    """A matrix A·diag(factor), read in passes.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype
        Precision of products: float32, float64, complex64 or complex128.
    passes : list of float
        One number: how often the data was read so far. Shared by all views of the same data.
    nearby : bool
        Columns can be had without reading much else.
    summed : bool
        Whether the scan takes the sums that a fingerprint is made of.
    content : tuple of sums and factor, or None
        What tells A·diag(factor) from any other matrix, where that was scanned for.
    """

    shape: tuple[int, int]
    dtype: np.dtype
    passes: list[float]
    factor: tuple[np.ndarray, np.ndarray] | None = None
    nearby = True
    summed = False
    content: tuple[np.ndarray, tuple[np.ndarray, np.ndarray] | None] | None = None

    @abstractmethod
    def scan(self) -> Scan:
        """Return the column norms, range and finiteness: one pass. The factor has no part in it."""

    def view(self, dtype: Any = None, factor: tuple[np.ndarray, np.ndarray] | None = None) -> Self:
        """Return the same data in another precision, or with columns multiplied by mantissa·2**exponent."""
        other = copy.copy(self)
        other.dtype = self.dtype if dtype is None else np.dtype(dtype)
        other.factor = self.factor if factor is None else factor
        return other

    @abstractmethod
    def narrowed(self, columns: np.ndarray) -> Source:
        """Return these columns alone, as a source."""

    @abstractmethod
    def take(self, columns: Sequence[int]) -> np.ndarray:
        """Return these columns as a dense array (m, b)."""

    @abstractmethod
    def sweep(
        self, Q: np.ndarray, columns: Sequence[int] = (), after: Callable[..., Any] | None = None
    ) -> tuple[Held, np.ndarray]:
        """Return QᴴA, held, and some columns from the same pass. ``after`` is applied to each part where it is computed."""

    @abstractmethod
    def right(self, X: np.ndarray) -> np.ndarray:
        """Return AX for X (n, l): one pass."""

    def gaussian(self, l: int, rng: np.random.Generator) -> np.ndarray:
        """Return AG for a Gaussian G (n, l), the same for every storage of A: one pass."""
        return self.right(gaussian_rows(seed_of(rng), 0, self.shape[1], l))

    def outer(self, Q: np.ndarray) -> np.ndarray:
        """Return AAᴴQ."""
        return self.right(self.sweep(Q)[0].whole().conj().T)

    @abstractmethod
    def residual_norms2(self, Q: np.ndarray) -> np.ndarray:
        """Return the squared norms of the columns of A - QQᴴA, formed from the columns themselves."""

    @abstractmethod
    def triangle(self) -> np.ndarray:
        """Return R, upper triangular of order min(m, n), with RᴴR = AAᴴ where m ≤ n and AᴴA elsewhere: one pass.

        By orthogonal transformations, so that small singular values are as good as in an SVD of A.
        """

    @property
    def single(self) -> bool:
        """Whether products are formed in single precision."""
        return self.dtype in (np.float32, np.complex64)

    @property
    def wide(self) -> np.dtype:
        """The dtype in double precision."""
        return np.dtype(np.complex128 if self.dtype.kind == "c" else np.float64)


class Local(Source):
    """What is read in this process, by columns or rows made dense some at a time."""

    def __init__(self, A: Any, dtype: Any) -> None:
        self.A, self.dtype = A, np.dtype(dtype)
        self.shape = (int(A.shape[0]), int(A.shape[1]))
        self.passes = [0.0]

    def take(self, columns: Sequence[int]) -> np.ndarray:
        return self._dense(np.asarray(columns, dtype=np.int64))

    def _dense(self, place: np.ndarray) -> np.ndarray:
        if not place.size:
            return np.empty((self.shape[0], 0), dtype=self.dtype)
        factor = None if self.factor is None else (self.factor[0][place], self.factor[1][place])
        return stretched(self._columns(place), factor)

    def triangle(self) -> np.ndarray:
        self.passes[0] += 1
        R = np.zeros((min(self.shape),) * 2, dtype=self.dtype, order="F")
        for rows in self.slabs():
            R = folded(R, rows)
        return R

    def slabs(self) -> Iterator[np.ndarray]:
        """Yield the rows of Aᴴ where m ≤ n, of A elsewhere, some at a time."""
        m, n = self.shape
        step = max(SLAB, BLOCK // min(m, n))
        if m <= n:
            for a in range(0, n, step):
                yield self._dense(np.arange(a, min(a + step, n))).conj().T
        else:
            for rows in self._rows(step):
                yield stretched(rows, self.factor)

    @abstractmethod
    def gains(self) -> np.ndarray:
        """Return ‖Aᴴa_j‖² for every column."""

    @abstractmethod
    def _columns(self, place: np.ndarray) -> np.ndarray: ...

    @abstractmethod
    def _rows(self, step: int) -> Iterator[np.ndarray]: ...


class Products(Local):
    """What sparse matrices and operators share: a product with A or Aᴴ is one call."""

    def narrowed(self, columns: np.ndarray) -> Self:
        other = self.view()
        other.A = self._narrow(columns)
        other.shape = (self.shape[0], columns.size)
        return other

    def sweep(
        self, Q: np.ndarray, columns: Sequence[int] = (), after: Callable[..., Any] | None = None
    ) -> tuple[Held, np.ndarray]:
        self.passes[0] += 1
        product = stretched(self._left(Q), self.factor)
        return Pieces([product if after is None else after(product)]), self.take(columns)

    def right(self, X: np.ndarray) -> np.ndarray:
        self.passes[0] += 1
        X = np.asarray(X, dtype=self.dtype)
        return self._right(X if self.factor is None else stretched(X.T, self.factor).T)

    def residual_norms2(self, Q: np.ndarray) -> np.ndarray:
        self.passes[0] += 1
        m, n = self.shape
        step = max(1, BLOCK // m)
        return np.concatenate(
            [residual_norms2(self.take(range(a, min(a + step, n))), Q) for a in range(0, n, step)]
        )

    def gains(self) -> np.ndarray:
        n = self.shape[1]
        step = max(1, BLOCK // max(self.shape))
        blocks = (self.take(range(a, min(a + step, n))) for a in range(0, n, step))
        return np.concatenate([column_norms2(stretched(self._left(C), self.factor).conj().T) for C in blocks])

    @abstractmethod
    def _left(self, Q: np.ndarray) -> np.ndarray: ...

    @abstractmethod
    def _right(self, X: np.ndarray) -> np.ndarray: ...

    @abstractmethod
    def _narrow(self, columns: np.ndarray) -> Any: ...


class SparseSource(Products):
    """A matrix of scipy.sparse; kept by columns, dense only where columns are asked for."""

    def __init__(self, A: Any, dtype: Any) -> None:
        A = A.tocsc()
        if not A.has_canonical_format:
            A = A.copy()
            A.sum_duplicates()
        super().__init__(A, dtype)

    def view(self, dtype: Any = None, factor: tuple[np.ndarray, np.ndarray] | None = None) -> Self:
        other = super().view(dtype)
        if other.dtype != self.A.dtype:
            other.A = self.A.astype(other.dtype)
        if factor is not None:
            owner = np.repeat(np.arange(self.shape[1]), np.diff(self.A.indptr))
            other.A = other.A.copy()
            other.A.data = stretched(other.A.data, (factor[0][owner], factor[1][owner]))
        return other

    def scan(self) -> Scan:
        self.passes[0] += 1
        A, n = self.A, self.shape[1]
        owner = np.repeat(np.arange(n), np.diff(A.indptr))
        x = np.asarray(A.data, dtype=np.complex128 if self.dtype.kind == "c" else np.float64)
        size = np.maximum(np.abs(x.real), np.abs(x.imag)) if x.dtype.kind == "c" else np.abs(x)
        if not np.isfinite(size).all():
            j = int(owner[~np.isfinite(size)][0])
            return Scan(np.zeros(n, dtype=np.int64), np.zeros(n), (j, _which(x[owner == j])))
        top = np.zeros(n)
        np.maximum.at(top, owner, size)
        exponent = np.frexp(top)[1].astype(np.int64)
        unit = stretched(x, (np.ones(x.size), -exponent[owner]))
        sums = sparse_sums(A.data.astype(self.dtype), A.indices, A.indptr) if self.summed else None
        return Scan(exponent, np.bincount(owner, weights=squares(unit), minlength=n), None, sums)

    def _narrow(self, columns: np.ndarray) -> Any:
        return self.A[:, columns]

    def gains(self) -> np.ndarray:
        self.passes[0] += 1
        out, adjoint = np.empty(self.shape[1]), self.A.conj().T.tocsr()
        step = max(1, self.shape[1] * BLOCK // max(1, 4 * self.A.nnz))
        for a in range(0, self.shape[1], step):
            G = adjoint @ self.A[:, a : a + step]
            out[a : a + step] = np.asarray(abs(G).power(2).sum(axis=0)).ravel()
        return out

    def _left(self, Q: np.ndarray) -> np.ndarray:
        return (self.A.T @ np.asarray(Q.conj(), dtype=self.dtype)).T

    def _right(self, X: np.ndarray) -> np.ndarray:
        return self.A @ X

    def _columns(self, place: np.ndarray) -> np.ndarray:
        return np.asarray(self.A[:, place].toarray(order="F"), dtype=self.dtype)

    def _rows(self, step: int) -> Iterator[np.ndarray]:
        by_rows = self.A.tocsr()
        for a in range(0, self.shape[0], step):
            yield by_rows[a : a + step].toarray()


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
        return Scan(np.zeros(n, dtype=np.int64), np.zeros(n), (j, _which(C[:, j])))
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


def _squared(C: np.ndarray) -> np.ndarray:
    return np.asarray(np.einsum("ij,ij->j", C, C, dtype=np.float64))


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


def _which(column: np.ndarray) -> str:
    return "NaN" if np.isnan(column).any() else "Inf"


def _same(part: np.ndarray, start: int) -> np.ndarray:
    return part


def in_range(exponent: int, single: bool) -> bool:
    """Return whether fourth powers of entries of this size are in range anyway."""
    low, high = (-4, 10) if single else (-100, 100)
    return low <= exponent <= high


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
