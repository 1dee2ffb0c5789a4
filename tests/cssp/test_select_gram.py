"""Landmarks of kernels: the picks and errors of `select` on a factor, K never formed, the law and its theorems."""

from __future__ import annotations

import tracemalloc
import warnings
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from optional import torch
from scipy.stats import chi2

import cssp
from cssp import CsspError, RankDeficientWarning, bounds, select, select_gram
from cssp.errors import RankDeficientError

METHODS = ("residual", "random_pivot", "greedy", "norm", "uniform")
SEEDED = [
    ("residual", {}),
    ("greedy", {}),
    ("norm", {"rng": 1}),
    ("uniform", {"rng": 2}),
    ("random_pivot", {"rng": 3, "accelerated": False}),
    ("random_pivot", {"rng": 4, "accelerated": True}),
]


def spread(seed, m=20, n=14, kind=float):
    """Columns of different sizes."""
    g = np.random.default_rng(seed)
    A = g.standard_normal((m, n)) * 10.0 ** g.uniform(-1, 1, n)
    return A + 1j * g.standard_normal((m, n)) if kind is complex else A


def low_rank(seed, n=12, r=4):
    g = np.random.default_rng(seed)
    return g.standard_normal((r, n))


# --- the same answers as on a factor --------------------------------------------------------------------


@pytest.mark.parametrize(("method", "options"), SEEDED)
@pytest.mark.parametrize("seed", range(12))
def test_picks_and_errors_are_those_of_a_factor(method, options, seed):
    A = spread(seed, n=14 if seed % 3 else 30)
    more = {}
    if seed % 2:
        more = {"weights": np.random.default_rng(seed).uniform(0.1, 3, A.shape[1])}
    if seed % 4 > 1:
        more |= {"include": [7, 2], "exclude": [0, 5]}
    ours, theirs = select_gram(A.T @ A, 6, method, **options, **more), select(A, 6, method, **options, **more)
    assert ours.indices.tolist() == theirs.indices.tolist()
    assert ours.rank == theirs.rank == 6
    assert ours.errors == pytest.approx(theirs.errors, rel=1e-9, abs=1e-12 * theirs.errors[0])
    assert ours.relative_error == pytest.approx(theirs.relative_error**2)
    np.testing.assert_allclose(ours.coefficients(), theirs.coefficients(), atol=1e-8)
    np.testing.assert_array_equal(ours.mask(), theirs.mask())


@pytest.mark.parametrize("method", ["residual", "greedy", "random_pivot"])
def test_complex_kernels(method):
    A = spread(5, kind=complex)
    ours, theirs = (f(X, 8, method, rng=0) for f, X in ((select_gram, A.conj().T @ A), (select, A)))
    assert ours.indices.tolist() == theirs.indices.tolist()
    assert ours.errors == pytest.approx(theirs.errors, rel=1e-9, abs=1e-11 * theirs.errors[0])
    np.testing.assert_allclose(ours.coefficients(), theirs.coefficients(), atol=1e-8)


@pytest.mark.parametrize("method", ["residual", "greedy"])
@pytest.mark.parametrize("tol", [0.9, 0.3, 1e-3, 1e-9])
def test_tol_is_the_square_of_that_of_a_factor(method, tol):
    A = spread(2) @ np.diag(np.logspace(0, -4, 14))
    ours, theirs = select_gram(A.T @ A, tol=tol, method=method), select(A, tol=tol**0.5, method=method)
    assert ours.indices.tolist() == theirs.indices.tolist()
    assert ours.relative_error <= tol < ours.errors[-2] / ours.errors[0]


def test_graded_spectra_down_to_the_rounding_of_the_kernel():
    """Pivots of a factor whose residuals fall to 1e-6 of its largest column: 1e-12 in K."""
    for seed in range(20):
        g = np.random.default_rng(seed)
        U, V = (np.linalg.qr(g.standard_normal((25, 25)))[0] for _ in range(2))
        A = (U * np.logspace(0, -5, 25)) @ V.T
        for method in ("residual", "greedy"):
            ours, theirs = select_gram(A.T @ A, 15, method), select(A, 15, method)
            assert ours.error == pytest.approx(theirs.error**2, rel=0.2), (seed, method)
            assert ours.indices[:8].tolist() == theirs.indices[:8].tolist(), (seed, method)


