"""Greedy MAP inference without a fixed size (``tol_max=1``): against determinants, and against all subsets."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import cssp
from cssp import (
    METHODS,
    AtMost,
    ColumnSubsetSelector,
    CsspError,
    LandmarkSelector,
    SampleSelector,
    each,
    select,
    select_gram,
)

NESTED = [name for name, row in METHODS.items() if row.nested]


def log_det(L, S):
    return np.linalg.slogdet(L[np.ix_(S, S)])[1] if len(S) else 0.0


def greedy_map(L, among=None, start=()):
    """The definition: add what raises log det L_S most, as long as it is raised; one index at least."""
    S, left = list(start), set(range(len(L)) if among is None else among) - set(start)
    while left:
        j = max(sorted(left), key=lambda j: log_det(L, [*S, j]))
        if S and log_det(L, [*S, j]) <= log_det(L, S):
            break
        S.append(j)
        left.remove(j)
    return S


def factors(seed, n=7, m=9):
    """A with residual norms on both sides of 1."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((m, n)) * rng.uniform(0.2, 1.0, n)


@pytest.mark.parametrize("method", ["residual", "pivoted_qr"])
def test_the_picks_are_those_of_determinants(method, monkeypatch):
    monkeypatch.setattr(each, "FIRST", 2)
    sizes = set()
    for seed in range(30):
        A = factors(seed)
        S = greedy_map(A.T @ A)
        assert select(A, method=method, tol_max=1).indices.tolist() == S
        sizes.add(len(S))
    assert len(sizes) > 3


def test_of_a_kernel_and_in_other_storages():
    for seed in range(30):
        A = factors(seed)
        S = greedy_map(A.T @ A)
        sel = select_gram(A.T @ A, tol_max=1)
        assert (sel.indices.tolist(), sel.rank, sel.k) == (S, len(S), len(S))
        assert select(torch.as_tensor(A), tol_max=1.0).indices.tolist() == S
        assert select(sp.csc_array(A), tol_max=1.0).indices.tolist() == S


def test_it_is_a_local_maximum_and_never_above_all_subsets():
    exact = 0
    for seed in range(20):
        A = factors(seed)
        L = A.T @ A
        S = select_gram(L, tol_max=1).indices.tolist()
        best = max(log_det(L, T) for k in range(8) for T in itertools.combinations(range(7), k))
        assert log_det(L, S) <= best + 1e-12
        if len(S) > 1:
            assert all(log_det(L, [*S, j]) <= log_det(L, S) + 1e-12 for j in range(7) if j not in S)
            assert log_det(L, S) > log_det(L, S[:-1])
        exact += abs(log_det(L, S) - best) < 1e-9
    assert exact >= 10
    L = np.diag([3.0, 0.5, 1.5, 0.9, 2.0])  # independent: the best set is known
    assert select_gram(L, tol_max=1).indices.tolist() == [0, 4, 2]
    assert select(np.sqrt(L), tol_max=1).indices.tolist() == [0, 4, 2]


def test_weights_are_qualities_and_scales_do_not_matter():
    A, w = factors(3), np.array([2.0, 0.1, 1, 3, 1, 0.5, 1])
    S = greedy_map(w[:, None] * (A.T @ A) * w)
    assert select(A, weights=w, tol_max=1).indices.tolist() == S
    assert select_gram(A.T @ A, weights=w, tol_max=1).indices.tolist() == S
    for power in (-300, 300):
        small = np.ldexp(A, power)
        assert select(small, tol_max=np.ldexp(1.0, power)).indices.tolist() == greedy_map(A.T @ A)
    assert select(A * 1e-3, tol_max=1).indices.tolist() == select(A, 1).indices.tolist()  # one pick at least


def test_included_excluded_constrained_and_at_most_k():
    for seed in range(10):
        A = factors(seed, n=9)
        L = A.T @ A
        S = greedy_map(L, range(2, 9), start=[4])
        assert select(A, include=[4], exclude=[0, 1], tol_max=1).indices.tolist() == S
        assert select_gram(L, include=[4], exclude=[0, 1], tol_max=1).indices.tolist() == S
        short = greedy_map(L)[:2]
        assert select(A, 2, tol_max=1).indices.tolist() == short
        assert select_gram(L, 2, tol_max=1).indices.tolist() == short
    A = np.diag([3.0, 2.5, 2.0, 1.5, 0.5])
    labels = AtMost(["x", "x", "y", "y", "z"], 1)
    for k in (None, 4):
        assert select_gram(A**2, k, constraint=labels, tol_max=1).indices.tolist() == [0, 2]


