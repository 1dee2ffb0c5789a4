"""One test for each bug that the properties (test_properties.py) or the fuzzer (analysis/fuzz.py) found."""

import warnings

import numpy as np
import pytest
from optional import torch

from cssp import METHODS, CsspError, RankDeficientWarning, sampling, select

A = np.arange(12.0).reshape(3, 4)


def refused(words, *arguments, **options):
    with pytest.raises(CsspError, match=words):
        select(A, *arguments, **options)


def test_an_array_is_no_choice_of_acceleration():
    """Comparing it with "auto" raised NumPy's own error about ambiguous truth."""
    refused("accelerated", 2, "random_pivot", accelerated=np.ones(2))


def test_a_complex_number_is_no_bound_on_growth():
    """NumPy orders complex numbers, so that one passed for a number of at least 1."""
    refused("f = ", 2, "strong_rrqr", f=np.complex128(2))


def test_an_integer_beyond_64_bits_is_too_many():
    """The array of counts overflowed."""
    refused("k = 10{30}", 10**30)
    refused("k", [10**30])


@pytest.mark.parametrize("argument", ["weights", "valid", "include", "exclude", "k"])
def test_a_ragged_list_is_named(argument):
    """NumPy's error about inhomogeneous shapes came out."""
    refused(argument, **({"k": 2} | {argument: [[1], [1, 2]]}))


@pytest.mark.parametrize("argument", ["include", "exclude"])
def test_one_index_is_not_a_list_of_them(argument):
    """An axis error of the sort came out."""
    refused(argument, 2, **{argument: 0})


@pytest.mark.parametrize("scale", [1e100, 1e-100])
def test_a_target_beyond_the_precision_of_the_matrix(scale):
    """It was cast before it was scaled, to Inf or zero."""
    X = np.array([[1.0, 3.0, 0.0], [2.0, 0.0, 1.0]], dtype=np.float32)
    B = np.array([[0.0], [1.0]])
    s = select(X, 2, "greedy", target=B * scale)
    np.testing.assert_array_equal(s.indices, select(X, 2, "greedy", target=B).indices)
    assert s.error <= 1e-6 * scale


@pytest.mark.filterwarnings("ignore::cssp.RankDeficientWarning")
@pytest.mark.parametrize("method", ["adaptive", "random_pivot"])
def test_all_columns_included_and_a_tolerance(method):
    """Residual norms of no columns at all were asked for."""
    assert select(A, 4, method, tol=1e-3, include=[2, 0, 1, 3], rng=0).k == 4
    assert select(A[:, :1], method=method, tol=1e-3, include=[0], rng=0).k == 1


@pytest.mark.filterwarnings("ignore::cssp.RankDeficientWarning")
def test_rounding_tells_no_equal_columns_apart():
    """bss weighed columns by what lies outside V_k even where that is nothing but rounding."""
    X = np.full((2, 4), [[0.8216181435011584], [0.33043707618338714]])
    X[1, 3] = 0.3304370761833872  # the next number
    for k in range(1, 5):
        assert select(X, k, "bss").indices.tolist() == list(range(k))


def test_norm_draws_columns_of_any_positive_length():
    """Arrival times go as the reciprocal of a squared length, here 1e-268."""
    X = np.diag([0.0, 1e-134, 1.0])
    with pytest.warns(RankDeficientWarning):
        s = select(X, 2, "norm", rng=0)
    assert s.indices.tolist() == [2, 1]


SPECTRAL = ["leverage_top", "osinsky", "volume_derandomized", "deim", "qdeim"]


@pytest.mark.parametrize("method", SPECTRAL)
@pytest.mark.filterwarnings("ignore::cssp.RankDeficientWarning")
def test_ill_conditioned_matrices_keep_equal_columns_equal(method):
    """Singular vectors told equal columns apart by eps times the condition number, beyond the band of ties."""
    rng = np.random.default_rng(0)
    for _ in range(60):
        m, n = rng.integers(2, 5), rng.integers(3, 6)
        U, s, Vh = np.linalg.svd(rng.standard_normal((m, n)), full_matrices=False)
        X = (U * np.logspace(0, -rng.uniform(0, 14), s.size)) @ Vh
        X = np.ascontiguousarray(X[:, rng.integers(0, max(2, n - 2), n)])
        S = select(X, int(rng.integers(1, n + 1)), method).indices.tolist()
        for t, j in enumerate(S):
            assert not any(np.array_equal(X[:, i], X[:, j]) for i in set(range(j)) - set(S[:t]))


def test_leverage_of_equal_columns():
    X = np.array([[3, 8, 24, 3], [-2, -5, -16, -2]])
    with pytest.warns(RankDeficientWarning):
        S = select(X, 3, "leverage_top").indices.tolist()
    assert 3 not in S or S.index(0) < S.index(3)


