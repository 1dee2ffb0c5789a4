"""Selection on the CPU, side by side: ``python -m analysis bench``.

In one process the implementations take turns within every repeat, in an order drawn anew, among them floors: k
products Aᵀq, one Gram product AᵀA, and that with k steps of pivoted Cholesky. Ratios are formed within a repeat; intervals are order statistics of at least
95 % coverage where there are six repeats. Who is slow gets fewer repeats; who is foreseen to take longer than the
budget, from its time on a part of the same matrix, is not run and the table says so, as it does for a library that
is not installed (``make peers``).

Written to OUT: ``times.csv`` (appended a size and kind at a time; what is there is not run again), ``memory.csv``,
``growth.csv``, ``imports.json``, ``machine.json``, ``bench.md`` and the figures.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analysis.benchmarks import charts, check, growth, imports, machine, memory, tables, tokens
from analysis.benchmarks.implementations import IMPLEMENTATIONS, Implementation
from analysis.benchmarks.inputs import KINDS, QUICK, SIZES, Size, matrix
from analysis.benchmarks.rows import Row, append, read
from analysis.benchmarks.timing import alternate, once

#: Seconds a single run may take; less where it says little that is new: other kinds of matrices, order, batches.
BUDGET, BRIEF = 45.0, 4.0

#: Seconds an implementation, and a floor, may take for all its repeats at one size and kind.
SHARE, FLOOR_SHARE = 3.0, 24.0

#: Columns and picks of the part from which the time of the whole is foreseen.
PART = (512, 32)


def cell(
    size: Size,
    kind: str,
    repeats: int,
    implementations: Sequence[Implementation] | None = None,
    budget: float = BUDGET,
    share: float = SHARE,
) -> list[Row]:
    """Time the implementations on one matrix."""
    A = matrix(kind, size)
    runs: dict[str, Callable[[], Any]] = {}
    plan: dict[str, int] = {}
    long: dict[str, float] = {}
    notes: dict[str, str] = {}
    errors: dict[str, float] = {}
    entered = [c for c in implementations or IMPLEMENTATIONS if c.suits(size)]
    for c in entered:
        notes[c.name], run = _enter(c, size, A, budget)
        if run is None:
            continue
        try:
            took, picks = once(run)
        except Exception as reason:  # whatever a peer raises is the finding
            notes[c.name] = f"failed: {type(reason).__name__}: {reason}".splitlines()[0]
            continue
        if c.group != "floor":
            errors[c.name] = relative_error(A if A.ndim == 2 else A[0], _first_picks(picks, A.ndim))
        limit = FLOOR_SHARE if c.group == "floor" else share
        if took > limit:  # warming up is nothing beside it
            long[c.name] = took
            continue
        runs[c.name] = run
        plan[c.name] = max(1, min(repeats, int(limit / took)))
    seconds = alternate(runs, plan, np.random.default_rng(0))
    seconds |= {name: [took] for name, took in long.items()}
    return [
        Row(
            size.name,
            kind,
            c.name,
            c.group,
            tuple(seconds.get(c.name, ())),
            errors.get(c.name, float("nan")),
            notes[c.name],
        )
        for c in entered
    ]


def _enter(
    c: Implementation, size: Size, A: np.ndarray, budget: float
) -> tuple[str, Callable[[], Any] | None]:
    """Return the run, or a note that says why it does not take part."""
    if not c.installed():
        return "not installed", None
    if c.group == "floor":
        return "", c.prepare(A, size.k)
    try:
        expected = foreseen(c, size, A)
        if expected > budget:
            return f"not run: about {expected:.0f} s foreseen, more than {budget:g} s", None
        return "", c.prepare(A, size.k)
    except Exception as reason:
        return f"failed: {type(reason).__name__}: {reason}".splitlines()[0], None


def foreseen(c: Implementation, size: Size, A: np.ndarray) -> float:
    """Return the seconds that a run will take, from one on a part of the matrix and the cost to leading order."""
    n, k = min(size.n, PART[0]), min(size.k, PART[1])
    part = np.array((A if A.ndim == 2 else A[0])[:, :n], order=size.order)
    run = c.prepare(part if A.ndim == 2 else part[None], k)
    run()  # imports, threads
    took, _ = once(run)
    return took * c.cost(size.m, size.n, size.k) / c.cost(size.m, n, k) * size.batch


def _first_picks(picks: Any, ndim: int) -> np.ndarray:
    """Return the picks of the only or first item; peers answer with a list."""
    return np.asarray(picks[0] if isinstance(picks, list) or ndim == 3 or np.ndim(picks) > 1 else picks)


def relative_error(A: np.ndarray, picks: np.ndarray) -> float:
    """Return ‖A − P_S A‖ / ‖A‖ in the Frobenius norm."""
    Q, _ = np.linalg.qr(A[:, picks])
    total = float(np.linalg.norm(A)) ** 2
    return float(np.sqrt(max(0.0, 1 - float(np.linalg.norm(Q.T @ A)) ** 2 / total)))


def times(out: Path, sizes: Sequence[Size], kinds: Sequence[str] | None, repeats: int | None) -> list[Row]:
    """Measure what is not in ``times.csv`` yet; all its rows."""
    path = out / "times.csv"
    done = {(row.size, row.kind) for row in read(path)}
    for size in sizes:
        for kind in kinds or size.kinds:
            if (size.name, kind) in done:
                continue
            print(f"{size.label}, {kind} ...", flush=True)
            new = kind == size.kinds[0] and size.order == "C" and size.batch == 1
            start = time.perf_counter()
            try:
                if kind in tokens.MODELS:
                    matrix(kind, size)
            except (FileNotFoundError, ImportError) as reason:
                print(f"left out: {reason}\n", flush=True)
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                rows = cell(size, kind, repeats or size.repeats, budget=BUDGET if new else BRIEF)
            append(path, rows)
            print(tables.cell(rows), f"({time.perf_counter() - start:.0f} s)\n", sep="\n", flush=True)
    return read(path)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("--quick", action="store_true", help="one size, three repeats")
    parser.add_argument(
        "--check",
        action="store_true",
        help="time small sizes again beside docs/bench.inc: 1 for a loss of 20 %%",
    )
    parser.add_argument("--sizes", nargs="+", help="only these, as 4096x576x64 or 5000x5000x500-float64")
    parser.add_argument("--kinds", nargs="+", help="only these kinds of matrices")
    parser.add_argument("--repeats", type=int, help="instead of each size's own number")
    parser.add_argument("--imports", action="store_true", help="only the time of `import cssp`")
    parser.add_argument("--docs", type=Path, help="put the table and the figures into this folder, too")
    parser.add_argument(
        "--out", type=Path, help="(default out/bench, out/bench-quick); resumes where it stopped"
    )


def main(arguments: argparse.Namespace) -> int:
    """Measure, print, write the table and the figures; 2 for a size or kind that is not known, 1 where a check finds a loss.

    Memory, growth and imports are measured where neither sizes nor kinds are chosen; what is in OUT is always shown.
    """
    sizes, kinds, repeats, quick = arguments.sizes, arguments.kinds, arguments.repeats, arguments.quick
    out = arguments.out or Path("out", "bench-quick" if quick else "bench")
    named = {size.name: size for size in SIZES}
    unknown = [s for s in sizes or () if s not in named] + [k for k in kinds or () if k not in KINDS]
    if unknown:
        print(f"unknown {unknown}; sizes are {list(named)}, kinds {list(KINDS)}", file=sys.stderr)
        return 2
    if arguments.check:
        return checked((arguments.docs or Path("docs")) / "bench.inc", repeats)
    out.mkdir(parents=True, exist_ok=True)
    if arguments.imports:
        print(tables.imports(_kept(out / "imports.json", imports.measure, anew=True)))
        return 0
    everything = not (quick or sizes or kinds)
    if quick:
        sizes, kinds, repeats = sizes or [QUICK.name], kinds or ["decay"], repeats or 3
    about = _kept(out / "machine.json", machine.measure)
    rows = times(out, [named[s] for s in sizes or named], kinds, repeats)
    if everything:
        memory.measure(out / "memory.csv", rows)
        growth.measure(out / "growth.csv")
        _kept(out / "imports.json", imports.measure)
    report(out, arguments.docs)
    print(tables.summary(rows, about))
    print(f"\nwritten to {out}: {', '.join(sorted(path.name for path in out.iterdir()))}")
    return 0


def checked(page: Path, repeats: int | None = None) -> int:
    """Time ours again at the sizes of `check.SIZES`, and return 1 where one has lost speed since the page was written, else 0."""
    sizes = [size for size in SIZES if size.name in check.SIZES]
    ours = [c for c in IMPLEMENTATIONS if c.group in ("floor", "ours")]
    rows = [
        row
        for size in sizes
        for row in cell(size, size.kinds[0], repeats or size.repeats, implementations=ours)
    ]
    found = check.changes({size.name: size.label for size in sizes}, rows, check.committed(page.read_text()))
    print(check.shown(found))
    lost = [change for change in found if change.growth > check.LOSS]
    for change in lost:
        print(f"{change.label}: {change.name} takes {change.growth:.2f} times as long as {page} says")
    if not found:
        print(f"nothing in {page} to compare with", file=sys.stderr)
    return int(bool(lost) or not found)


def report(out: Path, docs: Path | None = None) -> None:
    """Write the table and the figures of what is in the folder; copies for the docs where these are given."""
    rows, grown = read(out / "times.csv"), growth.read(out / "growth.csv")
    took, about = (_kept(out / f"{name}.json", dict) for name in ("imports", "machine"))
    text = tables.page(rows, memory.read(out / "memory.csv"), grown, took, about)
    (out / "bench.md").write_text(text.replace("FIGURES/", ""))
    drawn = [charts.comparison(rows, about, out / "bench_cpu.png")]
    drawn += [charts.growth(rows, grown, out / "bench_growth.png")] if grown else []
    if docs is not None:
        (docs / "bench.inc").write_text(text.replace("FIGURES/", "images/"))
        (docs / "images").mkdir(exist_ok=True)
        for figure in drawn:
            shutil.copy(figure, docs / "images" / figure.name)


def _kept(path: Path, measure: Callable[[], dict[str, Any]], anew: bool = False) -> dict[str, Any]:
    """Return what was measured in an earlier call, else what is measured now; nothing is not written down."""
    if path.exists() and not anew:
        return json.loads(path.read_text())
    found = measure()
    if found:
        path.write_text(json.dumps(found, indent=1) + "\n")
    return found
