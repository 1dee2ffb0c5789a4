"""What a task is, and a row of its table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Row", "Task", "script"]


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


def script(tasks: list[Task], repeats: int = 7) -> None:
    """Print the table of these tasks alone."""
    from analysis.peer_tasks import measure, table

    print(table(tasks, [row for task in tasks for row in measure(task, repeats)]))
