"""Every generator has the spectrum and the property it claims."""

import doctest
import importlib
import itertools
import math

import numpy as np
import pytest
import scipy.linalg

from cssp import bounds, matrices
from cssp.matrices import MATRICES

SIZES = [(12, 10, 3), (8, 15, 4), (20, 12, 5), (5, 4, 1), (30, 29, 2)]


def singular_values(A):
    return np.linalg.svd(A, compute_uv=False)


def frobenius(A, S):
    Q = np.linalg.qr(A[:, list(S)])[0]
    E = A - Q @ (Q.T @ A)
    return float(np.sum((E - Q @ (Q.T @ E)) ** 2))


def best_ratio(A, k):
    best = min(frobenius(A, S) for S in itertools.combinations(range(A.shape[1]), k))
    return best / np.sum(singular_values(A)[k:] ** 2)


def pivots(A):
    return scipy.linalg.qr(A, mode="r", pivoting=True)[1]


@pytest.mark.parametrize("name", ["adversarial", "spectra", "suite", "table"])
def test_doctests(name):
    assert doctest.testmod(importlib.import_module(f"cssp.matrices.{name}")).failed == 0


# ---------------------------------------------------------------- the table


@pytest.mark.parametrize("name", MATRICES)
def test_family_is_uniform(name):
    family = MATRICES[name]
    assert family.name == name
    assert family.separates
    built = 0
    for m, n, k in SIZES:
        if not family.fits(m, n, k):
            assert family.needs
            with pytest.raises(ValueError, match=name):
                family(m, n, k)
            continue
        built += 1
        A = family(m, n, k, rng=7)
        assert A.shape == (m, n)
        assert A.dtype == np.float64
        assert np.all(np.isfinite(A))
        assert np.any(A)
        np.testing.assert_array_equal(A, family(m, n, k, rng=7))
        np.testing.assert_array_equal(A, family(m, n, k, rng=np.random.default_rng(7)))
        A[0, 0] = 5.0  # a fresh, writable array
        assert family(m, n, k).shape == (m, n)
    assert built


def test_global_random_state_is_untouched():
    np.random.seed(3)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    for family in MATRICES.values():
        family(15, 12, 3)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize(("m", "n", "k"), [(0, 3, 1), (3, 3, 0), (3, 3, 4), (3, 2.0, 1)])
def test_family_refuses_impossible_sizes(m, n, k):
    with pytest.raises(ValueError, match="must be"):
        MATRICES["gaussian"](m, n, k)


# ---------------------------------------------------------------- known spectrum and alignment


@pytest.mark.parametrize("basis", ["haar", "incoherent", "coherent", "spiky"])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (6, 6), (7, 7), (6, 5), (9, 4), (40, 3)])
def test_bases_are_orthonormal(basis, n, k):
    V = getattr(matrices, basis)(n, k, 0)
    assert V.shape == (n, k)
    np.testing.assert_allclose(V.T @ V, np.eye(k), atol=1e-13)
    with pytest.raises(ValueError, match="k must"):
        getattr(matrices, basis)(n, n + 1)


@pytest.mark.parametrize(("n", "k"), [(6, 6), (7, 7), (6, 5), (9, 4), (40, 3)])
def test_incoherent_basis_has_flat_leverage_and_no_good_block(n, k):
    for rng in (None, 5):
        V = matrices.incoherent(n, k, rng)
        np.testing.assert_allclose(np.sum(V**2, axis=1), k / n, atol=1e-13)
        for S in itertools.islice(itertools.combinations(range(n), k), 50):
            assert singular_values(V[list(S)])[-1] ** 2 <= k / n + 1e-12


def test_coherent_and_spiky_leverage():
    for seed in range(5):
        scores = np.sort(np.sum(matrices.coherent(60, 4, seed) ** 2, axis=1))[::-1]
        assert scores[3] > 0.99
        assert scores[4] < 1e-3
        scores = np.sort(np.sum(matrices.spiky(60, 4, seed) ** 2, axis=1))[::-1]
        assert scores[1] > 0.999
        assert scores[2] < 0.9


