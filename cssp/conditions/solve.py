"""From a problem and its conditions to the picks of the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cssp import bounds, scaling
from cssp.conditions.asked import Conditions
from cssp.conditions.one_by_one import one_by_one
from cssp.conditions.whole import Whole
from cssp.errors import ArgumentError
from cssp.finish import cut_at, dependent_as_wanted, part_of, within
from cssp.linalg import host
from cssp.methods import Guarantee, Method
from cssp.part import Part, relative
from cssp.problem import Problem

__all__ = ["solved_under"]


@scaling.default_floating_errors
def solved_under(
    conditions: Conditions, p: Problem, row: Method, options: Mapping[str, Any], deficient: str, counted: bool
) -> tuple[Part, bool]:
    """Return what `cssp.finish.solved` does, under conditions: the picks of one item, and whether some were to be independent and are not."""
    state = _Asked(conditions, p, deficient)
    if conditions.codes is None and conditions.costs is None:
        return _columns(state, p, row, options, counted)
    return _units(state, p, row, counted)


@dataclass(frozen=True)
class _Asked:
    """The conditions in the numbering of one item, whose padding is left out."""

    conditions: Conditions
    p: Problem
    deficient: str

    @property
    def columns(self) -> np.ndarray:
        """The caller's number of each column."""
        p = self.p
        return np.arange(p.n) if p.columns is None else p.columns

    def allowed(self, chosen: Sequence[int]) -> np.ndarray:
        """Return which columns may follow, bool, shape (n,)."""
        return self.conditions.allowed(self.columns[np.asarray(chosen, dtype=np.int64)])[self.columns]

    def check_included(self, include: Sequence[int]) -> None:
        """Refuse included columns that the conditions forbid."""
        for t, j in enumerate(include):
            if not self.allowed(include[:t])[j]:
                before = self.columns[list(include[:t])].tolist()
                raise ArgumentError(
                    f"include: column {self.columns[j]} is not allowed after {before} by {self.conditions.names()}"
                )

    def ended_early(self, part: Part, wanted: int, units: str) -> None:
        """Refuse a choice that the conditions ended before there were as many as wanted, unless it may be shorter."""
        made = part.indices.tolist()
        if not made:
            raise ArgumentError(f"{self.conditions.names()} allows no column that may be chosen")
        if self.deficient != "truncate":
            got = len(self.conditions.groups_of(part.indices) or made)
            shown = f"{made[:8]}{' and more' if len(made) > 8 else ''}"
            raise ArgumentError(
                f"k = {wanted}, but {self.conditions.names()} allows only {got} {units}, and none after {shown}; "
                "lower k, loosen the constraint, or pass deficient='truncate' to keep these"
            )


def _columns(
    state: _Asked, p: Problem, row: Method, options: Mapping[str, Any], counted: bool
) -> tuple[Part, bool]:
    """Return the picks of a method under constraints."""
    state.check_included(p.include)
    picks, blocked = one_by_one(p, row, options, state.allowed)
    part = part_of(p, picks, None, ())
    if p.tol is not None:
        cut = cut_at(part, p.tol)
        if cut is None and not blocked and len(picks) < p.k:
            # The method may have stopped at a goal its own rounding reported too early.
            picks, blocked = one_by_one(replace(p, tol=None), row, options, state.allowed)
            part = part_of(p, picks, None, ())
            cut = cut_at(part, p.tol)
        if cut is not None:
            length = max(cut, len(p.include))
            return part_of(p, picks[:length], None, ()), False
    least = p.k if counted and state.deficient != "truncate" else 1
    while len(picks) < least and not blocked:
        open_ = host(p.candidates) & state.allowed(picks)
        blocked = not open_.any()
        picks = picks if blocked else [*picks, int(np.argmax(open_))]
    part = part_of(p, picks, None, ())
    if blocked and (counted or not picks):
        state.ended_early(part, p.k, "columns")
    if part.rank == p.k or (part.rank == len(picks) and (blocked or not counted)):
        return part, False
    return dependent_as_wanted(part, state.deficient)


