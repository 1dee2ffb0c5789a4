"""The sampling methods obey their laws: exactly, over every random decision, and in draws.

`law` runs a method through all its random decisions and multiplies their probabilities: the exact law of
the code, compared with the definition by enumeration of subsets. Statistical tests fail on correct code with
probability below 1e-6 each.
"""

import importlib
import itertools
import math
import warnings
from fractions import Fraction

import numpy as np
import oracles
import pytest
import scipy.linalg
import scipy.stats

from cssp import CsspError, RankDeficientWarning, bounds, sampling, select
from cssp.matrices import MATRICES, spectra
from cssp.methods import METHODS
from cssp.methods.volume import inclusion
from cssp.problem import Problem

EPS = np.finfo(float).eps
FAILURE = 1e-6
# The functions of the same names hide these modules from attribute access.
RANDOM_PIVOT = importlib.import_module("cssp.methods.random_pivot")
TWO_STAGE = importlib.import_module("cssp.methods.two_stage")
SIZES = [(5, 5, 1), (6, 5, 2), (4, 6, 2), (5, 4, 3)]


# ---------------------------------------------------------------- definitions


def optimum(A, k):
    return float(np.sum(np.linalg.svd(A, compute_uv=False)[k:] ** 2))


def gram_det(A, S):
    return float(np.linalg.det(A[:, list(S)].conj().T @ A[:, list(S)]).real)


def volume_law(A, k, among=None, given=()):
    """P(S) ∝ det(A_SᴴA_S) over the k-subsets S of `among` that contain `given`."""
    among = range(A.shape[1]) if among is None else among
    weight = {S: max(0.0, gram_det(A, S)) for S in itertools.combinations(among, k) if set(given) <= set(S)}
    total = sum(weight.values())
    return {frozenset(S): w / total for S, w in weight.items()}


def arp_law(A, k):
    """P(J) = |det V_J|², V the first k right singular vectors."""
    V = np.linalg.svd(A)[2][:k].conj().T
    return {
        frozenset(S): abs(np.linalg.det(V[list(S)])) ** 2
        for S in itertools.combinations(range(A.shape[1]), k)
    }


def successive_law(w, k):
    """Sets of k indices drawn one after the other, each in proportion to w among those left."""
    w = np.asarray(w, dtype=float)
    out = {}
    for order in itertools.permutations(np.flatnonzero(w > 0), k):
        q, left = 1.0, w.sum()
        for j in order:
            q *= w[j] / left
            left -= w[j]
        out[frozenset(order)] = out.get(frozenset(order), 0.0) + q
    return out


def round_law(A, sizes):
    """Rounds of successive draws from the squared residual norms at the start of each."""
    law = {frozenset(): 1.0}
    for s in sizes:
        new = {}
        for S, q in law.items():
            w = np.sum(np.abs(oracles.residual_matrix(A, sorted(S))) ** 2, axis=0) if S else sq_norms(A)
            w[list(S)] = 0
            for T, r in successive_law(w, s).items():
                new[S | T] = new.get(S | T, 0.0) + q * r
        law = new
    return law


def filtered(X, share):
    """Columns of X of largest residual, one after another, until what they leave of X is at most this share of it."""
    kept = []
    while not kept or oracles.squared_error(X, kept) > share * np.linalg.norm(X) ** 2:
        left = sq_norms(oracles.residual_matrix(X, kept)) if kept else sq_norms(X)
        kept.append(int(np.argmax(left)))
    return kept


def block_law(A, k, b):
    """Successive draws of min(b, columns still wanted) from the residual norms, filtered; again."""
    done, running = {}, {frozenset(): 1.0}
    while running:
        new = {}
        for S, q in running.items():
            E = oracles.residual_matrix(A, sorted(S)) if S else A
            w = sq_norms(E)
            w[list(S)] = 0
            for T, r in successive_law(w, min(b, k - len(S))).items():
                J = sorted(T)
                U = S | {J[i] for i in filtered(E[:, J], 1 / b)}
                into = done if len(U) == k else new
                into[U] = into.get(U, 0.0) + q * r
        running = new
    return done


def sq_norms(A):
    return np.sum(np.abs(A) ** 2, axis=0)


def expectation(law, f):
    return math.fsum(q * f(sorted(S)) for S, q in law.items())


# ---------------------------------------------------------------- the law of the code


def problem(A, k, *, include=(), exclude=(), rng=None):
    candidates = np.ones(A.shape[1], dtype=bool)
    candidates[list(include) + list(exclude)] = False
    return Problem(A=A, k=k, candidates=candidates, include=tuple(include), rng=rng)


class Path:
    """One run through the random decisions: those of `prefix`, then always the first possible one."""

    def __init__(self, prefix):
        self.prefix, self.taken, self.q, self.others = prefix, (), 1.0, []

    def decide(self, weights):
        w = np.asarray(weights, dtype=float) / np.sum(weights)
        possible = np.flatnonzero(w > 0).tolist()
        if len(self.taken) < len(self.prefix):
            choice = self.prefix[len(self.taken)]
        else:
            choice = possible[0]
            self.others += [(*self.taken, other) for other in possible[1:]]
        self.taken = (*self.taken, choice)
        self.q *= w[choice]
        return choice


