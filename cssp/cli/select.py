"""``cssp select``: from a file to the chosen columns as JSON."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

import numpy as np

import cssp
from cssp.cli import common
from cssp.cli.choice import asked, choice, inputs
from cssp.linalg import host
from cssp.tables import Table

__all__ = ["select"]


def select(o: argparse.Namespace) -> None:
    """Run the command."""
    options = common.method_options(o.option)
    with common.opened(o, **inputs(o)) as table:
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
        **({} if sel.groups is None else {"groups": list(sel.groups)}),
        **({} if sel.cost is None else {"cost": float(sel.cost)}),
        **({} if sel.missing is None else {"missing": asdict(sel.missing)}),
        "method": sel.method,
        "options": {
            **asked(o, given),
            **dict(sel.options),
        },
        **common.origin(o, table),
    }
    if o.certificate:
        c = sel.certificate()  # its `error` is a norm; squares have names of their own
        result["certificate"] = {**asdict(c), "text": str(c)}
    return result
