"""The largest residual against the Kolmogorov width, which is found by brute force where one dimension is left out."""

import itertools
import math

import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp

from cssp import bounds, select, select_gram
from cssp.matrices import MATRICES


def residual_norms(A, S):
    Q = np.linalg.qr(A[:, list(S)])[0]
    return np.linalg.norm(A - Q @ (Q.T @ A), axis=0)


def largest_residual(A, S):
    return float(residual_norms(A, S).max())


def width(A):
    """The width of dimension m - 1: of the best hyperplane m columns are equally far, so that all such are tried."""
    m, n = A.shape
    signs = [(1, *rest) for rest in itertools.product([1, -1], repeat=m - 1)]
    best = np.linalg.norm(A, axis=0).max()
    for S in itertools.combinations(range(n), m):
        if np.linalg.cond(A[:, S]) < 1e12:
            Y = np.linalg.solve(A[:, S].T, np.transpose(signs))
            best = min(best, (np.abs(A.T @ Y).max(axis=0) / np.linalg.norm(Y, axis=0)).min())
    return float(best)


def hyperplanes(m, count):
    """Unit vectors orthogonal to them."""
    Y = np.random.default_rng(0).standard_normal((m, count))
    return Y / np.linalg.norm(Y, axis=0)


def weak_greedy(A, k, gamma, rng):
    """Any column whose residual is at least gamma times the largest, k times."""
    S, E = [], A.copy()
    for _ in range(k):
        h = np.linalg.norm(E, axis=0)
        S.append(int(rng.choice(np.flatnonzero(h >= gamma * h.max()))))
        q = E[:, S[-1]] / h[S[-1]]
        E = E - np.outer(q, q @ E)
    return S


def flat(m, rng):
    """Columns near a hyperplane, some of them of other sizes."""
    A = rng.standard_normal((m, rng.integers(m + 1, 8)))
    A[-1] *= 10.0 ** -rng.uniform(0, 3)
    return np.linalg.qr(rng.standard_normal((m, m)))[0] @ A * rng.uniform(0.2, 1, A.shape[1])


@pytest.mark.parametrize("m", [2, 3, 4])
def test_greedy_width(m):
    rng, worst = np.random.default_rng(m), 0.0
    for _ in range(60):
        A = flat(m, rng)
        d, k = width(A), m - 1
        worst = max(worst, largest_residual(A, select(A, k).indices) / d)
        for gamma in (0.3, 0.7):
            S = weak_greedy(A, k, gamma, rng)
            assert largest_residual(A, S) <= bounds.greedy_width(k, gamma) * d * (1 + 1e-9)
    assert worst <= bounds.greedy_width(m - 1)
    assert worst > 1.3
    assert bounds.greedy_width(m - 1) < 2**m / math.sqrt(3)
    assert bounds.greedy_width(2000) == math.inf


def test_greedy_width_is_nearly_attained_in_the_plane():
    """Two columns at a small angle, halved by the line between them: σ₁ is twice the width, √5 is promised."""
    t = 1e-3
    A = np.array([[1.0, 1.0], [0.0, 2 * t]])
    A[:, 1] /= np.hypot(1, 2 * t) * (1 + 1e-12)
    assert largest_residual(A, select(A, 1).indices) / width(A) == pytest.approx(2, rel=1e-3)


def hypothesis_widths(A):
    """Upper bounds of d_0, d_1, ...: what the singular vectors reach."""
    _, s, Vh = np.linalg.svd(A, full_matrices=False)
    return [bounds.width_upper(s, Vh.T, k) for k in range(s.size)]


