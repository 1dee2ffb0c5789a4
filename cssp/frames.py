"""Data frames of pandas and polars as arrays, what is not numeric in them refused by name."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cssp.errors import ArgumentError, UnsupportedError

__all__ = ["Named", "as_places", "as_values", "by_name", "labels_of", "names_of"]

#: Columns that a message names.
SHOWN = 5


@dataclass(frozen=True, eq=False)
class Named:
    """An array (m, n) with names of its columns: what a frame becomes on its way."""

    values: Any
    names: list[str]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return tuple(self.values.shape)


def names_of(X: Any) -> list[str] | None:
    """Return the names of the columns of a frame, None for everything else."""
    if isinstance(X, Named):
        return X.names
    return [str(name) for name in X.columns] if _library(X) is not None else None


def labels_of(X: Any) -> list[str] | None:
    """Return the labels of the rows of a pandas frame, None for everything else: frames of polars have none."""
    return [str(label) for label in X.index] if _library(X) == "pandas" else None


def as_places(argument: str, index: Any, names: list[str] | None) -> Any:
    """Return columns given by name as their places among the names; everything else as it came."""
    if names is None:
        return index
    if isinstance(index, str):
        raise ArgumentError(f"{argument} = {index!r}: expected a list of columns; pass [{index!r}]")
    if getattr(getattr(index, "dtype", None), "kind", None) in ("O", "U") or type(index).__name__ == "Index":
        index = list(index)  # names in an array, a Series or an Index
    if not isinstance(index, list | tuple) or not any(isinstance(j, str) for j in index):
        return index
    return [_place(argument, j, names) if isinstance(j, str) else j for j in index]


def _place(argument: str, name: str, names: list[str]) -> int:
    times = names.count(name)
    if times == 1:
        return names.index(name)
    if times:
        raise ArgumentError(f"{argument} contains {name!r}, the name of {times} columns; give their indices")
    near = difflib.get_close_matches(name, names, n=3) or names[:SHOWN]
    raise ArgumentError(f"{argument} contains {name!r}, which is no column of A; near to it: {near}")


def by_name(argument: str, values: Any, names: list[str] | None, unit: str = "column", of: str = "A") -> Any:
    """Return one value for each column, in the order of A, where they are given by name; everything else as it came.

    They are in a mapping of names, and in a Series of pandas whose labels are the names in any order.
    """
    if _library(values, "Series") == "pandas" and names:
        labels = [str(label) for label in values.index]
        if labels == names or sorted(labels) != sorted(names) or len(set(names)) < len(names):
            return values
        values = dict(zip(labels, values, strict=True))
    if not isinstance(values, Mapping):
        return values
    if not names:
        raise ArgumentError(
            f"{argument} is a mapping: expected one value per {unit}, as {of} has no {unit} names"
        )
    values = {str(name): value for name, value in values.items()}  # names may be numbers
    absent = [name for name in names if name not in values]
    unknown = [name for name in values if name not in names]
    if absent or unknown:
        what = f"has no value for {absent[0]!r}" if absent else f"names {unknown[0]!r}, which is no {unit}"
        near = difflib.get_close_matches((absent or unknown)[0], unknown if absent else names, n=1)
        hint = f"; near to it: {near[0]!r}" if near else ""
        raise ArgumentError(f"{argument} {what}: expected one value for each {unit} of {of}{hint}")
    return [values[name] for name in names]


def as_values(argument: str, X: Any) -> Any:
    """Return a frame's numbers as an array (m, n), missing ones as NaN; everything else as it came.

    Nullable, sparse and Arrow-backed columns are numbers like any other.
    """
    if isinstance(X, Named):
        return X.values
    library = _library(X)
    if library == "pandas":
        return _of_pandas(argument, X)
    if library == "polars":
        return _of_polars(argument, X)
    if type(X).__name__ == "LazyFrame":
        raise UnsupportedError(
            f"{argument} is a LazyFrame: expected numbers, got a query; pass {argument}.collect()"
        )
    return X


def _library(X: Any, kind: str = "DataFrame") -> str | None:
    home = type(X).__module__.partition(".")[0]
    return home if home in ("pandas", "polars") and type(X).__name__ == kind else None


def _of_pandas(argument: str, X: Any) -> np.ndarray:
    numeric = sys.modules["pandas"].api.types.is_numeric_dtype
    columns = list(zip(X.columns, X.dtypes, strict=True))
    text = [(name, dtype) for name, dtype in columns if not numeric(dtype)]
    _refuse(argument, text, f'{argument}.select_dtypes("number")')
    kinds = [dtype if isinstance(dtype, np.dtype) else np.dtype(np.float64) for _, dtype in columns]
    kind = np.result_type(*kinds) if kinds else np.dtype(np.float64)
    return np.asarray(
        X.to_numpy(dtype=kind, na_value=np.nan) if kind.kind in "fc" else X.to_numpy(dtype=kind)
    )


def _of_polars(argument: str, X: Any) -> np.ndarray:
    pl = sys.modules["polars"]
    columns = list(X.schema.items())
    text = [(name, dtype) for name, dtype in columns if not (dtype.is_numeric() or dtype == pl.Boolean)]
    _refuse(argument, text, f"{argument}.select(polars.selectors.numeric())")
    exact = [name for name, dtype in columns if dtype.is_decimal()]
    return np.asarray(X.cast(dict.fromkeys(exact, pl.Float64)).to_numpy())


def _refuse(argument: str, text: list[tuple[Any, Any]], fix: str) -> None:
    if text:
        shown = ", ".join(f"{name!r} ({dtype})" for name, dtype in text[:SHOWN])
        more = f" and {len(text) - SHOWN} more" if len(text) > SHOWN else ""
        raise ArgumentError(
            f"{argument} has columns that are no numbers: expected numbers, got {shown}{more}; pass {fix}"
        )
