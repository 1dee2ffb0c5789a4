"""The scikit-learn estimators: scikit-learn's own checks, pipelines, frames, arrays, real data."""

import io
import os
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pandas
import polars
import pytest
import scipy.sparse
import sklearn
from optional import BACKENDS, torch
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine
from sklearn.exceptions import NotFittedError
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics.pairwise import pairwise_kernels
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from cssp import (
    METHODS,
    ColumnSubsetSelector,
    CsspError,
    LandmarkSelector,
    RankDeficientWarning,
    select,
    select_gram,
)

DATA = {"iris": load_iris, "wine": load_wine, "cancer": load_breast_cancer, "diabetes": load_diabetes}


def data(name):
    return StandardScaler().fit_transform(DATA[name](return_X_y=True)[0])


@pytest.mark.filterwarnings("ignore::cssp.RankDeficientWarning", "ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks(
    [
        ColumnSubsetSelector(),
        ColumnSubsetSelector(2, method="greedy", target="regression"),
        ColumnSubsetSelector(1, method="volume"),
        ColumnSubsetSelector(1, missing="pairwise"),
        LandmarkSelector(),
        LandmarkSelector(2, kernel="linear", method="random_pivot"),
    ]
)
def test_what_scikit_learn_asks_of_estimators(estimator, check):
    check(estimator)


