"""The feature selector's conditions: shares of variance, one tolerance per feature, groups, costs; what a fit leaves behind."""

import pickle

import matplotlib as mpl
import numpy as np
import pandas
import pytest
from sklearn.base import clone
from sklearn.datasets import load_wine
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from cssp import ColumnSubsetSelector, CsspError, LandmarkSelector, Selection, select, select_gram

mpl.use("Agg")
WINE = load_wine(as_frame=True)
FRAME = pandas.DataFrame(StandardScaler().fit_transform(WINE.data), columns=WINE.data.columns)
X, NAMES = FRAME.to_numpy(), list(FRAME.columns)


def test_explained_variance_is_that_of_pca():
    e = ColumnSubsetSelector(explained_variance=0.8).fit(X)
    kept = X[:, np.sort(e.indices_)]
    rebuilt = kept @ np.linalg.lstsq(kept, X, rcond=None)[0]
    explained = 1 - (X - rebuilt).var(axis=0).sum() / X.var(axis=0).sum()
    assert e.score(X) == pytest.approx(explained)
    assert explained >= 0.8
    assert ColumnSubsetSelector(e.n_features_ - 1).fit(X).score(X) < 0.8
    assert PCA(0.8).fit(X).n_components_ <= e.n_features_ < 13
    assert ColumnSubsetSelector(0.8).fit(X).n_features_ == 10  # a share of the features
    assert ColumnSubsetSelector(3, explained_variance=0.8).fit(X).n_features_ == 3


def test_what_is_no_share_of_variance():
    for wrong in (1.0, -0.1, 95, True, "95%"):
        with pytest.raises(CsspError, match=r"explained_variance = .*\[0, 1\)"):
            ColumnSubsetSelector(explained_variance=wrong).fit(X)
    with pytest.raises(CsspError, match="one of the two"):
        ColumnSubsetSelector(explained_variance=0.9, tol=0.3).fit(X)
    with pytest.raises(CsspError, match="for a share of the variance pass explained_variance"):
        ColumnSubsetSelector("95%").fit(X)


def test_every_feature_is_explained():
    e = ColumnSubsetSelector(tol_each=0.7).fit(X)
    assert np.all(e.selection_.residuals <= 0.7 * np.linalg.norm(X, axis=0))
    np.testing.assert_array_equal(e.indices_, select(X, tol_each=0.7).indices)
    assert ColumnSubsetSelector(2, tol_each=0.7).fit(X).n_features_ == 2


def test_the_selection_stays_and_can_be_saved_and_drawn(tmp_path):
    e = ColumnSubsetSelector(4).fit(FRAME)
    assert isinstance(e.selection_, Selection)
    assert e.selection_.names == [NAMES[j] for j in e.indices_]
    np.testing.assert_allclose(e.errors_, select(X, 4).errors)
    e.selection_.save(tmp_path / "s.json")
    assert Selection.load(tmp_path / "s.json").names == e.selection_.names
    assert e.plot().has_data()
    again = pickle.loads(pickle.dumps(e))
    np.testing.assert_allclose(again.errors_, e.errors_)
    assert again.selection_.names == e.selection_.names
    fresh = clone(e)
    assert not hasattr(fresh, "errors_")
    with pytest.raises(ValueError, match="not fitted"):
        fresh.plot()


def test_landmarks_that_are_given_come_first():
    e = LandmarkSelector(5, gamma=0.1, include=[7, 3]).fit(X)
    assert e.component_indices_[:2].tolist() == [7, 3]
    np.testing.assert_array_equal(
        e.component_indices_, select_gram("rbf", 5, X=X, gamma=0.1, include=[7, 3]).indices
    )
    linear = LandmarkSelector(5, kernel="linear", include=[7, 3]).fit(X)
    np.testing.assert_array_equal(linear.component_indices_, select(X.T, 5, include=[7, 3]).indices)
    with pytest.raises(CsspError, match="include"):
        LandmarkSelector(5, include=[178]).fit(X)
