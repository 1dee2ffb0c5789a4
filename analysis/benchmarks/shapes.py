"""Tall and wide matrices: every method with its error and its certificate, as ratios to the least that has to be done.

That is one QR decomposition of a tall matrix, in blocks of rows and without Q, and one choice by `residual` of a wide one. Each
method runs in a fresh process, and what it is compared with runs there after it. Times are those of the processor, of all
threads together: other programs on the machine do not count. Memory is the rise of the high-water mark over the matrix itself.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg

from analysis.benchmarks.memory import peak
from analysis.benchmarks.outofcore import isolated
from analysis.benchmarks.tables import table

__all__ = ["main", "matrix", "measured"]

#: Name of the peer, which has neither an error nor a certificate to ask for.
SCIPY = "scipy.linalg.qr"

#: Rank of what is not noise, and rows or columns that are made at a time.
RANK, STEP = 60, 10_000

Row = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument(
        "--size", nargs=3, type=int, action="append", metavar=("M", "N", "K"), help="may be repeated"
    )
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float64")
    parser.add_argument("--methods", nargs="+", help="all but exact by default")


def main(arguments: argparse.Namespace) -> int:
    """Print a table for each size."""
    from cssp import METHODS

    names = arguments.methods or [SCIPY, *(name for name in METHODS if name != "exact")]
    for m, n, k in arguments.size or [(1_000_000, 200, 30), (100, 1_000_000, 50)]:
        print(f"\n{m} x {n}, {arguments.dtype}, k = {k}", flush=True)
        lines = [["method", "select", "+ error", "+ certificate", "unit, s", "memory, × A"]]
        for name in names:
            row = isolated(measured, name, m, n, k, arguments.dtype)
            lines.append([name, *("died",) * 5] if "died" in row else _line(name, row))
            print(*lines[-1], flush=True)
        print(table(lines), flush=True)
    return 0


def matrix(m: int, n: int, dtype: str) -> np.ndarray:
    """Return a matrix of decaying spectrum and noise, made without a copy of it."""
    rng = np.random.default_rng(0)
    A, r = np.empty((m, n), dtype=dtype), min(m, n, RANK)
    X = A if m > n else A.T
    right = 0.9 ** np.arange(r)[:, None] * rng.standard_normal((r, X.shape[1]))
    for a in range(0, len(X), STEP):
        rows = X[a : a + STEP]
        rows[:] = rng.standard_normal((len(rows), r)) @ right + 0.01 * rng.standard_normal(rows.shape)
    return A


def measured(name: str, m: int, n: int, k: int, dtype: str) -> Row:
    """Return seconds after each step and of the unit, and the rise of the high-water mark over the matrix, both of one method."""
    import cssp
    from cssp.linalg import triangle

    warnings.simplefilter("ignore")
    corner = matrix(2000, 20, dtype)
    cssp.select(
        corner, 3, name if name != SCIPY else "residual", rng=0
    ).certificate()  # loads what is loaded late
    A = matrix(m, n, dtype)
    before, steps = peak(), []
    begun = time.process_time()

    def done() -> None:
        steps.append(time.process_time() - begun)

    if name == SCIPY:
        scipy.linalg.qr(A, mode="r", pivoting=True, check_finite=False)
        done()
    else:
        chosen = cssp.select(A, k, name, rng=0)
        done()
        for ask in (lambda: chosen.relative_error, chosen.certificate):
            ask()
            done()
    risen = peak() - before
    unit: Callable[[], Any] = (lambda: triangle(A)) if m > n else (lambda: cssp.select(A, k))
    begun = time.process_time()
    unit()
    return {"steps": steps, "unit": time.process_time() - begun, "memory": risen / A.nbytes}


def _line(name: str, row: Row) -> list[str]:
    ratios = [f"{seconds / row['unit']:.2f}" for seconds in row["steps"]]
    return [name, *ratios, *[""] * (3 - len(ratios)), f"{row['unit']:.2f}", f"{row['memory']:.2f}"]
