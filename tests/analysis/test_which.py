"""The table of methods on three shapes: every method has a line, and measuring some leaves the others as they were."""

import json

import numpy as np

import cssp
from analysis import which
from analysis.__main__ import main

SMALL = tuple(
    which.Shape(shape.name, shape.what, 3, lambda s=i: np.random.default_rng(s).standard_normal((12, 10)))
    for i, shape in enumerate(which.SHAPES)
)


def test_some_methods_are_measured_and_the_others_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(which, "SHAPES", SMALL)
    assert main(["which", "--docs", str(tmp_path)]) == 0
    before = json.loads((tmp_path / "which.json").read_text())
    text = (tmp_path / "which.inc").read_text()
    for name in cssp.METHODS:
        assert text.count(f"| [`{name}`](methods/{name}.md) |") == 1
        assert (name in before["tall"]) == (name not in which.SLOW)
    for cells in before.values():
        cells["residual"]["ratio"] = 54321.0  # what is not measured again is not looked at
        cells["greedy"]["ratio"] = 65432.0
    (tmp_path / "which.json").write_text(json.dumps(before))
    assert main(["which", "--docs", str(tmp_path), "--method", "greedy"]) == 0
    after = json.loads((tmp_path / "which.json").read_text())
    for name, cells in after.items():
        assert list(cells) == list(before[name])
        assert {m: c for m, c in cells.items() if m != "greedy"} == {
            m: c for m, c in before[name].items() if m != "greedy"
        }
        assert cells["greedy"]["ratio"] < 10
    text = (tmp_path / "which.inc").read_text()
    assert "| 54,321 |" in text
    assert "65,432" not in text


def test_the_docs_show_every_method(monkeypatch):
    shipped = {
        name: row for name, row in cssp.METHODS.items() if name != "power_norm"
    }  # the guide's, in a copy
    monkeypatch.setattr(cssp, "METHODS", shipped)
    docs = which.Path(__file__).parents[2] / "docs"
    text, cells = (docs / "which.inc").read_text(), json.loads((docs / "which.json").read_text())
    for name in shipped:
        assert text.count(f"| [`{name}`](methods/{name}.md) |") == 1
        assert all((name in shape) == (name not in which.SLOW) for shape in cells.values())
    found = {shape: {name: which.Cell(**cell) for name, cell in row.items()} for shape, row in cells.items()}
    assert text == which.tables(found)