@pytest.mark.parametrize("gamma", [1.0, 0.5])
def test_greedy_widths(gamma):
    rng = np.random.default_rng(0)
    for index, (family, rate) in enumerate(itertools.product([*MATRICES.values(), None], [0.3, 1.0])):
        if family is None:
            V = np.linalg.qr(rng.standard_normal((20, 12)))[0]
            A = np.exp(-rate * np.arange(12))[:, None] * V.T
        elif family.fits(12, 20, 6):
            A = family(12, 20, 6, rng=index)
        else:
            continue
        d, top = hypothesis_widths(A), np.linalg.norm(A, axis=0).max()
        for n in range(2, np.linalg.matrix_rank(A) + 1):
            S = weak_greedy(A, n, gamma, rng)
            left = largest_residual(A, S)
            assert left <= bounds.greedy_widths(d[1:], n, gamma, top) * (1 + 1e-9) + 1e-12 * top
            if n % 2 == 0:
                m = n // 2
                assert bounds.greedy_widths(d[1:], n, gamma, top) <= math.sqrt(2 * d[m] * top) / gamma * (
                    1 + 1e-9
                )
    assert bounds.greedy_widths([0.01, 0.01], 2) == pytest.approx(math.sqrt(2 * 0.01))


def test_rates_carry_over():
    """Columns e_j c_j have d_n <= c_{n+1}: algebraic and exponential decay, which the residual rule keeps."""
    n = np.arange(1, 41)
    for alpha in (0.5, 1.0, 2.0):
        A = np.diag(n**-alpha)  # d_k <= (k + 1)^-alpha
        for k in (1, 2, 5, 20, 39):
            bound = bounds.greedy_algebraic(alpha) * float(k) ** -alpha
            assert largest_residual(A, select(A, k).indices) <= bound
    for rate, alpha in ((0.5, 1.0), (2.0, 0.5)):
        A = np.diag(np.exp(-rate * (n - 1.0) ** alpha))  # d_k = e^(-rate k^alpha)
        for k in (2, 3, 8, 39):
            bound = bounds.greedy_exponential(k, rate, alpha)
            assert largest_residual(A, select(A, k).indices) <= bound
            # Not more than the other theorem gives, with the widths themselves.
            d = np.exp(-rate * np.arange(1, 40.0) ** alpha)
            assert bounds.greedy_widths(d, 2 * (k // 2), largest=1.0) <= bound * (1 + 1e-9)
    assert bounds.greedy_algebraic(1.0, 2.0, 0.5) == 64 * 2 * 4


@pytest.mark.parametrize("m", [2, 3, 4])
def test_volume_width(m):
    rng, worst = np.random.default_rng(m), 0.0
    for _ in range(60):
        A = flat(m, rng)
        d, k = width(A), m - 1
        sets = list(itertools.combinations(range(A.shape[1]), k))
        best = max(sets, key=lambda S: np.linalg.det(A[:, S].T @ A[:, S]))
        worst = max(worst, largest_residual(A, best) / d)
        for f in (1.1, 3.0):
            S = select(A, k, "strong_rrqr", f=f).indices
            assert largest_residual(A, S) <= bounds.volume_width(k, f) * d * (1 + 1e-9)
    assert 1.3 < worst <= bounds.volume_width(m - 1)


def test_width_p_norm():
    rng = np.random.default_rng(0)
    for _ in range(40):
        A = flat(3, rng)
        h = select(A, 2).residuals
        for p in (1, 2, 5, math.inf):
            planes = np.abs(A.T @ hyperplanes(3, 20_000))
            best = np.linalg.norm(planes, p, axis=0).min()
            assert np.linalg.norm(h, p) <= bounds.width_p_norm(h.size, p, bounds.greedy_width(2)) * best
    assert bounds.width_p_norm(9, math.inf, 2.0) == 2.0


def adaptive_probabilities(A, k, p):
    """Return the probability of every order of k columns drawn one by one with probability proportional to h^p."""
    found = {(): 1.0}
    for _ in range(k):
        longer = {}
        for S, chance in found.items():
            h = residual_norms(A, S) ** p
            for j in range(A.shape[1]):
                if j not in S:
                    longer[(*S, j)] = chance * h[j] / h.sum()
        found = longer
    return found


@pytest.mark.parametrize("m", [2, 3])
@pytest.mark.parametrize("p", [1, 1.5, 2, 4, 16])
def test_sampling_by_powers_of_residual_norms(m, p):
    """The distributions are written out; the best hyperplane is one of many, whose p-norm is not below the least."""
    rng, k, worst = np.random.default_rng(m), m - 1, 0.0
    planes = hyperplanes(m, 2000)
    for _ in range(20):
        A = flat(m, rng)
        best = float(np.linalg.norm(np.abs(A.T @ planes), p, axis=0).min())
        sets = list(itertools.combinations(range(A.shape[1]), k))
        volumes = np.array([np.linalg.det(A[:, S].T @ A[:, S]) for S in sets]) ** (p / 2)
        norms = np.array([np.linalg.norm(residual_norms(A, S), p) for S in sets])
        mean = float(volumes @ norms**p / volumes.sum()) ** (1 / p)
        worst = max(worst, mean / best)
        assert mean <= bounds.volume_p_norm(k) * best
        assert norms.min() <= mean
        chances = adaptive_probabilities(A, k, p)
        assert sum(chances.values()) == pytest.approx(1)
        drawn = sum(c * np.linalg.norm(residual_norms(A, S), p) ** p for S, c in chances.items()) ** (1 / p)
        assert drawn <= bounds.adaptive_p_norm(k) * best
        per_set = {S: sum(chances[o] for o in itertools.permutations(S)) for S in sets}
        for S, volume in zip(sets, volumes, strict=True):
            assert per_set[S] <= math.factorial(k) ** p * volume / volumes.sum() * (1 + 1e-9)
    assert worst > 1.05
    assert (bounds.volume_p_norm(2), bounds.adaptive_p_norm(2), bounds.adaptive_p_norm(500)) == (
        3,
        6,
        math.inf,
    )


@pytest.mark.parametrize("m", [2, 3, 4])
def test_width_lower_and_width_upper_and_width_of_columns(m):
    rng, tight = np.random.default_rng(m), []
    for _ in range(60):
        A = flat(m, rng)
        d = width(A)
        _, s, Vh = np.linalg.svd(A, full_matrices=False)
        low = bounds.width_lower(s, m - 1, A.shape[1])
        S = [*select(A, m - 1).indices]
        S.append(int(np.argmax(select(A, m - 1).residuals)))
        own = bounds.width_of_columns(A[:, S])
        assert max(low, own) <= d * (1 + 1e-9)
        assert bounds.width_upper(s, Vh.T, m - 1) >= d * (1 - 1e-9)
        tight.append(max(low, own) / d)
    assert np.median(tight) > 0.5
    assert bounds.width_of_columns(np.ones((3, 2))) == 0
    assert bounds.width_of_columns(np.ones((1, 2))) == 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: bounds.greedy_width(2, 0.0), "gamma must lie in"),
        (lambda: bounds.greedy_widths([0.1], 4), r"d_1, ..., d_3 for n = 4, got 1"),
        (lambda: bounds.greedy_widths([-0.1], 2), "none negative"),
        (lambda: bounds.width_upper([1.0], np.eye(2), 1), "one column for each of the 1"),
        (lambda: bounds.width_of_columns(np.ones(3)), r"got shape \(3,\)"),
        (lambda: bounds.volume_width(2, 0.5), "f must lie in"),
    ],
)
def test_wrong_numbers_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