def ordered_law(name, p, **options):
    """{picks in order: probability} over every path of random decisions."""
    found, pending = {}, [()]
    while pending:
        path = Path(pending.pop())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sampling, "draw", lambda w, rng, path=path: path.decide(w))
            patch.setattr(sampling, "coin", lambda c, rng, path=path: bool(path.decide([1 - c, c])))
            picks = tuple(int(j) for j in METHODS[name].function(p, **options).indices)
        pending += path.others
        assert len(set(picks)) == len(picks)
        found[picks] = found.get(picks, 0.0) + path.q
    assert math.fsum(found.values()) == pytest.approx(1, abs=1e-12)
    return found


def law(name, A, k, *, include=(), exclude=(), **options):
    """{set of picks: probability}."""
    out = {}
    for picks, q in ordered_law(name, problem(A, k, include=include, exclude=exclude), **options).items():
        assert picks[: len(include)] == tuple(include)
        out[frozenset(picks)] = out.get(frozenset(picks), 0.0) + q
    return out


def assert_same_law(found, wanted, tol=1e-10):
    for S in found.keys() | wanted.keys():
        assert found.get(S, 0.0) == pytest.approx(wanted.get(S, 0.0), abs=tol), sorted(S)


def gaussian(m, n, seed=0, complex_=False):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((m, n)) * 2.0 ** rng.uniform(-2, 2, n)
    return A + 1j * rng.standard_normal((m, n)) if complex_ else A


def families(*sizes):
    """(A, k, σ) of every family with σ_{k+1} > 1e-4 σ_1, where expectations are far above rounding."""
    for m, n, k in sizes or SIZES:
        for seed, (name, family) in enumerate(MATRICES.items()):
            if family.fits(m, n, k):
                A = family(m, n, k, rng=seed)
                s = np.linalg.svd(A, compute_uv=False)
                if s.size > k and s[k] > 1e-4 * s[0]:
                    yield pytest.param(A, k, id=f"{name}-{m}x{n}-{k}")


FAMILIES = list(families())
CASES = [(6, 6, 2, False), (5, 5, 3, False), (3, 6, 2, False), (5, 4, 4, False), (4, 5, 2, True)]


# ---------------------------------------------------------------- volume sampling


@pytest.mark.parametrize(("m", "n", "k", "complex_"), CASES)
def test_volume_law(m, n, k, complex_):
    A = gaussian(m, n, 1, complex_)
    assert_same_law(law("volume", A, k), volume_law(A, k))


def test_volume_law_given_included_and_without_excluded():
    A = gaussian(5, 6, 2)
    assert_same_law(law("volume", A, 3, include=[4, 1]), volume_law(A, 3, given=[4, 1]))
    assert_same_law(law("volume", A, 3, include=[2], exclude=[0]), volume_law(A, 3, range(1, 6), [2]))
    assert_same_law(law("volume", A, 2, exclude=[0, 5]), volume_law(A, 2, range(1, 5)))


