"""``python -m analysis guarantees``: every method against every statement about it, on matrices made to refute them.

Iterates the rows of `cssp.METHODS`: their own factors, `statements.STATEMENTS` and `statements.UNIVERSAL` on runs of
`cssp.select`; statements in expectation and `laws.IDENTITIES` on the exact law of the method's code; `conditions.SETTINGS`,
groups, constraints and costs, against brute force. Prints the worst score of each, at most 1 where it holds, and writes it to a
CSV file.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from analysis.theory.conditions import SETTINGS, cases
from analysis.theory.instances import Run, chosen, instances
from analysis.theory.laws import IDENTITIES, Expectation, promise_in_expectation
from analysis.theory.statements import IN_P_NORM, STATEMENTS, UNIVERSAL, Value, promise
from cssp import METHODS

#: What a score may exceed 1 by: rounding of the score itself.
TOLERANCE = 1e-9

#: Identities in expectation must hold to this relative distance.
IDENTITY = 1e-10

BAR = "{l_bar}{bar}| {n:.1f}/{total} methods [{elapsed}<{remaining}]"

#: Options tried besides the defaults.
VARIANTS: dict[str, list[dict]] = {
    "strong_rrqr": [{"f": 1.0}, {"f": 1.2}, {"f": 10.0}],
    "bss": [{"rank": 1}],
    "barrier": [{"rank": 1}],
    "leverage_top": [{"rank": 1}],
    "greedy": [{"p": 1}, {"p": 8}, {"p": math.inf}],
    "local_search": [
        {"start": "osinsky"},
        {"start": "uniform"},
        {"p": 8},
        {"p": math.inf, "start": "greedy"},
    ],
    "adaptive": [{"batch": 1}, {"batch": 2}],
    "random_pivot": [{"accelerated": True}],
    "blockwise_pivot": [{"block": 1}, {"block": 2}],
}

#: Options for which the law of the code has too many decisions to be enumerated, and is that of the default.
SAME_LAW = [("random_pivot", {"accelerated": True})]


Tick = Callable[[int, int], None]


def _silent(done: int, total: int) -> None:
    """Print no progress bar."""


@dataclass
class Line:
    """One method × statement."""

    method: str
    options: str
    statement: str
    source: str
    holds: str
    instances: int = 0
    beyond: int = 0  # instances the statement does not cover
    worst: float = 0.0
    where: str = ""
    limit: float = 1 + TOLERANCE
    violations: list[str] = field(default_factory=list)

    def enter(self, value: Value, where: str) -> None:
        """Enter a value, found at ``where``, and record it as a violation where it exceeds the limit."""
        if value is None:
            self.beyond += 1
            return
        self.instances += 1
        if not value <= self.worst:
            self.worst, self.where = float(value), where
        if not value <= self.limit:
            self.violations.append(f"{where}: {value:.6g}")

    @property
    def holds_up(self) -> bool:
        """Whether no value violates the statement."""
        return not self.violations


def examine(
    method: str,
    count: int,
    seed: int = 0,
    *,
    variants: int | None = None,
    draws: int = 400,
    patience: int = 8,
    tick: Tick = _silent,
) -> list[Line]:
    """Return the lines of one method.

    Parameters
    ----------
    count : int
        Instances each statement is to meet. Those it does not cover are not counted, and after
        ``patience·count`` in all the search for more ends.
    variants : int, optional
        The same for options that are not the defaults; ``count`` by default.
    draws : int
        Draws an instance where an expectation has no exact law.
    tick : callable
        Called now and then with ``(done, all)``, in instances.
    """
    lines: list[Line] = []
    others = count if variants is None else variants
    plan = [({}, count), *((options, others) for options in VARIANTS.get(method, []))]
    done, total = 0, sum(number for _, number in plan)
    for options, number in plan:
        lines += _runs(method, options, number, seed, patience, lambda i, d=done: tick(d + i, total))
        if (method, options) not in SAME_LAW:
            lines += _expectations(method, options, number, seed + 1, draws, patience)
        done += number
        tick(done, total)
    return lines


def _words(options: dict) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items())


def _factors(method: str, holds: str, options: dict) -> list[str]:
    """Return the norms in which the row promises something under these options."""
    law = METHODS[method].guarantee
    if law is None or law.holds != holds:
        return []
    promises = {norm: getattr(law, norm) for norm in ("frobenius", "spectral")}
    return [n for n, f in promises.items() if f and any(f(9, 9, k, **options) is not None for k in (1, 3))]


def _runs(
    method: str, options: dict, count: int, seed: int, patience: int, tick: Callable[[int], None]
) -> list[Line]:
    law = METHODS[method].guarantee
    claims = [
        (f"{norm}: {law.text}", law.source, promise(norm)) for norm in _factors(method, "every run", options)
    ]
    claims += (IN_P_NORM if "p" in options else STATEMENTS).get(method, []) + UNIVERSAL
    lines = [Line(method, _words(options), text, source, "every run") for text, source, _ in claims]
    for i, at in enumerate(itertools.islice(instances(seed), patience * count)):
        if min(line.instances for line in lines) >= count:
            break
        if not at.has_rank_k or (method == "bss" and options.get("rank", 0) >= at.k):
            for line in lines:
                line.enter(None, at.name)
            continue
        S, short = chosen(at, method, options, rng=i)
        run = Run(at, S, method, options, rng=i)
        for line, (_, _, score) in zip(lines, claims, strict=True):
            if line.instances < count:
                line.enter(score(run), at.name)
        if short and METHODS[method].deterministic and at.s[at.k - 1] > 1e-9 * at.s[0]:
            lines[0].violations.append(f"{at.name}: called rank-deficient")
        tick(min(line.instances for line in lines))
    return lines


def _expectations(method: str, options: dict, count: int, seed: int, draws: int, patience: int) -> list[Line]:
    law, claims, lines = METHODS[method].guarantee, [], []
    for norm in _factors(method, "expectation", options):
        claims.append(promise_in_expectation(norm))
        lines.append(Line(method, _words(options), f"{norm}: {law.text}", law.source, "expectation"))
    for identity in IDENTITIES if not options else []:
        if identity.method == method:
            claims.append(_distance(identity))
            line = Line(method, "", identity.statement, identity.source, "identity", limit=IDENTITY)
            lines.append(line)
    if not lines:
        return []
    averaged = False
    for at in itertools.islice(instances(seed, largest=5, most=2), patience * count):
        if min(line.instances for line in lines) >= count:
            break
        e = Expectation(at, method, options, draws) if at.has_rank_k else None
        for line, score in zip(lines, claims, strict=True):
            if line.instances < count:
                line.enter(None if e is None else score(e), at.name)
        averaged = averaged or (e is not None and "sample" in vars(e))
    if averaged:
        for line in lines:
            line.holds = f"expectation, {draws} draws"
    return lines


def under_conditions(methods: list[str], count: int, seed: int = 0, patience: int = 8) -> list[Line]:
    """Return the lines of groups, constraints and costs with these methods."""
    settings = [s for s in SETTINGS if s.method in methods]
    lines = [Line(s.method, s.conditions, s.statement, s.source, "every run") for s in settings]
    for case in itertools.islice(cases(seed), patience * count if lines else 0):
        for line, setting in zip(lines, settings, strict=True):
            if line.instances < count:
                line.enter(setting.score(case), case.name)
        if min(line.instances for line in lines) >= count:
            break
    return lines


def _distance(identity):
    """Return the relative distance of the two sides."""

    def score(e: Expectation) -> Value:
        sides = identity.sides(e)
        return None if sides is None else abs(sides[0] - sides[1]) / sides[1]

    return score


def table(lines: list[Line]) -> str:
    """Return the lines as text, in the order of METHODS."""
    head = ("method", "statement", "holds", "instances", "worst", "at")
    body = [
        (
            f"{line.method}({line.options})" if line.options else line.method,
            line.statement,
            line.holds,
            str(line.instances),
            f"{line.worst:.3g}" if line.limit < 1 else f"{line.worst:.6f}",
            line.where + ("" if line.holds_up else f"   VIOLATED {len(line.violations)}x"),
        )
        for line in lines
    ]
    width = [max(len(row[c]) for row in [head, *body]) for c in range(len(head) - 1)]
    width[1] = min(width[1], 70)
    return "\n".join(
        "  ".join([*(x[:w].ljust(w) for x, w in zip(row, width, strict=False)), row[-1]]).rstrip()
        for row in [head, *body]
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("--instances", type=int, default=2000, help="instances a statement")
    parser.add_argument("--draws", type=int, default=400, help="draws where no exact law is to be had")
    parser.add_argument("--method", nargs="+", help="only these methods")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/guarantees"))


def main(arguments: argparse.Namespace) -> int:
    """Examine, print and write ``guarantees.csv``; 1 where a statement is violated."""
    names, out = arguments.method or list(METHODS), arguments.out
    lines: list[Line] = []
    with tqdm(total=len(names), smoothing=0, bar_format=BAR) as progress:
        for finished, name in enumerate(names):

            def tick(done: int, total: int, finished=finished) -> None:
                progress.n = finished + done / total
                progress.refresh() if done == total else progress.update(0)

            progress.set_description(name)
            lines += examine(name, arguments.instances, arguments.seed, draws=arguments.draws, tick=tick)
    lines += under_conditions(names, arguments.instances, arguments.seed)
    out.mkdir(parents=True, exist_ok=True)
    with (out / "guarantees.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            (
                "method",
                "options",
                "statement",
                "source",
                "holds",
                "instances",
                "beyond",
                "worst",
                "limit",
                "where",
                "violations",
            )
        )
        for x in lines:
            writer.writerow(
                (
                    x.method,
                    x.options,
                    x.statement,
                    x.source,
                    x.holds,
                    x.instances,
                    x.beyond,
                    repr(x.worst),
                    x.limit,
                    x.where,
                    len(x.violations),
                )
            )
    print(table(lines))
    broken = [line for line in lines if not line.holds_up]
    for line in broken:
        print(f"\n{line.method} {line.options}: {line.statement}", *line.violations[:10], sep="\n  ")
    print(
        f"\n{len(lines)} statements about {len(names)} methods, {sum(x.instances for x in lines)} instances, "
        f"{len(broken)} violated; rows: {out / 'guarantees.csv'}"
    )
    return int(bool(broken))
