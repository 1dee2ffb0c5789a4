"""Rows that arrive in blocks: the choice, errors and certificate of the matrix in memory, however it is cut."""

import numpy as np
import pandas as pd
import pytest
from optional import torch

import cssp
from cssp import CsspError, StreamingSelector, row_stream, select

rng = np.random.default_rng(0)
A = rng.standard_normal((500, 30)) * 0.8 ** np.arange(30)[:, None].T @ rng.standard_normal((30, 30))


def streamed(X, k, sizes, method="greedy", weights=None, **arguments):
    stream, a = StreamingSelector(k, method=method, axis="rows", **arguments), 0
    while a < len(X):
        b = a + next(sizes)
        stream = stream.partial_fit(X[a:b], None if weights is None else weights[a:b])
        a = b
    return stream


def cuts(seed, most=90):
    draw = np.random.default_rng(seed)
    while True:
        yield int(draw.integers(0, most))


@pytest.fixture(params=[7, 1024], ids=["many merges", "one merge"])
def merged(request, monkeypatch):
    monkeypatch.setattr(row_stream, "ROWS", request.param)


@pytest.mark.parametrize("method", ["greedy", "residual", "strong_rrqr", "osinsky", "random_pivot"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128, np.int64])
def test_it_is_the_choice_in_memory(merged, method, dtype):
    X = (A * 100).astype(dtype) if dtype is np.int64 else A.astype(dtype)
    if dtype is np.complex128:
        X = X + 1j * np.random.default_rng(1).standard_normal(X.shape)
    wide = X.astype(np.complex128 if dtype is np.complex128 else np.float64)
    seed = StreamingSelector(8, axis="rows", rng=3)._seed
    found, expected = streamed(X, 8, cuts(0), method, rng=3).selection(), select(wide, 8, method, rng=seed)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_allclose(found.errors, expected.errors, rtol=1e-9)
    np.testing.assert_allclose(found.coefficients(), expected.coefficients(), atol=1e-8)
    c, d = found.certificate(), expected.certificate()
    assert c.ratio == pytest.approx(d.ratio)
    assert c.a_posteriori == pytest.approx(d.a_posteriori)
    np.testing.assert_allclose(found.residuals, expected.residuals, atol=1e-9 * expected.residuals.max())
    with pytest.raises(CsspError, match=r"reconstruct\(\) needs all rows"):
        found.reconstruct()


def test_the_cuts_do_not_matter(merged):
    one, other = streamed(A, 5, cuts(1)), streamed(A, 5, cuts(2, 3))
    np.testing.assert_array_equal(one.triangle_, other.triangle_)
    assert one.n_seen_ == other.n_seen_ == 500


def test_the_triangle_is_as_good_as_that_of_a_qr_decomposition(merged):
    """Columns from 1 to 1e-12: a sum of products would lose those below 1e-8."""
    X = rng.standard_normal((400, 13)) * 10.0 ** -np.arange(13)
    R = streamed(X, 1, cuts(3)).triangle_
    assert np.array_equal(R, np.triu(R))
    np.testing.assert_allclose(np.abs(R), np.abs(np.linalg.qr(X, mode="r")), rtol=1e-10, atol=1e-27)
    assert select(R, 13).rank == 13
    few = streamed(X[:4], 1, cuts(3)).triangle_
    np.testing.assert_allclose(few.T @ few, X[:4].T @ X[:4], atol=1e-14)


def test_dependent_columns_are_seen_after_many_rows(monkeypatch):
    """Rounding adds up over merges: the threshold is that of all rows, not that of R."""
    monkeypatch.setattr(row_stream, "ROWS", 5)
    X = rng.standard_normal((20_000, 3)) @ rng.standard_normal((3, 6))
    for dtype in (np.float64, np.float32):
        stream = StreamingSelector(5, method="residual", axis="rows")
        for part in np.array_split(X.astype(dtype), 7):
            stream = stream.partial_fit(part)
        with pytest.warns(cssp.RankDeficientWarning, match="only 3 of 5"):
            assert stream.selection().rank == 3
        assert stream.selection().relative_error < 1e-6


def test_weights_tensors_and_going_on():
    w = rng.random(500)
    weighted = streamed(A, 6, cuts(4), weights=w).selection()
    assert weighted.error == pytest.approx(select(A * w[:, None], 6, "greedy").error)
    stream = StreamingSelector(6, axis="rows").partial_fit(torch.as_tensor(A[:200]))
    np.testing.assert_array_equal(stream.indices_, select(A[:200], 6, "greedy").indices)
    stream = stream.partial_fit(A[200:])
    np.testing.assert_array_equal(stream.indices_, select(A, 6, "greedy").indices)
    longer = stream.selection().extend(9)
    np.testing.assert_array_equal(longer.indices, select(A, 9, "greedy").indices)
    assert stream.nbytes < 8 * (30 * 30 + row_stream.ROWS * 30) + 1


