"""Strong RRQR, Osinsky, derandomised volume sampling, DEIM, Q-DEIM, BSS: each against its definition and theorem."""

import math
from itertools import combinations

import numpy as np
import oracles
import pytest
import scipy.linalg

from cssp import METHODS, CsspError, RankDeficientWarning, bounds, matrices, select
from cssp.matrices import MATRICES
from cssp.methods import _shared
from cssp.methods.bss import dual_set
from cssp.methods.strong_rrqr import _largest_growth
from cssp.methods.volume_derandomized import _conditional
from cssp.problem import Problem

EPS = np.finfo(float).eps
MINE = ["strong_rrqr", "osinsky", "volume_derandomized", "deim", "qdeim", "bss", "local_search", "exact"]


def singular_values(A):
    return np.linalg.svd(A, compute_uv=False)


def slack(A):
    return 30 * max(A.shape) * EPS * np.linalg.norm(A, 2)


def problem(A, k, **more):
    return Problem(A=A, k=k, candidates=np.ones(A.shape[1], dtype=bool), width=A.shape[1], **more)


def families(*sizes, independent=True):
    """Every family and a column scaling of it, where A has more than k singular values above rounding."""
    for m, n, k in sizes or [(8, 7, 2), (9, 8, 3), (14, 12, 4), (6, 11, 3)]:
        for index, family in enumerate(MATRICES.values()):
            if family.fits(m, n, k):
                A = family(m, n, k, rng=index)
                for X in (A, A * np.random.default_rng(index).uniform(0.1, 1.0, n)):
                    s = singular_values(X)
                    if not independent or (s.size >= k and s[k - 1] > 1e-12 * s[0]):
                        yield X, k


def killers():
    """Matrices whose V misleads a rule that does not see A."""
    for seed in range(10):
        for n, k in ((14, 2), (16, 3), (24, 4)):
            yield matrices.basis_only_killer(matrices.incoherent(n, k, seed)), k


# ---------------------------------------------------------------- bounds, every run


@pytest.mark.parametrize("method", MINE)
def test_the_certified_factors_hold(method):
    for A, k in [*families(), *killers()]:
        if method == "exact" and (math.comb(A.shape[1], k) > 1000):
            continue
        s = singular_values(A)
        c = select(A, k, method).certificate()
        for error, factor, optimum in (
            (c.squared_error, c.factor, np.sum(s[k:] ** 2)),
            (c.spectral_squared_error, c.spectral_factor, s[k] ** 2 if k < s.size else 0.0),
        ):
            if factor is not None and math.isfinite(factor):
                assert math.sqrt(error) <= math.sqrt(factor * optimum) * (1 + 1e-9) + slack(A)


@pytest.mark.parametrize("method", MINE)
def test_the_factor_is_promised_by_the_theorem(method):
    A, n, k = np.random.default_rng(0).standard_normal((9, 12)), 12, 4
    c = select(A, k, method).certificate()
    s2 = singular_values(A) ** 2
    expected = {
        "strong_rrqr": bounds.strong_rrqr(n, k, 2.0),
        "osinsky": k + 1,
        "volume_derandomized": k + 1,
        "deim": bounds.deim(n, k),
        "qdeim": bounds.qdeim(n, k),
        "bss": bounds.bss_frobenius(1, 4) * s2[1:].sum() / s2[4:].sum(),
        "local_search": bounds.pivoted_qr_frobenius(n, k),
        "exact": k + 1,
    }
    assert c.factor == pytest.approx(expected[method])
    assert c.source
    assert c.holds == "every run"
    assert select(A, k, method, include=[0]).certificate().factor is None
    assert select(A, k, method, exclude=[0]).certificate().factor is None


# ---------------------------------------------------------------- strong RRQR


def log_volume(A, S):
    r = np.abs(np.diag(np.linalg.qr(A[:, list(S)])[1]))
    return float(np.sum(np.log(r))) if np.all(r > 0) else -math.inf


def blocks(A, S):
    """R11, R12, R22 of A with the columns S first."""
    k, others = len(S), [j for j in range(A.shape[1]) if j not in S]
    R = np.linalg.qr(A[:, [*S, *others]])[1]
    return R[:k, :k], R[:k, k:], R[k:, k:], others


