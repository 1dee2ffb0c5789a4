"""Branch and bound against enumeration; swap refinement against all swaps tried one by one."""

import itertools

import numpy as np
import oracles
import pytest

from cssp import METHODS, CsspError, matrices, select
from cssp.matrices import MATRICES
from cssp.methods import _shared, exact
from cssp.methods.local_search import LEAST_GAIN, _best_swap, _error, refined
from cssp.problem import Picks, Problem


def least(A, k, B=None, include=(), exclude=()):
    free = [j for j in range(A.shape[1]) if j not in (*include, *exclude)]
    choices = itertools.combinations(free, k - len(include))
    return min(oracles.squared_error(A, [*include, *S], B) for S in choices)


def assert_least(error, best, A):
    """Equal up to rounding in the unit of the error, the norm."""
    assert np.sqrt(error) <= np.sqrt(best) * (1 + 1e-10) + 30 * np.finfo(float).eps * np.linalg.norm(A)


def instances(count):
    """Small matrices of all families, sizes drawn at random."""
    rng = np.random.default_rng(0)
    families = itertools.cycle(MATRICES.values())
    while count:
        family = next(families)
        m, n = (int(x) for x in rng.integers(2, 9, 2))
        k = int(rng.integers(1, min(n, 4) + 1))
        if family.fits(m, n, k):
            count -= 1
            yield family(m, n, k, rng=int(rng.integers(2**31))), k, rng


@pytest.mark.filterwarnings("ignore::cssp.RankDeficientWarning")
def test_exact_is_enumeration():
    for A, k, _ in instances(500):
        assert_least(select(A, k, "exact").errors[-1], least(A, k), A)


@pytest.mark.filterwarnings("ignore::cssp.RankDeficientWarning")
def test_exact_with_target_included_and_excluded():
    for A, k, rng in instances(60):
        m, n = A.shape
        B = rng.standard_normal((m, int(rng.integers(1, 5))))
        s = np.linalg.svd(A, compute_uv=False)
        if s[-1] < 1e-7 * s[0]:
            continue  # the error of B on nearly dependent columns is a matter of where rounding begins
        assert_least(select(A, k, "exact", target=B).errors[-1], least(A, k, B), B)
        if n < k + 2:
            continue
        a, b = (int(j) for j in rng.permutation(n)[:2])
        sel = select(A, k, "exact", target=B, include=[a], exclude=[b])
        assert_least(sel.errors[-1], least(A, k, B, [a], [b]), B)


def test_exact_in_deeper_trees_and_complex():
    rng = np.random.default_rng(1)
    for m, n, k in ((6, 12, 5), (12, 12, 6), (14, 10, 7), (5, 13, 4)):
        A = rng.standard_normal((m, n)) * rng.uniform(0.3, 1, n)
        assert select(A, k, "exact").errors[-1] == pytest.approx(least(A, k), rel=1e-9)
    C = rng.standard_normal((6, 8)) + 1j * rng.standard_normal((6, 8))
    assert select(C, 3, "exact").errors[-1] == pytest.approx(least(C, 3), rel=1e-9)


def enumerated(A, k):
    """The least error of all k-subsets, from Gram matrices: F = tr G - tr(G_SS⁻¹ (G²)_SS)."""
    G = A.T @ A
    H, best, sets = G @ G, np.inf, itertools.combinations(range(len(G)), k)
    while block := list(itertools.islice(sets, 5000)):
        S = np.array(block)
        at = S[:, :, None], S[:, None, :]
        best = min(best, np.trace(G) - np.trace(np.linalg.solve(G[at], H[at]), axis1=1, axis2=2).max())
    return best


@pytest.mark.parametrize(("m", "k"), [(30, 5), (30, 8), (30, 12), (11, 7), (16, 11)])
def test_exact_is_enumeration_where_the_relaxation_decides(m, k):
    rng = np.random.default_rng(m + k)
    noise = rng.standard_normal((m, 16))
    clusters = rng.standard_normal((m, 5))[:, rng.integers(0, 5, 16)] + 0.4 * noise
    for A in (noise, noise * rng.uniform(0.2, 1, 16), clusters):
        assert select(A, k, "exact").errors[-1] == pytest.approx(enumerated(A, k), rel=1e-8)


