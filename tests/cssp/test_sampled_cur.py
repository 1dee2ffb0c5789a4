"""CUR from sampled rows: what is read, the theorem from both sides, the draw of rows, and what is refused."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
from optional import torch

import cssp
from cssp import CsspError, bounds, sampled_cur


class Counted:
    """A matrix that counts what is read of it."""

    def __init__(self, A):
        self.A, self.shape, self.read = A, A.shape, 0

    def __getitem__(self, index):
        part = self.A[index]
        self.read += part.size
        return part


def low_rank(seed, m, n, k, noise=0.0):
    g = np.random.default_rng(seed)
    return g.standard_normal((m, k)) @ g.standard_normal((k, n)) + noise * g.standard_normal((m, n))


def coherent(seed, m, n, k):
    """Singular vectors that differ much in length from row to row, small singular values that are not noise alone."""
    g = np.random.default_rng(seed)
    U = np.linalg.qr(g.standard_normal((m, n)) * 10.0 ** g.uniform(-2, 0, (m, 1)))[0]
    V = np.linalg.qr(g.standard_normal((n, n)) * 10.0 ** g.uniform(-2, 0, (n, 1)))[0]
    return (U * np.concatenate([np.ones(k), 10.0 ** -g.uniform(1, 3, n - k)])) @ V.T


# ---- what is read


@pytest.mark.parametrize("rounds", [1, 3])
def test_it_reads_sampled_rows_and_chosen_ones_alone(rounds):
    read = {}
    for size in (1000, 2000):
        A = Counted(low_rank(0, size, size, 5, 1e-8))
        found = sampled_cur(A, 5, 20, rounds=rounds, rng=0)
        assert found.read == A.read
        assert A.read <= rounds * (20 * size + 5 * size) + 5 * size + 5 * (rounds - 1) * size
        read[size] = A.read
        found.estimate(10, rng=1)
        assert A.read == read[size] + 10 * size
    assert read[2000] == pytest.approx(2 * read[1000], rel=0.02)
    assert sampled_cur(Counted(low_rank(0, 2000, 2000, 5)), 5, rng=0).read <= 0.02 * 2000**2


def test_a_matrix_of_low_rank_is_found_exactly():
    for seed in range(20):
        A = low_rank(seed, 90, 70, 6)
        for k in (6, 9):
            found = sampled_cur(A, k, rng=seed)
            assert len(found.columns) == len(found.rows) == 6
            np.testing.assert_allclose(found.reconstruct(), A, atol=1e-10)
            assert found.certificate().ratio == 1
    assert np.all(sampled_cur(np.zeros((9, 7)), 3).reconstruct() == 0)


# ---- the choice


@pytest.mark.parametrize("kind", ["real", "complex", "float32", "tall"])
def test_columns_and_rows_are_those_of_strong_rrqr(kind):
    A = low_rank(1, 80, 60, 8, 0.1)
    A = {"complex": A + 1j * A[::-1], "float32": A.astype(np.float32), "tall": A[:, :9]}.get(kind, A)
    found = sampled_cur(A, 6, 30, f=1.5, rng=3)
    X = A.astype(np.result_type(A.dtype, np.float64))
    assert len(found.sampled) == 30
    chosen = cssp.select(X[found.sampled], 6, "strong_rrqr", f=1.5).indices
    np.testing.assert_array_equal(found.columns, chosen)
    Q = np.linalg.qr(X[:, chosen])[0]
    np.testing.assert_array_equal(found.rows, cssp.select(Q.conj().T, 6, "strong_rrqr", f=1.5).indices)
    np.testing.assert_array_equal(found.C, X[:, found.columns])
    np.testing.assert_array_equal(found.R, X[found.rows])
    np.testing.assert_allclose(found.U, np.linalg.inv(X[np.ix_(found.rows, found.columns)]), rtol=1e-7)
    np.testing.assert_allclose(found.CU, found.C @ found.U, atol=1e-9)
    np.testing.assert_allclose(found.CU[found.rows], np.eye(6), atol=1e-12)
    assert found.growth == pytest.approx(np.linalg.norm(np.linalg.inv(Q[found.rows]), 2) ** 2)
    assert 1 <= found.growth <= bounds.strong_rrqr_basis(80, 6, 1.5)


def test_further_rounds_add_new_rows_to_those_found():
    A = low_rank(2, 60, 50, 5, 0.1)
    first, second = (sampled_cur(A, 5, 10, rounds=r, rng=4) for r in (1, 2))
    assert set(first.rows) <= set(second.sampled)
    assert not set(second.sampled) <= set(first.rows) | set(first.sampled)
    # Ten rows hold six directions more, and a sample of twelve misses most of them; the columns found show where they are.
    A = low_rank(3, 400, 50, 6, 1e-3)
    A[::40] += low_rank(4, 10, 50, 6)
    errors = [
        np.median([sampled_cur(A, 12, 12, rounds=r, rng=seed).estimate(400) for seed in range(10)])
        for r in (1, 5)
    ]
    assert errors[1] < errors[0] / 2


def test_a_cross_that_is_ill_conditioned_is_still_rebuilt():
    x = np.linspace(1, 2, 300)
    A = 1 / (x[:, None] + x)
    found = sampled_cur(A, 7, rng=0)
    error = np.linalg.norm(A - found.reconstruct())
    assert error <= 1e3 * np.linalg.svd(A, compute_uv=False)[7]
    assert error <= 1e-3 * np.linalg.norm(A - found.C @ (found.U @ found.R))


@pytest.mark.parametrize("storage", ["csr", "csc", "torch", "memory map", "fortran", "integers"])
def test_other_storages_give_the_same(storage, tmp_path):
    A = np.round(10 * low_rank(5, 60, 40, 5, 0.1)) * (np.random.default_rng(0).random((60, 40)) < 0.7)
    if storage == "torch" and torch is None:
        pytest.skip("torch is not installed")
    np.save(tmp_path / "a.npy", A)
    stored = {
        "csr": lambda: sp.csr_array(A),
        "csc": lambda: sp.csc_matrix(A),
        "torch": lambda: torch.as_tensor(A),
        "memory map": lambda: np.load(tmp_path / "a.npy", mmap_mode="r"),
        "fortran": lambda: np.asfortranarray(A),
        "integers": lambda: A.astype(int),
    }[storage]()
    ours, expected = sampled_cur(stored, 5, rng=1), sampled_cur(A, 5, rng=1)
    for name in ("columns", "rows", "sampled", "C", "R", "CU"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(expected, name))
    assert ours.certificate().ratio == pytest.approx(expected.certificate().ratio)


# ---- the theorem


@pytest.mark.parametrize(
    "make", [coherent, lambda s, m, n, k: low_rank(s, m, n, k, 0.05)], ids=["coherent", "noise"]
)
def test_the_theorem_holds_in_both_norms(make):
    """Columns alone and the whole cross, with what the theorem asks for computed by definition."""
    for seed in range(300):
        g = np.random.default_rng(seed)
        m, n, k = int(g.integers(12, 30)), int(g.integers(8, 12)), int(g.integers(1, 5))
        A = make(seed, m, n, k)
        f = float(g.choice([1.0, 2.0, 4.0]))
        found = sampled_cur(A, k, int(g.integers(k, m + 1)), f=f, rng=seed)
        U, s, Vt = np.linalg.svd(A)
        E = A - (U[:, :k] * s[:k]) @ Vt[:k]
        inverse = max(1.0, np.linalg.norm(np.linalg.pinv(U[found.sampled, :k]), 2) ** 2)
        P = np.linalg.qr(A[:, found.columns])[0]
        for order in ("fro", 2):
            size = np.linalg.norm(E, order) ** 2
            share = np.linalg.norm(E[found.sampled], order) ** 2 / size
            factor = bounds.strong_rrqr_of_rows(n, k, inverse, min(share, 1.0), max(f, 1.001))
            assert np.linalg.norm(A - P @ (P.T @ A), order) ** 2 <= factor * size * (1 + 1e-9)
            assert np.linalg.norm(A - found.reconstruct(), order) ** 2 <= found.growth * factor * size * (
                1 + 1e-9
            )
        c = found.certificate()
        assert c.squared_optimum == pytest.approx(np.sum(s[k:] ** 2))
        assert c.ratio == pytest.approx(np.linalg.norm(A - found.reconstruct()) ** 2 / np.sum(s[k:] ** 2))
        size, part = np.linalg.norm(E) ** 2, np.linalg.norm(E[found.sampled]) ** 2
        wanted = found.growth * bounds.strong_rrqr_of_rows(n, k, inverse, min(part / size, 1.0), f)
        assert c.factor == pytest.approx(wanted, rel=1e-6)
        assert c.ratio <= c.factor
        assert c.holds == "every run"


@pytest.mark.parametrize("u", [0.1, 1e-2, 1e-3])
def test_rows_that_hardly_see_the_singular_vectors_cost_what_the_theorem_says(u):
    """One sampled row u·(1, 1.1), the other (1, 0): the wrong column is chosen, and the loss grows like 1/u²."""
    A = np.array([[u, 1.1 * u], [1.0, 0.0]])
    rows = next(r for r in (sampled_cur(A, 1, 1, rng=seed) for seed in range(99)) if r.sampled == [0])
    assert rows.columns == [1]
    U, s, _ = np.linalg.svd(A)
    loss = np.linalg.norm(A - rows.C @ np.linalg.pinv(rows.C) @ A, 2) ** 2 / s[1] ** 2
    factor = bounds.strong_rrqr_of_rows(2, 1, U[0, 0] ** -2)
    assert 0.8 / u**2 < loss < factor < 26 / u**2
    assert loss > bounds.strong_rrqr_of_rows(2, 1, 1.0)  # without the inverse it does not hold


def test_the_factor_by_hand():
    assert bounds.strong_rrqr_of_rows(7, 2, 3.0, 0.5, f=1.5) == (1 + 1.5**2 * 2 * 5) * (1 + 4 * 3 * 0.5)
    assert bounds.strong_rrqr_of_rows(7, 2, np.inf, 0.0) == bounds.strong_rrqr(7, 2)
    for wrong in ({"inverse": 0.5}, {"inverse": 2.0, "share": 1.5}, {"inverse": 2.0, "share": -0.1}):
        with pytest.raises(ValueError, match="must lie in"):
            bounds.strong_rrqr_of_rows(7, 2, **wrong)


# ---- the draw of rows


def inverses(U, r, draws):
    """‖U[I]⁺‖² for rows I drawn without replacement."""
    g = np.random.default_rng(0)
    smallest = [
        np.linalg.svd(U[g.choice(len(U), r, replace=False)], compute_uv=False)[-1] for _ in range(draws)
    ]
    return np.array(smallest) ** -2.0


@pytest.mark.parametrize("coherence", [1.0, 3.0])
@pytest.mark.parametrize(("r", "failure"), [(60, 0.3), (100, 0.3), (100, 0.02)])
def test_sampled_rows_see_the_basis(coherence, r, failure):
    """Rows of equal length; and a share 1/coherence of them, times its root, the others zero."""
    m, k, draws = 240, 3, 2000
    t = np.arange(int(m / coherence)) * 2 * np.pi / (m / coherence)
    U = np.zeros((m, k))
    U[: len(t)] = np.stack([np.full(len(t), 0.5**0.5), np.cos(t), np.sin(t)], 1)
    U /= np.linalg.norm(U, axis=0)
    assert m / k * np.max(np.sum(U**2, 1)) == pytest.approx(coherence)
    bound = bounds.sampled_rows(m, k, r, coherence, failure)
    missed = np.mean(inverses(U, r, draws) > bound)
    assert missed <= failure + 4 * (failure / draws) ** 0.5
    assert m / r < bound


def test_the_draw_fails_as_often_as_it_may_where_k_is_one():
    """k = 1: a basis of few equal entries. The count of rows that hit is hypergeometric, and the bound is Chernoff's."""
    m, r = 400, 80
    U = np.zeros((m, 1))
    U[:40] = 40**-0.5
    for failure in (0.5, 0.1):
        bound = bounds.sampled_rows(m, 1, r, 10.0, failure)
        least = 40 / bound  # so many rows must be hit, of 8 in the mean
        hits = np.random.default_rng(1).hypergeometric(40, m - 40, r, 4000)
        assert 0 < np.mean(hits < least) <= failure
        assert bound > bounds.sampled_rows(m, 1, r, 1.0, failure)
    # What is true with coherence 10 is false with 1.
    assert np.mean(hits < 40 / bounds.sampled_rows(m, 1, r, 1.0, 0.001)) > 0.05


