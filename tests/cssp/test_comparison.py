"""Methods side by side: each as `select` gives it, the table in order of error, the optimum by an SVD."""

import pickle

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import cssp
from cssp import CsspError, compare, select

mpl.use("Agg")
A = np.random.default_rng(0).standard_normal((20, 8)) @ np.random.default_rng(1).standard_normal((8, 30))


@pytest.mark.parametrize("make", [np.asarray, pd.DataFrame])
def test_each_method_as_alone(make):
    found = compare(make(A), 5, rng=3, exclude=[2])
    assert list(found) == ["residual", "greedy", "local_search", "strong_rrqr", "arp", "uniform"]
    for name in found:
        alone = select(A, 5, name, rng=3, exclude=[2])
        np.testing.assert_array_equal(found[name].indices, alone.indices)
    s2 = np.linalg.svd(A, compute_uv=False) ** 2
    assert found.optimum == pytest.approx(np.sqrt(s2[5:].sum() / s2.sum()))
    rows = found.rows()
    errors = [row[1] for row in rows]
    assert errors == sorted(errors)
    assert found.best.relative_error == errors[0]
    for name, error, against, largest, rank, seconds in rows:
        assert error == found[name].relative_error
        assert against == pytest.approx(error / found.optimum)
        assert against > 1
        assert (largest, rank) == (found[name].max_error, 5)
        assert 0 < seconds < 60


def test_the_table_as_text_html_and_picture():
    found = compare(A, 3, ["uniform", "greedy"])
    lines = str(found).splitlines()
    assert [line.split()[0] for line in lines] == ["method", "greedy", "uniform"]
    page = found._repr_html_()
    assert page.count("<tr>") == 3
    assert page.index("greedy") < page.index("uniform")
    ax = found.plot()
    drawn = {line.get_label(): line.get_ydata() for line in ax.get_lines()}
    np.testing.assert_allclose(drawn["greedy"], np.sqrt(found["greedy"].errors / found["greedy"].errors[0]))
    assert len(drawn) == 3


def test_a_sparse_matrix_goes_to_the_methods_that_take_it():
    found = compare(sp.csr_array(A), 3)
    assert set(found) == {m for m in cssp.comparison.USUAL if "sparse" in cssp.METHODS[m].backends}
    assert len(found) > 1
    assert found.optimum is None
    assert found.rows()[0][2] is None


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: compare(A, 3, "greedy"), r"methods = 'greedy': expected a list of names; pass \['greedy'\]"),
        (lambda: compare(A, 3, []), "at least one name"),
        (lambda: compare(A, 3, ["greedy", "greedy"]), "none of them twice"),
        (lambda: compare(A, 3, ["gredy"]), "did you mean 'greedy'"),
        (lambda: compare(np.stack([A, A]), 3), "A is a batch"),
        (lambda: compare(A, 3)["exact"], "method = 'exact': expected one that was compared"),
    ],
)
def test_what_is_refused(call, words):
    with pytest.raises(CsspError, match=words):
        call()


@pytest.mark.parametrize(
    "arguments",
    [
        {"groups": np.arange(30) // 3},
        {"constraint": cssp.AtMost(np.arange(30) // 3, 1)},
        {"tol_each": 0.5},
        {"costs": np.ones(30)},
        {"target": A[:, :2]},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_the_usual_methods_are_those_that_take_the_arguments(arguments):
    found = compare(A, 3, **arguments)
    assert "greedy" in found
    for name in cssp.comparison.USUAL:
        if name not in found:
            with pytest.raises(CsspError, match="cannot honour"):
                select(A, 3, name, **arguments)


def test_each_is_compared_with_the_best_matrix_of_its_own_number_of_columns():
    X = np.diag([3.0, 2.0, 2.0, 2.0]) @ np.eye(4, 5)
    found = compare(X, None, ["residual", "uniform"], tol=0.7, rng=3)
    tails = np.sqrt(np.append(np.cumsum([4.0, 4.0, 4.0, 9.0])[::-1], 0.0) / 21)
    assert {len(found[name].indices) for name in found} == {2, 3}
    for name, error, against, *_ in found.rows():
        assert against == pytest.approx(error / tails[len(found[name].indices)])
    assert found.optimum == pytest.approx(tails[3])


def test_a_pickled_comparison_prints_the_same_table():
    found = compare(A, 3, ["residual", "greedy"])
    assert str(pickle.loads(pickle.dumps(found))) == str(found)