@pytest.mark.parametrize("f", [1.0, 2.0])
def test_strong_rrqr_three_inequalities(f):
    swapped = 0
    sizes = [(8, 7, 2), (9, 8, 3), (14, 12, 4), (6, 11, 3), (20, 20, 18), (12, 12, 9)]
    for A, k in families(*sizes):
        n, s = A.shape[1], singular_values(A)
        S = select(A, k, "strong_rrqr", f=f).indices.tolist()
        swapped += select(A, k, "residual").indices.tolist() != S
        R11, R12, R22, _ = blocks(A, S)
        g = max(f, 1.001)
        q = math.sqrt(1 + g * g * k * (n - k))
        assert np.all(singular_values(R11) >= s[:k] / q * (1 - 1e-9) - slack(A))
        left = singular_values(R22) if R22.size else np.zeros(0)
        assert np.all(left[: s.size - k] <= q * s[k : k + left.size] * (1 + 1e-9) + slack(A))
        if s[k - 1] > 1e-10 * s[0]:
            assert np.all(np.abs(scipy.linalg.solve_triangular(R11, R12)) <= g * (1 + 1e-6))
    assert swapped > 0


@pytest.mark.parametrize("f", [1.0, 1.5])
def test_strong_rrqr_leaves_no_swap_that_grows_the_volume(f):
    for A, k in families((8, 7, 2), (9, 8, 3), (10, 10, 6)):
        if singular_values(A)[k - 1] < 1e-6 * np.linalg.norm(A, 2):
            continue
        S = select(A, k, "strong_rrqr", f=f).indices.tolist()
        here = log_volume(A, S)
        for i in range(k):
            for j in set(range(A.shape[1])) - set(S):
                assert log_volume(A, [*S[:i], j, *S[i + 1 :]]) - here <= math.log(max(f, 1.001)) + 1e-6


def test_growth_is_the_ratio_of_volumes():
    rng = np.random.default_rng(0)
    for _ in range(50):
        A = rng.standard_normal((6, 9)) * 10.0 ** rng.uniform(-2, 2, 9)
        S = rng.permutation(9)[:4].tolist()
        rho, i, j = _largest_growth(_shared.rest(problem(A, 4)), S)
        ratios = {
            (a, b): math.exp(log_volume(A, [*S[:a], b, *S[a + 1 :]]) - log_volume(A, S))
            for a in range(4)
            for b in set(range(9)) - set(S)
        }
        assert rho == pytest.approx(max(ratios.values()), rel=1e-9)
        assert ratios[i, j] == pytest.approx(rho, rel=1e-9)


def sums_of(A, l, rng):
    """Ω: every column of A in one of l sums, with a random sign."""
    Omega = np.zeros((l, A.shape[1]))
    group, sign = rng.integers(l, size=A.shape[1]), rng.choice([-1.0, 1.0], A.shape[1])
    Omega[group, np.arange(A.shape[1])] = sign
    return Omega


@pytest.mark.parametrize("complex_", [False, True])
def test_strong_rrqr_of_sums_by_definition(complex_):
    for seed in range(10):
        rng = np.random.default_rng(seed)
        A = rng.standard_normal((6, 60)) * 0.5 ** rng.integers(0, 5, 60)
        A = A + 1j * rng.standard_normal((6, 60)) if complex_ else A
        Omega = sums_of(A, 12, np.random.default_rng(7))
        P = select(A @ Omega.T, 3, "strong_rrqr").indices
        C = np.flatnonzero(np.any(Omega[P] != 0, axis=0))
        J = C[select(A[:, C], 3, "strong_rrqr").indices]
        sel = select(A, 3, "strong_rrqr", buckets=12, rng=7)
        assert sel.indices.tolist() == J.tolist()
        assert sel.certificate().factor is None
        more = select(A, 5, "strong_rrqr", buckets=2, include=[3], exclude=[0, 1], rng=1)  # five groups
        assert more.rank == 5
        assert more.indices[0] == 3
        assert not {0, 1} & set(more.indices.tolist())


