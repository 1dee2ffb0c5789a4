"""The record: errors to rounding, coefficients, reconstruction, certificates, printing."""

import pickle

import mpmath
import numpy as np
import oracles
import pytest
from optional import torch

from cssp import RankDeficientWarning, select
from cssp.linalg import basis, error_trace


def exact_errors(A, S):
    """Squared errors by Gram-Schmidt in sixty digits."""
    with mpmath.workdps(60):
        E = [[mpmath.mpf(float(x)) for x in column] for column in A.T]
        errors = [mpmath.fsum(mpmath.fdot(e, e) for e in E)]
        for j in S:
            length = mpmath.sqrt(mpmath.fdot(E[j], E[j]))
            q = [x / length for x in E[j]]
            E = [[x - mpmath.fdot(q, e) * y for x, y in zip(e, q, strict=True)] for e in E]
            errors.append(mpmath.fsum(mpmath.fdot(e, e) for e in E))
        return np.array([float(e) for e in errors])


@pytest.mark.parametrize(
    ("dtype", "depth", "rtol"), [(np.float64, 10, 1e-7), (np.float64, 4, 1e-11), (np.float32, 6, 1e-7)]
)
def test_errors_have_relative_accuracy(dtype, depth, rtol):
    A = oracles.graded(20, 14, depth, np.random.default_rng(0), dtype)
    s = select(A, 12)
    np.testing.assert_allclose(s.errors, exact_errors(A, s.indices), rtol=rtol)
    assert s.error == np.sqrt(s.errors[-1])


def test_a_dependent_pick_adds_nothing():
    A = np.random.default_rng(0).standard_normal((9, 8))
    A[:, 3] = A[:, 0] - 2 * A[:, 1]
    C = A[:, [0, 1, 3, 2]]
    Q, independent = basis(C, 1e-13)
    assert independent == [True, True, False, True]
    np.testing.assert_allclose(Q.T @ Q, np.eye(3), atol=1e-15)
    errors = error_trace(Q, independent, A)
    assert errors[2] == errors[3]
    assert errors[4] == pytest.approx(oracles.squared_error(A, [0, 1, 2]))
    with pytest.warns(RankDeficientWarning, match="column 3 depends on those included before"):
        s = select(A, 4, "uniform", include=[0, 1, 3, 2])
    np.testing.assert_array_equal(s.errors, errors)
    assert s.rank == 3
    T = s.coefficients()
    np.testing.assert_allclose(T, np.linalg.pinv(C) @ A, atol=1e-12)


@pytest.mark.parametrize("kind", [np.float64, np.complex128])
def test_coefficients_reconstruct(kind):
    rng = np.random.default_rng(0)
    A = rng.standard_normal((9, 8)).astype(kind) + (
        1j * rng.standard_normal((9, 8)) if kind is np.complex128 else 0
    )
    s = select(A, 4)
    expected, *_ = np.linalg.lstsq(A[:, s.indices], A)
    np.testing.assert_allclose(s.coefficients(), expected, atol=1e-13)
    np.testing.assert_allclose(s.reconstruct(), A - oracles.residual_matrix(A, s.indices), atol=1e-13)
    np.testing.assert_allclose(s.coefficients()[:, s.indices], np.eye(4), atol=1e-13)
    w = rng.random(8) + 0.1
    s = select(A, 4, weights=w)
    T = w[s.indices, None] * s.coefficients() / w
    np.testing.assert_allclose(T, np.linalg.lstsq(A[:, s.indices], A)[0], atol=1e-12)


def test_errors_beyond_the_range_of_squares():
    A = np.random.default_rng(0).standard_normal((9, 8))
    for scale in (1e-200, 1e200):
        s = select(A * scale, 4)
        assert s.error == pytest.approx(select(A, 4).error * scale)
        assert set(s.errors.tolist()) <= {0.0, np.inf}
        assert s.certificate().ratio == pytest.approx(select(A, 4).certificate().ratio)


