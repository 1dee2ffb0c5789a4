"""``python -m analysis mutation``: sabotage every method and see whether a test notices.

`mutants.MUTANTS` lists textual changes of the source: a term dropped, a square or a swap missing, one off, the wrong
columns. Each is made in a copy of the packages and the tests; the working tree is never touched. A mutant counts as
caught where a test fails that passes on the untouched copy, or where the tests of its method run out of time.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from analysis.theory.mutants import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]

#: What a copy needs.
COPIED = ("cssp", "vlm_bridge", "analysis", "tests/cssp", "tests/conftest.py", "docs", "pyproject.toml")

#: Seconds a run of tests may take.
TIME_LIMIT = 900


@dataclass(frozen=True)
class Outcome:
    """A mutant, whether a test caught it, and which."""

    mutant: Mutant
    caught: bool
    by: str


class MutantRunner:
    """An untouched copy, and the copies that are made of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clean = folder, folder / "clean"
        self.numbers, self.lock = itertools.count(), threading.Lock()
        self.passes_clean: dict[str, bool] = {}
        for name in COPIED:
            source, goal = ROOT / name, self.clean / name
            goal.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, goal, ignore=shutil.ignore_patterns("__pycache__", "out", "weights*"))
            else:
                shutil.copy(source, goal)
        where = self.python(self.clean, "-c", "import cssp; print(cssp.__file__)").stdout.strip()
        if not Path(where).is_relative_to(self.clean.resolve()):
            raise RuntimeError(f"the copy would be tested with {where}")

    def python(self, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Python in a folder, on the packages there."""
        environment = os.environ | {
            "PYTHONPATH": str(folder.resolve()),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT,
        )

    def failure(self, folder: Path, *selected: str) -> str:
        """Return the first test that fails, "" where none does."""
        arguments = (
            "-m",
            "pytest",
            "-x",
            "-q",
            "--no-header",
            "--tb=no",
            "-p",
            "no:cacheprovider",
            *selected,
        )
        try:
            done = self.python(folder, *arguments)
        except subprocess.TimeoutExpired:
            return "time"
        if done.returncode in (0, 5):
            return ""
        found = re.search(r"^(?:FAILED|ERROR) (.*?)(?: - |$)", done.stdout, re.M)
        if not found:
            raise RuntimeError(
                f"pytest ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
            )
        return found[1]

    def passes_untouched(self, test: str) -> bool:
        """Return whether a test passes on the unchanged copy."""
        with self.lock:
            if test not in self.passes_clean:
                self.passes_clean[test] = self.failure(self.clean, test) == ""
            return self.passes_clean[test]

    def judge(self, mutant: Mutant) -> Outcome:
        """Run the tests about the method first, the long ones last, then all."""
        folder = self.folder / f"mutant{next(self.numbers)}"
        shutil.copytree(self.clean, folder)
        target = folder / mutant.file
        target.write_text(mutant.applied(target.read_text()))
        about = () if mutant.method == "certificate" else ("-k", mutant.method)
        first = "certificates" if mutant.method == "certificate" else "guarantees"
        quick = [f"tests/cssp/test_{name}.py" for name in (first, "contract")]
        stages = [
            (quick[0], *about),
            ("tests/cssp", *(f"--ignore={name}" for name in quick), *about),
            ("tests/cssp", f"--ignore={quick[0]}"),
        ]
        try:
            for stage in stages:
                test = self.failure(folder, *stage)
                if test == "time":  # the last stage is all tests: their time says nothing
                    return Outcome(mutant, stage is not stages[-1], test)
                if test and self.passes_untouched(test):
                    return Outcome(mutant, True, test)
                if test:
                    return Outcome(mutant, False, f"{test}, which fails without the mutation too")
            return Outcome(mutant, False, "")
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("--method", nargs="+", help="only these methods")
    parser.add_argument("--workers", type=int, default=1)


def main(arguments: argparse.Namespace) -> int:
    """Judge the mutants of these methods, print caught / made; 1 where one survives."""
    methods = arguments.method
    chosen = [m for m in MUTANTS if not methods or m.method in methods]
    if not chosen:
        print(
            f"no mutants of {methods}; there are some of {sorted({m.method for m in MUTANTS})}",
            file=sys.stderr,
        )
        return 2
    with tempfile.TemporaryDirectory(prefix="mutation-") as name:
        runner = MutantRunner(Path(name))
        outcomes = []
        with ThreadPoolExecutor(arguments.workers) as pool, tqdm(total=len(chosen), smoothing=0) as progress:
            for outcome in pool.map(runner.judge, chosen):
                outcomes.append(outcome)
                verdict = "caught" if outcome.caught else "SURVIVED"
                progress.write(
                    f"{verdict:9}{outcome.mutant.method}: {outcome.mutant.description}  [{outcome.by}]"
                )
                progress.update()
    for method in dict.fromkeys(m.method for m in chosen):
        of_method = [o for o in outcomes if o.mutant.method == method]
        print(f"{method:22}{sum(o.caught for o in of_method)} / {len(of_method)}")
    caught = sum(o.caught for o in outcomes)
    print(f"caught {caught} / {len(outcomes)}")
    return int(caught < len(outcomes))
