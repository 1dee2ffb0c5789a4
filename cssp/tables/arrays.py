"""npy, npz, zarr and Matrix Market: one array, columns without names."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

import numpy as np

from cssp.errors import ArgumentError, UnsupportedError
from cssp.tables.columns import chosen
from cssp.tables.missing import without_rows
from cssp.tables.spool import BLOCK, LIMIT, Spool
from cssp.tables.table import ReadOptions, Table

__all__ = ["read_market", "read_npy", "read_npz", "read_zarr"]

Array = Any


def read_npy(path: Path, o: ReadOptions) -> Table:
    """Return the array, mapped into memory: what is not needed is not read."""
    return _table(np.load(path, mmap_mode="r", allow_pickle=False), o)


def read_npz(path: Path, o: ReadOptions) -> Table:
    """Return the one array of an npz file, or the one that ``key`` names."""
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        return _table(file[_only(list(file.files), o.key)], o)


def read_zarr(path: Path, o: ReadOptions) -> Table:
    """Return a dask array where dask is installed: the matrix need not fit into memory."""
    try:
        import zarr
    except ImportError:
        raise UnsupportedError(f"{path}: zarr needs zarr; pip install zarr 'dask[array]'") from None
    found: Any = zarr.open(path, mode="r")
    if not hasattr(found, "dtype"):
        found = found[_only(sorted(found.array_keys()), o.key)]
    elif o.key is not None:
        raise ArgumentError(f"--key {o.key}: {path} is one array")
    try:
        import dask.array
    except ImportError:
        return _table(found[:], o)
    return _table(dask.array.from_zarr(found), o)


def read_market(path: Path, o: ReadOptions) -> Table:
    """Return a dense array, or a CSC one."""
    from scipy.io import mmread

    _check_text(path)
    A = mmread(path, spmatrix=False)
    return _table(A if isinstance(A, np.ndarray) else A.tocsc(), o)


def _check_text(path: Path) -> None:
    """Refuse what makes SciPy's reader crash (scipy #19949): a NUL, or an end within a number, after its E."""
    last = b""
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
        while block := file.read(1 << 20):
            if b"\0" in block:
                raise ArgumentError("the file holds binary data, not text")
            last = last[-2:] + block
    if re.search(rb"[eE][+-]?\Z", last):
        raise ArgumentError("the file ends within a number: it was cut short")


def _only(keys: list[str], key: str | None) -> str:
    """Return the one array meant."""
    if key is None and len(keys) == 1:
        return keys[0]
    if key is None or key not in keys:
        found = ", ".join(keys[:10]) or "none"
        raise ArgumentError(
            f"the file holds the arrays {found}; " + ("pass --key" if key is None else f"not {key}")
        )
    return key


def _table(A: Array, o: ReadOptions) -> Table:
    """Return the table of an array: columns by number, rows that are complete."""
    if A.ndim != 2:
        raise ArgumentError(f"the array has shape {tuple(A.shape)}: expected a matrix (m, n)")
    n = int(A.shape[1])
    columns = np.arange(n) if o.columns is None else np.asarray(chosen("columns", o.columns, None, n))
    rows, dropped = None, 0
    notes: list[str] = []
    if o.missing == "rows":
        complete, counts = _complete(A, columns)
        if not complete.all():
            dropped = without_rows(complete, counts, columns.tolist(), None, notes)
            rows = np.flatnonzero(complete)
    folder = None
    if isinstance(A, np.memmap) and not (rows is None and o.columns is None):
        A, folder = _copied(A, rows, columns)
    else:
        A = A if o.columns is None else A[:, columns]
        A = A if rows is None else A[rows]
    return Table(A, None, columns, rows, dropped, (), tuple(notes), folder)


def _complete(A: Array, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which rows have no NaN in these columns, and how many each column has."""
    m, n = (int(s) for s in A.shape)
    counts, complete = np.zeros(n, dtype=np.int64), np.ones(m, dtype=bool)
    if hasattr(A, "tocoo"):
        C = A.tocoo()
        row, column = (c[np.isnan(C.data) & np.isin(C.col, columns)] for c in (C.row, C.col))
        complete[row] = False
        counts += np.bincount(column, minlength=n)
    elif A.dtype.kind in "fc":
        lines = max(1, BLOCK // max(1, n * A.dtype.itemsize)) if isinstance(A, np.ndarray) else A.chunks[0][0]
        for start in range(0, m, lines):
            absent = np.isnan(np.asarray(A[start : start + lines]))[:, columns]
            complete[start : start + lines] = ~absent.any(axis=1)
            counts[columns] += absent.sum(axis=0)
    return complete, counts[columns]


def _copied(A: np.ndarray, rows: np.ndarray | None, columns: np.ndarray) -> tuple[np.ndarray, Any]:
    """Return some rows and columns of a mapped matrix, in a temporary file where they are many."""
    rows = np.arange(A.shape[0]) if rows is None else rows
    if A.dtype.kind not in "biufc" or rows.size * columns.size * A.dtype.itemsize <= LIMIT:
        return A[np.ix_(rows, columns)], None
    by_columns = bool(A.flags.f_contiguous)
    lines, entries, B = (columns, rows, A.T) if by_columns else (rows, columns, A)
    step = max(1, BLOCK // (B.shape[1] * A.dtype.itemsize))
    with Spool(entries.size, A.dtype) as spool:
        for start in range(0, lines.size, step):
            spool.append(B[lines[start : start + step]][:, entries])
        X = spool.matrix()
        return X.T if by_columns else X, spool.folder