def test_too_few_rows_promise_nothing():
    assert bounds.sampled_rows(100, 5, 4) == np.inf
    assert bounds.sampled_rows(100, 5, 100) == 1
    values = [bounds.sampled_rows(1000, 5, r) for r in range(20, 1000, 20)]
    assert all(a >= b for a, b in itertools.pairwise(values))
    # The equation itself: k exp(-(r/(coherence k)) (1 - t + t log t)) = failure.
    t = 1000 / (200 * bounds.sampled_rows(1000, 5, 200, 2.0, 0.05))
    assert 5 * np.exp(-200 / 10 * (1 - t + t * np.log(t))) == pytest.approx(0.05)
    for wrong in ((100, 5, 101), (100, 0, 5), (100, 5, 50, 0.5), (100, 5, 50, 21.0), (100, 5, 50, 1.0, 0.0)):
        with pytest.raises(ValueError, match="must"):
            bounds.sampled_rows(*wrong)


# ---- the estimate


def test_the_estimate_is_exact_on_all_rows_and_about_right_on_some():
    A = low_rank(6, 300, 100, 5, 0.01)
    found = sampled_cur(A, 5, rng=0)
    error = np.linalg.norm(A - found.reconstruct()) / np.linalg.norm(A)
    assert found.estimate(300) == pytest.approx(error)
    few = np.array([found.estimate(30, rng=seed) for seed in range(200)])
    assert np.mean(few**2) == pytest.approx(error**2, rel=0.1)
    assert found.estimate(rng=3) == found.estimate(20, rng=3)
    assert sampled_cur(np.zeros((9, 7)), 3).estimate() == 0


