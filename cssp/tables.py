"""Matrices in files: npy, npz, csv, parquet, zarr, Matrix Market. Readers are imported where they are needed."""

from __future__ import annotations

import csv
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cssp.errors import ArgumentError, CsspError, UnsupportedError
from cssp.files import written

__all__ = ["SUFFIXES", "Table", "read", "write"]

Array = Any

#: Endings that are understood.
SUFFIXES = (".npy", ".npz", ".csv", ".tsv", ".parquet", ".zarr", ".mtx", ".mtx.gz")


@dataclass(frozen=True, eq=False)
class Table:
    """A matrix and the names of its columns, where the file has any."""

    A: Array
    names: list[str] | None = None

    def only(self, wanted: list[str]) -> Table:
        """The columns of these names, or of these numbers where there are no names, in this order."""
        n = int(self.A.shape[1])
        if self.names is None:
            try:
                place = [int(w) for w in wanted]
            except ValueError:
                raise ArgumentError(
                    f"--columns {','.join(wanted)}: this file has no header; column numbers are wanted"
                ) from None
            outside = [j for j in place if not 0 <= j < n]
            if outside:
                raise ArgumentError(f"--columns {outside[0]}: column numbers run from 0 to {n - 1}")
        else:
            missing = [w for w in wanted if w not in self.names]
            if missing:
                shown = ", ".join(self.names[:10]) + (", ..." if len(self.names) > 10 else "")
                raise ArgumentError(f"--columns {missing[0]}: the file has {shown}")
            place = [self.names.index(w) for w in wanted]
        if len(set(place)) < len(place):
            raise ArgumentError(f"--columns {','.join(wanted)}: a column is named twice")
        return Table(self.A[:, place], [str(w) for w in wanted] if self.names is not None else None)


def read(path: str | Path, key: str | None = None) -> Table:
    """The matrix in a file; ``key`` names one of several arrays of an npz file or a zarr group."""
    path = Path(path)
    kind = _kind(path)
    if not path.exists():
        raise ArgumentError(f"{path}: no such file")
    if key is not None and kind not in (".npz", ".zarr"):
        raise ArgumentError(f"--key {key}: {kind} files hold one matrix; npz and zarr may hold several")
    reader = {
        ".npy": lambda: Table(np.load(path, mmap_mode="r", allow_pickle=False)),
        ".npz": lambda: Table(_npz(path, key)),
        ".csv": lambda: _csv(path, ","),
        ".tsv": lambda: _csv(path, "\t"),
        ".parquet": lambda: _parquet(path),
        ".zarr": lambda: Table(_zarr(path, key)),
        ".mtx": lambda: Table(_market(path)),
        ".mtx.gz": lambda: Table(_market(path)),
    }[kind]
    try:
        return reader()
    except (CsspError, OSError, MemoryError):
        raise
    except Exception as reason:  # readers have families of their own
        raise ArgumentError(f"{path} cannot be read as {kind[1:]}: {str(reason).splitlines()[0]}") from None


def _kind(path: Path) -> str:
    name = path.name.lower()
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.endswith(suffix):
            return suffix
    raise ArgumentError(f"{path}: the ending tells the format; {', '.join(SUFFIXES)} are understood")


def _only(path: Path, keys: list[str], key: str | None) -> str:
    """The one array meant."""
    if key is None and len(keys) == 1:
        return keys[0]
    if key is None or key not in keys:
        found = ", ".join(keys[:10]) or "none"
        raise ArgumentError(
            f"{path} holds the arrays {found}; " + ("pass --key" if key is None else f"not {key}")
        )
    return key


def _npz(path: Path, key: str | None) -> np.ndarray:
    with np.load(path, allow_pickle=False) as file:
        return file[_only(path, list(file.files), key)]


def _csv(path: Path, delimiter: str) -> Table:
    """Numbers with or without a line of names."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        first = next(csv.reader(file, delimiter=delimiter), [])
    if not first:
        raise ArgumentError(f"{path} is empty")
    names = None if all(_is_number(cell) for cell in first) else [cell.strip() for cell in first]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an empty table is refused by `select`
            A = np.loadtxt(
                path,
                delimiter=delimiter,
                skiprows=int(names is not None),
                ndmin=2,
                comments=None,
                encoding="utf-8-sig",
                quotechar='"',
                converters=_number,
            )
    except ValueError as reason:
        raise ArgumentError(f"{path}: {reason}") from None
    if names is not None and A.shape[1] != len(names) and A.size:
        raise ArgumentError(f"{path}: {len(names)} names and {A.shape[1]} columns")
    return Table(A.reshape(-1, len(first)), names)


def _number(cell: str) -> float:
    """An empty cell is NaN, and refused as such with its column."""
    return float(cell) if cell.strip() else float("nan")


def _is_number(cell: str) -> bool:
    try:
        _number(cell)
    except ValueError:
        return False
    return True


def _parquet(path: Path) -> Table:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise UnsupportedError(f"{path}: parquet needs pyarrow; pip install pyarrow") from None
    table = parquet.read_table(path)
    columns = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        values = column.to_numpy()
        if values.dtype.kind not in "biuf":
            raise ArgumentError(f"{path}: column {name!r} holds {column.type}, not numbers; use --columns")
        columns.append(values)
    if not columns:
        raise ArgumentError(f"{path} has no columns")
    return Table(np.stack(columns, axis=1), list(table.column_names))


def _zarr(path: Path, key: str | None) -> Array:
    """A dask array where dask is installed: the matrix need not fit into memory."""
    try:
        import zarr
    except ImportError:
        raise UnsupportedError(f"{path}: zarr needs zarr; pip install zarr 'dask[array]'") from None
    found: Any = zarr.open(path, mode="r")
    if not hasattr(found, "dtype"):
        found = found[_only(path, sorted(found.array_keys()), key)]
    elif key is not None:
        raise ArgumentError(f"--key {key}: {path} is one array")
    try:
        import dask.array
    except ImportError:
        return found[:]
    return dask.array.from_zarr(found)


def _market(path: Path) -> Array:
    """A dense array, or a CSC one."""
    from scipy.io import mmread

    A = mmread(path, spmatrix=False)
    return A if isinstance(A, np.ndarray) else A.tocsc()


def write(path: str | Path, A: np.ndarray, names: list[str] | None) -> None:
    """A matrix as npy, npz, csv, tsv or parquet; names of its columns go into the last three."""
    path = Path(path)
    kind = _kind(path)
    with written(path) as partial:
        if kind == ".npy":
            np.save(partial, A)
        elif kind == ".npz":
            np.savez(partial, A=A)
        elif kind in (".csv", ".tsv"):
            with partial.open("w", newline="", encoding="utf-8") as file:
                lines = csv.writer(file, delimiter="," if kind == ".csv" else "\t", lineterminator="\n")
                if names is not None:
                    lines.writerow(names)
                lines.writerows(A.tolist())
        elif kind == ".parquet":
            try:
                import pyarrow
                import pyarrow.parquet as parquet
            except ImportError:
                raise UnsupportedError(f"{path}: parquet needs pyarrow; pip install pyarrow") from None
            labels = names or [str(j) for j in range(A.shape[1])]
            parquet.write_table(pyarrow.Table.from_arrays(list(map(pyarrow.array, A.T)), labels), partial)
        else:
            raise ArgumentError(f"{path}: columns are written as npy, npz, csv, tsv or parquet")