@pytest.mark.parametrize(("A", "k"), FAMILIES)
def test_volume_expectation_is_the_identity(A, k):
    s = np.linalg.svd(A, compute_uv=False)
    found = law("volume", A, k)
    mean = expectation(found, lambda S: oracles.squared_error(A, S))
    wanted = bounds.volume_expectation(s, k) * optimum(A, k)
    assert mean == pytest.approx(wanted, rel=1e-10, abs=1e-14 * s[0] ** 2)
    assert mean <= bounds.volume(k) * optimum(A, k) * (1 + 1e-10)
    t = expectation(found, lambda S: np.linalg.norm(oracles.residual_matrix(A, S), 2) ** 2)
    assert t <= bounds.volume_spectral(*A.shape, k) * s[k] ** 2 * (1 + 1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_volume_of_weighted_columns_is_the_quality_dpp(seed):
    A, q = gaussian(5, 5, seed), np.random.default_rng(seed).uniform(0.1, 3, 5)
    L = q[:, None] * (A.T @ A) * q
    dpp = {S: np.linalg.det(L[np.ix_(S, S)]) for S in itertools.combinations(range(5), 2)}
    total = sum(dpp.values())
    found = law("volume", A * q, 2)
    assert_same_law(found, {frozenset(S): w / total for S, w in dpp.items()})
    s = np.linalg.svd(A * q, compute_uv=False)
    mean = expectation(found, lambda S: np.linalg.norm(oracles.residual_matrix(A, S) * q) ** 2)
    assert mean == pytest.approx(3 * math.exp(log_e(s**2, 3) - log_e(s**2, 2)), rel=1e-10)


def log_e(lam, k):
    return math.log(math.fsum(math.prod(T) for T in itertools.combinations(lam.tolist(), k)))


def test_weights_reach_the_sampler():
    A, q = np.random.default_rng(0).standard_normal((4, 5)), np.array([1.0, 0.5, 2.0, 0.0, 1.0])
    draws = [frozenset(select(A, 2, "volume", weights=q, rng=i).indices.tolist()) for i in range(1000)]
    assert_chi_square(draws, volume_law(A * q, 2))


def test_inclusion_probabilities_are_ratios_of_symmetric_polynomials():
    lam = [Fraction(x) for x in (1, Fraction(1, 3), Fraction(1, 7), Fraction(1, 10**9), Fraction(1, 10**25))]

    def e(l, j):
        return sum((math.prod(T) for T in itertools.combinations(lam[:j], l)), Fraction(0))

    P = inclusion(np.array([float(x) for x in lam]), 4)
    for l in range(1, 5):
        for j in range(5):
            wanted = lam[j] * e(l - 1, j) / e(l, j + 1) if e(l, j + 1) else 0
            assert P[l, j] == pytest.approx(float(wanted), rel=1e-14)


@pytest.mark.parametrize("decades", [0, 3, 28, 250])
def test_inclusion_probabilities_stay_in_range(decades):
    n, k = 400, 150
    lam = 10.0 ** -np.sort(np.random.default_rng(0).uniform(0, decades, n))
    P = inclusion(lam, k)
    assert np.all((P >= 0) & (P <= 1))
    for l, j in ((1, 399), (40, 60), (150, 149), (150, 150), (150, 399), (75, 300)):
        e = bounds.symmetric.elementary_symmetric
        wanted = math.log(lam[j]) + e(lam[:j], l - 1)[l - 1] - e(lam[: j + 1], l)[l]
        assert P[l, j] == pytest.approx(math.exp(wanted), rel=1e-9)
    assert P[1, 399] == pytest.approx(lam[399] / lam.sum(), rel=1e-13)


# ---------------------------------------------------------------- adaptive randomized pivoting


@pytest.mark.parametrize(("m", "n", "k", "complex_"), CASES)
def test_arp_law(m, n, k, complex_):
    A = gaussian(m, n, 3, complex_)
    assert_same_law(law("arp", A, k), arp_law(A, k))


def test_arp_order_is_exchangeable():
    found = ordered_law("arp", problem(gaussian(5, 5, 1), 3))
    for order, q in found.items():
        for other in itertools.permutations(order):
            assert found[other] == pytest.approx(q, abs=1e-12)


def test_arp_with_included_columns_is_arp_of_the_residual():
    A = gaussian(5, 6, 4)
    E = oracles.residual_matrix(A, [2])
    wanted = {S | {2}: q for S, q in arp_law(E, 2).items()}
    assert_same_law(law("arp", A, 3, include=[2]), wanted)
    inner = {frozenset(j + 1 for j in S): q for S, q in arp_law(A[:, 1:], 2).items()}
    assert_same_law(law("arp", A, 2, exclude=[0]), inner)


@pytest.mark.parametrize("seed", range(6))
def test_arp_identities(seed):
    m, n, k = [(7, 5, 2), (5, 6, 3), (6, 6, 1), (4, 5, 3), (6, 5, 4), (5, 6, 2)][seed]
    A = gaussian(m, n, seed)
    V = np.linalg.svd(A)[2][:k].T
    found = law("arp", A, k)
    assert math.fsum(found.values()) == pytest.approx(1, abs=1e-12)

    def interpolation(S):
        return np.linalg.norm(A - A[:, S] @ np.linalg.inv(V[S].T) @ V.T) ** 2

    wanted = (k + 1) * optimum(A, k)
    assert expectation(found, interpolation) == pytest.approx(wanted, rel=1e-10)
    inverse = expectation(found, lambda S: np.linalg.norm(np.linalg.inv(V[S])) ** 2)
    assert inverse == pytest.approx(bounds.arp_inverse(n, k), rel=1e-10)


@pytest.mark.parametrize(("A", "k"), FAMILIES)
def test_arp_expectation(A, k):
    found = law("arp", A, k)
    slack = 1 + 1e-10
    mean = expectation(found, lambda S: oracles.squared_error(A, S))
    assert mean <= bounds.arp(k) * optimum(A, k) * slack
    t = expectation(found, lambda S: np.linalg.norm(oracles.residual_matrix(A, S), 2) ** 2)
    s = np.linalg.svd(A, compute_uv=False)
    assert t <= METHODS["arp"].guarantee.spectral(*A.shape, k) * s[k] ** 2 * slack


# ---------------------------------------------------------------- random pivots and adaptive rounds


@pytest.mark.parametrize(("m", "n", "k", "complex_"), CASES)
def test_random_pivot_law(m, n, k, complex_):
    A = gaussian(m, n, 5, complex_)
    wanted = round_law(A, [1] * k)
    assert_same_law(law("random_pivot", A, k, accelerated=False), wanted)
    assert_same_law(law("random_pivot", A, k), wanted)
    assert_same_law(law("adaptive", A, k, batch=1), wanted)
    assert_same_law(law("adaptive", A, k), wanted)
    assert_same_law(law("adaptive", A, k, rounds=k), wanted)


def test_random_pivot_law_with_included_and_excluded():
    A = gaussian(5, 5, 6)
    E = oracles.residual_matrix(A, [3])
    E[:, 0] = 0
    wanted = {S | {3}: q for S, q in round_law(E, [1, 1]).items()}
    assert_same_law(law("random_pivot", A, 3, include=[3], exclude=[0]), wanted)
    assert_same_law(law("adaptive", A, 3, include=[3], exclude=[0], batch=1), wanted)


@pytest.mark.parametrize("b", [1, 2, 3])
@pytest.mark.parametrize("complex_", [False, True])
def test_blockwise_pivot_law(b, complex_):
    """Columns 0 to 2 and 3, 4 are nearly parallel: most blocks lose a column."""
    A = gaussian(5, 6, 3, complex_)
    for j, i in ((1, 0), (2, 0), (4, 3)):
        A[:, j] = 2 * A[:, i] + 0.3 * A[:, j]
    wanted = block_law(A, 3, b)
    assert_same_law(law("blockwise_pivot", A, 3, block=b), wanted)
    apart = max(abs(wanted.get(S, 0.0) - q) for S, q in round_law(A, [1] * 3).items())
    assert apart < 1e-12 if b == 1 else apart > 0.02


def test_blockwise_pivot_law_with_included_and_excluded():
    A = gaussian(5, 6, 6)
    E = oracles.residual_matrix(A, [3])
    E[:, [0, 3]] = 0
    wanted = {S | {3}: q for S, q in block_law(E, 2, 2).items()}
    assert_same_law(law("blockwise_pivot", A, 3, include=[3], exclude=[0], block=2), wanted)


def test_blocks_of_parallel_columns_are_filtered_and_plain_blocks_are_not():
    """Clusters whose sizes fall by half, heavy first: plain blocks draw one cluster again and again."""
    rng = np.random.default_rng(0)
    centres = np.linalg.qr(rng.standard_normal((40, 8)))[0] * 10
    A = centres[:, np.repeat(np.arange(8), 2 ** np.arange(8)[::-1])]
    A = A + 1e-3 * rng.standard_normal(A.shape)
    errors = {"blockwise_pivot": [], "adaptive": []}
    for seed in range(9):
        errors["blockwise_pivot"].append(select(A, 8, "blockwise_pivot", rng=seed, block=8).relative_error)
        errors["adaptive"].append(select(A, 8, "adaptive", rng=seed, batch=8).relative_error)
    assert np.median(errors["blockwise_pivot"]) < 1e-3 < 0.1 < np.median(errors["adaptive"])


def test_blockwise_pivot_meets_the_tolerance():
    A = spectra.with_spectrum(0.7 ** np.arange(20), 30, 25, 0)
    for seed in range(5):
        s = select(A, tol=1e-2, method="blockwise_pivot", rng=seed)
        assert s.relative_error <= 1e-2 < math.sqrt(s.errors[-2] / s.errors[0])


@pytest.mark.parametrize(("A", "k"), FAMILIES)
def test_random_pivot_expectation(A, k):
    found = law("random_pivot", A, k)
    mean = expectation(found, lambda S: oracles.squared_error(A, S))
    assert mean <= bounds.random_pivot(k) * optimum(A, k) * (1 + 1e-10) + 1e-14 * np.linalg.norm(A) ** 2


def test_random_pivot_constant_is_nearly_attained():
    """Two nearly parallel large columns: at k = 1 the mean is 2 OPT_1 to three digits, never more."""
    A = np.array([[1.0, 1.0], [1e-2, -1e-2]])
    mean = expectation(law("random_pivot", A, 1), lambda S: oracles.squared_error(A, S))
    assert 1.999 < mean / optimum(A, 1) <= 2


@pytest.mark.parametrize("seed", range(4))
def test_one_column_identity(seed):
    A = gaussian(5, 6, seed)
    s = np.linalg.svd(A, compute_uv=False)
    wanted = np.sum(s**2) - np.sum(s**4) / np.sum(s**2)
    for name in ("adaptive", "random_pivot", "volume"):
        mean = expectation(law(name, A, 1), lambda S: oracles.squared_error(A, S))
        assert mean == pytest.approx(wanted, rel=1e-12)
        assert mean == pytest.approx(bounds.norm_one_column(s) * optimum(A, 1), rel=1e-12)


@pytest.mark.parametrize(
    ("options", "k", "sizes"),
    [
        ({"rounds": 1}, 3, [3]),
        ({"rounds": 2}, 3, [2, 1]),
        ({"batch": 2}, 3, [2, 1]),
        ({"batch": 2}, 4, [2, 2]),
        ({"batch": 7}, 2, [2]),
        ({"rounds": 9}, 2, [1, 1]),
    ],
)
def test_adaptive_rounds(options, k, sizes):
    A = gaussian(6, 5, 7)
    assert_same_law(law("adaptive", A, k, **options), round_law(A, sizes))


def test_adaptive_discards_dependent_draws_and_fills_the_round():
    A = np.repeat(gaussian(5, 3, 8), 2, axis=1)
    for S in law("adaptive", A, 3, rounds=1):
        assert {j // 2 for j in S} == {0, 1, 2}
    w = sq_norms(A)  # of the round's start, also after a draw that added nothing
    wanted = {}
    for i, j in itertools.permutations(range(6), 2):
        if i // 2 != j // 2:
            q = w[i] / w.sum() * w[j] / (w.sum() - 2 * w[i])
            wanted[frozenset([i, j])] = wanted.get(frozenset([i, j]), 0.0) + q
    assert_same_law(law("adaptive", A, 2, rounds=1), wanted)


def test_adaptive_factor_only_where_a_theorem_covers_it():
    A = gaussian(8, 30)
    assert select(A, 4, "adaptive", rng=0).certificate().factor == 16
    assert select(A, 4, "adaptive", batch=1, rng=0).certificate().source == "chen2025"
    c = select(A, 4, "adaptive", rounds=2, rng=0).certificate()
    assert (c.factor, c.source, c.holds) == (None, None, None)
    mixed = select(np.stack([A, A]), [1, 4], "adaptive", batch=2, rng=0).certificate()
    assert mixed.factor[0] == 2
    assert np.isnan(mixed.factor[1])
    assert mixed.source == "chen2025"


def test_no_certificate_factor_where_the_problem_is_restricted():
    A = gaussian(6, 8)
    for name in ("volume", "arp", "random_pivot"):
        assert select(A, 3, name, rng=0).certificate().holds == "expectation"
        for restriction in ({"include": [2]}, {"exclude": [2]}):
            c = select(A, 3, name, rng=0, **restriction).certificate()
            assert (c.factor, c.source, c.holds, c.spectral_factor) == (None,) * 4
    for name in ("leverage", "two_stage", "sketched_qr"):
        assert METHODS[name].guarantee is None


# ---------------------------------------------------------------- draws


def assert_chi_square(draws, wanted):
    """Pearson's test of the draws against the law; fails on correct code with probability below FAILURE."""
    counts = dict.fromkeys(wanted, 0)
    for S in draws:
        assert wanted.get(S, 0.0) > 1e-12, f"{S} has probability zero"
        counts[S] += 1
    N = len(draws)
    # Cells expected less than 8 times are pooled: the limit law is good from about 5 on.
    small = [S for S in wanted if wanted[S] * N < 8]
    cells = [(counts[S], wanted[S] * N) for S in wanted if wanted[S] * N >= 8]
    pooled = sum(wanted[S] for S in small) * N
    if pooled >= 8:
        cells.append((sum(counts[S] for S in small), pooled))
    statistic = sum((o - e) ** 2 / e for o, e in cells)
    assert statistic <= scipy.stats.chi2.isf(FAILURE, len(cells) - 1)


# A law at χ²-distance δ² = Σ(p-q)²/q adds N δ² to the statistic. With 20 cells it passes 64, the limit at 1e-6,
# from N δ² = 45 on: 3000 draws see δ = 0.12.
N = 3000


def draws(name, A, k, n=N, seed=0, **options):
    rng = np.random.default_rng(seed)
    p = problem(A, k, rng=rng)
    return [frozenset(METHODS[name].function(p, **options).indices) for _ in range(n)]


SAMPLERS = {
    "volume": (lambda A: volume_law(A, 3), {}),
    "arp": (lambda A: arp_law(A, 3), {}),
    "random_pivot": (lambda A: round_law(A, [1, 1, 1]), {"accelerated": False}),
    "accelerated": (lambda A: round_law(A, [1, 1, 1]), {"accelerated": True}),
    "adaptive": (lambda A: round_law(A, [2, 1]), {"batch": 2}),
    "leverage": (lambda A: successive_law(leverage_scores(A, 2), 3), {"rank": 2}),
    "norm": (lambda A: successive_law(sq_norms(A), 3), {}),
}


def leverage_scores(A, r):
    return np.sum(np.abs(np.linalg.svd(A)[2][:r]) ** 2, axis=0)


@pytest.mark.parametrize("name", SAMPLERS)
def test_draws_follow_the_law(name):
    wanted, options = SAMPLERS[name]
    A = gaussian(5, 6, 9)
    method = "random_pivot" if name == "accelerated" else name
    assert_chi_square(draws(method, A, 3, **options), wanted(A))


@pytest.mark.parametrize(
    ("limits", "seed"), [((16, 8, 128), 0), ((16, 8, 128), 1), ((2, 1, 3), 1), ((2, 1, 3), 2), ((1, 1, 1), 2)]
)
def test_accelerated_pivots_have_the_sequential_law(limits, seed, monkeypatch):
    """Blocks ending in the middle of the selection, many rejections, correlated columns, one column of two."""
    for name, value in zip(("FIRST", "FEWEST", "MOST"), limits, strict=True):
        monkeypatch.setattr(RANDOM_PIVOT, name, value)
    A = gaussian(4, 5, seed)
    A[:, 1] = 3 * A[:, 0] + 0.1 * A[:, 1]
    A[:, 4] = A[:, 3]
    k = 3 if seed else 2
    assert_chi_square(draws("random_pivot", A, k, seed=seed, accelerated=True), round_law(A, [1] * k))


class Scripted:
    """A generator whose uniform numbers are given."""

    def __init__(self, u):
        self.u = u

    def random(self, size=None):
        return self.u if size is None else np.full(size, self.u)


@pytest.mark.parametrize("u", [0.0, 1 - 2**-53, 0.5])
@pytest.mark.parametrize(
    "weights",
    [[0, 1, 0], [0, 0, 5e-324], [1e-300, 0, 1e-300, 0], [1e-20, 1, 0], [1, 1e-20, 0], [0, 1e300, 1e-300]],
)
def test_nothing_of_weight_zero_is_drawn(weights, u):
    w = np.array(weights, dtype=float)
    assert w[sampling.draw(w, Scripted(u))] > 0


def test_single_draws_and_coins():
    rng = np.random.default_rng(0)
    w = np.array([3.0, 0.0, 1.0, 0.5, 0.0])
    wanted = {frozenset([j]): x / w.sum() for j, x in enumerate(w) if x}
    assert_chi_square([frozenset([sampling.draw(w, rng)]) for _ in range(N)], wanted)
    assert_chi_square([frozenset([int(j)]) for j in sampling.proposals(w, N, rng)], wanted)
    heads = {frozenset([True]): 0.3, frozenset([False]): 0.7}
    assert_chi_square([frozenset([sampling.coin(0.3, rng)]) for _ in range(N)], heads)
    assert_chi_square([frozenset([bool(x)]) for x in sampling.coins(np.full(N, 0.3), rng)], heads)
    assert not sampling.coin(0.0, Scripted(0.0))
    assert sampling.coin(1.0, Scripted(1 - 2**-53))
    assert sampling.coins(np.array([1.0, 0.0]), np.random.default_rng(1)).tolist() == [True, False]


# ---------------------------------------------------------------- leverage scores


@pytest.mark.parametrize(("m", "n", "k", "complex_"), CASES)
def test_leverage_law(m, n, k, complex_):
    A = gaussian(m, n, 10, complex_)
    assert_same_law(law("leverage", A, k), successive_law(leverage_scores(A, min(k, m)), k))
    for rank in (1, 2, min(m, n)):
        assert_same_law(law("leverage", A, k, rank=rank), successive_law(leverage_scores(A, rank), k))


def test_leverage_goes_on_where_scores_run_out():
    """V_1 of diag(3, 2, 1) is e_1: the second column comes from the scores of what column 0 leaves."""
    A = np.diag([3.0, 2.0, 1.0])
    assert law("leverage", A, 2, rank=1) == {frozenset([0, 1]): 1.0}
    assert ordered_law("leverage", problem(A, 3), rank=1) == {(0, 1, 2): 1.0}
    block = scipy.linalg.block_diag(gaussian(3, 3, 0) * 10, np.ones((2, 2)))
    wanted = successive_law(leverage_scores(block[:3, :3], 1), 3)
    assert_same_law(law("leverage", block, 3, rank=1), wanted)


def test_leverage_finds_the_coherent_columns():
    A = np.random.default_rng(0).standard_normal((40, 3)) @ spectra.coherent(60, 3, 0).T
    top = set(np.argsort(leverage_scores(A, 3))[-3:].tolist())
    hits = [len(top & S) for S in draws("leverage", A, 3, 50)]
    assert np.mean(hits) > 2.5


# ---------------------------------------------------------------- two stages


def naive_probabilities(A, r):
    U, s, Vh = np.linalg.svd(A, full_matrices=False)
    rest = A - (U[:, :r] * s[:r]) @ Vh[:r]
    lev = np.sum(np.abs(Vh[:r]) ** 2, axis=0) / r
    return lev if np.linalg.norm(rest) < 1e-12 else (lev + sq_norms(rest) / np.linalg.norm(rest) ** 2) / 2


@pytest.mark.parametrize(("rank", "k"), [(None, 2), (1, 2), (2, 2), (3, 2), (4, 4), (5, 3)])
@pytest.mark.parametrize("m", [5, 30])
def test_two_stage_samples_rescales_and_pivots(m, rank, k, monkeypatch):
    """Each column is kept with probability min(1, c p_j), and V_rᵀ S D goes to strong RRQR."""
    A, r = gaussian(m, 40, 11), rank or k
    V = np.linalg.svd(A)[2][:r]
    chances, seen = [], []
    real, second = sampling.coins, TWO_STAGE.strong_rrqr
    monkeypatch.setattr(sampling, "coins", lambda q, rng: chances.append((q, real(q, rng))) or chances[-1][1])
    monkeypatch.setattr(
        TWO_STAGE, "strong_rrqr", lambda p: seen.append((p, second(p), len(chances))) or seen[-1][1]
    )
    picks = METHODS["two_stage"].function(problem(A, k, rng=np.random.default_rng(3)), rank=rank).indices
    draw = seen[0][2] - 1  # the first sample that spans, each being twice as large as the one before
    c = 2**draw * math.ceil(TWO_STAGE.SHARE * r * (1 + math.log(r)))
    q, kept = chances[draw]
    np.testing.assert_allclose(q, np.minimum(1, c * naive_probabilities(A, r)), rtol=1e-9)
    assert abs(kept.sum() - q.sum()) <= 8 * math.sqrt(np.sum(q * (1 - q)) + 1)  # far beyond 1e-6
    M, place = seen[0][0].A, np.flatnonzero(kept)
    np.testing.assert_allclose(np.abs(M), np.abs(V[:, place]) / np.sqrt(q[place]), atol=1e-10)
    first = min(k, r)
    assert picks[:first] == place[list(seen[0][1].indices)].tolist()
    if k <= r:
        S = list(seen[0][1].indices)
        sigma = np.linalg.svd(M, compute_uv=False)
        q2 = bounds.strong_rrqr(place.size, k)  # f = 2
        assert np.linalg.svd(M[:, S], compute_uv=False)[-1] ** 2 >= sigma[k - 1] ** 2 / q2 * (1 - 1e-9)
    assert len(set(picks)) == k


def test_two_stage_draws_again_until_the_sample_spans(monkeypatch):
    A, sizes = gaussian(6, 30, 12), []

    def coins(q, rng):
        sizes.append(q.sum())
        return np.zeros(30, dtype=bool) if len(sizes) < 3 else q >= np.sort(q)[-5]

    monkeypatch.setattr(sampling, "coins", coins)
    assert len(METHODS["two_stage"].function(problem(A, 3)).indices) == 3
    assert len(sizes) == 3
    assert sizes[0] < sizes[1] < sizes[2]


def test_two_stage_wants_the_span_not_the_number(monkeypatch):
    A, calls = np.repeat(gaussian(6, 6, 12), 2, axis=1), []

    def coins(q, rng):
        calls.append(q)
        return np.arange(12) < (2 if len(calls) < 3 else 12)

    monkeypatch.setattr(sampling, "coins", coins)
    assert select(A, 2, "two_stage").rank == 2
    assert len(calls) == 3


def test_two_stage_beats_leverage_sampling_on_average():
    """The second stage is what bounds the error: on repeated columns sampling alone wastes picks."""
    A = np.repeat(gaussian(10, 6, 13), 4, axis=1) + 1e-3 * gaussian(10, 24, 14)
    one = np.mean([oracles.squared_error(A, sorted(S)) for S in draws("leverage", A, 5, 40)])
    two = np.mean([oracles.squared_error(A, sorted(S)) for S in draws("two_stage", A, 5, 40)])
    assert two < one / 2


# ---------------------------------------------------------------- sketched pivoting


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("k", "oversample"), [(1, 10), (6, 10), (6, 0), (6, 100)])
def test_sketched_qr_is_pivoted_qr_of_the_sketch(seed, k, oversample):
    A = gaussian(30, 25, seed)
    Omega = np.random.default_rng(seed).standard_normal((k + oversample, 30))
    wanted = scipy.linalg.qr(Omega @ A, mode="r", pivoting=True)[1][:k]
    found = select(A, k, "sketched_qr", oversample=oversample, rng=seed).indices
    np.testing.assert_array_equal(found, wanted)


def test_sketched_qr_in_blocks_sketches_the_residual_anew():
    A, rng, S = gaussian(30, 25, 3), np.random.default_rng(5), []
    for size in (4, 4, 1):
        left = [j for j in range(25) if j not in S]
        E = oracles.residual_matrix(A, S)[:, left] if S else A
        B = rng.standard_normal((4 + 3, 30)) @ E
        S += [left[i] for i in scipy.linalg.qr(B, mode="r", pivoting=True)[1][:size]]
    assert select(A, 9, "sketched_qr", rank=4, oversample=3, rng=5).indices.tolist() == S


@pytest.mark.parametrize(("A", "k"), list(families((12, 14, 3), (14, 12, 4))))
def test_sketched_qr_within_the_inflated_bound(A, k):
    """Where the sketch embeds the range of A, measured here, pivoted QR's bound holds times its distortion."""
    for seed in range(3):
        l = k + 150
        Omega = np.random.default_rng(seed).standard_normal((l, A.shape[0])) / math.sqrt(l)
        U, s, _ = np.linalg.svd(A, full_matrices=False)
        distortion = np.linalg.svd(Omega @ U[:, s > 1e-14 * s[0]], compute_uv=False)
        eta = max(distortion[0] - 1, 1 - distortion[-1])
        assert eta < 0.5
        S = select(A, k, "sketched_qr", oversample=150, rng=seed).indices
        slack = 30 * max(A.shape) * EPS * s[0]
        t = np.linalg.norm(oracles.residual_matrix(A, S), 2)
        f = math.sqrt(oracles.squared_error(A, S))
        n = A.shape[1]
        assert t <= math.sqrt(bounds.sketched(bounds.pivoted_qr(n, k), eta)) * s[k] + slack
        factor = bounds.sketched(bounds.pivoted_qr_frobenius(n, k), eta)
        assert f <= math.sqrt(factor * optimum(A, k)) + slack


def test_sketched_qr_meets_the_tolerance_in_blocks():
    A = spectra.with_spectrum(0.9 ** np.arange(120), 150, 130, 0)
    s = select(A, method="sketched_qr", tol=1e-2, rng=0)
    assert s.relative_error <= 1e-2 < math.sqrt(s.errors[-2] / s.errors[0])
    assert 44 <= s.k <= 70  # the best rank is 44; one sketch of all 130 would give about as many
    assert select(A, 10, "sketched_qr", tol=1e-2, rng=0).k == 10
    one = select(A, method="sketched_qr", tol=1e-2, rank=1, rng=0)
    assert one.relative_error <= 1e-2 < math.sqrt(one.errors[-2] / one.errors[0])


# ---------------------------------------------------------------- edges


METHOD_NAMES = [
    "volume",
    "arp",
    "random_pivot",
    "adaptive",
    "blockwise_pivot",
    "leverage",
    "two_stage",
    "sketched_qr",
]


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_k_beyond_the_rank(method):
    A = gaussian(6, 2) @ gaussian(2, 7, 1)
    for dtype in (np.float64, np.float32):
        with pytest.warns(RankDeficientWarning):
            s = select(A.astype(dtype), 5, method, rng=0)
        assert len(set(s.indices.tolist())) == 5
        assert s.rank == 2
        if method != "leverage":
            rest = [j for j in range(7) if j not in s.indices[:2]]
            assert s.indices[2:].tolist() == rest[:3]


def test_the_volume_law_of_rank_many_columns_where_k_is_beyond():
    A = gaussian(5, 2, 1) @ gaussian(2, 5, 2)
    assert_same_law(law("volume", A, 4), volume_law(A, 2))
    assert_same_law(law("arp", A, 4), arp_law(A, 2))


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_independent_columns_are_found_as_long_as_there_are_any(method):
    """Graded, Kahan, tiny columns: k columns, none of them to make up the number."""
    tiny = gaussian(8, 8, 3) * 10.0 ** -(np.arange(0, 24, 3)[:8] ** 0.9)
    for A in (oracles.graded(8, 8, 11, np.random.default_rng(0)), oracles.kahan(8, 0.9), tiny):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            s = select(A, 5, method, rng=0)
        assert len(METHODS[method].function(problem(A, 5, rng=np.random.default_rng(0))).indices) == 5
        assert s.rank <= 5


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_zero_columns_are_never_drawn(method):
    A = gaussian(6, 12, 4)
    A[:, ::3] = 0
    for seed in range(20):
        assert not {0, 3, 6, 9} & set(select(A, 6, method, rng=seed).indices.tolist())


@pytest.mark.parametrize("accelerated", [True, False, "auto"])
def test_random_pivots_are_nested_and_meet_the_tolerance(accelerated):
    A = spectra.with_spectrum(0.7 ** np.arange(20), 30, 25, 0)
    for seed in range(5):
        long = select(A, 15, "random_pivot", accelerated=accelerated, rng=seed)
        for k in (1, 4, 9):
            short = select(A, k, "random_pivot", accelerated=accelerated, rng=seed)
            np.testing.assert_array_equal(short.indices, long.indices[:k])
        s = select(A, tol=1e-2, method="random_pivot", accelerated=accelerated, rng=seed)
        assert s.relative_error <= 1e-2 < math.sqrt(s.errors[-2] / s.errors[0])
        np.testing.assert_array_equal(s.indices[:15], long.indices[: s.k])


@pytest.mark.parametrize("accelerated", [True, False])
def test_random_pivot_norms_survive_downdating(accelerated):
    """On a spectrum graded to 1e-13 the residual norms stay right to half of the digits, so draws do too."""
    A = oracles.graded(40, 40, 13, np.random.default_rng(1))
    E = sampling.Residual(problem(A, 30, rng=np.random.default_rng(0)))
    run = RANDOM_PIVOT.rejecting if accelerated else RANDOM_PIVOT._one_by_one
    S = list(run(E, np.random.default_rng(0)).indices)
    assert len(S) == 30
    exact = sq_norms(oracles.residual_matrix(A, S))
    left = [j for j in range(40) if j not in S]
    np.testing.assert_allclose(E.N[left], exact[left], rtol=1e-3)  # the oracle itself is good to 1e-6
    assert not np.any(E.N[S])


def test_automatic_acceleration_goes_by_size_alone(monkeypatch):
    A = gaussian(10, 20)
    slow = select(A, 8, "random_pivot", accelerated=False, rng=1).indices
    fast = select(A, 8, "random_pivot", accelerated=True, rng=1).indices
    assert slow.tolist() != fast.tolist()
    np.testing.assert_array_equal(select(A, 8, "random_pivot", rng=1).indices, slow)
    monkeypatch.setattr(RANDOM_PIVOT, "LARGE", 200)
    np.testing.assert_array_equal(select(A, 8, "random_pivot", rng=1).indices, fast)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("random_pivot", {"accelerated": "yes"}, "accelerated = 'yes'.*'auto'"),
        ("random_pivot", {"accelerated": 1}, "accelerated = 1"),
        ("adaptive", {"rounds": 0}, "rounds = 0"),
        ("adaptive", {"batch": 2.0}, "batch = 2.0.*integer"),
        ("adaptive", {"batch": 2, "rounds": 2}, "one of them"),
        ("blockwise_pivot", {"block": 0}, "block = 0"),
        ("leverage", {"rank": 0}, "rank = 0"),
        ("leverage", {"rank": 6}, "rank = 6.*between 1 and 5"),
        ("two_stage", {"rank": True}, "rank = True"),
        ("two_stage", {"rank": 9}, "rank = 9"),
        ("sketched_qr", {"rank": 0}, "rank = 0"),
        ("sketched_qr", {"oversample": -1}, "oversample = -1"),
        ("volume", {"rank": 1}, "no options"),
        ("arp", {"f": 1}, "its options are .svd."),
    ],
)
def test_wrong_options(method, options, message):
    with pytest.raises(CsspError, match=message):
        select(gaussian(5, 7), 3, method, **options)


@pytest.mark.parametrize("method", ["volume", "arp", "leverage", "two_stage"])
def test_tolerance_is_refused_by_name(method):
    with pytest.raises(CsspError, match=f"{method}.*tol.*random_pivot"):
        select(gaussian(5, 7), method=method, tol=0.1)


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_large_simplex_and_star_do_not_break_the_samplers(method):
    for A in (MATRICES["simplex"](30, 29, 28), MATRICES["star"](40, 30, 5), MATRICES["gks"](30, 30, 10)):
        s = select(A, 10, method, rng=0)
        assert s.rank == 10
