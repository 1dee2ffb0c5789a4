"""Rows chosen instead of columns: the same as of the transpose, in every storage, and all words are about rows."""

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
from optional import torch
from scipy.sparse.linalg import aslinearoperator
from storages import small_tiles

import cssp
from cssp import METHODS, CsspError, Selection, select

rng = np.random.default_rng(0)
A = rng.standard_normal((40, 9)) * 0.8 ** np.arange(40)[:, None]
LABELS = [f"row {i}" for i in range(40)]

STORAGES = {
    "numpy": np.asarray,
    "list": np.ndarray.tolist,
    "torch": torch.as_tensor,
    "csr": sp.csr_array,
    "csc": sp.csc_matrix,
    "dask": lambda X: da.from_array(X, chunks=(7, 4)),
    "dask frame": lambda X: dd.from_pandas(pd.DataFrame(X), npartitions=3),
    "operator": aslinearoperator,
    "pandas": lambda X: pd.DataFrame(X, index=LABELS[: len(X)]),
    "polars": pl.DataFrame,
}


@pytest.mark.parametrize("method", METHODS)
def test_rows_are_the_columns_of_the_transpose(method):
    k, X = (2, A[:12]) if method == "exact" else (4, A)
    found, columns = select(X, k, method, axis="rows", rng=0), select(X.T, k, method, rng=0)
    np.testing.assert_array_equal(found.indices, columns.indices)
    np.testing.assert_array_equal(found.errors, columns.errors)
    T = found.coefficients()
    assert T.shape == (len(X), k)
    least = np.linalg.lstsq(X[found.indices].T, X.T, rcond=None)[0].T
    np.testing.assert_allclose(T, least, atol=1e-12)
    np.testing.assert_allclose(T @ X[found.indices], found.reconstruct(), atol=1e-12)
    assert found.error == pytest.approx(np.linalg.norm(X - found.reconstruct()))
    assert found.mask().shape == (len(X),)
    assert (found.axis, columns.axis) == ("rows", "columns")


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("axis", ["rows", 0, -2])
def test_every_storage(storage, axis):
    found, expected = select(STORAGES[storage](A), 4, axis=axis), select(A.T, 4)
    np.testing.assert_array_equal(found.indices, expected.indices)
    assert found.error == pytest.approx(expected.error)
    np.testing.assert_allclose(np.asarray(found.coefficients()), expected.coefficients().T, atol=1e-12)
    np.testing.assert_allclose(np.asarray(found.reconstruct()), expected.reconstruct().T, atol=1e-12)


def test_a_mapped_file_is_not_copied(tmp_path):
    np.save(tmp_path / "A.npy", A)
    with small_tiles():
        found = select(np.load(tmp_path / "A.npy", mmap_mode="r"), 4, axis="rows")
        assert found.passes > 0
        np.testing.assert_array_equal(found.indices, select(A.T, 4).indices)


@pytest.mark.parametrize("axis", ["columns", 1, -1, np.int64(1)])
def test_columns_are_the_default(axis):
    assert select(A, 4, axis=axis).indices.tolist() == select(A, 4).indices.tolist()


def test_batches_weights_targets_and_padding():
    X = np.stack([A, A[::-1] + 1.0])
    w, valid, B = rng.random((2, 40)), np.arange(40) != 1, rng.standard_normal((40, 3))
    found = select(X, 3, axis=-2, weights=w, valid=valid, include=[5])
    expected = select(X.mT, 3, weights=w, valid=valid, include=[5])
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_array_equal(found.coefficients(), expected.coefficients().mT)
    aimed = select(B, 2, "greedy", axis="rows", target=rng.standard_normal((11, 3)))
    assert aimed.coefficients().shape == (11, 2)
    complex_ = A + 1j * A[::-1]
    found = select(complex_, 4, axis="rows")
    assert np.linalg.norm(complex_ - found.coefficients() @ complex_[found.indices]) == pytest.approx(
        found.error
    )


