"""Tall matrices on their triangular factor, singular vectors of wide ones from the small side: the same numbers as without."""

import numpy as np
import oracles
import pytest
import torch

from cssp import METHODS, folding, linalg, part, select
from cssp.methods._shared import first_equal
from cssp.methods.osinsky import _Deflated
from cssp.sampling import projection_dpp

M, N, K = 90, 8, 4
#: What draws Gaussian numbers for every row of A: of a folded one fewer, by the same law.
SKETCHES = ("sketched_qr",)


@pytest.fixture
def fold(monkeypatch):
    """A function that switches folding, and singular vectors from the small side, on for small matrices or off for all."""

    def switch(on):
        monkeypatch.setattr(folding, "TALL", 2 if on else np.inf)
        monkeypatch.setattr(folding, "LARGE", 0)
        monkeypatch.setattr(linalg, "WIDE", 2 if on else np.inf)
        monkeypatch.setattr(linalg, "LARGE", 0)
        monkeypatch.setattr(part, "LARGE", 0 if on else np.inf)

    return switch


def tall(rng, dtype=np.float64, m=M, n=N):
    A = rng.standard_normal((m, n)) * 0.7 ** np.arange(n) @ rng.standard_normal((n, n))
    if np.issubdtype(dtype, np.complexfloating):
        A = A + 0.5j * rng.standard_normal((m, n))
    return A.astype(dtype)


def numbers(A, k, method, **arguments):
    chosen = select(A, k, method, rng=0, **arguments)
    c = chosen.certificate()
    small = [c.error, c.squared_optimum, c.spectral_error, c.spectral_squared_optimum, c.max_error, c.width]
    parts = [np.ravel(small), np.ravel(chosen.errors), np.ravel(chosen.residuals)]
    return chosen, np.concatenate(parts), np.asarray(chosen.coefficients()), np.asarray(chosen.reconstruct())


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.complex128])
@pytest.mark.parametrize("method", [name for name in METHODS if name not in SKETCHES])
def test_the_same_choice_and_the_same_numbers(fold, method, dtype, transpose):
    row = METHODS[method]
    if dtype == np.complex128 and "complex" not in row.supports:
        pytest.skip("not for complex matrices")
    if method == "exact" and transpose:
        pytest.skip("too many columns")
    rng = np.random.default_rng(3)
    for weights, include in ((None, None), (rng.random(N) + 0.5, [2])):
        A = tall(rng, dtype)
        A = np.ascontiguousarray(A.T) if transpose else A
        more = {"weights": np.resize(weights, A.shape[1])} if weights is not None else {}
        if include and "include" in row.supports:
            more["include"] = include
        fold(False)
        old, *before = numbers(A, K, method, **more)
        fold(True)
        new, *after = numbers(A, K, method, **more)
        assert new.indices.tolist() == old.indices.tolist()
        assert new._parts[0].problem.tall == (not transpose)
        for x, y in zip(before, after, strict=True):
            np.testing.assert_allclose(y, x, rtol=1e-6, atol=1e-9 * np.max(np.abs(x)))


@pytest.mark.parametrize("method", SKETCHES)
def test_a_sketch_of_the_factor_is_one_of_the_matrix(fold, method):
    A = tall(np.random.default_rng(0))
    fold(True)
    chosen = select(A, K, method, rng=0)
    assert chosen.rank == K
    assert chosen.error == pytest.approx(np.sqrt(oracles.squared_error(A, chosen.indices)))


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if "target" in row.supports])
def test_a_target_is_rotated_with_the_matrix(fold, method):
    rng = np.random.default_rng(1)
    A = tall(rng)
    B = 1e3 * (A @ rng.standard_normal((N, 3)) + rng.standard_normal((M, 3)))  # most of it out of reach of A
    fold(False)
    old = select(A, K, method, target=B)
    fold(True)
    new = select(A, K, method, target=B)
    assert new._parts[0].problem.tall
    assert new.indices.tolist() == old.indices.tolist()
    assert new.error == pytest.approx(np.sqrt(oracles.squared_error(A, new.indices, B)), rel=1e-10)
    np.testing.assert_allclose(new.coefficients(), old.coefficients(), rtol=1e-8)
    np.testing.assert_allclose(new.reconstruct(), old.reconstruct(), rtol=1e-8)


def test_weights_come_before_the_factor(fold):
    rng = np.random.default_rng(5)
    A, w = tall(rng), np.exp(rng.standard_normal(N))
    fold(True)
    weighted, product = select(A, K, "osinsky", weights=w), select(A * w, K, "osinsky")
    assert weighted.indices.tolist() == product.indices.tolist()
    assert weighted.error == pytest.approx(np.sqrt(oracles.squared_error(A * w, weighted.indices)), rel=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rank_is_decided_in_the_precision_and_by_the_rows_of_the_data(fold, dtype):
    """Columns whose residuals lie between n·eps and m·eps of the largest are dependent, as they are without the factor."""
    rng = np.random.default_rng(2)
    m, n, r = 4000, 6, 3
    eps = float(np.finfo(dtype).eps)
    Q = np.linalg.qr(rng.standard_normal((m, n)))[0]
    A = Q[:, :r] @ np.linalg.qr(rng.standard_normal((n, n)))[0][:r] + 0.02 * m * eps * Q[
        :, r:
    ] @ rng.standard_normal((n - r, n))
    for method in ("volume", "random_pivot", "osinsky", "norm", "residual"):
        found = []
        for on in (False, True):
            fold(on)
            chosen = select(A.astype(dtype), 5, method, rng=0, deficient="truncate")
            found.append((chosen.rank, chosen.indices.tolist()))
        assert found[0] == found[1], method
        assert found[0][0] == r, method


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64])
@pytest.mark.parametrize("target", [False, True])
def test_the_factor_keeps_the_thresholds_of_the_matrix(fold, dtype, target):
    fold(True)
    A = tall(np.random.default_rng(6)).astype(dtype)
    p = select(A, K, "greedy", target=A[:, :2].copy() if target else None)._parts[0].problem
    q = p.folded()
    assert q.m < p.m == q.height == M
    assert q.A.dtype != dtype or dtype == np.float64
    assert q.unit == p.unit == np.finfo(dtype).eps
    assert (q.floor, q.noise) == pytest.approx((p.floor, p.noise), rel=1e-5)


