"""Columns that arrive in blocks: merge-and-reduce with few columns kept and the error of all accounted for.

A full buffer becomes a node: the columns S kept of it, and what its span holds of all columns below it. Two nodes of one
level merge into one of the next, as digits of a binary counter; so every column passes through at most log₂(n/buffer) + 1
reductions. docs/streams.md states and proves the bounds that `StreamSelection` carries.
"""

from __future__ import annotations

import math
import os
import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from cssp import arguments as check
from cssp import stream_state
from cssp.arrays import as_array, compute_dtype
from cssp.errors import (
    ArgumentError,
    RankDeficientWarning,
    UnknownNameError,
    UnsupportedError,
    check_integer,
    speaking_of,
)
from cssp.files import as_path
from cssp.frames import names_of
from cssp.linalg import basis, host, project_off, take_columns
from cssp.nodes import Node, choose, merged, noise, norm, projected
from cssp.problem import Array
from cssp.row_stream import RowStream
from cssp.scaling import default_floating_errors
from cssp.selection import Selection

__all__ = ["StreamSelection", "StreamingSelector"]

#: Random signs a column, the bits of one word: columns of the sketch.
SIGNS = 64


class StreamingSelector:
    """Choose k columns of a matrix whose columns, or whose rows, are seen once, in blocks.

    Parameters
    ----------
    k : int
        Number of columns.
    method : {"greedy", "residual", "strong_rrqr"}
        How columns are chosen from a buffer: by the largest decrease of the known error (default), by the largest residual, or
        by strong rank-revealing QR, for which `StreamSelection.factor` is known for every stream. Where rows arrive, any row of
        `cssp.METHODS`.
    oversample : int
        A full buffer is reduced to ``oversample·k`` columns, and so are two of these reduced sets when they are merged.
    buffer : int, optional
        Number of columns that a buffer holds, at least ``oversample·k`` + 1 and by default twice that many.
    rng : None, int or numpy.random.Generator
        Seed of the sketch that estimates the error; the columns chosen do not depend on it. Where rows arrive, the randomness
        of the method.
    axis : {"columns", "rows"}
        What arrives in blocks. Of rows, a triangular factor R of order n is kept, RᵀR = AᵀA, merged with the rows by orthogonal
        transformations; columns are chosen on it, as of the whole matrix. `selection` then returns a `cssp.Selection` with errors,
        coefficients and certificate of A; no buffer and no oversampling is needed.

    Attributes
    ----------
    n_seen_ : int
        Columns, or rows, seen.
    triangle_ : float64 array, shape (min(m, n), n)
        Where rows arrive: R. All else that is chosen by columns of A is chosen by columns of R, as ``cssp.select(R, ...)`` does.
    indices_ : int64 array, shape (k,)
        Positions in the stream of the columns chosen so far, in order of choice.
    columns_ : array, shape (m, k)
        Those columns, times their weights.

    Notes
    -----
    Memory: m numbers for each of at most ``buffer`` + 2·oversample·k·(1 + log₂(n/buffer)) + 64 columns, twice that
    while nodes merge. The answer depends on the order of the columns but not on how they are cut into blocks.
    Blocks may be NumPy arrays or torch tensors; work and results are NumPy, in float32 for float32 and half precision.

    Examples
    --------
    >>> import numpy as np, cssp
    >>> A = np.random.default_rng(0).standard_normal((30, 6)) @ np.random.default_rng(1).standard_normal((6, 1000))
    >>> stream = cssp.StreamingSelector(6, rng=0)
    >>> for block in np.array_split(A, 10, axis=1):
    ...     stream = stream.partial_fit(block)
    >>> bool(stream.selection().bound < 1e-9 * stream.selection().norm)
    True

    Rows in blocks, as from a table too long for the memory:

    >>> stream = cssp.StreamingSelector(6, axis="rows")
    >>> for block in np.array_split(A, 5):
    ...     stream = stream.partial_fit(block)
    >>> bool(np.array_equal(stream.indices_, cssp.select(A, 6, "greedy").indices))
    True
    """

    def __init__(
        self,
        k: int,
        *,
        method: str = "greedy",
        oversample: int = 2,
        buffer: int | None = None,
        rng: int | np.random.Generator | None = None,
        axis: str = "columns",
    ) -> None:
        self.k = check_integer("k", k)
        if not isinstance(axis, str) or axis not in ("columns", "rows"):
            raise ArgumentError(f"axis = {axis!r}: expected 'columns' or 'rows', whichever arrives in blocks")
        self.axis = axis
        if axis == "rows":
            check.find_method(method)
            if buffer is not None or oversample != 2:
                raise ArgumentError(
                    "buffer and oversample belong to axis='columns': expected none of them where rows arrive, of which a "
                    "triangular factor is kept"
                )
        elif method not in ("greedy", "residual", "strong_rrqr"):
            raise UnknownNameError(f"method = {method!r}: expected 'greedy', 'residual' or 'strong_rrqr'")
        self.method = method
        self.oversample = check_integer("oversample", oversample)
        self.kept = self.k * self.oversample
        self.buffer = 2 * self.kept + 2 if buffer is None else check_integer("buffer", buffer, self.kept + 1)
        self._seed = int(check.as_generator(rng).integers(2**63))
        self.n_seen_ = 0
        self._norm = 0.0
        self._nodes: list[Node | None] = []
        self._block: np.ndarray | None = None  # the buffer, (m, buffer)
        self._sketch: np.ndarray | None = None
        self._rows: RowStream | None = None
        self._selection: StreamSelection | Selection | None = None

    # --- taking in ----------------------------------------------------------------------------------

    @default_floating_errors
    def partial_fit(self, columns: Array, weights: Any = None) -> StreamingSelector:
        """Take in the next columns.

        Parameters
        ----------
        columns : array, shape (m, b)
            b may be 0; m and the kind of numbers are those of the first block. Where rows arrive, shape (b, n); of data frames the
            names must stay the same, and the selection has them.
        weights : array, shape (b,), optional
            The same as ``partial_fit(columns * weights)``; of rows, as ``partial_fit(rows * weights[:, None])``.

        Returns
        -------
        StreamingSelector
            Itself. A block that is refused leaves it unchanged.

        Raises
        ------
        CsspError
            The shape, dtype or a value of the block or of its weights is wrong.
        """
        if self.axis == "rows":
            return self._take_rows(columns, weights)
        X = self._checked(columns, weights)
        if X.shape[1] == 0:
            return self
        if self._block is None:
            self._begin(X.shape[0], X.dtype)
        for a in range(0, X.shape[1], self.buffer):
            self._take(X[:, a : a + self.buffer])
        self._selection = None
        return self

    def _take_rows(self, rows: Array, weights: Any) -> StreamingSelector:
        X = as_array("rows", rows)
        if X.ndim != 2:
            raise ArgumentError(
                f"rows has shape {tuple(X.shape)}: expected (b, n); one row is rows.reshape(1, -1)"
            )
        with speaking_of("rows"):
            X = self._checked(X.T, weights).T
        names = names_of(rows)
        first = None if self._rows is None else self._rows.names
        if names is not None and first is not None and names != first:
            old, new = next(two for two in zip(first, names, strict=True) if two[0] != two[1])
            raise ArgumentError(
                f"rows has the column {new!r} where the stream began with {old!r}: expected the same columns in the same order; "
                "pass rows[names of the first block]"
            )
        if X.shape[0]:
            if self._rows is None:
                self._rows = RowStream(X.shape[1], X.dtype, names)
            self._rows.take(X)
            self.n_seen_ = self._rows.seen
            self._selection = None
        return self

    def _begin(self, m: int, dtype: np.dtype) -> None:
        self._block = np.empty((m, self.buffer), dtype=dtype, order="F")
        self._sketch = np.zeros((m, SIGNS), dtype=dtype)

    def _take(self, X: np.ndarray) -> None:
        """Take at most `buffer` columns into the buffer."""
        assert self._block is not None
        assert self._sketch is not None
        self._norm = math.hypot(self._norm, norm(X))
        self._sketch += X @ self._signs(X.shape[1]).astype(X.real.dtype)
        have = self.n_seen_ % self.buffer
        now = min(X.shape[1], self.buffer - have)
        self._block[:, have : have + now] = X[:, :now]
        self.n_seen_ += now
        if have + now == self.buffer:
            self._carry(self._reduced([self._leaf(self.buffer)], self.kept))
            rest = X.shape[1] - now
            self._block[:, :rest] = X[:, now:]
            self.n_seen_ += rest

    def _signs(self, b: int) -> np.ndarray:
        """Return random signs (b, 64) of the next b columns: a word of one sequence for each position."""
        words = np.random.PCG64(self._seed).advance(self.n_seen_).random_raw(b)
        bits = np.unpackbits(np.asarray(words, dtype="<u8").view(np.uint8).reshape(b, 8), axis=1)
        return 1 - 2 * bits.astype(np.int8)

    def _checked(self, columns: Array, weights: Any) -> np.ndarray:
        X = as_array("columns", columns)
        if "bfloat16" in str(X.dtype):
            X = X.float()
        X = host(X)
        if X.ndim != 2 or X.shape[0] == 0:
            raise ArgumentError(
                f"columns has shape {X.shape}: expected (m, b); one column is columns.reshape(-1, 1)"
            )
        kind = compute_dtype(X)
        first = self._block if self._rows is None else self._rows.block.T
        if first is not None:
            if X.shape[0] != first.shape[0]:
                raise ArgumentError(f"columns has {X.shape[0]} rows; the stream began with {first.shape[0]}")
            if np.promote_types(kind, first.dtype) != first.dtype:
                raise ArgumentError(
                    f"columns has dtype {X.dtype}; the stream began in {first.dtype}: "
                    f"convert them, or begin in {np.dtype(kind)}"
                )
            kind = first.dtype
        X = X.astype(kind, copy=False)
        self._refuse(X, "columns", "has")
        if weights is not None:
            w = check.as_weights(weights, (), X.shape[1])
            assert w is not None
            check.check_weights(w, None, " of the block")
            with np.errstate(over="ignore"):
                X = (X * w).astype(kind, copy=False)
            self._refuse(X, "columns * weights", "overflows to")
        return X

    def _refuse(self, X: np.ndarray, name: str, verb: str) -> None:
        bad = np.flatnonzero(~np.isfinite(X).all(axis=0))
        if bad.size:
            j = int(bad[0])
            what = "NaN" if np.isnan(X[:, j]).any() else "Inf"
            raise ArgumentError(
                f"{name} {verb} {what} in column {j} of the block, position {self.n_seen_ + j} of the stream; "
                "clean it or leave it out"
            )

    # --- merging and reducing -----------------------------------------------------------------------

    def _leaf(self, b: int) -> Node:
        """Return the first b columns of the buffer as they are; n_seen_ counts them already."""
        assert self._block is not None
        C = self._block[:, :b].copy(order="F")
        return Node(C, np.arange(self.n_seen_ - b, self.n_seen_), C, 0.0)

    def _carry(self, node: Node) -> None:
        """Add a node of level 0, as one is added to a binary number."""
        for level, other in enumerate(self._nodes):
            if other is None:
                self._nodes[level] = node
                return
            self._nodes[level] = None
            node = self._reduced([other, node], self.kept)
        self._nodes.append(node)

    def _reduced(self, nodes: list[Node], k: int) -> Node:
        """Return the nodes as one, with at most k of their columns."""
        node = merged(nodes)
        k = min(k, node.C.shape[1])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RankDeficientWarning)
            picks = choose(node, k, self.method)
        keep = np.sort(picks)
        return projected(node, keep)

    # --- answers ------------------------------------------------------------------------------------

    def selection(self) -> Any:
        """Return the columns chosen from all seen so far; the stream may continue afterwards.

        Returns
        -------
        StreamSelection, or Selection where rows arrive

        Raises
        ------
        CsspError
            Fewer than k columns have been seen.
        """
        if self.axis == "rows":
            if self._rows is None:
                raise ArgumentError("no row has been seen: expected partial_fit(rows) before")
            if self._selection is None:
                self._selection = self._rows.select(self.k, self.method, np.random.default_rng(self._seed))
            return self._selection
        if self.n_seen_ < self.k:
            raise ArgumentError(f"k = {self.k}, but only {self.n_seen_} columns have been seen")
        if self._selection is None:
            self._selection = self._select()
        if self._selection.rank < self.k:
            warnings.warn(
                f"k exceeds the numerical rank of the columns kept: only {self._selection.rank} of {self.k} are "
                "independent; choose fewer columns to avoid dependent ones",
                RankDeficientWarning,
                stacklevel=2,
            )
        return self._selection

    @default_floating_errors
    def _select(self) -> StreamSelection:
        assert self._sketch is not None
        nodes = [node for node in reversed(self._nodes) if node is not None]
        have = self.n_seen_ % self.buffer
        if have:
            nodes.append(self._leaf(have))
        node = merged(nodes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RankDeficientWarning)
            picks = choose(node, self.k, self.method)
        C = take_columns(node.C, picks)
        Q, independent = basis(C, noise(C))
        final = projected(node, picks)
        return StreamSelection(
            indices=node.place[picks],
            columns=C,
            method=self.method,
            k=self.k,
            rank=sum(independent),
            n_seen=self.n_seen_,
            norm=self._norm,
            bound=min(final.lost, self._norm),
            factor=self._factor(node.C.shape[1]),
            _Q=Q,
            _sketch=self._sketch.copy(),
        )

    def _factor(self, candidates: int) -> float | None:
        """Return the factor that docs/streams.md proves for strong rank-revealing QR, on squared errors."""
        if self.method != "strong_rrqr":
            return None
        levels = len(self._nodes)
        q = [math.sqrt(1 + 4.0 * self.kept * max(0, b - self.kept)) for b in (self.buffer, 2 * self.kept)]
        last = math.sqrt(1 + 4.0 * self.k * max(0, candidates - self.k))
        reductions = [q[0] * q[1] ** i for i in range(levels)]
        return (sum(reductions) + (reductions[-1] if reductions else 1.0) * last) ** 2

    @property
    def indices_(self) -> np.ndarray:
        """Positions of the chosen columns in the stream, int64 of shape (k,)."""
        return self.selection().indices

    @property
    def columns_(self) -> np.ndarray:
        """The chosen columns, shape (m, k)."""
        if self.axis == "rows":
            raise UnsupportedError(
                "columns_ needs all rows, which are not kept: expected A[:, indices_] of rows at hand"
            )
        return self.selection().columns

    @property
    def triangle_(self) -> np.ndarray:
        """Where rows arrive: a copy of R with RᵀR = AᵀA, shape (min(m, n), n), of m rows seen."""
        if self._rows is None:
            raise UnsupportedError("triangle_ is of axis='rows': expected rows in partial_fit before")
        return self._rows.triangle().copy()

    @property
    def nbytes(self) -> int:
        """Bytes held between calls."""
        nodes = [node for node in self._nodes if node is not None]
        arrays = [self._block, self._sketch, *(x for node in nodes for x in (node.C, node.W, node.place))]
        arrays += [] if self._rows is None else [self._rows.R, self._rows.block]
        return sum(x.nbytes for x in arrays if x is not None)

    def __repr__(self) -> str:
        axis = "" if self.axis == "columns" else f", axis={self.axis!r}"
        return f"StreamingSelector(k={self.k}, method={self.method!r}{axis}, n_seen_={self.n_seen_})"

    # --- checkpoints --------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state as ``.npz``, without pickle; the file appears whole or not at all.

        Raises
        ------
        CsspError
            The file cannot be written.
        """
        stream_state.save(self, as_path("path", path))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> StreamingSelector:
        """Return the selector that was saved; it continues as if it had never stopped.

        Raises
        ------
        CsspError
            The file is missing (then it is a ``FileNotFoundError`` too), damaged, or no state of a stream.
        """
        return stream_state.load(cls, as_path("path", path))


@dataclass(frozen=True, eq=False, repr=False)
class StreamSelection:
    """Columns chosen by `StreamingSelector`, and what is known of their error on the matrix A of all columns seen, times their weights.

    Attributes
    ----------
    indices : int64 array, shape (k,)
        Positions of the chosen columns in the stream, counted from 0, in order of choice.
    columns : array, shape (m, k)
        The chosen columns, times their weights.
    method : str
        The rule that chose them.
    k, rank, n_seen : int
        Number of columns chosen, their numerical rank, and number of columns seen.
    norm : float
        ‖A‖_F, exact up to rounding.
    bound : float
        ‖A - P_S A‖_F is at most this, in every run, up to rounding.
    factor : float or None
        What a theorem promises for ‖A - P_S A‖_F² over the best squared error of rank k, for any stream of this length; None
        where no theorem applies. `bound` is usually far sharper.

    Examples
    --------
    >>> import numpy as np, cssp
    >>> A = np.random.default_rng(0).standard_normal((20, 3)) @ np.random.default_rng(1).standard_normal((3, 400))
    >>> sel = cssp.StreamingSelector(3).partial_fit(A).selection()
    >>> bool(np.allclose(sel.columns @ sel.coefficients(A), A)), sel.n_seen
    (True, 400)
    """

    indices: np.ndarray
    columns: np.ndarray
    method: str
    k: int
    rank: int
    n_seen: int
    norm: float
    bound: float
    factor: float | None
    _Q: np.ndarray
    _sketch: np.ndarray

    @cached_property
    @default_floating_errors
    def error(self) -> float:
        """Estimate of ‖A - P_S A‖_F from a sketch: its square is unbiased, with a relative standard deviation of at most √(2/64)."""
        return min(self.bound, norm(project_off(self._sketch, self._Q)) / math.sqrt(SIGNS))

    @property
    def squared_error(self) -> float:
        """`error` squared."""
        return self.error**2

    @property
    def relative_error(self) -> float:
        """`error` over `norm`; 0 for a zero matrix."""
        return self.error / self.norm if self.norm > 0 else 0.0

    @default_floating_errors
    def coefficients(self, X: Array) -> np.ndarray:
        """Return T, shape (k, b), with ``columns @ T`` nearest to X in the least-squares sense, for any X of shape (m, b)."""
        X = np.asarray(host(X))
        return np.linalg.lstsq(self.columns, X.astype(np.result_type(X, self.columns)), rcond=None)[0]

    def __repr__(self) -> str:
        shown = np.array2string(self.indices, separator=", ", threshold=10)
        return (
            f"StreamSelection(method={self.method!r}, k={self.k}, rank={self.rank}, n_seen={self.n_seen}, "
            f"indices={shown})"
        )
