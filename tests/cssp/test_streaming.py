"""Streams: the bound holds in every run and every order, blocks do not matter, little is kept, checkpoints go on."""

from __future__ import annotations

import math
import pickle
import tracemalloc
import warnings
import zipfile
from itertools import combinations, pairwise

import numpy as np
import pytest
from optional import torch

from cssp import CsspError, RankDeficientWarning, StreamingSelector, matrices, select
from tests.cssp.oracles import squared_error

METHODS = ("greedy", "residual", "strong_rrqr")


def decaying(m, n, seed=0, decay=0.8, kind=float):
    g = np.random.default_rng(seed)
    U = np.linalg.qr(g.standard_normal((m, m)))[0]
    A = (U * decay ** np.arange(m)) @ g.standard_normal((m, n))
    return A + 1j * (U * decay ** np.arange(m)) @ g.standard_normal((m, n)) if kind is complex else A


def optimum(A, k):
    return float(np.sum(np.linalg.svd(A, compute_uv=False)[k:] ** 2))


def streamed(A, k, blocks=7, weights=None, **options):
    s = StreamingSelector(k, **({"rng": 0} | options))
    ends = np.linspace(0, A.shape[1], blocks + 1).astype(int)
    for a, b in pairwise(ends):
        s.partial_fit(A[:, a:b], None if weights is None else weights[a:b])
    return s


def orders(A, seed=0):
    """Random, growing, shrinking, good columns first or last, copies of one column before the rest."""
    n = A.shape[1]
    size = np.argsort(np.linalg.norm(A, axis=0), kind="stable")
    best = select(A, min(10, n)).indices
    rest = np.setdiff1d(np.arange(n), best)
    yield np.random.default_rng(seed).permutation(n)
    yield size
    yield size[::-1]
    yield np.concatenate([best, rest])
    yield np.concatenate([rest, best])


# --- the guarantee --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("oversample", [1, 3])
def test_the_bound_holds_in_every_order(method, oversample):
    for decay in (0.6, 0.95):
        A = decaying(20, 300, decay=decay)
        for order in orders(A):
            B = A[:, order]
            sel = streamed(B, 5, method=method, oversample=oversample).selection()
            error = math.sqrt(squared_error(B, sel.indices))
            assert error <= sel.bound * (1 + 1e-9) <= sel.norm * (1 + 1e-8)
            if oversample == 3:
                assert sel.bound <= 2.5 * error  # and it says something
                assert error <= 2.2 * math.sqrt(optimum(B, 5))
            assert sel.norm == pytest.approx(np.linalg.norm(A))
            np.testing.assert_array_equal(sel.columns, B[:, sel.indices])


@pytest.mark.parametrize("method", METHODS)
def test_the_bound_holds_on_matrices_that_defeat_pivoting(method):
    g = np.random.default_rng(3)
    star = np.concatenate([np.ones((1, 60)), 0.1 * np.eye(60)])
    twins = np.repeat(g.standard_normal((10, 8)), 9, axis=1) * g.choice([1, 1e-8, 1e8], 72)
    for A in (matrices.kahan(40, 1.2), star, twins, np.triu(np.ones((30, 30)))):
        for k in (1, 4):
            B = A[:, g.permutation(A.shape[1])]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RankDeficientWarning)
                sel = streamed(B, k, method=method, oversample=1, buffer=k + 1).selection()
            assert squared_error(B, sel.indices) ** 0.5 <= sel.bound * (1 + 1e-9) + 1e-9 * sel.norm


def test_the_factor_of_strong_rrqr_holds_beside_the_best_columns():
    """Against all k-subsets, and against the SVD; buffers so small that many levels come."""
    for seed in range(20):
        A = decaying(6, 14, seed, decay=0.5)
        s = streamed(A, 2, blocks=14, method="strong_rrqr", oversample=1, buffer=3)
        sel = s.selection()
        assert len(s._nodes) == 3
        best = min(squared_error(A, S) for S in combinations(range(14), 2))
        error = squared_error(A, sel.indices)
        assert best <= error * (1 + 1e-9)
        assert sel.bound**2 <= sel.factor * optimum(A, 2)
        assert error <= 12 * best  # far below the factor, here
    assert streamed(A, 2, method="greedy").selection().factor is None


