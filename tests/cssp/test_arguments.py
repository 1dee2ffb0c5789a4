"""Each wrong argument: one CsspError that names it, says what came, what is allowed, and the likely fix."""

import array_api_strict
import numpy as np
import pytest
from optional import torch

from cssp import METHODS, CsspError, select
from cssp.errors import ArgumentError, UnknownNameError, UnsupportedError

A = np.random.default_rng(0).standard_normal((6, 8))
BATCH = np.stack([A, A + 1, A + 2])
NAN, INF = A.copy(), A.copy()
NAN[2, 5] = NAN[3, 7] = np.nan
INF[0, 3] = -np.inf


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, ["neither k nor tol"]),
        ({"k": 0}, ["k = 0", "at least 1"]),
        ({"k": -2}, ["k = -2", "at least 1"]),
        ({"k": 9}, ["k = 9", "only 8 of 8"]),
        ({"k": 2.0}, ["k = 2.0", "float", "int(k)"]),
        ({"k": True}, ["k = True", "bool"]),
        ({"k": np.bool_(True)}, ["bool", "integer"]),
        ({"k": "3"}, ["k = '3'", "integer"]),
        ({"k": [2]}, ["k has shape (1,)"]),
        ({"tol": 0}, ["tol = 0", "(0, 1]"]),
        ({"tol": 1.5}, ["tol = 1.5", "(0, 1]"]),
        ({"tol": float("nan")}, ["tol = nan"]),
        ({"tol": True}, ["tol = True", "bool"]),
        ({"tol": "small"}, ["tol = 'small'"]),
        ({"tol": [0.1, 0.2]}, ["tol", "one number"]),
        ({"k": 2, "weights": np.ones(7)}, ["weights has shape (7,)", "(8,)"]),
        ({"k": 2, "weights": -np.arange(8.0)}, ["weights", "column 1", "-1.0"]),
        ({"k": 2, "weights": [1, 1, np.nan, 1, 1, 1, 1, 1]}, ["weights", "column 2", "nan", "exclude"]),
        ({"k": 2, "weights": [1, 1, 1, np.inf, 1, 1, 1, 1]}, ["weights", "column 3", "inf"]),
        ({"k": 2, "weights": ["a"] * 8}, ["weights has dtype"]),
        ({"k": 2, "weights": np.ones(8) * 1j}, ["weights has dtype complex"]),
        ({"k": 2, "include": [8]}, ["include contains 8", "0 to 7"]),
        ({"k": 2, "include": [-1]}, ["include contains -1"]),
        ({"k": 2, "include": [1, 1]}, ["include contains column 1 twice"]),
        ({"k": 2, "include": [1, 2, 3]}, ["include has 3 columns", "k = 2"]),
        ({"k": 2, "include": [1], "exclude": [0, 1]}, ["include and exclude", "column 1"]),
        ({"k": 2, "exclude": [0.5]}, ["exclude has dtype float64"]),
        ({"k": 2, "exclude": np.zeros(8, dtype=bool)}, ["exclude is a mask", "flatnonzero"]),
        ({"k": 2, "exclude": [[0], [1]]}, ["exclude has shape (2, 1)"]),
        ({"k": 8, "exclude": [3]}, ["k = 8", "only 7 of 8"]),
        ({"tol": 0.5, "exclude": range(8)}, ["exclude", "no column"]),
        ({"k": 2, "valid": np.ones(8)}, ["valid has dtype float64", "!= 0"]),
        ({"k": 2, "valid": np.ones(7, dtype=bool)}, ["valid has shape (7,)"]),
        ({"k": 2, "valid": np.zeros(8, dtype=bool)}, ["valid", "all False"]),
        ({"k": 6, "valid": np.arange(8) < 5}, ["k = 6", "only 5 of 8", "valid"]),
        ({"k": 2, "valid": np.arange(8) < 5, "include": [6]}, ["include", "column 6", "padding"]),
        ({"k": 2, "deficient": "ignore"}, ["deficient = 'ignore'", "'truncate'"]),
        ({"k": 2, "rng": "seed"}, ["rng = 'seed'", "Generator"]),
        ({"k": 2, "rng": -1}, ["rng = -1", "negative"]),
        ({"k": 2, "rng": True}, ["rng = True"]),
        ({"k": 2, "rng": np.random.RandomState(0)}, ["rng", "RandomState"]),
        ({"k": 2, "method": "residul"}, ["'residul'", "did you mean 'residual'"]),
        ({"k": 2, "method": "zzz"}, ["'zzz'", "'greedy'", "'uniform'"]),
        ({"k": 2, "method": None}, ["method = None", "'residual'"]),
        ({"k": 2, "method": "uniform", "ranks": 3}, ["'ranks'", "'uniform'", "no options"]),
        ({"k": 2, "ranks": 3}, ["'ranks'", "'residual'", "'speculate'"]),
        ({"k": 2, "speculate": 1}, ["speculate = 1", "None, True or False"]),
        ({"k": 2, "method": "leverage_top", "f": 3}, ["'f'", "'leverage_top'", "'rank'"]),
        ({"k": 2, "method": "leverage_top", "rank": 0}, ["rank = 0", "between 1 and 6"]),
        ({"k": 2, "method": "leverage_top", "rank": 2.5}, ["rank = 2.5"]),
        ({"k": 2, "method": "greedy", "target": np.ones(6)}, ["target has shape (6,)", "reshape(-1, 1)"]),
        ({"k": 2, "method": "greedy", "target": np.ones((5, 2))}, ["target has shape (5, 2)", "(..., 6, p)"]),
        ({"k": 2, "method": "greedy", "target": np.ones((6, 2)) * 1j}, ["target is complex"]),
        ({"k": 2, "method": "greedy", "target": np.full((6, 2), np.nan)}, ["target has NaN in column 0"]),
        ({"k": 2, "method": "greedy", "target": torch.ones(6, 2)}, ["target is a Tensor", "ndarray"]),
    ],
)
def test_wrong_arguments(arguments, words):
    with pytest.raises(CsspError) as caught:
        select(A, **arguments)
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (A[0], ["A has shape (8,)", "reshape(1, -1)"]),
        (3.0, ["A has shape ()"]),
        (np.ones((0, 4)), ["A has shape (0, 4)", "at least one"]),
        (np.ones((4, 0)), ["A has shape (4, 0)"]),
        ([[1, 2], [3]], ["A is not a matrix"]),
        (np.array([["a", "b"]]), ["A has dtype <U1"]),
        (np.array([[None, 1]]), ["A has dtype object"]),
        (np.array([["2020-01-01"]], dtype="datetime64[D]"), ["dtype datetime64"]),
        (np.ma.masked_array(A, mask=A > 1), ["masked array", "valid"]),
        (torch.as_tensor(A).to_sparse(), ["layout", "to_dense"]),
        (NAN, ["A has NaN in column 5;", "valid"]),
        (INF, ["A has Inf in column 3"]),
        (torch.as_tensor(NAN), ["A has NaN in column 5"]),
        (torch.as_tensor(INF).bfloat16(), ["A has Inf in column 3"]),
        (array_api_strict.asarray(NAN), ["A has NaN in column 5"]),
        (np.asfortranarray(NAN), ["A has NaN in column 5"]),
        (NAN + 1j, ["A has NaN in column 5"]),
        (1j * np.where(np.isfinite(INF), INF, 0) + np.where(np.isfinite(INF), 0, 1j * np.inf), ["column 3"]),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_wrong_matrices(matrix, words):
    with pytest.raises(CsspError) as caught:
        select(matrix, 1)
    for word in words:
        assert word in str(caught.value), str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"k": [1, 2]}, ["k has shape (2,)", "(3,)"]),
        ({"k": [1, 0, 2]}, ["k = 0"]),
        ({"k": [1, 2, 9]}, ["k = 9 of batch item 2", "only 8"]),
        ({"k": [1.0, 2.0, 3.0]}, ["k has dtype float64"]),
        ({"k": 2, "deficient": "truncate"}, ["truncate", "2-D"]),
        ({"k": 2, "weights": np.ones((2, 8))}, ["weights has shape (2, 8)", "(3, 8)"]),
        (
            {"k": 2, "weights": np.where(np.arange(24).reshape(3, 8) == 13, -1, 1)},
            ["column 5 of batch item 1"],
        ),
        ({"k": 5, "valid": np.arange(8) < [[8], [4], [6]]}, ["k = 5 of batch item 1", "only 4 of 8"]),
    ],
)
def test_wrong_arguments_of_a_batch(arguments, words):
    with pytest.raises(CsspError) as caught:
        select(BATCH, **arguments)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_a_bad_column_is_named_with_its_batch_item():
    X = BATCH.copy()
    X[2, 1, 6] = np.nan
    with pytest.raises(ArgumentError, match="NaN in column 6 of batch item 2"):
        select(X, 2)
    with pytest.raises(ArgumentError, match=r"NaN in column 6 of batch item \(0, 2\)"):
        select(X[None], 2)
    valid = np.ones((3, 8), dtype=bool)
    valid[2, :3] = False
    with pytest.raises(ArgumentError, match="column 6 of batch item 2"):
        select(X, 2, valid=valid)


def test_refusals_name_those_that_can():
    with pytest.raises(UnsupportedError, match="'residual'") as caught:
        select(A, tol=0.1, method="leverage_top")
    able = {name for name, row in METHODS.items() if "tol" in row.supports}
    assert all(repr(name) in str(caught.value) for name in able)
    with pytest.raises(UnknownNameError):
        select(A, 2, "no such thing")


def test_integers_of_other_kinds_are_integers():
    expected = select(A, 3).indices
    for k in (np.int32(3), np.uint8(3), np.array(3), torch.tensor(3)):
        np.testing.assert_array_equal(select(A, k).indices, expected)
    assert select(BATCH, torch.tensor([1, 2, 3])).k.tolist() == [1, 2, 3]
    assert select(A, 3, "uniform", rng=np.int64(4)).k == 3