@pytest.mark.parametrize("seen", [0, 3, 7, 40])
def test_it_goes_on_from_a_file(tmp_path, monkeypatch, seen):
    monkeypatch.setattr(row_stream, "ROWS", 7)
    X = A[:, :6]
    stream = StreamingSelector(2, axis="rows").partial_fit(X[:seen])
    stream.save(tmp_path / "s.npz")
    again = StreamingSelector.load(tmp_path / "s.npz")
    assert repr(again) == repr(stream)
    for s in (stream, again):
        s.partial_fit(X[seen:])
    np.testing.assert_array_equal(stream.triangle_, again.triangle_)
    assert again.n_seen_ == 500


@pytest.mark.parametrize(
    "broken",
    [
        {"n_seen": -1},
        {"n_seen": 41},
        {"R": np.ones((6, 6))},
        {"R": np.full((6, 6), np.nan)},
        {"R": np.eye(5)},
        {"k": 0},
        {"method": "none"},
        {"more": 1},
    ],
)
def test_damaged_files_are_refused(tmp_path, monkeypatch, broken):
    from cssp import checkpoints, stream_state

    monkeypatch.setattr(row_stream, "ROWS", 7)
    StreamingSelector(2, axis="rows").partial_fit(A[:40, :6]).save(tmp_path / "s.npz")
    state = checkpoints.load(tmp_path / "s.npz", stream_state.ROWS_KIND)
    state |= {name: np.asarray(value) for name, value in broken.items()}
    checkpoints.save(tmp_path / "s.npz", stream_state.ROWS_KIND, state)
    with pytest.raises(CsspError, match="cannot be read"):
        StreamingSelector.load(tmp_path / "s.npz")


def test_what_is_refused():
    stream = StreamingSelector(3, axis="rows")
    with pytest.raises(CsspError, match="no row has been seen"):
        stream.selection()
    with pytest.raises(CsspError, match="triangle_ is of axis='rows'"):
        _ = StreamingSelector(3).triangle_
    with pytest.raises(
        CsspError, match=r"rows has shape \(30,\): expected \(b, n\); one row is rows.reshape\(1, -1\)"
    ):
        stream.partial_fit(A[0])
    stream.partial_fit(A[:50])
    for block, said in (
        (A[:, :5], "rows has 5 columns; the stream began with 30"),
        (np.where(A[4, 5] == A, np.nan, A), "rows has NaN in row 4 of the block, position 54 of the stream"),
        (A.astype(complex), "rows has dtype complex128; the stream began in float64"),
    ):
        with pytest.raises(CsspError, match=said):
            stream.partial_fit(block)
    assert stream.n_seen_ == 50
    with pytest.raises(CsspError, match="columns_ needs all rows"):
        _ = stream.columns_
    with pytest.raises(CsspError, match="k = 31, but only 30 of 30 columns"):
        StreamingSelector(31, axis="rows").partial_fit(A).selection()
    for arguments, said in (
        ({"axis": "row"}, "axis = 'row': expected 'columns' or 'rows'"),
        ({"axis": "rows", "buffer": 90}, "belong to axis='columns'"),
        ({"axis": "rows", "method": "gready"}, "did you mean 'greedy'"),
    ):
        with pytest.raises(CsspError, match=said):
            StreamingSelector(3, **arguments)


def test_names_of_data_frames_come_out_and_must_stay_the_same(tmp_path):
    frame = pd.DataFrame(A[:, :4], columns=["age", "height", "weight", "town"])
    stream = StreamingSelector(2, axis="rows").partial_fit(frame[:300])
    with pytest.raises(CsspError, match="rows has the column 'height' where the stream began with 'age'"):
        stream.partial_fit(frame[["height", "age", "weight", "town"]])
    stream.save(tmp_path / "rows.npz")
    again = StreamingSelector.load(tmp_path / "rows.npz").partial_fit(frame[300:400]).partial_fit(A[400:, :4])
    assert again.selection().names == select(frame, 2, "greedy").names
    with pytest.raises(CsspError, match="the stream began with 'age'"):
        again.partial_fit(frame.rename(columns={"age": "years"}))
    assert again.n_seen_ == len(A)