def test_the_factor_is_the_sum_over_levels():
    """q_leaf (1 + q) + q_leaf q q_last for two levels, all q² = 1 + 4 kept (candidates - kept), squared."""
    A = decaying(8, 12)
    s = streamed(A, 2, method="strong_rrqr", oversample=2, buffer=6)  # two leaves, one merged node of 4
    leaf, merge, last = (math.sqrt(1 + 4 * k * (n - k)) for k, n in ((4, 6), (4, 8), (2, 4)))
    assert s.selection().factor == pytest.approx((leaf * (1 + merge + merge * last)) ** 2)
    alone = StreamingSelector(2, method="strong_rrqr").partial_fit(A[:, :8])
    assert alone.selection().factor == pytest.approx(1 + 4 * 2 * 6)


@pytest.mark.parametrize("method", METHODS)
def test_as_good_as_all_at_once_where_the_rank_is_small(method):
    g = np.random.default_rng(0)
    A = g.standard_normal((30, 6)) @ g.standard_normal((6, 500))
    sel = streamed(A, 6, method=method).selection()
    assert sel.rank == 6
    assert squared_error(A, sel.indices) < 1e-20 * sel.norm**2
    assert sel.bound < 1e-10 * sel.norm
    assert sel.relative_error < 1e-10


def test_shuffled_streams_spread_little():
    A = decaying(30, 600, decay=0.9)
    errors = []
    for seed in range(8):
        B = A[:, np.random.default_rng(seed).permutation(600)]
        errors.append(squared_error(B, streamed(B, 8).indices_) ** 0.5)
    once = select(A, 8, "greedy").error
    assert max(errors) < 1.1 * min(errors)
    assert max(errors) < 1.1 * once


def test_one_buffer_is_the_method_itself():
    A = decaying(12, 40)
    for method in METHODS:
        s = StreamingSelector(5, method=method, buffer=64).partial_fit(A)
        assert s.indices_.tolist() == select(A, 5, method).indices.tolist()
        assert s.selection().bound == pytest.approx(select(A, 5, method).error)


def test_the_estimate_is_unbiased_and_within_its_spread():
    """64 signs: relative standard deviation of the square at most √(2/64); six of its deviations of the mean."""
    A = decaying(20, 200, decay=0.7)
    true = squared_error(A, streamed(A, 4, oversample=3).indices_)
    draws = np.array([streamed(A, 4, oversample=3, rng=seed).selection().error ** 2 for seed in range(40)])
    assert abs(draws.mean() - true) < 6 * true * math.sqrt(2 / 64 / 40)
    assert draws.std() < 1.3 * math.sqrt(2 / 64) * true


# --- blocks, kinds of numbers, scale ----------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_how_the_stream_is_cut_does_not_matter(method):
    A = decaying(15, 203)
    whole = StreamingSelector(4, method=method, rng=0).partial_fit(A)
    for blocks in (203, 101, 5):
        cut = streamed(A, 4, blocks=blocks, method=method)
        assert cut.indices_.tolist() == whole.indices_.tolist()
        assert cut.selection().bound == whole.selection().bound
        assert cut.selection().error == pytest.approx(whole.selection().error)
        assert cut.n_seen_ == 203
    empty = StreamingSelector(4, method=method, rng=0)
    for block in (A[:, :0], A[:, :50], A[:, 50:50], A[:, 50:]):
        empty.partial_fit(block)
    assert empty.indices_.tolist() == whole.indices_.tolist()


def test_asking_changes_nothing():
    A = decaying(15, 150)
    s = StreamingSelector(4, rng=0)
    for block in np.array_split(A, 30, axis=1):
        s.partial_fit(block)
        assert s.n_seen_ < 4 or len(set(s.indices_.tolist())) == 4
    assert s.indices_.tolist() == streamed(A, 4).indices_.tolist()
    assert s.columns_.shape == (15, 4)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "complex128"])
