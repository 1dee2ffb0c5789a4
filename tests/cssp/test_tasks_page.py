"""The pages of tasks: each example runs after the first and says what it should, each thread's answer is as it stands."""

import doctest
import re
from pathlib import Path

import numpy as np

DOCS = Path(__file__).parents[2] / "docs"
PAGE, THREADS = ((DOCS / name).read_text() for name in ("tasks.md", "tasks_by_thread.md"))

#: Words that people search for.
WORDS = (
    "linearly independent, collinear, one-hot, VIF, condition number, transpose, sample weight, impute, sensor, CUR, "
    "interpolative, Nyström, coreset, dummy-variable trap, correlated, budget, PCA, landmarks, subset of observations"
)


def test_every_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    names: dict = {}
    for block in blocks:
        exec(compile(block, "docs/tasks.md", "exec"), names)
    assert len(blocks) == 22
    assert np.linalg.matrix_rank(names["X"]) == 3 == names["X"].shape[1]
    assert names["longer"].k == 8
    assert names["sample"].shape == (10, 40)
    assert names["sel"].names[0] == "age"
    assert names["apart"].indices[0] == 3
    assert len(set(names["labels"][names["one_each"].indices])) == 4
    shown = capsys.readouterr().out
    assert "{0: 1.0" in shown
    assert "against best" in shown


def test_no_example_is_long():
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.S)[1:]:
        assert len([line for line in block.splitlines() if line]) <= 5


def test_the_words_that_people_search_for_are_there():
    for word in WORDS.split(", "):
        assert re.search(word, PAGE, re.I), word


def test_every_thread_is_answered():
    blocks = "\n".join(re.findall(r"```python\n(.*?)```", THREADS, re.S))
    test = doctest.DocTestParser().get_doctest(blocks, {}, "tasks_by_thread.md", None, 0)
    said: list[str] = []
    result = doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert result.failed == 0, "".join(said)
    assert result.attempted > 110
    numbers = [int(n) for n in re.findall(r"^### (\d+)\. ", THREADS, re.M)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= 30
