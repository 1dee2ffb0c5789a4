"""``python -m analysis extend``: do what docs/guide/extend.md says, word for word, in a copy of the repository, and run the tests there.

The copy holds the files that git tracks. What is written into it comes out of the guide's blocks of code; `PLACES` says where it goes.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GUIDE = ROOT / "docs" / "guide" / "extend.md"
BLOCK = re.compile(r"```\{code-block\} python\n(?::caption: ([^\n]+)\n\n)?(.*?)```", re.DOTALL)
#: Files that are there already: the text after which a block, or what the guide says in a sentence, is inserted.
PLACES = {
    "analysis/theory/mutants.py": "MUTANTS = [\n",
    "analysis/study/arms.py": "EXCLUDED = {\n",
}
SENTENCES = [
    ("cssp/methods/__init__.py", "    osinsky,\n    pivoted_qr,\n", "    power_norm,\n"),
    ("cssp/methods/__init__.py", "    for module in (\n", "        power_norm,\n"),
    ("vlm_bridge/pruners/__init__.py", "    cdpruner,\n    cen_prune,\n", "    centred,\n"),
    ("vlm_bridge/pruners/__init__.py", "_BEFORE = (", "centred, "),
]
#: What a table's name looks like in the tests that go through it, see `row_tests`.
TABLES = re.compile(r"\b(METHODS|PRUNERS|MUTANTS)\b")


def blocks() -> list[tuple[str, str]]:
    """Return (caption, code) of every block of the guide; those that belong in no file have no caption."""
    return [(caption, code.lstrip("\n")) for caption, code in BLOCK.findall(GUIDE.read_text())]


def extended(folder: Path) -> Path:
    """Return a copy of the repository in an empty folder, with the method and the pruner of the guide.

    Raises
    ------
    ValueError
        A place that the guide names does not exist.
    """
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, names.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    for name, code in blocks():
        if name in PLACES:
            _insert(folder / name, PLACES[name], code)
        elif name:
            (folder / name).write_text(code)
    for name, after, what in SENTENCES:
        _insert(folder / name, after, what)
    return folder


def _insert(path: Path, after: str, what: str) -> None:
    text = path.read_text()
    if text.count(after) != 1:
        raise ValueError(
            f"{path}: {after!r} occurs {text.count(after)} times, expected once; correct the guide or this file."
        )
    path.write_text(text.replace(after, after + what))


def python(folder: Path, *arguments: str, show: bool = False) -> subprocess.CompletedProcess[str]:
    """Run Python in a copy, with the packages of the copy."""
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=not show, text=True
    )


def tests_of_rows(folder: Path) -> list[str]:
    """Return the arguments of pytest: the fast tests that go through the tables, and those of the new rows."""
    files = [
        p.relative_to(folder)
        for p in sorted((folder / "tests").rglob("test_*.py"))
        if TABLES.search(p.read_text())
    ]
    return [
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "analysis.row_tests",
        "-m",
        "not slow",
        *map(str, files),
        *_others(),
    ]


def _others() -> list[str]:
    """Return options that leave out the tests of the guide itself, which would copy the copy, and those on a device."""
    return ["--ignore=tests/test_extend.py", "--ignore=tests/gpu"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument(
        "--rows", action="store_true", help="only the tests that go through the tables of methods and pruners"
    )
    parser.add_argument("--workers", type=int, default=2)


def main(arguments: argparse.Namespace) -> int:
    """Run the fast tests in the copy, or with ``--rows`` only those of the tables, and the mutants of the guide's method."""
    with tempfile.TemporaryDirectory() as name:
        folder = extended(Path(name).resolve())
        every = ["-q", "-n", str(arguments.workers), "-m", "not slow", "tests", *_others()]
        done = python(
            folder, "-m", "pytest", *(tests_of_rows(folder) if arguments.rows else every), show=True
        )
        mutants = python(folder, "-m", "analysis", "mutation", "--method", "power_norm", show=True)
    return done.returncode or mutants.returncode
