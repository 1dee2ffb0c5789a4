"""The guide's method and pruner, added word for word to a copy of the repository."""

from __future__ import annotations

import re

import pytest

from analysis import extend

CODE = dict(extend.blocks())
GUIDE = extend.GUIDE.read_text()


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The repository with the method and the pruner of the guide."""
    return extend.extended(tmp_path_factory.mktemp("copy"))


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
    done = extend.python(copy, "-W", "error", "-c", code)
    assert done.returncode == 0, done.stderr
    assert "refused: " in done.stdout


def test_the_pruner_chooses_tokens(copy):
    snippet = CODE[""]
    check = "assert kept.shape == (2, 64); assert 'centred' in vlm_bridge.PRUNERS and (kept.diff() > 0).all()"
    done = extend.python(copy, "-c", f"{snippet}\n{check}")
    assert done.returncode == 0, done.stderr


def test_the_commands_name_what_exists():
    (command,) = re.findall(r"\$ python -m pytest (\S+) -k power_norm", GUIDE)
    assert "$ python -m analysis mutation --method power_norm" in GUIDE
    named = [command, *re.findall(r"`python -m pytest (\S+)`", GUIDE)]
    assert all((extend.ROOT / path).exists() for path in named)
    for path in re.findall(r"`((?:cssp|vlm_bridge|docs|tests)/[\w/.]+)`", GUIDE):
        assert (extend.ROOT / path).exists(), path


def test_the_rows_cite_what_is_in_the_bibliography():
    row, pruner = CODE["cssp/methods/power_norm.py"], CODE["vlm_bridge/pruners/centred.py"]
    keys = [*re.findall(r'citation="(\w+)"', row), re.search(r'Pruner\("centred", ".+?", "(\w+)"', pruner)[1]]
    assert len(keys) == 2
    assert all(f"{{{key}," in (extend.ROOT / "docs" / "references.bib").read_text() for key in keys)


@pytest.mark.slow
def test_the_tests_of_all_rows_pass_in_the_copy(copy):
    """Those that go through the tables, and those that are made for the new rows; the whole fast tier is `python -m analysis extend`."""
    done = extend.python(copy, "-m", "pytest", *extend.tests_of_rows(copy))
    assert done.returncode == 0, done.stdout[-5000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 150


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("analysis/theory/mutants.py", 'Mutant("power_norm", "square root'),
        ("analysis/study/arms.py", '"centred": '),
    ],
)
def test_a_line_that_the_guide_asks_for_is_missed(copy, name, line, tmp_path):
    path = copy / name
    text = path.read_text()
    (found,) = (one for one in text.splitlines(True) if one.startswith(line))
    path.write_text(text.replace(found, ""))
    tests = ("tests/analysis/test_mutation.py", "tests/analysis/test_study.py")
    done = extend.python(copy, "-m", "pytest", "-q", *tests, "-k", "every_method_has or every_pruner_has")
    path.write_text(text)
    assert (done.returncode, "1 failed, 1 passed" in done.stdout) == (1, True), done.stdout[-3000:]
