"""Times that can be compared on a noisy machine: implementations take turns, and a ratio is formed within each repeat."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Interval", "alternate", "median", "once", "ratio"]


@dataclass(frozen=True)
class Interval:
    """A median with an interval of order statistics; low = high = value where there is one observation."""

    value: float
    low: float
    high: float

    def text(self, digits: int = 2, unit: float = 1.0) -> str:
        """Return the value [low, high], in multiples of the unit."""
        value, low, high = (_number(x / unit, digits) for x in (self.value, self.low, self.high))
        return value if self.low == self.high else f"{value} [{low}, {high}]"


def _number(x: float, digits: int) -> str:
    """Write a number with so many significant digits, without an exponent and without losing those before the point."""
    if not math.isfinite(x) or x == 0:
        return f"{x:g}"
    places = max(0, digits - 1 - math.floor(math.log10(abs(x))))
    return f"{x:,.{places}f}"


def median(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the median and the narrowest symmetric pair of order statistics that covers it at the confidence.

    Distribution-free: the j-th smallest of n lies above the median with probability P(Bin(n, 1/2) < j). Fewer than six
    observations do not reach 95 %; then the pair is their range.
    """
    x = np.sort(np.asarray(values, dtype=float))
    n, j = x.size, 1
    outside = 2.0 ** (1 - n)  # of the pair (j, n + 1 - j)
    while j < n // 2:
        more = outside + math.comb(n, j) * 2.0 ** (1 - n)
        if more > 1 - confidence:
            break
        outside, j = more, j + 1
    return Interval(float(np.median(x)), float(x[j - 1]), float(x[n - j]))


def ratio(times: Sequence[float], floor: Sequence[float]) -> Interval:
    """Return the median of times over floor, repeat by repeat; a single time is divided by the floor's median."""
    r = len(times)
    if 1 < r <= len(floor):
        return median(np.divide(times, floor[:r]).tolist())
    return median((np.asarray(times) / np.median(floor)).tolist())


def once(run: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds of one call, and its result."""
    start = time.perf_counter()
    found = run()
    return time.perf_counter() - start, found


def alternate(
    runs: dict[str, Callable[[], Any]],
    repeats: dict[str, int],
    rng: np.random.Generator,
) -> dict[str, list[float]]:
    """Return the seconds of each run: in repeat i all runs with more than i repeats take their turn, in an order drawn anew."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(max(repeats.values(), default=0)):
        due = [name for name in runs if repeats[name] > i]
        gc.collect()
        gc.disable()
        try:
            for place in rng.permutation(len(due)):
                seconds[due[place]].append(once(runs[due[place]])[0])
        finally:
            gc.enable()
    return seconds
