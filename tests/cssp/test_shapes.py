"""Tall matrices on their triangular factor, singular vectors of wide ones from the small side: the same numbers as without."""

from types import SimpleNamespace

import numpy as np
import oracles
import pytest
import scipy.linalg
import torch

from cssp import METHODS, folding, linalg, part, sampling, select
from cssp.methods import pivoted_qr, volume_derandomized
from cssp.methods._shared import first_equal, rest
from cssp.methods.osinsky import _Deflated
from cssp.methods.volume_derandomized import _Screened, _weights
from cssp.pivoting import memory
from cssp.problem import Problem
from cssp.sampling import projection_dpp
from cssp.vectors import Vectors, right_singular

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
    for folded in (0, memory.FOLDED):  # of few columns, and of more
        monkeypatch.setattr(memory, "FOLDED", folded)
        calls.clear()
        chosen = select(A, K)
        assert len(calls) == (folded > 0)
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
    s, vectors = right_singular(A)
    V = vectors.formed()
    eps = np.finfo(float).eps
    np.testing.assert_allclose(s, np.linalg.svd(A, compute_uv=False), atol=20 * eps)
    np.testing.assert_allclose(V @ V.conj().T, np.eye(6), atol=1e-13)
    np.testing.assert_allclose((A @ V.conj().T) @ V, A, atol=20 * eps)
    first = right_singular(A, 2)[1].formed()
    np.testing.assert_allclose(first, V[:2], atol=1e-13 if depth == 2 else 1e-10)


@pytest.mark.parametrize("copies", [False, True])
def test_vectors_are_formed_as_far_as_they_are_asked_for(copies):
    rng = np.random.default_rng(0)
    F, M, first = rng.standard_normal((6, 4000)), rng.standard_normal((3, 6)) + 1j, np.arange(4000)
    if copies:
        first[1::2] -= 1
    V, whole = Vectors(F, M, first if copies else None), (M @ F)[:, first]
    place = np.array([7, 3999, 8, 3])
    np.testing.assert_allclose(V.formed(), whole)
    np.testing.assert_allclose(V[1:].columns(place), whole[1:, place])
    np.testing.assert_allclose(V.norms2(), np.linalg.norm(whole, axis=0) ** 2)
    np.testing.assert_allclose(V.norms2(np.arange(3.0), place), np.arange(3.0) @ np.abs(whole[:, place]) ** 2)
    np.testing.assert_array_equal(Vectors(F)[[4, 1]].formed(), F[[4, 1]])
    if copies:
        for x in (V.formed(), V.norms2()[None], V.norms2(place=np.arange(3, 42))[None, 1:]):
            np.testing.assert_array_equal(x[:, ::2], x[:, 1::2])


