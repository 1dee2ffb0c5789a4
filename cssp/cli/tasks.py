"""``cssp independent``, ``interpolative``, ``cur`` and ``compare``: other answers about the columns of a file."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

import cssp
from cssp.cli import common
from cssp.cli.choice import choice, inputs
from cssp.errors import ArgumentError
from cssp.files import written
from cssp.linalg import host
from cssp.tables import Table

__all__ = ["compare", "cur", "independent", "interpolative"]


def independent(o: argparse.Namespace) -> None:
    """Run ``cssp independent``: the first independent columns, and the others as combinations of them."""
    with common.opened(o) as table:
        with common.explained(o, table):
            found = cssp.independent_columns(table.A, o.tol)
        kept, dropped = (common.picked(o, table, x) for x in (found.indices, found.dropped))
        keys = dropped["names"] if dropped["names"] is not None else dropped["numbers"]
        combinations = {
            key: {_key(table, i): c for i, c in found.combinations[j].items()}
            for key, j in zip(keys, dropped["indices"], strict=True)
        }
        common.save_matrix(o, table, kept["indices"])
        common.answer(
            o, {**kept, "dropped": dropped, "combinations": combinations, **common.origin(o, table)}
        )


def interpolative(o: argparse.Namespace) -> None:
    """Run ``cssp interpolative``: every column as a combination, with bounded coefficients, of some."""
    with common.opened(o) as table:
        with common.explained(o, table):
            A = common.as_method_wants(table.A, o.method)
            found = cssp.interpolative(A, o.k, o.tol, o.method, rng=o.rng, **common.method_options(o.option))
        result = common.picked(o, table, found.columns)
        _save_factors(o, T=found.T)
        common.save_matrix(o, table, result["indices"])
        result |= {"relative_error": found.relative_error, "max_abs": found.max_abs, "bound": found.bound}
        common.answer(o, {**result, "method": o.method, **common.origin(o, table)})


def cur(o: argparse.Namespace) -> None:
    """Run ``cssp cur``: some columns, some rows and the small matrix between them."""
    with common.opened(o) as table:
        with common.explained(o, table):
            A = common.as_method_wants(table.A, o.method)
            options = common.method_options(o.option)
            found = cssp.cur(A, o.k, o.r, o.method, core=o.core, rng=o.rng, **options)
        result = common.picked(o, table, found.columns)
        rows = np.asarray(host(found.rows))
        _save_factors(o, C=found.C, U=found.U, R=found.R)
        common.save_matrix(o, table, result["indices"])
        result |= {
            "row_indices": rows.tolist(),
            "row_numbers": (rows if table.rows is None else table.rows[rows]).tolist(),
            "relative_error": found.relative_error,
            "core": found.core,
            "method": o.method,
        }
        common.answer(o, {**result, **common.origin(o, table)})


def compare(o: argparse.Namespace) -> None:
    """Run ``cssp compare``: several methods side by side, as a table, or as JSON into the file of -o."""
    names = None if o.methods is None else [name.strip() for name in o.methods.split(",")]
    with common.opened(o, **inputs(o)) as table:
        given = choice(o, table)
        with common.explained(o, table):
            A = table.A.T if common.by_row(o) else table.A
            found = cssp.compare(A, methods=names, **given)
            rows = found.rows()
        if o.output is None:
            print(found)
            return
        table_rows = [
            {
                "method": name,
                **common.picked(o, table, found[name].indices),
                "relative_error": error,
                "against_best": against,
                "largest_residual": largest,
                "rank": rank,
                "seconds": seconds,
            }
            for name, error, against, largest, rank, seconds in rows
        ]
        common.answer(o, {"methods": table_rows, "optimum": found.optimum, **common.origin(o, table)})


def _key(table: Table, j: int) -> Any:
    """Return the name of a column, or its number in the file."""
    return int(table.columns[j]) if table.names is None else table.names[j]


def _save_factors(o: argparse.Namespace, **factors: Any) -> None:
    """Write the factors as arrays of one npz file, where that is asked for."""
    if o.save_factors is None:
        return
    if not o.save_factors.endswith(".npz"):
        raise ArgumentError(f"--save-factors {o.save_factors}: expected a name that ends with .npz")
    with written(o.save_factors) as partial:
        arrays: Any = {name: np.asarray(host(common.in_memory(x))) for name, x in factors.items()}
        np.savez(partial, **arrays)
