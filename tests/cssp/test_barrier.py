"""Columns along a barrier: the potential of every step, the bound on V_S, and the picks against explicit inverses."""

import itertools
import math

import numpy as np
import oracles
import pytest
import scipy.optimize

from cssp import METHODS, CsspError, bounds, matrices, select
from cssp.methods import _shared
from cssp.methods.barrier import steps
from cssp.problem import Problem


def orthonormal_rows(r, n, seed, complex_=False, spread=0.0):
    """Rows over n columns of sizes that differ by up to 10**spread."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, r)) + (1j * rng.standard_normal((n, r)) if complex_ else 0)
    X = X * 10 ** rng.uniform(-spread, 0, (n, 1))
    return np.ascontiguousarray(np.linalg.qr(X)[0].T)


def run(V, k):
    return steps(_shared.rest(Problem(A=V, k=k, candidates=np.ones(V.shape[1], dtype=bool))), V, k)


def start(n, k, r):
    """ε that makes λ_min at the end as large as can be promised, by search; and what is promised."""

    def promised(log):
        e = math.exp(log)
        b = 1 + e / n
        delta = 2 / n / (b + math.sqrt(b * b - 4 * e / (n * r)))
        return k * delta - (r - 1) / e

    ends = (math.log(1e-2 * n), math.log(1e4 * n))
    found = scipy.optimize.minimize_scalar(lambda log: -promised(log), bounds=ends, method="bounded")
    return math.exp(found.x), -found.fun


@pytest.mark.parametrize(("n", "k", "r"), [(20, 3, 3), (20, 6, 3), (40, 9, 5), (10, 2, 2), (7, 7, 2)])
def test_the_bound_is_the_best_start(n, k, r):
    assert 1 / bounds.barrier(n, k, r) == pytest.approx(start(n, k, r)[1], rel=1e-6)


@pytest.mark.parametrize("complex_", [False, True])
@pytest.mark.parametrize("spread", [0.0, 2.0])
def test_every_choice_has_the_bound(complex_, spread):
    worst = 0.0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        r = int(rng.integers(1, 6))
        k = int(rng.integers(r, 3 * r + 1))
        n = int(rng.integers(k, 4 * k + 2))
        V = orthonormal_rows(r, n, seed, complex_, spread)
        S = run(V, k)
        assert len(set(S)) == k
        smallest = np.linalg.svd(V[:, S], compute_uv=False)[-1]
        worst = max(worst, 1 / smallest**2 / bounds.barrier(n, k, r))
    assert worst <= 1 + 1e-9


@pytest.mark.parametrize("n", [5, 12])
def test_one_vector_of_equal_entries_attains_it(n):
    V = np.full((1, n), n**-0.5)
    for k in (1, 3):
        assert 1 / np.sum(V[:, run(V, k)] ** 2) == pytest.approx(bounds.barrier(n, k, 1))


@pytest.mark.parametrize("complex_", [False, True])
def test_the_picks_lower_the_potential_most(complex_):
    """With explicit inverses, and every Φ after its step at most ε."""
    for seed in range(6):
        r, n, k = 3, 14, 5
        V = orthonormal_rows(r, n, seed, complex_, 1.0)
        epsilon, _ = start(n, k, r)
        barrier, Y, S = -r / epsilon, np.zeros((r, r)), []
        for i in range(k):
            c = (1 - barrier - r / epsilon) / (n - i)
            delta = min(np.roots([epsilon / r, -1 - epsilon * c, c]).real)

            def potential(j, V=V, Y=Y, at=barrier + delta):
                return np.trace(np.linalg.inv(Y + np.outer(V[:, j], V[:, j].conj()) - at * np.eye(3))).real

            S.append(min((j for j in range(n) if j not in S), key=potential))
            assert potential(S[-1]) <= epsilon * (1 + 1e-6)
            Y = Y + np.outer(V[:, S[-1]], V[:, S[-1]].conj())
            x = np.linalg.eigvalsh(Y)
            low, high = barrier, x[0]
            for _ in range(100):
                middle = (low + high) / 2
                low, high = (middle, high) if np.sum(1 / (x - middle)) < epsilon else (low, middle)
            barrier = low
        assert run(V, k) == S


def test_the_method_is_the_steps_on_the_leading_vectors():
    A = np.random.default_rng(0).standard_normal((9, 20)) * 0.8 ** np.arange(20)
    Vh = np.linalg.svd(A)[2]
    assert select(A, 6, "barrier").indices.tolist() == run(Vh[:3], 6)
    assert select(A, 6, "barrier", rank=6).indices.tolist() == run(Vh[:6], 6)
    law = METHODS["barrier"].guarantee
    for norm in (law.frobenius, law.spectral):
        assert norm(9, 20, 6, rank=2) == pytest.approx(bounds.barrier(20, 6, 2))
        assert norm(9, 20, 6, rank=2, svd="sketched") is None
    assert select(A, 6, "barrier", svd="sketched", rng=0).certificate().factor is None


def test_the_error_is_within_the_factor_of_the_lower_rank():
    for seed, (rank, k) in itertools.product(range(6), ((1, 1), (1, 3), (2, 2), (2, 5), (3, 4))):
        tried = [np.random.default_rng(seed).standard_normal((8, 12)) * 0.6 ** np.arange(12)]
        if k == rank:
            tried.append(matrices.basis_only_killer(matrices.incoherent(12, rank, rng=seed)))
        for A in tried:
            s = np.linalg.svd(A, compute_uv=False)
            E = oracles.residual_matrix(A, select(A, k, "barrier", rank=rank).indices)
            c, rounding = bounds.barrier(A.shape[1], k, rank), 1e-12 * s[0] ** 2
            assert np.sum(E**2) <= c * np.sum(s[rank:] ** 2) * (1 + 1e-7) + rounding
            assert np.linalg.norm(E, 2) ** 2 <= c * s[rank] ** 2 * (1 + 1e-7) + rounding


@pytest.mark.parametrize(
    ("options", "words"), [({"rank": 4}, "rank = 4: expected at most k = 3"), ({"rank": 0}, "rank = 0")]
)
def test_wrong_ranks_are_refused(options, words):
    with pytest.raises(CsspError, match=words):
        select(np.eye(5), 3, "barrier", **options)
