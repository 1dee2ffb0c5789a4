"""As many picks as it takes until every column is explained: to a share of its norm, or to a residual norm."""

from __future__ import annotations

import bisect
import copy
from collections.abc import Mapping
from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np

from cssp.conditions.constraints import positive
from cssp.errors import ArgumentError, UnsupportedError
from cssp.finish import part_of, solved
from cssp.linalg import host
from cssp.methods import METHODS, Method
from cssp.part import Part
from cssp.problem import Problem
from cssp.scaling import shifted

__all__ = ["check_each", "solved_each"]

#: Picks of the first run; each further run makes twice as many.
FIRST = 32


def check_each(
    row: Method, *, tol: Any, tol_each: Any = None, tol_max: Any = None, target: Any = None
) -> float | None:
    """Return tol_max; refuse tolerances that are out of range or stand side by side, and methods that cannot stop."""
    name = "tol_each" if tol_max is None else "tol_max"
    given = [(n, t) for n, t in (("tol", tol), ("tol_each", tol_each), ("tol_max", tol_max)) if t is not None]
    if len(given) > 1:
        raise ArgumentError(
            f"{' and '.join(f'{n} = {t!r}' for n, t in given)}: expected one of the two; tol is about the error as a whole"
        )
    if tol_max is None and (
        isinstance(tol_each, bool | np.bool_) or not isinstance(tol_each, Real) or not 0 < float(tol_each) < 1
    ):
        raise ArgumentError(
            f"tol_each = {tol_each!r}: expected a number in (0, 1), the largest residual norm of a column over its norm"
        )
    if not row.nested:
        able = ", ".join(repr(name) for name, other in METHODS.items() if other.nested)
        raise UnsupportedError(
            f"method {row.name!r} cannot honour {name}, as it does not pick one column after the other; "
            f"methods that can: {able}"
        )
    if tol_max is not None and target is not None:
        raise UnsupportedError("tol_max with target: expected tol or tol_each; tol_max is about columns of A")
    return None if tol_max is None else positive("tol_max", tol_max)


def solved_each(
    p: Problem,
    row: Method,
    options: Mapping[str, Any],
    deficient: str,
    counted: bool,
    largest: float | None = None,
) -> tuple[Part, bool]:
    """Return what `cssp.finish.solved` does, ended at the first pick with which every residual norm is small.

    That is at most ``p.tol`` of its column's norm; or, of the columns that may be chosen, at most ``largest``.
    Residuals never grow, so that the place is found by bisection, with explicit residuals. The first picks of a
    longer run are those of a shorter one.
    """
    may = host(p.candidates)
    most, least = min(p.k, p.m + len(p.include)), max(1, len(p.include))
    k = min(max(FIRST, 2 * least), most)
    while True:
        q = replace(p, k=k, tol=None, rng=copy.deepcopy(p.rng))
        part, short = solved(q, row, options, "truncate", True)
        picks = part.picks

        def met(t: int, picks: tuple[int, ...] = picks) -> bool:
            before, after = part_of(p, picks[:t], None).column_norms
            if largest is None:
                assert p.tol is not None
                return bool(np.all(after <= p.tol**2 * before))
            return bool(np.all(np.sqrt(after[may]) <= shifted(largest, -p.exponent)))

        if met(len(picks)):
            t = bisect.bisect_left(range(len(picks) + 1), True, lo=min(least, len(picks)), key=met)
            t = min(t, len(picks))
            return part_of(p, picks[:t], None, part.method_picks), False
        if short or k == most:
            break
        k = min(2 * k, most)
    return solved(replace(p, tol=None), row, options, deficient, True) if counted else (part, False)
