"""A selection extended, named, saved, shown, and what each column is nearest to."""

import json

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
from optional import torch

import cssp
from cssp import METHODS, CsspError, Selection, select

rng = np.random.default_rng(0)
A = rng.standard_normal((30, 12)) @ rng.standard_normal((12, 40)) + 0.1 * rng.standard_normal((30, 40))
FRAME = pd.DataFrame(A[:, :5], columns=["age", "height", "weight", "<b>", "town"])


@pytest.mark.parametrize("method", [m for m, row in METHODS.items() if row.deterministic and m != "exact"])
def test_extend_is_a_choice_that_includes_the_first(method):
    if "include" not in METHODS[method].supports:
        with pytest.raises(CsspError, match="cannot honour extend"):
            select(A, 3, method).extend(6)
        return
    w, valid = np.linspace(1, 2, 40), np.arange(40) != 4
    first = select(A, 3, method, weights=w, exclude=[7], valid=valid)
    longer = first.extend(8)
    again = select(A, 8, method, weights=w, exclude=[7], valid=valid, include=first.indices)
    np.testing.assert_array_equal(longer.indices, again.indices)
    assert (longer.k, longer.rank) == (8, 8)
    assert longer.error == again.error
    assert first.k == 3


@pytest.mark.parametrize("make", [torch.as_tensor, sp.csc_array])
def test_extend_of_other_storages_and_past_the_rank(make):
    first = select(make(A), tol=0.5)
    longer = first.extend(20)
    assert type(longer.indices) is type(first.indices)
    assert longer.indices.tolist() == select(A, 20).indices.tolist()
    low = select(make(A[:, :3] @ np.ones((3, 4))), 1)
    with pytest.warns(cssp.RankDeficientWarning, match="only 1 of 3"):
        assert low.extend(3).rank == 1


def test_what_extend_refuses():
    with pytest.raises(CsspError, match="k = 2: must be between 3 and 40"):
        select(A, 3).extend(2)
    with pytest.raises(CsspError, match="extend of a batch"):
        select(np.stack([A, A]), 3).extend(4)


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor, sp.csr_array])
def test_representatives_by_brute_force(make):
    X = np.hstack([A, np.zeros((30, 1))])
    sel = select(make(X), 7)
    S = select(X, 7).indices
    size = np.linalg.norm(X, axis=0)
    cosine = np.abs(X[:, S].T @ X) / np.where(size > 0, size, 1) / size[S][:, None]
    expected = S[np.argmax(cosine, axis=0)]
    expected[40] = -1
    assert np.asarray(sel.representatives()).tolist() == expected.tolist()
    assert expected[S].tolist() == S.tolist()


def test_representatives_of_a_batch_with_padding():
    X = np.stack([A, A[:, ::-1]])
    sel = select(X, 4, valid=np.arange(40) < 30)
    for i in range(2):
        alone = select(X[i][:, :30], 4).representatives()
        assert sel.representatives()[i].tolist() == [*alone, *[-1] * 10]


@pytest.mark.parametrize("make", [lambda X: X, pl.from_pandas])
def test_names_go_in_and_come_out(make):
    sel = select(make(FRAME), 3, include=["height", 0], exclude=["<b>"])
    assert sel.names[:2] == ["height", "age"]
    assert sel.names == [FRAME.columns[j] for j in sel.indices]
    assert "<b>" not in sel.names
    assert sel.extend(4).names[:3] == sel.names
    assert f"names={sel.names}" in repr(sel)
    assert select(A, 2).names is None
    assert "height" in sel.summary()
    assert "height" in sel._repr_html_()


@pytest.mark.parametrize(
    ("include", "words"),
    [
        (["hight"], "include contains 'hight', which is no column of A; near to it: .*'height'"),
        ("age", r"include = 'age': expected a list of columns; pass \['age'\]"),
        (["twice"], "include contains 'twice', the name of 2 columns"),
    ],
)
def test_wrong_names(include, words):
    frame = FRAME.set_axis(["age", "height", "twice", "twice", "town"], axis=1)
    with pytest.raises(CsspError, match=words):
        select(frame, 2, include=include)


