"""Columns that hold no numbers and rows that miss some: left out or refused by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cssp.errors import ArgumentError
from cssp.tables.spool import Spool
from cssp.tables.table import ReadOptions, label

__all__ = ["Missing", "left_out", "refuse_missing", "without_rows"]

Names = Sequence[str] | None


def left_out(
    wanted: Sequence[int], names: Names, text: Mapping[int, str], o: ReadOptions
) -> tuple[list[int], tuple[str | int, ...], list[str]]:
    """Return the columns that hold numbers, the names of the others, and what to say of them.

    `text` has what was found in each of those others, such as ``'Alabama' in line 2``.
    """
    numbers = [j for j in wanted if j not in text]
    if not numbers:
        raise ArgumentError(f"no column holds numbers: {_listed(text, names)}")
    if not text:
        return numbers, (), []
    out = tuple(j if names is None else names[j] for j in wanted if j in text)
    many = "1 column holds" if len(out) == 1 else f"{len(out)} columns hold"
    return numbers, out, [f"{many} no numbers, left out: {_listed(text, names)}"]


class Missing:
    """How many cells are missing, column by column, and where the first one is."""

    def __init__(self, width: int) -> None:
        self.counts = np.zeros(width, dtype=np.int64)
        self.first: dict[int, str] = {}

    @property
    def any(self) -> bool:
        """Whether any cell is missing."""
        return bool(self.counts.any())

    def count(self, X: np.ndarray, lines: Sequence[int] | None = None) -> None:
        """Take note of a block of rows; `lines` are their lines in the file."""
        absent = np.isnan(X)
        if lines is not None:
            for i in np.flatnonzero(absent.any(axis=0)):
                self.first.setdefault(int(i), f"line {lines[int(np.argmax(absent[:, i]))]}: ")
        self.counts += absent.sum(axis=0)

    def settled(
        self,
        spool: Spool,
        kept: np.ndarray,
        numbers: Sequence[int],
        names: Names,
        o: ReadOptions,
        notes: list[str],
    ) -> tuple[np.ndarray | None, int]:
        """Return a mask of the rows to keep, None for all of them, and how many go; `kept` are the entries that stay."""
        counts = self.counts[kept]
        if not counts.any() or o.missing == "pairwise":
            return None, 0
        if o.missing != "rows":
            i = int(np.argmax(counts > 0))
            refuse_missing(self.first.get(int(kept[i]), ""), numbers[i], names)
        complete = np.ones(len(spool), dtype=bool)
        for where, X in spool.blocks():
            complete[where] = ~np.isnan(X[:, kept]).any(axis=1)
        return complete, without_rows(complete, counts, numbers, names, notes)


def refuse_missing(where: str, j: int, names: Names) -> None:
    """Raise for a missing cell."""
    name = None if names is None else names[j]
    raise ArgumentError(
        f"{where}NaN in {label(j, name)}, where a cell is missing; "
        "use --missing rows to leave out rows with missing cells, or --columns to leave out the column"
    )


def without_rows(
    complete: np.ndarray, counts: np.ndarray, numbers: Sequence[int], names: Names, notes: list[str]
) -> int:
    """Return how many rows are not complete; name the columns that miss most, and refuse where none is left."""
    total, dropped = complete.size, int(complete.size - np.count_nonzero(complete))
    worst = [int(i) for i in np.argsort(-counts, kind="stable")[:5] if counts[i]]
    named = ", ".join(f"{numbers[i] if names is None else names[numbers[i]]!r} ({counts[i]})" for i in worst)
    if dropped == total:
        raise ArgumentError(
            f"--missing rows: none of the {total} rows is complete; missing cells are most in the columns {named}; "
            "leave those out with --columns"
        )
    notes.append(f"{dropped} of {total} rows have missing cells, left out; missing cells by column: {named}")
    return dropped


def _listed(text: Mapping[int, str], names: Names) -> str:
    shown = [f"{j if names is None else names[j]!r} ({what})" for j, what in list(text.items())[:10]]
    return ", ".join(shown) + (f", and {len(text) - 10} more" if len(text) > 10 else "")
