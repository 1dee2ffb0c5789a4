"""The edges of the input contract (docs/contract.md) that no other test shows."""

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from optional import torch

from cssp import METHODS, CsspError, RankDeficientError, RankDeficientWarning, select

ROWS = list(METHODS)
DETERMINISTIC = [name for name, row in METHODS.items() if row.deterministic]
A = np.random.default_rng(0).standard_normal((8, 10))


def picks(X, k, method="residual", **arguments):
    return np.asarray(select(X, k, method, rng=0, **arguments).indices).tolist()


def looks_at_the_matrix(method):
    """Whether other columns give other picks with the same seed; `uniform` draws without looking."""
    return picks(A, 4, method) != picks(A[:, ::-1], 4, method)


@pytest.mark.parametrize("method", ROWS)
def test_a_zero_column_waits_for_all_others(method):
    Z = np.zeros((8, 10))
    Z[:, 1::2] = A[:, :5]
    for seed in range(10):
        assert set(select(Z, 5, method, rng=seed).indices.tolist()) == {1, 3, 5, 7, 9}


@pytest.mark.parametrize("method", ROWS)
def test_a_twin_waits_for_all_others(method):
    twice = np.repeat(A[:, :5], 2, axis=1)
    for seed in range(10):
        s = select(twice, 5, method, rng=seed)
        assert sorted(s.indices // 2) == [0, 1, 2, 3, 4]
        assert s.rank == 5
        if METHODS[method].deterministic:
            assert not np.any(s.indices % 2)  # the first of each pair


@pytest.mark.parametrize("method", DETERMINISTIC)
def test_equal_columns_go_in_order(method):
    assert picks(np.eye(6), 4, method) == [0, 1, 2, 3]
    assert picks(-np.eye(6, dtype=np.float32)[::-1], 4, method) == [0, 1, 2, 3]
    assert picks(np.stack([np.eye(6)] * 2), 4, method) == [[0, 1, 2, 3]] * 2
    assert picks(torch.eye(6), 4, method) == [0, 1, 2, 3]


@pytest.mark.parametrize("method", ROWS)
def test_a_zero_matrix(method):
    zero = np.zeros((4, 5))
    with pytest.warns(RankDeficientWarning, match="only 0 of 3"):
        s = select(zero, 3, method, rng=0)
    assert s.rank == 0
    if looks_at_the_matrix(method):
        assert s.indices.tolist() == [0, 1, 2]
    assert s.errors.tolist() == [0, 0, 0, 0]
    assert s.error == s.relative_error == 0
    assert not np.any(s.coefficients())
    assert not np.any(s.reconstruct())
    assert s.certificate().ratio == 1
    one = select(zero, 3, method, rng=0, deficient="truncate")  # never an empty selection
    assert (one.k, one.rank) == (1, 0)
    with pytest.raises(CsspError, match="k = 3 exceeds the numerical rank 0"):
        select(zero, 3, method, rng=0, deficient="raise")


def test_the_rank_warning_comes_once_and_points_here():
    batch = np.stack([A, A[:, :1] * np.ones(10), np.zeros((8, 10))])
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        s = select(batch, 4)
    assert len(heard) == 1
    assert heard[0].category is RankDeficientWarning
    assert heard[0].filename == __file__
    assert "in 2 of 3 batch items: only 0 of 4, 1 of 4 chosen columns" in str(heard[0].message)
    assert s.rank.tolist() == [4, 1, 0]
    assert s.indices[0].tolist() == picks(A, 4)


@pytest.mark.parametrize(
    "dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i2", ">i8", ">f4", ">f8", ">c16", "?"]
)
def test_integers_and_byte_orders(dtype):
    """Worked on in float64: no square overflows; the same picks as of the converted matrix."""
    kind = np.dtype(dtype)
    high = {"i": 2.0 ** (8 * kind.itemsize - 1) - 1, "u": 2.0 ** (8 * kind.itemsize) - 1}.get(kind.kind, 1e9)
    whole = np.clip(A / np.abs(A).max() * high, -high if kind.kind in "ifc" else 0, high * (1 - 1e-9))
    X = (whole > 0).astype(dtype) if dtype == "?" else whole.astype(dtype)
    assert picks(X, 5) == picks(X.astype(np.complex128 if kind.kind == "c" else np.float64), 5)
    if dtype in ("i1", "u1", "i2", "i4", "i8", "?"):
        assert picks(torch.as_tensor(X), 5) == picks(X, 5)


def test_long_double():
    """Worked on in float64: what lies beyond its range is refused, what lies below it is zero."""
    X = A.astype(np.longdouble)
    assert picks(X, 5) == picks(A, 5)
    assert picks(A + 1j * X, 5) == picks(A + 1j * A, 5)
    assert picks(A, 5, weights=np.ones(10, dtype=np.longdouble)) == picks(A, 5)
    if np.finfo(np.longdouble).max > 1e300 * np.longdouble(1e300):
        with pytest.raises(CsspError, match="A has Inf in column 2"):
            select(np.where(np.arange(10) == 2, X * np.longdouble("1e400"), X), 5)
        with pytest.raises(CsspError, match=r"weights.*column 3 has inf"):
            select(A, 5, weights=np.where(np.arange(10) == 3, np.longdouble("1e400"), 1))