def test_saved_and_loaded_without_the_matrix(tmp_path):
    path = tmp_path / "picked.json"
    for sel in (
        select(FRAME, 3),
        select(1e-200 * A, 4, "greedy", p=np.inf),
        select(np.stack([A, A]), [3, 5]),
        select(torch.as_tensor(A), 3, "volume", rng=0),
    ):
        sel.save(path)
        assert path.stat().st_size < 3000
        again = Selection.load(path)
        assert repr(again) == repr(sel)
        assert again.names == sel.names
        for name in ("indices", "errors", "error", "relative_error", "rank", "k"):
            np.testing.assert_array_equal(getattr(again, name), np.asarray(getattr(sel, name)))
        assert again.options == sel.options
        for ask in (again.certificate, again.coefficients, again.representatives):
            with pytest.raises(CsspError, match="matrix A behind"):
                ask()
    with pytest.raises(FileNotFoundError, match="no such file"):
        Selection.load(tmp_path / "none.json")
    path.write_text('{"indices": [1]}')
    with pytest.raises(CsspError, match=r"expected a file that Selection\.save wrote"):
        Selection.load(path)


def test_what_is_shown():
    sel = select(A, 30)
    text = sel.summary()
    assert text.startswith("30 of 40 columns by residual, relative error")
    assert text.endswith("and 10 more")
    assert len(text.splitlines()) == 23
    third = text.splitlines()[4].split()
    assert third == ["3", str(sel.indices[2]), f"{select(A, 3).relative_error:.4g}"]
    page = select(FRAME, 5)._repr_html_()
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert page.count("<tr>") == 6
    assert "shape (2, 3)" in select(np.stack([A, A]), 3)._repr_html_()
    with pytest.raises(CsspError, match="summary of a batch"):
        select(np.stack([A, A]), 3).summary()


def test_paths_that_cannot_be_written_or_read(tmp_path):
    sel = select(np.eye(4), 2)
    for path, words in (
        (tmp_path, "a folder"),
        (tmp_path / "no" / "x.json", "create the folder first"),
        (None, "path"),
    ):
        with pytest.raises(CsspError, match=words):
            sel.save(path)
    torn = tmp_path / "torn.json"
    sel.save(torn)
    record = json.loads(torn.read_text())
    for broken in (
        {"format": record["format"]},
        record | {"parts": []},
        record | {"parts": [{"picks": [0]}]},
        [1],
    ):
        torn.write_text(json.dumps(broken))
        with pytest.raises(CsspError, match=r"expected a file that Selection\.save wrote"):
            Selection.load(torn)
    for path, words in (
        (tmp_path, "cannot be read"),
        (None, "expected the path of a file"),
        (tmp_path / "a", "no such"),
    ):
        with pytest.raises(CsspError, match=words):
            Selection.load(path)


def test_values_by_name_stand_at_the_columns_of_these_names():
    A = np.random.default_rng(3).standard_normal((8, 5))
    frame, mixed = pd.DataFrame(A, columns=list("abcde")), list("dbeca")
    for name, values in (
        ("costs", [1.0, 9.0, 2.0, 5.0, 3.0]),
        ("groups", ["x", "y", "x", "z", "y"]),
        ("weights", [1.0, 0.1, 2.0, 3.0, 1.0]),
        ("valid", [True, False, True, True, True]),
    ):
        series = pd.Series(values, index=list("abcde"))
        wanted = select(A, 2, **{name: values}).indices
        for given in (dict(series[mixed]), series[mixed], series, pd.Series(values)):
            np.testing.assert_array_equal(select(frame, 2, **{name: given}).indices, wanted)
        rows = select(frame.T, 2, axis="rows", **{name: series[mixed]})
        np.testing.assert_array_equal(rows.indices, wanted)
        with pytest.raises(CsspError, match=f"{name} names 'aa', which is no column.*near to it: 'a'"):
            select(frame, 2, **{name: dict(series) | {"aa": values[0]}})
        with pytest.raises(CsspError, match=f"{name} has no value for 'a'"):
            select(frame, 2, **{name: dict(series[1:])})
        with pytest.raises(CsspError, match=f"{name} is a mapping: .* as A has no column names"):
            select(A, 2, **{name: dict(series)})


def test_values_by_names_that_are_numbers():
    frame = pd.DataFrame(np.eye(4), columns=[3, 2, 1, 0])
    for costs in ({0: 1.0, 1: 2.0, 2: 3.0, 3: 4.0}, pd.Series([1.0, 2.0, 3.0, 4.0])):
        assert select(frame, 2, costs=costs).names == ["0", "1"]


@pytest.mark.parametrize("make", [np.array, pd.Index, pd.Series, tuple])
def test_included_names_in_any_sequence(make):
    frame = pd.DataFrame(np.eye(4), columns=list("abcd"))
    assert select(frame, 3, include=make(["d", "b"]), exclude=make(["a"])).names == ["d", "b", "c"]
