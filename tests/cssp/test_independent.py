"""The first independent columns: against elimination with fractions, in every storage, and where columns are nearly dependent."""

from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from optional import torch

import cssp
from cssp import CsspError, independent, independent_columns, linalg

STORAGES = {
    "numpy": np.asarray,
    "torch": torch.as_tensor,
    "float32": lambda A: torch.as_tensor(A, dtype=torch.float32),
    "csr": sp.csr_array,
    "csc": sp.csc_matrix,
    "frame": pd.DataFrame,
}


def eliminated(A):
    """Return the first independent columns of an integer matrix, and the others as their exact combinations."""
    m, n = A.shape
    M = [[Fraction(int(x)) for x in row] for row in A]
    kept, r = [], 0
    for j in range(n):
        pivot = next((i for i in range(r, m) if M[i][j]), None)
        if pivot is None:
            continue
        M[r], M[pivot] = M[pivot], M[r]
        M[r] = [x / M[r][j] for x in M[r]]
        for i in range(m):
            if i != r and M[i][j]:
                M[i] = [x - M[i][j] * y for x, y in zip(M[i], M[r], strict=True)]
        kept.append(j)
        r += 1
    found = {j: {kept[i]: M[i][j] for i in range(r) if M[i][j]} for j in range(n) if j not in kept}
    return kept, found


def integers(seed, high=3):
    rng = np.random.default_rng(seed)
    m, n, r = rng.integers(1, 9), rng.integers(1, 12), rng.integers(1, 6)
    return rng.integers(-high, high + 1, (m, r)) @ rng.integers(-1, 2, (r, n))


def check(found, kept, combinations, rtol):
    assert np.asarray(found.indices).tolist() == kept
    assert np.asarray(found.dropped).tolist() == sorted(combinations)
    assert {j: set(used) for j, used in found.combinations.items()} == {
        j: set(used) for j, used in combinations.items()
    }
    for j, used in combinations.items():
        for i, c in used.items():
            assert found.combinations[j][i] == pytest.approx(float(c), rel=rtol)


@pytest.mark.parametrize("storage", STORAGES)
def test_as_elimination_with_fractions(storage):
    for seed in range(40):
        A = integers(seed)
        found = independent_columns(STORAGES[storage](A.astype(float)))
        check(found, *eliminated(A), 1e-3 if storage == "float32" else 1e-9)


@pytest.mark.parametrize("make", [np.asarray, sp.csc_array])
def test_the_first_and_not_the_largest_where_columns_are_nearly_dependent(make):
    a, b, d = np.array([1, 2, 3, 1]), np.array([1, -1, 0, 2]), np.array([0, 1, 5, -1])
    A = np.stack([a, 10**6 * a + b, b, d, 10**6 * b, a + d], axis=1)
    check(independent_columns(make(A)), *eliminated(A), 1e-3)


def one_hot(rng, m, sizes):
    codes = [rng.integers(0, s, m) for s in sizes]
    return np.hstack([np.eye(s)[c] for s, c in zip(sizes, codes, strict=True)])


@pytest.mark.parametrize("make", [np.asarray, sp.csr_array])
def test_one_column_of_each_further_factor_is_dropped(make):
    """The dummy-variable trap, columns of very different units beside it."""
    rng = np.random.default_rng(0)
    A = one_hot(rng, 400, [3, 5, 4])
    A = np.hstack([A, 1e6 * rng.standard_normal((400, 1)), 1e-5 * A[:, :1] - 1e-5 * A[:, 4:5]])
    found = independent_columns(make(A))
    assert found.dropped.tolist() == [7, 11, 13]
    ones = {0: 1, 1: 1, 2: 1}
    assert found.combinations[7] == pytest.approx(ones | dict.fromkeys(range(3, 7), -1))
    assert found.combinations[11] == pytest.approx(ones | dict.fromkeys(range(8, 11), -1))
    assert found.combinations[13] == pytest.approx({0: 1e-5, 4: -1e-5})


