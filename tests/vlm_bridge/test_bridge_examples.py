"""Every example in a docstring of vlm_bridge runs as it is written, and gives what it shows."""

import doctest
import importlib
from pathlib import Path

import pytest

import vlm_bridge

ROOT = Path(vlm_bridge.__file__).parent
MODULES = [
    ".".join(["vlm_bridge", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")
    for path in sorted(ROOT.rglob("*.py"))
    if any(">>> " in line and "+SKIP" not in line for line in path.read_text().splitlines())
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run_as_written(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