@pytest.mark.parametrize("f", [1.0, 2.0])
def test_strong_rrqr_of_sums_is_within_its_bound(f):
    """With the embedding's own η, on spectra that fall fast and slowly."""
    worst, seen = 0.0, 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        A = rng.standard_normal((4, 4)) * rng.uniform(0.2, 1) ** np.arange(4) @ rng.standard_normal((4, 80))
        k, l = int(rng.integers(1, 4)), 40
        Omega = sums_of(A, l, np.random.default_rng(seed))
        embedded = np.linalg.svd(Omega @ np.linalg.svd(A, full_matrices=False)[2].T, compute_uv=False)
        eta = max(embedded[0] - 1, 1 - embedded[-1])
        if eta >= 1:
            continue
        P = select(A @ Omega.T, k, "strong_rrqr", f=f).indices
        C, norm = int(np.sum(Omega[P] != 0)), np.linalg.norm(Omega[P], 2)
        S = select(A, k, "strong_rrqr", f=f, buckets=l, rng=seed).indices
        factor = bounds.strong_rrqr_of_sums(k, l, max(C, k), norm, eta, max(f, 1.001))
        ratio = np.linalg.norm(oracles.residual_matrix(A, S), 2) ** 2
        ratio /= np.linalg.svd(A, compute_uv=False)[k] ** 2 * factor
        worst, seen = max(worst, ratio), seen + 1
    assert seen > 40
    assert 1e-4 < worst <= 1 + 1e-9


def test_bound_of_sums_in_numbers():
    """Without sums (Ω the identity) it is q (q + 1) on q² = 1 + f² k (n - k), by hand."""
    q = (1 + 4 * 2 * 3) ** 0.5
    assert bounds.strong_rrqr_of_sums(2, 5, 5, 1.0, 0.0) == pytest.approx((q * (q + 1)) ** 2)
    assert bounds.strong_rrqr_of_sums(2, 5, 2, 3.0, 0.5) == pytest.approx((q * (3 + 1.5) / 0.5) ** 2)


@pytest.mark.parametrize(("buckets", "words"), [(0, "buckets = 0"), (2.0, r"buckets = 2\.0.*integer")])
def test_strong_rrqr_refuses_wrong_buckets(buckets, words):
    with pytest.raises(CsspError, match=words):
        select(np.eye(4), 2, "strong_rrqr", buckets=buckets)


def test_strong_rrqr_repairs_kahan():
    A = matrices.block_kahan(12, 0.6)
    R11, R12, _, _ = blocks(A, list(range(12)))
    assert np.abs(np.linalg.solve(R11, R12)).max() > 10
    K = matrices.kahan(40, 1.2, nudge=1e-9)
    before = np.linalg.svd(blocks(K, select(K, 39).indices.tolist())[0], compute_uv=False)[-1]
    after = np.linalg.svd(blocks(K, select(K, 39, "strong_rrqr").indices.tolist())[0], compute_uv=False)[-1]
    assert after > 1.5 * before


@pytest.mark.parametrize("f", [0.5, 0.999, -1, math.nan, math.inf, "2", True, None, 1j])
def test_strong_rrqr_refuses_a_factor_below_one(f):
    with pytest.raises(CsspError, match=r"f = .*at least 1"):
        select(np.eye(4), 2, "strong_rrqr", f=f)


# ---------------------------------------------------------------- Osinsky


def osinsky_as_written(A, k):
    V = np.linalg.svd(A)[2][:k].T
    W, E = V.T.copy(), A - A @ V @ V.T
    J = []
    for _ in range(k):
        w2, e2 = np.sum(W**2, axis=0), np.sum(E**2, axis=0)
        w2[J], e2[J] = 1.0, np.inf
        score = e2 / w2
        j = int(np.argmin(score))
        w, e, u = W[:, j].copy(), E[:, j].copy(), W[:, j] / np.sqrt(w2[j])
        E -= np.outer(e / np.sqrt(w2[j]), u @ W)
        W -= np.outer(u, u @ W)
        assert np.linalg.norm(w) > 0
        J.append(j)
    return J


def test_osinsky_is_the_algorithm_of_the_paper():
    rng = np.random.default_rng(1)
    for _ in range(100):
        m, n = rng.integers(6, 14, 2)
        k = int(rng.integers(1, 5))
        A = rng.standard_normal((m, n)) * rng.uniform(0.2, 1, n)
        assert select(A, k, "osinsky").indices.tolist() == osinsky_as_written(A, k)