def test_the_record_is_that_of_the_definition():
    A = spread(8)
    K, w = A.T @ A, np.linspace(0.5, 2, 14)
    for sel, L in (
        (select_gram(K, 5), K),
        (select_gram(K, 5, weights=w), w[:, None] * K * w),
        (select_gram(K, 5, "uniform", rng=0), K),
    ):
        S = sel.indices
        T = np.linalg.pinv(L[np.ix_(S, S)]) @ L[S]
        np.testing.assert_allclose(sel.coefficients(), T, atol=1e-9)
        np.testing.assert_allclose(sel.reconstruct(), L[:, S] @ T, atol=1e-9 * L.max())
        F = sel.nystrom()
        assert F.shape == (14, 5)
        np.testing.assert_allclose(F @ F.T, sel.reconstruct(), atol=1e-9 * L.max())
        assert sel.error == pytest.approx(np.trace(L - L[:, S] @ T))
        assert sel.errors.shape == (6,)
        assert sel.errors[0] == pytest.approx(np.trace(L))
        assert np.all(np.diff(sel.errors) <= 0)
        assert repr(sel).startswith("GramSelection(method=")


@pytest.mark.parametrize(("method", "options"), SEEDED)
def test_certificates_are_those_of_a_factor(method, options):
    A = spread(3)
    ours, theirs = (
        f(X, 5, method, **options).certificate() for f, X in ((select_gram, A.T @ A), (select, A))
    )
    for name in ("error", "squared_optimum", "ratio", "a_posteriori", "spectral_error", "spectral_ratio"):
        assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1e-6), name
    for name in ("source", "holds", "rank"):
        assert getattr(ours, name) == getattr(theirs, name), name
    if method in ("residual", "random_pivot"):  # factors that know no m
        assert ours.factor == theirs.factor
        assert ours.ratio <= ours.factor


def test_no_theorem_where_the_choice_was_not_free():
    K = spread(3).T @ spread(3)
    for more in ({"include": [1]}, {"exclude": [1]}):
        assert select_gram(K, 5, **more).certificate().factor is None
    assert select_gram(K, 5, "random_pivot", tol=0.5, rng=0).certificate().factor is None


@pytest.mark.parametrize("method", METHODS)
def test_longer_runs_begin_with_shorter_ones(method):
    K = spread(4, n=40).T @ spread(4, n=40)
    options = {"accelerated": False} if method == "random_pivot" else {}
    long, short = (select_gram(K, k, method, rng=5, **options).indices for k in (12, 7))
    assert long[:7].tolist() == short.tolist()


# --- the contract ---------------------------------------------------------------------------------------


def test_ties_go_to_the_lowest_index():
    for method in ("residual", "greedy"):
        assert select_gram(np.eye(6), 4, method).indices.tolist() == [0, 1, 2, 3]
        A = spread(0)
        twice = np.concatenate([A, A], axis=1)
        assert max(select_gram(twice.T @ twice, 10, method).indices) < 14


@pytest.mark.parametrize("scale", [1e-280, 1e-100, 1.0, 1e100, 1e280])
@pytest.mark.parametrize("method", METHODS)
def test_scale_does_not_matter(scale, method):
    K = spread(1).T @ spread(1)
    plain, scaled = select_gram(K, 6, method, rng=0), select_gram(K * scale, 6, method, rng=0)
    assert scaled.indices.tolist() == plain.indices.tolist()
    assert scaled.relative_error == pytest.approx(plain.relative_error)
    np.testing.assert_allclose(scaled.coefficients(), plain.coefficients(), rtol=1e-6, atol=1e-9)


def test_weights_of_any_size():
    A = spread(6)
    w = np.logspace(-150, 150, 14)
    assert select_gram(A.T @ A, 3, weights=w, deficient="truncate").indices[0] == 13
    plain = select_gram(A.T @ A, 6, weights=np.linspace(1, 2, 14))
    huge = select_gram(A.T @ A, 6, weights=np.linspace(1, 2, 14) * 1e170)
    assert plain.indices.tolist() == huge.indices.tolist()
    none = np.zeros(14)
    with pytest.warns(RankDeficientWarning):
        assert select_gram(A.T @ A, 2, weights=none).indices.tolist() == [0, 1]


