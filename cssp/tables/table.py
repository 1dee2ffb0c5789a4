"""What a reader is asked and what it answers."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

__all__ = ["ReadOptions", "Table"]


@dataclass(frozen=True)
class ReadOptions:
    """How a file is to be read.

    Attributes
    ----------
    key : str or None
        The array of an npz file or a zarr group that holds several.
    form : str or None
        The format, such as "csv", where the ending does not give it.
    columns : list of str, or None
        Only these, in this order, see `cssp.tables.columns.chosen`.
    numeric : bool
        Leave out columns that hold no numbers, instead of refusing them.
    missing : {"raise", "rows", "pairwise"}
        Refuse missing cells, leave out the rows that have one, or keep them as NaN, for `cssp.select` to deal with.
    header : {"auto", "yes", "no"}
        Whether the first line of a text holds the names of the columns.
    sep : str or None
        What separates the cells of a text; "auto" finds out, None follows the format.
    decimal : {".", ","}
        The decimal mark of a text.
    encoding : str
        The encoding of a text.
    """

    key: str | None = None
    form: str | None = None
    columns: list[str] | None = None
    numeric: bool = False
    missing: str = "raise"
    header: str = "auto"
    sep: str | None = None
    decimal: str = "."
    encoding: str = "utf-8-sig"


@dataclass(frozen=True, eq=False)
class Table:
    """A matrix and what is known of its columns and rows. Close it, or use ``with``, to remove temporary files.

    Attributes
    ----------
    A : array, shape (m, n)
        A NumPy array (mapped where it is large), a dask array or a sparse array.
    names : list of str, or None
        Names of its columns, where the file has any.
    columns : int array, shape (n,)
        Their numbers in the file, from 0.
    rows : int array, shape (m,), or None
        The numbers of the rows in the file, from 0 and not counting the names; None where all are there.
    dropped : int
        Rows that were left out because a cell is missing.
    left_out : list
        Names, or numbers, of columns that were left out because they hold no numbers.
    notes : list of str
        What the user should know of decisions that were made.
    """

    A: Any
    names: list[str] | None
    columns: np.ndarray
    rows: np.ndarray | None = None
    dropped: int = 0
    left_out: tuple[str | int, ...] = ()
    notes: tuple[str, ...] = ()
    folder: tempfile.TemporaryDirectory[str] | None = None

    def close(self) -> None:
        """Remove the temporary file, if there is one."""
        if self.folder is not None:
            self.folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def label(self, j: int) -> str:
        """Return how messages call column j of `A`: by name and by number in the file."""
        return label(int(self.columns[j]), None if self.names is None else self.names[j])


def label(number: int, name: str | None) -> str:
    """Return a column in a message."""
    return f"column {number} ({f'{name!r}, ' if name else ''}counted from 0)"
