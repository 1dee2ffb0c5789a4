"""What every row of METHODS owes, on every backend, single and batched."""

import threading
import warnings
from contextlib import nullcontext

import array_api_strict
import numpy as np
import oracles
import pytest
from optional import torch

import cssp
from cssp import METHODS, CsspError, RankDeficientWarning, select

ROWS = list(METHODS)
BACKENDS = {
    "numpy": np.asarray,
    "torch": torch.as_tensor,
    "strict": array_api_strict.asarray,
}


def able(feature):
    return [name for name, row in METHODS.items() if feature in row.supports]


def host(x):
    return x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)


def gaussian(*shape, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal(shape)
    return (A + 1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else A).astype(dtype)


def check_whole(s, A, k):
    """Exactly k distinct columns in range, and errors that a plain recomputation confirms."""
    indices = host(s.indices)
    assert indices.dtype == np.int64
    assert indices.shape == (k,)
    assert len(set(indices.tolist())) == k
    assert indices.min() >= 0
    assert indices.max() < A.shape[1]
    errors = host(s.errors)
    assert errors.shape == (k + 1,)
    assert np.all(np.diff(errors) <= 0)
    wide = np.asarray(A).astype(np.complex128 if np.iscomplexobj(A) else np.float64)
    total = np.linalg.norm(wide) ** 2
    expected = [total] + [oracles.squared_error(wide, indices[:t]) for t in range(1, k + 1)]
    np.testing.assert_allclose(errors, expected, rtol=1e-9, atol=1e-24 * total)
    tail = np.sum(np.linalg.svd(wide, compute_uv=False)[k:] ** 2)
    assert errors[-1] >= tail * (1 - 1e-9) - 1e-24 * total  # Eckart and Young
    assert s.error == pytest.approx(np.sqrt(errors[-1]))
    assert isinstance(s.error, float)
    assert isinstance(s.relative_error, float)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "dtype", [np.float16, np.float32, np.float64, np.int32, np.bool_, np.complex64, np.complex128]
)
@pytest.mark.parametrize("method", ROWS)
def test_k_distinct_columns_and_their_errors(method, dtype, backend):
    if np.dtype(dtype).kind == "c" and "complex" not in METHODS[method].supports:
        with pytest.raises(CsspError, match="residual"):
            select(gaussian(5, 6, dtype=dtype), 2, method)
        return
    if backend == "strict" and dtype == np.float16:
        pytest.skip("the namespace has no float16")
    A = (
        gaussian(9, 12, dtype=dtype)
        if np.dtype(dtype).kind in "fc"
        else np.floor(3 * gaussian(9, 12)).clip(0 if dtype == np.bool_ else -9).astype(dtype)
    )
    before = A.copy()
    X = BACKENDS[backend](A)
    s = select(X, 5, method, rng=1)
    assert type(s.indices) is type(X)
    check_whole(s, A, 5)
    np.testing.assert_array_equal(A, before)
    assert s.method == method
    np.testing.assert_array_equal(host(s.mask()), np.isin(np.arange(12), host(s.indices)))


@pytest.mark.parametrize("method", ROWS)
def test_bfloat16(method):
    X = torch.as_tensor(gaussian(9, 12)).bfloat16()
    check_whole(select(X, 5, method, rng=1), X.double().numpy(), 5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("method", ROWS)
def test_backends_agree(method, dtype):
    for seed in range(5):
        A = gaussian(12, 14, seed=seed, dtype=dtype)
        reference = select(A, 5, method, rng=seed)
        for make in BACKENDS.values():
            other = select(make(A), 5, method, rng=seed)
            np.testing.assert_array_equal(host(other.indices), reference.indices)
            np.testing.assert_allclose(host(other.errors), reference.errors, rtol=1e-6)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("method", ROWS)
def test_an_item_of_a_batch_is_the_item_alone(method, dtype, backend):
    make = BACKENDS[backend]
    A = gaussian(2, 3, 13, 17, dtype=dtype)
    A[0, 1] = A[0, 1][:, :1] * A[0, 1][:1]  # a hopeless neighbour
    A[1, 0] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankDeficientWarning)
        batch = select(make(A), 6, method, rng=5)
        generators = np.random.default_rng(5).spawn(6)
        for g, i in zip(generators, np.ndindex(2, 3), strict=True):
            alone = select(make(A[i].copy()), 6, method, rng=g)
            np.testing.assert_array_equal(host(batch.indices)[i], host(alone.indices))
            assert int(batch.rank[i]) == alone.rank
            assert host(batch.errors)[i].tobytes() == host(alone.errors).tobytes()
            assert float(batch.error[i]) == alone.error
            np.testing.assert_array_equal(host(batch.coefficients())[i], host(alone.coefficients()))