def test_equal_columns_are_found_in_the_matrix_itself(fold):
    rng = np.random.default_rng(0)
    A = tall(rng)
    A[:, 5], A[:, 7] = A[:, 1], A[:, 3]
    fold(True)
    for method in ("osinsky", "qdeim", "leverage_top", "bss", "volume_derandomized", "strong_rrqr"):
        assert not {5, 7} & set(select(A, 4, method).indices.tolist())


def test_equal_columns_one_by_one():
    rng = np.random.default_rng(0)
    for _ in range(50):
        A = (
            np.cumsum((rng.random((rng.integers(1, 300), 1)) < 0.02) * rng.integers(-1, 2, (1, 9)), axis=0)
            * 1.0
        )
        seen: dict = {}
        assert first_equal(A).tolist() == [seen.setdefault(tuple(a + 0.0), j) for j, a in enumerate(A.T)]


def test_batches_and_tensors(fold):
    rng = np.random.default_rng(0)
    A = np.stack([tall(rng) for _ in range(3)])
    fold(False)
    old = select(A, K, "qdeim")
    fold(True)
    new, tensor = select(A, K, "qdeim"), select(torch.from_numpy(A), K, "qdeim")
    np.testing.assert_array_equal(new.indices, old.indices)
    np.testing.assert_array_equal(tensor.indices.numpy(), old.indices)
    np.testing.assert_allclose(new.error, old.error, rtol=1e-10)
    np.testing.assert_allclose(tensor.coefficients().numpy(), old.coefficients(), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(tensor.reconstruct().numpy(), old.reconstruct(), rtol=1e-8, atol=1e-10)


def test_the_factor_is_formed_once_and_only_where_it_is_needed(fold, monkeypatch):
    calls = []
    monkeypatch.setattr(
        linalg, "triangle", lambda *X, plain=linalg.triangle: calls.append(X[0].shape) or plain(*X)
    )
    fold(True)
    A = tall(np.random.default_rng(0))
    chosen = select(A, K)
    assert not calls
    chosen.certificate(), chosen.errors, chosen.residuals, chosen.coefficients()
    select(A, K, "osinsky").certificate()
    assert calls.count((M, N)) == 2


@pytest.mark.parametrize("depth", [2, 14])
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_right_singular_vectors_of_the_small_side(fold, depth, dtype):
    A = oracles.graded(60, 6, depth, np.random.default_rng(0), dtype).T
    if dtype == np.complex128:
        A = np.linalg.qr(A[:, :6] + 1j * np.eye(6))[0] @ A
    fold(True)
    s, V = linalg.right_singular(A)
    eps = np.finfo(float).eps
    np.testing.assert_allclose(s, np.linalg.svd(A, compute_uv=False), atol=20 * eps)
    np.testing.assert_allclose(V @ V.conj().T, np.eye(6), atol=1e-13)
    np.testing.assert_allclose((A @ V.conj().T) @ V, A, atol=20 * eps)
    np.testing.assert_allclose(linalg.right_singular(A, 2)[1], V[:2], atol=1e-13 if depth == 2 else 1e-10)


def test_updates_made_together_are_those_made_one_by_one():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((5, 30)) + 1j * rng.standard_normal((5, 30))
    E, d = X.copy(), _Deflated(X.copy())
    for j in range(11):
        if d.stale(np.ones(30, dtype=bool)):
            d.settle()
        row = rng.standard_normal(30) / 3 + 0j
        np.testing.assert_allclose(d.products(j), E[:, j].conj() @ E, atol=1e-12)
        d.subtract(j, row, np.real(row.conj() * d.products(j)))
        E -= np.outer(E[:, j].copy(), row)
        np.testing.assert_allclose(d.norms2, linalg.column_norms2(E), rtol=1e-9)


def test_projection_dpp_draws_by_squared_volume():
    rng = np.random.default_rng(0)
    V = np.linalg.qr(rng.standard_normal((5, 2)))[0]
    counts = np.zeros((5, 5))
    for _ in range(4000):
        counts[tuple(sorted(projection_dpp(V, rng)))] += 1
    law = np.array([[np.linalg.det(V[[i, j]]) ** 2 if i < j else 0 for j in range(5)] for i in range(5)])
    np.testing.assert_allclose(counts / 4000, law, atol=5 * np.sqrt(0.25 / 4000))