def test_exact_below_the_resolution_of_a_gram_matrix():
    """A gap of nine digits: the errors that decide are 1e-18 of the squared norm."""
    rng = np.random.default_rng(2)
    for _ in range(5):
        A = rng.standard_normal((8, 3)) @ rng.standard_normal((3, 9)) + 1e-9 * rng.standard_normal((8, 9))
        assert select(A, 3, "exact").errors[-1] == pytest.approx(least(A, 3), rel=1e-5)


def test_exact_finds_the_fewest_columns_for_a_tolerance():
    rng = np.random.default_rng(3)
    for _ in range(5):
        A = rng.standard_normal((7, 8)) * 0.8 ** np.arange(8)
        total = np.linalg.norm(A) ** 2
        for tol in (0.8, 0.4, 0.2):
            fewest = next(k for k in range(1, 9) if least(A, k) <= tol**2 * total)
            assert select(A, method="exact", tol=tol).k == fewest


def test_exact_of_thirty_columns():
    A = MATRICES["exponential"](30, 30, 5, 0)
    found = select(A, 5, "exact")
    assert found.errors[-1] <= select(A, 5, "local_search").errors[-1]
    assert sorted(found.indices.tolist()) == found.indices.tolist()


@pytest.mark.parametrize(("m", "k", "nodes"), [(60, 20, 1000), (60, 25, 100), (30, 25, 200)])
def test_most_of_thirty_columns_take_few_nodes(m, k, nodes):
    """Without the relaxation 49,635, 2,227 and 1,045."""
    A = np.random.default_rng(m).standard_normal((m, 30))
    found = select(A, k, "exact", nodes=nodes)
    assert found.errors[-1] <= select(A, k, "local_search").errors[-1] * (1 + 1e-14)  # of the same columns


def test_exact_says_when_it_gives_up():
    A = np.random.default_rng(4).standard_normal((30, 40))
    with pytest.raises(CsspError, match=r"nodes = 20 .*best 12 of 40.*local_search"):
        select(A, 12, "exact", nodes=20)
    for nodes in (0, -1, 1.5, True):
        with pytest.raises(CsspError, match="nodes"):
            select(A, 2, "exact", nodes=nodes)


# ---------------------------------------------------------------- local search


def rest_of(A, B=None):
    n = A.shape[1]
    return _shared.rest(Problem(A=A, k=1, candidates=np.ones(n, dtype=bool), width=n, target=B))


def best_swap_by_trial(A, S, B=None):
    others = [j for j in range(A.shape[1]) if j not in S]
    return min(oracles.squared_error(A, [*S[:i], j, *S[i + 1 :]], B) for i in range(len(S)) for j in others)


@pytest.mark.parametrize("aimed", [False, True])
@pytest.mark.parametrize("wide", [np.float64, np.complex128])
def test_the_best_swap_is_the_best(aimed, wide):
    rng = np.random.default_rng(5)
    for _ in range(60):
        m, n = (int(x) for x in rng.integers(5, 12, 2))
        k = int(rng.integers(1, min(m, n) - 1))
        A = (rng.standard_normal((m, n)) * rng.uniform(0.1, 1, n)).astype(wide)
        B = rng.standard_normal((m, 4)).astype(wide) if aimed else None
        if wide is np.complex128:
            A = A + 1j * rng.standard_normal((m, n))
            B = None if B is None else B + 1j * rng.standard_normal((m, 4))
        S = rng.permutation(n)[:k].tolist()
        a = rest_of(A, B)
        F = _error(a, S)
        best = best_swap_by_trial(A, S, B)
        swap = _best_swap(a, S, F)
        if swap is None:
            assert best >= F * (1 - LEAST_GAIN) * (1 - 1e-9)
            continue
        i, j = swap
        found = oracles.squared_error(A, [*S[:i], j, *S[i + 1 :]], B)
        assert found == pytest.approx(best, rel=1e-9)


