"""From a method's picks to those of the answer: cut at the tolerance, completed to k, dependent ones as the caller wants.

`within`, `filled` and `shortened` serve `cssp.select` and `cssp.select_gram`, the other functions `cssp.select`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cssp import linalg, passes, scaling
from cssp.errors import RankDeficientError, RankDeficientWarning, warn
from cssp.methods import Method
from cssp.methods.residual import residual
from cssp.part import Part, relative
from cssp.problem import Problem

__all__ = [
    "cut_at",
    "dependent_as_wanted",
    "filled",
    "limit",
    "part_of",
    "shortened",
    "solved",
    "threshold",
    "warn_of_dependence",
    "within",
]

#: Columns so much shorter than the longest may be dependent because of their unit alone.
UNLIKE = 1e-3


def within(met: Iterable[bool], least: int) -> int | None:
    """Return the number of picks at which a tolerance is met, and ``least`` at the least; None where it is not met.

    Parameters
    ----------
    met : iterable of bool
        Whether it is after 0, 1, ... picks.
    """
    return next((max(least, t) for t, yes in enumerate(met) if yes), None)


def filled(picks: Sequence[int], candidates: np.ndarray, length: int) -> list[int]:
    """Return the picks completed to this length with the lowest unused candidates."""
    unused = np.setdiff1d(np.flatnonzero(candidates), picks)
    return [*picks, *unused[: max(0, length - len(picks))].tolist()]


def shortened(deficient: str, k: int, limit: Callable[[], str], why: Callable[[], str] = lambda: "") -> bool:
    """Return whether dependent picks are dropped; raise the error that ``deficient='raise'`` asks for."""
    if deficient == "raise":
        raise RankDeficientError(f"k = {k} exceeds {limit()} (deficient='raise'){why()}")
    return deficient == "truncate"


@scaling.default_floating_errors
def solved(
    p: Problem, row: Method, options: Mapping[str, Any], deficient: str, counted: bool
) -> tuple[Part, bool]:
    """Return the picks of one item, cut at the tolerance and completed; and whether k exceeded the rank."""

    def run(q: Problem, options: Mapping[str, Any]) -> tuple[Part, bool]:
        picks = row.function(q, **options)
        own = part_of(p, picks.indices, picks.rank, None if picks.proven else ())
        found = _independent_first(own, picks.exhausted)
        if row.oversamples and len(found.picks) < len(own.picks):  # the dependent ones were meant, and follow
            after = [j for j in own.picks if j not in found.picks]
            picked = [*found.picks, *after][: len(own.picks)]
            found = part_of(p, picked, found.rank, own.method_picks)
        return found, picks.exhausted

    part, exhausted = run(p, options)
    meant = row.oversamples and deficient == "fill" and not all(part.independent[len(p.include) :])
    if p.tol is not None:
        cut = cut_at(part, p.tol)
        if cut is None and row.deterministic and len(part.picks) < p.k:
            # The method may have stopped at a goal its own rounding reported too early.
            again = {
                name: value for name, value in options.items() if name != "checkpoint"
            }  # of a run with this tolerance
            part, exhausted = run(replace(p, tol=None), again)
            cut = cut_at(part, p.tol)
        if cut is not None or not counted:
            given = len(p.include) - sum(_included(part))  # dependent columns that stay
            length = max(1, part.rank + given if cut is None else cut, len(p.include))
            picks = (
                part.picks
                if len(part.picks) >= length
                else filled(part.picks, linalg.host(p.candidates), p.k)
            )
            part = part_of(p, picks[:length], None, part.method_picks)
            return dependent_as_wanted(part, deficient) if given else (part, False)
    if len(part.picks) < p.k:
        part = _independent_first(part, exhausted, p.k)
    if part.rank == p.k or (meant and len(part.picks) == p.k):
        return part, False
    if deficient != "truncate" and len(part.picks) < p.k:
        part = part_of(p, filled(part.picks, linalg.host(p.candidates), p.k), part.rank, part.method_picks)
        cut = None if p.tol is None else cut_at(part, p.tol)
        if (
            cut is not None
        ):  # columns that are dependent up to rounding may still meet a tolerance below rounding
            return part_of(p, part.picks[: max(1, cut, len(p.include))], None, part.method_picks), False
    return dependent_as_wanted(part, deficient)


def cut_at(part: Part, tol: float) -> int | None:
    """Return the number of picks that meet the tolerance, at least 1; None where they do not."""
    return within((error <= tol for error in relative(part.trace)), 1)


def dependent_as_wanted(part: Part, deficient: str) -> tuple[Part, bool]:
    """Return a part with dependent columns, as the caller wants it."""
    if shortened(deficient, len(part.picks), lambda: limit(part), lambda: f". {threshold(part)}"):
        part = part_of(part.problem, _independent(part), part.rank, part.method_picks)
    return part, True


def _included(part: Part) -> list[bool]:
    """Return which included columns are independent of those before them."""
    return part.independent[: len(part.problem.include)] if part.problem.include else []


def part_of(
    p: Problem, picks: Sequence[int], rank: int | None, method_picks: tuple[int, ...] | None = None
) -> Part:
    """Return a part; the picks are the method's own by default."""
    chosen = tuple(int(j) for j in picks)
    record = passes.record_of(p.A) if p.in_passes else Part
    return record(p, chosen, rank, chosen if method_picks is None else method_picks)