def test_gradients_flow_through_rows():
    X = torch.tensor(A, requires_grad=True)
    found = select(X, 4, axis="rows")
    lost = ((X - found.coefficients() @ X[found.indices]) ** 2).sum()
    lost.backward()
    Y = torch.tensor(A.T.copy(), requires_grad=True)
    columns = select(Y, 4)
    ((Y - Y[:, columns.indices] @ columns.coefficients()) ** 2).sum().backward()
    torch.testing.assert_close(X.grad, Y.grad.T)
    torch.testing.assert_close(
        torch.func.grad(lambda Z: (select(Z, 4, axis="rows").reconstruct() ** 3).sum())(X.detach()),
        torch.func.grad(lambda Z: (select(Z, 4).reconstruct() ** 3).sum())(X.detach().T).T,
    )


def test_labels_of_rows_are_names():
    frame = pd.DataFrame(A, index=LABELS, columns=[f"column {j}" for j in range(9)])
    found = select(frame, 3, axis="rows", include=["row 7"], exclude=["row 0"])
    assert found.names == [LABELS[j] for j in found.indices]
    assert found.names[0] == "row 7"
    assert "row 0" not in found.names
    with pytest.raises(
        CsspError, match=r"include contains 'row 77', which is no row of A; near to it: .'row 7"
    ):
        select(frame, 3, axis="rows", include=["row 77"])
    with pytest.raises(CsspError, match=r"columns that are no numbers.*'town' "):
        select(frame.assign(town="x"), 3, axis="rows")
    assert select(pl.DataFrame(A), 3, axis="rows").names is None


def test_what_is_said_is_about_rows(tmp_path):
    with pytest.raises(CsspError, match="k = 50, but only 40 of 40 rows may be chosen"):
        select(A, 50, axis="rows")
    with pytest.raises(CsspError, match="row indices run from 0 to 39"):
        select(A, 5, axis="rows", include=[40])
    with pytest.raises(CsspError, match=r"weights has shape \(9,\): expected \(40,\), one entry per row"):
        select(A, 5, axis="rows", weights=np.ones(9))
    with pytest.raises(CsspError, match=r"A has NaN in row 3; clean it.*missing='columns'"):
        select(np.where(A[3, 4] == A, np.nan, A), 5, axis="rows")
    with pytest.raises(CsspError, match="target has 4 columns: expected 9"):
        select(A, 5, "greedy", axis="rows", target=np.ones((3, 4)))
    with pytest.warns(cssp.RankDeficientWarning, match="only 9 of 10 chosen rows are independent") as seen:
        found = select(A, 10, axis="rows")
    assert seen[0].filename == __file__
    with pytest.warns(cssp.RankDeficientWarning, match="chosen rows"):
        found.extend(12)
    with pytest.warns(cssp.RankDeficientWarning, match="chosen columns"):
        select(A.T, 10)
    found = select(A, 3, axis="rows")
    assert found.summary().splitlines()[0].startswith("3 of 40 rows by residual")
    assert "<th>row</th>" in found._repr_html_()
    assert found.plot().get_xlabel() == "number of rows  t"
    found.save(tmp_path / "s.json")
    assert Selection.load(tmp_path / "s.json").axis == "rows"


@pytest.mark.parametrize(
    ("axis", "X", "said"),
    [
        (2, A, "axis = 2: expected 'columns'"),
        (None, A, "axis = None: expected"),
        (True, A, "axis = True: expected"),
        ("row", A, "axis = 'row': expected 'columns'"),
        (0, A[None], "axis = 0: .* as A has 3 dimensions"),
        ("rows", A[0], r"A has shape \(9,\): expected \(..., m, n\)"),
        ("rows", None, "A is a NoneType"),
        ("rows", pl.LazyFrame({"a": [1.0]}), "collect"),
    ],
)
def test_what_is_refused(axis, X, said):
    with pytest.raises(CsspError, match=said):
        select(X, 3, axis=axis)