def _units(state: _Asked, p: Problem, row: Method, counted: bool) -> tuple[Part, bool]:
    """Return groups chosen whole, or columns by gain per cost."""
    conditions, columns = state.conditions, state.columns
    codes, most = np.arange(p.n), p.k if counted else None
    if conditions.codes is not None:
        codes = np.unique(conditions.codes[columns], return_inverse=True)[1]
        p, most = _with_whole_groups(state, p, codes), conditions.count
        groups = int(codes.max()) + 1
        if most is not None and most > groups:
            raise ArgumentError(f"k = {most}, but valid leaves only {groups} groups")
    state.check_included(p.include)
    price = None if conditions.costs is None else np.bincount(codes, weights=conditions.costs[columns])
    saving = conditions.budget is not None
    runs = [Whole(p, row.name, codes, state.allowed, price, saving)]
    if row.name == "greedy" and saving:
        runs.append(Whole(p, row.name, codes, state.allowed, None, saving))
    parts = []
    for run in runs:
        run.run(most)
        parts.append(_ended(run, p))
    best = min(range(len(runs)), key=lambda i: _order(conditions, p, parts[i]))
    run, part = runs[best], parts[best]
    law = _law(run, p) if row.name == "residual" and price is None and not conditions.constraints else None
    part = part if law is None else _Grouped(p, part.picks, None, (), law=law)
    if p.tol is not None and part.picks and relative(part.trace)[-1] <= p.tol:
        return part, False
    wanted = 1 if most is None or saving or state.deficient == "truncate" else most
    short = len(run.ends) <= wanted and not run.blocked
    if short:
        run.fill(wanted)
        part = part_of(p, run.picks, None, ())
    if run.blocked and len(run.ends) <= wanted:
        state.ended_early(part, wanted, "columns" if conditions.codes is None else "groups")
    return dependent_as_wanted(part, state.deficient) if short and most is not None else (part, False)


def _ended(run: Whole, p: Problem) -> Part:
    """Return the picks, ended at the first unit that meets the tolerance."""
    part = part_of(p, run.picks, None, ())
    if p.tol is None:
        return part
    errors = relative(part.trace)
    included = run.ends.index(len(p.include))
    cut = within((errors[end] <= p.tol for end in run.ends), max(1, included))
    return part if cut is None else part_of(p, run.picks[: run.ends[cut]], None, ())


def _order(conditions: Conditions, p: Problem, part: Part) -> tuple[int, float]:
    """Return what is smaller for the better choice: the cost where the tolerance is met, else the error."""
    if p.tol is not None and relative(part.trace)[-1] <= p.tol:
        return 0, conditions.cost_of(part.indices) or 0.0
    return 1, float(part.trace[-1])


def _with_whole_groups(state: _Asked, p: Problem, codes: np.ndarray) -> Problem:
    """Return the problem with all columns of the included groups included, and no candidate in groups with excluded columns."""
    candidates, include = host(p.candidates).copy(), list(p.include)
    given = candidates.copy()
    given[include] = True
    groups = list(dict.fromkeys(codes[include].tolist()))
    whole = [int(j) for g in groups for j in np.flatnonzero(codes == g)]
    forbidden = [j for j in whole if not given[j]]
    if forbidden:
        j = forbidden[0]
        label = state.conditions.groups_of(state.columns[[j]])
        raise ArgumentError(
            f"include asks for group {label[0] if label else ''!r}, whose column {state.columns[j]} exclude forbids; groups are chosen whole"
        )
    candidates &= ~np.isin(codes, codes[~given])
    candidates[whole] = False
    if not candidates.any() and not whole:
        raise ArgumentError("exclude leaves no group whole: expected at least one without excluded columns")
    return replace(p, include=tuple(whole), candidates=p.xp.asarray(candidates, device=p.device))


@dataclass(frozen=True, eq=False)
class _Grouped(Part):
    """Picks that a theorem about groups may cover, in place of the method's own."""

    law: Guarantee | None = None

    def is_a_run_of(self, row: Method) -> bool:
        """Return whether the theorem is about these picks, in which columns of one group may be dependent."""
        p = self.problem
        return (
            p.target is None and not p.include and bool(np.all(host(p.candidates))) and self.law is not None
        )

    def certificate(self, row: Method, options: Mapping[str, Any]) -> dict[str, Any]:
        record = super().certificate(replace(row, guarantee=self.law), options)
        return record | {"algorithm": self.law.name if self.law else None}


def _law(run: Whole, p: Problem) -> Guarantee:
    """Return the theorem about groups of largest residual, for the numbers of this choice."""
    groups, chosen, size = run.size.size, len(run.ends) - 1, int(run.size.max())
    return Guarantee(
        "F <= group_residual(G, k, b) OPT_k for k of G groups of at most b columns",
        "businger1965",
        "every run",
        frobenius=lambda m, n, k, **options: bounds.group_residual(groups, chosen, size),
        rank=lambda m, n, k, **options: chosen,
        name="block-pivoted QR",
    )
