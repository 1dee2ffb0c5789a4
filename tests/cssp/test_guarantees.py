"""Every method against every statement about it, on every matrix family: `analysis guarantees`, made small.

The statements, their scores (at most 1 where they hold) and the instances are those of the command; here each meets
fewer instances. Besides: the pairs of matrix and method that the theory sets apart.
"""

import itertools
import math
import re
from pathlib import Path

import numpy as np
import oracles
import pytest

from analysis.theory import guarantees, instances, laws, statements
from cssp import METHODS, bounds, matrices, select
from cssp.matrices import MATRICES
from cssp.problem import Problem

COUNT = 100


@pytest.mark.parametrize("method", METHODS)
def test_statements_hold(method):
    lines = guarantees.examine(method, COUNT, seed=7, variants=COUNT // 4, draws=100)
    assert lines
    for line in lines:
        assert line.holds_up, (line.statement, line.options, line.violations[:3])
        assert line.instances >= (10 if line.options else 40), line.statement


def test_instances_cover_every_family_weights_and_rotations():
    names = [at.name for at in itertools.islice(instances.instances(7), 12 * len(MATRICES))]
    for family in [*MATRICES, "random"]:
        for kind in ("", ", weighted", ", rotated"):
            assert any(re.match(rf"{family}{kind} \d", name) for name in names), (family, kind)


def test_sources_are_in_the_bibliography():
    text = (Path(__file__).parents[2] / "docs" / "references.bib").read_text()
    keys = set(re.findall(r"^@\w+\{(\w+),", text, re.M))
    cited = {source for claims in statements.STATEMENTS.values() for _, source, _ in claims}
    cited |= {source for _, source, _ in statements.UNIVERSAL} | {i.source for i in laws.IDENTITIES}
    cited |= {row.guarantee.source for row in METHODS.values() if row.guarantee}
    cited |= {row.citation for row in METHODS.values() if row.citation}
    assert cited <= keys, cited - keys


def test_every_name_in_the_lists_is_a_method():
    assert set(statements.STATEMENTS) <= set(METHODS)
    assert set(guarantees.VARIANTS) <= set(METHODS)
    assert {identity.method for identity in laws.IDENTITIES} <= set(METHODS)


# ---------------------------------------------------------------- the instruments themselves


def last_columns(at):
    return list(range(at.n - at.k, at.n))


@pytest.mark.parametrize(
    "method",
    [
        m
        for m, row in METHODS.items()
        if row.guarantee and row.guarantee.holds == "every run" and m in statements.STATEMENTS
    ],
)
def test_scores_see_that_the_last_columns_were_returned(method):
    options = {}
    found = 0.0
    for at in itertools.islice(instances.instances(7), 600):
        if not at.has_rank_k:
            continue
        run = instances.Run(at, last_columns(at), method, options)
        found = max([found, *(score(run) or 0 for _, _, score in statements.STATEMENTS[method])])
    assert found > 1.5


def test_score_is_one_at_the_bound_and_forgives_rounding_only():
    at = instances.Instance("", np.eye(3), 1)
    assert at.slack == 30 * 3 * np.finfo(float).eps
    assert at.score((2 + at.slack) ** 2, 4.0) == pytest.approx(1, abs=1e-14)
    assert at.score((2 + 3 * at.slack) ** 2, 4.0) > 1
    assert at.score(1e-40, 0.0) == 0
    assert at.score(1e-10, 0.0) == math.inf


@pytest.mark.parametrize("method", ["volume", "arp", "random_pivot", "adaptive", "leverage"])
def test_enumerated_law_is_a_law_and_the_one_that_is_sampled(method):
    A = np.random.default_rng(3).standard_normal((4, 4)) * [1, 2, 4, 8]
    row, open_ = METHODS[method], np.ones(4, dtype=bool)
    law = laws.exact_law(row.function, Problem(A=A, k=2, candidates=open_))
    assert sum(law.values()) == pytest.approx(1, abs=1e-12)
    assert len(law) == 6
    rng, draws = np.random.default_rng(5), 2000
    problem = Problem(A=A, k=2, candidates=open_, rng=rng)
    found = {}
    for _ in range(draws):
        S = tuple(sorted(row.function(problem).indices))
        found[S] = found.get(S, 0) + 1
    # Each count is binomial; by Hoeffding it strays this far with probability below 1e-7.
    reach = draws * math.sqrt(math.log(2 * 6 / 1e-7) / (2 * draws))
    assert all(abs(found.get(S, 0) - draws * p) < reach for S, p in law.items())


def test_a_law_that_cannot_be_enumerated_is_averaged_from_below():
    with pytest.raises(laws.NotEnumerable):
        laws.exact_law(METHODS["norm"].function, Problem(A=np.eye(3), k=1, candidates=np.ones(3, dtype=bool)))
    at = instances.Instance("", np.diag([3.0, 2.0, 1.0]), 1)
    e = laws.Expectation(at, "norm", {}, draws=2000)
    exact = 14 - (81 + 16 + 1) / 14
    assert e.law is None
    assert 0.5 * exact < e.mean(at.F) <= exact


# ---------------------------------------------------------------- included columns


@pytest.mark.parametrize(
    "method",
    [
        name
        for name, row in METHODS.items()
        if row.deterministic
        and "include" in row.supports
        and name not in ("farthest", "leverage_top", "gappypod_e")
    ],  # those speak of distances between columns, and of A's own V_k
)
def test_with_included_columns_it_is_the_method_on_what_they_leave(method):
    for seed in range(8):
        rng = np.random.default_rng(seed)
        A = rng.standard_normal((7, 10)) * 10 ** rng.uniform(-1, 1, 10)
        forced = [int(j) for j in rng.choice(10, 2, replace=False)]
        rest = oracles.residual_matrix(A, forced)
        rest[:, forced] = 0
        chosen = select(A, 5, method, include=forced).indices.tolist()
        assert chosen[:2] == forced
        assert sorted(chosen[2:]) == sorted(select(rest, 3, method).indices.tolist())


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if "exclude" in row.supports])
def test_excluded_columns_are_not_chosen(method):
    A = np.random.default_rng(2).standard_normal((7, 10))
    A[:, 3:6] *= 100
    assert not {3, 4, 5} & set(select(A, 5, method, exclude=[3, 4, 5], rng=1).indices.tolist())