def test_kinds_of_numbers(dtype):
    A = decaying(15, 120, kind=complex if dtype == "complex128" else float)
    B = (A * 100).astype(dtype) if dtype == "int32" else A.astype(dtype)
    sel = streamed(B, 4).selection()
    want = {"float16": "float32", "int32": "float64"}.get(dtype, dtype)
    assert sel.columns.dtype == want
    eps = np.finfo(want).eps
    assert squared_error(B, sel.indices) ** 0.5 <= sel.bound * (1 + 1e3 * eps)
    assert sel.coefficients(B).shape == (4, 120)


def test_torch_blocks():
    A = decaying(15, 120)
    s = (
        StreamingSelector(4, rng=0)
        .partial_fit(torch.as_tensor(A[:, :70]))
        .partial_fit(torch.as_tensor(A[:, 70:]))
    )
    assert s.indices_.tolist() == streamed(A, 4).indices_.tolist()
    assert StreamingSelector(2).partial_fit(torch.eye(3).bfloat16()).columns_.dtype == np.float32


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e30, 1e200])
def test_scale_does_not_matter(scale):
    A = decaying(15, 120)
    plain, scaled = streamed(A, 4).selection(), streamed(A * scale, 4).selection()
    assert scaled.indices.tolist() == plain.indices.tolist()
    assert scaled.bound == pytest.approx(plain.bound * scale)
    assert scaled.relative_error == pytest.approx(plain.relative_error)


def test_weights_scale_columns():
    A, w = decaying(15, 150), np.random.default_rng(0).uniform(0, 3, 150)
    ours, scaled = streamed(A, 4, weights=w).selection(), streamed(A * w, 4).selection()
    assert ours.indices.tolist() == scaled.indices.tolist()
    assert ours.bound == scaled.bound
    np.testing.assert_array_equal(ours.columns, (A * w)[:, ours.indices])


def test_equal_columns_go_to_the_first():
    A = np.tile(np.eye(5), (1, 20))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sorted(streamed(A, 5, method="residual").indices_) == [0, 1, 2, 3, 4]


def test_k_beyond_the_rank_and_zero_columns():
    g = np.random.default_rng(0)
    A = g.standard_normal((10, 2)) @ g.standard_normal((2, 90))
    s = streamed(A, 5)
    with pytest.warns(RankDeficientWarning, match="only 2 of 5"):
        sel = s.selection()
    assert len(set(sel.indices.tolist())) == 5
    assert sel.rank == 2
    with pytest.warns(RankDeficientWarning):
        zero = streamed(np.zeros((4, 50)), 2).selection()
    assert (zero.norm, zero.bound, zero.error, zero.relative_error, zero.rank) == (0, 0, 0, 0, 0)


# --- memory ---------------------------------------------------------------------------------------------