CERTIFIED = {
    "residual": "binev2011",
    "pivoted_qr": "binev2011",
    "strong_rrqr": "gu1996",
    "greedy": None,
    "norm": None,
}


@pytest.mark.parametrize("method", CERTIFIED)
def test_certificate_in_the_max_norm(method):
    rng = np.random.default_rng(0)
    for m in (2, 3, 4):
        A = flat(m, rng)
        s = select(A, m - 1, method, rng=0)
        c, d = s.certificate(), width(A)
        assert c.max_error == pytest.approx(s.residuals.max())
        assert c.width <= d * (1 + 1e-9)
        assert c.max_ratio == pytest.approx(c.max_error / c.width)
        assert c.max_error <= c.max_ratio * d * (1 + 1e-9)
        assert c.max_source == CERTIFIED[method]
        k = m - 1
        promised = {"binev2011": bounds.greedy_width(k), "gu1996": bounds.volume_width(k, 2.0), None: None}
        assert c.max_factor == promised[c.max_source]
        assert ("promises" in c.in_max_norm()) == (c.max_source is not None)
        assert f"{c.max_ratio:.2f} times that of the best space of dimension {k}" in c.in_max_norm()


def test_certificate_in_the_max_norm_where_no_theorem_applies():
    A = flat(4, np.random.default_rng(0))
    assert select(A, 2, include=[0]).certificate().max_factor is None
    c = select(A[:, :5], 2, "greedy", target=A[:, 3:]).certificate()
    s = np.linalg.svd(A[:, 3:], compute_uv=False)
    assert c.width == pytest.approx(np.linalg.norm(s[2:]) / np.sqrt(A.shape[1] - 3))
    c = select(A, 4).certificate()
    assert (c.max_ratio, c.max_error) == (1.0, pytest.approx(0, abs=1e-15))
    assert c.in_max_norm().startswith("The largest residual is at most 1 times")
    batch = select(np.stack([A, 2 * A]), 2).certificate()
    assert batch.max_error == pytest.approx(select(A, 2).certificate().max_error * np.array([1, 2]))
    assert "over 2 matrices" in batch.in_max_norm()
    assert select(np.zeros((0, 3, 4)), 2).certificate().in_max_norm() == "No matrix, no columns."