# ---------------------------------------------------------------- theorem against matrix


@pytest.mark.parametrize(("k", "n"), [(1, 4), (2, 6), (3, 11)])
@pytest.mark.parametrize("method", ["residual", "pivoted_qr"])
def test_pivoted_qr_attains_its_constant(method, k, n):
    A = matrices.duplicated_tail_kahan(n, k)
    c = select(A, k, method).certificate()
    assert c.spectral_factor == bounds.pivoted_qr(n, k)
    assert 0.999 < math.sqrt(c.spectral_ratio / c.spectral_factor) <= 1 + 1e-9


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("method", METHODS)
def test_nothing_beats_k_plus_one_on_the_simplex(method, k):
    c = select(matrices.simplex(k, 1e-3), k, method, rng=0).certificate()
    assert c.ratio == pytest.approx(bounds.simplex(k, 1e-3), rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_the_star_forces_its_spectral_ratio_on_all(method):
    c = select(matrices.star(8, 0.5), 3, method, rng=0).certificate()
    assert c.spectral_squared_error / 0.25 == pytest.approx(bounds.star_spectral(8, 3, 0.5), rel=1e-9)


def test_gain_greedy_fails_where_pivoted_qr_is_optimal():
    for copies in (5, 50, 200):
        A = matrices.gain_greedy_killer(copies)
        best = 2 * copies * 0.0  # the best pair leaves the decoy's third coordinate alone
        pair = oracles.squared_error(A, [0, copies])
        best = max(best, pair)
        greedy, residual = select(A, 2, "greedy"), select(A, 2, "residual")
        assert residual.errors[-1] == pytest.approx(best, rel=1e-9)
        assert greedy.errors[-1] / best == pytest.approx(bounds.gain_greedy(copies), rel=1e-9)


@pytest.mark.parametrize(("n", "k"), [(8, 2), (14, 3), (21, 4)])
@pytest.mark.parametrize("method", [m for m in ("osinsky", "volume_derandomized") if m in METHODS])
def test_within_k_plus_one_where_rules_that_see_only_V_are_not(method, n, k):
    for seed in range(20):
        V = matrices.incoherent(n, k, rng=seed)
        A = matrices.basis_only_killer(V)
        blind = oracles.squared_error(A, matrices.basis_only_osinsky(V))
        c = select(A, k, method).certificate()
        assert c.factor == k + 1
        assert c.ratio <= (k + 1) * (1 + 1e-9)
        assert blind / c.squared_optimum > n / k * (1 - 1e-3)
    assert n / k > k + 1


def test_deterministic_leverage_attains_its_bound():
    A = matrices.leverage_killer(6, 3, share=0.4)
    c = select(A, 3, "leverage_top").certificate()
    assert c.ratio == pytest.approx(1 / 0.6, rel=1e-4)
    assert c.factor is None


@pytest.mark.parametrize(
    "method",
    [m for m in METHODS if METHODS[m].deterministic and m not in ("farthest", "leverage_top")],
)  # those two need not take independent columns
def test_columns_equal_but_for_rounding_are_not_chosen_together(method):
    """Their difference is a direction made of rounding, in which a ratio of residuals may look like anything."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        m = int(rng.integers(4, 9))
        Q, _ = np.linalg.qr(rng.standard_normal((m, m)))
        A = Q @ rng.standard_normal((m, 4))[:, [0, 1, 1, 2, 3, 3, 1, 0]] * rng.choice([1, -1, 2, 3], 8)
        chosen = select(A, 3, method)
        assert chosen.rank == 3
        assert len({[0, 1, 1, 2, 3, 3, 1, 0][j] for j in chosen.indices}) == 3
    for n, seed in itertools.product((8, 12), range(60)):  # columns j and j + n/2 are opposite
        V = matrices.incoherent(n, 2, rng=seed)
        chosen = select(matrices.basis_only_killer(V), 2, method)
        assert chosen.rank == 2