def test_its_checks_of_arrays_run_where_scipy_allows_them():
    """They are skipped unless SCIPY_ARRAY_API is set before SciPy is imported."""
    program = (
        "import cssp; from sklearn.utils.estimator_checks import check_estimator as check\n"
        "for e in (cssp.ColumnSubsetSelector(), cssp.LandmarkSelector(), cssp.SampleSelector()):\n"
        "    found = [r for r in check(e, on_skip=None, on_fail=None) if 'array_api' in r['check_name']]\n"
        "    print(sum(r['status'] == 'passed' for r in found), [r for r in found if r['status'] == 'failed'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env=os.environ | {"SCIPY_ARRAY_API": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        passed, failed = line.split(maxsplit=1)
        assert failed == "[]"
        # NumPy, strict on two devices, torch in two precisions, mixed, refused; more where there is a GPU
        assert int(passed) >= (7 if "torch" in BACKENDS else 4)


@pytest.mark.parametrize("method", METHODS)
def test_the_features_are_those_of_select(method):
    X = data("wine")
    s = select(X, 5, method, rng=3)
    e = ColumnSubsetSelector(5, method=method, random_state=3).fit(X)
    np.testing.assert_array_equal(e.indices_, s.indices)
    np.testing.assert_array_equal(e.get_support(), s.mask())
    np.testing.assert_array_equal(e.get_support(indices=True), np.sort(s.indices))
    np.testing.assert_array_equal(e.transform(X), X[:, np.sort(s.indices)])
    np.testing.assert_allclose(e.inverse_transform(e.transform(X)), s.reconstruct(), atol=1e-12)
    np.testing.assert_array_equal(e.inverse_transform(e.transform(X))[:, s.indices], X[:, s.indices])
    assert e.score(X) == pytest.approx(1 - s.relative_error**2)
    assert e.n_features_ == 5
    assert e.rank_ == 5


def test_how_many():
    X = data("wine")  # 13 features
    for wanted, count in (
        (1, 1),
        (13, 13),
        (1.0, 13),
        (0.25, 3),
        (0.2, 3),
        (1e-3, 1),
        (None, 6),
        (np.int64(4), 4),
    ):
        assert ColumnSubsetSelector(wanted).fit(X).n_features_ == count
    e = ColumnSubsetSelector(tol=0.3).fit(X)
    assert e.score(X) >= 1 - 0.3**2
    assert ColumnSubsetSelector(e.n_features_ - 1).fit(X).score(X) < 1 - 0.3**2
    assert ColumnSubsetSelector(2, tol=0.3).fit(X).n_features_ == 2
    assert ColumnSubsetSelector(12, tol=0.3).fit(X).n_features_ == e.n_features_
    for wrong in (0, 14, -1, 0.0, 1.5, float("nan"), True, "all"):
        with pytest.raises(CsspError, match="n_features_to_select"):
            ColumnSubsetSelector(wrong).fit(X)
    for wrong in (0, 179, 2.0):
        with pytest.raises(CsspError, match="n_components"):
            LandmarkSelector(wrong).fit(X)


def test_names_of_frames_come_in_and_go_out():
    X = data("iris")
    names = ["sepal length", "sepal width", "petal length", "petal width"]
    plain = ColumnSubsetSelector(2).fit(X)
    for frame, kind in (
        (pandas.DataFrame(X, columns=names), "pandas"),
        (polars.DataFrame(X, names), "polars"),
    ):
        e = ColumnSubsetSelector(2).set_output(transform=kind).fit(frame)
        assert e.feature_names_in_.tolist() == names
        kept = [names[j] for j in np.sort(plain.indices_)]
        assert e.get_feature_names_out().tolist() == kept
        out = e.transform(frame)
        assert type(out) is type(frame)
        assert list(out.columns) == kept
        np.testing.assert_array_equal(out.to_numpy(), plain.transform(X))
        np.testing.assert_allclose(e.inverse_transform(out), plain.inverse_transform(plain.transform(X)))
        forced = ColumnSubsetSelector(2, include=["petal width"], exclude=["petal length", 0]).fit(frame)
        assert [names[j] for j in forced.indices_] == ["petal width", "sepal width"]
        with pytest.raises(CsspError, match=r"include contains 'size'"):
            ColumnSubsetSelector(2, include=["size"]).fit(frame)
        features = LandmarkSelector(3).set_output(transform=kind).fit_transform(frame)
        assert type(features) is type(frame)
        assert list(features.columns) == ["landmarkselector0", "landmarkselector1", "landmarkselector2"]


@pytest.mark.parametrize("target", [None, "regression"])
def test_a_weight_is_a_number_of_copies(target):
    X, y = load_diabetes(return_X_y=True)
    X, y = X[:60], y[:60]
    w = np.arange(60) % 3
    e = ColumnSubsetSelector(4, method="greedy", target=target)
    one = clone(e).fit(X, y, sample_weight=w)
    other = clone(e).fit(np.repeat(X, w, axis=0), np.repeat(y, w))
    np.testing.assert_array_equal(one.indices_, other.indices_)
    np.testing.assert_allclose(one.coefficients_, other.coefficients_, atol=1e-10)
    assert one.score(X, sample_weight=w) == pytest.approx(other.score(np.repeat(X, w, axis=0)))
    with pytest.raises(ValueError, match="sample_weight"):
        e.fit(X, y, sample_weight=-w)


def test_supervised_choice():
    X, y = load_diabetes(return_X_y=True)
    e = ColumnSubsetSelector(3, method="greedy", target="regression").fit(X, y)
    np.testing.assert_array_equal(e.indices_, select(X, 3, "greedy", target=y[:, None]).indices)
    both = ColumnSubsetSelector(3, method="greedy", target="regression").fit(X, np.c_[y, X[:, 4]])
    np.testing.assert_array_equal(both.indices_, select(X, 3, "greedy", target=np.c_[y, X[:, 4]]).indices)
    # inverse_transform still rebuilds X, not y
    S = np.sort(e.indices_)
    best = X[:, S] @ np.linalg.lstsq(X[:, S], X, rcond=None)[0]
    np.testing.assert_allclose(e.inverse_transform(e.transform(X)), best, atol=1e-12)
    plain = make_pipeline(ColumnSubsetSelector(3, method="greedy"), LinearRegression())
    aimed = make_pipeline(e, LinearRegression())
    assert cross_val_score(aimed, X, y).mean() > cross_val_score(plain, X, y).mean() + 0.05

    X, y = data("wine"), load_wine().target
    labels = np.array(["red", "white", "rosé"])[y]
    one, other = (
        ColumnSubsetSelector(3, method="greedy", target="classification").fit(X, c) for c in (y, labels)
    )
    indicator = (y[:, None] == np.arange(3)).astype(float)
    np.testing.assert_array_equal(one.indices_, select(X, 3, "greedy", target=indicator).indices)
    np.testing.assert_array_equal(other.indices_, one.indices_)
    with pytest.raises(CsspError, match=r"target.*'greedy'"):
        ColumnSubsetSelector(3, target="regression").fit(X, y)
    with pytest.raises(CsspError, match="requires y"):
        ColumnSubsetSelector(3, method="greedy", target="regression").fit(X)
    with pytest.raises(CsspError, match="expected None, 'regression' or 'classification'"):
        ColumnSubsetSelector(3, method="greedy", target=True).fit(X, y)


def test_weights_of_features():
    X, w = data("wine"), np.linspace(0.1, 1, 13)
    e = ColumnSubsetSelector(4, feature_weights=w).fit(X)
    np.testing.assert_array_equal(e.indices_, select(X, 4, weights=w).indices)
    S = np.sort(e.indices_)
    np.testing.assert_allclose(
        e.inverse_transform(X[:, S]), X[:, S] @ np.linalg.lstsq(X[:, S], X, rcond=None)[0], atol=1e-12
    )


def test_dependent_features():
    X = np.repeat(data("iris"), 2, axis=1)
    with pytest.warns(RankDeficientWarning):
        e = ColumnSubsetSelector(6).fit(X)
    assert e.rank_ == 4
    Z = np.random.default_rng(0).standard_normal((5, 6))
    np.testing.assert_array_equal(e.inverse_transform(Z)[:, np.sort(e.indices_)], Z)
    assert e.score(X) == pytest.approx(1)
    assert ColumnSubsetSelector(6, deficient="truncate").fit(X).n_features_ == 4
    with pytest.raises(CsspError, match="rank"):
        ColumnSubsetSelector(6, deficient="raise").fit(X)


def test_sparse_matrices():
    X = scipy.sparse.random_array((80, 20), density=0.2, rng=np.random.default_rng(0), format="csr")
    w = np.arange(80) % 3
    for weight in (None, w):
        e = ColumnSubsetSelector(6).fit(X, sample_weight=weight)
        d = ColumnSubsetSelector(6).fit(X.toarray(), sample_weight=weight)
        np.testing.assert_array_equal(e.indices_, d.indices_)
        np.testing.assert_allclose(e.coefficients_, d.coefficients_, atol=1e-10)
        assert scipy.sparse.issparse(e.transform(X))
        np.testing.assert_array_equal(e.transform(X).toarray(), d.transform(X.toarray()))
        np.testing.assert_allclose(
            e.inverse_transform(e.transform(X)), d.inverse_transform(d.transform(X.toarray()))
        )
        assert e.score(X, sample_weight=weight) == pytest.approx(d.score(X.toarray(), sample_weight=weight))
    for kernel in ("linear", "rbf"):
        e = LandmarkSelector(6, kernel=kernel).fit(X)
        d = LandmarkSelector(6, kernel=kernel).fit(X.toarray())
        np.testing.assert_array_equal(e.component_indices_, d.component_indices_)
        np.testing.assert_allclose(e.transform(X), d.transform(X.toarray()), atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_in_torch_out(dtype, monkeypatch):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    X = torch.as_tensor(data("wine"), dtype=dtype)
    with sklearn.config_context(array_api_dispatch=True):
        e = ColumnSubsetSelector(5).fit(X, sample_weight=torch.ones(len(X), dtype=dtype))
        out = e.transform(X)
        back = e.inverse_transform(out)
        features = LandmarkSelector(5).fit_transform(X)
        with pytest.raises(ValueError, match="same namespace"):
            e.transform(X.numpy())
    for x in (out, back, features, e.indices_, e.coefficients_):
        assert isinstance(x, torch.Tensor)
    assert out.dtype == back.dtype == features.dtype == dtype
    d = ColumnSubsetSelector(5).fit(X.numpy())
    np.testing.assert_array_equal(e.indices_, d.indices_)
    np.testing.assert_allclose(back, d.inverse_transform(d.transform(X.numpy())), rtol=1e-4, atol=1e-5)
    assert isinstance(d.fit(X).transform(X), np.ndarray)  # without dispatch


@pytest.mark.parametrize(
    "e", [ColumnSubsetSelector(3, method="volume", random_state=0), LandmarkSelector(4)], ids=type
)
def test_clone_and_pickle(e):
    X = data("iris")
    with pytest.raises(NotFittedError):
        e.transform(X)
    fitted = clone(e).fit(X)
    stream = io.BytesIO(pickle.dumps(fitted))
    assert len(stream.getvalue()) < 5000  # no training data inside
    np.testing.assert_array_equal(pickle.load(stream).transform(X), fitted.transform(X))
    np.testing.assert_array_equal(clone(fitted).fit(X).transform(X), fitted.transform(X))


def test_random_states():
    X = data("cancer")
    draws = [
        ColumnSubsetSelector(5, method="volume", random_state=s).fit(X).indices_.tolist()
        for s in (
            0,
            0,
            np.random.RandomState(0),
            np.random.RandomState(0),
            np.random.default_rng(0),
            None,
            None,
        )
    ]
    assert draws[0] == draws[1] == draws[4]
    assert draws[2] == draws[3] != draws[0]
    assert draws[5] != draws[6]
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    ColumnSubsetSelector(5, method="volume").fit(X)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.parametrize("name", ["iris", "wine", "cancer"])
def test_in_a_grid_search(name):
    X, y = DATA[name](return_X_y=True)
    chain = make_pipeline(StandardScaler(), ColumnSubsetSelector(), LogisticRegression(max_iter=1000))
    grid = {
        "columnsubsetselector__n_features_to_select": [1, 3, 0.5],
        "columnsubsetselector__method": ["residual", "greedy"],
    }
    best = GridSearchCV(chain, grid, cv=3).fit(X, y)
    assert best.best_score_ > 0.85
    alone = GridSearchCV(ColumnSubsetSelector(), {"n_features_to_select": [1, 2, 3]}, cv=3).fit(data(name))
    assert alone.best_params_ == {"n_features_to_select": 3}  # by the error of held-out rows


def test_landmarks_approximate_the_kernel():
    X = load_digits().data[:400] / 16
    K = pairwise_kernels(X, metric="rbf", gamma=0.05)
    for method in ("residual", "random_pivot", "greedy"):
        e = LandmarkSelector(40, gamma=0.05, method=method, random_state=1).fit(X)
        s = select_gram("rbf", 40, method, X=X, gamma=0.05, rng=1)
        np.testing.assert_array_equal(e.component_indices_, s.indices)
        np.testing.assert_array_equal(e.components_, X[s.indices])
        F = e.transform(X)
        np.testing.assert_allclose(F @ F.T, s.reconstruct(), atol=1e-8)
        lost = np.trace(K - F @ F.T) / np.trace(K)
        assert e.relative_error_ == pytest.approx(lost, rel=1e-6)
    uniform = [
        np.trace(K - F @ F.T)
        for F in (Nystroem(n_components=40, gamma=0.05, random_state=s).fit_transform(X) for s in range(5))
    ]
    assert e.relative_error_ * 400 < 0.9 * min(uniform)  # greedy against five uniform draws


def test_landmarks_take_the_kernels_of_nystroem():
    X = data("iris")
    kernels = [
        {"kernel": "linear"},
        {"kernel": "polynomial", "degree": 2, "coef0": 1.0},
        {"kernel": "laplacian", "gamma": 0.3, "degree": 7},  # what a kernel does not have is not used
        {
            "kernel": lambda x, y, scale: np.exp(-scale * np.sum((x - y) ** 2)),
            "kernel_params": {"scale": 0.2},
        },
    ]
    for parameters in kernels:
        e = LandmarkSelector(8, deficient="truncate", **parameters).fit(X)
        reference = Nystroem(n_components=150, random_state=0, **parameters).fit(X)
        K = reference.transform(X) @ reference.transform(X).T
        P = e.component_indices_
        F = e.transform(X)
        np.testing.assert_allclose(
            F @ F.T, K[:, P] @ np.linalg.pinv(K[np.ix_(P, P)], rcond=1e-10) @ K[P], atol=1e-5
        )
    rows = LandmarkSelector(3, kernel="linear", method="strong_rrqr").fit(X)
    np.testing.assert_array_equal(rows.component_indices_, select(X.T, 3, "strong_rrqr").indices)
    met = [LandmarkSelector(kernel=kernel, tol=0.05).fit(X) for kernel in ("linear", "rbf")]
    assert all(e.relative_error_ <= 0.05 for e in met)
    assert met[0].component_indices_.tolist() == select(X.T, tol=0.05**0.5).indices.tolist()
    with pytest.raises(CsspError, match="kernel = 'gauss'"):
        LandmarkSelector(3, kernel="gauss").fit(X)
    with pytest.raises(CsspError, match="gamma goes with a named kernel"):
        LandmarkSelector(3, kernel=kernels[3]["kernel"], gamma=1.0).fit(X)


def test_landmarks_that_are_equal_do_no_harm():
    X = np.repeat(data("iris")[:20], 3, axis=0)
    with pytest.warns(RankDeficientWarning):
        e = LandmarkSelector(30).fit(X)
    assert e.rank_ <= 20
    F = e.transform(X)
    np.testing.assert_allclose(F @ F.T, pairwise_kernels(X, metric="rbf"), atol=1e-10)


def test_nothing_is_imported_before_it_is_used():
    program = (
        "import sys, cssp; assert not {'sklearn', 'torch', 'matplotlib'} & set(sys.modules);"
        "cssp.ColumnSubsetSelector; assert not {'torch', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    hidden = "import sys; sys.modules['sklearn'] = None; import cssp; cssp.ColumnSubsetSelector"
    done = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True)
    assert "pip install 'cssp[sklearn]'" in done.stderr


def test_a_fit_adds_little_to_select():
    """Warnings of select point at the caller's line or are ordinary: none is raised on good data."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ColumnSubsetSelector(5).fit(data("cancer")).score(data("cancer"))


def test_a_tensor_with_a_graph():
    X = np.random.default_rng(0).standard_normal((20, 8))
    live = torch.tensor(X, requires_grad=True)
    assert (
        ColumnSubsetSelector(3).fit(live).get_support().tolist()
        == ColumnSubsetSelector(3).fit(X).get_support().tolist()
    )
