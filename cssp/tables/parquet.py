"""Parquet: only the columns asked for are read, some at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cssp.errors import ArgumentError, UnsupportedError
from cssp.tables.columns import chosen
from cssp.tables.missing import left_out, refuse_missing, without_rows
from cssp.tables.spool import LIMIT, Spool
from cssp.tables.table import ReadOptions, Table, label

__all__ = ["read_parquet"]

#: Entries, and columns, that are read at a time.
BLOCK, COLUMNS = 1 << 22, 1 << 12


def read_parquet(path: Path, o: ReadOptions) -> Table:
    """Return the numbers of a table, column after column."""
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise UnsupportedError(f"{path}: parquet needs pyarrow; pip install pyarrow") from None
    with parquet.ParquetFile(path, pre_buffer=False, page_checksum_verification=True) as file:
        schema, m = file.schema_arrow, int(file.metadata.num_rows)
        names = list(schema.names)
        if not names:
            raise ArgumentError("the table has no columns")
        wanted = (
            list(range(len(names))) if o.columns is None else chosen("columns", o.columns, names, len(names))
        )
        types = [schema.field(j).type for j in wanted]
        text = {j: str(t) for j, t in zip(wanted, types, strict=True) if _dtype(t) is None}
        if text and not o.numeric:
            j, kind = next(iter(text.items()))
            raise ArgumentError(
                f"{label(j, names[j])} holds {kind}, not numbers; "
                "use --numeric to leave out such columns, or --columns to name those to use"
            )
        numbers, out, notes = left_out(wanted, names, text, o)
        dtype = np.result_type(*[_dtype(schema.field(j).type) for j in numbers])
        counts: list[int] = []
        complete = np.ones(m, dtype=bool)
        with Spool(m, dtype, large=m * len(numbers) * dtype.itemsize > LIMIT) as spool:
            for X in _blocks(file, numbers, m, dtype):
                absent = np.isnan(X)
                if o.missing == "raise" and absent.any():
                    i, row = (int(s) for s in np.argwhere(absent)[0])
                    refuse_missing(f"row {row} (counted from 0): ", numbers[len(counts) + i], names)
                counts += absent.sum(axis=1).tolist()
                complete &= ~absent.any(axis=0)
                spool.append(X)
            dropped = 0
            if o.missing == "rows" and not complete.all():
                dropped = without_rows(complete, np.asarray(counts), numbers, names, notes)
                spool.keep(np.ones(len(numbers), dtype=bool), complete)
            return Table(
                spool.matrix().T,
                [names[j] for j in numbers],
                np.asarray(numbers, dtype=np.int64),
                np.flatnonzero(complete) if dropped else None,
                dropped,
                out,
                tuple(notes),
                spool.folder,
            )


def _blocks(file: Any, numbers: list[int], m: int, dtype: np.dtype) -> Any:
    """Return some columns after the other, shape (columns, m), NaN where a cell is missing."""
    ends = np.cumsum([_leaves(field.type) for field in file.schema_arrow])
    step = max(1, min(COLUMNS, BLOCK // max(1, m)))
    for start in range(0, len(numbers), step):
        some = numbers[start : start + step]
        order = np.argsort(some)  # the order of the file
        # By number: a name may hold a dot or stand twice.
        table = file.reader.read_all(column_indices=[int(ends[some[i]]) - 1 for i in order])
        X = np.empty((len(some), m), dtype=dtype)
        for i, column in zip(order, table.columns, strict=True):
            X[i] = _values(column)
        yield X


def _values(column: Any) -> np.ndarray:
    """Return a column as numbers, NaN where it is null."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    elif pa.types.is_decimal(column.type) or pa.types.is_null(column.type):
        column = column.cast(pa.float64())
    return column.to_numpy()


def _leaves(kind: Any) -> int:
    """Return the columns of the file that a column of this type takes."""
    import pyarrow as pa

    if pa.types.is_nested(kind):
        return sum(_leaves(kind.field(i).type) for i in range(kind.num_fields))
    return 1


def _dtype(kind: Any) -> Any:
    """Return what the numbers of a column become; None where it holds no numbers."""
    import pyarrow as pa

    t = pa.types
    if t.is_dictionary(kind):
        return _dtype(kind.value_type)
    if t.is_float32(kind) or t.is_float16(kind):
        return np.float32
    able = (
        t.is_float64(kind)
        or t.is_integer(kind)
        or t.is_boolean(kind)
        or t.is_decimal(kind)
        or t.is_null(kind)
    )
    return np.float64 if able else None
