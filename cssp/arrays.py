"""The input contract of matrices: numbers in memory, of a dtype that is worked in, without NaN or Inf."""

from __future__ import annotations

import math
from typing import Any

import array_api_compat
import numpy as np

from cssp import frames, gradients
from cssp.arguments import check_supported
from cssp.errors import ArgumentError, UnsupportedError
from cssp.methods import Method

__all__ = ["as_array", "as_matrix", "check_finite", "compute_dtype"]

Array = Any


def as_matrix(argument: str, A: Any, row: Method) -> Array:
    """Return A as a numeric array (..., m, n) in its own namespace, detached from any gradient."""
    kind = type(A).__module__.partition(".")[0]
    if type(A).__module__.startswith("scipy.sparse"):
        raise UnsupportedError(
            f"{argument} is sparse, which method {row.name!r} does not support; pass {argument}.toarray()"
        )
    if kind == "dask":
        raise UnsupportedError(
            f"{argument} is a dask array, "
            f"which method {row.name!r} does not support; pass {argument}.compute()"
        )
    A = as_array(argument, A)
    shape = tuple(A.shape)
    if len(shape) < 2:
        row_or_column = (
            f"; for one row use {argument}.reshape(1, -1), for one column {argument}.reshape(-1, 1)"
        )
        raise ArgumentError(
            f"{argument} has shape {shape}: expected (..., m, n)" + (row_or_column if len(shape) else "")
        )
    if 0 in shape[-2:]:
        raise ArgumentError(f"{argument} has shape {shape}: expected at least one row and one column")
    if _kind(A) == "complex" and "complex" not in row.supports:
        check_supported(row, "complex", f"complex {argument}")
    return A


def as_array(argument: str, A: Any) -> Array:
    """Return A as a numeric array in its own namespace, detached from any gradient; what has no numbers is refused by name."""
    kind = type(A).__name__
    A = frames.as_values(argument, A)
    if isinstance(A, np.ma.MaskedArray):
        raise ArgumentError(
            f"{argument} is a masked array; pass its data, and valid= for columns to be left out"
        )
    if array_api_compat.is_torch_array(A):
        A = _dense_tensor(argument, A).detach()
    elif not array_api_compat.is_array_api_obj(A) or isinstance(A, np.generic):
        try:
            A = np.asarray(A)
        except (TypeError, ValueError) as reason:
            raise ArgumentError(f"{argument} is not a matrix: {reason}") from None
    if isinstance(A, np.ndarray):
        A = np.asarray(A)
        if A.dtype.char in "gG":  # long double is worked on in double
            with np.errstate(over="ignore"):  # what is beyond its range is refused as Inf
                A = A.astype(np.float64 if A.dtype.char == "g" else np.complex128)
    if isinstance(A, np.ndarray) and A.dtype.kind == "O" and A.ndim == 0:
        raise ArgumentError(
            f"{argument} is a {kind}: expected an array of numbers; pass numpy.asarray(...) of them"
        )
    if _kind(A) == "other":
        raise ArgumentError(
            f"{argument} has dtype {A.dtype}: expected numbers (bool, integer, real or complex){_advice(argument, A)}"
        )
    return A


def compute_dtype(A: Array) -> Any:
    """Return the precision of the work: float32 for half precisions, float64 for integers and bools, else that of A."""
    xp = array_api_compat.array_namespace(A)
    kind = _kind(A)
    single = kind in ("real", "complex") and xp.finfo(A.dtype).bits <= 32
    if kind == "complex":
        return xp.complex64 if single else xp.complex128
    return xp.float32 if single else xp.float64


def check_finite(
    argument: str,
    A: Array,
    columns: np.ndarray | None,
    where: str,
    remedy: str,
    names: list[str] | None = None,
    if_nan: str = "",
) -> float:
    """Return the largest modulus of the entries; the first column with NaN or Inf is refused by name."""
    xp = array_api_compat.array_namespace(A)
    complex_ = _kind(A) == "complex"
    parts = (xp.real(A), xp.imag(A)) if complex_ else (A,)
    top = max(_largest(xp, part) for part in parts)
    if math.isfinite(top):
        return top
    for j in range(A.shape[1]):
        column = A[:, j]
        if not bool(xp.all(xp.isfinite(column))):
            what = "NaN" if bool(xp.any(xp.isnan(column))) else "Inf"
            name = j if columns is None else int(columns[j])
            title = "" if names is None else f" ({names[name]!r})"
            more = if_nan if what == "NaN" else ""
            raise ArgumentError(f"{argument} has {what} in column {name}{title}{where}; {remedy}{more}")
    raise ArgumentError(f"{argument} has entries beyond the range of {A.dtype}")  # pragma: no cover


def _dense_tensor(argument: str, A: Any) -> Any:
    """Return the tensor, if it is one of numbers in memory."""
    kind = type(A).__name__
    if gradients.transformed(A):
        raise UnsupportedError(
            f"{argument} is inside a transform of torch.func: expected a plain tensor; choose outside of it"
        )
    if A.is_nested:
        raise UnsupportedError(
            f"{argument} is a nested tensor: expected one shape for all items; "
            f"pass {argument}.to_padded_tensor(0.0), and valid= for the padding"
        )
    if A.is_quantized:
        raise UnsupportedError(f"{argument} is quantised, {A.dtype}; pass {argument}.dequantize()")
    if kind in ("FakeTensor", "FunctionalTensor") or A.device.type == "meta":
        what = "on the meta device" if A.device.type == "meta" else f"a {kind}"
        raise UnsupportedError(
            f"{argument} is {what}: it has a shape but no numbers; choose outside of tracing, on real tensors"
        )
    if kind == "MaskedTensor":
        raise UnsupportedError(
            f"{argument} is a MaskedTensor; pass its get_data(), and valid= for columns to be left out"
        )
    if str(A.layout) != "torch.strided":
        raise UnsupportedError(f"{argument} has layout {A.layout}; pass {argument}.to_dense()")
    return A


def _advice(argument: str, A: Any) -> str:
    """Return the advice that turns an array of another kind into numbers."""
    kind = getattr(A.dtype, "kind", "")
    if kind == "O":
        return f"; if all entries are numbers, pass {argument}.astype(float)"
    if kind == "V":
        return f"; pass numpy.lib.recfunctions.structured_to_unstructured({argument})"
    return "; leave columns of text out, or encode them" if kind in "US" and kind else ""


def _kind(A: Any) -> str:
    """Return bool, integer, real, complex or other, also for dtypes the Array API does not know."""
    if isinstance(A, np.ndarray):
        return {"b": "bool", "i": "integer", "u": "integer", "f": "real", "c": "complex"}.get(
            A.dtype.kind, "other"
        )
    if array_api_compat.is_torch_array(A):
        return "complex" if A.dtype.is_complex else "real" if A.dtype.is_floating_point else "integer"
    xp = array_api_compat.array_namespace(A)
    names = {"bool": "bool", "integral": "integer", "real floating": "real", "complex floating": "complex"}
    return next((ours for theirs, ours in names.items() if xp.isdtype(A.dtype, theirs)), "other")


def _largest(xp: Any, X: Array) -> float:
    """Return max |x|, NaN where there is one; without a temporary as large as X."""
    high, low = float(xp.max(X)), float(xp.min(X))
    return math.nan if math.isnan(high) or math.isnan(low) else max(high, -low)
