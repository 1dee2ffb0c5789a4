"""Every example in a docstring of cssp runs as it is written, and gives what it shows."""

import doctest
import importlib
from pathlib import Path

import pytest

import cssp

ROOT = Path(cssp.__file__).parent
MODULES = [
    ".".join(["cssp", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")
    for path in sorted(ROOT.rglob("*.py"))
    if ">>> " in path.read_text()
    and path.parent.name not in ("bounds", "matrices")  # tested beside their functions
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run_as_written(name, tmp_path, monkeypatch):
    if name.startswith("cssp.estimators"):
        pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
