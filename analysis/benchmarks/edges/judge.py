"""Verdicts, from exact rational arithmetic on the stored entries."""

from __future__ import annotations

import copy
import math
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np

from analysis.benchmarks.edges.cases import Case
from analysis.benchmarks.edges.routines import Answer, Routine
from cssp import METHODS, RankDeficientWarning

OK, SILENT, REFUSED, OBSCURE = "ok", "silent", "refused", "obscure error"
WRONG, NAN = "WRONG", "NaN"


@dataclass(frozen=True)
class Verdict:
    """What a cell of the table says: its kind and, where something is wrong, the reason."""

    kind: str
    note: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.note}" if self.note else self.kind


class Exact:
    """Residual Gram matrix of the columns of A in rational arithmetic; `take` deflates one column."""

    def __init__(self, A: np.ndarray) -> None:
        X = [[Fraction(float(x)) for x in column] for column in A.T]
        self.G = [[sum((x * y for x, y in zip(a, b, strict=True)), Fraction(0)) for b in X] for a in X]

    @property
    def norms2(self) -> list[Fraction]:
        """Squared residual norms."""
        return [self.G[j][j] for j in range(len(self.G))]

    @property
    def gains(self) -> list[Fraction]:
        """Decrease of the squared error by each column."""
        return [sum((x * x for x in g), Fraction(0)) / g[j] if g[j] else g[j] for j, g in enumerate(self.G)]

    def take(self, j: int) -> bool:
        """Project column j off; False where it was dependent."""
        d, g = self.G[j][j], self.G[j]
        if d:
            self.G = [
                [x - row[j] * y / d for x, y in zip(row, g, strict=True)] if row[j] else row for row in self.G
            ]
        return d != 0

    def rank(self) -> int:
        """Return the rank of what is left."""
        rest = copy.copy(self)
        return sum(rest.take(j) for j in range(len(self.G)))


@cache
def _exact(case: Case) -> list[tuple[Exact, int]]:
    """Return the exact state and rank of each item of a case, weights included."""
    weights = np.ones(case.items.shape[-1]) if case.weights is None else case.weights
    states = [Exact(A * weights) for A in case.items.astype(float)]
    return [(state, state.rank()) for state in states]


def judge(case: Case, routine: Routine, reply: Answer, plain: Answer | None = None) -> Verdict:
    """Return the verdict on a cell; `plain` is the routine's answer to ``case.like``."""
    if reply.status:
        return Verdict(reply.status)
    if reply.raised:
        clear = any(re.search(rf"\b{word}s?\b", reply.raised.lower()) for word in case.words)
        ours = not routine.method or reply.raised.startswith("CsspError")
        return Verdict(REFUSED if clear and ours else OBSCURE, "" if clear else reply.raised.split(":")[0])
    if case.senseless:
        return Verdict(WRONG, _accepted(case, reply))
    if len(reply.picks) != len(case.items):
        return Verdict(WRONG, f"{len(reply.picks)} answers to {len(case.items)} matrices")
    if not reply.finite:
        return Verdict(NAN)
    if case.like and plain is not None and plain.picks and plain.picks != reply.picks:
        return Verdict(WRONG, f"not the columns of '{case.like}'")
    verdicts = [_judge_item(case, routine, reply, i) for i in range(len(case.items))]
    return min(verdicts, key=lambda v: (WRONG, SILENT, OK).index(v.kind))


def _accepted(case: Case, reply: Answer) -> str:
    bad = {int(j) for A in case.items for j in np.flatnonzero(~np.isfinite(A).all(axis=0))}
    taken = bad & {j for picks in reply.picks for j in picks}
    return f"picks column {min(taken)}" if taken else "accepted"


def _judge_item(case: Case, routine: Routine, reply: Answer, i: int) -> Verdict:
    picks, (m, n), k = reply.picks[i], case.A.shape[-2:], case.k
    if len(picks) != k:
        return Verdict(WRONG, f"{len(picks)} of {k} columns")
    if len(set(picks)) < k:
        return Verdict(WRONG, "duplicates")
    if not all(0 <= j < n for j in picks):
        return Verdict(WRONG, "no such column")
    slack = 64 * max(m, n) * _eps(case)
    (begin, rank), independent = _exact(case)[i], 0
    state = copy.copy(begin)
    whole, top = sum(state.norms2), max(state.norms2)
    for t, j in enumerate(picks):
        wrong = _wrong_pivot(routine, state, picks[:t], j, slack, top, whole)
        if wrong:
            return Verdict(WRONG, f"pick {t + 1} is {wrong}")
        independent += state.take(j)
    error = math.sqrt(sum(state.norms2) / whole) if whole else 0.0
    if routine.method:
        return _judge_report(case, routine, reply, i, independent, error)
    if independent < min(k, rank):
        return Verdict(WRONG, "dependent columns")
    return Verdict(OK) if rank >= k or reply.warned else Verdict(SILENT)


