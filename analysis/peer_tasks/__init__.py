"""``python -m analysis tasks``: what other libraries show on their own pages, done by them and by `cssp`, side by side.

Each module is one script (``python -m analysis.peer_tasks.cur``): it makes `Task` records, whose runs take turns in one process.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
from importlib import metadata
from pathlib import Path

from analysis.peer_tasks.task import Row, Task, measure, table

__all__ = ["MODULES", "Row", "Task", "main", "measure", "table"]

MODULES = ("cur", "sensors", "unsupervised", "nystrom", "collinear", "interpolative", "groups")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("--names", nargs="+", help=f"only these: {' '.join(MODULES)}")
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--docs", type=Path, help="put the page into this folder, too")
    parser.add_argument("--out", type=Path, default=Path("out/tasks"))


def main(arguments: argparse.Namespace) -> int:
    """Run the tasks, print the table, write it with the rows to ``out`` and the page to ``docs``."""
    names, repeats, docs, out = arguments.names, arguments.repeats, arguments.docs, arguments.out
    tasks: list[Task] = []
    for name in names or MODULES:
        try:
            tasks += importlib.import_module(f"{__name__}.{name}").tasks()
        except ImportError as reason:
            print(f"{name} is left out: {reason} (make peers)")
    rows = [row for task in tasks for row in measure(task, repeats)]
    text = table(tasks, rows)
    print(text)
    out.mkdir(parents=True, exist_ok=True)
    (out / "tasks.md").write_text(text)
    (out / "tasks.json").write_text(json.dumps([row.__dict__ for row in rows], indent=1))
    if docs is not None:
        (docs / "peer_tasks.md").write_text(f"{_head(repeats)}\n{text}")
    return 0


def _head(repeats: int) -> str:
    peers = (
        "numpy",
        "scipy",
        "scikit-learn",
        "skmatter",
        "python-sensors",
        "fastcan",
        "statsmodels",
        "patsy",
        "mlxtend",
    )
    installed = {name: _version(name) for name in peers}
    versions = ", ".join(f"{name} {version}" for name, version in installed.items() if version)
    return (
        "# Peers' own tasks\n\n"
        "Tasks that other libraries show on their own pages, done by them and by `cssp` on the same data in one process. Runs take "
        f'turns ({repeats} each); times are medians, and "times faster" is the peer\'s time over ours within each turn, with an interval '
        "of 95 %; on a busy machine only these ratios can be trusted. Small matrices: what is timed is also what a call costs. "
        f"{datetime.date.today()}, {versions}. `make peers`, then `python -m analysis tasks --docs docs`.\n"
    )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