def test_what_the_rank_of_the_sample_cannot_see_is_no_factor():
    A = np.zeros((50, 6))
    A[0] = [1, 2, 3, 4, 5, 6]
    A[1:, 0] = 1
    found = next(f for f in (sampled_cur(A, 2, 3, rng=s) for s in range(9)) if 0 not in f.sampled)
    assert len(found.columns) == 1
    assert found.certificate().ratio > 1
    assert "SampledCUR(A: 50 x 6, 1 columns and rows" in repr(found)


# ---- refusals


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"k": 0}, "k = 0: must be between 1 and 7"),
        ({"k": 8}, "k = 8: must be between 1 and 7"),
        ({"sample": 2}, "sample = 2: must be between 3 and 9"),
        ({"sample": 10}, "sample = 10: must be between 3 and 9"),
        ({"rounds": 0}, "rounds = 0: must be at least 1"),
        ({"f": 0.5}, "f = 0.5: expected a number of at least 1"),
        ({"A": np.ones(5)}, r"A has shape \(5,\): expected \(m, n\)"),
        ({"A": [[1.0, 2.0], [3.0, 4.0]]}, "A is a list: expected an array, or an object with a shape"),
        ({"A": sp.linalg.aslinearoperator(np.ones((9, 7)))}, "A is a .*Operator: expected an array"),
        ({"A": np.full((9, 7), np.nan)}, "A has NaN in column 0; expected finite numbers"),
        ({"A": np.full((9, 7), "x")}, "expected numbers"),
    ],
)
def test_refusals(arguments, words):
    with pytest.raises(CsspError, match=words):
        sampled_cur(**{"A": np.ones((9, 7)), "k": 3, "rng": 0} | arguments)


