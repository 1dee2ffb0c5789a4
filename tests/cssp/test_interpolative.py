"""Interpolative decompositions: bounded coefficients, and the results of SciPy's functions on its own examples."""

import numpy as np
import pandas as pd
import pytest
import scipy.linalg
import scipy.linalg.interpolative as sli
import scipy.sparse as sp
from optional import torch

import cssp
from cssp import CsspError, interpolative

HILBERT = scipy.linalg.hilbert(60)


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor, pd.DataFrame])
@pytest.mark.parametrize(
    "A", [HILBERT, cssp.matrices.kahan(30, 0.6), np.random.default_rng(0).standard_normal((20, 35))]
)
@pytest.mark.parametrize("f", [1.2, 2.0])
def test_coefficients_are_bounded_and_the_identity_on_the_chosen(A, f, make):
    found = interpolative(make(A), 8, f=f)
    columns, T = np.asarray(found.columns), np.asarray(found.T)
    assert isinstance(found.T, torch.Tensor) == (make is torch.as_tensor)
    np.testing.assert_array_equal(T[:, columns], np.eye(8))
    assert found.bound == f
    assert 1 <= found.max_abs <= f * (1 + 1e-6)
    assert found.max_abs == np.abs(T).max()
    error = np.linalg.norm(A - A[:, columns] @ T) / np.linalg.norm(A)
    assert found.relative_error == pytest.approx(error, abs=1e-15)


def test_greedy_columns_promise_no_bound_and_break_it():
    A = cssp.matrices.kahan(20, 0.3)
    greedy = interpolative(A, 19, method="residual")
    assert greedy.bound is None
    assert greedy.max_abs > 100
    assert interpolative(A, 19).max_abs <= 2


def test_as_scipy_with_k():
    """The Hilbert matrix of SciPy's tutorial: its functions rebuild the same from `idx` and `proj`."""
    k = 6
    idx, proj = sli.interp_decomp(HILBERT, k, rand=False)
    found = interpolative(HILBERT, k)
    assert found.proj.shape == proj.shape
    assert sorted(found.idx) == list(range(60))
    B = sli.reconstruct_skel_matrix(HILBERT, k, found.idx)
    np.testing.assert_array_equal(B, HILBERT[:, found.columns])
    np.testing.assert_allclose(sli.reconstruct_interp_matrix(found.idx, found.proj), found.T, atol=1e-15)
    ours = sli.reconstruct_matrix_from_id(B, found.idx, found.proj)
    np.testing.assert_allclose(ours, B @ found.T, atol=1e-15)
    theirs = sli.reconstruct_matrix_from_id(HILBERT[:, idx[:k]], idx, proj)
    assert np.linalg.norm(HILBERT - ours) <= 2 * np.linalg.norm(HILBERT - theirs)


def test_as_scipy_with_a_precision():
    """Its precision bounds pivots and may leave a larger error; ours bounds the error."""
    for eps in (1e-3, 1e-6, 1e-9):
        k, _, _ = sli.interp_decomp(HILBERT, eps, rand=False)
        found = interpolative(HILBERT, tol=eps)
        assert abs(len(found.columns) - k) <= 1
        left = HILBERT - HILBERT[:, found.columns] @ found.T
        assert np.linalg.norm(left) <= eps * np.linalg.norm(HILBERT)


def test_coefficients_carry_gradients():
    X = torch.as_tensor(HILBERT[:8, :8]).requires_grad_()
    T = interpolative(X, 2).T
    T.sum().backward()
    assert X.grad.abs().sum() > 0


def test_no_more_columns_than_the_rank():
    X = np.random.default_rng(0).standard_normal((20, 3)) @ np.ones((3, 3))
    found = interpolative(np.hstack([X, X]), 5)
    assert found.T.shape == (1, 6)
    assert found.relative_error < 1e-12


def test_sparse_by_a_method_of_passes():
    A = sp.random_array((200, 30), density=0.2, rng=np.random.default_rng(0), format="csr")
    found = interpolative(A, 10, method="residual")
    np.testing.assert_allclose(found.T, interpolative(A.toarray(), 10, method="residual").T, atol=1e-10)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: interpolative(np.eye(3)), "neither k nor tol"),
        (lambda: interpolative(np.zeros((2, 3, 3)), 1), "deficient|batch"),
        (lambda: interpolative(np.eye(3), 1, weights=[1, 2, 3]), "option 'weights' is unknown"),
        (lambda: interpolative(sp.eye_array(3), 1), "sparse.*'residual'"),
    ],
)
def test_what_is_refused(call, words):
    with pytest.raises(CsspError, match=words):
        call()


def test_a_precision_in_place_of_k_is_refused_with_the_right_argument():
    with pytest.raises(CsspError, match=r"k = 0.001: expected an integer; .* pass tol=0.001"):
        interpolative(np.eye(4), 1e-3)
