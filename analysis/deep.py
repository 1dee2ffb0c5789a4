"""The properties of ``tests/cssp`` (`MODULES`) on many examples each, in parallel processes.

A property is run by Hypothesis as the tests run it, with the ``deep`` profile and warnings as errors. Not part of the
tests: it takes half an hour and more.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1] / "tests"
MODULES = ("test_properties", "test_invariants")
WATCHDOG = 30  # seconds of processor time that one example may take


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("--examples", type=int, default=20_000, help="examples a property")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", nargs="+", help="only properties whose names contain one of these words")
    parser.add_argument("--out", type=Path, default=Path("out/deep"))


def main(arguments: argparse.Namespace) -> int:
    """Run every property and print a table; 1 where one failed."""
    examples, workers, only, out = arguments.examples, arguments.workers, arguments.only, arguments.out
    names = [name for name in properties() if not only or any(word in name for word in only)]
    out.mkdir(parents=True, exist_ok=True)
    start, rows = time.perf_counter(), []
    print(f"{len(names)} properties, {examples} examples each, {workers} processes")
    with ThreadPoolExecutor(workers) as pool:
        jobs = [pool.submit(_process, name, examples, out) for name in names]
        for job in as_completed(jobs):
            rows.append(job.result())
            name, passed, seconds, verdict = rows[-1]
            print(
                f"{len(rows):3d}/{len(names)} {passed:7d} {seconds:8.1f} s  {verdict:7s} {name}", flush=True
            )
            with (out / "report.csv").open("w", newline="") as file:
                csv.writer(file).writerows([("property", "examples", "seconds", "verdict"), *rows])
    failed = [name for name, _, _, verdict in rows if verdict != "passed"]
    total = sum(passed for _, passed, _, _ in rows)
    print(
        f"{total} examples in {(time.perf_counter() - start) / 60:.1f} min, {len(failed)} properties failed"
    )
    for name in failed:
        print(f"  {name}: see {out / name}.txt")
    return 1 if failed else 0


def properties() -> dict[str, Any]:
    """Return the Hypothesis tests by name, in the order of the files."""
    sys.path[:0] = [str(TESTS / "cssp"), str(TESTS)]
    import conftest  # noqa: F401  (registers the profiles)

    members = [item for name in MODULES for item in vars(importlib.import_module(name)).items()]
    return {name: test for name, test in members if name.startswith("test_") and hasattr(test, "hypothesis")}


def _process(name: str, examples: int, out: Path) -> tuple[str, int, float, str]:
    """Run one property in a process of its own; (name, examples passed, seconds, verdict)."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "analysis.deep", name, str(examples)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=TESTS.parent, check=False)
    (out / f"{name}.txt").write_text(done.stdout + done.stderr)
    counts = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("passed ")]
    passed = int(counts[0]) if counts else 0
    verdict = "passed" if done.returncode == 0 else "FAILED"
    return name, passed, time.perf_counter() - start, verdict


def run(name: str, examples: int) -> int:
    """Run one property in this process; print and return the number of examples that passed."""
    import warnings

    from hypothesis import settings

    warnings.simplefilter("error")
    test = properties()[name]
    inner, passed = test.hypothesis.inner_test, 0

    def late(*_):
        raise TimeoutError(f"an example takes more than {WATCHDOG} s of processor time")

    def counted(*arguments, **named):
        nonlocal passed
        signal.setitimer(signal.ITIMER_VIRTUAL, WATCHDOG)
        try:
            inner(*arguments, **named)
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        passed += 1

    signal.signal(signal.SIGVTALRM, late)

    test.hypothesis.inner_test = counted
    try:
        settings(settings.get_profile("deep"), max_examples=examples)(test)()
    finally:
        print(f"passed {passed}")
    return passed


if __name__ == "__main__":
    run(sys.argv[1], int(sys.argv[2]))