def _independent_first(part: Part, exhausted: bool, length: int | None = None) -> Part:
    """Return the picks, if they are independent or the method is known to have exhausted the columns; otherwise those that are clearly
    independent, completed by the residual rule to as many as they were, or to ``length``.

    So no dependent column stands where an independent one is left. Picks close to dependence go, too: after them even the
    residual of a dependent column is far from zero.
    """
    p, k = part.problem, length or len(part.picks)
    if exhausted or part.rank == k:
        return part
    clear = [j for j, yes in zip(part.picks, part.clear(), strict=True) if yes and j not in p.include]
    first = [*p.include, *clear]
    left = p.xp.asarray(p.candidates, copy=True)
    for j in first:
        left[j] = False
    complete = passes.METHODS["residual"] if p.in_passes else residual
    picks = complete(replace(p, include=tuple(first), candidates=left, tol=None, target=None, k=k))
    longer = part_of(p, picks.indices, None, part.method_picks)
    return longer if longer.rank > part.rank else part


@scaling.default_floating_errors
def limit(part: Part) -> str:
    """Return what k exceeds."""
    given = _included(part)
    if all(given):
        return f"the numerical rank {part.rank} of the admissible columns"
    columns = part.indices[: len(given)][np.logical_not(given)].tolist()
    shown = ", ".join(map(str, columns[:5])) + (", ..." if len(columns) > 5 else "")
    which = f"columns {shown} depend" if len(columns) > 1 else f"column {shown} depends"
    return f"the rank {part.rank} that the included columns allow ({which} on those included before)"


@scaling.default_floating_errors
def threshold(part: Part) -> str:
    """Return what counts as dependent, and whether units are the likely cause: whether more columns would count without them."""
    p = part.problem
    with np.errstate(over="ignore"):  # a norm may be beyond the range of entries
        floor, largest = np.ldexp([p.floor, p.largest], p.exponent)
    text = (
        f"A residual counts as zero up to {floor:.1e}, that is max(m, n)·eps times the norm of the "
        f"largest column, {largest:.1e}"
    )
    norms2 = linalg.host(p.norms2)
    cure = "scale='norm' (or weights=1/norms) chooses among columns divided by their norms"
    chosen2 = norms2[list(part.picks)]
    if np.any((chosen2 > 0) & (chosen2 < (UNLIKE * p.largest) ** 2)):
        scaled = sum(linalg.basis(scaling.unit_columns(part.chosen), p.floor / p.largest)[1])
        if scaled > part.rank:
            return (
                f"{text}. Columns of very different size, such as in different units, are the likely cause: divided by their "
                f"norms {scaled} of the chosen are independent; {cure}"
            )
    short = int(np.count_nonzero((norms2 > 0) & (norms2 <= p.floor**2) & linalg.host(p.candidates)))
    if short:
        text += f". {short} columns are not even that long, as where units differ; {cure}"
    return text


def _independent(part: Part) -> list[int]:
    """Return the picks that add to the span; one column where none does."""
    kept = [j for j, yes in zip(part.picks, part.independent, strict=True) if yes]
    p = part.problem
    return kept or list(part.picks[:1]) or [int(np.argmax(linalg.host(p.candidates)))]


@scaling.default_floating_errors
def warn_of_dependence(short: list[Part], items: int) -> None:
    """Warn of the parts whose k exceeds the rank; ``items`` is the size of the batch, 0 where there is none."""
    if short:
        ranks = ", ".join(sorted({f"{p.rank} of {len(p.picks)}" for p in short})[:3])
        many = f" in {len(short)} of {items} batch items" if items else ""
        warn(
            f"k exceeds {limit(short[0])}{many}: only {ranks} chosen columns are independent. {threshold(short[0])}. "
            "deficient='fill' keeps dependent columns; pass deficient='truncate' or deficient='raise', or tol, to avoid them",
            RankDeficientWarning,
        )
