"""The methods on matrices that are read in passes, and the way from such a matrix to a `Source`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from cssp import arguments as check
from cssp import linalg, scaling
from cssp.errors import ArgumentError, UnsupportedError
from cssp.in_memory import REMEDY
from cssp.methods.norm import norm
from cssp.methods.row import Method
from cssp.methods.uniform import uniform
from cssp.passes import MAPPED, kind_of
from cssp.passes.chunks import ChunkSource
from cssp.passes.greedy import greedy
from cssp.passes.mapped import MappedSource
from cssp.passes.operator import OperatorSource, dtype_of
from cssp.passes.problem import SAME, PassPart, PassProblem
from cssp.passes.random_pivot import random_pivot
from cssp.passes.residual import residual
from cssp.passes.scan import factor_of
from cssp.passes.sketches import leverage, osinsky, sketched_optimum, sketched_qr, volume
from cssp.passes.source import Source, SparseSource
from cssp.passes.sparse_part import SparsePart
from cssp.request import Item

__all__ = [
    "METHODS",
    "OPEN_ENDED",
    "InPasses",
    "PassPart",
    "PassProblem",
    "Source",
    "from_frame",
    "problem_of",
    "record_of",
    "row_for",
    "settled",
    "sketched_optimum",
    "source_of",
]

#: The methods on a `Source`.
METHODS: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (residual, greedy, norm, uniform, random_pivot, leverage, osinsky, volume, sketched_qr)
}

#: Methods that can do without k where tol is given.
OPEN_ENDED = ("residual", "random_pivot", "sketched_qr")

_NAMES = {"dask": "a dask array", "sparse": "sparse", "operator": "a LinearOperator", "mapped": "mapped"}

_NUMBERS = "expected numbers (bool, integer, real or complex)"


def settled(A: Any, row: Method, options: Iterable[str], k: Any, *beyond: Any) -> Any:
    """Return A itself; a mapped file as an array in memory where passes would choose otherwise, or cannot do what is asked.

    ``beyond`` are arguments that are honoured in memory only, None where not given.
    """
    if kind_of(A) != "mapped":
        return A
    known = row.name in SAME and set(options) <= set(replace(row, function=METHODS[row.name]).options)
    counted = k is not None or row.name in OPEN_ENDED
    small = row.name != "greedy" or min(A.shape) <= linalg.SQUARE  # it needs AAᴴ or AᴴA
    plain = all(argument is None for argument in beyond)
    return A if known and counted and small and plain else np.asarray(A)


def row_for(row: Method, A: Any) -> Method:
    """Return the method's row with the function that works on A's kind."""
    kind = kind_of(A)
    if kind is None:
        return row
    if row.name not in METHODS:
        able = ", ".join(repr(name) for name in sorted(METHODS))
        small = {"dask": "A.compute()", "sparse": "A.toarray()", "operator": "A @ numpy.eye(A.shape[1])"}[
            kind
        ]
        raise UnsupportedError(
            f"A is {_NAMES[kind]}, which method {row.name!r} does not support; methods that do: {able}; "
            f"or pass {small}"
        )
    return replace(row, function=METHODS[row.name], supports=row.supports - {"target"})


def source_of(A: Any, row: Method | None = None, summed: bool = False) -> Source:
    """Return A as a source; ``summed`` where a fingerprint will be asked for."""
    kind = kind_of(A)
    if kind is None:
        raise ArgumentError(
            f"A is a {type(A).__name__}: a dask array, a sparse matrix, a LinearOperator or a numpy.memmap of more than "
            f"{MAPPED} bytes is read in passes"
        )
    if hasattr(A, "to_dask_array"):
        A = from_frame(A)
    if len(A.shape) != 2:
        raise ArgumentError(
            f"A has shape {tuple(A.shape)}: expected a matrix (m, n) where it is read in passes"
        )
    dtype = _compute_dtype(dtype_of(A) if kind == "operator" else A.dtype)
    if row is not None and dtype.kind == "c" and "complex" not in row.supports:
        check.check_supported(row, "complex", "complex A")
    source: Source | None = None
    if 0 not in A.shape:
        source = _SOURCES[kind](A, dtype)  # which finds out sizes of chunks that were unknown
    if source is None or 0 in source.shape:
        shape = tuple(A.shape) if source is None else source.shape
        raise ArgumentError(f"A has shape {shape}: expected at least one row and one column")
    source.summed = summed
    return source


_SOURCES: dict[str, Callable[[Any, Any], Source]] = {
    "dask": ChunkSource,
    "sparse": SparseSource,
    "operator": OperatorSource,
    "mapped": MappedSource,
}


def from_frame(frame: Any) -> Any:
    """Return the dask array of a dask DataFrame of numbers, its columns in one type; one pass for the lengths."""
    kinds = {name: getattr(dtype, "kind", "O") for name, dtype in frame.dtypes.items()}
    wrong = [str(name) for name, kind in kinds.items() if kind not in "biufc"]
    if wrong:
        shown = ", ".join(wrong[:10]) + (", ..." if len(wrong) > 10 else "")
        raise ArgumentError(
            f"A is a DataFrame whose columns {shown} hold {frame.dtypes[wrong[0]]}: {_NUMBERS}; "
            "leave them out, as A.select_dtypes('number') does"
        )
    plain = [getattr(dtype, "numpy_dtype", dtype) for dtype in frame.dtypes]
    return frame.astype(np.result_type(*plain) if plain else float).to_dask_array(lengths=True)


def record_of(A: Source) -> type[PassPart]:
    """Return the record of picks of this matrix."""
    return SparsePart if isinstance(A, SparseSource) else PassPart


class InPasses:
    """The matrix of one call, read in passes: what `cssp.in_memory.InMemory` is for arrays in memory."""

    like = np.empty((0,))
    names = None

    def __init__(self, A: Any, row: Method, options: Mapping[str, Any], target: Any, unit: bool) -> None:
        """Check the matrix; with ``unit`` columns will be divided by their norms."""
        self.row, self.unit = row_for(row, A), unit
        check.check_options(self.row, options)
        if target is not None:
            check.check_supported(self.row, "target", "target")
        self.A = source_of(A, self.row, "checkpoint" in options)
        self.shape = self.A.shape

    @property
    def passes(self) -> float:
        """How often A was read so far."""
        return self.A.passes[0]

    @scaling.default_floating_errors
    def problem(self, place: tuple[int, ...], item: Item, rng: np.random.Generator) -> PassProblem:
        """Return the problem; there is no batch."""
        if not item.counted and self.row.name not in OPEN_ENDED:
            raise UnsupportedError(
                f"tol without k: method {self.row.name!r} needs k on a matrix read in passes; "
                f"methods that do not: {', '.join(map(repr, OPEN_ENDED))}"
            )
        A = self.A if item.columns is None else self.A.narrowed(item.columns)
        A, exponent, norms2 = _scaled(A, item.weights, item.columns, self.unit)
        return PassProblem(
            A=A,
            k=item.k,
            candidates=item.candidates,
            include=item.include,
            tol=item.tol,
            rng=rng,
            exponent=exponent,
            columns=item.columns,
            width=item.width,
            given=norms2,
            record=record_of(A),
        )


def _scaled(
    A: Source,
    weights: np.ndarray | None = None,
    columns: np.ndarray | None = None,
    unit: bool = False,
    remedy: str = REMEDY,
) -> tuple[Source, int, np.ndarray]:
    """Return A·diag(w)·2**-e, e and its squared column norms; the first column with NaN or Inf is refused by name.

    With ``unit`` columns of A are divided by their norms first.
    """
    s = A.scan()
    if s.bad:
        name = s.bad[0] if columns is None else int(columns[s.bad[0]])
        raise ArgumentError(f"A has {s.bad[1]} in column {name}; {remedy}")
    factor, e, norms2 = factor_of(s, weights, A.single, unit)
    A = A.view(factor=factor)
    A.content = None if s.sums is None else (s.sums, factor)
    return A, e, norms2


def problem_of(A: Any) -> PassProblem:
    """Return a problem without arguments: A scaled, its norms known."""
    source, e, norms2 = _scaled(source_of(A), remedy="clean it")
    every = np.ones(source.shape[1], dtype=bool)
    return PassProblem(
        A=source,
        k=1,
        candidates=every,
        exponent=e,
        given=norms2,
        record=record_of(source),
        width=source.shape[1],
    )


def _compute_dtype(dtype: Any) -> np.dtype:
    kind, size = (dtype.kind, dtype.itemsize) if dtype is not None else ("O", 0)
    if kind not in "biufc":
        raise ArgumentError(f"A has dtype {dtype}: {_NUMBERS}")
    if kind == "c":
        return np.dtype(np.complex64 if size <= 8 else np.complex128)
    return np.dtype(np.float32 if kind == "f" and size <= 4 else np.float64)
