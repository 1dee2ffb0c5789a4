"""``cssp select``: from a file to the chosen columns as JSON."""

from __future__ import annotations

import argparse
import inspect
import json
import math
import platform
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import scipy

import cssp
from cssp import passes
from cssp.errors import ArgumentError, CsspError
from cssp.files import refuse_overwrite, written
from cssp.linalg import host
from cssp.tables import Table, read, write
from cssp.tables.columns import chosen, within

__all__ = ["as_flags", "select"]


def select(o: argparse.Namespace) -> None:
    """Run the command."""
    if o.data == o.weights == "-":
        raise ArgumentError("--weights -: standard input is the data already; put the weights into a file")
    refuse_overwrite(o.output, o.data, o.weights)
    refuse_overwrite(o.save_matrix, o.data, o.weights, o.output)
    options = dict(_option(text) for text in o.option)
    with read(
        o.data,
        o.key,
        form=o.format,
        columns=o.columns,
        numeric=o.numeric,
        missing=o.missing,
        header=o.header,
        sep=o.sep,
        decimal=o.decimal,
        encoding=o.encoding,
    ) as table:
        for note in table.notes:
            print(f"cssp: note: {note}", file=sys.stderr)
        _choose(o, table, options)


def _choose(o: argparse.Namespace, table: Table, options: dict[str, Any]) -> None:
    A = table.A.T if o.rows else table.A
    numbers = _numbers(o, table)
    given = {
        "k": o.k,
        "tol": o.tol,
        "weights": None if o.weights is None else _weights(o.weights, int(A.shape[1])),
        "include": _listed("include", o, table, numbers),
        "exclude": _listed("exclude", o, table, numbers),
        "rng": o.rng,
        "scale": "norm" if o.scale else None,
        "progress": True if o.progress else None,
    }
    given = {name: value for name, value in given.items() if value is not None}
    try:
        sel = cssp.select(
            as_select_wants(A, o.method), method=o.method, deficient=o.deficient, **given, **options
        )
        result = _result(o, table, sel, numbers, given)
    except CsspError as reason:
        raise type(reason)(_explained(str(reason), o, table)) from None
    except Exception as reason:
        if passes.kind_of(A) != "dask":  # which is read only now
            raise
        what = str(reason) or type(reason).__name__
        raise ArgumentError(f"{o.data} cannot be read: {what}") from None
    if o.save_matrix:
        names = table.names if o.rows else result["names"]
        write(o.save_matrix, _taken(table, np.asarray(result["indices"]), o.rows), names)
    text = json.dumps(_plain(result), indent=1, allow_nan=False) + "\n"
    if o.output is None:
        sys.stdout.write(text)
    else:
        with written(o.output) as partial:
            partial.write_text(text)


def _result(
    o: argparse.Namespace, table: Table, sel: cssp.Selection, numbers: np.ndarray, given: dict[str, Any]
) -> dict[str, Any]:
    """Return the result that is written."""
    indices, errors = (np.asarray(host(x)).tolist() for x in (sel.indices, sel.errors))
    names = None if o.rows else table.names
    result = {
        "indices": indices,
        "names": None if names is None else [names[j] for j in indices],
        "numbers": numbers[indices].tolist(),
        "rows": bool(o.rows),
        "errors": errors,
        "error": float(sel.error),
        "squared_error": errors[-1],
        "relative_error": float(sel.relative_error),
        "rank": int(sel.rank),
        "method": sel.method,
        "options": {
            **{name: value for name, value in given.items() if name not in ("weights", "progress")},
            **dict(sel.options),
            "deficient": o.deficient,
            "weights": o.weights,
        },
        "data": str(o.data),
        "shape": [int(s) for s in table.A.shape],
        "left_out": list(table.left_out),
        "dropped_rows": table.dropped,
        "versions": {
            "cssp": cssp.__version__,
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "python": platform.python_version(),
        },
    }
    if o.certificate:
        result["certificate"] = _certificate(sel.certificate())
    return result


def _certificate(c: cssp.Certificate) -> dict[str, Any]:
    """Return its fields and its sentence; `error` is a norm, squares have names of their own."""
    return {**asdict(c), "text": str(c)}


