"""Tasks of peers: caret's logic as its page shows it, and what is said of a library that is not there."""

import sys

import numpy as np
import pytest

import cssp
from analysis.__main__ import main
from analysis.peer_tasks.collinear import find_linear_combos


def test_the_port_gives_what_the_page_of_caret_shows():
    """Columns 3 = 1 - 2 and 6 = 1 - 4 - 5, counted from 1."""
    X = np.column_stack([np.ones(6), np.eye(2)[np.arange(6) // 3], np.eye(3)[np.arange(6) % 3]])
    combinations, kept = find_linear_combos(X)
    assert [[j + 1 for j in columns] for columns in combinations] == [[3, 1, 2], [6, 1, 4, 5]]
    assert kept.tolist() == [0, 1, 3, 4]


def test_caret_and_independent_columns_agree_on_small_integers():
    rng = np.random.default_rng(0)
    for _ in range(300):
        m, r, n = rng.integers(2, 9, 3)
        X = rng.integers(-2, 3, (m, r)) @ rng.integers(-2, 3, (r, n)).astype(float)
        if not np.all(np.any(X, axis=0)):  # of a zero column R's rule makes a combination of nothing
            continue
        combinations, kept = find_linear_combos(X)
        found = cssp.independent_columns(X)
        assert kept.tolist() == found.indices.tolist()
        assert {c[0]: set(c[1:]) for c in combinations} == {j: set(t) for j, t in found.combinations.items()}


@pytest.mark.parametrize(("name", "library"), [("groups", "mlxtend"), ("collinear", "patsy")])
def test_a_library_that_is_not_installed_is_named(name, library, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setitem(sys.modules, f"{library}.feature_selection", None)
    assert main(["tasks", "--names", name, "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert f"{name} is left out" in said
    assert library in said


def test_scipys_example_is_done_as_well_by_as_many_columns():
    from analysis.peer_tasks import interpolative

    by_rank = interpolative.tasks()[1]
    errors = {name: by_rank.result(by_rank.runs[name](0)) for name in ("SciPy", "cssp residual")}
    assert errors["cssp residual"] <= 1.0001 * errors["SciPy"]
