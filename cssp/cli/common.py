"""What the commands share: the file is read, columns are found by name, an answer is written as JSON, errors are put in the words of the command line."""

from __future__ import annotations

import argparse
import contextlib
import csv
import inspect
import json
import math
import platform
import re
import sys
from collections.abc import Iterator
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

__all__ = [
    "answer",
    "as_flags",
    "as_method_wants",
    "explained",
    "labels",
    "listed",
    "method_options",
    "numbers",
    "numbers_per_column",
    "opened",
    "origin",
    "picked",
    "save_matrix",
]


@contextlib.contextmanager
def opened(o: argparse.Namespace, **inputs: str | None) -> Iterator[Table]:
    """Yield the matrix of the command line; outputs that would overwrite it, another input or each other are refused before."""
    for name, path in inputs.items():
        if path == o.data == "-":
            raise ArgumentError(f"--{name} -: standard input is the data already; put the {name} into a file")
    outputs = [getattr(o, name, None) for name in ("output", "save_matrix", "save_factors")]
    for i, path in enumerate(outputs):
        refuse_overwrite(path, o.data, *inputs.values(), *outputs[:i])
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
            print(f"cssp: note: {' '.join(note.split())}", file=sys.stderr)
        yield table


@contextlib.contextmanager
def explained(o: argparse.Namespace, table: Table) -> Iterator[None]:
    """Put what the library refuses in the words of the command line."""
    try:
        yield
    except CsspError as reason:
        raise type(reason)(_in_words(str(reason), o, table)) from None
    except Exception as reason:
        if passes.kind_of(table.A) != "dask":  # which is read only now
            raise
        what = str(reason) or type(reason).__name__
        raise ArgumentError(f"{o.data} cannot be read: {what}") from None


def answer(o: argparse.Namespace, result: dict[str, Any]) -> None:
    """Write the result as JSON, on stdout or into the file of -o."""
    text = json.dumps(_plain(result), indent=1, allow_nan=False) + "\n"
    if o.output is None:
        sys.stdout.write(text)
    else:
        with written(o.output) as partial:
            partial.write_text(text)


def picked(o: argparse.Namespace, table: Table, indices: Any) -> dict[str, Any]:
    """Return the chosen columns, or rows, as places among those used, by name, and as places in the file."""
    places = np.asarray(host(indices), dtype=np.int64)
    names = None if by_row(o) else table.names
    return {
        "indices": places.tolist(),
        "names": None if names is None else [names[j] for j in places],
        "numbers": candidates(o, table)[places].tolist(),
    }