@pytest.mark.parametrize("method", ROWS)
def test_padding_is_not_there(method):
    A = gaussian(3, 8, 12)
    valid = np.random.default_rng(1).random((3, 12)) < 0.7
    dirty = np.where(valid[:, None, :], A, np.nan)
    w = np.where(valid, 1 + np.random.default_rng(2).random((3, 12)), np.nan)
    s = select(dirty, [3, 1, 4], method, valid=valid, weights=w, rng=4)
    assert s.indices.shape == (3, 4)
    np.testing.assert_array_equal(s.k, [3, 1, 4])
    for i, g in enumerate(np.random.default_rng(4).spawn(3)):
        columns = np.flatnonzero(valid[i])
        alone = select(np.ascontiguousarray(A[i][:, columns]), s.k[i], method, weights=w[i, columns], rng=g)
        np.testing.assert_array_equal(s.indices[i, : s.k[i]], columns[alone.indices])
        assert np.all(s.indices[i, s.k[i] :] == -1)
        np.testing.assert_array_equal(s.errors[i, : s.k[i] + 1], alone.errors)
        assert np.all(s.errors[i, s.k[i] :] == alone.errors[-1])
        np.testing.assert_array_equal(s.reconstruct()[i][:, columns], alone.reconstruct())
        np.testing.assert_array_equal(s.coefficients()[i][: s.k[i]][:, columns], alone.coefficients())
        assert not np.any(s.reconstruct()[i][:, ~valid[i]])
        np.testing.assert_array_equal(np.flatnonzero(s.mask()[i]), np.sort(columns[alone.indices]))


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("method", ROWS)
def test_a_ragged_batch_is_its_slices(method, backend):
    """Padding at the end: bit for bit what the slice gives, in both memory orders."""
    X, lengths = gaussian(3, 12, 8), [12, 7, 9]
    valid = np.arange(12) < np.asarray(lengths)[:, None]
    for A, mT in ((BACKENDS[backend](X), True), (BACKENDS[backend](X.swapaxes(1, 2).copy()), False)):
        s = select(A.swapaxes(-1, -2) if mT else A, 4, method, valid=valid, rng=4)
        for i, g in enumerate(np.random.default_rng(4).spawn(3)):
            item = A[i].swapaxes(-1, -2) if mT else A[i]
            alone = select(item[:, : lengths[i]], 4, method, rng=g)
            np.testing.assert_array_equal(host(s.indices)[i], host(alone.indices))
            assert host(s.errors)[i].tobytes() == host(alone.errors).tobytes()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("method", able("include"))
def test_included_first_and_excluded_never(method, backend):
    A = gaussian(9, 10)
    s = select(BACKENDS[backend](A), 6, method, include=[7, 2], exclude=np.array([0, 5, 9]), rng=0)
    assert host(s.indices)[:2].tolist() == [7, 2]
    assert not {0, 5, 9} & set(host(s.indices).tolist())
    check_whole(s, A, 6)
    only = select(A, 7, method, exclude=[0, 5, 9], rng=0)
    assert sorted(only.indices.tolist()) == [1, 2, 3, 4, 6, 7, 8]
    assert select(A, 2, method, include=torch.tensor([3, 1]), rng=0).indices.tolist() == [3, 1]


