"""csv, tsv and the like, read in blocks of lines."""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import IO

import numpy as np

from cssp.errors import ArgumentError
from cssp.tables import cells, header
from cssp.tables.columns import chosen
from cssp.tables.missing import Missing, left_out
from cssp.tables.spool import LIMIT, Spool
from cssp.tables.table import ReadOptions, Table, label

__all__ = ["read_text"]

#: Characters of a block of lines.
BLOCK = 1 << 22


def read_text(path: Path, usual: str, o: ReadOptions) -> Table:
    """Return the numbers in a text; `usual` separates its cells unless `o` says otherwise."""
    with _opened(path, o.encoding) as file:
        first = list(islice(file, header.LINES))
        sep = header.separator(first, o.sep, usual)
    with _opened(path, o.encoding) as file:
        plan = header.layout(file, sep, o.header, o.decimal)
    wanted = _wanted(plan, o)
    reader = _Reader(plan, sep, o, wanted)
    with _opened(path, o.encoding) as file, Spool(len(wanted), large=path.stat().st_size > LIMIT) as spool:
        for _ in range(plan.skip):
            next(file)
        while lines := file.readlines(BLOCK):
            spool.append(reader.block(lines, file))
        names = plan.names
        if o.columns is None and reader.ends_empty(len(spool)):
            reader.text[wanted[-1]] = "", 0
        text = {j: reader.found(j) for j in reader.text}
        numbers, out, notes = left_out(wanted, names, text, o)
        kept = np.flatnonzero(np.isin(wanted, numbers))
        rows, dropped = reader.missing.settled(spool, kept, numbers, names, o, notes)
        if rows is not None or len(kept) < len(wanted):
            spool.keep(np.ones(len(spool), dtype=bool) if rows is None else rows, kept)
        return Table(
            spool.matrix(),
            None if names is None else [names[j] for j in numbers],
            np.asarray(numbers, dtype=np.int64),
            None if rows is None else np.flatnonzero(rows),
            dropped,
            out,
            (*plan.notes, *_note_about_labels(plan, o), *notes),
            spool.folder,
        )


def _opened(path: Path, encoding: str) -> IO[str]:
    try:
        if path.name.lower().endswith(".gz"):
            return gzip.open(path, "rt", newline="", encoding=encoding)
        return path.open(newline="", encoding=encoding)
    except LookupError:
        raise ArgumentError(
            f"--encoding {encoding}: no such encoding; utf-8, latin-1, utf-16 are common"
        ) from None


def _wanted(plan: header.Layout, o: ReadOptions) -> list[int]:
    if o.columns is not None:
        return chosen("columns", o.columns, plan.names, plan.width)
    return list(range(int(plan.labels), plan.width))


def _note_about_labels(plan: header.Layout, o: ReadOptions) -> tuple[str, ...]:
    if not plan.labels or o.columns is not None:
        return ()
    return (
        "the first column has no name and is taken as labels of the rows; name it by its number, 0, in --columns to use it",
    )


@dataclass
class _Reader:
    """Turns lines into numbers, and notes what is none."""

    plan: header.Layout
    sep: str
    o: ReadOptions
    wanted: list[int]
    text: dict[int, tuple[str, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.line = self.plan.skip
        self.missing = Missing(len(self.wanted))

    def block(self, lines: list[str], rest: Iterable[str]) -> np.ndarray:
        """Return the numbers in some lines, NaN where there are none, shape (rows, wanted); a cell may go on in the rest."""
        X = self._plain(lines)
        if X is None:
            return self._careful(chain(lines, rest), len(lines))
        self.line += len(lines)
        return X

    def ends_empty(self, rows: int) -> bool:
        """Return whether the last of several columns has neither a name nor a cell: lines end with a separator."""
        name = "" if self.plan.names is None else self.plan.names[-1]
        return len(self.wanted) > 1 and not name and 0 < rows == self.missing.counts[-1]

    def _plain(self, lines: list[str]) -> np.ndarray | None:
        """Return the numbers where no line needs a closer look, None otherwise."""
        joints = self.plan.width - 1
        full = [line for line in lines if line.strip(" \r\n")]  # tabs alone may be missing cells
        if any('"' in line or line.count(self.sep) != joints for line in full):
            return None
        if self.o.decimal != ".":
            if any("." in line for line in full):
                return None
            full = [line.replace(self.o.decimal, ".") for line in full]
        alive = [i for i, j in enumerate(self.wanted) if j not in self.text]
        X = np.full((len(full), len(self.wanted)), math.nan)
        if not full or not alive:
            return X
        use = [self.wanted[i] for i in alive]
        try:
            found = np.loadtxt(full, delimiter=self.sep, usecols=use, ndmin=2, comments=None)
        except ValueError:
            return None
        X[:, alive] = found
        return None if np.isnan(found).any() else X

    def _careful(self, lines: Iterable[str], count: int) -> np.ndarray:
        """Return the numbers of as many lines, cell by cell."""
        found: list[list[str]] = []
        places: list[int] = []
        end = self.line + count
        for record in header.records(lines, self.sep, self.line):
            self.line = record.last
            if len(record.cells) == self.plan.width:
                found.append(record.cells)
                places.append(record.first)
            elif not record.cells[0].lstrip().startswith("#"):
                raise ArgumentError(
                    f"line {record.first} has {len(record.cells)} cells and the lines before it have {self.plan.width}"
                )
            if record.last >= end:
                break
        self.line = max(self.line, end)
        X = np.full((len(found), len(self.wanted)), math.nan)
        for i, j in enumerate(self.wanted):
            if j not in self.text:
                self._numbers(X[:, i], j, [cells[j] for cells in found], places)
        self.missing.count(X, places)
        return X

    def _numbers(self, out: np.ndarray, j: int, column: list[str], places: list[int]) -> None:
        """Read the numbers of one column, and note its first cell that is text, or refuse it where that is final."""
        decimal = self.o.decimal
        try:
            out[:] = cells.numbers(column, decimal)
        except ValueError:
            at = next(i for i, cell in enumerate(column) if not cells.is_number(cell, decimal))
            self.text[j] = column[at].strip(), places[at]
            out[:] = math.nan
            if not self.o.numeric:
                self._refuse(j)

    def found(self, j: int) -> str:
        """Return what a column holds that is no number."""
        cell, line = self.text[j]
        if not line:
            return "empty, the lines end with a separator"
        help_ = cells.advice(cell, self.sep, self.o.decimal)
        return f"{cell[:40]!r} in line {line}" + (f": {help_}" if help_ else "")

    def _refuse(self, j: int) -> None:
        cell, line = self.text[j]
        name = None if self.plan.names is None else self.plan.names[j]
        help_ = cells.advice(cell, self.sep, self.o.decimal) or (
            "use --numeric to leave out columns of text, or --columns to name those to use"
        )
        also = (
            ", and --missing rows to leave out rows with missing cells"
            if self.missing.any and self.o.missing == "raise"
            else ""
        )
        raise ArgumentError(f"line {line}, {label(j, name)}: {cell[:40]!r} is no number; {help_}{also}")
