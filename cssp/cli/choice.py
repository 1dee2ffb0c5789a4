"""What is chosen and under which conditions: the arguments of `cssp.select` from those of the command line."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

import cssp
from cssp.cli import common
from cssp.errors import ArgumentError
from cssp.tables import Table

__all__ = ["asked", "choice", "inputs"]

#: Arguments whose value is a file, or a number and a file.
FILES = ("weights", "groups", "costs", "at_most", "min_distance")


def inputs(o: argparse.Namespace) -> dict[str, str | None]:
    """Return the files that are read besides the data, by the names of their options."""
    files = {name.replace("_", "-"): getattr(o, name) for name in FILES}
    return {name: value[1] if isinstance(value, list) else value for name, value in files.items()}


def asked(o: argparse.Namespace, given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments for the record: files by name."""
    plain = {name: value for name, value in given.items() if name not in (*FILES, "constraint", "progress")}
    files = {name: getattr(o, name) for name in (*FILES, "group_by") if getattr(o, name) is not None}
    return plain | {"weights": None} | files


def choice(o: argparse.Namespace, table: Table) -> dict[str, Any]:
    """Return the arguments of `cssp.select` that are given."""
    given = {
        "k": o.k,
        "tol": getattr(o, "tol", None),
        "tol_each": o.tol_each,
        "tol_max": o.tol_max,
        "weights": _numbers("weights", o, table),
        "include": common.listed("include", o, table),
        "exclude": common.listed("exclude", o, table),
        "groups": _groups(o, table),
        "costs": _numbers("costs", o, table),
        "budget": o.budget,
        "constraint": [*_at_most(o, table), *_min_distance(o, table)] or None,
        "missing": "pairwise" if o.missing == "pairwise" else None,
        "deficient": o.deficient,
        "rng": o.rng,
        "scale": "norm" if o.scale else None,
        "progress": True if o.progress else None,
    }
    return {name: value for name, value in given.items() if value is not None}


def _numbers(argument: str, o: argparse.Namespace, table: Table) -> np.ndarray | None:
    path = getattr(o, argument)
    return None if path is None else common.numbers_per_column(argument, path, o, table)


def _groups(o: argparse.Namespace, table: Table) -> list[str] | None:
    if o.group_by is None:
        return None if o.groups is None else common.labels("groups", o.groups, o, table)
    if o.groups is not None:
        raise ArgumentError("--groups and --group-by: expected one of the two")
    if common.by_row(o) or table.names is None:
        raise ArgumentError("--group-by: expected a file with names of the columns; use --groups FILE")
    if not o.group_by:
        raise ArgumentError("--group-by '': expected what separates the group in a name, such as _")
    return [name.split(o.group_by)[0] for name in table.names]


def _at_most(o: argparse.Namespace, table: Table) -> list[cssp.AtMost]:
    if o.at_most is None:
        return []
    q, path = o.at_most
    if not q.isdecimal():
        raise ArgumentError(f"--at-most {q} {path}: expected a number of columns, then a file of labels")
    return [cssp.AtMost(common.labels("at-most", path, o, table), int(q))]


def _min_distance(o: argparse.Namespace, table: Table) -> list[cssp.MinDistance]:
    if o.min_distance is None:
        return []
    r, path = o.min_distance
    try:
        distance = float(r)
    except ValueError:
        raise ArgumentError(
            f"--min-distance {r} {path}: expected a distance, then a file of coordinates"
        ) from None
    n = len(common.candidates(o, table))
    points = common.numbers("min-distance", path)
    if len(points) != n:
        raise ArgumentError(
            f"--min-distance {r} {path} has {len(points)} lines: expected {n}, one point for each column used"
        )
    return [cssp.MinDistance(points, distance)]
