"""Exact laws of the sampling methods, by running their own code on every sequence of random decisions; expectations.

Each random decision of a method passes through ``cssp.sampling``: `draw`, `coin`, `coins`. Here these are
replaced by a script that takes one branch after another and multiplies their probabilities, until the tree of
decisions is exhausted. The result is the law of the code, not of the paper, exact to rounding. Only for small n.
Where it is out of reach, an expectation is replaced by the lower end of an interval for the mean of independent draws
that misses it with probability `MISS` (Maurer and Pontil's empirical Bernstein inequality).
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from analysis.theory.instances import EPS, Instance
from analysis.theory.statements import Value
from cssp import METHODS, bounds, sampling
from cssp.problem import Problem

__all__ = ["IDENTITIES", "Expectation", "Identity", "NotEnumerable", "exact_law", "promise_in_expectation"]

#: Probability, per instance, with which an averaged expectation may be reported too large.
MISS = 1e-9


class NotEnumerable(Exception):
    """The method drew from its generator directly, or its tree of decisions is too large."""


class _NoGenerator:
    def __getattr__(self, name):
        raise NotEnumerable(f"the method calls rng.{name}")


class _Script:
    """Decisions of one run: those of the prefix as prescribed, then always the first branch."""

    def __init__(self, prefix):
        self.prefix, self.taken, self.alternatives, self.probability = prefix, [], [], 1.0

    def _choose(self, outcomes):
        """Take one of [(value, probability > 0), ...]."""
        at = len(self.taken)
        chosen = self.prefix[at] if at < len(self.prefix) else 0
        self.taken.append(chosen)
        self.alternatives.append(range(1, len(outcomes)) if at >= len(self.prefix) else ())
        value, probability = outcomes[chosen]
        self.probability *= probability
        return value

    def draw(self, weights, rng):
        total = np.sum(weights)
        return self._choose([(int(j), weights[j] / total) for j in np.flatnonzero(weights > 0)])

    def coin(self, probability, rng):
        p = min(1.0, float(probability))
        return self._choose([(value, q) for value, q in ((True, p), (False, 1 - p)) if q > 0])

    def coins(self, probability, rng):
        return np.array([self.coin(p, rng) for p in probability])

    def proposals(self, weights, b, rng):
        return np.array([self.draw(weights, rng) for _ in range(b)])


@contextmanager
def _scripted(script):
    names = ("draw", "coin", "coins", "proposals")
    before = {name: getattr(sampling, name) for name in names}
    try:
        for name in names:
            setattr(sampling, name, getattr(script, name))
        yield
    finally:
        for name, function in before.items():
            setattr(sampling, name, function)


def exact_law(function, problem, limit=20_000, **options):
    """Return the probability of each set of columns that ``function(problem, **options)`` may return.

    Parameters
    ----------
    function : callable
        Of a row of `cssp.METHODS`.
    problem : cssp.problem.Problem
    limit : int
        Runs at most.

    Returns
    -------
    dict from sorted tuple of int to float

    Raises
    ------
    NotEnumerable
    """
    problem = replace(problem, rng=_NoGenerator())
    law = defaultdict(float)
    open_ = [()]
    for run in itertools.count(1):
        if run > limit:
            raise NotEnumerable(f"more than {limit} sequences of decisions")
        script = _Script(open_.pop())
        with _scripted(script):
            picks = function(problem, **options)
        law[tuple(sorted(int(j) for j in picks.indices))] += script.probability
        for at, others in enumerate(script.alternatives):
            open_ += [(*script.taken[:at], other) for other in others]
        if not open_:
            return dict(law)


@dataclass(frozen=True)
class Expectation:
    """Means over the runs of one method on one instance; nothing is run before a mean is asked for."""

    at: Instance
    method: str
    options: dict
    draws: int = 200

    @cached_property
    def law(self) -> dict[tuple[int, ...], float] | None:
        """The exact law, None where it cannot be enumerated."""
        function = METHODS[self.method].function
        try:
            return exact_law(function, problem(self.at), limit=2_000, **self.options)
        except NotEnumerable:
            return None

    @cached_property
    def sample(self) -> list[tuple[int, ...]]:
        """Independent runs."""
        function, rng = METHODS[self.method].function, np.random.default_rng(self.at.n * 1000 + self.at.k)
        p = problem(self.at, rng)
        return [tuple(sorted(int(j) for j in function(p, **self.options).indices)) for _ in range(self.draws)]

    def mean(self, value: Callable[[tuple[int, ...]], float]) -> float:
        """Return E value(S), or a lower confidence limit for a value between 0 and ‖X‖_F²."""
        if self.law is not None:
            return sum(p * value(S) for S, p in self.law.items())
        known = {S: value(S) for S in set(self.sample)}
        found = [known[S] for S in self.sample]
        log, spread = math.log(2 / MISS), float(np.sum(self.at.X**2))
        width = math.sqrt(2 * np.var(found, ddof=1) * log / self.draws) + 7 * spread * log / (
            3 * (self.draws - 1)
        )
        return max(0.0, float(np.mean(found)) - width)


def problem(at: Instance, rng: np.random.Generator | None = None) -> Problem:
    """Return the instance as methods receive it."""
    return Problem(
        A=at.X, k=at.k, candidates=np.ones(at.n, dtype=bool), rng=rng or np.random.default_rng(0), width=at.n
    )


def promise_in_expectation(norm: str) -> Callable[[Expectation], Value]:
    """Return the row's own factor, of a statement in expectation."""

    def evaluate(e: Expectation) -> Value:
        at, law = e.at, METHODS[e.method].guarantee
        size = (at.m, at.n, at.k)
        factor = getattr(law, norm)(*size, **e.options)
        if factor is None:
            return None
        r = at.k if law.rank is None else law.rank(*size, **e.options)
        if norm == "frobenius":
            mean, best = e.mean(at.F), at.optimum(r)
        else:
            mean, best = e.mean(at.T), at.s[r] ** 2 if r < at.n else 0.0
        # A probability is right to a few ε; what it multiplies may be as large as ‖X‖_F².
        rounding = at.n * at.k * EPS * float(np.sum(at.X**2))
        return at.score(max(0.0, mean - rounding), factor * best)

    return evaluate