def test_sparse_needs_no_dense_matrix(monkeypatch):
    monkeypatch.setattr(cssp.passes.source.SparseSource, "triangle", None)
    rng = np.random.default_rng(0)
    A = sp.csr_array(one_hot(rng, 5000, [40, 30, 2]))
    found = independent_columns(A)
    assert found.dropped.tolist() == [69, 71]


def test_a_sparse_matrix_close_to_dependence_is_decided_without_its_gram_matrix():
    rng = np.random.default_rng(0)
    x, y, z = rng.standard_normal((3, 50))
    X = np.column_stack([x, x + 1e-9 * y, z, z - x, 3 * y])
    assert independent._by_gram(*problem(sp.csc_array(X))) is None
    for make in (np.asarray, sp.csc_array):
        assert independent_columns(make(X)).dropped.tolist() == [3, 4]


def problem(A):
    p = cssp.passes.table.problem_of(A)
    return p, p.A.A, p.floor


def test_wide_and_many_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    B = rng.standard_normal((150, 90))
    A = np.hstack([np.repeat(B[:, :80], 2, axis=1), B, B @ rng.standard_normal((90, 300))])
    monkeypatch.setattr(linalg, "SLAB", 100)  # rows in several parts
    tall = np.vstack([A] * 12)
    for X in (A, sp.csr_array(A), tall):
        found = independent_columns(X)
        assert found.indices.tolist() == [*range(0, 160, 2), *range(240, 250)]
        T = np.zeros((90, 460))
        for c, used in enumerate(found.combinations.values()):
            for i, x in used.items():
                T[found.indices.tolist().index(i), c] = x
        np.testing.assert_allclose(A[:, found.indices] @ T, A[:, found.dropped], atol=1e-9)


def test_a_tolerance_is_relative_to_the_largest_column():
    A = np.array([[2.0, 2.0, 2.0, 0.0], [0.0, 1e-3, 1e-6, 1.0]])
    assert independent_columns(A).indices.tolist() == [0, 1]
    assert independent_columns(A, tol=1e-2).indices.tolist() == [0, 3]
    assert independent_columns(sp.csc_array(A), tol=1e-2).indices.tolist() == [0, 3]
    assert independent_columns(A[:, [0, 2, 3]], tol=1e-7).indices.tolist() == [0, 1]
    assert independent_columns(A[:, [0, 2, 3]], tol=1e-6).indices.tolist() == [0, 2]
    assert independent_columns(1e-250 * A, tol=1e-2).indices.tolist() == [0, 3]


@pytest.mark.parametrize("make", [np.asarray, sp.csc_array])
def test_zeros_and_complex_columns(make):
    found = independent_columns(make(np.zeros((3, 2))))
    assert (found.indices.tolist(), found.combinations) == ([], {0: {}, 1: {}})
    Z = np.array([[1, 1j, 0], [1j, -1, 2]])
    found = independent_columns(make(Z))
    assert found.indices.tolist() == [0, 2]
    assert found.combinations[1][0] == pytest.approx(1j)


def test_a_frame_speaks_in_names():
    frame = pd.DataFrame({"age": [1.0, 2, 3], "months": [12.0, 24, 36], "height": [1.0, 0, 0]})
    found = independent_columns(frame)
    assert found.names == ["age", "height"]
    wide = pd.DataFrame(np.hstack([np.eye(30), np.ones((30, 30))]))
    assert len(str(independent_columns(wide))) < 2000
    assert str(found) == "2 of 3 columns are independent.\nmonths = 12 × age"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: independent_columns(np.zeros((2, 2, 2))), r"A has shape \(2, 2, 2\): expected one matrix"),
        (lambda: independent_columns(np.array([[1.0, np.nan]])), "NaN in column 1"),
        (
            lambda: independent_columns(np.eye(2), tol=1.0),
            r"tol = 1.0: expected None or a number in \[0, 1\)",
        ),
        (lambda: independent_columns(np.eye(2), tol=True), "tol = True"),
        (lambda: independent_columns(sp.csr_array((10**5, 10**5))), "A has shape .*expected at most"),
    ],
)
def test_what_is_refused(call, words):
    with pytest.raises(CsspError, match=words):
        call()