def test_memory_is_that_of_the_columns_kept():
    m, k, n = 400, 3, 3_000
    s = StreamingSelector(k, rng=0)
    block = np.random.default_rng(0).standard_normal((m, 200))
    s.partial_fit(block)
    tracemalloc.start()
    for _ in range(n // 200 - 1):
        s.partial_fit(block)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    levels = 1 + math.log2(n / s.buffer)
    columns = s.buffer + 2 * s.kept * levels + 64
    assert s.nbytes <= 8 * m * columns * 1.05
    assert peak <= 3 * 8 * m * (columns + 200)
    assert peak < 8 * m * n / 2


# --- checkpoints ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seen", [0, 3, 77, 150])
def test_a_checkpoint_goes_on_as_if_never_stopped(tmp_path, seen):
    A, path = decaying(15, 200), tmp_path / "state.npz"
    s = StreamingSelector(4, method="residual", oversample=3, buffer=17, rng=5)
    s.partial_fit(A[:, :seen]).save(path)
    again, copy = StreamingSelector.load(path), pickle.loads(pickle.dumps(s))
    for t in (s, again, copy):
        t.partial_fit(A[:, seen:])
    for t in (again, copy):
        ours, theirs = t.selection(), s.selection()
        assert ours.indices.tolist() == theirs.indices.tolist()
        assert (ours.bound, ours.norm, ours.error) == (theirs.bound, theirs.norm, theirs.error)
        assert repr(t) == repr(s)
        assert repr(ours) == repr(theirs)


def test_the_file_is_whole_and_holds_no_pickle(tmp_path):
    path = tmp_path / "state.npz"
    s = streamed(decaying(15, 100), 4)
    s.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["state.npz"]
    with zipfile.ZipFile(path) as file:
        assert all(file.read(name).startswith(b"\x93NUMPY") for name in file.namelist())
        assert not any(b"'O'" in file.read(name)[:128] for name in file.namelist())
    old = tmp_path / "old"
    old.hardlink_to(path)
    s.save(path)
    assert not old.samefile(path)  # the new file took the place of the old one, which was not written into
    old.unlink()
    before = path.read_bytes()
    s._nodes.append(object())  # a state that cannot be written
    with pytest.raises(AttributeError):
        s.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["state.npz"]


def test_what_is_no_checkpoint_is_refused(tmp_path):
    path = tmp_path / "x.npz"
    for content in (b"", b"nonsense", b"PK\x03\x04 broken"):
        path.write_bytes(content)
        with pytest.raises(CsspError, match="is no checkpoint"):
            StreamingSelector.load(path)
    np.savez(path, a=np.ones(3))
    with pytest.raises(CsspError, match="is no checkpoint"):
        StreamingSelector.load(path)
    with pytest.raises(FileNotFoundError):
        StreamingSelector.load(tmp_path / "absent.npz")


# --- refusals -------------------------------------------------------------------------------------------


def test_a_refused_block_leaves_the_stream_as_it_was():
    A = decaying(15, 100)
    s = StreamingSelector(4, rng=0).partial_fit(A[:, :60])
    hole = A[:, 60:70].copy()
    hole[3, 4] = np.nan
    with pytest.raises(CsspError, match=r"NaN in column 4 of the block, position 64 of the stream"):
        s.partial_fit(hole)
    hole[3, 4] = np.inf
    with pytest.raises(CsspError, match="Inf in column 4"):
        s.partial_fit(hole)
    with pytest.raises(CsspError, match="column 1 of the block"):
        s.partial_fit(A[:, 60:62], weights=[1, -1])
    with pytest.raises(CsspError, match="overflows to Inf in column 0"):
        s.partial_fit(np.full((15, 1), 1e300), weights=[1e300])
    s.partial_fit(A[:, 60:])
    assert s.indices_.tolist() == streamed(A, 4).indices_.tolist()


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (np.ones(3), "reshape"),
        (np.ones((4, 2)), "4 rows; the stream began with 3"),
        (np.ones((3, 2), dtype=np.float64), "the stream began in float32"),
        (np.ones((3, 2), dtype=np.complex64), "the stream began in float32"),
        (np.array([["a"], ["b"], ["c"]]), "dtype"),
    ],
)
def test_wrong_blocks(block, message):
    s = StreamingSelector(2).partial_fit(np.ones((3, 5), dtype=np.float32))
    with pytest.raises(CsspError, match=message):
        s.partial_fit(block)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k = 0"),
        ({"k": 2.0}, "k = 2.0"),
        ({"k": 2, "method": "volume"}, "'greedy', 'residual'"),
        ({"k": 2, "oversample": 0}, "oversample = 0"),
        ({"k": 2, "buffer": 4}, "buffer = 4: must be at least 5"),
        ({"k": 2, "rng": "a"}, "rng"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(CsspError, match=message):
        StreamingSelector(**options)


def test_too_few_columns():
    s = StreamingSelector(3)
    with pytest.raises(CsspError, match="only 0 columns"):
        s.selection()
    s.partial_fit(np.eye(4)[:, :2])
    with pytest.raises(CsspError, match="only 2 columns have been seen"):
        _ = s.indices_
