"""Interlacing polynomials against their definition: sums over all subsets, and errors of all subsets."""

import itertools
import math

import mpmath
import numpy as np
import oracles
import pytest

from cssp import bounds, select
from cssp.bounds.interlacing import largest_root, secular_roots
from cssp.matrices import MATRICES


def spectral_error(A, S):
    return float(np.linalg.norm(oracles.residual_matrix(A, list(S)), 2) ** 2)


def mean_polynomial(A, k, given=()):
    """Sum over the k-subsets S that contain `given` of det(A_SᴴA_S) det(x - E_S E_Sᴴ), highest power first."""
    total = np.zeros(A.shape[0] + 1)
    for S in itertools.combinations(range(A.shape[1]), k):
        if set(given) <= set(S):
            E = oracles.residual_matrix(A, list(S))
            volume = np.linalg.det(A[:, S].conj().T @ A[:, S]).real
            total += volume * np.poly(np.linalg.eigvalsh(E @ E.conj().T)).real
    return total


def root_of(polynomial):
    return float(np.max(np.roots(polynomial).real))


def gaussian(m, n, seed, complex_=False):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((m, n)) + (1j * rng.standard_normal((m, n)) if complex_ else 0)


@pytest.mark.parametrize("complex_", [False, True])
@pytest.mark.parametrize(("m", "n", "k"), [(4, 6, 1), (4, 6, 2), (5, 5, 3), (6, 4, 2)])
def test_the_mean_polynomial_is_the_derivative_whose_roots_are_inverted(m, n, k, complex_):
    A = gaussian(m, n, 3, complex_)
    P = mean_polynomial(A, k)
    s2 = np.linalg.svd(A, compute_uv=False) ** 2
    Q = np.polynomial.Polynomial([1.0])
    for x in s2:
        Q *= np.polynomial.Polynomial([1.0, -x])
    Q = Q.deriv(k).coef  # ascending in t = 1/x: highest power of x first
    np.testing.assert_allclose(P[: Q.size] / P[0], Q / Q[0], rtol=1e-9)
    assert largest_root(s2, k) == pytest.approx(root_of(P), rel=1e-6)
    assert bounds.interlacing_spectrum(np.sqrt(s2), k) * s2[k] == pytest.approx(root_of(P), rel=1e-6)


def test_roots_to_the_last_digits_of_graded_spectra():
    """Against mpmath, over thirty decades; equal values and zeros included."""
    mpmath.mp.dps = 120
    for x in ([1e30, 1e20, 1e10, 1.0, 1e-10], [4.0, 4.0, 1.0, 1e-9, 1e-9], [1e16, 1.0, 1.0, 1.0, 1.0]):
        q = [mpmath.mpf(1)]
        for value in x:  # ascending coefficients of prod (1 - x t)
            q = [a - mpmath.mpf(value) * b for a, b in zip([*q, 0], [0, *q], strict=True)]
        for k in (1, 2, 3, 4):
            d = [c * math.perm(i, k) for i, c in enumerate(q) if i >= k]
            roots = mpmath.polyroots(d[::-1], maxsteps=500, extraprec=2000, error=False)
            least = min(mpmath.re(t) for t in roots)
            assert largest_root(np.array(x), k) == pytest.approx(float(1 / least), rel=1e-11)
    assert secular_roots(np.array([3.0, 1.0, 0.0]), np.array([1.0, 1.0, 0.0])).tolist()[1] == 0
    assert largest_root(np.array([3.0, 1.0]), 2) == 0


@pytest.mark.parametrize("complex_", [False, True])
def test_eigenvalues_of_a_compression(complex_):
    for seed in range(5):
        x = np.sort(np.random.default_rng(seed).uniform(0.1, 3, 6))[::-1]
        q = gaussian(6, 1, seed, complex_)[:, 0]
        q[seed] = 0
        q /= np.linalg.norm(q)
        P = np.eye(6) - np.outer(q, q.conj())
        want = np.linalg.eigvalsh(P @ np.diag(x) @ P)[::-1][:5]
        np.testing.assert_allclose(secular_roots(x, np.abs(q) ** 2), want, rtol=1e-10)