def test_certificate_in_the_max_norm_of_other_storages():
    A = 1e100 * np.random.default_rng(0).standard_normal((9, 14))
    own = select(A, 4).certificate()
    others = [
        select(sp.csc_array(A), 4).certificate(),
        select(da.from_array(A, chunks=(9, 5)), 4).certificate(),
        select_gram(A.T @ A, 4).certificate(),
    ]
    for c in others:
        for name in ("max_error", "width", "max_ratio", "max_factor"):
            assert getattr(c, name) == pytest.approx(getattr(own, name), rel=1e-6), name
        assert c.in_max_norm() == own.in_max_norm()
    assert select_gram(A.T @ A, 4, "greedy").certificate().max_source is None


def test_bounds_at_the_ends_of_the_range():
    """No warning, no NaN and no OverflowError where numbers leave the range of float64."""
    assert bounds.greedy_widths([1e300, 1e10], 3, largest=1e-300) == pytest.approx(
        math.sqrt(2) * 1e-300 ** (2 / 3) * 1e10 ** (1 / 3)
    )
    assert bounds.greedy_width(3, gamma=1e-320) == bounds.greedy_width(10**4) == math.inf
    assert bounds.width_p_norm(16, 10**400, factor=3.0) == 3.0
    assert bounds.volume_width(3, f=10**400) == math.inf
    assert bounds.greedy_exponential(5, rate=1.0, alpha=1e5) == 0
    assert bounds.greedy_exponential(5, rate=0.0, alpha=1e5) == pytest.approx(math.sqrt(2))
    assert bounds.width_of_columns(1e-300 * np.eye(4)) == pytest.approx(0.5e-300, rel=1e-12)
    assert bounds.width_of_columns(1e-310 * np.eye(4)) == pytest.approx(0.5e-310, rel=1e-6)
    with pytest.raises(ValueError, match="C must be finite"):
        bounds.width_of_columns([[math.nan]])
    with pytest.raises(ValueError, match="gamma must lie in"):
        bounds.greedy_width(3, gamma=-(10**400))
