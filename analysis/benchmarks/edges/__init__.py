"""Hostile inputs on every method and on peer routines: ``python -m analysis edges``.

Each routine works in a process of its own, so that one that crashes or hangs costs a cell and not the table. What
comes back is judged against exact rational arithmetic on the stored entries: the chosen columns are distinct, nothing
is NaN, pivots are the pivots of that rule, the error is within the method's theorem, what is reported (errors, rank,
warnings) is true, and input that means nothing is refused in words that say why. A peer that is not installed is
shown as such (``make peers``).
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from analysis.benchmarks.edges.cases import CASES, Case
from analysis.benchmarks.edges.judge import OK, REFUSED, Verdict, fails, judge
from analysis.benchmarks.edges.routines import OURS, PEERS, SECONDS, Routine, answers


def table(
    routines: Iterable[Routine], cases: list[Case], seconds: float = SECONDS
) -> dict[str, list[Verdict]]:
    """Return the verdict of every routine on every case."""
    found = {}
    for routine in routines:
        replies = answers(routine, cases, seconds)
        named = {case.name: reply for case, reply in zip(cases, replies, strict=True)}
        found[routine.name] = [
            judge(c, routine, r, named.get(c.like)) for c, r in zip(cases, replies, strict=True)
        ]
    return found


def summary(found: dict[str, list[Verdict]], cases: list[Case]) -> list[list[str]]:
    """Return the header and a row a case: one cell for all our methods, which names those that fail, then the peers."""
    ours = [routine.name for routine in OURS if routine.name in found]
    peers = [name for name in found if name not in ours]
    rows = [["input", "cssp, every method", *peers]]
    for i, case in enumerate(cases):
        bad = [f"{name[5:]} {found[name][i]}" for name in ours if fails(case, found[name][i])]
        good = REFUSED if case.senseless else OK
        rows.append([case.name, "; ".join(bad) or good, *(str(found[name][i]) for name in peers)])
    return rows


def _versions() -> str:
    """Return the distributions behind the routines."""
    names = metadata.packages_distributions()
    needed = ["numpy", *dict.fromkeys(routine.needs for routine in PEERS)]
    return ", ".join(f"{names[n][0]} {metadata.version(names[n][0])}" for n in needed if n in names)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("--method", nargs="+", help="only these of our methods")
    parser.add_argument("--ours", action="store_true", help="without the peers")
    parser.add_argument("--out", type=Path, default=Path("out/edges"))


def main(arguments: argparse.Namespace) -> int:
    """Print the table, write ``edges.csv`` and ``edges.md``; 1 where a cell of ours fails."""
    methods, out = arguments.method, arguments.out
    known = [routine.method for routine in OURS]
    unknown = set(methods or ()) - set(known)
    if unknown:
        print(f"unknown methods {sorted(unknown)}; choose from {known}", file=sys.stderr)
        return 2
    ours = [routine for routine in OURS if methods is None or routine.method in methods]
    found = table([*ours, *([] if arguments.ours else PEERS)], CASES)
    rows = summary(found, CASES)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "edges.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["input", *found])
        writer.writerows([case.name, *(str(v[i]) for v in found.values())] for i, case in enumerate(CASES))
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    (out / "edges.md").write_text("\n".join([*lines, "", f"Versions: {_versions()}."]) + "\n")
    failing = sum(fails(c, found[r.name][i]) for r in ours for i, c in enumerate(CASES))
    print(f"\n{len(ours)} methods x {len(CASES)} inputs: {failing} failing cells; written to {out}/edges.csv")
    return int(failing > 0)
