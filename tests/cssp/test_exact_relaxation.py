"""The convex relaxation behind branch and bound: value, gradient, tangents, and the bound against enumeration."""

import itertools

import numpy as np
import oracles
import pytest

from cssp import matrices, select
from cssp.methods import _relaxation
from cssp.methods._relaxation import relaxed


def problem(rng, h, n, extra=0, wide=np.float64):
    """E, and B whose columns are those of E and others."""
    E = rng.standard_normal((h, n)) * rng.uniform(0.3, 1, n)
    C = rng.standard_normal((h, extra))
    if wide is np.complex128:
        E = E + 1j * rng.standard_normal((h, n))
        C = C + 1j * rng.standard_normal((h, extra))
    return E, np.hstack([E, C])


def bounds(E, B, r, allowed=None, enough=np.inf):
    n = E.shape[1]
    allowed = np.ones(n, dtype=bool) if allowed is None else allowed
    M = B @ B.conj().T
    start = np.where(allowed, 0.5, 1.0)
    bound, x = relaxed(M[None], (E * allowed)[None], allowed[None], r, np.array([enough]), start[None])
    return float(bound[0]), x[0]


def least(E, B, r, allowed=None):
    open_ = range(E.shape[1]) if allowed is None else np.flatnonzero(allowed)
    return min(oracles.squared_error(E, S, B) for S in itertools.combinations(open_, r))


def spectral(B, r):
    return float(np.sum(np.linalg.svd(B, compute_uv=False)[r:] ** 2))


def caught_tangent(monkeypatch, E, B, r):
    """The function `tangent` of one problem, of a vector of shares."""
    kept = []
    before = _relaxation._Problem.tangent
    monkeypatch.setattr(_relaxation._Problem, "tangent", lambda p, x: kept.append(p) or before(p, x))
    bounds(E, B, r)
    p = kept[0]
    return lambda x: [float(v[0]) if v.ndim == 1 else v[0] for v in before(p, np.asarray(x)[None])]


CASES = [(4, 7, 0), (6, 6, 0), (9, 6, 0), (6, 7, 3), (9, 5, 2)]


@pytest.mark.parametrize("wide", [np.float64, np.complex128])
def test_no_set_is_better_than_the_bound(wide):
    rng = np.random.default_rng(0)
    for h, n, extra in CASES * 3:
        E, B = problem(rng, h, n, extra, wide)
        for r in range(1, min(h, n)):
            best = least(E, B, r)
            for share in (0.7, 0.9, 0.99, 2):
                bound, _ = bounds(E, B, r, enough=share * best)
                assert spectral(B, r) - 1e-11 * np.sum(np.abs(B) ** 2) <= bound <= best * (1 + 1e-12)


def test_no_set_is_better_on_adversarial_matrices():
    rng = np.random.default_rng(1)
    for family in matrices.MATRICES.values():
        for m, n, r in ((7, 7, 3), (9, 7, 5), (5, 8, 3)):
            if family.fits(m, n, r):
                A = family(m, n, r, rng=rng)
                slack = 1e-10 * np.linalg.norm(A) ** 2
                best = least(A, A, r)
                for share in (0.8, 0.99):
                    assert bounds(A, A, r, enough=share * best)[0] <= best + slack


def test_columns_that_are_not_allowed_stay_out():
    rng = np.random.default_rng(2)
    for _ in range(20):
        E, B = problem(rng, 6, 8)
        allowed = rng.permutation(8) < 5
        for r in (1, 2, 3):
            best = least(E, B, r, allowed)
            bound, x = bounds(E, B, r, allowed, 0.95 * best)
            assert bound <= best * (1 + 1e-12)
            assert np.all(x[~allowed] == 1)
            assert np.sum(x[allowed]) == pytest.approx(5 - r, rel=1e-5)


