"""What may be chosen after what: at most q of each label, points some distance apart, costs within a budget."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import scipy.spatial

from cssp.errors import ArgumentError, check_integer
from cssp.linalg import host

__all__ = ["Affordable", "AtMost", "Constraint", "MinDistance", "coded", "described", "mask_of"]

#: Units of rounding by which a distance, or a sum of costs, may miss its limit.
ROUNDINGS = 8


@runtime_checkable
class Constraint(Protocol):
    """Anything with a method `allowed`; `cssp.select` asks it after every pick.

    Examples
    --------
    >>> import numpy as np, cssp
    >>> class NoNeighbours:
    ...     def allowed(self, chosen):
    ...         return np.array([all(abs(j - i) > 1 for i in chosen) for j in range(4)])
    >>> cssp.select(np.diag([4.0, 3.0, 2.0, 1.0]), 2, constraint=NoNeighbours()).indices
    array([0, 2])
    """

    def allowed(self, chosen: np.ndarray) -> np.ndarray:
        """Return which columns may be chosen next, bool, shape (n,); what it says of chosen ones does not matter.

        Parameters
        ----------
        chosen : int64 array, shape (t,)
            The columns chosen so far, in order of choice, as the caller numbers them.
        """


@dataclass(frozen=True, eq=False)
class AtMost:
    """At most q columns of each label: a partition matroid.

    Parameters
    ----------
    labels : sequence of int, str or bool, length n
        The label of each column.
    q : int, or mapping of labels to int
        How many columns of each label may be chosen, 0 or more. Labels that a mapping leaves out have no limit.

    Raises
    ------
    CsspError
        q is no such number, or names a label that no column has.

    Examples
    --------
    >>> import numpy as np, cssp
    >>> A = np.diag([4.0, 3.0, 2.0, 1.0])
    >>> cssp.select(A, 2, constraint=cssp.AtMost(["north", "north", "south", "south"], 1)).indices
    array([0, 2])
    >>> cssp.select(A, 3, constraint=cssp.AtMost([True, True, True, False], {True: 2})).indices
    array([0, 1, 3])
    """

    labels: Sequence[Hashable]
    q: int | Mapping[Hashable, int]

    def __post_init__(self) -> None:
        codes, names = coded("labels", self.labels)
        limits = np.full(len(names), codes.size, dtype=np.int64)
        if isinstance(self.q, Mapping):
            for label, most in self.q.items():
                if label not in names:
                    raise ArgumentError(
                        f"q names the label {label!r}, which no column has: expected some of {_few(names)}"
                    )
                limits[names.index(label)] = check_integer(f"q[{label!r}]", most, 0)
        else:
            limits[:] = check_integer("q", self.q, 0)
        object.__setattr__(self, "_codes", codes)
        object.__setattr__(self, "_limits", limits)

    def allowed(self, chosen: np.ndarray) -> np.ndarray:
        """Return which columns have labels of which fewer than q are chosen, bool, shape (n,)."""
        codes, limits = self._codes, self._limits  # type: ignore[attr-defined]
        counts = np.bincount(codes[np.asarray(chosen, dtype=np.int64)], minlength=limits.size)
        within: np.ndarray = (counts < limits)[codes]
        return within

    def __repr__(self) -> str:
        return f"AtMost({_few(self.labels)}, {self.q!r})"


@dataclass(frozen=True, eq=False)
class MinDistance:
    """Chosen columns belong to points at least a distance r apart.

    Parameters
    ----------
    points : array, shape (n, d) or (n,)
        Where each column is, such as the place of a sensor; finite. Distances are Euclidean.
    r : float
        Positive, in the unit of the points. A distance that is r up to rounding is enough.

    Raises
    ------
    CsspError
        The points are no finite numbers, or r is not positive.

    Examples
    --------
    >>> import numpy as np, cssp
    >>> A = np.diag([4.0, 3.0, 2.0, 1.0])
    >>> cssp.select(A, 2, constraint=cssp.MinDistance([0.0, 0.1, 0.2, 0.3], 0.3)).indices
    array([0, 3])
    """

    points: Any
    r: float

    def __post_init__(self) -> None:
        points = real_numbers("points", self.points)
        if points.ndim not in (1, 2) or not points.size:
            raise ArgumentError(
                f"points has shape {points.shape}: expected (n, d), one point per column of A"
            )
        r = positive("r", self.r)
        largest = max(float(np.abs(points).max()), r)
        X = np.ldexp(
            points.reshape(points.shape[0], -1), -int(np.frexp(largest)[1])
        )  # squares neither overflow nor vanish
        least = float(np.ldexp(r, -int(np.frexp(largest)[1])))
        least -= ROUNDINGS * float(np.finfo(np.float64).eps) * (float(np.abs(X).max()) + least)
        object.__setattr__(self, "r", r)
        object.__setattr__(self, "_points", X)
        object.__setattr__(self, "_nearer", float(np.nextafter(least, 0)))
        object.__setattr__(self, "_tree", scipy.spatial.KDTree(X))

    def allowed(self, chosen: np.ndarray) -> np.ndarray:
        """Return which points are at least r from all chosen ones, bool, shape (n,)."""
        X, tree, nearer = self._points, self._tree, self._nearer  # type: ignore[attr-defined]
        far = np.ones(len(X), dtype=bool)
        for near in tree.query_ball_point(X[chosen], nearer) if len(chosen) else ():
            far[near] = False
        return far

    def __repr__(self) -> str:
        return f"MinDistance({len(self._points)} points, r={self.r})"  # type: ignore[attr-defined]


@dataclass(frozen=True, eq=False)
class Affordable:
    """Costs (n,) that add up to no more than a budget, up to rounding of the sum."""

    costs: np.ndarray
    budget: float

    def allowed(self, chosen: np.ndarray) -> np.ndarray:
        """Return which columns the rest of the budget pays for, bool, shape (n,)."""
        spent = float(np.sum(self.costs[np.asarray(chosen, dtype=np.int64)]))
        slack = ROUNDINGS * (len(chosen) + 1) * float(np.finfo(np.float64).eps)
        paid: np.ndarray = spent + self.costs <= self.budget * (1 + slack)
        return paid

    def __repr__(self) -> str:
        return f"budget={self.budget}"


def mask_of(constraint: Constraint, chosen: np.ndarray, n: int) -> np.ndarray:
    """Return what a constraint allows, checked, as a bool array (n,) on the host."""
    answer = constraint.allowed(chosen)
    mask = np.asarray(host(answer) if hasattr(answer, "shape") else answer)
    if mask.dtype.kind != "b" or mask.shape != (n,):
        raise ArgumentError(
            f"constraint {described(constraint)}: allowed(chosen) returned dtype {mask.dtype}, shape {mask.shape}: "
            f"expected a bool array of shape ({n},), one entry per column of A"
        )
    return mask


def described(constraint: Constraint) -> str:
    """Return a short name of a constraint for messages."""
    text = repr(constraint)
    return type(constraint).__name__ if text.startswith("<") else text


def coded(argument: str, labels: Any) -> tuple[np.ndarray, list[Any]]:
    """Return the number of each column's label, int64, shape (n,), and the labels in order of first appearance."""
    if isinstance(labels, Mapping | Set):
        raise ArgumentError(
            f"{argument} is a {type(labels).__name__}: expected a sequence of labels, one per column, in the order of the columns"
        )
    values = _array(labels)
    if values.dtype.kind == "O" and all(isinstance(x, str) for x in values.flat):
        values = values.astype(str)
    mixed = values.dtype.kind == "U" and any(not isinstance(x, str) for x in labels)
    if values.ndim != 1 or values.dtype.kind not in "biuU" or mixed:
        raise ArgumentError(
            f"{argument} has dtype {'object' if mixed else values.dtype}, shape {values.shape}: expected one label per column, shape (n,), all of "
            "them integers, or all of them strings, such as ['a', 'a', 'b'] for two groups of three columns"
        )
    found, first, codes = np.unique(values, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(order.size)
    return place[codes].astype(np.int64), found[order].tolist()


def real_numbers(argument: str, values: Any) -> np.ndarray:
    """Return finite real numbers as a float64 array."""
    array = _array(values)
    try:
        numbers = array.astype(np.float64) if array.dtype.kind in "iuf" else None
    except (TypeError, ValueError):
        numbers = None
    if numbers is None or not np.all(np.isfinite(numbers)):
        raise ArgumentError(
            f"{argument}: expected an array of finite real numbers, got {_few(np.ravel(array))}"
        )
    return numbers


def positive(argument: str, value: Any) -> float:
    """Return a positive finite number."""
    try:
        number = real_numbers(argument, value)
    except ArgumentError:
        number = np.zeros(0)
    if number.ndim or not number > 0:
        raise ArgumentError(f"{argument} = {value!r}: expected one positive number")
    return float(number)


def _array(values: Any) -> np.ndarray:
    """Return values as a host array; of objects where they are lists of unequal length."""
    if hasattr(values, "shape"):
        return np.asarray(host(values))
    values = values if isinstance(values, str) or not isinstance(values, Iterable) else list(values)
    try:
        return np.asarray(values)
    except ValueError:
        array = np.empty(len(values), dtype=object)
        array[:] = values
        return array


def _few(values: Any) -> str:
    shown = [x.item() if isinstance(x, np.generic) else x for x in list(values)[:4]]
    return f"[{', '.join(map(repr, shown))}{', ...' if len(values) > 4 else ''}]"
