"""More columns than modes: against the paper's algorithm, brute force, and the bound of every step."""

import itertools
import math

import numpy as np
import pytest
from optional import torch

import cssp
from cssp import CsspError, bounds, select


def polynomials(n=300, r=8):
    """Orthonormal polynomials on a grid, (n, r)."""
    return np.linalg.qr(np.vander(np.linspace(-1, 1, n), r, increasing=True))[0]


def bumps(n=300, r=8, seed=0):
    """Leading left singular vectors of Gaussian bumps, (n, r)."""
    x, c = np.linspace(0, 1, n), np.random.default_rng(seed).random(60)
    return np.linalg.svd(np.exp(-200 * (x[:, None] - c) ** 2), full_matrices=False)[0][:, :r]


def gaussian(n=60, r=5, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((n, r)))[0]


def inverse(U, S):
    """1/σ_min of the rows S."""
    return 1 / np.linalg.svd(U[list(S)], compute_uv=False)[-1]


def of_the_paper(U, p, start):
    """GappyPOD+E, the listing of the paper: from given sensors, p in all."""
    S = list(start)
    while len(S) < p:
        _, s, Wh = np.linalg.svd(U[S], full_matrices=False)
        g = s[-2] ** 2 - s[-1] ** 2
        Ub = Wh @ U.T
        r = g + np.sum(Ub**2, axis=0)
        r = r - np.sqrt((g + np.sum(Ub**2, axis=0)) ** 2 - 4 * g * Ub[-1] ** 2)
        S.append(next(int(j) for j in np.argsort(-r, kind="stable") if j not in S))
    return S


@pytest.mark.parametrize("U", [bumps(), gaussian(), gaussian(seed=1)], ids=["bumps", "gaussian", "another"])
def test_the_sensors_are_those_of_the_paper(U):
    r = U.shape[1]
    found = select(U.T, 4 * r, "gappypod_e", rank=r).indices
    assert found.tolist()[:r] == select(U.T, r, "qdeim").indices.tolist()
    assert found.tolist() == of_the_paper(U, 4 * r, found[:r].tolist())
    complex_ = select(1j * U.T, 4 * r, "gappypod_e", rank=r).indices
    assert complex_.tolist() == found.tolist()
    again = select(torch.tensor(U.T), 4 * r, "gappypod_e", rank=r).indices
    assert again.tolist() == found.tolist()


@pytest.mark.parametrize("rank", [2, 4])
def test_the_modes_are_the_leading_singular_vectors(rank):
    for seed in range(5):
        A = np.random.default_rng(seed).standard_normal((15, 40)) * 0.7 ** np.arange(15)[:, None]
        V = np.linalg.svd(A)[2][:rank]
        start = select(V, rank, "qdeim").indices.tolist()
        found = select(A, 10, "gappypod_e", rank=rank).indices.tolist()
        assert found == of_the_paper(V.T, 10, start)
    assert select(A, 8, "gappypod_e").indices.tolist() == select(A, 8, "gappypod_e", rank=4).indices.tolist()


@pytest.mark.parametrize(
    "U", [polynomials(), bumps(), gaussian(300, 8)], ids=["polynomials", "bumps", "gaussian"]
)
def test_the_smallest_singular_value_beats_chance_and_never_falls(U):
    r = U.shape[1]
    found = select(U.T, 4 * r, "gappypod_e", rank=r).indices
    steps = [inverse(U, found[:p]) for p in range(r, 4 * r + 1)]
    assert all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(steps))
    for p in (2 * r, 3 * r, 4 * r):
        drawn = [
            inverse(U, select(U.T, p, "gappypod_e", rank=r, criterion="random", rng=seed).indices)
            for seed in range(20)
        ]
        assert inverse(U, found[:p]) < min(drawn)
    assert steps[-1] < steps[0] / 2


@pytest.mark.parametrize("seed", range(6))
def test_tiny_cases_by_brute_force(seed):
    """No set of sensors that holds the first r does better by much; the greedy choice of `smallest` is exact in each step."""
    U, (n, r) = gaussian(12, 3, seed), (12, 3)
    start = select(U.T, r, "qdeim").indices.tolist()
    step = {
        name: select(U.T, r + 1, "gappypod_e", rank=r, criterion=name).indices[-1]
        for name in ("bound", "smallest", "determinant")
    }
    others = [j for j in range(n) if j not in start]
    assert step["smallest"] == min(others, key=lambda j: inverse(U, [*start, j]))
    assert step["determinant"] == max(others, key=lambda j: np.linalg.det(U[[*start, j]].T @ U[[*start, j]]))
    for p in (5, 7):
        best = min(inverse(U, S) for S in itertools.combinations(range(n), p))
        found = inverse(U, select(U.T, p, "gappypod_e", rank=r).indices)
        assert best * (1 - 1e-12) <= found <= 1.6 * best