@dataclass(frozen=True)
class Identity:
    """An equality in expectation: ``(expectation) -> (from the code's law, exact value)``, None beyond its reach."""

    method: str
    statement: str
    source: str
    sides: Callable[[Expectation], tuple[float, float] | None]


Sides = tuple[float, float] | None


def _tame(at: Instance) -> bool:
    """Return whether columns are independent enough for ten digits of an expectation."""
    return bool(at.s[at.k - 1] > 1e-2 * at.s[0])


def _subsets(at: Instance) -> list[tuple[int, ...]]:
    return list(itertools.combinations(range(at.n), at.k))


def _is_law(e: Expectation, weight: list[float]) -> Sides:
    """Return 1 + Σ |P(S) - weight(S)/Σ weight| and 1."""
    if e.law is None:
        return None
    w = np.array(weight) / np.sum(weight)
    return 1 + float(np.sum(np.abs([e.law.get(S, 0.0) for S in _subsets(e.at)] - w))), 1.0


def _in_units(at: Instance, mean: float, exact: float) -> Sides:
    """Return both sides in the unit of ‖X‖_F², in which an error of zero can be compared."""
    total = float(np.sum(at.X**2))
    return mean + total, exact + total


def _volume_error(e: Expectation) -> Sides:
    at = e.at
    if not _tame(at):
        return None
    if at.k == at.n:
        return _in_units(at, e.mean(at.F), 0.0)
    e_k = np.exp(bounds.elementary_symmetric((at.s / at.s[0]) ** 2, at.k + 1))
    return _in_units(at, e.mean(at.F), (at.k + 1) * e_k[-1] / e_k[-2] * at.s[0] ** 2)


def _volume_law(e: Expectation) -> Sides:
    return _is_law(e, [e.at.volume2(S) for S in _subsets(e.at)]) if _tame(e.at) else None


def _minors(at: Instance) -> np.ndarray:
    return np.array([np.linalg.det(at.V_k[list(J)]) for J in _subsets(at)])


def _generic(at: Instance) -> bool:
    """Return whether V_k is determined and no k x k minor of it is near zero."""
    return at.has_gap and _tame(at) and float(np.abs(_minors(at)).min()) > 1e-2


def _arp_law(e: Expectation) -> Sides:
    return _is_law(e, list(_minors(e.at) ** 2)) if e.at.has_gap and _tame(e.at) else None


def _arp_inverse(e: Expectation) -> Sides:
    at = e.at
    if not _generic(at):
        return None
    return e.mean(lambda J: float(np.sum(np.linalg.inv(at.V_k[list(J)]) ** 2))), bounds.arp_inverse(
        at.n, at.k
    )


def _arp_error(e: Expectation) -> Sides:
    at = e.at
    if not _generic(at) or at.k >= min(at.m, at.n) or at.s[at.k] < 1e-3 * at.s[0]:
        return None
    return e.mean(at.oblique), (at.k + 1) * at.optimum(at.k)


def _one_after_another(e: Expectation) -> Sides:
    """Return the definition, as a recursion over residual matrices."""

    def naive(E: np.ndarray, k: int) -> float:
        d = np.sum(E**2, axis=0)
        if k == 0:
            return float(d.sum())
        total = 0.0
        for j in np.flatnonzero(d > 0):
            q = E[:, j] / math.sqrt(d[j])
            R = E - np.outer(q, q @ E)
            R = R - np.outer(q, q @ R)
            R[:, j] = 0
            total += d[j] / d.sum() * naive(R, k - 1)
        return total

    return _in_units(e.at, e.mean(e.at.F), naive(e.at.X, e.at.k)) if _tame(e.at) else None


def _one_column(e: Expectation) -> Sides:
    if e.at.k > 1:
        return None
    s2 = e.at.s**2
    return _in_units(e.at, e.mean(e.at.F), float(np.sum(s2) - np.sum(s2**2) / np.sum(s2)))


_ONE = ("one column: E F = Σs² - Σs⁴/Σs²", "frieze2004", _one_column)
_PIVOTS = ("E F is that of the definition", "deshpande2006b", _one_after_another)
IDENTITIES = [
    Identity("volume", "E F = (k + 1) e_{k+1}/e_k", "deshpande2006", _volume_error),
    Identity("volume", "P(S) = det(A_SᵀA_S)/e_k", "deshpande2006", _volume_law),
    Identity("volume", *_ONE),
    Identity("arp", "P(J) = det(V_J)²", "cortinovis2024", _arp_law),
    Identity("arp", "E‖V_J⁻¹‖_F² = k (n - k + 1)", "cortinovis2024", _arp_inverse),
    Identity("arp", "E‖A - A_J V_J⁻ᵀVᵀ‖_F² = (k + 1) OPT_k", "cortinovis2024", _arp_error),
    Identity("random_pivot", *_PIVOTS),
    Identity("random_pivot", *_ONE),
    Identity("adaptive", *_PIVOTS),
]