def _eps(case: Case) -> float:
    """Return the unit of rounding of the work: single precision for half and single precision input."""
    single = case.A.dtype in (np.float16, np.float32)
    return float(np.finfo(np.float32 if single else np.float64).eps)


def _wrong_pivot(routine: Routine, state: Exact, before, j: int, slack: float, top, whole) -> str:
    """Return what is wrong with taking column j next by the routine's rule; empty where nothing is."""
    if not routine.rule or not whole:
        scores = [Fraction(0)] * len(state.G)
    else:
        scores = state.norms2 if routine.rule == "residual" else state.gains
    best = max(scores)
    if best == 0:
        lowest = min(set(range(len(scores))) - set(before))
        return f"{j}, not the lowest unused, {lowest}" if routine.lowest and j != lowest else ""
    if routine.rule == "residual":
        short = math.sqrt(best / top) - math.sqrt(scores[j] / top)
    else:
        short = float((best - scores[j]) / whole)
    if short > slack:
        return f"{j}, not {scores.index(best)}"
    if routine.lowest and scores[j] == best:
        tied = [i for i, score in enumerate(scores) if score == best]
        if routine.rule != "residual":  # equal gains go to the larger residual
            longest = max(tied, key=lambda i: state.norms2[i])
            if math.sqrt(state.norms2[longest] / top) - math.sqrt(state.norms2[j] / top) > slack:
                return f"{j} in a tie with {longest}, which is longer"
            tied = [i for i in tied if state.norms2[i] == state.norms2[j]]
        if tied[0] != j:
            return f"{j} in a tie with {tied[0]}"
    return ""


def _judge_report(
    case: Case, routine: Routine, reply: Answer, i: int, independent: int, error: float
) -> Verdict:
    """Return the cells of cssp's routines: rank, error, warning and theorem."""
    (m, n), k, law = case.A.shape[-2:], case.k, METHODS[routine.method].guarantee
    ranks = [rank for _, rank in _exact(case)]
    rounding = 30 * max(m, n) * _eps(case)
    if reply.ranks is None or reply.errors is None:
        return Verdict(WRONG, "no rank or error reported")
    if reply.ranks[i] != independent:
        return Verdict(WRONG, f"rank {reply.ranks[i]} reported, {independent} true")
    if not abs(reply.errors[i] - error) <= 1e-15 * max(m, n) + 1e-6 * error:
        return Verdict(WRONG, f"error {reply.errors[i]:.3g} reported, {error:.3g} true")
    warned = any(RankDeficientWarning.__name__ in w for w in reply.warned)
    meant = METHODS[routine.method].oversamples and not warned  # dependent columns are chosen on purpose
    if warned != (min(ranks) < k) and not meant:
        return Verdict(WRONG, "warning without reason" if warned else "no warning")
    if any(RankDeficientWarning.__name__ not in w for w in reply.warned):
        return Verdict(WRONG, f"stray {reply.warned[0].split(':')[0]}")
    factor = law.frobenius(m, n, min(k, m, n)) if law and law.frobenius else None
    if factor is None:
        return Verdict(OK)
    if ranks[i] <= k:  # the optimum is 0, and a bound in expectation is then one on every run
        return Verdict(OK) if independent == ranks[i] else Verdict(WRONG, "rank missed")
    A = case.items[i].astype(float) * (1 if case.weights is None else case.weights)
    r = law.rank(m, n, k) if law.rank else k
    s = np.linalg.svd(A / np.abs(A).max(), compute_uv=False)
    bound = math.sqrt(factor * np.sum(s[r:] ** 2) / np.sum(s**2)) + rounding
    within = law.holds != "every run" or error <= bound
    return Verdict(OK) if within else Verdict(WRONG, "bound broken")


def fails(case: Case, verdict: Verdict) -> bool:
    """Return whether a cell of ours is not what docs/contract.md promises."""
    return verdict.kind != (REFUSED if case.senseless else OK)