@pytest.mark.parametrize("complex_", [False, True])
def test_the_picks_are_those_of_the_definition(complex_):
    for seed in range(6):
        A = gaussian(4, 6, seed, complex_)
        S = []
        for _ in range(3):
            roots = {j: root_of(mean_polynomial(A, 3, [*S, j])) for j in range(6) if j not in S}
            S.append(min(roots, key=roots.get))
        assert select(A, 3, "interlacing").indices.tolist() == S


def test_the_largest_root_never_rises():
    """The theorem's induction: some next column does not raise it, in every state."""
    for seed in range(3):
        A = gaussian(4, 6, seed) * [1, 1, 3, 1, 0.1, 1]
        for k in (2, 3):
            for t in range(k):
                for S in itertools.combinations(range(6), t):
                    after = [root_of(mean_polynomial(A, k, [*S, j])) for j in range(6) if j not in S]
                    assert min(after) <= root_of(mean_polynomial(A, k, S)) * (1 + 1e-7)


def test_some_columns_and_those_found_are_within_the_bound():
    rng, seen = np.random.default_rng(0), 0.0
    for name, family in MATRICES.items():
        for m, n, k in ((5, 6, 2), (6, 6, 3), (7, 5, 1), (4, 3, 2)):
            if not family.fits(m, n, k):
                continue
            A = family(m, n, k, rng)
            s = np.linalg.svd(A, compute_uv=False)
            if s.size <= k or s[k] < 1e-6 * s[0]:
                continue
            limit = bounds.interlacing_spectrum(s, k)
            assert limit <= bounds.interlacing(*A.shape, k) * (1 + 1e-9), name
            found = spectral_error(A, select(A, k, "interlacing").indices) / s[k] ** 2
            best = min(spectral_error(A, S) for S in itertools.combinations(range(A.shape[1]), k)) / s[k] ** 2
            assert best * (1 - 1e-9) <= found <= limit * (1 + 1e-6), name
            seen = max(seen, found / limit)
    assert seen > 0.99


def test_the_factor_is_the_limit_of_large_leading_values_and_below_that_of_volumes():
    for m, k in ((3, 1), (6, 2), (6, 4), (9, 3), (9, 7), (12, 6)):
        s = np.r_[np.full(k, 1e8), np.ones(m - k)]
        assert bounds.interlacing(m, m + 3, k) == pytest.approx(bounds.interlacing_spectrum(s, k), rel=1e-9)
        less = np.r_[np.full(k, 2.0), np.linspace(1, 0.5, m - k)]
        assert bounds.interlacing_spectrum(less, k) < bounds.interlacing(m, m, k)
    for m in range(2, 30):
        for k in range(1, m):
            ratio = bounds.interlacing(m, m, k) / bounds.exact_spectral(m, k)
            assert ratio == pytest.approx(1) if k in (1, m - 1) else ratio < 1 - 1e-3
    assert bounds.interlacing(5, 9, 5) == 1
    assert bounds.interlacing_spectrum([1.0, 1.0], 2) == math.inf
    with pytest.raises(ValueError, match="at least k = 2 positive"):
        bounds.interlacing_spectrum([1.0, 0.0], 2)


def test_the_tolerance_and_columns_equal_to_others():
    A = gaussian(8, 5, 0)[:, [0, 1, 1, 2, 3, 4, 0]] * [1, 1, 1, 0.1, 1e-3, 1e-4, 1]
    s = select(A, tol=1e-2, method="interlacing")
    assert s.relative_error <= 1e-2 < select(A, s.k - 1, "interlacing").relative_error
    assert len({[0, 1, 1, 2, 3, 4, 0][j] for j in select(A, 5, "interlacing").indices}) == 5
