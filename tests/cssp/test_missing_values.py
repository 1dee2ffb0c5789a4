"""Missing values: complete rows, or products over the rows that two columns share, against their definitions."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
from optional import torch

import cssp
from cssp import CsspError, Selection, select

rng = np.random.default_rng(0)
A = rng.standard_normal((80, 5)) @ rng.standard_normal((5, 12)) + 0.05 * rng.standard_normal((80, 12))


def with_gaps(X, share, seed=0):
    return np.where(np.random.default_rng(seed).random(X.shape) < share, np.nan, X)


def by_definition(X):
    """m times the mean product over the rows that both columns have, and the nearest positive semidefinite matrix."""
    m, n = X.shape
    G = np.empty((n, n))
    for i in range(n):
        for j in range(n):
            both = ~np.isnan(X[:, i]) & ~np.isnan(X[:, j])
            G[i, j] = m * np.mean(X[both, i] * X[both, j])
    values, V = np.linalg.eigh(G)
    return G, (V * np.maximum(values, 0)) @ V.T


@pytest.mark.parametrize("how", ["rows", "pairwise"])
@pytest.mark.parametrize("method", ["residual", "greedy", "strong_rrqr"])
def test_without_gaps_it_is_the_plain_choice(how, method):
    found, plain = select(A, 5, method, missing=how), select(A, 5, method)
    np.testing.assert_array_equal(found.indices, plain.indices)
    assert found.error == plain.error
    assert found.missing is None
    found.reconstruct()


def test_complete_rows():
    X, B = with_gaps(A, 0.05), with_gaps(A[:, :2] @ np.ones((2, 1)), 0.1)
    full = ~np.isnan(X).any(axis=1)
    found, expected = select(X, 5, missing="rows"), select(A[full], 5)
    np.testing.assert_array_equal(found.indices, expected.indices)
    assert found.error == expected.error
    assert (found.missing.used, found.missing.of, found.missing.moved) == (full.sum(), 80, 0.0)
    full &= ~np.isnan(B).any(axis=1)
    aimed = select(X, 5, "greedy", missing="rows", target=B)
    np.testing.assert_array_equal(aimed.indices, select(A[full], 5, "greedy", target=B[full]).indices)
    assert aimed.missing.used == full.sum()


def test_columns_of_padding_do_not_count():
    X = with_gaps(A, 0.02)
    X[:, 3] = np.nan
    valid = np.arange(12) != 3
    full = ~np.isnan(X[:, valid]).any(axis=1)
    for how, expected in (
        ("rows", np.where(valid, X, 0.0)[full]),
        ("pairwise", None),
    ):
        found = select(X, 5, missing=how, valid=valid)
        assert 3 not in found.indices
        if expected is not None:
            np.testing.assert_array_equal(found.indices, select(expected, 5, valid=valid).indices)
        else:
            assert found.missing.least > 60
    with pytest.raises(CsspError, match="column 3 holds no value"):
        select(X, 5, missing="pairwise")
    with pytest.raises(CsspError, match=r"every row has a missing value.*column 3 has most, 80 of 80"):
        select(X, 5, missing="rows")


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6])
def test_pairwise_products_are_those_of_the_definition(share):
    X = with_gaps(A, share)
    G, nearest = by_definition(X)
    found = select(X, 12, missing="pairwise", tol=None, deficient="truncate")
    R = found._parts[0].problem.A
    np.testing.assert_allclose(R.T @ R, nearest, atol=1e-9 * np.linalg.norm(G))
    there = (~np.isnan(X)).astype(int)
    pairs = there.T @ there
    assert (found.missing.least, found.missing.most) == (pairs.min(), pairs.max())
    assert found.missing.moved == pytest.approx(np.linalg.norm(nearest - G) / np.linalg.norm(G), abs=1e-13)
    assert found.missing.used == int((~np.isnan(X)).any(axis=1).sum())
    by_gram = cssp.select_gram(nearest, 4)
    four = select(X, 4, missing="pairwise")
    np.testing.assert_array_equal(four.indices, by_gram.indices)
    assert four.squared_error == pytest.approx(by_gram.error)
    np.testing.assert_allclose(four.coefficients(), by_gram.coefficients(), atol=1e-8)


def test_pairwise_products_with_a_target():
    X, B = with_gaps(A, 0.1), with_gaps(A[:, :3], 0.2, seed=1)
    _, nearest = by_definition(np.hstack([X, B]))
    found = select(X, 3, "greedy", missing="pairwise", target=1e-30 * B)
    # error of S: tr(G_BB - G_BS G_SS^-1 G_SB), for each pair of columns the definition of greedy
    chosen = []
    for _ in range(3):
        errors = {}
        for j in set(range(12)) - set(chosen):
            S = [*chosen, j]
            G_SB = nearest[np.ix_(S, range(12, 15))]
            errors[j] = np.trace(nearest[12:, 12:] - G_SB.T @ np.linalg.solve(nearest[np.ix_(S, S)], G_SB))
        chosen.append(min(errors, key=errors.get))
    assert found.indices.tolist() == chosen
    assert found.error == pytest.approx(1e-30 * np.sqrt(errors[chosen[-1]]), rel=1e-6)


def test_planted_columns_are_found_where_no_row_is_complete():
    # The first 4 columns are independent and large, the others combinations of them with small noise.
    base = 3 * rng.standard_normal((4000, 4))
    X = np.hstack([base, base @ (rng.standard_normal((4, 20)) / 8)])
    X = with_gaps(X + 1e-3 * rng.standard_normal(X.shape), 0.2)
    assert np.isnan(X).any(axis=1).mean() > 0.98
    assert sorted(select(X, 4, missing="pairwise").indices) == [0, 1, 2, 3]


def test_the_estimate_is_right_in_expectation():
    """The mean of 400 estimates is within five standard errors of AᵀA in all 144 entries: fails by chance less than 1e-4."""
    draws = np.stack([by_definition(with_gaps(A, 0.3, seed=s))[0] for s in range(400)])
    mean, spread = draws.mean(axis=0), draws.std(axis=0) / np.sqrt(400)
    assert np.all(np.abs(mean - A.T @ A) < 5 * spread)


@pytest.mark.parametrize("how", ["rows", "pairwise"])
def test_frames_and_tensors(how):
    X = with_gaps(A, 0.03)
    names = [f"c{j}" for j in range(12)]
    expected = select(X, 4, missing=how, include=[5])
    frame = pd.DataFrame(X, columns=names)
    for made in (frame, frame.convert_dtypes(), pl.DataFrame(frame)):
        found = select(made, 4, missing=how, include=["c5"])
        np.testing.assert_array_equal(found.indices, expected.indices)
        assert found.names == [names[j] for j in expected.indices]
    tensor = select(torch.tensor(X, dtype=torch.float32), 4, missing=how, include=[5])
    assert isinstance(tensor.indices, torch.Tensor)
    np.testing.assert_array_equal(tensor.indices, expected.indices)
    assert tensor.error == pytest.approx(expected.error, rel=1e-5)


def test_gradients_of_complete_rows():
    X = torch.tensor(with_gaps(A, 0.03), requires_grad=True)
    select(X, 4, missing="rows").reconstruct().sum().backward()
    full = ~np.isnan(X.detach().numpy()).any(axis=1)
    assert (X.grad[torch.tensor(full)] != 0).any()
    assert (X.grad[torch.tensor(~full)] == 0).all()
    with pytest.raises(CsspError, match=r"carries no gradient.*A\.detach\(\)"):
        select(X, 4, missing="pairwise")


def test_rows_chosen_by_the_columns_they_share():
    X = with_gaps(A, 0.01)
    full = ~np.isnan(X).any(axis=0)
    assert 0 < full.sum() < 12
    found = select(X, 2, missing="columns", axis="rows")
    np.testing.assert_array_equal(found.indices, select(A[:, full], 2, axis="rows").indices)
    assert (found.missing.how, found.missing.used, found.missing.of) == ("columns", full.sum(), 12)
    pairs = select(X, 4, missing="pairwise", axis="rows")
    np.testing.assert_array_equal(pairs.indices, select(X.T, 4, missing="pairwise").indices)
    with pytest.raises(CsspError, match="missing='columns' or missing='pairwise'; rows with missing values"):
        select(X, 4, missing="rows", axis="rows")


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_any_scale(scale):
    X = with_gaps(A, 0.1)
    found = select(scale * X, 4, missing="pairwise")
    np.testing.assert_array_equal(found.indices, select(X, 4, missing="pairwise").indices)
    assert found.error == pytest.approx(scale * select(X, 4, missing="pairwise").error)


def test_what_is_kept(tmp_path):
    found = select(with_gaps(A, 0.1), 4, missing="pairwise")
    found.save(tmp_path / "s.json")
    assert Selection.load(tmp_path / "s.json").missing == found.missing
    assert found.certificate().ratio >= 1
    with pytest.raises(CsspError, match=r"reconstruct\(\) needs all rows of A"):
        found.reconstruct()


APART = np.array([[1.0, np.nan, 1.0], [2.0, np.nan, 1.0], [np.nan, 3.0, 1.0], [np.nan, 4.0, 2.0]])


@pytest.mark.parametrize(
    ("X", "arguments", "said"),
    [
        (
            with_gaps(A, 0.1),
            {},
            "A has NaN in column .*for missing values pass missing='rows' or missing='pairwise'",
        ),
        (
            with_gaps(A, 0.1),
            {"missing": "mean"},
            "missing='mean': expected missing='raise', missing='rows'",
        ),
        (with_gaps(A, 0.1), {"missing": None}, "missing=None: expected"),
        (APART, {"missing": "pairwise"}, "column 0 and column 1 have no row in common"),
        (APART, {"missing": "rows"}, "every row has a missing value"),
        (
            pd.DataFrame(APART, columns=list("abc")),
            {"missing": "pairwise"},
            r"column 0 \('a'\) and column 1 \('b'\)",
        ),
        (np.where(A[4, 2] == A, np.inf, with_gaps(A, 0.1)), {"missing": "pairwise"}, "A has Inf in column 2"),
        (np.where(A[4, 2] == A, np.inf, A), {"missing": "rows"}, "A has Inf in column 2; clean it"),
        (
            with_gaps(A, 0.1)[None],
            {"missing": "rows"},
            r"expected one real matrix, got A of shape \(1, 80, 12\)",
        ),
        (with_gaps(A, 0.1) + 1j, {"missing": "rows"}, "expected one real matrix, got A .* complex128"),
        (sp.csr_array(A), {"missing": "rows"}, "expected a matrix in memory .* got a csr_array"),
        (
            with_gaps(A, 0.1),
            {"missing": "pairwise", "target": np.full((80, 1), np.nan), "method": "greedy"},
            "column 0 of target holds no value",
        ),
        (
            with_gaps(A, 0.1),
            {"missing": "rows", "target": A[:5], "method": "greedy"},
            r"target has shape \(5, 12\)",
        ),
    ],
)
def test_what_is_refused(X, arguments, said):
    with pytest.raises(CsspError, match=said):
        select(X, 2, **arguments)


@pytest.mark.parametrize("missing", ["rows", "mean"])
def test_messages_about_rows_repeat_the_word_that_was_passed(missing):
    with pytest.raises(
        CsspError, match=rf"^missing='{missing}': expected missing='raise', missing='columns'"
    ):
        select(with_gaps(A, 0.1), 2, axis="rows", missing=missing)
    with pytest.raises(CsspError, match=r"^missing='columns': every column has a missing value"):
        select(np.where(np.eye(4), np.nan, 1.0), 2, axis="rows", missing="columns")