@pytest.mark.parametrize("method", able("include"))
def test_include_and_exclude_per_item(method):
    A = gaussian(2, 9, 10)
    s = select(A, 4, method, include=[[1], [2]], exclude=[[3, 4], [5, 6]], rng=0)
    for i, g in enumerate(np.random.default_rng(0).spawn(2)):
        alone = select(A[i], 4, method, include=[1 + i], exclude=[3 + 2 * i, 4 + 2 * i], rng=g)
        np.testing.assert_array_equal(s.indices[i], alone.indices)


@pytest.mark.parametrize("method", ROWS)
def test_an_excluded_giant_hides_nothing(method):
    A = gaussian(9, 10)
    A[:, 4] *= 1e25
    assert select(A, 5, method, exclude=[4], rng=0).rank == 5


@pytest.mark.parametrize("method", ROWS)
def test_tolerance_is_met_at_the_first_place_or_refused(method):
    A = gaussian(30, 20) * 0.8 ** np.arange(20)
    if "tol" not in METHODS[method].supports:
        with pytest.raises(CsspError, match=r"tol.*'residual'"):
            select(A, method=method, tol=0.1)
        return
    for tol in (1.0, 0.5, 0.1, 1e-2):
        s = select(A, method=method, tol=tol, rng=3)
        assert s.relative_error <= tol
        assert s.k == 1 or np.sqrt(s.errors[-2] / s.errors[0]) > tol
        if METHODS[method].nested:
            longer = select(A, 20, method, rng=3)
            np.testing.assert_array_equal(s.indices, longer.indices[: s.k])
    assert select(A, 3, method, tol=1e-2, rng=3).k == 3
    assert select(A, 20, method, tol=0.5, rng=3).k < 20
    assert select(A, method=method, tol=0.9, include=[19, 18, 17, 16], rng=3).indices[:4].tolist() == [
        19,
        18,
        17,
        16,
    ]
    ragged = select(np.stack([A, A[:, ::-1] ** 3]), method=method, tol=0.1, rng=3)
    assert np.all(ragged.relative_error <= 0.1)
    assert np.all((host(ragged.indices) >= 0).sum(axis=1) == ragged.k)


@pytest.mark.parametrize("method", able("tol"))
def test_an_unreachable_tolerance_ends_at_the_rank(method):
    A = gaussian(9, 3) @ gaussian(3, 8, seed=1)
    s = select(A, method=method, tol=1e-15, rng=0)
    assert s.rank == 3
    A[:, 5] += gaussian(9, seed=4)
    s = select(A, method=method, tol=1e-3, exclude=[5], rng=0)
    assert s.rank == 3
    assert s.relative_error > 1e-3


@pytest.mark.parametrize("method", ROWS)
def test_target_is_honoured_or_refused(method):
    A, B = gaussian(9, 10), gaussian(9, 3, seed=1)
    if "target" not in METHODS[method].supports:
        with pytest.raises(CsspError, match=r"target.*'greedy'"):
            select(A, 3, method, target=B)
        return
    s = select(A * 1e150, 4, method, target=B * 1e-150)
    assert s.relative_error == pytest.approx(
        np.linalg.norm(oracles.residual_matrix(A, s.indices, B)) / np.linalg.norm(B)
    )
    np.testing.assert_allclose(
        A[:, s.indices] @ (s.coefficients() * 1e300), s.reconstruct() * 1e150, atol=1e-12
    )
    assert s.reconstruct().shape == B.shape