@pytest.mark.filterwarnings("ignore::cssp.RankDeficientWarning")
@pytest.mark.parametrize("start", ["residual", "uniform", "osinsky", "volume", "leverage_top"])
def test_local_search_ends_where_no_swap_pays(start):
    for index, family in enumerate(MATRICES.values()):
        for m, n, k in ((8, 9, 3), (12, 10, 5)):
            if not family.fits(m, n, k):
                continue
            A = family(m, n, k, rng=index)
            error = select(A, k, "local_search", start=start, rng=1).errors[-1]
            noise = 1e-26 * np.linalg.norm(A) ** 2
            assert error <= select(A, k, start, rng=1).errors[-1] * (1 + 1e-9) + noise
            if error > 1e-20 * np.linalg.norm(A) ** 2:
                S = select(A, k, "local_search", start=start, rng=1).indices.tolist()
                assert best_swap_by_trial(A, S) >= error * (1 - LEAST_GAIN) * (1 - 1e-9)


def test_a_start_with_columns_equal_but_for_rounding_is_left():
    """The rounding by which two columns differ seems to be the direction that they lack."""
    rng = np.random.default_rng(10)
    for _ in range(50):
        A = rng.standard_normal((2, 3))
        A[:, 2] = A[:, 0]
        p = Problem(A=A, k=2, candidates=np.ones(3, dtype=bool), width=3)
        apart = rng.standard_normal(2)
        A[:, 2] += rng.uniform(0.5, 6) * p.noise * apart / np.linalg.norm(apart)
        assert set(refined(p, Picks((0, 2))).indices) != {0, 2}


def test_local_search_gains_something():
    A = matrices.gain_greedy_killer(20)
    bad = select(A, 2, "greedy").errors[-1]
    assert select(A, 2, "local_search", start="greedy").errors[-1] < bad / 10
    rng = np.random.default_rng(6)
    better = 0
    for _ in range(20):
        X = rng.standard_normal((10, 20))
        better += select(X, 6, "local_search").errors[-1] < 0.99 * select(X, 6).errors[-1]
    assert better > 15


def test_local_search_with_target_included_and_excluded():
    rng = np.random.default_rng(7)
    for _ in range(20):
        A, B = rng.standard_normal((8, 12)), rng.standard_normal((8, 3))
        sel = select(A, 5, "local_search", target=B, include=[3, 1], exclude=[0, 7])
        S = sel.indices.tolist()
        assert S[:2] == [3, 1]
        assert not {0, 7} & set(S)
        F = sel.errors[-1]
        for i in range(2, 5):
            for j in set(range(12)) - set(S) - {0, 7}:
                error = oracles.squared_error(A, [*S[:i], j, *S[i + 1 :]], B)
                assert error >= F * (1 - LEAST_GAIN) * (1 - 1e-9)


def test_local_search_from_chance_is_reproducible_item_by_item():
    A = np.random.default_rng(8).standard_normal((3, 9, 14))
    batch = select(A, 4, "local_search", start="uniform", rng=5)
    for i, g in enumerate(np.random.default_rng(5).spawn(3)):
        alone = select(A[i], 4, "local_search", start="uniform", rng=g)
        np.testing.assert_array_equal(batch.indices[i], alone.indices)


@pytest.mark.parametrize("start", ["local_search", "nothing", 3, None])
def test_local_search_refuses_a_start(start):
    with pytest.raises(CsspError, match="start"):
        select(np.eye(4), 2, "local_search", start=start)


def test_local_search_refuses_what_its_start_cannot_honour():
    for start, row in METHODS.items():
        if start != "local_search" and "complex" not in row.supports:
            with pytest.raises(CsspError, match="complex"):
                select(np.eye(4) * 1j, 2, "local_search", start=start)


def test_the_bound_of_the_start_is_claimed_for_pivoted_qr_only():
    A = np.random.default_rng(9).standard_normal((6, 8))
    assert select(A, 3, "local_search").certificate().factor is not None
    assert select(A, 3, "local_search", start="osinsky").certificate().factor is None


def test_random_starts_of_a_complex_matrix(monkeypatch):
    monkeypatch.setattr(exact, "SEARCH_AFTER", 1)
    rng = np.random.default_rng(0)
    A = rng.standard_normal((6, 9)) + 1j * rng.standard_normal((6, 9))
    chosen = select(A, 3, "exact")
    assert tuple(sorted(chosen.indices.tolist())) == oracles.best_subset(A, 3)[0]
