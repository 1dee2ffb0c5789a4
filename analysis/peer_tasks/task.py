"""What a task is, how it is measured, and its table."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from analysis.benchmarks import timing

__all__ = ["Row", "Task", "measure", "script", "table"]

SEEDS = 10


@dataclass(frozen=True)
class Task:
    """One task: runs by name, the peer's first; each takes a seed and returns what `result` judges."""

    title: str
    text: str
    page: str
    measure: str
    runs: dict[str, Callable[[int], Any]]
    result: Callable[[Any], float]
    random: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True)
class Row:
    """What a run gave."""

    task: str
    run: str
    result: float
    milliseconds: float
    ratio: str | None
    same: bool


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


def script(tasks: list[Task], repeats: int = 7) -> None:
    """Print the table of these tasks alone."""
    print(table(tasks, [row for task in tasks for row in measure(task, repeats)]))