DEFICIENT = {
    "rank 2": gaussian(8, 2) @ gaussian(2, 10, seed=1),
    "all zero": np.zeros((8, 10)),
    "identical columns": np.ones((8, 10)) * np.arange(1, 9)[:, None],
    "more columns than rows": gaussian(3, 10),
    "zero columns": gaussian(8, 10) * (np.arange(10) % 5 == 3),
    "one row": gaussian(1, 10),
    "pairs": np.repeat(gaussian(8, 2), 5, axis=1),
}


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", DEFICIENT)
@pytest.mark.parametrize("method", ROWS)
def test_k_beyond_the_rank(method, name, dtype, backend):
    A = DEFICIENT[name].astype(dtype)
    rank = int(np.linalg.matrix_rank(DEFICIENT[name]))
    X = BACKENDS[backend](A)
    meant = METHODS[method].oversamples and np.count_nonzero(np.linalg.norm(A, axis=0)) >= 4
    with nullcontext() if meant else pytest.warns(RankDeficientWarning, match="fill"):
        s = select(X, 4, method, rng=0)
    assert len(set(host(s.indices).tolist())) == 4
    assert s.rank <= rank
    assert np.all(np.isfinite(host(s.errors)))
    assert np.all(np.isfinite(host(s.coefficients())))
    scale = max(1.0, float(np.abs(A).max()))
    np.testing.assert_allclose(
        A.astype(np.float64)[:, host(s.indices)] @ host(s.coefficients()),
        host(s.reconstruct()),
        atol=1e-6 * scale,
    )
    with pytest.raises(CsspError, match="rank"):
        select(X, 4, method, deficient="raise", rng=0)
    short = select(X, 4, method, deficient="truncate", rng=0)
    assert short.rank == s.rank
    assert short.k == max(1, short.rank)
    if (
        METHODS[method].nested
        and METHODS[method].deterministic
        and name not in ("all zero", "more columns than rows")
    ):
        found = host(s.indices)[:rank].tolist()
        if s.rank == rank and method not in ("farthest",):
            rest = [j for j in range(10) if j not in found]
            assert host(s.indices)[rank:].tolist() == rest[: 4 - rank]


@pytest.mark.parametrize("method", ROWS)
@pytest.mark.parametrize("scale", [1e-200, 1e-100, 1e100, 1e200])
def test_scale_does_not_matter(method, scale):
    A = gaussian(9, 12)
    one, other = select(A, 5, method, rng=1), select(A * scale, 5, method, rng=1)
    np.testing.assert_array_equal(one.indices, other.indices)
    assert other.rank == one.rank
    assert other.error / scale == pytest.approx(one.error, rel=1e-12)
    assert other.relative_error == pytest.approx(one.relative_error, rel=1e-12)
    np.testing.assert_allclose(other.reconstruct() / scale, one.reconstruct(), atol=1e-12)
    single = select((A * min(max(scale, 1e-30), 1e30)).astype(np.float32), 5, method, rng=1)
    np.testing.assert_array_equal(single.indices, one.indices)


@pytest.mark.parametrize("method", ROWS)
def test_half_precision_does_not_overflow(method):
    A = np.clip(gaussian(300, 12) * 20000, -65504, 65504).astype(np.float16)
    check_whole(select(A, 5, method, rng=1), A, 5)


@pytest.mark.parametrize("method", ROWS)
def test_subnormal_and_huge_entries(method):
    for scale in (5e-324 * 2**20, 1e307):
        s = select(np.round(gaussian(9, 12) * 1e5) / 2**20 * scale, 5, method, rng=1)
        assert s.rank == 5


@pytest.mark.parametrize("method", ROWS)
def test_weights_are_column_scaling(method):
    A, w = gaussian(9, 12), np.random.default_rng(1).random(12)
    w[3] = 0
    one, other = select(A, 5, method, weights=w, rng=1), select(A * w, 5, method, rng=1)
    np.testing.assert_array_equal(one.indices, other.indices)
    np.testing.assert_array_equal(one.errors, other.errors)
    np.testing.assert_array_equal(one.reconstruct(), other.reconstruct())
    np.testing.assert_array_equal(one.coefficients(), other.coefficients())
    extreme = select(A * 1e200, 5, method, weights=w * 1e200, rng=1)
    np.testing.assert_array_equal(extreme.indices, one.indices)
    tiny = select(A * 1e-250, 5, method, weights=torch.as_tensor(w) * 1e-250, rng=1)
    np.testing.assert_array_equal(tiny.indices, one.indices)
    # columns whose scale the weights undo: the product is A, though no single power of two fits both factors
    d = 10.0 ** np.linspace(-250, 250, 12)
    np.testing.assert_array_equal(
        select(A * d, 5, method, weights=1 / d, rng=1).indices, select(A, 5, method, rng=1).indices
    )
    batch = select(np.stack([A, A]), 5, method, weights=np.stack([w, np.ones(12)]), rng=1)
    if METHODS[method].deterministic:
        np.testing.assert_array_equal(batch.indices[0], one.indices)
        np.testing.assert_array_equal(batch.indices[1], select(A, 5, method).indices)


