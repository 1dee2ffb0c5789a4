"""The smaller methods: k-center, leverage, sampling laws."""

import math
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import scipy.stats

from cssp import select


def test_farthest_is_gonzalez():
    for seed in range(10):
        A = np.random.default_rng(seed).standard_normal((9, 30))
        S = [int(np.argmax(np.linalg.norm(A, axis=0)))]
        while len(S) < 8:
            S.append(int(np.argmax(np.min(np.linalg.norm(A[:, :, None] - A[:, None, S], axis=0), axis=1))))
        assert select(A, 8, "farthest").indices.tolist() == S
        assert select(A, 4, "farthest", include=[S[0], S[1]]).indices.tolist() == S[:4]


def test_farthest_tells_close_points_apart():
    """Differences of nearly equal long columns, which the Gram expansion loses."""
    A = np.full((4, 3), 1e6)
    A[0] += [0, 1e-6, 3e-6]
    assert set(select(A, 2, "farthest").indices.tolist()) == {2, 0}


@pytest.mark.parametrize("shift", [0, 1e3, 1e7])
def test_farthest_is_that_of_differences(shift):
    """Bounds by products decide nothing: the picks are those of plain differences, ties to the lowest."""
    for seed in range(60):
        g = np.random.default_rng(seed)
        A = np.round(g.standard_normal((13, 40)) * 3) / 3 + shift
        A = np.hstack([A, A[:, :5]])
        D = np.sum(A**2, axis=0)
        S = [int(np.argmax(D.max() * (1 - 1e-12) < D))]
        D = np.full(45, np.inf)
        while len(S) < 12:
            D = np.minimum(D, np.sum((A - A[:, S[-1:]]) ** 2, axis=0))
            S.append(int(np.argmax(D.max() * (1 - 1e-9) <= D)))
        got = select(A, 12, "farthest").indices.tolist()
        nearest = [np.min(np.sum((A[:, S[:t]] - A[:, [j]]) ** 2, axis=0)) for t, j in enumerate(got) if t]
        assert got[0] == S[0]
        if shift == 0:  # else thirds are rounded and ties are no ties
            assert got == S
        for t, j in enumerate(got[1:], start=1):
            D = np.min(np.sum((A[:, :, None] - A[:, None, got[:t]]) ** 2, axis=0), axis=1)
            assert D[j] >= D.max() * (1 - 1e-9), nearest


def test_leverage_top_is_sorted_leverage():
    for seed in range(10):
        A = np.random.default_rng(seed).standard_normal((12, 30))
        for rank in (None, 2, 12):
            V = np.linalg.svd(A, full_matrices=False)[2][: rank or 5]
            expected = np.argsort(-np.sum(V**2, axis=0))[:5]
            options = {} if rank is None else {"rank": rank}
            np.testing.assert_array_equal(select(A, 5, "leverage_top", **options).indices, expected)


@pytest.mark.parametrize("method", ["norm", "uniform"])
def test_sampling_law(method):
    """All ordered pairs of 4 columns against the sequential law; false alarm once in 1e6 runs."""
    A = np.diag([1.0, 2.0, 3.0, 0.5])
    weight = np.diag(A) ** 2 if method == "norm" else np.ones(4)
    draws = 4000
    rng = np.random.default_rng(0)
    seen = Counter(tuple(select(A, 2, method, rng=rng).indices.tolist()) for _ in range(draws))
    law = {
        (i, j): weight[i] / weight.sum() * weight[j] / (weight.sum() - weight[i])
        for i, j in permutations(range(4), 2)
    }
    assert math.isclose(sum(law.values()), 1)
    statistic = sum((seen[pair] - draws * q) ** 2 / (draws * q) for pair, q in law.items())
    assert statistic < scipy.stats.chi2.isf(1e-6, len(law) - 1)


def test_norm_never_draws_a_zero_column():
    A = np.eye(8) * (np.arange(8) % 2)
    for seed in range(20):
        assert set(select(A, 4, "norm", rng=seed).indices.tolist()) == {1, 3, 5, 7}
