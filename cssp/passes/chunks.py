"""A dask array: every request is one task graph over its blocks, on whatever scheduler dask is set to use.

Row blocks, column blocks and both; a block is read, used and released in one task. Products QᴴA stay with the workers,
which compute them again should one be lost; the caller's process sees vectors of length n and matrices of k columns.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cssp.errors import ArgumentError
from cssp.linalg import column_norms2
from cssp.passes.blocks import dense, gaussian_rows, ready, residual_norms2, seed_of, stretched
from cssp.passes.scan import Scan, joined, scan_from
from cssp.passes.source import Held, Source

__all__ = ["ChunkSource"]

#: Columns that are kept, should they be asked for again.
KEPT = 1024


class ChunkSource(Source):
    """A 2-D dask array with known chunks."""

    nearby = False
    factor: tuple[np.ndarray, np.ndarray] | None = None

    def __init__(self, A: Any, dtype: Any) -> None:
        self.kept: dict[int, np.ndarray] = {}  # columns that were asked for, without the factor
        self.A, self.dtype, self.passes = A, np.dtype(dtype), [0.0]
        self.stored = self.dtype
        if any(np.isnan(size) for sizes in A.chunks for size in sizes):
            A = A.map_blocks(_array, dtype=A.dtype)  # compute_chunk_sizes writes into the array
            A.compute_chunk_sizes()
            self.A, self.passes = A, [1.0]
        self.shape = (int(self.A.shape[0]), int(self.A.shape[1]))
        sizes = [np.array(lengths, dtype=np.int64) for lengths in self.A.chunks]
        self.blocks = self.A.to_delayed()[np.ix_(*map(np.flatnonzero, sizes))]  # empty ones say nothing
        self.rows, self.columns = (np.concatenate([[0], np.cumsum(size[size > 0])]) for size in sizes)

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """First and last + 1 column of each column of blocks."""
        return list(zip(self.columns[:-1].tolist(), self.columns[1:].tolist(), strict=True))

    def narrowed(self, columns: np.ndarray) -> Source:
        A = self.A.map_blocks(_array, dtype=self.A.dtype, meta=np.empty((0, 0), dtype=self.A.dtype))
        other = ChunkSource(A[:, columns], self.dtype)
        other.passes, other.summed = self.passes, self.summed
        return other

    def scan(self) -> Scan:
        from dask import delayed

        self.passes[0] += 1
        heights, widths = np.diff(self.rows).tolist(), np.diff(self.columns).tolist()
        places = list(np.ndindex(self.blocks.shape))
        firsts = self.rows.tolist() if self.summed else [None] * len(self.rows)
        tasks = [
            delayed(_scan)(self.blocks[i, j], (heights[i], widths[j]), self.A.dtype, self.stored, firsts[i])
            for i, j in places
        ]
        return joined(_computed(tasks), [(int(self.columns[j]), i) for i, j in places])

    def take(self, columns: Sequence[int]) -> np.ndarray:
        where = np.asarray(columns, dtype=np.int64)
        fresh = np.array([j for j in where.tolist() if j not in self.kept], dtype=np.int64)
        X = self._read(fresh)
        known = dict(zip(fresh.tolist(), X.T, strict=True)) | self.kept
        if fresh.size + len(self.kept) > KEPT:
            self.kept.clear()
        self.kept.update(zip(fresh[:KEPT].tolist(), X.T[:KEPT].copy(), strict=True))
        out = np.array([known[j] for j in where.tolist()]).T.astype(self.dtype, order="F")
        return stretched(out.reshape(self.shape[0], where.size), self._part(where))

    def _read(self, where: np.ndarray) -> np.ndarray:
        """Return the columns without the factor."""
        from dask import delayed

        out = np.empty((self.shape[0], where.size), dtype=self.stored)
        tasks, places = [], []
        for c, (a, b) in enumerate(self.ranges):
            mine = np.flatnonzero((where >= a) & (where < b))
            for i in range(self.blocks.shape[0] if mine.size else 0):
                tasks.append(delayed(_taken)(self.blocks[i, c], where[mine] - a))
                places.append((i, mine))
        for part, (i, mine) in zip(_computed(tasks), places, strict=True):
            out[self.rows[i] : self.rows[i + 1], mine] = part
        self.passes[0] += len(tasks) / self.blocks.size
        return out

    def sweep(
        self, Q: np.ndarray, columns: Sequence[int] = (), after: Callable[..., Any] | None = None
    ) -> tuple[Held, np.ndarray]:
        import dask
        from dask import delayed

        self.passes[0] += 1
        where = np.asarray(columns, dtype=np.int64)
        parts, taken, places = [], [], []
        V = self._rows(np.asarray(Q, dtype=self.dtype))
        for c, (a, b) in enumerate(self.ranges):
            mine = np.flatnonzero((where >= a) & (where < b))
            pairs = [
                delayed(_product)(block, v, where[mine] - a, self.dtype, self._part(slice(a, b)))
                for block, v in zip(self.blocks[:, c], V, strict=True)
            ]
            total = pairs[0][0] if len(pairs) == 1 else delayed(_summed)([pair[0] for pair in pairs])
            parts.append(total if after is None else delayed(after)(total))
            if mine.size:
                taken += [pair[1] for pair in pairs]
                places += [(i, mine) for i in range(len(pairs))]
        with _quiet():
            parts, taken = dask.persist(parts, taken)
            found = dask.compute(taken)[0] if taken else []
        C = np.empty((self.shape[0], where.size), dtype=self.dtype)
        for part, (i, mine) in zip(found, places, strict=True):
            C[self.rows[i] : self.rows[i + 1], mine] = part
        return HeldChunks(parts, self.ranges), C

    def right(self, X: np.ndarray) -> np.ndarray:
        from dask import delayed

        self.passes[0] += 1
        X = np.asarray(X, dtype=self.dtype)
        return self._right([delayed(X[a:b]) for a, b in self.ranges])

    def gaussian(self, l: int, rng: np.random.Generator) -> np.ndarray:
        from dask import delayed

        self.passes[0] += 1
        seed = seed_of(rng)
        return self._right([delayed(gaussian_rows)(seed, a, b, l) for a, b in self.ranges])

    def outer(self, Q: np.ndarray) -> np.ndarray:
        from dask import delayed

        if self.blocks.shape[0] > 1:
            held, _ = self.sweep(Q)
            assert isinstance(held, HeldChunks)
            self.passes[0] += 1
            return self._right([delayed(_adjoint)(part) for part in held.parts])
        self.passes[0] += 1
        Q = np.asarray(Q, dtype=self.dtype)
        V = delayed(Q, pure=False)
        return _computed(
            [
                _tree(
                    [
                        delayed(_outer)(block, V, self.dtype, self._part(slice(a, b)))
                        for block, (a, b) in zip(self.blocks[0], self.ranges, strict=True)
                    ],
                    _summed,
                )
            ]
        )[0]

    def _right(self, X: list[Any]) -> np.ndarray:
        """Return AX, X given by ranges of columns of A."""
        from dask import delayed

        strips = []
        for row in self.blocks:
            strips.append(
                _tree(
                    [
                        delayed(_times)(block, x, self.dtype, self._part(slice(a, b)))
                        for block, x, (a, b) in zip(row, X, self.ranges, strict=True)
                    ],
                    _summed,
                )
            )
        return np.concatenate(_computed(strips))

    def residual_norms2(self, Q: np.ndarray) -> np.ndarray:
        from dask import delayed

        Q = np.asarray(Q, dtype=self.dtype)
        if self.blocks.shape[0] == 1:
            self.passes[0] += 1
            tasks = [
                delayed(_residual)(block, Q, self.dtype, self._part(slice(a, b)))
                for block, (a, b) in zip(self.blocks[0], self.ranges, strict=True)
            ]
            return np.concatenate(_computed(tasks))
        held, _ = self.sweep(Q)
        assert isinstance(held, HeldChunks)
        self.passes[0] += 1
        tasks = [
            delayed(_column_sums)(
                [
                    delayed(_less)(block, q, held.parts[c], self.dtype, self._part(slice(a, b)))
                    for block, q in zip(self.blocks[:, c], self._rows(Q), strict=True)
                ]
            )
            for c, (a, b) in enumerate(self.ranges)
        ]
        return np.concatenate(_computed(tasks))

    def reduced(self, first: Callable[..., Any], merge: Callable[..., Any], fan: int) -> list[Any]:
        """Return ``first(columns, start)`` of every range of columns, merged ``fan`` at a time until so few are left: one pass."""
        from dask import delayed

        self.passes[0] += 1
        level = [
            delayed(first)(delayed(_whole)(list(self.blocks[:, c]), self.dtype, self._part(slice(a, b))), a)
            for c, (a, b) in enumerate(self.ranges)
        ]
        while len(level) > fan:
            level = [delayed(merge)(level[a : a + fan]) for a in range(0, len(level), fan)]
        return _computed(level)

    def triangle(self) -> np.ndarray:
        from dask import delayed

        if self.shape[0] <= self.shape[1]:
            return _triangle(self.reduced(_adjoint_triangle, _triangle, fan=2))
        self.passes[0] += 1
        strips = [
            delayed(_strip)(
                [
                    delayed(ready)(block, self.dtype, self._part(slice(a, b)))
                    for block, (a, b) in zip(row, self.ranges, strict=True)
                ]
            )
            for row in self.blocks
        ]
        return _computed([_tree(strips, _triangle, fan=2)])[0]

    def array(self) -> Any:
        """Return the scaled matrix as a dask array."""
        import dask.array as da

        # Products of dask cannot do with empty chunks.
        A = self.A.rechunk(tuple(tuple(np.diff(ends).tolist()) for ends in (self.rows, self.columns)))
        A = da.map_blocks(
            ready, A, self.dtype, None, dtype=self.dtype, meta=np.empty((0, 0), dtype=self.dtype)
        )
        if self.factor is None:
            return A

        size = A.chunks[1]
        mantissa, exponent = (da.from_array(x[None, :], chunks=(1, size)) for x in self.factor)
        return da.map_blocks(_stretched, A, mantissa, exponent, dtype=self.dtype)

    def _part(self, place: Any) -> tuple[np.ndarray, np.ndarray] | None:
        return None if self.factor is None else (self.factor[0][place], self.factor[1][place])

    def _rows(self, Q: np.ndarray) -> list[Any]:
        """Return Q by row blocks, each handed to dask once."""
        from dask import delayed

        return [delayed(Q[a:b], pure=False) for a, b in zip(self.rows[:-1], self.rows[1:], strict=True)]


class HeldChunks(Held):
    """Parts of a product in the memory of the workers."""

    def __init__(self, parts: list[Any], ranges: list[tuple[int, int]]) -> None:
        self.parts, self.ranges = parts, ranges

    def map(self, f: Callable[..., Any], *vectors: np.ndarray) -> list[Any]:
        from dask import delayed

        tasks = [
            delayed(f)(part, a, *(v[a:b] for v in vectors))
            for part, (a, b) in zip(self.parts, self.ranges, strict=True)
        ]
        return _computed(tasks)

    def array(self, rows: int, dtype: Any) -> Any:
        """Return the product as a dask array."""
        import dask.array as da

        parts = [
            da.from_delayed(part, shape=(rows, b - a), dtype=dtype)
            for part, (a, b) in zip(self.parts, self.ranges, strict=True)
        ]
        return da.concatenate(parts, axis=1)


def _quiet() -> Any:
    """Silence dask's warning about large graphs, as vectors of length n are in the graph on purpose."""
    import dask

    if "distributed" not in sys.modules:
        return contextlib.nullcontext()
    return dask.config.set({"distributed.admin.large-graph-warning-threshold": "1TB"})


