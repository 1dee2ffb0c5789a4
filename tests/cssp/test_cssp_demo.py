"""``cssp demo``: what it prints is what the library says, and it writes one file that was not there."""

import re
import sys

import numpy as np
import pytest

import cssp
from cssp.cli import demo, main


def test_the_demo_shows_a_difference_that_one_sees(tmp_path, capsys):
    picture = tmp_path / "picture.png"
    assert main(["demo", "-o", str(picture)]) == 0
    out = capsys.readouterr().out
    chosen, grid = map(float, re.findall(r"relative error ([\d.]+)", out))
    assert chosen < 0.03 < 0.2 < grid
    assert "times the best rank 12 in squared error" in out
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]


def test_the_field_needs_about_as_many_places_as_are_chosen():
    A = demo.field(np.linspace(0, 60, 120))
    assert A.shape == (120, demo.SHAPE[0] * demo.SHAPE[1])
    assert cssp.select(A, 12).relative_error < 0.05 < 0.2 < cssp.select(A, 5).relative_error


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("there.png", "the file exists; --force"),
        ("picture.xyz", "expected a name that ends in .png, .pdf or .svg"),
    ],
)
def test_nothing_of_the_user_is_written_over(tmp_path, capsys, name, message):
    (tmp_path / "there.png").write_text("mine")
    assert main(["demo", "-o", str(tmp_path / name)]) == 2
    assert message in capsys.readouterr().err
    assert (tmp_path / "there.png").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["there.png"]


def test_without_matplotlib_the_numbers_are_printed(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["demo", "-o", str(tmp_path / "picture.png")]) == 0
    out = capsys.readouterr().out
    assert "relative error" in out
    assert "pip install 'cssp[plot]'" in out
    assert not list(tmp_path.iterdir())