def test_osinsky_takes_the_least_conditional_expectation():
    """argmin ‖e_j‖²/‖w_j‖² at the first step, against the expectation over all J under P(J) = det(V_J)²."""
    rng = np.random.default_rng(2)
    for _ in range(40):
        n, k = 7, 3
        A = rng.standard_normal((6, n)) * rng.uniform(0.2, 1, n)
        V = np.linalg.svd(A)[2][:k].T
        total, mass = np.zeros(n), np.zeros(n)
        for J in map(list, combinations(range(n), k)):
            p = np.linalg.det(V[J]) ** 2
            error = np.linalg.norm(A - A[:, J] @ np.linalg.solve(V[J].T, V.T)) ** 2
            total[J] += p * error
            mass[J] += p
        first = select(A, k, "osinsky").indices[0]
        assert (total / mass)[first] == pytest.approx((total / mass).min(), rel=1e-9)


def test_osinsky_sees_the_matrix():
    beaten = 0
    for A, k in killers():
        s = singular_values(A)
        optimum = np.sum(s[k:] ** 2)
        V = np.linalg.svd(A)[2][:k].T
        beaten += oracles.squared_error(A, matrices.basis_only_osinsky(V)) > (k + 1) * optimum
        for method in ("osinsky", "volume_derandomized", "exact"):
            if method == "exact" and k > 3:
                continue
            assert select(A, k, method).errors[-1] <= (k + 1) * optimum * (1 + 1e-9)
    assert beaten >= 10


# ---------------------------------------------------------------- derandomised volume sampling


def conditional_expectations(A, k, chosen):
    """E[F | j chosen next] under P(S) ∝ det(A_SᵀA_S), by enumeration, and the mass of each j."""
    n = A.shape[1]
    total, mass = np.zeros(n), np.zeros(n)
    for S in combinations(range(n), k):
        if not set(chosen) <= set(S):
            continue
        p = math.exp(2 * log_volume(A, S))
        free = [j for j in S if j not in chosen]
        total[free] += p * oracles.squared_error(A, S)
        mass[free] += p
    return np.where(mass > 0, total / np.where(mass > 0, mass, 1), np.inf), mass


def test_every_pick_has_the_least_conditional_expectation():
    rng = np.random.default_rng(3)
    tried = [rng.standard_normal((m, n)) * rng.uniform(0.1, 1, n) for m, n in [(5, 7), (7, 6), (6, 8)] * 5]
    tried += [matrices.multi_peak((2, 2), (1.0, 1e-2)), matrices.simplex(4, 0.3), matrices.star(6, 0.2)]
    for A in tried:
        for k in (1, 2, 3, 4):
            S = select(A, k, "volume_derandomized").indices.tolist()
            for t in range(k):
                expected, _ = conditional_expectations(A, k, S[:t])
                assert expected[S[t]] <= expected.min() * (1 + 1e-8) + 1e-14 * np.sum(A**2)


def test_conditional_values_are_the_enumerated_ones():
    rng = np.random.default_rng(4)
    for k in (1, 2, 3, 5):
        A = rng.standard_normal((6, 7)) * 10.0 ** rng.uniform(-1, 1, 7)
        _, s, Vh = np.linalg.svd(A, full_matrices=False)
        norms2, found, chance = _conditional(s**2, Vh**2, k - 1)
        np.testing.assert_allclose(norms2, np.sum(A**2, axis=0))
        expected, mass = conditional_expectations(A, k, [])
        np.testing.assert_allclose(found, expected, rtol=1e-9)
        np.testing.assert_allclose(chance / chance.sum(), mass / mass.sum(), rtol=1e-9)


def test_derandomised_volume_obeys_the_sharper_bound():
    for A, k in families():
        s = singular_values(A)
        if s.size <= k or s[k] < 1e-10 * s[0]:
            continue
        error, mean = select(A, k, "volume_derandomized").errors[-1], bounds.volume_expectation(s, k)
        assert math.sqrt(error) <= math.sqrt(mean * np.sum(s[k:] ** 2)) * (1 + 1e-9) + slack(A)


def test_symmetric_polynomials_stay_in_range():
    A = matrices.graded(120, 110, 0, decades=13)
    for k in (40, 100):
        s = singular_values(A)
        error = math.sqrt(select(A, k, "volume_derandomized").errors[-1])
        assert error <= math.sqrt((k + 1) * np.sum(s[k:] ** 2)) + slack(A)