def as_select_wants(A: Any, method: str) -> Any:
    """Return A, in memory where the method cannot do with passes over it."""
    kind = passes.kind_of(A)
    if kind not in ("dask", "sparse") or method in passes.METHODS or method not in cssp.METHODS:
        return A
    return A.compute() if kind == "dask" else A.toarray()


def _taken(table: Table, indices: np.ndarray, rows: bool) -> np.ndarray:
    """Return the chosen columns, or rows, as a dense array."""
    B = table.A[indices] if rows else table.A[:, indices]
    if hasattr(B, "toarray"):
        B = B.toarray()
    return np.asarray(B)


def _weights(path: str, n: int) -> np.ndarray:
    """Return one number per column; a file of one row or one column."""
    with read(path) as table:
        A = table.A
        w = np.array(A.toarray() if hasattr(A, "toarray") else A)
    if w.size != n or max(w.shape, default=0) != n:
        raise ArgumentError(f"--weights {path} has shape {w.shape}: expected {n} numbers, one per column")
    return w.reshape(n)


def _numbers(o: argparse.Namespace, table: Table) -> np.ndarray:
    """Return the numbers in the file of the columns, or rows, that may be chosen."""
    if not o.rows:
        return table.columns
    return np.arange(int(table.A.shape[0])) if table.rows is None else table.rows


def _listed(argument: str, o: argparse.Namespace, table: Table, numbers: np.ndarray) -> list[int] | None:
    """Return the places in the matrix of the columns, or rows, that are named."""
    values = getattr(o, argument)
    if values is None:
        return None
    last = int(numbers.max(initial=-1))
    if o.rows:
        return within(argument, chosen(argument, values, None, last + 1, "row"), numbers, "row")
    names = None
    if table.names is not None:
        names = [""] * (last + 1)
        for j, name in zip(numbers, table.names, strict=True):
            names[j] = name
    return within(argument, chosen(argument, values, names, last + 1), numbers)


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ArgumentError(f"--option {text}: expected NAME=VALUE, such as f=1.5")
    if name in {*inspect.signature(cssp.select).parameters, "scale", "progress"}:
        raise ArgumentError(f"--option {text}: {name!r} is no option of a method; see `cssp methods`")
    try:
        return name, json.loads(value)
    except (json.JSONDecodeError, RecursionError):
        return name, math.inf if value == "inf" else value


def as_flags(text: str) -> str:
    """Return a message of the library in the words of the command line."""
    text = re.sub(
        r"\b(deficient|tol|rng|method) ?= ?('[^']*'|[^\s:;,)]+)",
        lambda m: f"--{m[1]} {m[2].strip(chr(39))}",
        text,
    )
    text = text.replace("scale='norm' (or weights=1/norms)", "--scale").replace(", or tol,", ", or --tol,")
    return text.replace("neither k nor tol is given", "neither k nor tol is given (-k, --tol)")


def _explained(text: str, o: argparse.Namespace, table: Table) -> str:
    """Return an error of `select`, with the names of columns and advice that the command line can follow."""
    bad = re.match(r"A has (NaN|Inf) in column (\d+)", text)
    if bad is None:
        return as_flags(re.sub(r"^A has", f"{o.data} has", text))
    j = int(bad[2])
    where = f"row {_numbers(o, table)[j]} (counted from 0)" if o.rows else table.label(j)
    if bad[1] == "Inf":
        return f"{o.data}: Inf in {where}; clean it, or name the columns to use with --columns"
    return (
        f"{o.data}: NaN in {where}; "
        "use --missing rows to leave out rows with missing cells, or --columns to leave out the column"
    )


def _plain(x: Any) -> Any:
    """Return the numbers JSON knows; infinities as words."""
    if isinstance(x, dict):
        return {str(name): _plain(value) for name, value in x.items()}
    if isinstance(x, (list, tuple)):
        return [_plain(value) for value in x]
    if isinstance(x, np.generic):
        x = x.item()
    if isinstance(x, float) and not math.isfinite(x):
        return str(x)
    return str(x) if isinstance(x, Path) else x