@pytest.mark.parametrize("scale", [1e-300, 1e-170, 1e155, 1e200])
def test_the_certificate_does_not_depend_on_the_unit(scale):
    X = np.random.default_rng(0).standard_normal((6, 2)) @ np.ones((2, 5)) + 0.1 * np.random.default_rng(
        1
    ).random((6, 5))
    for make in (lambda Y: sampled_cur(Y, 2, rng=0), lambda Y: cssp.cur(Y, 2), lambda Y: cssp.cur(Y, 2, 3)):
        expected, found = make(X).certificate(), make(X * scale).certificate()
        assert expected.ratio > 1.01
        assert found.ratio == pytest.approx(expected.ratio, rel=1e-9)
        assert found.factor == pytest.approx(expected.factor, rel=1e-9)


def test_objects_that_do_not_give_what_they_are_asked_for():
    class Short(Counted):
        def __getitem__(self, index):
            return self.A[0]

    class Closed(Counted):
        def __getitem__(self, index):
            raise TypeError("a slice was expected")

    class Broken(Counted):
        def __getitem__(self, index):
            raise NotImplementedError

    unmeasured = Counted(np.ones((12, 8)))
    unmeasured.shape = None
    with pytest.raises(CsspError, match=r"A\[rows\] cannot be taken: NotImplementedError"):
        sampled_cur(Broken(np.ones((12, 8))), 3)
    with pytest.raises(CsspError, match=r"A has shape None: expected \(m, n\)"):
        sampled_cur(unmeasured, 3)
    with pytest.raises(CsspError, match=r"12 rows of A came with shape \(8,\): expected \(12, 8\)"):
        sampled_cur(Short(np.ones((12, 8))), 3)
    with pytest.raises(CsspError, match=r"A\[rows\] cannot be taken: a slice was expected"):
        sampled_cur(Closed(np.ones((12, 8))), 3)
    frame = pytest.importorskip("pandas").DataFrame(np.ones((12, 8)))
    with pytest.raises(CsspError, match=r"A is a DataFrame: expected an array; pass A.to_numpy\(\)"):
        sampled_cur(frame, 3)
