"""CUR: the best core by brute force, the cross that reproduces its rows and columns, sparse factors, and the theorems."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from optional import torch

import cssp
from cssp import CsspError, cur

rng = np.random.default_rng(0)
A = rng.standard_normal((30, 8)) @ rng.standard_normal((8, 25)) + 0.1 * rng.standard_normal((30, 25))
MATRICES = {
    "noisy": A,
    "kahan": cssp.matrices.kahan(24, 0.5),
    "tall": A[:, :9],
    "complex": A + 1j * A[::-1],
}


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("rows", [None, 3, 9])
def test_the_best_core_is_that_of_pseudoinverses(name, rows):
    X = MATRICES[name]
    found = cur(X, 6, rows)
    np.testing.assert_array_equal(found.C, X[:, found.columns])
    np.testing.assert_array_equal(found.R, X[found.rows])
    assert found.U.shape == (6, rows or 6)
    np.testing.assert_allclose(found.U, np.linalg.pinv(found.C) @ X @ np.linalg.pinv(found.R), atol=1e-8)
    left = np.linalg.norm(X - found.C @ found.U @ found.R)
    assert found.relative_error == pytest.approx(left / np.linalg.norm(X), abs=1e-14)
    np.testing.assert_allclose(found.reconstruct(), found.C @ found.U @ found.R, atol=1e-12)
    for seed in range(5):
        step = 1e-3 * np.random.default_rng(seed).standard_normal(found.U.shape)
        assert np.linalg.norm(X - found.C @ (found.U + step) @ found.R) > left


@pytest.mark.parametrize("name", MATRICES)
def test_a_cross_reproduces_its_rows_and_columns(name):
    X = MATRICES[name]
    found = cur(X, 6, core="cross")
    Y = found.C @ found.U @ found.R
    np.testing.assert_allclose(Y[:, found.columns], found.C, atol=1e-10)
    np.testing.assert_allclose(Y[found.rows], found.R, atol=1e-10)
    projected = cssp.select(X, 6).error
    assert np.linalg.norm(X - Y) <= np.sqrt(found.growth) * projected * (1 + 1e-9)
    assert 1 <= found.growth <= cssp.bounds.strong_rrqr_basis(len(X), 6)


@pytest.mark.parametrize("core", ["best", "cross"])
@pytest.mark.parametrize("method", ["residual", "strong_rrqr", "osinsky"])
@pytest.mark.parametrize("name", MATRICES)
def test_the_certificate_holds(name, method, core):
    X = MATRICES[name]
    if name == "complex" and "complex" not in cssp.METHODS[method].supports:
        pytest.skip("the method takes real matrices")
    for k in (2, 5):
        found = cur(X, k, method=method, core=core)
        c = found.certificate()
        left2 = np.linalg.norm(X - found.C @ found.U @ found.R) ** 2
        tail2 = np.sum(np.linalg.svd(X, compute_uv=False)[k:] ** 2)
        assert c.squared_error == pytest.approx(left2)
        assert c.squared_optimum == pytest.approx(tail2)
        assert 1 <= c.ratio == pytest.approx(left2 / tail2)
        assert c.holds == "every run"
        assert c.ratio <= c.factor
        assert c.source == ("sorensen2016" if core == "best" else "goreinov2001")


def test_factors_of_columns_and_rows_add_up_and_are_not_invented():
    k, (m, n) = 5, A.shape
    f = cssp.bounds.strong_rrqr_frobenius
    assert cur(A, k, method="strong_rrqr").certificate().factor == pytest.approx(f(n, k) + f(m, k))
    product = f(n, k) * cssp.bounds.strong_rrqr_basis(m, k)
    assert cur(A, k, method="strong_rrqr", core="cross").certificate().factor == pytest.approx(product)
    for core in ("best", "cross"):
        c = cur(A, k, method="leverage_top", core=core).certificate()
        assert "promise" not in str(c)
        assert (c.factor, c.source, c.holds) == (None, None, None)
    c = cur(A, 5, 8, method="strong_rrqr").certificate()
    words = f"{c.ratio:.3g} times the best matrix of this rank in squared error; theorems promise at most {c.factor:.3g} times."
    assert str(c) == words
    s2 = np.linalg.svd(A, compute_uv=False) ** 2
    total = f(n, 5) * s2[5:].sum() + f(m, 8) * s2[8:].sum()
    assert c.factor == pytest.approx(total / s2[5:].sum())


@pytest.mark.parametrize("core", ["best", "cross"])
def test_sparse_factors_stay_sparse(core):
    X = sp.random_array((80, 60), density=0.1, rng=np.random.default_rng(1), format="coo")
    found, dense = cur(X, 12, core=core), cur(X.toarray(), 12, core=core)
    assert sp.issparse(found.C)
    assert sp.issparse(found.R)
    np.testing.assert_array_equal(found.columns, dense.columns)
    np.testing.assert_array_equal(found.rows, dense.rows)
    np.testing.assert_allclose(found.U, dense.U, atol=1e-9)
    assert found.relative_error == pytest.approx(dense.relative_error)
    np.testing.assert_allclose(found.reconstruct(), dense.reconstruct(), atol=1e-9)


@pytest.mark.parametrize("core", ["best", "cross"])
def test_torch_frames_and_integers(core):
    whole = cur(A, 5, core=core)
    found = cur(torch.as_tensor(A), 5, core=core)
    assert isinstance(found.U, torch.Tensor)
    assert found.rows.tolist() == whole.rows.tolist()
    np.testing.assert_allclose(found.U, whole.U, atol=1e-10)
    np.testing.assert_allclose(cur(pd.DataFrame(A), 5, core=core).U, whole.U)
    X = np.arange(20).reshape(4, 5)
    found = cur(X, 4, core=core)
    assert found.U.shape == (2, 2)
    assert found.relative_error < 1e-12
    found = cur(np.zeros((3, 4)), 2, core=core)
    assert found.relative_error == 0
    assert not found.U.any()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: cur(A, 3, core="inverse"), "core = 'inverse': expected 'best' or 'cross'"),
        (lambda: cur(A, 3, 4, core="cross"), "rows = 4 with core='cross'.*leave rows out"),
        (lambda: cur(A, 99), "k = 99: must be between 1 and 25"),
        (lambda: cur(A, 3, 31), "rows = 31: must be between 1 and 30"),
        (lambda: cur(A, 3, weights=1), "option 'weights' is unknown"),
        (lambda: cur(np.zeros((2, 3, 3)), 1), r"expected one matrix \(m, n\)"),
        (lambda: cur(sp.linalg.aslinearoperator(A), 3), "whose rows can be taken"),
    ],
)
def test_what_is_refused(call, words):
    with pytest.raises(CsspError, match=words):
        call()
