"""What to keep on a user's questions: one sentence, chosen by a rule that is written beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from analysis.study.arms import FULL
from analysis.study.bootstrap import LEAST, Draws, Interval, simultaneous
from analysis.study.drawing import percent
from analysis.study.results import Cell

#: Points of right answers, as a share, that may be lost.
ALLOWED = 0.02


@dataclass(frozen=True)
class Recommendation:
    """A budget and pruner, what they cost and save, and whether the loss is certainly small enough.

    Attributes
    ----------
    cell : tuple of (arm, keep)
    lost : Interval
        Share of right answers lost against all tokens; a negative one is a gain.
    saved : float
        Median seconds saved a question; NaN where it was not measured.
    sure : bool
        Whether the loss is below `ALLOWED` at the upper end of its interval.
    compared : int
        Cells it was chosen from.
    images : int
        Images that were asked about.
    """

    cell: Cell
    lost: Interval
    saved: float
    sure: bool
    compared: int
    images: int

    @property
    def sentence(self) -> str:
        """What to do, in one sentence; what is not certain is said first."""
        arm, keep = self.cell
        choice = f"{percent(keep)} with {arm}: {_lost(self.lost)}{_saved(self.saved)}."
        if self.sure:
            return f"Keep {choice}"
        if not np.isfinite(self.lost.high):
            return (
                f"Too few images to recommend a pruner: {self.images}, and intervals need {LEAST}. "
                f"The smallest loss so far is at {choice}"
            )
        return f"No pruner is certain to lose less than {100 * ALLOWED:g} points. The nearest keeps {choice}"

    @property
    def rule(self) -> str:
        """How it was chosen."""
        return (
            f"Of the {self.compared} pairs of a pruner and a budget, those whose loss against all tokens is below {100 * ALLOWED:g} points at "
            "the upper end of its interval; of these the one that keeps fewest tokens, and of equal budgets the one that loses least. Where "
            "there is none, the pair whose upper end is lowest. The intervals, from resampling images, hold for all pairs together with 95 %, so "
            "that picking the best one does not flatter it; where no answer changed, the upper end is 3 / images. Time is the median, over "
            "questions, of the whole answer with all tokens minus that with this pruner, on the machine that answered."
        )


def recommend(draws: Draws, saved: Mapping[Cell, float] | None = None) -> Recommendation | None:
    """Return what to keep, chosen by `Recommendation.rule`; None where no budget was run on all images, or not with all tokens.

    ``saved`` gives the seconds that each cell saves.
    """
    results = draws.results
    full = results.index(FULL, 1.0)
    cells = [i for i, (_, keep) in enumerate(results.cells) if 0 < keep < 1 and results.ran[i].all()]
    if full is None or not cells:
        return None
    lost = np.stack([draws.mean(lambda s, i=i: s.gap(full, i)) for i in cells], 1)
    images = len({unit[1:] for unit in results.units})
    found = []
    for i, bar in zip(cells, simultaneous(lost), strict=True):
        if (results.score[i] == results.score[full]).all() and np.isfinite(bar.high):
            bar = Interval(bar.value, bar.low, max(bar.high, 3 / images))
        found.append((results.cells[i], bar))
    sure = [one for one in found if one[1].high < ALLOWED]
    if sure:
        cell, bar = min(sure, key=lambda one: (one[0][1], one[1].value))
    else:
        cell, bar = min(found, key=lambda one: (_worst(one[1]), one[0][1]))
    seconds = (saved or {}).get(cell, float("nan"))
    return Recommendation(cell, bar, seconds, bool(sure), len(found), images)


def _worst(bar: Interval) -> float:
    return bar.high if np.isfinite(bar.high) else bar.value


def _lost(bar: Interval) -> str:
    """Return the loss in points, as a gain where it is one."""
    value, low, high = (100 * v for v in (bar.value, bar.low, bar.high))
    verb = "loses"
    if round(value, 1) < 0:
        verb, value, low, high = "gains", -value, -high, -low
    ends = f"[{_signed(low)}, {_signed(high)}]" if np.isfinite([low, high]).all() else "(no interval)"
    return f"{verb} {abs(value):.1f} points {ends}"


def _signed(value: float) -> str:
    return f"{round(value, 1) + 0.0:.1f}".replace("-", "−")


def _saved(seconds: float) -> str:
    if not np.isfinite(seconds):
        return ""
    amount = f"{1000 * abs(seconds):.3g}"
    verb = "saves" if seconds >= 0 else "takes"
    more = "" if seconds >= 0 else "more "
    return f", {verb} {amount} ms {more}a question (measured on this machine)"
