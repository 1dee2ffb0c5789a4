"""Matrices into files."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from cssp.errors import ArgumentError, UnsupportedError
from cssp.files import written
from cssp.tables.reading import format_of

__all__ = ["write"]


def write(path: str | Path, A: np.ndarray, names: list[str] | None) -> None:
    """Write a matrix as npy, npz, csv, tsv or parquet; names of its columns go into the last three."""
    path = Path(path)
    kind = format_of(path)
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
                lines.writerows(row.tolist() for row in A)
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
