"""A verdict, the numbers that it rests on, and what all rules compute from the resamples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from analysis.study.bootstrap import RESAMPLES, Draws, Interval, interval, simultaneous
from analysis.study.results import Results

#: Budgets below are tight: there pruners differ.
TIGHT = 0.15
#: Accuracy that counts as no difference.
MARGIN = 0.01
YES, NO, PARTLY, OPEN, UNASKED = "yes", "no", "partly", "not settled", "not asked"


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
    """The resamples of a study, of each of its strata, and what all rules compute from them."""

    def __init__(self, results: Results, resamples: int = RESAMPLES):
        self.results = results
        self.draws = Draws(results, resamples=resamples)
        pairs = results.strata()
        self.parts = {
            f"{model}, {family}": Draws(results.only(model, family), resamples=resamples)
            for model, family in (pairs if len(pairs) > 1 else [])
        }
        self.tight = [k for k in results.keeps if k <= TIGHT] or results.keeps[-1:]

    def has(self, *arms: str) -> bool:
        """Return whether these arms were run at all tight budgets."""
        return all(self.results.index(a, k) is not None for a in arms for k in self.tight)

    def number(self, name: str, statistic: Callable[[Draws], np.ndarray]) -> Number:
        """Return a statistic with its interval, over all strata and in each."""
        parts = {part: interval(statistic(d)) for part, d in self.parts.items()}
        return Number(name, interval(statistic(self.draws)), parts)

    def numbers(self, statistics: dict[str, Callable[[Draws], np.ndarray]]) -> list[Number]:
        """Return several numbers, with intervals over all strata that hold simultaneously."""
        values = np.stack([f(self.draws) for f in statistics.values()], 1)
        return [
            Number(name, whole, {part: interval(f(d)) for part, d in self.parts.items()})
            for (name, f), whole in zip(statistics.items(), simultaneous(values), strict=True)
        ]


def points(value: Interval) -> str:
    """Return a difference of accuracies, in points."""
    return value.written("{:+.1f}", 100)