@pytest.mark.parametrize("method", ROWS)
def test_all_zero_weights_are_rank_zero(method):
    with pytest.warns(RankDeficientWarning):
        s = select(gaussian(4, 6), 3, method, weights=np.zeros(6), rng=0)
    assert s.rank == 0
    assert s.error == 0
    assert s.relative_error == 0


@pytest.mark.parametrize("method", ROWS)
def test_memory_layouts(method, tmp_path):
    A = gaussian(9, 12)
    expected = select(A, 5, method, rng=1).indices
    big = np.zeros((18, 24))
    big[::2, ::2] = A
    frozen = A.copy()
    frozen.setflags(write=False)
    np.save(tmp_path / "a.npy", A)
    for X in (
        np.asfortranarray(A),
        big[::2, ::2],
        A[::-1, ::-1][::-1, ::-1],
        frozen,
        np.load(tmp_path / "a.npy", mmap_mode="r"),
    ):
        np.testing.assert_array_equal(select(X, 5, method, rng=1).indices, expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(select(A.tolist(), 5, method, rng=1).indices, expected)
    live = torch.as_tensor(A).requires_grad_()
    np.testing.assert_array_equal(select(live, 5, method, rng=1).indices.numpy(), expected)


@pytest.mark.parametrize("method", ROWS)
def test_one_column_all_columns_and_an_empty_batch(method):
    assert select(gaussian(5, 1), 1, method, rng=0).indices.tolist() == [0]
    assert sorted(select(gaussian(9, 7), 7, method, rng=0).indices.tolist()) == list(range(7))
    assert select(gaussian(0, 5, 6), 2, method, rng=0).errors.shape[0] == 0


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if row.nested])
def test_prefixes_are_nested(method):
    A = gaussian(9, 12)
    long = select(A, 8, method, rng=7).indices
    for k in range(1, 8):
        np.testing.assert_array_equal(select(A, k, method, rng=7).indices, long[:k])


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if row.deterministic])
def test_deterministic_methods_move_with_the_columns(method):
    A = gaussian(9, 12)
    Q, _ = np.linalg.qr(gaussian(9, 9, seed=1))
    order = np.random.default_rng(2).permutation(12)
    same = (
        np.asarray if METHODS[method].nested else np.sort
    )  # the order of a set found as a whole means nothing
    expected = same(select(A, 5, method).indices)
    np.testing.assert_array_equal(same(order[select(A[:, order], 5, method).indices]), expected)
    np.testing.assert_array_equal(same(select(Q @ A, 5, method).indices), expected)
    np.testing.assert_array_equal(
        same(select(np.vstack([A, np.zeros((3, 12))]), 5, method).indices), expected
    )


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if not row.deterministic])
def test_sampling_obeys_rng_alone(method):
    A = gaussian(9, 30)
    one = select(A, 8, method, rng=3).indices
    np.testing.assert_array_equal(select(A, 8, method, rng=np.random.default_rng(3)).indices, one)
    assert len({tuple(select(A, 8, method, rng=s).indices.tolist()) for s in range(5)}) > 1
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    select(A, 8, method)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_many_threads():
    jobs = [(method, seed) for method in ROWS for seed in range(6)]
    expected = [select(gaussian(12, 15, seed=s), 5, m, rng=s).indices for m, s in jobs]
    found = [None] * len(jobs)

    def work(part):
        for i in part:
            method, seed = jobs[i]
            found[i] = select(gaussian(12, 15, seed=seed), 5, method, rng=seed).indices

    threads = [threading.Thread(target=work, args=(range(t, len(jobs), 4),)) for t in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_table_is_whole():
    for name, row in METHODS.items():
        assert row.name == name
        assert row.summary
        assert row.cost
        assert row.supports <= {
            *("include", "exclude", "tol", "target", "complex"),
            *("constraint", "groups", "costs"),
        }
        assert row.function.__doc__
    assert set(cssp.__all__) >= {"select", "Selection", "Certificate", "METHODS", "Method", "CsspError"}
