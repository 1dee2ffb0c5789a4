"""`numpy.seterr` changes nothing: every method on hostile matrices, Gram matrices, streams, passes, estimators."""

import warnings

import numpy as np
import pytest
import scipy.sparse as sp

import cssp
from cssp import METHODS, passes

RNG = np.random.default_rng(0)
A = RNG.standard_normal((9, 12))
MATRICES = {
    "plain": A,
    "1e-170": A * 1e-170,
    "1e200": A * 1e200,
    "subnormal": A * 1e-310,
    "largest": A / np.abs(A).max() * 1.7e308,
    "graded": A * np.logspace(0, -300, 12),
    "graded rows": A * np.logspace(0, -170, 9)[:, None],
    "zero": np.zeros((9, 12)),
    "zero columns": A * (np.arange(12) % 3 > 0),
    "low rank": A[:, :2] @ A[:2],
    "float32": (A * np.logspace(0, -30, 12)).astype(np.float32),
    "float32 tiny": (A * 1e-40).astype(np.float32),
    "float16": (A * 1e4).astype(np.float16),
    "complex": A + 1j * A[::-1] * 1e-200,
}
WEIGHTS = np.logspace(0, -200, 12)


def results(X, method, **arguments):
    sel = cssp.select(X, 4, method, rng=0, **arguments)
    found = [sel.indices, sel.errors, sel.error, sel.relative_error, sel.coefficients(), sel.reconstruct()]
    return found if sel.passes is not None else [*found, sel.certificate().ratio]


def same(run):
    """The results under three settings of NumPy, which are the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", cssp.RankDeficientWarning)
        expected = run()
        for setting in ("raise", "ignore"):
            with np.errstate(all=setting):
                found = run()
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", MATRICES)
@pytest.mark.parametrize("method", METHODS)
def test_seterr_changes_nothing_in_memory(method, kind):
    X = MATRICES[kind]
    if X.dtype.kind == "c" and "complex" not in METHODS[method].supports:
        return
    same(lambda: results(X, method))
    same(lambda: results(X, method, weights=WEIGHTS))


@pytest.mark.parametrize("kind", MATRICES)
@pytest.mark.parametrize("method", passes.METHODS)
def test_seterr_changes_nothing_in_passes(method, kind):
    X = MATRICES[kind].astype(np.result_type(MATRICES[kind], np.float32))
    if X.dtype.kind == "c" and "complex" not in METHODS[method].supports:
        return
    same(lambda: results(sp.csc_array(X), method, weights=WEIGHTS))


@pytest.mark.parametrize("kind", MATRICES)
def test_seterr_changes_nothing_for_grams_and_streams(kind):
    X = MATRICES[kind]
    wide = X.astype(np.result_type(X, np.float64))
    K = wide.conj().T @ wide / 16 if np.abs(wide).max() < 1e150 else np.eye(12) * 1e300

    def gram(method):
        sel = cssp.select_gram(K, 4, method, weights=WEIGHTS, rng=0)
        return [sel.indices, sel.errors, sel.nystrom(), sel.coefficients(), sel.certificate().ratio]

    def stream():
        selector = cssp.StreamingSelector(3, rng=0, buffer=7)
        for a in range(0, 12, 5):
            selector.partial_fit(X[:, a : a + 5], WEIGHTS[a : a + 5])
        sel = selector.selection()
        return [sel.indices, sel.bound, sel.error, sel.coefficients(X)]

    for method in ("residual", "random_pivot", "greedy", "norm", "uniform"):
        same(lambda method=method: gram(method))
    if kind not in ("largest", "1e200"):  # a stream is not scaled: squares leave the range
        same(stream)
    same(lambda: [passes.sketched_optimum(sp.csc_array(X.astype(wide.dtype)), 3, rng=0)])


def test_seterr_changes_nothing_in_estimators():
    X = RNG.standard_normal((30, 9)) * np.logspace(0, -200, 9)

    def columns():
        selector = cssp.ColumnSubsetSelector(3).fit(X)
        return [selector.inverse_transform(selector.transform(X)), selector.score(X)]

    def landmarks():
        selector = cssp.LandmarkSelector(5, gamma=500.0).fit(X)
        return [selector.transform(X), selector.relative_error_]

    same(columns)
    same(landmarks)


def test_flags_that_blas_raises_for_finite_numbers_are_not_reported():
    """On some processors a product of finite numbers raises the flag of an invalid operation; a real NaN is refused by name."""

    @cssp.scaling.default_floating_errors
    def flagged():
        return np.multiply(np.inf, np.zeros(1))

    with np.errstate(all="raise"):
        assert np.isnan(flagged()).all()