@pytest.mark.parametrize(("method", "options"), SEEDED)
def test_k_beyond_the_rank(method, options):
    A = low_rank(0)
    with pytest.warns(RankDeficientWarning, match="only 4 of 7"):
        sel = select_gram(A.T @ A, 7, method, **options)
    assert sel.rank == 4
    assert len(set(sel.indices.tolist())) == 7
    assert sel.relative_error < 1e-12
    np.testing.assert_allclose(A[:, sel.indices] @ sel.coefficients(), A, atol=1e-9)
    assert sel.certificate().factor is None
    short = select_gram(A.T @ A, 7, method, deficient="truncate", **options)
    assert short.k == short.rank == 4
    np.testing.assert_allclose(short.reconstruct(), A.T @ A, atol=1e-9)
    with pytest.raises(RankDeficientError, match="rank 4"):
        select_gram(A.T @ A, 7, method, deficient="raise", **options)


def test_filling_takes_the_lowest_unused():
    A = low_rank(1)
    with pytest.warns(RankDeficientWarning):
        sel = select_gram(A.T @ A, 7)
    head = sel.indices[:4].tolist()
    assert sel.indices[4:].tolist() == [j for j in range(12) if j not in head][:3]


def test_rank_is_relative_to_each_diagonal_entry():
    """A residual counts above max(n, 64) units of rounding of its own diagonal entry, as far as A would tell it from zero."""
    for beyond, rank in ((5e-15, 1), (1e-12, 2)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RankDeficientWarning)
            assert select_gram([[1.0, 1.0], [1.0, 1 + beyond]], 2).rank == rank
    A = np.diag([1.0, 1e-9, 1e-12]) + np.diag([3e-10, 4e-13], 1)
    for method, options in SEEDED:
        ours, theirs = select_gram(A.T @ A, 3, method, **options), select(A, 3, method, **options)
        assert ours.indices.tolist() == theirs.indices.tolist()
        assert ours.rank == theirs.rank == 3
    with pytest.warns(RankDeficientWarning):
        assert select_gram(np.diag([1.0, 1e-40]), 2).rank == 1


def test_a_zero_matrix():
    with pytest.warns(RankDeficientWarning):
        sel = select_gram(np.zeros((5, 5)), 3)
    assert sel.indices.tolist() == [0, 1, 2]
    assert (sel.rank, sel.error, sel.relative_error) == (0, 0, 0)
    np.testing.assert_array_equal(sel.coefficients(), np.zeros((3, 5)))


@pytest.mark.parametrize("how", [{"k": 3}, {"tol": 0.9}, {"tol": 1e-12}])
@pytest.mark.parametrize("method", ["residual", "greedy", "uniform"])
def test_included_indices_that_are_dependent_are_treated_as_deficient_says(how, method):
    A = low_rank(2, r=6)
    A = np.concatenate([A[:, :1], A], axis=1)
    K = A.T @ A
    with pytest.warns(RankDeficientWarning, match=r"include allows \(1 depends on those before\)"):
        sel = select_gram(K, method=method, include=[0, 1], rng=0, **how)
    assert sel.indices[:2].tolist() == [0, 1]
    assert sel.rank == sel.k - 1
    assert sel.nystrom().shape == (13, sel.rank)
    assert sel.rank == (6 if how == {"tol": 1e-12} else min(2, sel.k - 1))
    cut = select_gram(K, method=method, include=[0, 1], deficient="truncate", rng=0, **how)
    assert cut.indices.tolist() == [j for j in sel.indices.tolist() if j != 1]
    with pytest.raises(RankDeficientError, match="1 depends on those before"):
        select_gram(K, method=method, include=[0, 1], deficient="raise", rng=0, **how)


