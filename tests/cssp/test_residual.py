"""Greedy residual against LAPACK's pivots and the naive algorithm, on matrices that can fail."""

import warnings

import numpy as np
import oracles
import pytest
import scipy.linalg
from optional import torch

from cssp import RankDeficientWarning, linalg, scaling, select


def lapack(A, k):
    return scipy.linalg.qr(A, mode="r", pivoting=True)[1][:k]


def error(A, S):
    return np.linalg.norm(oracles.residual_matrix(A, S))


def quiet(A, k, method="residual"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return select(A, k, method).indices


@pytest.mark.parametrize(("dtype", "depth"), [(np.float64, 14), (np.float32, 7)])
def test_graded_spectra(dtype, depth):
    """Downdated norms lose every digit here; the rule of LAPACK Working Note 176 keeps them.

    The picks are those of exact arithmetic. LAPACK's in single precision are not always, and then its error may be
    larger or, by luck, smaller.
    """
    equal = 0
    for seed in range(50):
        A = oracles.graded(50, 30, depth, np.random.default_rng(seed), dtype)
        ours, theirs = quiet(A, 25), lapack(A, 25)
        np.testing.assert_array_equal(ours, oracles.greedy_residual(A.astype(np.longdouble), 25))
        equal += bool(np.all(ours == theirs))
        np.testing.assert_array_equal(quiet(torch.as_tensor(A), 15).numpy(), ours[:15])
    assert equal >= (50 if dtype == np.float64 else 46)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
def test_random_matrices(dtype):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        A = rng.standard_normal((rng.integers(5, 60), rng.integers(5, 60)))
        A = A * np.exp(rng.standard_normal(A.shape[1]))
        if np.dtype(dtype).kind == "c":
            A = A + 1j * rng.standard_normal(A.shape)
        k = min(A.shape) - 1
        np.testing.assert_array_equal(select(A.astype(dtype), k).indices, lapack(A.astype(dtype), k))
        np.testing.assert_array_equal(
            select(A.astype(dtype), k, "pivoted_qr").indices, lapack(A.astype(dtype), k)
        )


def test_complex_graded_spectra():
    for seed in range(10):
        rng = np.random.default_rng(seed)
        U, _ = np.linalg.qr(rng.standard_normal((40, 25)) + 1j * rng.standard_normal((40, 25)))
        V, _ = np.linalg.qr(rng.standard_normal((25, 25)) + 1j * rng.standard_normal((25, 25)))
        A = (U * np.logspace(0, -13, 25)) @ V
        np.testing.assert_array_equal(quiet(A, 20), lapack(A, 20))


@pytest.mark.parametrize("n", [10, 30, 60])
def test_kahan(n):
    A = oracles.kahan(n)
    np.testing.assert_array_equal(select(A, n - 1).indices, np.arange(n - 1))


@pytest.mark.parametrize("layout", [np.ascontiguousarray, np.asfortranarray])
def test_naive_residual_matrix(layout):
    for seed in range(20):
        A = layout(np.random.default_rng(seed).standard_normal((25, 40)))
        assert select(A, 12).indices.tolist() == oracles.greedy_residual(A, 12)


def test_ties_go_to_the_lowest_index():
    assert select(np.eye(6), 5).indices.tolist() == [0, 1, 2, 3, 4]
    assert select(np.diag([1.0, 1, 2, 1]), 4).indices.tolist() == [2, 0, 1, 3]
    assert lapack(np.diag([1.0, 1, 2, 1]), 4).tolist() == [2, 1, 0, 3]  # the order we do not follow
    assert select(np.diag([1.0, 1, 2, 1]), 4, "pivoted_qr").indices.tolist() == [2, 1, 0, 3]
    gks = np.triu(-np.ones((20, 20)), 1) + np.eye(20)
    gks /= np.sqrt(np.arange(1, 21))
    assert select(gks, 19).indices.tolist() == oracles.greedy_residual(gks, 19)
    nearly = np.eye(6) * (1 + 1e-15 * np.arange(6))
    assert select(nearly, 5).indices.tolist() == [0, 1, 2, 3, 4]


def test_duplicates_lose_to_their_first_copy():
    for seed in range(20):
        X = np.random.default_rng(seed).standard_normal((30, 15)) * 0.5 ** np.arange(15)
        twice = select(np.hstack([X, X, X]), 14).indices
        np.testing.assert_array_equal(twice, select(X, 14).indices)
        np.testing.assert_array_equal(np.asarray(lapack(np.hstack([X, X, X]), 14)) % 15, twice)


def test_rank_is_the_numerical_rank():
    for seed in range(10):
        rng = np.random.default_rng(seed)
        for dtype in (np.float32, np.float64):
            A = (rng.standard_normal((60, 7)) @ rng.standard_normal((7, 40))).astype(dtype)
            assert select(A, 7).rank == 7
            with pytest.warns(UserWarning, match="only 7 of 12"):
                s = select(A, 12)
            assert s.rank == 7
            rest = [j for j in range(40) if j not in s.indices[:7]]
            assert s.indices[7:].tolist() == rest[:5]


def test_dependent_includes_cost_no_direction():
    A = np.random.default_rng(0).standard_normal((9, 8))
    A[:, 5] = A[:, 2] * 3
    with pytest.warns(RankDeficientWarning, match="included"):
        s = select(A, 5, include=[2, 5])
    assert s.indices[:2].tolist() == [2, 5]
    assert s.rank == 4
    assert s.errors[1] == s.errors[2]
    deflated = oracles.residual_matrix(A, [2])
    assert s.indices[2:].tolist() == oracles.greedy_residual(deflated, 3)


def test_the_tolerance_is_judged_by_explicit_residuals():
    for seed in range(10):
        A = oracles.graded(40, 30, 12, np.random.default_rng(seed))
        for tol in (1e-3, 1e-7, 1e-10):
            s = select(A, tol=tol)
            norm = np.linalg.norm(A)
            assert error(A, s.indices) <= tol * norm * (1 + 1e-4)
            assert error(A, s.indices[:-1]) > tol * norm * (1 - 1e-4)


def test_quality_diversity_is_pivoting_on_scaled_columns():
    """Greedy MAP of a determinantal point process of quality w, by its determinants."""
    rng = np.random.default_rng(3)
    A, w = rng.standard_normal((12, 9)), rng.random(9)
    L = w[:, None] * (A.T @ A) * w
    S: list[int] = []
    for _ in range(6):
        dets = [-1.0 if j in S else np.linalg.det(L[np.ix_([*S, j], [*S, j])]) for j in range(9)]
        S.append(int(np.argmax(dets)))
    assert select(A, 6, weights=w).indices.tolist() == S


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("method", ["residual", "greedy"])
def test_column_norms_are_formed_once(monkeypatch, kind, method):
    A = np.random.default_rng(0).standard_normal((60, 20))
    X = A if kind == "numpy" else torch.from_numpy(A)
    formed, norms2 = [], linalg.column_norms2
    for module in (linalg, scaling):
        monkeypatch.setattr(module, "column_norms2", lambda X: formed.append(X) or norms2(X))
    chosen = select(X, 3, method)
    (whole,) = (Y for Y in formed if tuple(Y.shape) == (60, 20))
    assert isinstance(whole, np.ndarray), "by other threads than those of the products"
    assert chosen.indices.tolist() == select(A * 2.0**20, 3, method).indices.tolist()