def test_norms_of_deflated_matrices():
    rng = np.random.default_rng(0)
    F = rng.standard_normal((5, 300)) + 1j * rng.standard_normal((5, 300))
    F[:, 1] = F[:, 0] + 1e-5 * F[:, 1]  # what is left of one of them after the other would cancel
    M, N = (rng.standard_normal((r, 5)) for r in (4, 3))
    d, W, E = _Deflated(Vectors(F, M), N), M @ F, N @ F
    for j in (0, 17, 5):
        d.subtract(j)
        row = W[:, j].conj() @ W / np.linalg.norm(W[:, j]) ** 2
        W, E = W - np.outer(W[:, j], row), E - np.outer(E[:, j], row)
        left = np.ones(300, dtype=bool)
        left[[0, 17, 5]] = False
        np.testing.assert_allclose(d.w2[left], linalg.column_norms2(W)[left], rtol=1e-9)
        np.testing.assert_allclose(d.e2[left], linalg.column_norms2(E)[left], rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_projection_dpp_draws_by_what_is_left_of_each_row(monkeypatch, dtype):
    rng = np.random.default_rng(0)
    V = rng.standard_normal((12, 5)).astype(dtype)
    if dtype == np.complex128:
        V += 1j * rng.standard_normal((12, 5))
    V[6:] = V[:6] + 1e-6 * V[6:]  # what is left of a row after its neighbour is drawn would cancel
    V = np.linalg.qr(V)[0]
    weights, plain = [], sampling.draw
    monkeypatch.setattr(sampling, "draw", lambda d, rng: weights.append(d.copy()) or plain(d, rng))
    J = projection_dpp(V, rng)
    for t, d in enumerate(weights):
        left = V.conj().T.copy()
        if t:
            left = linalg.project_off(left, np.linalg.qr(left[:, J[:t]])[0])
        left[:, J[:t]] = 0
        np.testing.assert_allclose(d, np.linalg.norm(left, axis=0) ** 2, rtol=1e-7)


def test_projection_dpp_draws_by_squared_volume():
    rng = np.random.default_rng(0)
    V = np.linalg.qr(rng.standard_normal((5, 2)))[0]
    counts = np.zeros((5, 5))
    for _ in range(4000):
        counts[tuple(sorted(projection_dpp(V, rng)))] += 1
    law = np.array([[np.linalg.det(V[[i, j]]) ** 2 if i < j else 0 for j in range(5)] for i in range(5)])
    np.testing.assert_allclose(counts / 4000, law, atol=5 * np.sqrt(0.25 / 4000))


def test_a_target_of_few_columns_beside_a_wide_matrix(fold):
    rng = np.random.default_rng(4)
    A = np.ascontiguousarray(tall(rng).T)
    B = A @ rng.standard_normal((M, 3)) + rng.standard_normal((N, 3))
    found = []
    for on in (False, True):
        fold(on)
        found.append([select(A, k, "local_search", target=B).indices.tolist() for k in range(1, N)])
    assert found[0] == found[1]


def wide_with_ties(large):
    """Unit vectors, `large` a dictionary of place and vector, among columns that are never the highest."""
    A = np.full((3, 30), 0.01)
    for j, (i, height) in large.items():
        A[:, j] = height * np.eye(3)[i]
    return A


@pytest.mark.parametrize(
    ("large", "pivots"),
    [
        ({0: (1, 1), 6: (2, 1), 29: (0, 2)}, [29, 6]),  # 29 and 0 change places, so 6 comes before 0
        ({5: (1, 1), 6: (2, 1), 29: (0, 2)}, [29, 5]),
        ({5: (1, 1), 6: (2, 1), 29: (0, 2), 28: (0, 1.5)}, [29, 5]),
    ],
)
def test_pivots_of_lapack_where_columns_tie(fold, large, pivots):
    A = wide_with_ties(large)
    assert scipy.linalg.qr(A, mode="r", pivoting=True)[1][:2].tolist() == pivots
    fold(True)
    assert select(A, 2, "pivoted_qr").indices.tolist() == pivots


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
def test_pivots_of_lapack_from_few_columns(fold, dtype, monkeypatch):
    fold(True)
    sizes, plain = [], scipy.linalg.qr
    monkeypatch.setattr(
        pivoted_qr,
        "scipy",
        SimpleNamespace(
            linalg=SimpleNamespace(qr=lambda X, **more: sizes.append(X.shape[1]) or plain(X, **more))
        ),
    )
    for seed in range(100):
        rng = np.random.default_rng(seed)
        A = np.ascontiguousarray(tall(rng, dtype, 200, 6).T)
        expected = plain(A, mode="r", pivoting=True)[1][:4]
        assert select(A, 4, "pivoted_qr").indices.tolist() == expected.tolist()
    assert np.median(sizes) < 15


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("apart", [0, 12])
def test_scores_are_bounded_in_half_precision(fold, monkeypatch, dtype, apart):
    """From below at every step, also where many singular values are nearly equal, and close enough to tell columns apart."""
    fold(True)
    monkeypatch.setattr(volume_derandomized, "APART", apart)
    rng = np.random.default_rng(0)
    m, n, k = 12, 400, 6
    s = np.append([30, 10, 3], 0.5 - 2e-5 * np.arange(m - 3))
    U, V = (np.linalg.qr(rng.standard_normal((size, m)))[0] for size in (m, n))
    A = U * s @ V.T
    if dtype == np.complex128:
        A = A * np.exp(1j * rng.standard_normal(n))
    V = _Screened.of(rest(Problem(A=A, k=k, candidates=np.ones(n, dtype=bool))))
    s = V.s
    for t in range(k - 1):
        s = s[s > 1e-10]
        V2 = np.abs(V.columns(np.arange(n))[: s.size]) ** 2
        low, high, scale = _weights(s**2, k - t - 1)
        score = scale * (high @ V2) / (low @ V2)
        for bar in np.quantile(score, [0.01, 0.3]):
            w = scale * high - bar * low
            (least, error), exact = V._sums(w), w / np.abs(w).max() @ V2
            assert error < 1e-3
            assert np.all(least - error * V.start <= exact)
            if apart:
                assert np.all(least + error * V.start >= exact)
        j = int(rng.integers(n))
        q = s * V.columns([j])[: s.size, 0]
        q = q / np.linalg.norm(q)
        _, s, Zh = np.linalg.svd((np.eye(s.size) - np.outer(q, q.conj())) * s)
        V.rotate(Zh)


def test_every_column_is_left_with_rounding_of_its_own_norm(monkeypatch):
    monkeypatch.setattr(linalg, "CACHED", 60)
    monkeypatch.setattr(linalg, "COLUMNS", 3)
    rng = np.random.default_rng(0)
    Q, rest_ = np.split(np.linalg.qr(rng.standard_normal((20, 7)))[0], [4], axis=1)
    G, H = rng.standard_normal((4, 50)), rng.standard_normal((3, 50)) * 10.0 ** -rng.integers(0, 9, 50)
    scale = 10.0 ** rng.integers(-6, 7, 50)
    energies, norms2 = linalg.left_after(Q, (Q @ G + rest_ @ H) * scale)
    eps = np.finfo(float).eps
    error = np.abs(np.sqrt(norms2[1]) - scale * np.linalg.norm(H, axis=0))
    assert np.all(error <= 20 * eps * np.sqrt(norms2[0]))
    np.testing.assert_allclose(energies, np.sum((G * scale) ** 2, axis=1), rtol=1e-13)
    np.testing.assert_allclose(
        norms2[0], scale**2 * (np.sum(G**2, axis=0) + np.sum(H**2, axis=0)), rtol=1e-13
    )
