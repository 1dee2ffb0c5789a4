"""Rows chosen instead of columns: A is transposed, without a copy where its storage allows, and all messages speak of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import array_api_compat
import numpy as np

from cssp import frames, passes
from cssp.arrays import as_array
from cssp.errors import ArgumentError, speaking_of
from cssp.gradients import transformed

if TYPE_CHECKING:
    from cssp.selection import Selection

__all__ = ["as_axis", "select_rows", "transposed"]

Array = Any

_AXES = {"columns": "columns", -1: "columns", "rows": "rows", -2: "rows"}


def as_axis(axis: Any, A: Any) -> str:
    """Return "columns" or "rows".

    Raises
    ------
    ArgumentError
        The axis is neither; or it is counted from the front, 0 or 1, while A is a batch.
    """
    why = ""
    if isinstance(axis, str | int | np.integer) and not isinstance(axis, bool):
        if axis in _AXES:
            return _AXES[axis]
        if axis in (0, 1):
            dimensions = len(A.shape if hasattr(A, "shape") else as_array("A", A).shape)
            if dimensions == 2:
                return ("rows", "columns")[axis]
            why = f", as A has {dimensions} dimensions; 0 and 1 are the axes of one matrix"
    raise ArgumentError(f"axis = {axis!r}: expected 'columns' (-1) or 'rows' (-2){why}")


def select_rows(
    select: Callable[..., Selection], A: Any, k: Any, method: str, target: Any, **arguments: Any
) -> Selection:
    """Return what ``select`` chooses of the transposed matrix, as a choice of rows."""
    A, B = transposed("A", A), None if target is None else transposed("target", target)
    if B is not None and tuple(B.shape)[-2] != tuple(A.shape)[-2]:
        raise ArgumentError(
            f"target has {B.shape[-2]} columns: expected {A.shape[-2]}, as many as A has; its rows are to be "
            "reconstructed from rows of A"
        )
    other = {"rows": "columns", "columns": "rows"}
    if isinstance(arguments["missing"], str):
        arguments["missing"] = other.get(arguments["missing"], arguments["missing"])
    with speaking_of("rows"):
        found = replace(select(A, k, method, target=B, **arguments), axis="rows")
    if found.missing is None or found.missing.how not in other:
        return found
    return replace(found, missing=replace(found.missing, how=other[found.missing.how]))


def transposed(argument: str, A: Any) -> Any:
    """Return the transpose of A in its own storage; that of a data frame has the labels of its rows as names of columns."""
    kind = passes.kind_of(A)
    if hasattr(A, "to_dask_array"):
        A = passes.from_frame(A)
    if kind == "operator":
        A = passes.source_of(A).A  # formed where it is small and has no adjoint
    if kind in ("sparse", "operator") or (kind == "dask" and A.ndim == 2):
        return A.T
    labels = frames.labels_of(A)
    if kind != "mapped" and not transformed(A):
        checked = as_array(argument, A)
        A = A if array_api_compat.is_torch_array(A) else checked  # a tensor keeps its graph
    if A.ndim < 2:
        raise ArgumentError(f"{argument} has shape {tuple(A.shape)}: expected (..., m, n)")
    A = array_api_compat.array_namespace(A).matrix_transpose(A) if kind is None else A.T
    return A if labels is None else frames.Named(A, labels)
