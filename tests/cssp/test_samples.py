"""Samples to keep: scikit-learn's own checks, the same rows as select, and landmarks that are given."""

import numpy as np
import pandas
import polars
import pytest
import scipy.sparse
from optional import torch
from sklearn.base import clone
from sklearn.datasets import load_digits, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from cssp import METHODS, CsspError, LandmarkSelector, RankDeficientWarning, SampleSelector, select

X, Y = load_wine(return_X_y=True)
X = StandardScaler().fit_transform(X)


@pytest.mark.filterwarnings("ignore::cssp.RankDeficientWarning", "ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([SampleSelector(), SampleSelector(2, method="random_pivot")])
def test_what_scikit_learn_asks_of_estimators(estimator, check):
    check(estimator)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "exact"])
def test_the_samples_are_those_of_select(method):
    expected = select(X.T, 5, method, rng=3)
    selector = SampleSelector(5, method=method, random_state=3)
    kept, labels = selector.fit_resample(X, Y)
    np.testing.assert_array_equal(selector.indices_, expected.indices)
    np.testing.assert_array_equal(selector.support_, expected.mask())
    np.testing.assert_array_equal(kept, X[np.sort(expected.indices)])
    np.testing.assert_array_equal(labels, Y[np.sort(expected.indices)])
    T = selector.selection_.coefficients()
    np.testing.assert_allclose(T @ X[selector.indices_], expected.reconstruct().T, atol=1e-11)
    np.testing.assert_array_equal(clone(selector).fit(X).indices_, expected.indices)


def test_how_many():
    for wanted, number in ((1, 1), (0.05, 9), (None, 13)):
        assert SampleSelector(wanted).fit(X).support_.sum() == number
    assert SampleSelector().fit(X[:7]).support_.all()
    near = SampleSelector(tol=0.3).fit(X)
    assert near.selection_.relative_error <= 0.3
    assert SampleSelector(len(near.indices_) - 1).fit(X).selection_.relative_error > 0.3
    for wrong in (0, 179, 1.5, "all"):
        with pytest.raises(CsspError, match="n_samples_to_select"):
            SampleSelector(wrong).fit(X)
    with pytest.warns(RankDeficientWarning, match="chosen rows are independent"):
        SampleSelector(20).fit(X)


def test_weights_count_samples_several_times():
    w = np.random.default_rng(0).integers(1, 4, len(X))
    found = SampleSelector(4, method="greedy").fit(X, sample_weight=w)
    repeated = np.repeat(np.arange(len(X)), w)
    error = np.linalg.norm(X[repeated] - X[repeated] @ np.linalg.pinv(X[found.indices_]) @ X[found.indices_])
    assert found.selection_.error == pytest.approx(error)
    with pytest.raises(CsspError, match="sample_weight"):
        SampleSelector(4).fit(X, sample_weight=-w)


def test_kinds_go_in_and_come_out():
    kept = np.flatnonzero(SampleSelector(4).fit(X).support_)
    for make in (pandas.DataFrame, polars.DataFrame, scipy.sparse.csc_array, torch.as_tensor):
        found, labels = SampleSelector(4).fit_resample(make(X), Y.tolist())
        assert type(found) is type(make(X)) or scipy.sparse.issparse(found)
        np.testing.assert_array_equal(
            found.toarray() if scipy.sparse.issparse(found) else np.asarray(found), X[kept]
        )
        assert list(labels) == Y[kept].tolist()
    frame = pandas.DataFrame(X, index=[f"s{i}" for i in range(len(X))])
    assert SampleSelector(4).fit_resample(frame).index.tolist() == [f"s{i}" for i in kept]
    with pytest.raises(CsspError, match=r"y is refused: .*inconsistent numbers of samples"):
        SampleSelector(4).fit_resample(X, Y[:5])


def test_samples_that_are_given_come_first():
    found = SampleSelector(5, include=[7, 3], exclude=[0]).fit(X)
    expected = select(X.T, 5, include=[7, 3], exclude=[0]).indices
    np.testing.assert_array_equal(found.indices_, expected)
    for kernel in ("rbf", "linear"):
        landmarks = LandmarkSelector(5, kernel=kernel, include=[7, 3], exclude=[0]).fit(X)
        assert landmarks.component_indices_[:2].tolist() == [7, 3]
        assert 0 not in landmarks.component_indices_
    free = LandmarkSelector(5).fit(X).component_indices_
    assert 0 in free or 7 not in free[:2]


def test_a_small_coreset_trains_nearly_as_well_as_all_samples():
    data, y = load_digits(return_X_y=True)
    train, test = slice(0, 1200), slice(1200, None)
    with pytest.warns(RankDeficientWarning, match="only 61 of 400 chosen rows"):  # of 64 pixels
        kept, labels = SampleSelector(400, method="farthest").fit_resample(data[train], y[train])
    some = LogisticRegression(max_iter=5000).fit(kept, labels).score(data[test], y[test])
    every = LogisticRegression(max_iter=5000).fit(data[train], y[train]).score(data[test], y[test])
    assert some > every - 0.05


def test_the_selection_has_the_labels_of_the_samples():
    frame = pandas.DataFrame(
        np.random.default_rng(0).standard_normal((9, 4)), index=[f"p{i}" for i in range(9)]
    )
    chosen = SampleSelector(3).fit(frame)
    assert chosen.selection_.names == [f"p{i}" for i in chosen.indices_]
    assert SampleSelector(3).fit(frame.to_numpy()).selection_.names is None
