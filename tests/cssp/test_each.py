"""Stopping when every column is explained: against the definition, one pick at a time."""

import numpy as np
import pytest
import scipy.sparse as sp
from optional import torch

import cssp
from cssp import METHODS, CsspError, each, select

rng = np.random.default_rng(0)
A = (
    (rng.standard_normal((60, 50)) * 0.8 ** np.arange(50))
    @ rng.standard_normal((50, 90))
    * np.logspace(0, 3, 90)
)
NESTED = [name for name, row in METHODS.items() if row.nested]


def shares(X, picks):
    Q = np.linalg.qr(X[:, picks])[0]
    return np.linalg.norm(X - Q @ (Q.T @ X), axis=0) / np.linalg.norm(X, axis=0)


@pytest.mark.parametrize("method", NESTED)
@pytest.mark.parametrize("tol_each", [0.5, 0.03])
def test_it_ends_at_the_first_pick_that_explains_every_column(method, tol_each, monkeypatch):
    monkeypatch.setattr(each, "FIRST", 2)  # several runs, each of twice as many picks
    sel = select(A, method=method, tol_each=tol_each, rng=5)
    k = sel.k
    assert shares(A, sel.indices).max() <= tol_each < shares(A, sel.indices[:-1]).max()
    assert sel.indices.tolist() == select(A, k, method, rng=5).indices.tolist()
    assert sel.relative_error < tol_each
    if not METHODS[method].deterministic:
        assert sel.certificate().factor is None


@pytest.mark.parametrize("make", [torch.as_tensor, sp.csc_array])
def test_other_storages(make):
    assert select(make(A), tol_each=0.1).indices.tolist() == select(A, tol_each=0.1).indices.tolist()


def test_with_k_weights_included_columns_and_a_batch():
    assert select(A, 4, tol_each=0.1).k == 4
    assert select(A, 60, tol_each=0.5).k == select(A, tol_each=0.5).k
    w = np.linspace(1, 50, 90)
    assert select(A, weights=w, tol_each=0.1).indices.tolist() == select(A * w, tol_each=0.1).indices.tolist()
    first = select(A, include=[7, 3], tol_each=0.2)
    assert first.indices[:2].tolist() == [7, 3]
    assert shares(A, first.indices).max() <= 0.2 < shares(A, first.indices[:-1]).max()
    B = np.random.default_rng(1).standard_normal(A.shape)
    both = select(np.stack([A, B]), tol_each=0.5)
    assert both.k.tolist() == [select(X, tol_each=0.5).k for X in (A, B)]
    whole = select(A[:, :3] @ np.ones((3, 4)), tol_each=1e-3)
    assert whole.k == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"tol": 0.1}, "tol = 0.1 and tol_each = 0.2: expected one of the two"),
        ({"method": "strong_rrqr"}, "'strong_rrqr' cannot honour tol_each.*methods that can: 'residual'"),
        ({"tol_each": 1.5}, r"tol_each = 1.5: expected a number in \(0, 1\)"),
        ({"tol_each": True}, "tol_each = True"),
    ],
)
def test_what_is_refused(arguments, words):
    with pytest.raises(CsspError, match=words):
        select(A, **{"tol_each": 0.2} | arguments)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("random_state", "pass rng=random_state"),
        ("seed", "pass rng=seed"),
        ("n_components", "pass k=n_components"),
        ("center", r"pass A - A.mean\(axis=0\)"),
        ("explained_variance", r"pass tol=math\.sqrt\(1 - explained_variance\)"),
        ("frobnicate", "unknown to method 'residual'; its options"),
    ],
)
def test_words_of_other_libraries_are_answered_with_ours(option, words):
    with pytest.raises(cssp.UnknownNameError, match=words):
        select(A, 3, **{option: 1})
