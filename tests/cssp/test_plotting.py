"""Plots: what their lines say, in which places, and that the axes come back."""

import subprocess
import sys

import matplotlib
import numpy as np
import pytest
import scipy.sparse
from optional import torch
from PIL import Image

import cssp
from cssp import CsspError, plotting, select

matplotlib.use("Agg")
from matplotlib import pyplot as plt


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def decaying(m=30, n=40, rate=0.5):
    rng = np.random.default_rng(0)
    U, V = (np.linalg.qr(rng.standard_normal((x, m)))[0] for x in (m, n))
    return (U * rate ** np.arange(m)) @ V.T


def lines(ax):
    return {line.get_label(): line.get_xydata() for line in ax.get_lines()}


def drawn(ax):
    """The figure can be painted, and every curve lies within the axes."""
    ax.figure.canvas.draw()
    low, high = ax.get_ylim()
    for line in ax.get_lines():
        y = np.asarray(line.get_ydata(), dtype=float)
        y = y[y > 0]  # the scale is logarithmic
        if line.get_transform() is ax.transData and y.size:
            assert high >= y.max() >= low
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    styles = [(line.get_linestyle(), line.get_marker()) for line in ax.get_lines()]
    assert len(set(styles)) == len(styles)  # to be told apart without colour


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor])
@pytest.mark.parametrize("method", ["osinsky", "residual", "random_pivot", "bss", "greedy"])
def test_the_trace_beside_the_optimum_and_the_bound(method, make):
    A = decaying(rate=0.1)
    s = select(make(A), 8, method, rng=0)
    ax = s.plot()
    drawn(ax)
    found = lines(ax)
    total = np.linalg.norm(A)
    np.testing.assert_allclose(found[method][:, 0], np.arange(9))
    np.testing.assert_allclose(found[method][:, 1], np.sqrt(np.asarray(s.errors)) / total, rtol=1e-6)
    optimum = (
        np.sqrt(np.append(np.cumsum(np.linalg.svd(A, compute_uv=False)[::-1] ** 2)[::-1], 0)[:9]) / total
    )
    np.testing.assert_allclose(found["best rank t (SVD)"][:, 1], optimum, rtol=1e-6)
    bounds = {label: xy for label, xy in found.items() if label.startswith("bound")}
    c = s.certificate()
    if c.factor is None:
        assert not bounds
        return
    ((label, xy),) = bounds.items()
    assert c.source in label
    assert ("mean square" in label) == (c.holds == "expectation")
    np.testing.assert_allclose(xy[-1], [8, np.sqrt(c.factor * c.squared_optimum) / total], rtol=1e-6)
    assert len(xy) == (8 if cssp.METHODS[method].nested else 1)
    assert np.all(xy[:, 1] <= 1)


def test_the_bound_is_drawn_where_it_holds_and_says_something():
    A = decaying(rate=0.8)
    assert not any("bound" in label for label in lines(select(A, 8).plot()))  # 4^8: above ‖A‖
    assert any("bound" in label for label in lines(select(A, 8, "osinsky").plot()))
    included = select(A, 8, "osinsky", include=[3])
    assert not any("bound" in label for label in lines(included.plot()))


def test_a_target_is_drawn_against_its_own_svd():
    A, B = decaying(), np.random.default_rng(1).standard_normal((30, 3))
    s = select(A, 6, "greedy", target=B)
    found = lines(s.plot())
    np.testing.assert_allclose(found["greedy"][:, 1], np.sqrt(s.errors) / np.linalg.norm(B))
    assert found["best rank t (SVD)"][3:, 1].max() == 0


def test_axes_given_are_axes_returned():
    A = decaying()
    _, (left, right) = plt.subplots(1, 2)
    assert select(A, 4).plot(left) is left
    assert plotting.spectrum(A, 4, right) is right
    assert len(plt.get_fignums()) == 1
    assert isinstance(plotting.spectrum(A), matplotlib.axes.Axes)


def test_an_item_of_a_batch():
    A = np.stack([decaying(), decaying(rate=0.8)]).reshape(2, 1, 30, 40)
    s = select(A, [[3], [5]])
    with pytest.raises(CsspError, match="item=0"):
        s.plot()
    with pytest.raises(CsspError, match="item = 5"):
        s.plot(item=5)
    with pytest.raises(CsspError, match="not of a batch"):
        select(A[0, 0], 3).plot(item=0)
    found = lines(s.plot(item=(1, 0)))["residual"]
    np.testing.assert_allclose(found[:, 1], np.sqrt(s.errors[1, 0] / s.errors[1, 0, 0]))
    assert len(lines(s.plot(item=(0, 0)))["residual"]) == 4  # its own three picks, not the padding


def test_degenerate_matrices():
    for A, k in ((np.zeros((4, 5)), 2), (np.ones((1, 1)), 1), (np.eye(4), 4), (1e200 * decaying(), 30)):
        deficient = "fill" if A.any() else "truncate"
        drawn(select(A, k, deficient=deficient).plot()) if A.any() else select(A, tol=0.5).plot()
        drawn(plotting.spectrum(A, k)) if A.any() else plotting.spectrum(A, k)


def test_a_matrix_read_in_passes_is_drawn_as_in_memory(monkeypatch):
    s, expected = (select(A, 3) for A in (scipy.sparse.csr_array(decaying()), decaying()))
    mine, theirs = lines(s.plot()), lines(expected.plot())
    assert mine.keys() == theirs.keys()
    for name, found in mine.items():
        np.testing.assert_allclose(found, theirs[name], rtol=1e-9)
    monkeypatch.setattr("cssp.linalg.SQUARE", 2)
    with pytest.raises(CsspError, match="read in passes"):
        s.plot()


def test_the_spectrum_marks_k():
    A = decaying()
    ax = plotting.spectrum(torch.as_tensor(A), 5)
    drawn(ax)
    found = lines(ax)
    s = np.linalg.svd(A, compute_uv=False)
    np.testing.assert_allclose(found["singular values"], np.c_[np.arange(1, 31), s])
    (label,) = (name for name in found if name.startswith("k = 5"))
    assert found[label][0, 0] == 5.5
    left = np.sqrt(np.sum(s[5:] ** 2) / np.sum(s**2))
    assert f"{left:.2g} of" in label
    for wrong, words in ((A[0], "shape"), (np.stack([A, A]), "batch"), (A * np.nan, "NaN")):
        with pytest.raises(CsspError, match=words):
            plotting.spectrum(wrong, 5)
    with pytest.raises(CsspError, match="k = 41"):
        plotting.spectrum(A, 41)


def test_kept_tokens_over_the_image():
    picture = pytest.importorskip(
        "vlm_bridge.reporting.picture", reason="torch is not installed", exc_type=ImportError
    )
    view = picture.View(Image.new("RGB", (64, 64), "white"), (4, 4), 0, 16)
    kept = torch.tensor([0, 5, 10])
    ax = picture.show([view], [kept])
    (image,) = ax.get_images()
    np.testing.assert_array_equal(image.get_array(), np.asarray(picture.draw([view], [kept])))
    assert ax.get_title() == "3 of 16 tokens"
    _, other = plt.subplots()
    assert picture.show([view], [kept], other) is other


def test_matplotlib_comes_with_the_first_plot():
    program = (
        "import sys, numpy as np, cssp, cssp.plotting; s = cssp.select(np.eye(3), 2);"
        "assert 'matplotlib' not in sys.modules; sys.modules['matplotlib'] = None; s.plot()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "pip install 'cssp[plot]'" in done.stderr
