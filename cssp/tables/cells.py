"""Cells of a text as numbers."""

from __future__ import annotations

import contextlib
import math
import re

__all__ = ["MISSING", "advice", "is_number", "number", "numbers"]

#: Cells that count as missing, whatever their case and the spaces around them.
MISSING = frozenset({"", "?", ".", "na", "n/a", "#n/a", "<na>", "nan", "null", "none"})


def number(cell: str, decimal: str = ".") -> float:
    """Return the number in a cell, NaN where it is missing; raise ValueError where it is text.

    >>> number(" 1.5e3"), number("1,5", decimal=","), number("NA")
    (1500.0, 1.5, nan)
    """
    text = cell.strip()
    if text.casefold() in MISSING:
        return math.nan
    if "_" in text or not text.isascii() or (decimal != "." and "." in text):
        raise ValueError(cell)  # Python reads 1_000, and digits of every script
    return float(text if decimal == "." else text.replace(decimal, ".", 1))


def numbers(cells: list[str], decimal: str = ".") -> list[float]:
    """Return the numbers in many cells, as `number` has them."""
    together = "".join(cells)
    if decimal == "." and together.isascii() and "_" not in together:
        with contextlib.suppress(ValueError):  # a missing cell, or text
            return list(map(float, cells))
    return [number(cell, decimal) for cell in cells]


def is_number(cell: str, decimal: str = ".") -> bool:
    """Return whether the cell holds a number or is missing."""
    try:
        number(cell, decimal)
    except ValueError:
        return False
    return True


def advice(cell: str, sep: str, decimal: str) -> str:
    """Return what may help with a cell that holds no number; empty where nothing is known to."""
    text = cell.strip()
    mark = "," if decimal == "." else "."
    if re.fullmatch(rf"[+-]?\d{{1,3}}([{mark} '’]\d{{3}})+([.,]\d*)?", text):
        other = (
            ", or --decimal ',' if the comma is a decimal comma"
            if text.count(",") == 1 == len(re.findall(r"\D", text))
            else ""
        )
        return f"write numbers without thousands separators{other}"
    if decimal == "." and re.fullmatch(r"[+-]?\d*,\d+(e[+-]?\d+)?", text, re.IGNORECASE):
        return "use --decimal ','"
    if decimal == "," and re.fullmatch(r"[+-]?\d*\.\d+(e[+-]?\d+)?", text, re.IGNORECASE):
        return "leave out --decimal ','"
    found = next((s for s in ";\t|" if s in text and s != sep), None)
    return f"use --sep {found!r}" if found else ""