def test_a_tolerance_of_one_still_takes_a_column():
    """The only admissible column is zero, and no column at all meets the tolerance."""
    for method in METHODS:
        if {"tol", "exclude"} <= METHODS[method].supports:
            for k in (1, None):
                s = select(np.array([[0.0, 1.0]]), k, method, exclude=[1], tol=1.0, rng=0)
                assert s.indices.tolist() == [0]


def test_an_included_column_of_rounding_is_not_written_to():
    """Nothing to project off: the residual of the others was the caller's own memory."""
    for method in METHODS:
        if "include" in METHODS[method].supports:
            A = np.array([[3.0, 1e-30, 1.0], [4.0, 0.0, 2.0]])
            before = A.copy()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RankDeficientWarning)
                select(A, 2, method, include=[1], rng=0)
            assert A.tobytes() == before.tobytes(), method


def test_included_columns_of_rounding_add_no_direction():
    """A Gram matrix of columns 94 digits apart says nothing about the smaller one."""
    A = np.array([[0.0, 0.0, 1.0e94], [0.0, 0.0, 0.0], [1.0, 0.0, 3.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", RankDeficientWarning)
        s = select(A, 2, include=[0, 2], exclude=[1], weights=[2.0, 1.0, 1.0])
    assert s.indices.tolist() == [0, 2]
    assert s.rank == 1


def test_coefficients_of_dependent_columns_with_subnormal_parts():
    """torch's SVD of such a matrix is NaN."""
    A = np.array([[1e-309j, 2e-309j, 4e-310j], [0.2718, -0.1449, 0.0338]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankDeficientWarning)
        T = select(torch.as_tensor(A), 3, "arp", rng=0).coefficients()
    assert bool(torch.isfinite(T.abs()).all())


def test_coefficients_of_a_column_of_rounding_are_zero():
    """It adds no direction; its reciprocal would be out of range."""
    A = np.array([[7.9e-47, -1.5e269], [-1.2e-47, -6e269]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", RankDeficientWarning)
        T = select(A, 1, "farthest", include=[0]).coefficients()
    assert T.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("backend", [np.asarray, torch.as_tensor])
def test_columns_whose_squares_vanish_are_zero(backend):
    """Excluded columns are larger by 323 digits."""
    w = np.array([5e4, 1.5e180, 4.6e-143, 2.9e179])
    for A in (
        np.array([[True, False, True, True]]),
        np.array([[0.1 + 0.4j, -0.1 + 1.3j, 0.6 + 0.9j, 0.1 - 0.7j]]),
    ):
        for method in ("residual", "bss", "greedy"):
            if A.dtype.kind == "c" and "complex" not in METHODS[method].supports:
                continue
            with pytest.warns(RankDeficientWarning):
                s = select(backend(A), 1, method, exclude=[0, 1, 3], weights=w)
            assert s.rank == 0
            assert np.all(np.asarray(s.coefficients()) == 0)
            assert float(s.errors[1]) <= float(s.errors[0])


@pytest.mark.filterwarnings("ignore::cssp.RankDeficientWarning")
def test_rejection_ends_where_only_rounding_is_left(monkeypatch):
    """A downdated norm above a true one of zero was proposed for ever, and never accepted."""
    X = np.array(
        [
            [0.0, -1.0, 1.0, 0.0, 1e-9, 0.0],
            [1.0, -1.0, 0.0, -1.0, 1.0, -1.0],
            [1.0, 1.0, 0.0, 1.0, 0.0, 1e-9],
            [1.0, 1e-9, -1.0, -1.0, 1.0, 1.0],
            [1.0, 1e-9, 0.0, 1e-9, 0.0, -1.0],
        ]
    )
    real, rounds = sampling.proposals, []

    def counted(*arguments):
        rounds.append(arguments)
        assert len(rounds) < 1000
        return real(*arguments)

    monkeypatch.setattr(sampling, "proposals", counted)
    for seed in range(100):
        rounds.clear()
        assert select(X, 6, "random_pivot", accelerated=True, rng=seed).rank == 5


def test_a_complex_matrix_of_swapped_bytes_is_complex():
    """Its type is called ">c16", and a complex target was refused."""
    X = np.array([[1j, 2, 1], [0, 1, 1j]])
    swapped = X.astype(X.dtype.newbyteorder())
    target = X[:, :1].astype(np.complex64)
    s, expected = select(swapped, 2, "greedy", target=target), select(X, 2, "greedy", target=target)
    assert s.indices.tolist() == expected.indices.tolist()
    with pytest.raises(CsspError, match="target is complex and A is real"):
        select(X.real, 2, "greedy", target=target)
