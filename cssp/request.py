"""What a call asks for besides its matrix: how many columns, which first, which never; checked once and handed out per item."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from cssp import arguments as check
from cssp.errors import ArgumentError

__all__ = ["Item", "Request", "requested"]


@dataclass(frozen=True, eq=False)
class Item:
    """What is asked of one matrix, whose columns are numbered without those of padding.

    Attributes
    ----------
    where : str
        " of batch item 3", for messages; empty where there is no batch.
    columns : int array, shape (n,), or None
        The caller's number of each column where padding was removed.
    k : int
        Number of columns to choose, the included ones counted.
    candidates : bool array, shape (n,)
        Columns that may be chosen freely: neither included nor excluded.
    include : tuple of int
    weights : float64 array, shape (n,), or None
        Finite, not negative.
    tol : float or None
    counted : bool
        Whether k was given; else it is the number of columns that may be chosen.
    width : int
        The caller's number of columns.
    """

    where: str
    columns: np.ndarray | None
    k: int
    candidates: np.ndarray
    include: tuple[int, ...]
    weights: np.ndarray | None
    tol: float | None
    counted: bool
    width: int


@dataclass(frozen=True, eq=False)
class Request:
    """Checked arguments of one call, host vectors spread over the batch; ``counts`` is None where k was not given."""

    width: int
    counts: np.ndarray | None
    tol: float | None
    include: np.ndarray
    exclude: np.ndarray
    weights: np.ndarray | None = None
    valid: np.ndarray | None = None

    @property
    def counted(self) -> bool:
        """Whether k was given."""
        return self.counts is not None

    def places(self) -> Iterator[tuple[int, ...]]:
        """Return the places of the items in the batch, in order; () alone where there is no batch."""
        return np.ndindex(self.include.shape[:-1])

    def item(self, place: tuple[int, ...]) -> Item:
        """Return what is asked of one batch item.

        Raises
        ------
        ArgumentError
            The item's arguments contradict each other: more columns are asked for than there are, or included ones are padding.
        """
        where = f" of batch item {place[0] if len(place) == 1 else place}" if place else ""
        valid = None if self.valid is None else self.valid[place]
        columns = None if valid is None or valid.all() else np.flatnonzero(valid)
        include, exclude, n = self.include[place], self.exclude[place], self.width
        w = None if self.weights is None else self.weights[place]
        if columns is not None:
            if not columns.size:
                raise ArgumentError(f"valid{where} is all False: expected at least one column")
            include, n = _renumbered(include, columns, where), columns.size
            exclude = np.searchsorted(columns, exclude[np.isin(exclude, columns)])
            w = None if w is None else w[columns]
        if w is not None:
            check.check_weights(w, columns, where)
        candidates = np.ones(n, dtype=bool)
        candidates[exclude] = candidates[include] = False
        k = self._count(place, n - exclude.size, include.size, where)
        return Item(
            where=where,
            columns=columns,
            k=k,
            candidates=candidates,
            include=tuple(include.tolist()),
            weights=w,
            tol=self.tol,
            counted=self.counted,
            width=self.width,
        )

    def _count(self, place: tuple[int, ...], admissible: int, included: int, where: str) -> int:
        """Return k of one item, checked against the number of columns that may be chosen."""
        k = admissible if self.counts is None else int(self.counts[place])
        if k > admissible:
            given = "exclude" if self.valid is None else "valid and exclude"
            why = "" if admissible == self.width else f" ({given} taken into account)"
            raise ArgumentError(
                f"k = {k}{where}, but only {admissible} of {self.width} columns may be chosen{why}"
            )
        if k < 1:
            raise ArgumentError(f"exclude{where} leaves no column to choose")
        if included > k:
            raise ArgumentError(f"include{where} has {included} columns, more than k = {k}")
        return k


def requested(
    batch: tuple[int, ...],
    n: int,
    *,
    k: Any,
    tol: Any,
    include: Any,
    exclude: Any,
    weights: Any = None,
    valid: Any = None,
    ends: bool = False,
) -> Request:
    """Return the checked arguments of `cssp.select` or `cssp.select_gram`, as the caller gave them, for matrices of n columns.

    With ``ends`` something else ends the choice, such as a budget.

    Raises
    ------
    ArgumentError
        An argument is wrong by itself, or neither k nor tol is given.
    """
    counts, tol = check.as_counts(k, batch), check.as_tolerance(tol)
    if counts is None and tol is None and not ends:
        raise ArgumentError(
            "neither k nor tol is given: expected how many columns (k=10), or how small an error (tol=0.01)"
        )
    request = Request(
        width=n,
        counts=counts,
        tol=tol,
        include=check.as_columns("include", include, batch, n),
        exclude=check.as_columns("exclude", exclude, batch, n),
        weights=check.as_weights(weights, batch, n),
        valid=check.as_mask(valid, batch, n),
    )
    check.check_disjoint(request.include, request.exclude)
    return request


def _renumbered(include: np.ndarray, columns: np.ndarray, where: str) -> np.ndarray:
    """Return the places of included columns among the valid ones."""
    padding = include[~np.isin(include, columns)]
    if padding.size:
        raise ArgumentError(f"include{where} contains column {padding[0]}, which valid marks as padding")
    return np.searchsorted(columns, include)