# ---------------------------------------------------------------- DEIM and Q-DEIM


def deim_as_written(V):
    S = [int(np.argmax(np.abs(V[:, 0])))]
    for t in range(1, V.shape[1]):
        r = V[:, t] - V[:, :t] @ np.linalg.solve(V[S, :t], V[S, t])
        S.append(int(np.argmax(np.abs(r))))
    return S


def test_deim_and_qdeim_are_the_algorithms_of_the_papers():
    rng = np.random.default_rng(5)
    for _ in range(100):
        m, n = rng.integers(8, 16, 2)
        k = int(rng.integers(1, 7))
        A = rng.standard_normal((m, n)) * rng.uniform(0.2, 1, n)
        V = np.linalg.svd(A)[2][:k].T
        S, T = select(A, k, "deim").indices.tolist(), select(A, k, "qdeim").indices.tolist()
        assert deim_as_written(V) == S
        assert scipy.linalg.qr(V.T, pivoting=True)[2][:k].tolist() == T
        assert np.linalg.norm(np.linalg.inv(V[S]), 2) ** 2 <= bounds.deim(n, k)
        assert np.linalg.norm(np.linalg.inv(V[T]), 2) ** 2 <= bounds.qdeim(n, k)


# ---------------------------------------------------------------- BSS


