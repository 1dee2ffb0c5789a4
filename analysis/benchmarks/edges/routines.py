"""What is tried: every row of METHODS and the peers, each in a process of its own."""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from analysis.benchmarks import peers
from analysis.benchmarks.edges.cases import Case
from cssp import METHODS, CsspError, select

CRASH, HANG, ABSENT, NONE = "CRASH", "HANG", "not installed", "–"
SECONDS = 60.0  # a cell that takes longer hangs
START = 300.0  # and so does a library that takes longer to import


@dataclass(frozen=True)
class Answer:
    """What a routine did with a case; one entry an item of the batch."""

    picks: tuple[tuple[int, ...], ...] = ()
    finite: bool = True
    ranks: tuple[int, ...] | None = None
    errors: tuple[float, ...] | None = None  # relative, in the Frobenius norm
    warned: tuple[str, ...] = ()
    raised: str = ""
    status: str = ""  # CRASH, HANG, ABSENT or NONE where there is no answer


@dataclass(frozen=True)
class Routine:
    """Something that selects: ``run(case)`` gives picks, numbers to be finite, and what it reports of itself."""

    name: str
    run: Callable[[Case], Answer]
    needs: str = "numpy"
    rule: str = ""  # "residual" or "gain": picks can be checked one by one
    lowest: bool = False  # an exact tie goes to the lowest index, surplus picks are the lowest unused ones
    batches: bool = False
    weights: str = ""  # "target", or "costs" that are added to the scores
    method: str = ""  # row of METHODS; empty for a peer

    def offers(self, case: Case) -> bool:
        """Return whether the routine has the arguments that the case needs."""
        weighted = (
            case.weights is None or self.weights == "target" or (self.weights == "costs" and case.costs)
        )
        return weighted and (self.batches or case.A.ndim == 2)


def _ours(case: Case, method: str) -> Answer:
    s = select(case.A, case.k, method, weights=case.weights, rng=0)
    rows = np.atleast_2d(s.indices)
    floats = (s.coefficients(), s.reconstruct())
    with np.errstate(over="ignore"):
        finite = all(np.all(np.isfinite(x)) for x in floats)
    return Answer(
        picks=_as_picks(rows),
        finite=bool(finite and np.all(np.isfinite(s.relative_error))),
        ranks=tuple(np.atleast_1d(s.rank).tolist()),
        errors=tuple(np.atleast_1d(s.relative_error).tolist()),
    )


def _peer(case: Case, function: Callable[..., tuple[Any, Any]]) -> Answer:
    given = (case.A, case.k) if case.weights is None else (case.A, case.k, case.weights)
    picks, numbers = function(*given)
    return Answer(
        picks=_as_picks(np.atleast_2d(np.asarray(picks))), finite=bool(np.all(np.isfinite(numbers)))
    )


def _as_picks(rows: np.ndarray) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(j) for j in row) for row in rows)


_RULES = {"residual": "residual", "pivoted_qr": "residual", "greedy": "gain"}
OURS = [
    Routine(
        name=f"cssp {name}",
        run=partial(_ours, method=name),
        rule=_RULES.get(name, ""),
        lowest=name in ("residual", "greedy"),
        batches=True,
        weights="target",
        method=name,
    )
    for name in METHODS
]
PEERS = [
    Routine("scipy qr", partial(_peer, function=peers.scipy_qr), "scipy", rule="residual"),
    Routine("scipy interp_decomp", partial(_peer, function=peers.interp_decomp), "scipy", rule="residual"),
    Routine("scikit-matter CUR", partial(_peer, function=peers.cur), "skmatter"),
    Routine(
        "pysensors CCQR", partial(_peer, function=peers.ccqr), "pysensors", rule="residual", weights="costs"
    ),
    Routine("fastcan", partial(_peer, function=peers.fastcan), "fastcan"),
    Routine(
        "linear_operator",
        partial(_peer, function=peers.pivoted_cholesky),
        "linear_operator",
        rule="residual",
        batches=True,
    ),
]


def answer(routine: Routine, case: Case) -> Answer:
    """Run one cell here, its warnings and exceptions caught."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            found = routine.run(case)
        except Exception as reason:  # whatever a peer raises is the finding
            ours = isinstance(reason, CsspError)
            found = Answer(raised=f"{'CsspError' if ours else type(reason).__name__}: {reason}")
    about = [w for w in heard if not issubclass(w.category, (DeprecationWarning, FutureWarning))]
    said = tuple(sorted({f"{w.category.__name__}: {w.message}" for w in about}))
    return replace(found, warned=said)


class Worker:
    """A process that answers for one routine, started again after a crash or a hang."""

    def __init__(self, routine: Routine, seconds: float) -> None:
        self.routine, self.seconds = routine, seconds
        self.process: Any = None

    def ask(self, case: Case) -> Answer:
        """Return the routine's answer, or CRASH or HANG."""
        try:
            if self.process is None:
                self._start()
            self.pipe.send(case)
            return self._receive(self.seconds)
        except (EOFError, ConnectionError):
            self.stop()
            return Answer(status=CRASH)
        except TimeoutError:
            self.stop()
            return Answer(status=HANG)

    def stop(self) -> None:
        """End the process, at work or not."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.pipe.close()
        self.process = None

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, self.routine), daemon=True)
        self.process.start()
        theirs.close()
        self._receive(START)

    def _receive(self, seconds: float) -> Any:
        if not self.pipe.poll(seconds):
            raise TimeoutError
        return self.pipe.recv()


def answers(routine: Routine, cases: Iterable[Case], seconds: float = SECONDS) -> list[Answer]:
    """Run a routine over the cases in a process of its own."""
    if importlib.util.find_spec(routine.needs) is None:
        return [Answer(status=ABSENT) for _ in cases]
    worker = Worker(routine, seconds)
    try:
        return [worker.ask(case) if routine.offers(case) else Answer(status=NONE) for case in cases]
    finally:
        worker.stop()


def _serve(pipe, routine: Routine) -> None:
    """Answer in the child, in silence: what a library prints is no part of the table."""
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    importlib.import_module(routine.needs)
    pipe.send("ready")
    while True:
        try:
            case = pipe.recv()
        except EOFError:
            return
        pipe.send(answer(routine, case))
