"""The feature selector's conditions: shares of variance, one tolerance per feature, groups, costs; what a fit leaves behind."""

import pickle

import matplotlib as mpl
import numpy as np
import pandas
import pytest
from sklearn.base import clone
from sklearn.datasets import load_wine
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import cssp
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


def test_groups_costs_and_constraints_are_those_of_select():
    labels = [name[:3] for name in NAMES]
    price = dict(zip(NAMES, np.linspace(1, 3, 13), strict=True))
    shuffled = {name: price[name] for name in reversed(NAMES)}  # values go by name, not by place
    e = ColumnSubsetSelector(3, groups=labels).fit(FRAME)
    sel = select(X, 3, groups=labels)
    np.testing.assert_array_equal(e.indices_, sel.indices)
    assert e.selection_.groups == sel.groups
    assert (
        ColumnSubsetSelector(0.5, groups=dict(zip(NAMES, labels, strict=True))).fit(FRAME).selection_.groups
        == select(X, round(0.5 * len(set(labels))), groups=labels).groups
    )
    pairs = [j // 2 for j in range(13)]  # seven groups, of which a share is counted
    half = ColumnSubsetSelector(0.5, groups=pairs).fit(X).selection_
    assert half.groups == select(X, 4, groups=pairs).groups
    assert ColumnSubsetSelector(groups=pairs).fit(X).selection_.groups == half.groups[:3]
    e = ColumnSubsetSelector(costs=shuffled, budget=8).fit(FRAME)
    sel = select(X, costs=list(price.values()), budget=8)
    np.testing.assert_array_equal(e.indices_, sel.indices)
    assert sum(price[name] for name in e.get_feature_names_out()) == pytest.approx(e.selection_.cost)
    assert e.selection_.cost <= 8
    one = ColumnSubsetSelector(3, constraint=cssp.AtMost(labels, 1)).fit(FRAME)
    np.testing.assert_array_equal(one.indices_, select(X, 3, constraint=cssp.AtMost(labels, 1)).indices)
    assert len({labels[j] for j in one.indices_}) == 3


def test_mappings_name_every_feature():
    whole = dict.fromkeys(NAMES, 1.0)
    for wrong, said in (
        ({**whole, "alcool": 1.0}, "'alcool', which is no feature.*near to it: 'alcohol'"),
        (dict.fromkeys(NAMES[1:], 1.0), "costs has no value for 'alcohol'"),
    ):
        with pytest.raises(CsspError, match=said):
            ColumnSubsetSelector(costs=wrong, budget=3).fit(FRAME)
    with pytest.raises(CsspError, match="X has no feature names"):
        ColumnSubsetSelector(costs=whole, budget=3).fit(X)


def test_conditions_in_a_pipeline_and_a_search():
    chain = make_pipeline(
        StandardScaler(), ColumnSubsetSelector(costs=np.linspace(1, 3, 13)), LogisticRegression(max_iter=500)
    ).set_output(transform="pandas")
    grid = {"columnsubsetselector__budget": [2.0, 8.0]}
    search = GridSearchCV(chain, grid, cv=3).fit(WINE.data, WINE.target)
    assert search.best_params_ == {"columnsubsetselector__budget": 8.0}
    kept = search.best_estimator_[:-1].transform(WINE.data)
    assert list(kept.columns) == list(search.best_estimator_[1].get_feature_names_out())
    assert clone(search.best_estimator_[1]).budget == 8.0


@pytest.mark.parametrize("how", ["rows", "pairwise"])
def test_missing_values_are_dealt_with_in_fit_and_passed_on_in_transform(how):
    gaps = np.where(np.random.default_rng(0).random(X.shape) < 0.02, np.nan, X)
    with pytest.raises(CsspError, match="X is refused: pass missing='rows' or missing='pairwise'"):
        ColumnSubsetSelector(4).fit(gaps)
    e = ColumnSubsetSelector(4, missing=how).fit(gaps)
    sel = select(gaps, 4, missing=how)
    np.testing.assert_array_equal(e.indices_, sel.indices)
    assert e.selection_.missing == sel.missing
    np.testing.assert_array_equal(e.transform(gaps), gaps[:, np.sort(sel.indices)])
    assert np.isfinite(e.coefficients_).all()
    with pytest.raises(CsspError, match="NaN"):
        ColumnSubsetSelector(4).fit(gaps)