@pytest.mark.parametrize("method", ["residual", "greedy", "uniform"])
def test_certificate(method):
    for seed in range(10):
        A = oracles.graded(12, 9, 3, np.random.default_rng(seed))
        s = select(A, 4, method, rng=seed)
        c = s.certificate()
        values = np.linalg.svd(A, compute_uv=False)
        R = oracles.residual_matrix(A, s.indices)
        assert c.squared_error == pytest.approx(np.linalg.norm(R) ** 2)
        assert c.squared_optimum == pytest.approx(np.sum(values[4:] ** 2))
        assert c.spectral_squared_error == pytest.approx(np.linalg.norm(R, 2) ** 2)
        assert c.spectral_squared_optimum == pytest.approx(values[4] ** 2)
        assert 1 <= c.ratio <= c.a_posteriori * (1 + 1e-9)
        assert 1 <= c.spectral_ratio <= c.a_posteriori * (1 + 1e-9)
        V = np.linalg.svd(A)[2][:4].T
        assert c.a_posteriori == pytest.approx(np.linalg.svd(V[s.indices], compute_uv=False)[-1] ** -2)
        assert c.rank == 4
        if c.factor is not None and c.holds == "every run":
            assert c.ratio <= c.factor * (1 + 1e-9)


def test_certificates_at_the_edges():
    A = np.random.default_rng(0).standard_normal((9, 8))
    zero = select(A, 8).certificate()
    assert zero.squared_optimum <= 1e-25
    assert zero.ratio == 1
    assert zero.spectral_ratio == 1
    aimed = select(A, 3, "greedy", target=A[:, :2] + 1).certificate()
    assert aimed.a_posteriori is None
    assert aimed.factor is None
    assert aimed.ratio >= 1
    assert select(A, 3, include=[1]).certificate().factor is None
    batch = select(torch.as_tensor(np.stack([A, 2 * A])), 3).certificate()
    assert isinstance(batch.ratio, torch.Tensor)
    assert batch.ratio.tolist() == pytest.approx([select(A, 3).certificate().ratio] * 2)
    valid = np.arange(8) < 6
    assert select(A, 3, valid=valid).certificate() == select(np.ascontiguousarray(A[:, :6]), 3).certificate()


def test_records_are_frozen_short_and_picklable():
    A = np.random.default_rng(0).standard_normal((9, 30))
    s = select(A, 9)
    assert len(repr(s)) < 120
    assert "method='residual', k=9, rank=9" in repr(s)
    assert "shape (2, 3)" in repr(select(np.stack([A, A]), 3))
    with pytest.raises(AttributeError):
        s.rank = 3
    again = pickle.loads(pickle.dumps(s))
    np.testing.assert_array_equal(again.indices, s.indices)
    np.testing.assert_array_equal(again.errors, s.errors)


def test_results_live_where_the_matrix_lives():
    X = torch.randn(2, 9, 8, generator=torch.Generator().manual_seed(0))
    s = select(X, 3)
    assert s.indices.dtype == torch.int64
    assert s.errors.dtype == torch.float64
    for x in (s.error, s.relative_error, s.rank, s.k, s.mask(), s.coefficients(), s.reconstruct()):
        assert isinstance(x, torch.Tensor)
        assert x.shape[0] == 2
    assert s.mask().sum(dim=1).tolist() == [3, 3]


@pytest.mark.parametrize("scale", [5e-324 * 2**40, 1.0, 1e307])
def test_reconstruction_at_the_ends_of_the_range(scale):
    A = np.round(np.random.default_rng(0).standard_normal((9, 8)) * 2**10) / 2**10
    s, t = select(A, 4), select(A * scale, 4)
    np.testing.assert_allclose(t.reconstruct() / scale, s.reconstruct(), atol=1e-10)
    np.testing.assert_allclose(t.coefficients(), s.coefficients(), atol=1e-10)
    assert t.error / scale == pytest.approx(s.error)


def test_many_columns_do_not_make_them_dependent():
    """n·eps of a million columns in single precision is 0.12: by that rule rows graded to 0.01 would have rank 4."""
    A = np.random.default_rng(0).standard_normal((8, 1 << 20), dtype=np.float32)
    A *= np.logspace(0, -2, 8, dtype=np.float32)[:, None]
    assert select(A, 8).rank == 8