@pytest.mark.parametrize("method", NESTED)
@pytest.mark.parametrize("bound", [1.5, 0.2])
def test_other_rules_end_at_the_first_pick_that_leaves_all_residuals_small(method, bound, monkeypatch):
    monkeypatch.setattr(each, "FIRST", 2)
    A = factors(1, n=20, m=12)
    sel = select(A, method=method, tol_max=bound, rng=0)
    assert sel.residuals.max() <= bound < select(A, sel.k - 1, method, rng=0).residuals.max()
    assert sel.indices.tolist() == select(A, sel.k, method, rng=0).indices.tolist()


def test_the_estimators_end_there_too():
    """Without a number none is assumed; the diagonal of a linear kernel holds squares."""
    sizes = set()
    for seed in range(20):
        A = factors(seed)
        S = greedy_map(A.T @ A)
        assert ColumnSubsetSelector(tol_max=1).fit(A).indices_.tolist() == S
        assert SampleSelector(tol_max=1).fit(A.T).indices_.tolist() == S
        scaled = LandmarkSelector(kernel="linear", tol_max=4.0).fit(2 * A.T)
        assert scaled.component_indices_.tolist() == S
        kernel = LandmarkSelector(kernel=np.dot, tol_max=4.0).fit(2 * A.T)
        assert kernel.component_indices_.tolist() == S
        assert ColumnSubsetSelector(1, tol_max=1).fit(A).indices_.tolist() == S[:1]
        sizes.add(len(S))
    assert len(sizes) > 3
    X = factors(0, n=30)
    gauss = LandmarkSelector(tol_max=0.5).fit(X)
    L = np.exp(-((X[:, None] - X[None]) ** 2).sum(-1) / X.shape[1])
    assert gauss.component_indices_.tolist() == greedy_map(L / 0.5)
    w = np.linspace(0.5, 2, 7)
    weighted = ColumnSubsetSelector(tol_max=1, feature_weights=w).fit(factors(3))
    assert weighted.indices_.tolist() == greedy_map((factors(3) * w).T @ (factors(3) * w))


@pytest.mark.parametrize(
    ("estimator", "words"),
    [
        (ColumnSubsetSelector(tol_max=1, tol=0.1), "tol = 0.1 and tol_max = 1: expected one of the two"),
        (
            ColumnSubsetSelector(tol_max=1, explained_variance=0.75),
            "explained_variance = 0.75 and tol_max = 1",
        ),
        (SampleSelector(tol_max=-1), "tol_max = -1: expected one positive number"),
        (LandmarkSelector(tol_max=0), "tol_max = 0: expected one positive number"),
        (LandmarkSelector(tol_max=-1, kernel="linear"), "tol_max = -1: expected one positive number"),
    ],
)
def test_what_the_estimators_refuse(estimator, words):
    with pytest.raises(CsspError, match=words):
        estimator.fit(factors(0))


def test_a_batch_ends_item_by_item():
    A = np.stack([factors(0), factors(1)])
    sel = select(A, tol_max=1)
    assert sel.k.tolist() == [len(greedy_map(X.T @ X)) for X in A]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"tol": 0.1}, "tol = 0.1 and tol_max = 1: expected one of the two"),
        ({"tol_each": 0.1}, "tol_each = 0.1 and tol_max = 1: expected one of the two"),
        ({"method": "volume"}, "'volume' cannot honour tol_max.*'residual'"),
        ({"tol_max": 0}, "tol_max = 0: expected one positive number"),
        ({"tol_max": np.nan}, "tol_max = nan: expected one positive number"),
        ({"target": np.ones((9, 1)), "method": "greedy"}, "tol_max with target: expected tol or tol_each"),
        ({"costs": np.ones(7)}, "tol_max with costs: expected tol"),
    ],
)
def test_refusals(arguments, words):
    with pytest.raises(CsspError, match=words):
        select(factors(0), **{"tol_max": 1} | arguments)


def test_refusals_of_a_kernel():
    L = np.eye(3)
    with pytest.raises(CsspError, match=r"tol = 0\.1 and tol_max = 1\.0: expected one of the two"):
        select_gram(L, tol=0.1, tol_max=1)
    with pytest.raises(CsspError, match="tol_max = -1: expected one positive number"):
        select_gram(L, tol_max=-1)


@pytest.mark.parametrize("tol_max", [0, -1.0, True, np.inf, np.nan, "a"])
def test_a_largest_residual_that_is_no_positive_number_is_refused(tol_max):
    with pytest.raises(cssp.CsspError, match=r"tol_max = .*: expected one positive number"):
        cssp.select(np.eye(4), tol_max=tol_max)


@pytest.mark.parametrize("name", ["tol_each", "tol_max"])
def test_two_ends_are_named_as_they_were_given(name):
    selector = cssp.ColumnSubsetSelector(explained_variance=0.9, **{name: 0.1})
    with pytest.raises(
        cssp.CsspError, match=f"explained_variance = 0.9 and {name} = 0.1: expected one of the two"
    ):
        selector.fit(np.eye(4))
