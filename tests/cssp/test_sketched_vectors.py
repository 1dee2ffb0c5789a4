"""V_k from a Gaussian sketch: close to that of the SVD, with the bounds that hold for any V, and no factor claimed."""

from __future__ import annotations

import contextlib
import inspect

import numpy as np
import pytest

import cssp
from cssp.vectors import OVERSAMPLE, leading_svd

SKETCHABLE = ("leverage", "leverage_top", "arp", "deim", "qdeim", "osinsky", "gappypod_e", "barrier")
K = 8


def gapped(seed: int, m: int = 90, n: int = 120, gap: float = 1e-3) -> np.ndarray:
    """Eight directions of size about one above noise of size `gap`."""
    rng = np.random.default_rng(seed)
    U, V = (np.linalg.qr(rng.standard_normal((size, m)))[0] for size in (m, n))
    s = np.r_[np.linspace(1, 0.5, K), gap * np.linspace(1, 0.5, m - K)]
    return (U * s) @ V.T


def test_rows_that_take_the_option():
    assert {name for name, row in cssp.METHODS.items() if "svd" in row.options} == set(SKETCHABLE)


@pytest.mark.parametrize("method", ["leverage_top", "deim", "qdeim", "osinsky", "gappypod_e"])
def test_picks_of_the_exact_vectors_where_there_is_a_gap(method):
    for seed in range(6):
        A = gapped(seed)
        sketched = cssp.select(A, K, method, svd="sketched", rng=seed)
        assert sketched.indices.tolist() == cssp.select(A, K, method).indices.tolist()


@pytest.mark.parametrize("method", ["leverage", "arp"])
def test_law_of_the_exact_vectors(method):
    """The same draws: as the scores agree to many digits, so do the picks."""
    same = (
        [cssp.select(gapped(1), K, method, svd="sketched", rng=seed).relative_error for seed in range(60)],
        [cssp.select(gapped(1), K, method, rng=seed).relative_error for seed in range(60)],
    )
    assert np.median(same[0]) == pytest.approx(np.median(same[1]), rel=0.35)


@pytest.mark.parametrize("complex_", [False, True])
def test_vectors_lose_little_of_a_slow_spectrum(complex_):
    """Power iterations are what this takes: without them the error is above 1.15 times the optimum."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        A = rng.standard_normal((120, 200)) * np.arange(1, 201) ** -0.5
        if complex_:
            A = A + 1j * rng.standard_normal((120, 200)) * np.arange(1, 201) ** -0.5
        s, V = leading_svd(A, K, "sketched", rng)
        Vh = V.formed()
        assert s.shape == (K + OVERSAMPLE,)
        np.testing.assert_allclose(Vh @ Vh.conj().T, np.eye(K + OVERSAMPLE), atol=1e-12)
        V = Vh[:K].conj().T
        optimum = np.sum(np.linalg.svd(A, compute_uv=False)[K:] ** 2)
        assert np.linalg.norm(A - A @ V @ V.conj().T) ** 2 <= 1.06 * optimum


def test_bound_of_osinsky_for_any_vectors():
    """‖A - P_J A‖² ≤ (k + 1) ‖A - A V Vᵀ‖² with the V of the sketch, on noise, where that is far from the optimum."""
    for seed in range(20):
        A = np.random.default_rng(seed).standard_normal((60, 90))
        found = cssp.select(A, K, "osinsky", svd="sketched", rng=seed)
        V = leading_svd(A, K, "sketched", np.random.default_rng(seed))[1].formed()[:K].T
        assert found.error**2 <= (K + 1) * np.linalg.norm(A - A @ V @ V.T) ** 2


@pytest.mark.parametrize("method", SKETCHABLE)
def test_no_factor_is_claimed(method):
    A = gapped(3)
    certificate = cssp.select(A, K, method, svd="sketched", rng=0).certificate()
    assert certificate.factor is None
    assert certificate.spectral_factor is None
    assert certificate.source is None
    assert certificate.a_posteriori >= 1
    exact = cssp.select(A, K, method, rng=0).certificate()
    plain = cssp.select(A, K, method, rng=0, svd="exact").certificate()
    assert exact.factor == plain.factor


@pytest.mark.parametrize("method", SKETCHABLE)
def test_same_rng_same_picks_and_duplicates_and_rank(method):
    A = gapped(4)[:, np.r_[0:120, 0:40]]
    one, two = (cssp.select(A, K, method, svd="sketched", rng=5).indices.tolist() for _ in range(2))
    assert one == two
    assert len(set(one)) == K
    thin = A[:, :1] * np.ones((1, 60))
    meant = cssp.METHODS[method].oversamples  # more columns than the rank are no surprise there
    with contextlib.nullcontext() if meant else pytest.warns(cssp.RankDeficientWarning):
        assert len(set(cssp.select(thin, 3, method, svd="sketched", rng=0).indices.tolist())) == 3


@pytest.mark.parametrize("method", SKETCHABLE)
def test_bad_value(method):
    with pytest.raises(cssp.CsspError, match=r"svd = 'fast'.*sketched"):
        cssp.select(np.eye(4), 2, method, svd="fast")


def test_option_is_documented():
    for name in SKETCHABLE:
        assert "svd :" in inspect.getdoc(cssp.METHODS[name].function)
