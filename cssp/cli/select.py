"""``cssp select``: from a file to the chosen columns as JSON."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

import numpy as np

import cssp
from cssp.cli import common
from cssp.linalg import host
from cssp.tables import Table

__all__ = ["choice", "select"]


def select(o: argparse.Namespace) -> None:
    """Run the command."""
    options = common.method_options(o.option)
    with common.opened(o, weights=o.weights) as table:
        given = choice(o, table)
        with common.explained(o, table):
            sel = cssp.select(
                common.as_method_wants(table.A.T if common.by_row(o) else table.A, o.method),
                method=o.method,
                **given,
                **options,
            )
            result = _result(o, table, sel, given)
        common.save_matrix(o, table, result["indices"])
        common.answer(o, result)


def choice(o: argparse.Namespace, table: Table) -> dict[str, Any]:
    """Return the arguments of `cssp.select` that are given."""
    weights = None if o.weights is None else common.numbers_per_column("weights", o.weights, o, table)
    given = {
        "k": o.k,
        "tol": o.tol,
        "tol_each": o.tol_each,
        "weights": weights,
        "include": common.listed("include", o, table),
        "exclude": common.listed("exclude", o, table),
        "deficient": o.deficient,
        "rng": o.rng,
        "scale": "norm" if o.scale else None,
        "progress": True if o.progress else None,
    }
    return {name: value for name, value in given.items() if value is not None}


def _result(
    o: argparse.Namespace, table: Table, sel: cssp.Selection, given: dict[str, Any]
) -> dict[str, Any]:
    """Return the result that is written."""
    errors = np.asarray(host(sel.errors)).tolist()
    result = {
        **common.picked(o, table, sel.indices),
        "rows": common.by_row(o),
        "errors": errors,
        "error": float(sel.error),
        "squared_error": errors[-1],
        "relative_error": float(sel.relative_error),
        "rank": int(sel.rank),
        "method": sel.method,
        "options": {
            **{name: value for name, value in given.items() if name not in ("weights", "progress")},
            **dict(sel.options),
            "weights": o.weights,
        },
        **common.origin(o, table),
    }
    if o.certificate:
        c = sel.certificate()  # its `error` is a norm; squares have names of their own
        result["certificate"] = {**asdict(c), "text": str(c)}
    return result
