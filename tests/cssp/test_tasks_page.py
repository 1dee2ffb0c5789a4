"""The page of tasks: each example runs after the first, and says what it should."""

import re
from pathlib import Path

import numpy as np

PAGE = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text()


def test_every_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    names: dict = {}
    for block in blocks:
        exec(compile(block, "docs/tasks.md", "exec"), names)
    assert len(blocks) == 11
    assert np.linalg.matrix_rank(names["X"]) == 3 == names["X"].shape[1]
    assert names["longer"].k == 8
    assert names["sample"].shape == (10, 40)
    assert names["sel"].names[0] == "age"
    shown = capsys.readouterr().out
    assert "{0: 1.0" in shown
    assert "against best" in shown


def test_no_example_is_long():
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.S)[1:]:
        assert len([line for line in block.splitlines() if line]) <= 5
