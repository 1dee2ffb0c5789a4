"""What methods ask of a matrix that is not an array in memory, and what all answers share.

A method asks for three things only: squared column norms, some columns, and products from the left, QᴴA, or from the
right, AX. Everything else happens on vectors of length n and matrices of k columns.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import numpy as np

from cssp.linalg import SLAB, column_norms2, folded, squares
from cssp.passes.blocks import BLOCK, gaussian_rows, residual_norms2, seed_of, stretched
from cssp.passes.fingerprint import sparse_sums
from cssp.passes.scan import Scan, what_is_wrong

#: Entries up to 2**SAFE have squares in range, and so do those that matter beside entries of at least 2**-SAFE.
SAFE = 200

__all__ = ["Held", "Local", "Pieces", "Products", "Source", "SparseSource"]


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
        A fingerprint of A·diag(factor), where the scan computed one.
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
        x = np.asarray(A.data, dtype=np.complex128 if self.dtype.kind == "c" else np.float64)
        size = np.maximum(np.abs(x.real), np.abs(x.imag)) if x.dtype.kind == "c" else np.abs(x)
        if not np.isfinite(size).all():
            j = int(np.searchsorted(A.indptr, np.argmin(np.isfinite(size)), side="right")) - 1
            return Scan(
                np.zeros(n, dtype=np.int64),
                np.zeros(n),
                (j, what_is_wrong(x[A.indptr[j] : A.indptr[j + 1]])),
            )
        full = np.flatnonzero(np.diff(A.indptr))  # columns with entries
        exponent, norms2 = np.zeros(n, dtype=np.int64), np.zeros(n)
        if full.size:
            starts = A.indptr[full]
            exponent[full] = np.frexp(np.maximum.reduceat(size, starts))[1]
            if np.abs(exponent).max() <= SAFE:
                norms2[full] = np.ldexp(np.add.reduceat(squares(x), starts), -2 * exponent[full])
            else:
                each = np.repeat(exponent, np.diff(A.indptr))
                norms2[full] = np.add.reduceat(squares(stretched(x, (np.ones(x.size), -each))), starts)
        sums = sparse_sums(A.data.astype(self.dtype), A.indices, A.indptr) if self.summed else None
        return Scan(exponent, norms2, None, sums)

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


def _same(part: np.ndarray, start: int) -> np.ndarray:
    return part