def test_the_rise_of_every_step_is_guaranteed():
    """Random matrices and vectors, among them equal, tiny and huge eigenvalues: 3,000 of them, in eps of the largest."""
    rng, attained = np.random.default_rng(0), 0
    for i in range(3000):
        r = int(rng.integers(1, 7))
        values = np.sort(rng.random(r) * 10.0 ** rng.integers(-8, 3, r))
        if i % 5 == 0:
            values[: max(1, r // 2)] = values[0]
        W = np.linalg.qr(rng.standard_normal((r, r)))[0]
        u = rng.standard_normal(r) * 10.0 ** rng.integers(-4, 2)
        M = (W * values) @ W.T + np.outer(u, u)
        gap = values[1] - values[0] if r > 1 else math.inf
        promised = values[0] + bounds.eigenvalue_rise(gap, u @ u, (W[:, 0] @ u) ** 2)
        reached = np.linalg.eigvalsh(M)[0]
        eps = 50 * r * np.finfo(float).eps * max(values[-1] + u @ u, 1e-300)
        assert promised <= reached + eps
        attained += r <= 2 and abs(promised - reached) <= eps
        assert promised >= values[0]
    assert attained > 800  # of order 1 and 2 it is no bound but the value


def test_the_bound_of_a_step_adds_up_on_the_way():
    """σ_min² after all picks is at least that of Q-DEIM plus every promised rise: 20 bases, 24 steps each."""
    for seed in range(20):
        U, r = gaussian(60, 5, seed), 5
        S = select(U.T, 29, "gappypod_e", rank=r).indices.tolist()
        least = np.linalg.svd(U[S[:r]], compute_uv=False)[-1] ** 2
        for t in range(r, 29):
            values, W = np.linalg.eigh(U[S[:t]].T @ U[S[:t]])
            u = W.T @ U[S[t]]
            least += bounds.eigenvalue_rise(values[1] - values[0], u @ u, u[0] ** 2)
            assert least <= np.linalg.svd(U[S[: t + 1]], compute_uv=False)[-1] ** 2 * (1 + 1e-12)
        assert least > 0.2  # of at most 1: the promise is no empty one


def test_no_warning_of_columns_beyond_the_rank():
    U = polynomials(r=6)
    found = select(U.T, 20, "gappypod_e", rank=6)  # warnings are errors here
    assert (found.rank, found.k, len(set(found.indices.tolist()))) == (6, 20, 20)
    assert found.certificate().a_posteriori == pytest.approx(inverse(U, found.indices) ** 2)
    with pytest.raises(cssp.RankDeficientError, match="numerical rank 6"):
        select(U.T, 20, "gappypod_e", rank=6, deficient="raise")
    assert select(U.T, 20, "gappypod_e", rank=6, deficient="truncate").k == 6


def test_sensors_that_are_there_already():
    U, r = bumps(), 8
    given = [0, 1, 2, 299]
    found = select(U.T, 16, "gappypod_e", rank=r, include=given, exclude=[150]).indices.tolist()
    assert found[:4] == given
    assert 150 not in found
    first = found[: 4 + r]  # enough to determine all modes, whatever the given ones add
    assert np.linalg.matrix_rank(U[first]) == r
    assert found == of_the_paper(U, 16, found[:12]) or 150 in of_the_paper(U, 16, found[:12])
    # Given sensors that see little: every pick adds what they see least.
    more = select(U.T, 24, "gappypod_e", rank=r, include=list(range(12))).indices.tolist()
    assert inverse(U, more) < 10 < 1e6 < inverse(U, range(12))


def test_equal_columns_and_equal_eigenvalues():
    """Sensors doubled, and modes whose rows are all alike up to signs, where every rise is bounded by zero."""
    U = bumps(100, 6)
    doubled = np.repeat(U, 2, axis=0) / np.sqrt(2)
    found = select(doubled.T, 6, "gappypod_e", rank=6).indices
    assert (found % 2 == 0).all()
    H = np.array([[(-1) ** (i & j).bit_count() for j in range(8)] for i in range(8)]) / np.sqrt(8)
    signs = H[:, :4]  # V_S of four different rows is orthogonal: all eigenvalues equal
    found = select(signs.T, 8, "gappypod_e", rank=4).indices
    for p in range(4, 9):
        assert inverse(signs, found[:p]) == pytest.approx(np.sqrt(2) if p < 8 else 1.0)


def test_the_error_is_that_of_the_rank():
    rng = np.random.default_rng(0)
    for seed in range(30):
        A = rng.standard_normal((12, 20)) * 0.6 ** np.arange(12)[:, None]
        s2 = np.linalg.svd(A, compute_uv=False) ** 2
        r, k = int(rng.integers(1, 5)), 7
        found = select(A, k, "gappypod_e", rank=r, criterion=("bound", "random")[seed % 2], rng=seed)
        V = np.linalg.svd(A)[2][:r, found.indices]
        lemma = s2[r:].sum() / np.linalg.svd(V, compute_uv=False)[-1] ** 2
        assert found.squared_error <= lemma * (1 + 1e-9)
        assert lemma <= bounds.qdeim(20, r) * s2[r:].sum()
        c = found.certificate()
        assert c.factor == pytest.approx(bounds.qdeim(20, r) * s2[r:].sum() / s2[k:].sum())
        assert c.source == "peherstorfer2020"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rank": 9}, "rank = 9: expected at most k = 8"),
        ({"rank": 0}, "rank = 0"),
        ({"criterion": "e"}, "criterion = 'e': expected 'bound', 'smallest', 'determinant' or 'random'"),
        ({"svd": "fast"}, "svd = 'fast'"),
    ],
)
def test_what_is_refused(options, said):
    with pytest.raises(CsspError, match=said):
        select(bumps().T, 8, "gappypod_e", **options)