def origin(o: argparse.Namespace, table: Table) -> dict[str, Any]:
    """Return what the answer is about: the file, what is used of it, versions."""
    return {
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


def by_row(o: argparse.Namespace) -> bool:
    """Return whether rows are chosen."""
    return getattr(o, "axis", "columns") == "rows"


def as_method_wants(A: Any, method: str) -> Any:
    """Return A, in memory where the method cannot do with passes over it."""
    if passes.kind_of(A) not in ("dask", "sparse") or method in passes.METHODS or method not in cssp.METHODS:
        return A
    return in_memory(A)


def in_memory(A: Any) -> Any:
    """Return a dense array in memory."""
    return A.compute() if passes.kind_of(A) == "dask" else A.toarray() if hasattr(A, "toarray") else A


def save_matrix(o: argparse.Namespace, table: Table, indices: list[int]) -> None:
    """Write the chosen columns, or rows, as a dense array, where that is asked for."""
    if o.save_matrix:
        B = table.A[np.asarray(indices)] if by_row(o) else table.A[:, np.asarray(indices)]
        names = table.names
        if names is not None and not by_row(o):
            names = [names[j] for j in indices]
        write(o.save_matrix, np.asarray(in_memory(B)), names)


def candidates(o: argparse.Namespace, table: Table) -> np.ndarray:
    """Return the numbers in the file of the columns, or rows, that may be chosen."""
    if not by_row(o):
        return table.columns
    return np.arange(int(table.A.shape[0])) if table.rows is None else table.rows


def listed(argument: str, o: argparse.Namespace, table: Table) -> list[int] | None:
    """Return the places in the matrix of the columns, or rows, that are named."""
    values, numbers = getattr(o, argument), candidates(o, table)
    if values is None:
        return None
    last = int(numbers.max(initial=-1))
    if by_row(o):
        return within(argument, chosen(argument, values, None, last + 1, "row"), numbers, "row")
    names = None
    if table.names is not None:
        names = [""] * (last + 1)
        for j, name in zip(numbers, table.names, strict=True):
            names[j] = name
    return within(argument, chosen(argument, values, names, last + 1), numbers)


def numbers_per_column(argument: str, path: str, o: argparse.Namespace, table: Table) -> np.ndarray:
    """Return one number per column: of a file of one row or one column, or of a text with lines NAME,NUMBER."""
    n = len(candidates(o, table))
    named = _by_name(argument, path, o, table)
    if named is not None:
        try:
            return np.array([float(x) for x in named])
        except ValueError as reason:
            raise ArgumentError(f"--{argument} {path}: {reason}; expected lines NAME,NUMBER") from None
    w = numbers(argument, path)
    if w.size != n or max(w.shape, default=0) != n:
        raise ArgumentError(f"--{argument} {path} has shape {w.shape}: expected {n} numbers, one per column")
    return w.reshape(n)


def numbers(argument: str, path: str) -> np.ndarray:
    """Return the numbers in a file, those of a text (.txt) between commas or blanks, as `numpy.savetxt` writes them."""
    try:
        if path.endswith(".txt"):
            with Path(path).open(encoding="utf-8-sig") as text:
                lines = [line.replace(",", " ") for line in text]
            return np.loadtxt(lines, ndmin=2)
        with read(path) as table:
            return np.array(in_memory(table.A))
    except ArgumentError as reason:
        raise ArgumentError(f"--{argument} {reason}".replace("; or pass --format", "")) from None
    except (OSError, ValueError) as reason:
        raise ArgumentError(f"--{argument} {path}: expected lines of numbers; {reason}") from None


def labels(argument: str, path: str, o: argparse.Namespace, table: Table) -> list[str]:
    """Return one label per column, of a text with one label in a line, or with lines NAME,LABEL."""
    named = _by_name(argument, path, o, table)
    if named is not None:
        return named
    found, n = [line[0] for line in _lines(argument, path) if len(line) == 1], len(candidates(o, table))
    if len(found) != n:
        raise ArgumentError(
            f"--{argument} {path} has {len(found)} labels: expected {n}, one in a line for each column used, or lines NAME,LABEL"
        )
    return found


def _by_name(argument: str, path: str, o: argparse.Namespace, table: Table) -> list[str] | None:
    """Return what stands beside the name of each column in a text whose lines have two cells; None for any other file."""
    if by_row(o) or table.names is None or not path.endswith((".csv", ".tsv", ".txt")):
        return None
    lines = _lines(argument, path)
    if any(len(line) != 2 for line in lines):
        return None
    beside = dict(lines)
    for name in table.names:
        if name not in beside:
            raise ArgumentError(
                f"--{argument} {path} has no line for the column {name!r}: expected one for each"
            )
    return [beside[name] for name in table.names]


def _lines(argument: str, path: str) -> list[list[str]]:
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, delimiter="\t" if path.endswith(".tsv") else ",")
            return [[cell.strip() for cell in line] for line in lines if any(map(str.strip, line))]
    except FileNotFoundError:
        raise ArgumentError(f"--{argument} {path}: no such file") from None
    except OSError as reason:
        raise ArgumentError(f"--{argument} {path} cannot be read: {reason.strerror}") from None
    except UnicodeError:
        raise ArgumentError(f"--{argument} {path}: expected a text with one label in a line") from None


def method_options(texts: list[str]) -> dict[str, Any]:
    """Return the method's own options, given as NAME=VALUE."""
    return dict(map(_option, texts))


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
    text = re.sub(r"^rows = ", "-r ", text)
    text = re.sub(
        r"\b(deficient|tol_each|tol_max|tol|rng|method|budget|core) ?= ?('[^']*'|[^\s:;,)]+)",
        lambda m: f"--{m[1].replace(chr(95), chr(45))} {m[2].strip(chr(39))}",
        text,
    )
    text = text.replace("scale='norm' (or weights=1/norms)", "--scale").replace(", or tol,", ", or --tol,")
    return text.replace("neither k nor tol is given", "neither k nor tol is given (-k, --tol)")


def _in_words(text: str, o: argparse.Namespace, table: Table) -> str:
    """Return an error of `select`, with the names of columns and advice that the command line can follow."""
    bad = re.match(r"A has (NaN|Inf) in column (\d+)", text)
    if bad is None:
        return as_flags(re.sub(r"^A has", f"{o.data} has", text))
    j = int(bad[2])
    where = f"row {candidates(o, table)[j]} (counted from 0)" if by_row(o) else table.label(j)
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