def test_many_at_once_are_as_one_by_one():
    """Of different rank, rows and columns of zeros filled in."""
    rng = np.random.default_rng(3)
    h, n, r = 7, 8, 3
    M, E, allowed = np.zeros((6, h, h)), np.zeros((6, h, n)), np.zeros((6, n), dtype=bool)
    alone, enough = [], []
    for i in range(6):
        hi, ni = int(rng.integers(4, h + 1)), int(rng.integers(4, n + 1))
        e, b = problem(rng, hi, ni)
        enough.append(0.9 * least(e, b, r))
        alone.append(bounds(e, b, r, enough=enough[-1])[0])
        M[i, :hi, :hi], E[i, :hi, :ni], allowed[i, :ni] = b @ b.T, e, True
    together, _ = relaxed(M, E, allowed, r, np.array(enough), np.where(allowed, 0.5, 1.0))
    np.testing.assert_allclose(together, alone, rtol=1e-6)


def test_it_ends_as_soon_as_the_bound_is_enough_or_cannot_be():
    rng = np.random.default_rng(4)
    E, B = problem(rng, 8, 8)
    best = least(E, B, 5)
    sure, _ = bounds(E, B, 5)
    for enough in (0.5 * sure, 2 * best):
        bound, _ = bounds(E, B, 5, enough=enough)
        assert (bound >= enough) == (enough < sure)
        assert bound <= best * (1 + 1e-12)


def test_where_shares_are_zero_and_one_the_value_is_the_error(monkeypatch):
    rng = np.random.default_rng(5)
    for h, n, extra in CASES:
        E, B = problem(rng, h, n, extra)
        for r in range(1, min(h, n)):
            at = caught_tangent(monkeypatch, E, B, r)
            S = rng.permutation(n)[:r]
            x = np.ones(n)
            x[S] = 1e-9
            assert at(x)[0] == pytest.approx(oracles.squared_error(E, S, B), rel=1e-4)


def test_gradient_and_convexity(monkeypatch):
    rng = np.random.default_rng(6)
    for h, n, extra in CASES:
        E, B = problem(rng, h, n, extra)
        r = min(h, n) - 2
        at = caught_tangent(monkeypatch, E, B, r)
        x, y = rng.uniform(0.2, 0.9, (2, n))
        value, gradient, _ = at(x)
        assert at(y)[0] >= value + gradient @ (y - x) - 1e-9 * value
        for j in range(n):
            step = np.zeros(n)
            step[j] = 1e-5
            slope = (at(x + step)[0] - at(x - step)[0]) / 2e-5
            assert gradient[j] == pytest.approx(slope, rel=1e-4, abs=1e-6 * np.abs(gradient).max())


def test_the_tangent_is_taken_at_its_lowest(monkeypatch):
    rng = np.random.default_rng(7)
    E, B = problem(rng, 6, 7)
    at = caught_tangent(monkeypatch, E, B, 4)
    x = rng.uniform(0.2, 0.9, 7)
    value, gradient, lowest = at(x)
    corners = [np.isin(np.arange(7), S) for S in itertools.combinations(range(7), 3)]
    assert lowest == pytest.approx(
        min(value + gradient @ (c - x) for c in corners), abs=1e-9 * np.trace(B @ B.T)
    )


@pytest.mark.parametrize(
    ("m", "r", "share", "plain"), [(60, 20, 0.88, 0.62), (60, 25, 0.94, 0.5), (30, 25, 0.65, 0.4)]
)
def test_it_is_worth_its_price_where_most_columns_are_taken(m, r, share, plain):
    """Gaussian, n = 30: the bound as a share of what the best swap-refined set reaches, beside the spectral one."""
    A = np.random.default_rng(8).standard_normal((m, 30))
    found = select(A, r, "local_search").errors[-1]
    R = np.linalg.qr(A)[1]
    assert share * found <= bounds(R, R, r, enough=share * found)[0] <= found
    assert spectral(A, r) < plain * found


def test_projection_onto_shares():
    rng = np.random.default_rng(9)
    for _ in range(20):
        allowed = rng.permutation(9) < 7
        total = float(rng.uniform(0.5, 6.5))
        x = _relaxation._onto(rng.standard_normal((1, 9)), allowed[None], np.array([total]))[0]
        assert np.sum(x[allowed]) == pytest.approx(total, abs=1e-4)
        assert np.all((x >= _relaxation.LEAST_SHARE) & (x <= 1))
        assert np.all(x[~allowed] == 1)
