"""The first lines of a text: what separates its cells, whether a line of names comes first, what is no data."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice, takewhile

import numpy as np

from cssp.errors import ArgumentError
from cssp.tables.cells import is_number, number

__all__ = ["Layout", "Record", "layout", "records"]

#: Lines, and cells, of a text that are looked at before it is read.
LINES, CELLS = 100, 200_000

_SEPARATORS = (";", "\t", ",", "|", " ")
_CALLED = {"\t": "\\t"}


@dataclass(frozen=True)
class Record:
    """Cells of a line, which may go on over several, and the first and the last of these, from 1."""

    cells: list[str]
    first: int
    last: int


@dataclass(frozen=True)
class Layout:
    """Where the numbers of a text begin and how they are arranged.

    Attributes
    ----------
    names : list of str, or None
    width : int
        Cells of a line.
    skip : int
        Lines before the data.
    labels : bool
        The first column holds labels of the rows: it has no name and others have.
    notes : tuple of str
        Decisions that may be doubted.
    """

    names: list[str] | None
    width: int
    skip: int
    labels: bool = False
    notes: tuple[str, ...] = ()


def records(lines: Iterable[str], sep: str, before: int = 0) -> Iterator[Record]:
    """Yield the lines that are not blank, cut into cells; so many lines of the file came before."""
    reader = csv.reader(lines, delimiter=sep, skipinitialspace=True, strict=True)
    last = before
    try:
        for cells in reader:
            first, last = last + 1, before + reader.line_num
            if len(cells) > 1 or (cells and cells[0].strip()):
                yield Record(cells, first, last)
    except csv.Error as reason:
        raise ArgumentError(
            f"line {last + 1}: {reason}; is there a quotation mark that is not closed?"
        ) from None


def layout(lines: Iterable[str], sep: str, header: str, decimal: str) -> Layout:
    """Return the layout of a text from its first lines; `header` is "yes", "no" or "auto"."""
    raw: list[str] = []
    sample = list(_some(records(_kept(lines, raw), sep)))
    if not sample:
        raise ArgumentError("the file is empty")
    remarks = list(takewhile(lambda r: r.cells[0].lstrip().startswith("#"), sample))
    remarks = remarks if len(remarks) < len(sample) else []
    body = sample[len(remarks) :]
    head, rest = body[0], [r.cells for r in body[1:]]
    quoted = bool(rest) and _in_quotes(raw, head) and not _in_quotes(raw, body[1])
    named, doubt = _named(head.cells, rest, quoted, decimal)
    above = remarks[-1] if remarks and header != "no" and not named else None
    if above is not None and len(above.cells) == len(head.cells):  # names as numpy.savetxt writes them
        names = [above.cells[0].lstrip().removeprefix("#"), *above.cells[1:]]
        note = (
            f"line {above.first} begins with # and is taken as the names of the columns; --header no if not"
        )
        return Layout([name.strip() for name in names], len(names), head.first - 1, notes=(note,))
    notes: tuple[str, ...] = ()
    if header == "auto" and doubt:
        taken = (
            "the names of the columns; --header no if it is data"
            if named
            else "data; --header yes if it is names"
        )
        notes = (f"line {head.first} ({_shown(head.cells)}) is taken as {taken}",)
    if header == "no" or (header == "auto" and not named):
        return Layout(None, len(head.cells), head.first - 1, notes=notes)
    names = [cell.strip() for cell in head.cells]
    width = len(rest[0]) if rest else len(names)
    if (
        width == len(names) + 1
    ):  # labels of rows without a name, as R's write.table, or a separator at the end
        names = [*names, ""] if all(not cells[-1].strip() for cells in rest) else ["", *names]
    labels = width > 1 and not names[0] and any(names)
    return Layout(names, max(width, len(names)), head.last, labels, notes)


def separator(lines: list[str], given: str | None, usual: str) -> str:
    """Return what separates the cells; a file that plainly has another separator is refused with its name."""
    able = {s: w for s in _SEPARATORS if (w := _width(lines, s)) > 1}
    if given == "auto":
        return next(iter(able), usual)
    sep = usual if given is None else "\t" if given == "\\t" else given
    if len(sep) != 1 or sep in '\r\n"':
        raise ArgumentError(f"--sep {given}: expected one character, \\t or auto")
    if able and sep not in able and _width(lines[:1], sep) < 2:
        better = next(iter(able))
        raise ArgumentError(
            f"the cells are separated by {better!r}, not {sep!r}; use --sep '{_CALLED.get(better, better)}'"
        )
    return sep


def _width(lines: list[str], sep: str) -> int:
    """Return the cells of every line, 0 where the lines differ."""
    try:
        widths = {len(r.cells) for r in _some(records(lines, sep)) if not r.cells[0].lstrip().startswith("#")}
    except ArgumentError:
        return 0
    return widths.pop() if len(widths) == 1 else 0


def _some(found: Iterator[Record]) -> Iterator[Record]:
    """Yield the records that the layout is inferred from."""
    cells = 0
    for record in islice(found, LINES):
        yield record
        cells += len(record.cells)
        if cells > CELLS and len(record.cells) < cells:
            return


def _kept(lines: Iterable[str], raw: list[str]) -> Iterator[str]:
    for line in lines:
        raw.append(line)
        yield line


def _in_quotes(raw: list[str], record: Record) -> bool:
    return raw[record.first - 1].count('"') >= 2 * len(record.cells)


def _named(head: list[str], rest: list[list[str]], quoted: bool, decimal: str) -> tuple[bool, bool]:
    """Return whether these cells are names rather than data, and whether that may be doubted."""
    kinds = [is_number(cell, decimal) for cell in head]
    words = {j for j, yes in enumerate(kinds) if not yes}
    figures = [j for j, yes in enumerate(kinds) if yes and not np.isnan(number(head[j], decimal))]
    if not rest or (words and not figures):
        return bool(words), bool(words and figures)
    texts = {j for cells in rest for j, cell in enumerate(cells) if not is_number(cell, decimal)}
    if quoted or words - texts:
        return True, False
    own = [head[j] for j in figures]
    below = [[cells[j] for j in figures if j < len(cells) and j not in texts] for cells in rest]
    whole = all(map(_is_whole, chain.from_iterable(below)))
    alike = _years if _years(own) else partial(_in_order, whole=whole)  # small numbers in order are no years
    if alike(own) and not any(map(alike, below)):
        return True, True
    integers = len(own) > 1 and all(map(_is_whole, own))
    return False, bool(words) or (integers and not whole) or (len(own) > 2 and _ordered(own))


def _in_order(cells: list[str], whole: bool) -> bool:
    """Return whether cells look like numbered names: equal steps, or many in ascending or descending order.

    Among whole numbers two or three in equal steps are nothing special.
    """
    if not _ordered(cells):
        return False
    gaps = np.diff([number(cell) for cell in cells])
    equal = all(map(_is_whole, cells)) and bool(np.all(gaps == gaps[0]))
    return len(cells) > 5 or (equal and (len(cells) > 2 or (not whole and abs(gaps[0]) == 1)))


def _years(cells: list[str]) -> bool:
    """Return whether cells are years in order."""
    return _ordered(cells) and all(re.fullmatch(r"\s*(1[5-9]|20)\d\d\s*", cell) for cell in cells)


def _ordered(cells: list[str]) -> bool:
    """Return whether at least two numbers ascend or descend strictly."""
    if len(cells) < 2 or not all(map(is_number, cells)):
        return False
    gaps = np.diff([number(cell) for cell in cells])
    return bool(np.all(gaps > 0) or np.all(gaps < 0))


def _is_whole(cell: str) -> bool:
    return re.fullmatch(r"\s*[+-]?\d*\s*", cell) is not None


def _shown(cells: list[str]) -> str:
    return ", ".join(cells[:4]) + (", ..." if len(cells) > 4 else "")