def test_views_without_memory_of_their_own():
    T = torch.as_tensor(A)
    with pytest.warns(RankDeficientWarning, match="only 1 of 3"):
        assert picks(np.broadcast_to(A[:, :1], (8, 10)), 3) == [0, 1, 2]
    with pytest.warns(RankDeficientWarning, match="only 1 of 3"):
        assert picks(T[:, :1].expand(8, 10), 3) == [0, 1, 2]
    assert picks(torch._neg_view(T), 5) == picks(A, 5)
    assert picks((T + 1j * T.flip(0)).conj(), 5) == picks(A + 1j * A[::-1], 5)
    assert picks(torch.as_tensor(A.T.copy()).mT, 5) == picks(A, 5)


def test_numbers_that_are_not_there():
    with pytest.raises(CsspError, match="meta device"):
        select(torch.empty((8, 10), device="meta"), 3)
    spoilt = np.where(np.arange(10) == 4, np.nan, A)
    with pytest.raises(CsspError, match=r"NaN in column 4.*exclude only forbids choosing it"):
        select(spoilt, 3, exclude=[4])
    assert 4 not in picks(spoilt, 8, valid=np.arange(10) != 4)


@pytest.mark.parametrize("method", ROWS)
def test_a_zero_weight_does_not_exclude(method):
    w = np.r_[0.0, np.ones(9)]
    with pytest.warns(RankDeficientWarning):  # rank 8
        everything = picks(A, 10, method, weights=w)
    assert sorted(everything) == list(range(10))
    if looks_at_the_matrix(method):
        assert 0 not in picks(A, 8, method, weights=w)
    with pytest.raises(CsspError, match="only 9 of 10"):
        select(A, 10, method, exclude=[0])


@pytest.mark.parametrize("empty", [[], (), range(0), np.zeros(0, dtype=int), [[], []], None])
def test_nothing_to_include_or_exclude(empty):
    batch = np.stack([A, 2 * A])
    assert picks(batch, 3, include=empty, exclude=empty) == [picks(A, 3)] * 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"k": 10**30}, "k = 10{30}: no matrix has so many columns"),
        ({"k": np.array([2**63 + 1, 3], dtype=np.uint64)}, "k = 9223372036854775809 for one batch item"),
        ({"k": [[1], [1, 2]]}, "k has rows of unequal length"),
        ({"k": 3, "include": 2}, r"include = 2: expected a list.*\[2\]"),
        ({"k": 3, "include": [[1], [2, 3]]}, "include has rows of unequal length"),
        ({"k": 3, "exclude": [2**70]}, "exclude has dtype object"),
        ({"k": 3, "weights": [[1.0], [1.0, 2.0]]}, "weights has rows of unequal length"),
        ({"k": 3, "valid": [[True], [True, False]]}, "valid has rows of unequal length"),
        ({"tol": 10**400}, "tol = 10{400}.*one number"),
        ({"k": 3, "rng": np.random.SeedSequence(1)}, "rng = SeedSequence"),
    ],
)
def test_arguments_that_numpy_would_choke_on(arguments, words):
    with pytest.raises(CsspError, match=words):
        select(np.stack([A, A]), **arguments)


def test_a_generator_moves_on():
    rng = np.random.default_rng(0)
    draws = {tuple(select(A, 4, "uniform", rng=rng).indices.tolist()) for _ in range(6)}
    assert len(draws) > 1
    first = select(np.stack([A, A]), 4, "uniform", rng=0).indices
    assert first[0].tolist() != first[1].tolist()  # items draw for themselves
    np.testing.assert_array_equal(first, select(np.stack([A, A, A]), 4, "uniform", rng=0).indices[:2])


@pytest.mark.parametrize("how", [{"k": 3}, {"tol": 0.9}, {"tol": 0.1}, {"tol": 1e-12}, {"k": 5, "tol": 0.1}])
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy, sp.csc_array])
def test_included_columns_that_are_dependent_are_treated_as_deficient_says(how, kind):
    A = np.array([[1.0, 2, 0, 0, 0], [1, 2, 1, 0, 0], [0, 0, 0, 1, 1], [0, 0, 0, 0, 2]])
    with pytest.warns(RankDeficientWarning, match="column 1 depends on those included before"):
        filled = select(kind(A), include=[0, 1], **how)
    assert filled.indices.tolist()[:2] == [0, 1]
    assert filled.rank == len(filled.indices) - 1
    cut = select(kind(A), include=[0, 1], deficient="truncate", **how)
    assert cut.indices.tolist() == [j for j in filled.indices.tolist() if j != 1]
    assert cut.rank == len(cut.indices)
    with pytest.raises(RankDeficientError, match="column 1 depends on those included before"):
        select(kind(A), include=[0, 1], deficient="raise", **how)


def test_without_k_no_independent_column_is_lost_to_a_dependent_one_that_is_included():
    A = np.array([[1.0, 2, 0, 0, 0], [1, 2, 1, 0, 0], [0, 0, 0, 1, 1], [0, 0, 0, 0, 2]])
    with pytest.warns(RankDeficientWarning):
        sel = select(A, tol=1e-12, include=[0, 1], exclude=[3])
    assert (sorted(sel.indices.tolist()), sel.rank) == ([0, 1, 2, 4], 3)
