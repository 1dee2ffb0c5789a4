"""Every name that the docs or the package itself use exists, what is exported is listed, and `error` means one thing."""

import dataclasses
import importlib
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from optional import BACKENDS, torch

import cssp
from cssp import METHODS, CsspError, errors, select

ROOT = Path(__file__).parents[2]
TEXTS = [
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "docs" / "examples").glob("*.py")),
    *(
        path
        for package in ("cssp", "vlm_bridge", "analysis")
        for path in sorted((ROOT / package).rglob("*.py"))
    ),
    ROOT / "README.md",
]
A = np.random.default_rng(0).standard_normal((30, 40)) * 0.8 ** np.arange(30)[:, None]


def resolved(name):
    found = cssp
    for part in name.split(".")[1:]:
        found = getattr(found, part)
    return found


def test_every_name_in_the_docs_and_the_package_resolves():
    names = {
        name
        for text in TEXTS
        for name in re.findall(r"(?<![\w./-])cssp(?:\.[A-Za-z_]\w*)+", text.read_text())
    }
    assert len(names) > 50
    guide = (ROOT / "docs" / "guide" / "extend.md").read_text()
    names -= {
        path.replace("/", ".") for path in re.findall(r"caption: (cssp/\S+)\.py", guide)
    }  # the reader writes them
    missing = []
    for name in sorted(names):
        try:
            resolved(name)
        except (AttributeError, ImportError):
            try:
                importlib.import_module(name)
            except ImportError as reason:
                if reason.name != "torch":  # which cssp.kernels needs
                    missing.append(name)
    assert not missing


def test_dir_lists_the_api_and_all_of_it_resolves():
    assert set(cssp.__all__) <= set(dir(cssp))
    assert {"plotting", "kernels", "passes", "streaming", "nystrom", "estimators"} <= set(dir(cssp))
    needs_torch = set() if "torch" in BACKENDS else {"kernels"}
    assert all(
        getattr(cssp, name) is not None for name in {*dir(cssp)} - needs_torch if not name.startswith("__")
    )
    assert not any(name.startswith("_") and not name.startswith("__") for name in dir(cssp))
    with pytest.raises(AttributeError, match="no attribute 'selct'"):
        cssp.selct  # noqa: B018


def test_every_kind_of_error_and_warning_is_exported():
    kinds = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, (CsspError, UserWarning))
    }
    assert kinds <= set(cssp.__all__)
    assert all(getattr(cssp, name) is getattr(errors, name) for name in kinds)


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor, lambda A: np.stack([A, 2 * A])])
def test_error_is_the_norm_everywhere(make):
    sel = select(make(A), 4)
    c = sel.certificate()
    np.testing.assert_allclose(c.error, sel.error, rtol=1e-12)
    np.testing.assert_allclose(sel.squared_error, np.asarray(sel.error) ** 2, rtol=1e-12)
    np.testing.assert_allclose(c.squared_error, sel.squared_error, rtol=1e-12)
    np.testing.assert_allclose(c.spectral_squared_error, np.asarray(c.spectral_error) ** 2, rtol=1e-12)
    np.testing.assert_allclose(
        c.ratio, np.asarray(c.squared_error) / np.asarray(c.squared_optimum), rtol=1e-12
    )
    assert c.optimum is c.squared_optimum  # the earlier names
    assert c.spectral_optimum is c.spectral_squared_optimum


def test_error_is_the_norm_at_every_scale_and_of_streams_and_landmarks():
    c, one = select(A * 1e200, 4).certificate(), select(A, 4).certificate()
    assert c.error == pytest.approx(one.error * 1e200)
    assert c.spectral_error == pytest.approx(one.spectral_error * 1e200)
    stream = cssp.StreamingSelector(4, rng=0).partial_fit(A).selection()
    assert stream.squared_error == stream.error**2
    gram = cssp.select_gram(A.T @ A, 4)
    assert gram.certificate().squared_error == pytest.approx(gram.error)  # the trace norm of K - K_S
    assert gram.certificate().error == pytest.approx(select(A, 4).error)