def test_haar_is_invariant_in_law():
    # E (v_11^2) = 1/n and the sign is symmetric: 4000 draws, 6 standard deviations (failure < 1e-8)
    g = np.random.default_rng(0)
    draws = np.array([matrices.haar(4, 2, g)[0, 0] for _ in range(4000)])
    assert abs(np.mean(draws)) < 6 * 0.5 / math.sqrt(4000)
    assert abs(np.mean(draws**2) - 0.25) < 6 * np.std(draws**2) / math.sqrt(4000)


def test_aligned_has_the_given_spectrum_and_right_vectors():
    s = np.array([9.0, 4.0, 1.0, 0.25])
    V = matrices.spiky(11, 4, rng=2)
    A = matrices.aligned(s, V, m=6, rng=3)
    np.testing.assert_allclose(singular_values(A)[:4], s, rtol=1e-12)
    np.testing.assert_allclose(np.abs(np.linalg.svd(A)[2][:4] @ V), np.eye(4), atol=1e-12)


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: matrices.aligned([1.0], np.eye(3)[:, :2], 3), "V"),
        (lambda: matrices.aligned([-1.0, 1.0], np.eye(3)[:, :2], 3), "s"),
        (lambda: matrices.aligned([1.0, 1.0], np.eye(3)[:, :2], 1), "m"),
        (lambda: matrices.with_spectrum([1.0, 1.0], 3, 1), "s"),
        (lambda: matrices.multi_peak((2, 2), (1.0,)), "scales"),
        (lambda: matrices.duplicated_tail_kahan(3, 3), "n"),
        (lambda: matrices.break9(5, 5), r"min\(m, n\)"),
        (lambda: matrices.kahan(0), "n"),
        (lambda: matrices.basis_only_killer(np.eye(3)), "V"),
    ],
)
def test_wrong_arguments_are_named(call, argument):
    with pytest.raises(ValueError, match=rf"^{argument} must"):
        call()


