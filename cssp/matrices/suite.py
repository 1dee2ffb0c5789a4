"""The standard rank-revealing test matrices of the literature, collected in [demmel2015].

Prescribed spectra sit between Haar bases; the discretised integral equations follow [hansen2007].
"""

from __future__ import annotations

import numpy as np

from cssp.matrices.spectra import Matrix, Rng, check_size, haar, with_spectrum


def break1(m: int, n: int, rng: Rng = None) -> Matrix:
    """Return a matrix with spectrum 1, ..., 1, 1e-9: one small singular value [demmel2015].

    Examples
    --------
    >>> bool(np.linalg.svd(break1(6, 5, rng=0), compute_uv=False)[-1] < 1.1e-9)
    True
    """
    s = np.ones(min(m, n))
    s[-1] = 1e-9
    return with_spectrum(s, m, n, rng)


def break9(m: int, n: int, rng: Rng = None) -> Matrix:
    """Return a matrix with spectrum 1, ..., 1 and nine times 1e-9; needs min(m, n) >= 10 [demmel2015].

    Examples
    --------
    >>> int((np.linalg.svd(break9(12, 14, rng=0), compute_uv=False) < 1e-8).sum())
    9
    """
    p = check_size("min(m, n)", min(m, n), 10)
    return with_spectrum(np.where(np.arange(p) < p - 9, 1.0, 1e-9), m, n, rng)


def devils_stairs(m: int, n: int, rng: Rng = None, *, length: int = 20, drop: float = 0.6) -> Matrix:
    """Return a matrix with spectrum in stairs of `length` equal values, each stair 10^-drop below the last [stewart1999].

    It has many gaps, none of them large, so that it tests decisions about the rank and ties at once.

    Examples
    --------
    >>> s = np.linalg.svd(devils_stairs(6, 6, rng=0, length=2), compute_uv=False)
    >>> np.log10(s).round(6).tolist()
    [0.0, 0.0, -0.6, -0.6, -1.2, -1.2]
    """
    return with_spectrum(10.0 ** (-drop * (np.arange(min(m, n)) // check_size("length", length))), m, n, rng)


def hc(m: int, n: int, rng: Rng = None) -> Matrix:
    """Return a matrix with spectrum 100, 10, then geometric from 1e-2 to 1e-8 [huckaby2003].

    Examples
    --------
    >>> np.log10(np.linalg.svd(hc(5, 4, rng=0), compute_uv=False)).round(6).tolist()
    [2.0, 1.0, -2.0, -8.0]
    """
    p = check_size("min(m, n)", min(m, n), 3)
    return with_spectrum(np.concatenate([[100.0, 10.0], np.logspace(-2, -8, p - 2)]), m, n, rng)


def exponential(m: int, n: int, rng: Rng = None, *, rate: float = 10 ** (-1 / 11)) -> Matrix:
    """Return a matrix with spectrum rate^i, i = 0, 1, ...; the customary rate is 10^(-1/11) [demmel2015].

    Examples
    --------
    >>> np.linalg.svd(exponential(3, 4, rng=0, rate=0.5), compute_uv=False).round(12).tolist()
    [1.0, 0.5, 0.25]
    """
    return with_spectrum(rate ** np.arange(min(m, n)), m, n, rng)


def polynomial(m: int, n: int, rng: Rng = None, *, power: float = 2.0) -> Matrix:
    """Return a matrix with spectrum i^-power, i = 1, 2, ...

    Examples
    --------
    >>> np.linalg.svd(polynomial(2, 4, rng=0), compute_uv=False).round(12).tolist()
    [1.0, 0.25]
    """
    return with_spectrum(np.arange(1.0, min(m, n) + 1) ** -power, m, n, rng)


def step(m: int, n: int, rng: Rng = None, *, rank: int | None = None, gap: float = 1e-6) -> Matrix:
    """Return a matrix with spectrum 1 up to `rank` (default half of min(m, n)), then `gap`: one clean cliff.

    Examples
    --------
    >>> np.linalg.svd(step(4, 4, rng=0, rank=1, gap=0.5), compute_uv=False).round(12).tolist()
    [1.0, 0.5, 0.5, 0.5]
    """
    p = min(m, n)
    rank = max(1, p // 2) if rank is None else check_size("rank", rank, 0)
    return with_spectrum(np.where(np.arange(p) < rank, 1.0, gap), m, n, rng)


def spiked(m: int, n: int, rng: Rng = None, *, spikes: int | None = None, scale: float = 1e3) -> Matrix:
    """Return Haar columns, some of them (default: half) scaled up by `scale`.

    For m >= n the columns are orthogonal, so the singular values are the column norms: `scale` once per
    spike, 1 for the others. For m < n the rows are orthonormal before the scaling. Uniform sampling
    misses the spikes; after the generator of that name in RandLAPACK.

    Examples
    --------
    >>> np.linalg.svd(spiked(6, 3, rng=0, spikes=1, scale=10.0), compute_uv=False).round(9).tolist()
    [10.0, 1.0, 1.0]
    """
    m, n = check_size("m", m), check_size("n", n)
    g = np.random.default_rng(rng)
    A = haar(m, n, g) if m >= n else haar(n, m, g).T
    spikes = max(1, n // 2) if spikes is None else check_size("spikes", spikes, 0)
    A[:, g.choice(n, min(spikes, n), replace=False)] *= scale
    return A


def foxgood(n: int) -> Matrix:
    """Return the matrix of Fox and Goodwin: midpoint rule for the kernel sqrt(s^2 + t^2) on [0, 1]^2; severely ill-posed.

    Examples
    --------
    >>> foxgood(2).round(4).tolist()
    [[0.1768, 0.3953], [0.3953, 0.5303]]
    """
    t = (np.arange(check_size("n", n)) + 0.5) / n
    return np.hypot(t[:, None], t) / n


def baart(n: int) -> Matrix:
    """Return the matrix of Baart: kernel exp(s cos t), s in [0, pi/2], t in [0, pi], midpoint rule in both; severely ill-posed.

    [hansen2007] uses a Galerkin rule on the same kernel; the spectrum falls to rounding level within a dozen
    values either way.

    Examples
    --------
    >>> s = np.linalg.svd(baart(32), compute_uv=False)
    >>> bool(s[12] < 1e-13 * s[0])
    True
    """
    x = (np.arange(check_size("n", n)) + 0.5) / n
    return np.exp(np.outer(np.pi / 2 * x, np.cos(np.pi * x))) * np.pi / np.sqrt(2) / n


def heat(n: int, kappa: float = 1.0) -> Matrix:
    """Return the matrix of the inverse heat equation: lower-triangular Toeplitz Volterra matrix with kernel of width kappa.

    Its nonzero singular values fall slowly, then one collapses: the last columns are nearly zero.

    Examples
    --------
    >>> bool(np.allclose(heat(8), np.tril(heat(8))))
    True
    """
    n = check_size("n", n)
    t = (np.arange(n) + 0.5) / n
    kernel = t**-1.5 * np.exp(-1 / (4 * kappa**2 * t)) / (2 * n * kappa * np.sqrt(np.pi))
    lag = np.arange(n)[:, None] - np.arange(n)
    return np.where(lag >= 0, kernel[np.maximum(lag, 0)], 0.0)
