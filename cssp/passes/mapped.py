"""A large file mapped into memory: read tile by tile, and the pages released after each tile.

Pages of a mapped file count as resident memory as long as they are mapped. A tile lies together in the file: some rows of a
wide range of columns where the file holds rows, some columns where it holds columns.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from cssp.linalg import SLAB, column_norms2
from cssp.passes.blocks import BLOCK, ready, residual_norms2
from cssp.passes.scan import Scan, joined, scan_from, stacked
from cssp.passes.source import Held, Local, Pieces, Source

__all__ = ["MappedSource"]

#: Entries of a product with a range of columns of a file that holds rows.
PRODUCT = 1 << 23


class MappedSource(Local):
    """A `numpy.memmap` of any order, strides and byte order; nothing of it is kept but the tile in use.

    Attributes
    ----------
    columns : int array, shape (n,), or None
        Which columns of the file these are, ascending, where padding is left out.
    """

    columns: np.ndarray | None = None

    def __init__(self, A: Any, dtype: Any) -> None:
        super().__init__(np.asarray(A), dtype)
        self.nearby = abs(A.strides[0]) < abs(A.strides[1])  # the file holds columns

    def release_pages(self) -> None:
        """Give the pages back that were read; the file still has them. Elsewhere than on Unix the system takes them."""
        base = self.A
        while isinstance(base, np.ndarray):
            base = base.base
        if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            base.madvise(mmap.MADV_DONTNEED)

    def narrowed(self, columns: np.ndarray) -> Source:
        other = self.view()
        other.columns = columns if self.columns is None else self.columns[columns]
        other.shape = (self.shape[0], columns.size)
        return other

    def scan(self) -> Scan:
        self.passes[0] += 1
        ranges, found = self._ranges(1), []
        for a, b in ranges:
            whole = None
            for rows, X in self._tiles(a, b):
                part = scan_from(X, rows.start if self.summed else None, self.dtype)
                whole = part if whole is None else stacked(whole, part)
            assert whole is not None
            found.append(whole)
        return joined(found, [(a, 0) for a, _ in ranges])

    def sweep(
        self, Q: np.ndarray, columns: Sequence[int] = (), after: Callable[..., Any] | None = None
    ) -> tuple[Held, np.ndarray]:
        self.passes[0] += 1
        Qh = np.asarray(Q, dtype=self.dtype).conj().T
        where = np.asarray(columns, dtype=np.int64)
        C = np.empty((self.shape[0], where.size), dtype=self.dtype)
        ranges, parts = self._ranges(len(Qh)), []
        for a, b in ranges:
            mine = np.flatnonzero((where >= a) & (where < b))
            G = np.zeros((len(Qh), b - a), dtype=self.dtype)
            for rows, X in self._ready(a, b):
                G += Qh[:, rows] @ X
                C[rows, mine] = X[:, where[mine] - a]
            parts.append(G if after is None else after(G))
        return Pieces(parts, [a for a, _ in ranges]), C

    def right(self, X: np.ndarray) -> np.ndarray:
        self.passes[0] += 1
        X = np.asarray(X, dtype=self.dtype)
        Y = np.zeros((self.shape[0], X.shape[1]), dtype=self.dtype)
        for a, b in self._ranges(1):
            for rows, T in self._ready(a, b):
                Y[rows] += T @ X[a:b]
        return Y

    def take(self, columns: Sequence[int]) -> np.ndarray:
        place = np.asarray(columns, dtype=np.int64)
        self.passes[0] += place.size / self.shape[1] if self.nearby else float(place.size > 0)
        return self._dense(place)

    def residual_norms2(self, Q: np.ndarray) -> np.ndarray:
        self.passes[0] += 1
        Q = np.asarray(Q, dtype=self.dtype)
        return np.concatenate([self._residual(a, b, Q) for a, b in self._ranges(Q.shape[1])])

    def gains(self) -> np.ndarray:
        """Return the gains by AAᴴ or AᴴA, of order min(m, n)."""
        self.passes[0] += 1
        m, n = self.shape
        G = np.zeros((min(m, n),) * 2, dtype=self.dtype)
        for rows in self.slabs():
            G += rows.conj().T @ rows
        if m > n:
            return column_norms2(G)
        self.passes[0] += 1
        return np.concatenate([np.sum((rows @ G) * rows.conj(), axis=1).real for rows in self.slabs()])

    def _ranges(self, height: int) -> list[tuple[int, int]]:
        """Return ranges of columns for products of so many rows: narrow ones, whole in memory, where the file holds columns."""
        m, n = self.shape
        step = max(1, BLOCK // m) if self.nearby else max(SLAB, PRODUCT // max(1, height))
        return [(a, min(a + step, n)) for a in range(0, n, step)]

    def _tiles(self, a: int, b: int) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield the columns a to b - 1 by blocks of rows, as they are stored."""
        m = self.shape[0]
        step = max(1, BLOCK // (b - a))
        for i in range(0, m, step):
            rows = slice(i, min(i + step, m))
            yield rows, self._part(rows, a, b)
            self.release_pages()

    def _part(self, rows: slice, a: int, b: int) -> np.ndarray:
        if self.columns is None:
            return self.A[rows, a:b]
        place = self.columns[a:b]
        return self.A[rows, place[0] : place[-1] + 1][:, place - place[0]]

    def _ready(self, a: int, b: int) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield the same in the precision of products, the factor applied."""
        factor = None if self.factor is None else (self.factor[0][a:b], self.factor[1][a:b])
        for rows, X in self._tiles(a, b):
            yield rows, ready(X, self.dtype, factor)

    def _residual(self, a: int, b: int, Q: np.ndarray) -> np.ndarray:
        """Return the squared residual norms of a range: at once where it is one tile, else by its product with Q, read twice."""
        if BLOCK // (b - a) >= self.shape[0]:
            ((_, X),) = self._ready(a, b)
            return residual_norms2(X, Q)
        G = np.zeros((Q.shape[1], b - a), dtype=self.dtype)
        for rows, X in self._ready(a, b):
            G += Q[rows].conj().T @ X
        total = np.zeros(b - a)
        for rows, X in self._ready(a, b):
            total += column_norms2(X - Q[rows] @ G)
        return total

    def _columns(self, place: np.ndarray) -> np.ndarray:
        return self._gathered(slice(0, self.shape[0]), place)

    def _rows(self, step: int) -> Iterator[np.ndarray]:
        m, n = self.shape
        for i in range(0, m, step):
            yield self._gathered(slice(i, min(i + step, m)), np.arange(n))

    def _gathered(self, rows: slice, place: np.ndarray) -> np.ndarray:
        """Return a block whose entries need not lie together in the file, piece by piece."""
        A, where = self.A[rows], place if self.columns is None else self.columns[place]
        X = np.empty((len(A), where.size), dtype=self.dtype, order="F")
        step = max(1, BLOCK // (len(A) if self.nearby else A.shape[1]))
        for i in range(0, where.size if self.nearby else len(A), step):
            piece = slice(i, i + step)
            if self.nearby:
                X[:, piece] = A[:, where[piece]]
            else:
                X[piece] = A[piece][:, where]
            self.release_pages()
        return X
