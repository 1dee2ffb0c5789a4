"""As many picks as it takes until every column is explained to a tolerance of its own norm."""

from __future__ import annotations

import bisect
import copy
from collections.abc import Mapping
from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np

from cssp.errors import ArgumentError, UnsupportedError
from cssp.finish import part_of, solved
from cssp.methods import METHODS, Method
from cssp.part import Part
from cssp.problem import Problem

__all__ = ["check_tol_each", "solved_each"]

#: Picks of the first run; each further run makes twice as many.
FIRST = 32


def check_tol_each(tol_each: Any, tol: Any, row: Method) -> None:
    """Refuse a tolerance of each column that is no number in (0, 1), stands beside tol, or comes with a method that cannot stop at it."""
    if tol is not None:
        raise ArgumentError(
            f"tol = {tol!r} and tol_each = {tol_each!r}: expected one of the two; tol is about the error as a whole"
        )
    if isinstance(tol_each, bool | np.bool_) or not isinstance(tol_each, Real) or not 0 < float(tol_each) < 1:
        raise ArgumentError(
            f"tol_each = {tol_each!r}: expected a number in (0, 1), the largest residual norm of a column over its norm"
        )
    if not row.nested:
        able = ", ".join(repr(name) for name, other in METHODS.items() if other.nested)
        raise UnsupportedError(
            f"method {row.name!r} cannot honour tol_each, as it does not pick one column after the other; "
            f"methods that can: {able}"
        )


def solved_each(
    p: Problem, row: Method, options: Mapping[str, Any], deficient: str, counted: bool
) -> tuple[Part, bool]:
    """Return what `cssp.finish.solved` does, ended at the first pick with which every residual norm is at most ``p.tol`` of its column's.

    Residuals never grow, so that the place is found by bisection, with explicit residuals. The first picks of a longer run are
    those of a shorter one.
    """
    assert p.tol is not None
    tol, most, least = p.tol, min(p.k, p.m + len(p.include)), max(1, len(p.include))
    k = min(max(FIRST, 2 * least), most)
    while True:
        q = replace(p, k=k, tol=None, rng=copy.deepcopy(p.rng))
        part, short = solved(q, row, options, "truncate", True)
        picks = part.picks

        def met(t: int, picks: tuple[int, ...] = picks) -> bool:
            before, after = part_of(p, picks[:t], None).column_norms
            return bool(np.all(after <= tol**2 * before))

        if met(len(picks)):
            t = bisect.bisect_left(range(len(picks) + 1), True, lo=min(least, len(picks)), key=met)
            t = min(t, len(picks))
            return part_of(p, picks[:t], None, part.method_picks), False
        if short or k == most:
            break
        k = min(2 * k, most)
    return solved(replace(p, tol=None), row, options, deficient, True) if counted else (part, False)