def test_single_and_half_precision():
    A = spread(7)
    K = (A.T @ A).astype(np.float32)
    assert select_gram(K, 5).indices.tolist() == select(A, 5).indices.tolist()
    assert select_gram(K.astype(np.float16), 5).k == 5
    L = low_rank(3, n=40).astype(np.float32)
    assert select_gram(L.T @ L, tol=1e-30).rank <= 5  # the rounding of its own precision is not chased
    ints = np.round(spread(9)).astype(np.int64)
    assert select_gram(ints.T @ ints, 4).indices.tolist() == select(ints, 4).indices.tolist()


def test_torch_in_torch_out():
    A = torch.as_tensor(spread(1))
    sel = select_gram(A.T @ A, 5)
    assert sel.indices.dtype == torch.int64
    for thing in (sel.errors, sel.mask(), sel.nystrom(), sel.coefficients(), sel.reconstruct()):
        assert isinstance(thing, torch.Tensor)
    assert sel.indices.tolist() == select(A, 5).indices.tolist()
    assert select_gram((A.T @ A).bfloat16(), 3).k == 3


# --- never formed ---------------------------------------------------------------------------------------


class Counting:
    """exp(-|i - j|/50) as a function, with a record of what was asked."""

    def __init__(self):
        self.entries, self.largest = 0, 0

    def __call__(self, I, J):
        self.entries += I.size * J.size
        self.largest = max(self.largest, I.size * J.size)
        return np.exp(-np.abs(I[:, None] - J) / 50)


@pytest.mark.parametrize(
    ("method", "most"),
    [("residual", 30), ("random_pivot", 36), ("norm", 30), ("uniform", 30)],
)
def test_rows_and_diagonal_are_all_that_is_evaluated(method, most):
    n, K = 4000, Counting()
    sel = select_gram(K, 30, method, n=n, diagonal=1.0, rng=0)
    assert sel.entries == K.entries <= most * n
    K = Counting()
    assert select_gram(K, 30, method, n=n, rng=0).entries == K.entries <= (most + 16) * n


