"""Inputs that hold no numbers, or hold them otherwise: taken, or refused by a CsspError that names the argument."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
from optional import torch
from scipy.sparse.linalg import aslinearoperator

import cssp
from cssp import CsspError, select, select_gram

A = np.random.default_rng(0).standard_normal((5, 5))
K = A.T @ A
T = torch.as_tensor(A)
FRAME = pd.DataFrame(A, columns=list("abcde"))
TABLE = pl.from_pandas(FRAME)


def text(X):
    return X.assign(town="Ulm", day=pd.Timestamp("2026-01-01"), kind=pd.Categorical(["x"] * len(X)))


# Each is a matrix that is none, with words of the fix.
BAD = {
    "text": (
        lambda: text(FRAME),
        r"'town' \(\w+\), 'day' \(datetime64\[\w+\]\), 'kind' \(category\); pass .*select_dtypes",
    ),
    "many": (lambda: FRAME.astype(object).assign(f=None, g=None), r"'a' \(object\), .* and 2 more; pass"),
    "polars text": (
        lambda: TABLE.with_columns(town=pl.lit("Ulm")),
        r"'town' \(String\).*select\(polars.selectors.numeric",
    ),
    "lazy": (lambda: TABLE.lazy(), r"LazyFrame.*\.collect\(\)"),
    "words": (lambda: [["a", 1], ["b", 2]], "dtype <U.*leave columns of text out"),
    "objects": (lambda: A.astype(object), r"dtype object.*astype\(float\)"),
    "structured": (lambda: np.zeros(4, dtype=[("x", float), ("y", float)]), "structured_to_unstructured"),
    "dates": (lambda: np.zeros((5, 5), dtype="datetime64[D]"), "dtype datetime64"),
    "masked": (lambda: np.ma.masked_array(A, A > 1), "masked array; pass its data"),
    "dict": (lambda: {"a": [1.0]}, "is a dict: expected an array"),
    "none": (lambda: None, "is a NoneType: expected an array"),
    "generator": (lambda: (x for x in A), "is a generator: expected an array"),
    "ragged": (lambda: [[1.0, 2.0], [3.0]], "is not a matrix"),
    "quantised": (lambda: _quantised(), r"quantised.*dequantize\(\)"),
    "nested": (lambda: torch.nested.nested_tensor([T, T], layout=torch.jagged), "nested.*to_padded_tensor"),
    "sparse tensor": (lambda: T.to_sparse(), r"layout torch.sparse_coo; pass .*to_dense\(\)"),
    "meta": (lambda: torch.empty(5, 5, device="meta"), "meta device"),
    "fake": (lambda: torch._subclasses.fake_tensor.FakeTensorMode().from_tensor(T), "FakeTensor.*no numbers"),
    "nan": (lambda: np.where(np.eye(5) > 0, np.nan, K), "(?i)nan"),
    "vector": (lambda: A[0], "shape"),
}


def _quantised():
    return torch.quantize_per_tensor(T.float(), 0.1, 0, torch.qint8)


ENTRIES = {
    "A": lambda X: select(X, 2),
    "target": lambda X: select(A, 2, "greedy", target=X),
    "K": lambda X: select_gram(X, 2),
    "columns": lambda X: cssp.StreamingSelector(2).partial_fit(X),
}
FITS = {
    "ColumnSubsetSelector": lambda X: cssp.ColumnSubsetSelector(2).fit(X),
    "LandmarkSelector": lambda X: cssp.LandmarkSelector(2).fit(X),
}
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*prototype:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*quantize:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*TypedStorage:UserWarning"),
]


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("argument", ENTRIES)
def test_what_is_no_matrix_is_refused_by_name_with_the_fix(argument, kind):
    make, words = BAD[kind]
    if argument == "target" and kind == "none":
        return  # not given
    with pytest.raises(CsspError, match=words) as caught:
        ENTRIES[argument](make())
    assert argument in str(caught.value)


@pytest.mark.parametrize("kind", ["text", "polars text", "lazy", "words", "structured", "nan", "vector"])
@pytest.mark.parametrize("estimator", FITS)
def test_estimators_refuse_with_errors_of_this_package(estimator, kind):
    with pytest.raises(CsspError, match="X"):
        FITS[estimator](BAD[kind][0]())


#: The same numbers in other dress, and how the picks are asked for.
GOOD = {
    "frame": FRAME,
    "nullable": FRAME.astype("Float64"),
    "arrow": FRAME.astype("double[pyarrow]"),
    "sparse frame": FRAME.astype(pd.SparseDtype(float)),
    "mixed floats": FRAME.astype({"a": "Float64", "b": "float64"}),
    "polars": TABLE,
    "matrix": np.matrix(A),
    "lists": A.tolist(),
    "tensor subclass": torch.nn.Parameter(T),
}


@pytest.mark.parametrize("kind", GOOD)
def test_frames_and_other_dress_of_numbers(kind):
    X = GOOD[kind]
    expected = select(A, 3)
    found = select(X, 3)
    assert np.asarray(found.indices).tolist() == expected.indices.tolist()
    assert found.error == pytest.approx(expected.error)
    stream = cssp.StreamingSelector(3, rng=0).partial_fit(X).selection()
    assert (
        stream.indices.tolist()
        == cssp.StreamingSelector(3, rng=0).partial_fit(A).selection().indices.tolist()
    )
    aimed = select(A, 3, "greedy", target=A if kind == "tensor subclass" else X)
    assert aimed.indices.tolist() == select(A, 3, "greedy", target=A).indices.tolist()


def test_integers_booleans_and_decimals_of_frames():
    whole = pd.DataFrame(
        {"i": pd.array([1, 2, 3, 4], dtype="Int64"), "b": [True, False, True, True], "u": [1, 3, 2, 9]}
    )
    expected = select(np.array([[1, 1, 1], [2, 0, 3], [3, 1, 2], [4, 1, 9]], dtype=float), 3).indices.tolist()
    assert select(whole, 3).indices.tolist() == expected
    assert select(pl.from_pandas(whole), 3).indices.tolist() == expected
    exact = pl.from_pandas(whole[["i", "u"]]).cast(pl.Decimal(10, 2))
    assert select(exact, 2).indices.tolist() == select(whole[["i", "u"]], 2).indices.tolist()


@pytest.mark.parametrize("missing", [FRAME.astype("Float64"), FRAME, FRAME.astype("double[pyarrow]")])
def test_a_missing_number_is_named_by_its_column(missing):
    X = missing.copy()
    X.iloc[3, 2] = None
    with pytest.raises(CsspError, match=r"A has NaN in column 2 \('c'\); clean it"):
        select(X, 2)
    with pytest.raises(CsspError, match=r"A has NaN in column 2 \('c'\)"):
        select(pl.from_pandas(X.astype(float)), 2, valid=np.arange(5) != 1)


def test_gram_matrices_in_other_dress():
    expected = select_gram(K, 3).indices.tolist()
    for X in (pd.DataFrame(K), pl.DataFrame(K), K.tolist(), K.view(type(GOOD["matrix"]))):
        sel = select_gram(X, 3)
        assert sel.indices.tolist() == expected
        assert isinstance(sel.nystrom(), np.ndarray)
    for X in (sp.csr_array(K), aslinearoperator(K)):
        with pytest.raises(CsspError, match=r"K is a .*pass lambda I, J: .*, and n=K\.shape\[0\]"):
            select_gram(X, 3)
    S, L = sp.csr_array(K), aslinearoperator(K)  # as the two messages say
    for read in (lambda I, J: S[I][:, J].toarray(), lambda I, J: (L @ np.eye(5)[:, J])[I]):
        assert select_gram(read, 3, n=5).indices.tolist() == expected


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (
            {1, 2},
            r"include = \{1, 2\}: expected a sequence, as its order counts, got a set; pass sorted\(include\)",
        ),
        (frozenset({1}), "got a frozenset"),
        ({1: 2}, r"include is a dict: .*pass list\(include\)"),
        (["age"], r"got the name 'age'; pass list\(names\)\.index\('age'\)"),
        ("age", "got the name 'age'"),
        ([True] * 5, "include is a mask"),
        ([1.0], "dtype float64"),
        ([None], "dtype object"),
        (1, r"pass \[1\]"),
    ],
)
def test_indices_that_are_refused(index, words):
    for choose in (lambda: select(A, 3, include=index), lambda: select_gram(K, 3, include=index)):
        with pytest.raises(CsspError, match=words):
            choose()


@pytest.mark.parametrize(
    "index",
    [
        (x for x in (2, 1)),
        {2: 0, 1: 0}.keys(),
        pd.Index([2, 1]),
        iter([2, 1]),
        [np.int8(2), 1],
        range(2, 0, -1),
    ],
)
def test_indices_in_any_order_that_there_is(index):
    assert select(A, 3, include=index).indices.tolist()[:2] == [2, 1]


@pytest.mark.parametrize("word", [["fill"], np.array(["fill", "raise"]), None, 1])
def test_deficient_is_one_word(word):
    with pytest.raises(CsspError, match=r"deficient = .*'fill', 'truncate' or 'raise'"):
        select(A, 3, deficient=word)
    with pytest.raises(CsspError, match="deficient"):
        select_gram(K, 3, deficient=word)


def test_features_of_an_estimator_are_a_list():
    for features, words in (("a", r"pass \['a'\]"), ({"a", "b"}, "sorted"), (["z"], "no feature name")):
        with pytest.raises(CsspError, match=words):
            cssp.ColumnSubsetSelector(3, include=features).fit(FRAME)
