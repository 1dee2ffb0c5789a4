"""A verdict, the numbers that it rests on, and what all rules compute from the resamples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from analysis.study.bootstrap import RESAMPLES, Draws, Interval, interval, simultaneous
from analysis.study.results import Results

#: Budgets below are tight: there pruners differ.
TIGHT = 0.15
#: Accuracy that counts as no difference.
MARGIN = 0.01
#: Of the intervals that a verdict looks at: six verdicts hold together (Bonferroni).
LEVEL = 1 - 0.05 / 6
YES, NO, PARTLY, OPEN, UNASKED = "yes", "no", "partly", "not settled", "not run"


@dataclass(frozen=True)
class Number:
    """One number of a verdict: what it is, its interval, and the same in every stratum."""

    name: str
    all: Interval
    strata: dict[str, Interval] = field(default_factory=dict)

    @property
    def same(self) -> list[str]:
        """Strata whose value has the sign of the whole."""
        return [part for part, one in self.strata.items() if one.value * self.all.value > 0]

    @property
    def against(self) -> list[str]:
        """Strata whose interval lies on the other side of zero."""
        away = lambda one: one.high if self.all.value > 0 else -one.low  # noqa: E731
        return [part for part, one in self.strata.items() if away(one) < 0]


@dataclass(frozen=True)
class Verdict:
    """An answer: its question, the verdict, a sentence with the number, the rule, and the numbers that it rests on.

    The first `looked_at` numbers are those that the rule looks at. `plain` says it without numbers.
    """

    question: str
    verdict: str
    statement: str
    rule: str
    numbers: tuple[Number, ...] = ()
    looked_at: int = 0
    plain: str = ""

    @property
    def agreement(self) -> list[Number]:
        """Of the numbers that the rule looks at, those that are known in strata and have a sign."""
        return [n for n in self.numbers[: self.looked_at] if n.strata and abs(n.all.value) > 0]


class Study:
    """The resamples of a study, of each of its models and strata, and what all rules compute from them."""

    def __init__(self, results: Results, resamples: int = RESAMPLES):
        self.results = results
        self.draws = Draws(results, resamples=resamples)
        pairs = results.strata()
        models = list(dict.fromkeys(model for model, _ in pairs))
        self.parts = {
            f"{model}, {family}": Draws(results.only(model, family), resamples=resamples)
            for model, family in (pairs if len(pairs) > 1 else [])
        }
        self.models = {
            model: Draws(results.only(model), resamples=resamples) if len(models) > 1 else self.draws
            for model in models
        }
        self.tight = [k for k in results.keeps if k <= TIGHT] or results.keeps[-1:]

    def has(self, *arms: str) -> bool:
        """Return whether these arms were run at a tight budget."""
        return all(any(self.results.index(a, k) is not None for k in self.tight) for a in arms)

    def number(self, name: str, statistic: Callable[[Draws], np.ndarray], within: float = np.inf) -> Number:
        """Return a statistic with its 95 % interval, over all strata and in each."""
        return Number(name, interval(statistic(self.draws), within=within), self._parts(statistic, within))

    def numbers(
        self, statistics: dict[str, Callable[[Draws], np.ndarray]], level: float = LEVEL,
        within: Sequence[float] | None = None,
    ) -> list[Number]:  # fmt: skip
        """Return several numbers, with intervals over all strata that hold simultaneously, and those of 95 % in each.

        ``within``: for each number, what its intervals are cut at.
        """
        values = np.stack([f(self.draws) for f in statistics.values()], 1)
        bounds = [np.inf] * len(statistics) if within is None else within
        bars = simultaneous(values, level, bounds)
        return [
            Number(name, whole, self._parts(f, bound))
            for (name, f), whole, bound in zip(statistics.items(), bars, bounds, strict=True)
        ]

    def _parts(self, statistic: Callable[[Draws], np.ndarray], within: float) -> dict[str, Interval]:
        found = {part: interval(statistic(d), within=within) for part, d in self.parts.items()}
        return {part: one for part, one in found.items() if np.isfinite(one.value)}


def points(value: Interval) -> str:
    """Return a difference of accuracies, in points."""
    return value.written("{:+.1f}", 100)