def test_memory_is_that_of_the_factor():
    n, k = 20_000, 30
    K = Counting()
    tracemalloc.start()
    for method in ("residual", "random_pivot"):
        select_gram(K, k, method, n=n, diagonal=1.0, rng=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * n * k * 8 < 8 * n * n / 10
    assert K.largest <= 128 * n


def test_greedy_reads_a_function_in_blocks():
    K = Counting()
    n = 3000
    sel = select_gram(K, 3, "greedy", n=n, diagonal=1.0)
    assert sel.entries == K.entries == 4 * n * n + 3 * n
    assert K.largest <= 1 << 22


def test_a_function_a_name_and_a_matrix_agree():
    g = np.random.default_rng(0)
    X = g.standard_normal((60, 3))
    K = np.exp(-0.3 * np.sum((X[:, None] - X) ** 2, axis=2))
    for method in METHODS:
        runs = [
            select_gram(K, 9, method, rng=1),
            select_gram(lambda I, J: K[np.ix_(I, J)], 9, method, n=60, rng=1),
            select_gram(lambda I, J: torch.as_tensor(K)[I][:, J], 9, method, diagonal=np.ones(60), rng=1),
            select_gram("rbf", 9, method, X=X, gamma=0.3, rng=1),
            select_gram("rbf", 9, method, X=torch.as_tensor(X), gamma=0.3, rng=1),
        ]
        assert len({tuple(int(j) for j in s.indices) for s in runs}) == 1, method
        assert np.ptp([s.error for s in runs]) < 1e-10
    A = X.T
    assert select_gram("linear", 3, X=X).indices.tolist() == select(A, 3).indices.tolist()
    assert select_gram("polynomial", 5, X=X, degree=2, coef0=1.0).rank == 5


def test_only_importing_it_does_not_import_scikit_learn():
    import subprocess
    import sys

    code = "import sys, cssp; cssp.select_gram([[1.0]], 1); sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- refusals -------------------------------------------------------------------------------------------

K = np.eye(4)
HOLE = K.copy()
HOLE[2, 1] = HOLE[1, 2] = np.nan


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"K": np.ones((3, 4)), "k": 1}, "square"),
        ({"K": np.ones(3), "k": 1}, "square"),
        ({"K": np.arange(9.0).reshape(3, 3), "k": 1}, "not symmetric"),
        ({"K": np.eye(3) * 1j, "k": 1}, "diagonal|symmetric"),
        ({"K": -np.eye(3), "k": 1}, "on its diagonal at index 0"),
        ({"K": [[1.0, 2.0], [2.0, 1.0]], "k": 1}, "not positive semidefinite"),
        ({"K": HOLE, "k": 3}, "nan in row 1"),
        ({"K": np.diag([1.0, np.inf]), "k": 1}, "inf on its diagonal at index 1"),
        ({"K": [["a"]], "k": 1}, "numbers"),
        ({"K": K}, "neither k nor tol"),
        ({"K": K, "k": 5}, "only 4 of 4"),
        ({"K": K, "k": 0}, "k = 0"),
        ({"K": K, "k": 2, "method": "osinsky"}, "'random_pivot'"),
        ({"K": K, "k": 2, "gamma": 1.0}, "'gamma' is unknown"),
        ({"K": K, "k": 2, "accelerated": True}, "'random_pivot' has it"),
        ({"K": K, "k": 2, "method": "random_pivot", "accelerated": 3}, "accelerated = 3"),
        ({"K": K, "k": 2, "X": K}, "X belongs"),
        ({"K": K, "k": 2, "n": 4}, "n and diagonal"),
        ({"K": K, "k": 2, "tol": 2.0}, "tol = 2"),
        ({"K": K, "k": 2, "weights": [1, 2, -1, 0]}, "column 2"),
        ({"K": K, "k": 2, "weights": [1, 2]}, "weights has shape"),
        ({"K": K, "k": 1, "include": [0, 1]}, "include has 2"),
        ({"K": K, "k": 1, "include": [0], "exclude": [0]}, "both contain"),
        ({"K": K, "k": 1, "exclude": range(4)}, "only 0 of 4"),
        ({"K": K, "k": 1, "deficient": "no"}, "deficient = 'no'"),
        ({"K": K, "k": 1, "rng": "a"}, "rng = 'a'"),
        ({"K": lambda I, J: K, "k": 1}, "n is not given"),
        ({"K": lambda I, J: K[I], "k": 1, "n": 4, "diagonal": 1.0}, r"K\(I, J\) returned shape|n"),
        ({"K": lambda I, J: K[I][:, :1], "k": 1, "n": 4, "diagonal": 1.0}, r"returned shape \(1, 1\)"),
        ({"K": lambda I, J: K[np.ix_(I, J)], "k": 1, "n": 4, "diagonal": [1.0]}, "diagonal has shape"),
        ({"K": "rbf", "k": 1}, "X is not given"),
        ({"K": "rbf", "k": 1, "X": np.ones(3)}, "X has shape"),
        ({"K": "rbf", "k": 1, "X": HOLE}, "NaN or Inf in row 1"),
        ({"K": "rbf", "k": 1, "X": K, "degree": 2}, "its parameters"),
        ({"K": "rbf", "k": 1, "X": K, "gamma": "a"}, "refuses"),
        ({"K": "gauss", "k": 1, "X": K}, "names no kernel"),
        (
            {"K": "additive_chi2", "k": 2, "method": "uniform", "X": np.array([[1.0, 2], [2, 1], [3, 9]])},
            "positive semidefinite",
        ),
    ],
)
def test_wrong_arguments(arguments, message):
    if message.endswith("|n"):  # all rows of all indices: the right shape by accident
        assert select_gram(**arguments).k == 1
        return
    with pytest.raises(CsspError, match=message):
        select_gram(**arguments)


def test_what_is_read_is_checked():
    """A function that is not symmetric, and one that is not semidefinite, are found out on the rows chosen."""
    g = np.random.default_rng(0)
    skew = np.eye(50) * 9 + g.uniform(-0.1, 0.1, (50, 50))
    with pytest.raises(CsspError, match="not symmetric"):
        select_gram(lambda I, J: skew[np.ix_(I, J)], 5, n=50, diagonal=np.diagonal(skew))
    wild = np.eye(50) + 0.5
    wild[3, 40] = wild[40, 3] = 3.0
    with pytest.raises(CsspError, match=r"not positive semidefinite: entry \((3|40), (3|40)\)"):
        select_gram(lambda I, J: wild[np.ix_(I, J)], 45, n=50)


