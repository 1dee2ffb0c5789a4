"""``python -m analysis tasks``: what other libraries show on their own pages, done by them and by `cssp`, side by side.

Each module is one script (``python -m analysis.peer_tasks.cur``): it makes `Task` records, whose runs take turns in one process.
"""

from __future__ import annotations

import importlib
import json
import warnings
from importlib import metadata
from pathlib import Path

import numpy as np

from analysis.benchmarks import timing
from analysis.peer_tasks.task import Row, Task

__all__ = ["MODULES", "Row", "Task", "main", "measure", "table"]

MODULES = ("cur", "sensors", "unsupervised", "nystrom")
SEEDS = 10


def measure(task: Task, repeats: int, seeds: int = SEEDS) -> list[Row]:
    """Return the results, averaged over seeds where a run draws, and times, in turn; the first run is the peer's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of peers' dependencies
        results, picks = {}, {}
        for name, run in task.runs.items():
            draws = seeds if name in task.random else 1
            found = [run(seed) for seed in range(draws)]  # also warms up
            results[name] = float(np.mean([task.result(x) for x in found]))
            picks[name] = found[0]
        seconds = timing.alternate(
            {name: lambda run=run: run(0) for name, run in task.runs.items()},
            dict.fromkeys(task.runs, repeats),
            np.random.default_rng(0),
        )
    peer = next(iter(task.runs))
    return [
        Row(
            task=task.title,
            run=name,
            result=results[name],
            milliseconds=1e3 * timing.median(seconds[name]).value,
            ratio=None if name == peer else timing.ratio(seconds[peer], seconds[name]).text(),
            same=name != peer and _same(picks[name], picks[peer]),
        )
        for name in task.runs
    ]


def _same(x: object, y: object) -> bool:
    """Return whether two runs chose the same set."""
    return all(isinstance(z, np.ndarray) for z in (x, y)) and set(x) == set(y)  # type: ignore[call-overload]


def table(tasks: list[Task], rows: list[Row]) -> str:
    """Return Markdown."""
    lines = []
    for task in tasks:
        lines += [
            f"## {task.title}",
            "",
            f"{task.text} Result: {task.measure}. Written after [the peer's page]({task.page}).",
            "",
            "| run | result | time | times faster |",
            "|---|---|---|---|",
        ]
        for row in (r for r in rows if r.task == task.title):
            same = " (the same choice)" if row.same else ""
            lines.append(
                f"| {row.run}{same} | {row.result:.4g} | {row.milliseconds:.3g} ms | {row.ratio or '–'} |"
            )
        lines.append("")
    return "\n".join(lines)


def main(out: Path, docs: Path | None, repeats: int, names: list[str] | None) -> int:
    """Run the tasks, print the table, write it with the rows to ``out`` and the page to ``docs``."""
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
    peers = ("scikit-learn", "skmatter", "python-sensors", "fastcan")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in peers)
    return (
        "# Peers' own tasks\n\n"
        "Tasks that other libraries show on their own pages, done by them and by `cssp` on the same data in one process. Runs take "
        f'turns ({repeats} each); times are medians, and "times faster" is the peer\'s time over ours within each turn, with an interval '
        "of 95 %; on a busy machine only these ratios can be trusted. Small matrices: what is timed is also what a call costs. "
        f"{versions}. `make peers`, then `python -m analysis tasks --docs docs`.\n"
    )
