"""``cssp select data.npy -k 20 -o picked.json``: the selectors on matrices in files.

Errors are one line on stderr and exit code 2.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import scipy

import cssp
from cssp import passes
from cssp.errors import ArgumentError, CsspError, RankDeficientWarning
from cssp.files import refuse_overwrite, written
from cssp.linalg import host
from cssp.tables import SUFFIXES, Table, read, write

__all__ = ["main"]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; the exit code comes back."""
    parser = _Parser(prog="cssp", description="Column subset selection on matrices in files.")
    parser.add_argument("--version", action="version", version=f"cssp {cssp.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    _add_select(commands)
    methods = commands.add_parser("methods", help="list the methods")
    methods.set_defaults(run=_methods)
    options = parser.parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", RankDeficientWarning)
            warnings.showwarning = _show_warning  # type: ignore[assignment]
            options.run(options)
    except BrokenPipeError:
        return 0
    except (CsspError, OSError, MemoryError) as reason:
        line = " ".join(str(reason).split()) or type(reason).__name__
        print(f"cssp {options.command}: error: {line}", file=sys.stderr)
        return 2
    return 0


def _add_select(commands: Any) -> None:
    p = commands.add_parser("select", help="choose columns of a matrix")
    p.add_argument("data", help=f"a file: {', '.join(SUFFIXES)}")
    p.add_argument("-k", type=int, help="number of columns")
    p.add_argument("--tol", type=float, help="stop at this relative error; with or instead of -k")
    p.add_argument("--method", default="residual", help="one of `cssp methods` (default residual)")
    p.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the method, such as f=1.5; may be repeated",
    )
    p.add_argument("--rows", action="store_true", help="choose rows instead of columns")
    p.add_argument(
        "--columns",
        metavar="A,B,...",
        help="use these columns only, by the names in the header (numbers where there is none)",
    )
    p.add_argument("--key", help="the array of an npz file or a zarr group that holds several")
    p.add_argument("--weights", metavar="FILE", help="a file with one weight per column")
    p.add_argument("--include", metavar="A,B,...", help="columns chosen first, by name or number")
    p.add_argument("--exclude", metavar="A,B,...", help="columns never chosen")
    p.add_argument("--deficient", default="fill", help="fill (default), truncate or raise")
    p.add_argument("--rng", type=int, help="seed of the methods that draw")
    p.add_argument("--certificate", action="store_true", help="compare with the best any columns could do")
    p.add_argument("--save-matrix", metavar="FILE", help="write the chosen columns (npy, npz, csv, parquet)")
    p.add_argument("-o", "--output", metavar="FILE", help="write the result there, not on stdout")
    p.set_defaults(run=_select)


def _select(o: argparse.Namespace) -> None:
    refuse_overwrite(o.output, o.data, o.weights)
    refuse_overwrite(o.save_matrix, o.data, o.weights, o.output)
    table = read(o.data, o.key)
    if table.A.ndim != 2:
        raise ArgumentError(f"{o.data} has shape {tuple(table.A.shape)}: a matrix is wanted")
    if o.columns is not None:
        table = table.only(o.columns.split(","))
    A, names = (table.A.T, None) if o.rows else (table.A, table.names)
    given = {
        "k": o.k,
        "tol": o.tol,
        "weights": None if o.weights is None else _weights(o.weights, int(A.shape[1])),
        "include": _listed("include", o.include, names),
        "exclude": _listed("exclude", o.exclude, names),
        "rng": o.rng,
    }
    given = {name: value for name, value in given.items() if value is not None}
    options = dict(_option(text) for text in o.option)
    A = as_select_wants(A, o.method)
    sel = cssp.select(A, method=o.method, deficient=o.deficient, **given, **options)
    indices = np.asarray(host(sel.indices))
    result = {
        "indices": indices.tolist(),
        "names": None if names is None else [names[j] for j in indices],
        "rows": bool(o.rows),
        "errors": np.asarray(host(sel.errors)).tolist(),
        "error": float(sel.error),
        "relative_error": float(sel.relative_error),
        "rank": int(sel.rank),
        "method": sel.method,
        "options": {
            **{name: value for name, value in given.items() if name != "weights"},
            **dict(sel.options),
            "deficient": o.deficient,
            "weights": o.weights,
        },
        "data": str(o.data),
        "shape": [int(s) for s in table.A.shape],
        "versions": {
            "cssp": cssp.__version__,
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "python": platform.python_version(),
        },
    }
    if o.certificate:
        result["certificate"] = asdict(sel.certificate())
    if o.save_matrix:
        write(o.save_matrix, _taken(table, indices, o.rows), table.names if o.rows else result["names"])
    text = json.dumps(_plain(result), indent=1, allow_nan=False) + "\n"
    if o.output is None:
        sys.stdout.write(text)
    else:
        with written(o.output) as partial:
            partial.write_text(text)


def as_select_wants(A: Any, method: str) -> Any:
    """A, in memory where the method cannot do with passes over it."""
    kind = passes.kind_of(A)
    if kind in (None, "mapped") or method in passes.METHODS or method not in cssp.METHODS:
        return A
    return A.compute() if kind == "dask" else A.toarray()


def _taken(table: Table, indices: np.ndarray, rows: bool) -> np.ndarray:
    """The chosen columns, or rows, as a dense array."""
    B = table.A[indices] if rows else table.A[:, indices]
    if hasattr(B, "toarray"):
        B = B.toarray()
    return np.asarray(B)


def _weights(path: str, n: int) -> np.ndarray:
    """One number per column; a file of one row or one column."""
    A = read(path).A
    w = np.asarray(A.toarray() if hasattr(A, "toarray") else A)
    if w.size != n or max(w.shape, default=0) != n:
        raise ArgumentError(f"--weights {path} has shape {w.shape}: {n} numbers, one per column, are wanted")
    return w.reshape(n)


def _listed(argument: str, text: str | None, names: list[str] | None) -> list[int] | None:
    if text is None:
        return None
    found = []
    for word in text.split(","):
        if names is not None and word in names:
            found.append(names.index(word))
        elif word.strip().lstrip("-").isdigit():
            found.append(int(word))
        else:
            raise ArgumentError(f"--{argument} {word}: a column number or a name of the header is wanted")
    return found


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ArgumentError(f"--option {text}: NAME=VALUE is wanted, such as f=1.5")
    if name in ("k", "method", "tol", "weights", "include", "exclude", "valid", "deficient", "rng", "target"):
        raise ArgumentError(f"--option {text}: {name!r} is no option of a method")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _methods(o: argparse.Namespace) -> None:
    rows = [("method", "draws", "theorem", "summary")]
    rows += [
        (
            row.name,
            "" if row.deterministic else "yes",
            row.guarantee.source if row.guarantee else "",
            row.summary,
        )
        for row in cssp.METHODS.values()
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for row in rows:
        print("  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]]).rstrip())


def _plain(x: Any) -> Any:
    """Numbers JSON knows; infinities as words."""
    if isinstance(x, dict):
        return {str(name): _plain(value) for name, value in x.items()}
    if isinstance(x, (list, tuple)):
        return [_plain(value) for value in x]
    if isinstance(x, np.generic):
        x = x.item()
    if isinstance(x, float) and not math.isfinite(x):
        return str(x)
    return str(x) if isinstance(x, Path) else x


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *where: Any
) -> None:
    print(f"cssp: warning: {' '.join(str(message).split())}", file=sys.stderr)