# --- theorems -------------------------------------------------------------------------------------------


def expected(K, k):
    """Exact expectation of the trace after k random pivots, by enumeration, and the law of the ordered picks."""
    law = {}
    for S in permutations(range(len(K)), k):
        R, p = K.copy(), 1.0
        for j in S:
            p *= R[j, j] / np.trace(R)
            R = R - np.outer(R[:, j], R[j]) / R[j, j]
        law[S] = (p, np.trace(R))
    assert sum(p for p, _ in law.values()) == pytest.approx(1)
    return sum(p * t for p, t in law.values()), {S: p for S, (p, _) in law.items()}


@pytest.mark.parametrize("accelerated", [False, True])
def test_random_pivots_follow_their_law(accelerated):
    """Chi-square of 4000 draws over the 60 ordered triples of 5; fails by chance once in 10^6."""
    A = np.random.default_rng(1).standard_normal((5, 5)) * [3, 2, 1, 1, 0.5]
    mean, law = expected(A.T @ A, 3)
    g, draws = np.random.default_rng(0), 4000
    runs = [select_gram(A.T @ A, 3, "random_pivot", rng=g, accelerated=accelerated) for _ in range(draws)]
    seen = Counter(tuple(s.indices.tolist()) for s in runs)
    often = [S for S, p in law.items() if p * draws >= 5]
    rest = draws - sum(seen[S] for S in often)
    share = draws - sum(law[S] for S in often) * draws
    statistic = sum((seen[S] - law[S] * draws) ** 2 / (law[S] * draws) for S in often)
    statistic += (rest - share) ** 2 / max(share, 1e-9)
    assert statistic < chi2.isf(1e-6, len(often))
    errors = np.array([s.error for s in runs])
    assert abs(errors.mean() - mean) < 5 * errors.std() / draws**0.5


@pytest.mark.parametrize("decay", [0.1, 0.3, 0.6])
def test_the_expected_error_is_within_the_theorem(decay):
    """E tr(K - K_S) ≤ (1 + ε) Σ_{i>r} λ_i for as many pivots as the theorem asks for, exactly, by enumeration."""
    g = np.random.default_rng(2)
    Q = np.linalg.qr(g.standard_normal((8, 8)))[0]
    values = decay ** np.arange(8)
    K, tail = (Q * values) @ Q.T, values[1:].sum()
    hit = 0
    for eps in (0.4, 0.6, 1.0, 2.0):
        k = int(bounds.random_pivot_columns(1, eps, tail / values.sum()))
        if k <= 6:
            hit += 1
            assert expected(K, k)[0] <= (1 + eps) * tail
    assert hit
    assert expected(K, 1)[0] <= bounds.random_pivot(1) * tail


def test_residual_bound_on_kernels_that_try_it():
    """Pivoted Cholesky within (n - k)(4^k + 2)/3 Σ_{i>k} λ_i, also on the Gram matrix of Kahan's."""
    for A in (cssp.matrices.kahan(12, 1.2), spread(0, n=12), np.triu(np.ones((12, 12)))):
        for k in (1, 3, 6):
            c = select_gram(A.T @ A, k).certificate()
            assert 1 <= c.ratio <= c.factor == bounds.pivoted_qr_frobenius(12, k)
            assert c.spectral_ratio <= c.spectral_factor


# --- hard cases -----------------------------------------------------------------------------------------


def test_random_pivots_do_well_on_the_published_hard_cases():
    """Uniform landmarks miss the eyes of "smile", pivots lose themselves in the arms of "spiral" [chen2025]."""
    from analysis.kernels import smile, spiral

    cases = [
        (smile(2000, np.random.default_rng(0)), 2.0, {"uniform": 10}),
        (spiral(2000), 1000.0, {"uniform": 1.2, "residual": 1.2}),
    ]
    for X, sigma, times in cases:
        error = {
            method: np.median(
                [
                    select_gram("rbf", 60, method, X=X, gamma=0.5 / sigma**2, rng=seed).relative_error
                    for seed in range(5)
                ]
            )
            for method in ("random_pivot", *times)
        }
        for method, factor in times.items():
            assert error[method] > factor * error["random_pivot"], (sigma, error)
