"""Columns as users name them."""

from __future__ import annotations

import difflib

import numpy as np

from cssp.errors import ArgumentError

__all__ = ["chosen"]


def chosen(
    argument: str, values: list[str], names: list[str] | None, n: int, what: str = "column"
) -> list[int]:
    """Return the numbers of the columns that are meant, in order.

    A value that is itself a name is taken whole; any other is split at its commas. Each piece is a name, or else a
    number from 0 to n - 1.
    """
    places: dict[str, list[int]] = {}
    for j, name in enumerate(names or ()):
        places.setdefault(name, []).append(j)
    found: list[int] = []
    for value in values:
        for word in [value.strip()] if value.strip() in places else map(str.strip, value.split(",")):
            at = places.get(word) if word else None
            if at is not None and len(at) > 1:
                numbers = " and ".join(map(str, at))
                raise ArgumentError(
                    f"--{argument} {word}: columns {numbers} have this name; use their numbers"
                )
            found.append(at[0] if at is not None else _number(argument, word, names, n, what))
    if len(set(found)) < len(found):
        again = next(j for i, j in enumerate(found) if j in found[:i])
        called = names[again] if names else again
        raise ArgumentError(f"--{argument} {','.join(values)}: {what} {called} is named twice")
    return found


def within(argument: str, wanted: list[int], used: np.ndarray, what: str = "column") -> list[int]:
    """Return the places, among those used, of columns given by their numbers in the file."""
    place = {int(j): i for i, j in enumerate(used)}
    absent = next((j for j in wanted if j not in place), None)
    if absent is not None:
        raise ArgumentError(f"--{argument}: {what} {absent} of the file is not among those that are used")
    return [place[j] for j in wanted]


def _number(argument: str, word: str, names: list[str] | None, n: int, what: str) -> int:
    digits = word.removeprefix("-")
    if digits.isascii() and digits.isdecimal():
        if 0 <= int(word) < n:
            return int(word)
        raise ArgumentError(f"--{argument} contains {word}: {what} numbers run from 0 to {n - 1}")
    if names is None:
        why = "this file has no header" if what == "column" else "rows have no names"
        raise ArgumentError(f"--{argument} {word}: {why}; expected {what} numbers, 0 to {n - 1}")
    near = difflib.get_close_matches(word, names, n=3)
    shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"the file has {shown}"
    raise ArgumentError(f"--{argument} {word}: expected a name of the header or a column number; {hint}")