def test_dual_set_walk_keeps_both_promises():
    for A, r in families((9, 14, 5), (20, 16, 8), (12, 30, 12)):
        for k in {1, max(1, r // 4), r - 1}:
            a = _shared.rest(problem(A, r))
            s, V, most = a.svd(every=True)
            Vh = V.formed()
            if k > most:
                continue
            V, e2 = Vh[:k], np.sum((s[k:, None] * Vh[k:]) ** 2, axis=0)
            steps = dual_set(a, V, e2, r)
            assert len(steps) == r
            w = np.zeros(A.shape[1])
            for j, t in steps:
                w[j] += t * (1 - math.sqrt(k / r)) / r
            assert np.linalg.eigvalsh((V * w) @ V.T)[0] >= bounds.bss_certificate(k, r) * (1 - 1e-9)
            assert w @ e2 <= np.sum(e2) * (1 + 1e-9)


def test_dual_set_walk_takes_the_widest_gap():
    """The walk with inverses and sums written out."""
    rng = np.random.default_rng(10)
    for _ in range(20):
        n, k, r = 12, int(rng.integers(1, 4)), int(rng.integers(5, 9))
        A = rng.standard_normal((9, n)) * rng.uniform(0.1, 1, n)
        _, s, Vh = np.linalg.svd(A, full_matrices=False)
        V, e2 = Vh[:k], np.sum((s[k:, None] * Vh[k:]) ** 2, axis=0)
        M, expected = np.zeros((k, k)), []
        for tau in range(r):
            here, after = (np.linalg.inv(M - (tau + d - math.sqrt(r * k)) * np.eye(k)) for d in (0, 1))
            phi = np.trace(after) - np.trace(here)
            gaps = [v @ after @ after @ v / phi - v @ after @ v for v in V.T]
            caps = e2 / (np.sum(e2) / (1 - math.sqrt(k / r)))
            j = int(np.argmax(np.where(gaps >= caps, gaps - caps, -1)))
            M += np.outer(V[:, j], V[:, j]) / gaps[j]
            expected.append(j)
        assert [j for j, _ in dual_set(_shared.rest(problem(A, r)), V, e2, r)] == expected


@pytest.mark.parametrize("rank", [None, 1, 2, 4])
def test_bss_reaches_the_error_of_the_rank(rank):
    for A, k in families((9, 14, 5), (20, 16, 8), (12, 30, 12)):
        r = max(1, k // 4) if rank is None else rank
        sel = select(A, k, "bss") if rank is None else select(A, k, "bss", rank=rank)
        assert len(set(sel.indices.tolist())) == k
        tail = np.sum(singular_values(A)[r:] ** 2)
        assert math.sqrt(sel.errors[-1]) <= math.sqrt(bounds.bss_frobenius(r, k) * tail) * (1 + 1e-9) + slack(
            A
        )


def test_bss_picks_are_those_of_the_walk():
    for A, r in families((12, 30, 12), (9, 14, 5)):
        a = _shared.rest(problem(A, r))
        s, V, most = a.svd(every=True)
        Vh = V.formed()
        k = min(max(1, r // 4), most)
        walk = list(
            dict.fromkeys(j for j, _ in dual_set(a, Vh[:k], np.sum((s[k:, None] * Vh[k:]) ** 2, axis=0), r))
        )
        assert select(A, r, "bss").indices.tolist()[: len(walk)] == walk


@pytest.mark.parametrize("rank", [0, -1, 3, 4, 1.5, True, "2"])
def test_bss_refuses_a_rank(rank):
    with pytest.raises(CsspError, match="rank"):
        select(np.eye(5), 3, "bss", rank=rank)


# ---------------------------------------------------------------- shared


@pytest.mark.parametrize("method", MINE)
def test_included_columns_leave_the_residual_problem(method):
    rng = np.random.default_rng(6)
    for _ in range(10):
        A = rng.standard_normal((8, 11)) * rng.uniform(0.2, 1, 11)
        Q = np.linalg.qr(A[:, [4, 7]])[0]
        E = A - Q @ (Q.T @ A)
        E[:, [4, 7]] = 0
        options = {"rank": 1} if method == "bss" else {}
        whole = select(A, 5, method, include=[4, 7], **options).indices.tolist()
        assert whole[:2] == [4, 7]
        assert whole[2:] == select(E, 3, method, **options).indices.tolist()


@pytest.mark.parametrize("method", MINE)
def test_tolerance_ends_at_a_k_whose_predecessor_fails(method):
    rng = np.random.default_rng(7)
    for _ in range(5):
        A = rng.standard_normal((10, 12)) * 0.7 ** np.arange(12)
        for tol in (0.7, 0.3, 0.05):
            sel = select(A, method=method, tol=tol)
            assert sel.relative_error <= tol
            s2 = singular_values(A) ** 2
            assert np.sum(s2[sel.k :]) <= tol**2 * np.sum(s2)
            whole = next(x for k in range(1, 11) if (x := select(A, k, method)).relative_error <= tol)
            assert sel.indices.tolist() == whole.indices.tolist()[: sel.k]
            assert sel.k == whole.k or np.sqrt(whole.errors[sel.k] / whole.errors[0]) <= tol


@pytest.mark.parametrize("method", ["strong_rrqr", "osinsky", "volume_derandomized", "qdeim", "local_search"])
def test_tolerance_far_from_the_optimum(method):
    """Columns need many more than the singular vectors: the search overshoots and comes back."""
    A = np.random.default_rng(11).standard_normal((40, 40))
    whole = next(x for k in range(1, 40) if (x := select(A, k, method)).relative_error <= 0.3)
    assert select(A, method=method, tol=0.3).indices.tolist() == whole.indices.tolist()


@pytest.mark.parametrize("method", MINE)
def test_low_rank_and_copies(method):
    rng = np.random.default_rng(8)
    A = rng.standard_normal((9, 3)) @ rng.standard_normal((3, 8))
    assert select(A, 3, method).rank == 3
    with pytest.warns(RankDeficientWarning):
        sel = select(A, 6, method)
    assert sel.rank == 3
    assert sel.relative_error < 1e-12
    B = np.repeat(rng.standard_normal((9, 4)), 3, axis=1)
    sel = select(B, 4, method)
    assert sel.rank == 4
    if method != "exact":
        assert all(j % 3 == 0 for j in sel.indices)  # the first of each three equal columns


@pytest.mark.parametrize("method", [m for m in MINE if m != "exact"])
def test_single_precision_and_scale(method):
    rng = np.random.default_rng(9)
    A = rng.standard_normal((12, 20)) * rng.uniform(0.2, 1, 20)
    wanted = select(A, 6, method).indices.tolist()
    assert select(A.astype(np.float32), 6, method).indices.tolist() == wanted
    assert select(A * 1e200, 6, method).indices.tolist() == wanted
    C = A + 1j * rng.standard_normal(A.shape)
    phases = np.exp(2j * np.pi * rng.random(20))
    assert select(C, 6, method).indices.tolist() == select(C * phases, 6, method).indices.tolist()
    assert select(A * phases, 6, method).indices.tolist() == wanted


def test_rows_are_whole():
    for name in MINE:
        assert METHODS[name].guarantee is not None
        assert METHODS[name].deterministic
