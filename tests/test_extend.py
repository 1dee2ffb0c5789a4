"""The guide's method and pruner, added word for word to a copy of the packages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "docs" / "guide" / "extend.md").read_text()
BLOCKS = re.findall(r"```\{code-block\} python\n(?::caption: ([^\n]+)\n\n)?(.*?)```", GUIDE, re.DOTALL)
FILES = {caption: code.lstrip("\n") for caption, code in BLOCKS if caption}


def inserted(path: Path, after: str, what: str) -> None:
    text = path.read_text()
    assert text.count(after) == 1
    path.write_text(text.replace(after, after + what))


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """Packages and tests with the method and the pruner of the guide."""
    folder = tmp_path_factory.mktemp("copy")
    for package in ("cssp", "vlm_bridge"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "tests" / "cssp").mkdir(parents=True)
    for name in ("conftest.py", "cssp/test_contract.py", "cssp/oracles.py"):
        shutil.copy(ROOT / "tests" / name, folder / "tests" / name)
    shutil.copy(ROOT / "pyproject.toml", folder)
    for name in ("cssp/methods/power_norm.py", "vlm_bridge/pruners/centred.py"):
        (folder / name).write_text(FILES[name])
    table = folder / "cssp" / "methods" / "__init__.py"
    inserted(
        table,
        "from cssp.methods.pivoted_qr import pivoted_qr\n",
        "from cssp.methods.power_norm import power_norm\n",
    )
    inserted(table, "    for row in (\n", FILES["cssp/methods/__init__.py"])
    table = folder / "vlm_bridge" / "pruners" / "__init__.py"
    inserted(table, "    average_pool,\n    cdpruner,\n    cen_prune,\n", "    centred,\n")
    inserted(table, "_BEFORE = (", "centred, ")
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_the_method_is_there_with_everything_that_comes_for_free(copy):
    code = """
import numpy as np, torch, cssp
A = np.random.default_rng(0).standard_normal((9, 6)) * [1, 1, 1, 100, 1, 1]
sel = cssp.select(A, 3, "power_norm", rng=0, power=4, exclude=[0])
assert 3 in sel.indices and 0 not in sel.indices
assert sel.certificate().factor is None
T = torch.as_tensor(np.stack([A, A]))
assert cssp.select(T, 3, "power_norm", rng=0, weights=[1, 0, 1, 1, 1, 1]).indices.shape == (2, 3)
try:
    cssp.select(A, tol=0.5, method="power_norm")
except cssp.CsspError as error:
    print("refused:", error)
"""
    done = run(copy, "-W", "error", "-c", code)
    assert done.returncode == 0, done.stderr
    assert "refused: " in done.stdout


def test_the_pruner_chooses_tokens(copy):
    (snippet,) = (code for caption, code in BLOCKS if not caption)
    check = "assert kept.shape == (2, 64); assert 'centred' in vlm_bridge.PRUNERS and (kept.diff() > 0).all()"
    done = run(copy, "-c", f"{snippet}\n{check}")
    assert done.returncode == 0, done.stderr


def test_the_commands_name_what_exists():
    (command,) = re.findall(r"\$ python -m pytest (\S+) -k power_norm", GUIDE)
    named = [command, *re.findall(r"`python -m pytest (\S+)`", GUIDE)]
    assert all((ROOT / path).exists() for path in named)
    for path in re.findall(r"`((?:cssp|vlm_bridge|docs|tests)/[\w/.]+)`", GUIDE):
        assert (ROOT / path).exists(), path


def test_the_rows_cite_what_is_in_the_bibliography():
    row, pruner = FILES["cssp/methods/__init__.py"], FILES["vlm_bridge/pruners/centred.py"]
    keys = [*re.findall(r'citation="(\w+)"', row), re.search(r'Pruner\("centred", ".+?", "(\w+)"', pruner)[1]]
    assert len(keys) == 2
    assert all(f"{{{key}," in (ROOT / "docs" / "references.bib").read_text() for key in keys)


@pytest.mark.slow
def test_the_method_passes_the_tests_of_all_methods(copy):
    done = run(
        copy,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/cssp/test_contract.py",
        "-k",
        "power_norm",
    )
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 40
