"""What the documented ways to install the evaluation harnesses come to; nothing is installed."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
PAGE = (ROOT / "docs" / "harnesses.md").read_text()
LINES = re.findall(r"^pip install (.+)$", PAGE, re.MULTILINE)
HARNESSES = ("lmms-eval", "lm-eval")
PINS = {
    canonicalize_name(name): version
    for name, _, version in (
        line.partition("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    )
}


def test_every_pin_is_a_version_and_there_once():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert len(lines) == len(PINS)
    assert all(re.fullmatch(r"\d[\w.]*", version) for version in PINS.values())
    assert lines == sorted(lines, key=str.lower)


def test_every_documented_line_goes_through_the_constraints():
    assert len(LINES) == 3
    assert all(shlex.split(line)[:2] == ["-c", "constraints.txt"] for line in LINES)
    assert {extra for line in LINES for extra in re.findall(r"\[([\w-]+)\]", line)} == set(HARNESSES)


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_pins_are_allowed_by_the_extras(extra):
    """A requirement that excludes its pin could not be installed with the constraints."""
    for line in EXTRAS[extra]:
        wanted = Requirement(line)
        pin = PINS.get(canonicalize_name(wanted.name))
        assert pin is None or wanted.specifier.contains(pin), f"{line}: {pin}"


@pytest.mark.parametrize("harness", HARNESSES)
def test_the_tested_release_is_pinned(harness):
    assert f"{harness} {PINS[harness]}" in PAGE


@pytest.mark.parametrize("version", ["4.3", "4.3.1", "5.0"])
def test_the_filelock_that_breaks_lmms_eval_is_excluded_without_constraints_too(version):
    wanted = [Requirement(line) for line in EXTRAS["lmms-eval"]]
    (filelock,) = (one for one in wanted if one.name == "filelock")
    assert not filelock.specifier.contains(version)
    assert filelock.specifier.contains("4.2.11")
