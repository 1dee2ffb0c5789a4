"""The conditions that one call of `cssp.select` asks for, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from cssp import arguments as check
from cssp.conditions.constraints import (
    Affordable,
    Constraint,
    coded,
    described,
    mask_of,
    positive,
    real_numbers,
)
from cssp.errors import ArgumentError, UnsupportedError, check_integer
from cssp.methods import Method

__all__ = ["Conditions", "Found", "asked"]

#: Relative difference of squared errors that may be rounding.
NEARLY = 1e-9


class Found(NamedTuple):
    """What two choices are compared by: the squared error, whether the tolerance is met, the columns."""

    error: float
    met: bool
    indices: np.ndarray


@dataclass(frozen=True, eq=False)
class Conditions:
    """What a call asks besides k, in the caller's numbering of n columns.

    Attributes
    ----------
    n : int
    constraints : tuple of Constraint
        All of them hold; the budget is one.
    codes : int64 array, shape (n,), or None
        The number of each column's group.
    labels : list
        The label of each group.
    count : int or None
        Number of groups to choose, the included ones counted.
    costs : float64 array, shape (n,), or None
    budget : float or None
    """

    n: int
    constraints: tuple[Constraint, ...] = ()
    codes: np.ndarray | None = None
    labels: Sequence[Any] = ()
    count: int | None = None
    costs: np.ndarray | None = None
    budget: float | None = None

    @property
    def ends(self) -> bool:
        """Whether the choice ends without k or tol."""
        return self.count is not None or self.budget is not None

    def allowed(self, chosen: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return which columns may be chosen after these, bool, shape (n,)."""
        chosen = np.array(chosen, dtype=np.int64)  # a copy, which a constraint may keep
        mask = np.ones(self.n, dtype=bool)
        for constraint in self.constraints:
            mask &= mask_of(constraint, chosen, self.n)
        mask[chosen] = False
        return mask

    def names(self) -> str:
        """Return the constraints for messages."""
        return " and ".join(map(described, self.constraints))

    def check_included(self, include: np.ndarray) -> None:
        """Refuse included columns that the constraints forbid, one after the other."""
        for t, j in enumerate(include.tolist()):
            if not self.allowed(include[:t])[j]:
                raise ArgumentError(
                    f"include: column {j} is not allowed after {include[:t].tolist()} by {self.names()}"
                )

    def refuse_short(self, made: np.ndarray, wanted: int, deficient: str) -> None:
        """Refuse a choice that the constraints ended before there were as many as wanted, unless it may be shorter."""
        if not made.size:
            raise ArgumentError(f"{self.names()} allows no column that may be chosen")
        if deficient != "truncate":
            got, what = (made.size, "column") if self.codes is None else (len(set(self.codes[made])), "group")
            shown = f"{made[:8].tolist()}{' and more' if made.size > 8 else ''}"
            raise ArgumentError(
                f"k = {wanted}, but {self.names()} allows only {got} {what}{'s' * (got != 1)}, and none after {shown}; "
                "lower k, loosen the constraint, or pass deficient='truncate' to keep these"
            )

    def prefers(self, second: Found, first: Found) -> bool:
        """Return whether the second choice is better beyond rounding: cheaper where both meet the tolerance, else of smaller error."""
        if first.met and second.met:
            return (self.cost_of(second.indices) or 0.0) < (self.cost_of(first.indices) or 0.0)
        return not first.met and second.error < first.error * (1 - NEARLY)

    def groups_of(self, indices: np.ndarray) -> tuple[Any, ...] | None:
        """Return the labels of the groups of these columns, in order."""
        if self.codes is None:
            return None
        return tuple(self.labels[g] for g in dict.fromkeys(self.codes[indices].tolist()))

    def cost_of(self, indices: np.ndarray) -> float | None:
        """Return what these columns cost together."""
        return None if self.costs is None else float(np.sum(self.costs[indices]))


def asked(
    row: Method,
    n: int,
    k: Any,
    options: Any,
    *,
    groups: Any = None,
    constraint: Any = None,
    costs: Any = None,
    budget: Any = None,
    each: str = "",
    in_passes: bool = False,
) -> Conditions | None:
    """Return the conditions, or None where there are none; ``each`` names a tolerance of single columns, or is empty.

    Raises
    ------
    ArgumentError, UnsupportedError
        An argument is wrong, or the method or the storage cannot honour it.
    """
    given = {"groups": groups, "constraint": constraint, "costs": costs, "budget": budget}
    given = {name: value for name, value in given.items() if value is not None}
    if not given:
        return None
    if budget is not None and costs is None:
        raise ArgumentError(
            f"budget = {budget!r} without costs: expected costs, one per column; k counts columns"
        )
    for name in given.keys() - {"budget"}:
        check.check_supported(row, name, name)
        if in_passes and name != "constraint":
            raise UnsupportedError(
                f"{name} of a matrix that is read in passes: expected an array in memory; "
                "pass A.toarray() or A.compute() where it fits"
            )
        if name != "constraint" and any(options[o] != row.options[o] for o in options):
            raise UnsupportedError(
                f"{name} with options {dict(options)!r}: expected the method's own rule, without options"
            )
    if each:
        raise UnsupportedError(
            f"{each} with {', '.join(given)}: expected tol, which ends the choice under conditions too"
        )
    limits = _constraints(constraint)
    prices = None if costs is None else _costs(costs, n)
    if budget is not None and prices is not None:
        budget = positive("budget", budget)
        limits = (*limits, Affordable(prices, budget))
    for limit in limits:
        mask_of(limit, np.zeros(0, dtype=np.int64), n)  # wrong answers are refused before any work
    if groups is None:
        return Conditions(n, limits, costs=prices, budget=budget)
    codes, labels = coded("groups", groups)
    if codes.size != n:
        raise ArgumentError(f"groups has {codes.size} labels: expected {n}, one per column of A")
    count = None
    if k is not None:
        count = check_integer("k", k)
        if count > len(labels):
            raise ArgumentError(
                f"k = {count}, but groups has only {len(labels)} groups; k counts groups, not columns"
            )
    return Conditions(n, limits, codes, labels, count, prices, budget)


def _constraints(constraint: Any) -> tuple[Constraint, ...]:
    if constraint is None:
        return ()
    every = tuple(constraint) if isinstance(constraint, Sequence) else (constraint,)
    for one in every:
        if not callable(getattr(one, "allowed", None)) or isinstance(one, type):
            raise ArgumentError(
                f"constraint = {one!r}: expected an object with a method allowed(chosen), such as cssp.AtMost(labels, q) "
                "or cssp.MinDistance(points, r), or a sequence of them"
            )
    return every


def _costs(costs: Any, n: int) -> np.ndarray:
    prices = real_numbers("costs", costs)
    if prices.shape != (n,):
        raise ArgumentError(f"costs has shape {prices.shape}: expected ({n},), one cost per column of A")
    if not np.all(prices > 0):
        j = int(np.argmin(prices > 0))
        raise ArgumentError(
            f"costs must be positive; column {j} has {prices[j]}: put columns that cost nothing into include"
        )
    return prices
