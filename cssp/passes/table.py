"""The methods on matrices that are read in passes, and the way from such a matrix to a `Source`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from cssp.arguments import check_supported
from cssp.errors import ArgumentError, UnsupportedError
from cssp.methods.norm import norm
from cssp.methods.row import Method
from cssp.methods.uniform import uniform
from cssp.passes import kind_of
from cssp.passes.chunks import ChunkSource
from cssp.passes.greedy import greedy
from cssp.passes.problem import PassPart, PassProblem
from cssp.passes.random_pivot import random_pivot
from cssp.passes.residual import residual
from cssp.passes.sketches import leverage, osinsky, sketched_optimum, sketched_qr, volume
from cssp.passes.source import OperatorSource, Source, SparseSource, factor_of

__all__ = [
    "METHODS",
    "OPEN_ENDED",
    "PassPart",
    "PassProblem",
    "Source",
    "problem_of",
    "row_for",
    "scaled",
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

_NAMES = {"dask": "a dask array", "sparse": "sparse", "operator": "a LinearOperator"}


def row_for(row: Method, A: Any) -> Method:
    """The method's row with the function that works on A's kind."""
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
    """A as a source; ``summed`` where a fingerprint will be wanted."""
    kind = kind_of(A)
    if len(A.shape) != 2:
        raise ArgumentError(
            f"A has shape {tuple(A.shape)}: a matrix (m, n) is wanted where it is read in passes"
        )
    if 0 in A.shape:
        raise ArgumentError(f"A has shape {tuple(A.shape)}: at least one row and one column are wanted")
    dtype = _compute_dtype(A.dtype)
    if row is not None and dtype.kind == "c" and "complex" not in row.supports:
        check_supported(row, "complex", "complex A")
    homes = {"dask": ChunkSource, "sparse": SparseSource}
    source: Source = homes.get(kind or "", OperatorSource)(A, dtype)
    source.summed = summed
    return source


def scaled(
    A: Source, weights: np.ndarray | None, columns: np.ndarray | None, remedy: str, unit: bool = False
) -> tuple[Source, int, np.ndarray]:
    """A·diag(w)·2**-e, e and its squared column norms; the first column with NaN or Inf is refused by name.

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
    """A problem without arguments: A scaled, its norms known."""
    source, e, norms2 = scaled(source_of(A), None, None, "clean it")
    every = np.ones(source.shape[1], dtype=bool)
    return PassProblem(A=source, k=1, candidates=every, exponent=e, given=norms2, width=source.shape[1])


def _compute_dtype(dtype: Any) -> np.dtype:
    kind, size = (dtype.kind, dtype.itemsize) if dtype is not None else ("O", 0)
    if kind not in "biufc":
        raise ArgumentError(f"A has dtype {dtype}: numbers are wanted (bool, integer, real or complex)")
    if kind == "c":
        return np.dtype(np.complex64 if size <= 8 else np.complex128)
    return np.dtype(np.float32 if kind == "f" and size <= 4 else np.float64)
