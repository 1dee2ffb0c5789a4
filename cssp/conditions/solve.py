"""From a problem and its conditions to the picks of the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cssp import bounds, scaling
from cssp.conditions.asked import Conditions, Found
from cssp.conditions.constraints import coded
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
        return self.conditions.allowed(self.columns[list(chosen)])[self.columns]


def _columns(
    state: _Asked, p: Problem, row: Method, options: Mapping[str, Any], counted: bool
) -> tuple[Part, bool]:
    """Return the picks of a method under constraints."""
    state.conditions.check_included(state.columns[list(p.include)])
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
        state.conditions.refuse_short(part.indices, p.k, state.deficient)
    if part.rank == p.k or (part.rank == len(picks) and (blocked or not counted)):
        return part, False
    return dependent_as_wanted(part, state.deficient)


def _units(state: _Asked, p: Problem, row: Method, counted: bool) -> tuple[Part, bool]:
    """Return groups chosen whole, or columns by gain per cost."""
    conditions, columns = state.conditions, state.columns
    codes, most = np.arange(p.n), p.k if counted else None
    if conditions.codes is not None:
        codes, most = coded("groups", conditions.codes[columns])[0], conditions.count
        p = _with_whole_groups(state, p, codes)
    conditions.check_included(columns[list(p.include)])
    price = None if conditions.costs is None else np.bincount(codes, weights=conditions.costs[columns])
    saving = conditions.budget is not None
    runs = [Whole(p, row.name, codes, state.allowed, price, saving)]
    if row.name == "greedy" and saving:
        runs.append(Whole(p, row.name, codes, state.allowed, None, saving))
    parts = []
    for run in runs:
        run.run(most)
        parts.append(_ended(run, p))
    best = int(len(runs) == 2 and conditions.prefers(_found(parts[1]), _found(parts[0])))
    run, part = runs[best], parts[best]
    if row.name == "residual" and price is None and not conditions.constraints:
        part = _Grouped(p, part.picks, None, (), law=_law(run, run.ends.index(len(part.picks))))
    if p.tol is not None and part.picks and _found(part).met:
        return part, False
    wanted = 1 if most is None or saving or state.deficient == "truncate" else most
    short = len(run.ends) <= wanted and not run.blocked
    if short:
        run.fill(wanted)
        part = part_of(p, run.picks, None, ())
    if run.blocked and len(run.ends) <= wanted:
        conditions.refuse_short(part.indices, wanted, state.deficient)
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


def _found(part: Part) -> Found:
    """Return what a choice is compared with another by."""
    tol = part.problem.tol
    return Found(float(part.trace[-1]), tol is not None and relative(part.trace)[-1] <= tol, part.indices)


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
    k, most = state.conditions.count, len(groups) + np.unique(codes[candidates]).size
    if k is not None and len(groups) > k:
        raise ArgumentError(
            f"include has columns of {len(groups)} groups, more than k = {k}, which counts groups"
        )
    if max(k or 1, 1) > most:
        raise ArgumentError(
            f"k = {k}, but only {most} of {len(state.conditions.labels)} groups may be chosen whole (valid and exclude taken into account)"
        )
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


def _law(run: Whole, chosen: int) -> Guarantee:
    """Return the theorem about groups of largest residual, for the numbers of this choice."""
    groups, size = run.size.size, int(run.size.max())
    return Guarantee(
        "F <= group_residual(G, k, b) OPT_k for k of G groups of at most b columns",
        "businger1965",
        "every run",
        frobenius=lambda m, n, k, **options: bounds.group_residual(groups, chosen, size),
        rank=lambda m, n, k, **options: chosen,
        name="block-pivoted QR",
    )
