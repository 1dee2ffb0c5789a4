"""Progress of long work, as a bar or as lines, and a time limit.

A `Report` is called with the steps done and the steps there are. Problems carry one, `silent` unless `cssp.select` was
asked for ``progress``; methods call it once per pick, swap, node or pass.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cssp.errors import ArgumentError, TimeLimitWarning, warn

__all__ = ["UNLIMITED", "Deadline", "Report", "reporting", "silent"]

#: ``report(done, total)``; the total is None where nobody knows it.
Report = Callable[[int, int | None], None]

#: Seconds between two lines where tqdm is not installed.
PAUSE = 2.0


def silent(done: int, total: int | None) -> None:
    """Report nothing."""


@contextmanager
def reporting(progress: Any, what: str) -> Iterator[Report]:
    """Yield the report that ``progress`` of `cssp.select` asks for; ``what`` names the work."""
    if progress is True:
        bar = _Bar(what)
        try:
            yield bar
        finally:
            bar.close()
    elif progress is False or progress is None:
        yield silent
    elif callable(progress):
        yield progress
    else:
        raise ArgumentError(
            f"progress = {progress!r}: expected True, False or a function of (done, total), "
            f"got {type(progress).__name__}; progress=True shows a bar"
        )


class _Bar:
    """A bar of tqdm on stderr, or a line every `PAUSE` seconds where that is not installed."""

    def __init__(self, what: str) -> None:
        self.what, self.last = what, -math.inf
        self.bar: Any = None
        try:
            from tqdm import tqdm
        except ImportError:
            self.tqdm = None
        else:
            self.tqdm = tqdm

    def __call__(self, done: int, total: int | None) -> None:
        if self.tqdm is None:
            self._line(done, total)
            return
        if self.bar is None or done < self.bar.n or total != self.bar.total:  # the next piece of work
            self.close()
            self.bar = self.tqdm(desc=self.what, total=total, leave=False, file=sys.stderr)
        self.bar.update(done - self.bar.n)
        if done == total:
            self.close()

    def _line(self, done: int, total: int | None) -> None:
        now = time.monotonic()
        if now - self.last >= PAUSE or done == total:
            self.last = now
            print(f"{self.what}: {done}{'' if total is None else f' of {total}'}", file=sys.stderr)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


class Deadline:
    """The end of a limit of time, of which the user is warned once.

    Parameters
    ----------
    time_limit : float or None
        Seconds from now; None is no limit.
    unproven : str
        What is not proven of an answer that was cut short.
    """

    def __init__(self, time_limit: Any, unproven: str) -> None:
        if time_limit is not None and (
            isinstance(time_limit, bool) or not isinstance(time_limit, (int, float)) or not time_limit > 0
        ):
            raise ArgumentError(
                f"time_limit = {time_limit!r}: expected seconds above 0 or None, got {type(time_limit).__name__}; "
                "leave it out for no limit"
            )
        self.seconds, self.unproven, self.passed = time_limit, unproven, False
        self.end = math.inf if time_limit is None else time.monotonic() + time_limit

    def over(self) -> bool:
        """Return whether the time is up; the first time a `TimeLimitWarning` says so."""
        if not self.passed and time.monotonic() >= self.end:
            self.passed = True
            warn(f"time_limit = {self.seconds} s is over: {self.unproven}", TimeLimitWarning)
        return self.passed


#: No limit.
UNLIMITED = Deadline(None, "")