def _computed(tasks: list[Any]) -> list[Any]:
    import dask

    with _quiet():
        return list(dask.compute(*tasks))


def _tree(tasks: list[Any], merge: Callable[..., Any], fan: int = 8) -> Any:
    """Return the tasks' results merged, of which few are in memory at a time."""
    from dask import delayed

    while len(tasks) > 1:
        tasks = [delayed(merge)(tasks[a : a + fan]) for a in range(0, len(tasks), fan)]
    return tasks[0]


# Tasks. Each gets a block as it is stored.


def _array(block: Any) -> np.ndarray:
    """Return a block that columns can be taken of; what is masked is seen later, in the columns that count."""
    return block if isinstance(block, np.ma.MaskedArray) else dense(block)


def _scan(block: Any, shape: tuple[int, int], declared: np.dtype, dtype: np.dtype, first: int | None) -> Scan:
    """Return the scan of a block, which must be what dask says it is."""
    if np.ma.is_masked(block):
        return scan_from(block, None)
    X = dense(block)
    if X.shape != shape:
        raise ArgumentError(
            f"A has a block of shape {X.shape} where dask says {shape}; "
            "give map_blocks its chunks=, or call A.compute_chunk_sizes()"
        )
    if not np.can_cast(X.dtype, dtype, "safe"):
        raise ArgumentError(
            f"A has a block of dtype {X.dtype} where dask says {declared}; make both agree, "
            f"with A.map_blocks(numpy.asarray, dtype='{X.dtype}') for one"
        )
    return scan_from(X, first, dtype)