def spectra(m, n):
    p = min(m, n)
    i = np.arange(p)
    return {
        "graded": np.logspace(0, -14, p),
        "break1": np.where(i < p - 1, 1.0, 1e-9),
        "break9": np.where(i < p - 9, 1.0, 1e-9),
        "devils_stairs": 10.0 ** (-0.6 * (i // 20)),
        "hc": np.concatenate([[100, 10], np.logspace(-2, -8, p - 2)]),
        "exponential": 10.0 ** (-i / 11),
        "polynomial": (i + 1.0) ** -2,
        "step": np.where(i < p // 2, 1.0, 1e-6),
    }


@pytest.mark.parametrize("name", spectra(12, 12))
@pytest.mark.parametrize(("m", "n"), [(45, 45), (30, 50), (50, 30)])
def test_prescribed_spectra(name, m, n):
    A = getattr(matrices, name)(m, n, 1)
    want = spectra(m, n)[name]
    assert A.shape == (m, n)
    np.testing.assert_allclose(singular_values(A), want, rtol=1e-8, atol=1e-14 * want[0])


def test_spiked_spectrum():
    s = singular_values(matrices.spiked(30, 12, 0, spikes=5, scale=50.0))
    np.testing.assert_allclose(s, [50.0] * 5 + [1.0] * 7, rtol=1e-12)
    norms = np.linalg.norm(matrices.spiked(12, 30, 0, spikes=5, scale=50.0), axis=0)
    assert np.sum(norms > 5) == 5


@pytest.mark.parametrize("name", ["low_noise", "high_noise", "step", "coherent", "incoherent", "spiky"])
def test_families_put_their_gap_at_k(name):
    s = singular_values(MATRICES[name](14, 12, 4, rng=0))
    gap = {"low_noise": 1e-5, "high_noise": 0.81, "step": 1e-5}.get(name, 0.101)
    assert s[4] / s[3] < gap
    assert s[3] / s[0] > 0.49


def test_low_rank_and_duplicates():
    assert np.linalg.matrix_rank(MATRICES["low_rank"](14, 12, 6, rng=0)) == 3
    A = MATRICES["duplicates"](14, 12, 4, rng=0)
    assert np.unique(A, axis=1).shape[1] <= 6


# ---------------------------------------------------------------- adversaries


@pytest.mark.parametrize(("n", "low", "high"), [(10, 2.3e2, 3.0e2), (20, 1.9e5, 3.1e5)])
def test_kahan(n, low, high):
    A = matrices.kahan(n)
    assert list(pivots(A)) == list(range(n))
    np.testing.assert_allclose(np.linalg.norm(A, axis=0), 1.0, atol=1e-7)
    ratio = A[-1, -1] / singular_values(A)[-1]
    assert low < ratio < high
    assert ratio < math.sqrt(bounds.pivoted_qr(n, n - 1)) < high


@pytest.mark.parametrize(("k", "tail", "want"), [(1, 3, 2.0000), (2, 4, 4.5825), (3, 8, 12.9997)])
def test_duplicated_tail_kahan(k, tail, want):
    A = matrices.duplicated_tail_kahan(k + tail, k)
    assert sorted(pivots(A)[:k]) == list(range(k))
    ratio = math.sqrt(frobenius(A, range(k))) / singular_values(A)[k]
    assert ratio == pytest.approx(want, abs=1e-4)
    assert ratio == pytest.approx(math.sqrt(bounds.pivoted_qr(k + tail, k)), rel=1e-3)


@pytest.mark.parametrize("k", range(1, 12))
def test_duplicated_tail_kahan_family_stays_above_rounding(k):
    A = MATRICES["duplicated_tail_kahan"](20, 16, k)
    assert sorted(pivots(A)[:k]) == list(range(k))


@pytest.mark.parametrize("k", [1, 2, 3, 6])
@pytest.mark.parametrize("alpha", [1e-3, 0.1, 0.4])
def test_simplex(k, alpha):
    A = matrices.simplex(k, alpha)
    want = [math.sqrt((k + 1) / k)] * k + [alpha * math.sqrt(k + 1)]
    np.testing.assert_allclose(singular_values(A), sorted(want, reverse=True), rtol=1e-9)
    gram = A.T @ A - alpha**2
    np.testing.assert_allclose(gram, np.eye(k + 1) * (1 + 1 / k) - 1 / k, atol=1e-12)
    if alpha**2 <= 1 / k:
        for S in itertools.combinations(range(k + 1), k):
            ratio = frobenius(A, S) / singular_values(A)[k] ** 2
            assert ratio == pytest.approx((k + 1) / (1 + k**2 * alpha**2), rel=1e-7)


def test_multi_peak():
    A = matrices.multi_peak()
    ratios = [best_ratio(A, k) for k in range(1, 6)]
    np.testing.assert_allclose(ratios, [1.0, 2.97, 1.0, 1.0, 2.97], atol=0.01)
    finer = matrices.multi_peak(alpha=0.02)
    assert best_ratio(finer, 2) == pytest.approx(2.99, abs=0.005)
    assert best_ratio(finer, 5) == pytest.approx(2.995, abs=0.002)


@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_star(alpha):
    np.testing.assert_allclose(
        singular_values(matrices.star(6, alpha)), [math.hypot(math.sqrt(6), alpha)] + [alpha] * 5, rtol=1e-12
    )


def test_gks():
    A = matrices.gks(20)
    np.testing.assert_allclose(np.linalg.norm(A, axis=0), 1.0, rtol=1e-13)
    smallest = singular_values(A)[-1]
    assert A[-1, -1] / smallest == pytest.approx(9e4, rel=0.01)
    R = scipy.linalg.qr(A, mode="r", pivoting=True)[0]
    assert 1.3 < abs(R[-1, -1]) / smallest < 1.9


@pytest.mark.parametrize("k", [2, 4, 8, 12])
@pytest.mark.parametrize("phi", [0.3, 0.6, 0.9])
def test_block_kahan_hides_from_singular_values(k, phi):
    M = matrices.block_kahan(k, phi)
    R11, R12, R22 = M[:k, :k], M[:k, k:], M[k:, k:]
    s = singular_values(M)
    assert singular_values(R11)[-1] == pytest.approx(s[k - 1], rel=1e-9)
    assert np.linalg.norm(R22, 2) == pytest.approx(s[k], rel=1e-9)
    growth = np.abs(np.linalg.solve(R11, R12)).max()
    assert growth == pytest.approx(phi * (1 + phi) ** (k - 2), rel=1e-9)


@pytest.mark.parametrize(("copies", "ratio"), [(5, 11), (10, 22), (50, 110), (200, 440), (1000, 2200)])
def test_gain_greedy_killer(copies, ratio):
    A = matrices.gain_greedy_killer(copies)
    best = min(frobenius(A, S) for S in ([0, copies], [0, 2 * copies], [copies, 2 * copies]))
    decoy = 2 * copies
    assert min((0, copies, decoy), key=lambda j: frobenius(A, [j])) == decoy
    greedy = min(frobenius(A, [decoy, j]) for j in (0, copies))
    assert greedy / best == pytest.approx(ratio, rel=1e-3)
    assert frobenius(A, pivots(A)[:2]) / best == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize(("n", "k"), [(8, 2), (13, 3), (21, 4)])
def test_basis_only_killer_beats_every_rule_that_sees_V_alone(n, k):
    V = matrices.incoherent(n, k)
    rules = {
        "osinsky": matrices.basis_only_osinsky,
        "qdeim": lambda V: list(pivots(V.T)[:k]),
        "best": lambda V: max(
            itertools.islice(itertools.combinations(range(n), k), 3000),
            key=lambda S: singular_values(V[list(S)])[-1],
        ),
    }
    for rule in rules.values():
        A = matrices.basis_only_killer(V, rule)
        s = singular_values(A)
        np.testing.assert_allclose(s, [1.0] * k + [1e-4], rtol=1e-9)
        ratio = frobenius(A, rule(V)) / s[k] ** 2
        assert ratio == pytest.approx(bounds.a_posteriori(V[list(rule(V))]), rel=1e-4)
        assert ratio > k + 1
        assert best_ratio(A, k) <= k + 1


def test_leverage_killer_scores():
    A = matrices.leverage_killer(6, 3, rng=1, share=0.3)
    V = np.linalg.svd(A)[2][:3].T
    np.testing.assert_allclose(np.sum(V**2, axis=1), [1, 1, 0.7, 0.3, 0, 0], atol=1e-9)


# ---------------------------------------------------------------- integral equations


def test_foxgood_is_symmetric_and_ill_posed():
    A = matrices.foxgood(40)
    np.testing.assert_array_equal(A, A.T)
    s = singular_values(A)
    assert s[0] == pytest.approx(singular_values(matrices.foxgood(160))[0], rel=1e-3)
    assert s[20] < 1e-12 * s[0]


def test_baart_converges_to_the_operator():
    values = [singular_values(matrices.baart(n))[:3] for n in (40, 80, 160)]
    np.testing.assert_allclose(values[1], values[2], rtol=1e-2)
    assert np.linalg.matrix_rank(matrices.baart(64), tol=1e-12) in range(8, 13)


def test_heat_is_a_discretised_convolution():
    n = 30
    A = matrices.heat(n)
    np.testing.assert_allclose(A, scipy.linalg.toeplitz(A[:, 0], np.r_[A[0, 0], np.zeros(n - 1)]))
    np.testing.assert_allclose(np.diag(A), A[0, 0])
    mass = float(np.sum(A[:, 0]))
    integral = math.erfc(1 / 2)  # of the kernel t^-3/2 exp(-1/(4t)) / (2 sqrt(pi)) over [0, 1]
    assert mass == pytest.approx(integral, rel=1e-3)
    s = singular_values(A)
    assert s[-1] < 1e-12 * s[0]
    assert s[n // 2] > 1e-5 * s[0]