@pytest.mark.parametrize(
    ("X", "arguments", "sentence"),
    [
        (
            A,
            {"k": 4},
            r"\d\.\d\d times the best rank 4 in squared error; pivoted QR promises at most \d+ times, these .*",
        ),
        (
            A,
            {"k": 4, "method": "volume"},
            r".*; volume sampling promises in expectation at most 5 times, these .*",
        ),
        (A, {"k": 4, "method": "greedy"}, r"\d\.\d\d times [^;]*; these columns at most \d+(\.\d+)? times\."),
        (A, {"k": 4, "include": [3]}, r"[^;]*; these columns at most [^;]*"),
        (
            A,
            {"k": 4, "method": "greedy", "target": A[:, :9] + 1},
            r"\d+ times the best rank 4 in squared error\.",
        ),
        (A[:, :5], {"k": 5}, r"As good as the best rank 5; .*"),
        (
            np.eye(2)[:, [0, 0, 1]],
            {"k": 2, "include": [0, 1]},
            r"The best rank 2 leaves no error, these columns do\.",
        ),
        (
            np.stack([A, A]),
            {"k": [3, 5]},
            r"\S+ to \S+ times the best rank 3 to 5 in [^;]*, over 2 matrices; .* to .*",
        ),
        (np.zeros((0, 4, 5)), {"k": 2}, "No matrix, no columns."),
    ],
)
@pytest.mark.filterwarnings("ignore::cssp.RankDeficientWarning")
def test_a_certificate_prints_a_sentence(X, arguments, sentence):
    text = str(select(X, rng=0, **arguments).certificate())
    assert re.fullmatch(sentence, text), text


@pytest.mark.parametrize("method", METHODS)
def test_the_sentence_speaks_of_a_theorem_exactly_where_one_is_claimed(method):
    c = select(A[:, :14] if method == "exact" else A, 3, method, rng=0).certificate()
    assert ("promises" in str(c)) == (c.factor is not None)
    assert ("in expectation" in str(c)) == (c.factor is not None and c.holds == "expectation")
    assert f"ratio={c.ratio!r}" in repr(c)
    large = dataclasses.replace(c, factor=17476300.0, ratio=1.5, a_posteriori=38.2)
    assert str(large).startswith("1.50 times the best rank 3")
    assert "at most 1.7e7 times" in str(large) or METHODS[method].guarantee is None
    assert "these columns at most 38 times" in str(large)


WIDE = np.random.default_rng(1).standard_normal((30, 4000))


@pytest.mark.parametrize(
    "choose",
    [
        lambda: select(WIDE, 5),
        lambda: select(WIDE, 5, weights=np.linspace(1, 2, 4000), valid=np.arange(4000) != 7),
        lambda: select(torch.as_tensor(WIDE).requires_grad_(), 5),
        lambda: select(np.stack([WIDE, 1e200 * WIDE]), [5, 3]),
        lambda: select(sp.csc_array(WIDE), 5),
        lambda: select(WIDE, 5, "greedy", target=WIDE[:, :3]),
    ],
)
def test_a_pickled_selection_leaves_its_matrix_behind(choose):
    sel = choose()
    data = pickle.dumps(sel)
    assert len(data) < 4000
    again = pickle.loads(data)
    assert repr(again) == repr(sel)
    for name in ("indices", "errors", "error", "squared_error", "relative_error"):
        np.testing.assert_array_equal(getattr(again, name), getattr(sel, name))
    np.testing.assert_array_equal(again.mask(), sel.mask())
    for method in ("coefficients", "reconstruct", "certificate", "plot"):
        with pytest.raises(CsspError, match=r"pickled, which leaves its matrix A behind.*cssp\.select\(A"):
            getattr(again, method)(**({"item": 0} if method == "plot" and sel.indices.ndim == 2 else {}))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(again)).errors, sel.errors)


def test_copies_share_the_matrix():
    import copy

    sel, gram = select(WIDE, 5), cssp.select_gram(WIDE @ WIDE.T, 5)
    for made in (copy.copy(sel), copy.deepcopy(sel)):
        assert np.shares_memory(made._parts[0].problem.A, WIDE)
        np.testing.assert_array_equal(made.coefficients(), sel.coefficients())
    for made in (copy.copy(gram), copy.deepcopy(gram)):
        assert made.certificate() == gram.certificate()


def test_pickled_landmarks_and_estimators_are_small():
    K = WIDE.T @ WIDE
    gram = cssp.select_gram(K, 5)
    data = pickle.dumps(gram)
    assert len(data) < 8 * 5 * 4000 + 8 * 4000 * 4  # the factor and a few vectors
    again = pickle.loads(data)
    np.testing.assert_array_equal(again.coefficients(), gram.coefficients())
    with pytest.raises(CsspError, match="pickled, which leaves its matrix K behind"):
        again.certificate()
    for estimator in (cssp.ColumnSubsetSelector(5), cssp.LandmarkSelector(5)):
        fitted = estimator.fit(WIDE)
        assert len(pickle.dumps(fitted)) < 8 * 6 * 4000
        np.testing.assert_array_equal(
            pickle.loads(pickle.dumps(fitted)).transform(WIDE), fitted.transform(WIDE)
        )