def _stretched(block: np.ndarray, mantissa: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    return stretched(block, (mantissa[0], exponent[0]))


def _taken(block: np.ndarray, place: np.ndarray) -> np.ndarray:
    return dense(block)[:, place]


def _product(
    block: np.ndarray, V: np.ndarray, place: np.ndarray, dtype: np.dtype, factor: Any
) -> tuple[np.ndarray, np.ndarray]:
    X = ready(block, dtype, factor)
    return V.conj().T @ X, X[:, place]


def _times(block: np.ndarray, X: np.ndarray, dtype: np.dtype, factor: Any) -> np.ndarray:
    return ready(block, dtype, factor) @ X.astype(dtype, copy=False)


def _outer(block: np.ndarray, Q: np.ndarray, dtype: np.dtype, factor: Any) -> np.ndarray:
    X = ready(block, dtype, factor)
    return X @ (X.conj().T @ Q)


def _adjoint(X: np.ndarray) -> np.ndarray:
    return X.conj().T


def _residual(block: np.ndarray, Q: np.ndarray, dtype: np.dtype, factor: Any) -> np.ndarray:
    return residual_norms2(ready(block, dtype, factor), Q)


def _less(block: np.ndarray, Q: np.ndarray, G: np.ndarray, dtype: np.dtype, factor: Any) -> np.ndarray:
    return column_norms2(ready(block, dtype, factor) - Q @ G).astype(np.float64)


def _whole(blocks: list[np.ndarray], dtype: np.dtype, factor: Any) -> np.ndarray:
    return ready(np.concatenate([dense(block) for block in blocks]), dtype, factor)


def _triangle(parts: list[np.ndarray]) -> np.ndarray:
    """Return R of a QR decomposition of all parts on top of each other."""
    R: np.ndarray = np.linalg.qr(np.concatenate(parts), mode="r")  # type: ignore[assignment]
    return R


def _adjoint_triangle(columns: np.ndarray, start: int) -> np.ndarray:
    return _triangle([columns.conj().T])


def _strip(blocks: list[np.ndarray]) -> np.ndarray:
    return _triangle([np.concatenate(blocks, axis=1)])


def _summed(parts: list[np.ndarray]) -> np.ndarray:
    return sum(parts[1:], start=parts[0])


def _column_sums(parts: list[np.ndarray]) -> np.ndarray:
    return np.sum(parts, axis=0)
