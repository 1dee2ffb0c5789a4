"""Known spectrum, known alignment: A = U diag(s) V^T, and orthonormal bases with chosen leverage scores.

Functions return float64 arrays. Randomness enters by `rng` alone: None, int, or `numpy.random.Generator`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Matrix = NDArray[np.float64]
Rng = int | np.random.Generator | None


def check_size(name: str, value: int, low: int = 1) -> int:
    """Return `value` as an int of at least `low`, or raise ValueError naming the argument."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer) or value < low:
        raise ValueError(f"{name} must be an integer of at least {low}, got {value!r}")
    return int(value)


def haar(n: int, k: int, rng: Rng = None) -> Matrix:
    """Return an orthonormal n x k basis, Haar-distributed: QR of a Gaussian matrix, R's diagonal made positive.

    On such bases a worst-case bound has no power: any k columns satisfy it. A baseline, not a test.

    Examples
    --------
    >>> V = haar(6, 2, rng=0)
    >>> bool(np.allclose(V.T @ V, np.eye(2)))
    True
    """
    n, k = check_size("n", n), check_size("k", k)
    if k > n:
        raise ValueError(f"k must be at most n = {n}, got {k}")
    Q, R = np.linalg.qr(np.random.default_rng(rng).standard_normal((n, k)))
    return Q * np.where(np.diag(R) < 0, -1.0, 1.0)


def incoherent(n: int, k: int, rng: Rng = None) -> Matrix:
    """Return an orthonormal n x k basis whose leverage scores all equal k/n: cosines and sines.

    Spectrum: k ones; `rng` draws the phases (None: all zero). No row matters more than another, so
    uniform sampling is leverage sampling, and every k x k block obeys s_min(V_S)^2 <= k/n.

    Examples
    --------
    >>> np.square(incoherent(6, 3)).sum(axis=1).round(12).tolist()
    [0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    """
    n, k = check_size("n", n), check_size("k", k)
    if k > n:
        raise ValueError(f"k must be at most n = {n}, got {k}")
    t = np.arange(n)
    columns = []
    pairs = k // 2
    if k % 2:
        columns.append(np.full(n, n**-0.5))
    elif 2 * pairs > n - 1:  # n = k even: constant and alternating column replace the last pair
        columns += [np.full(n, n**-0.5), np.where(t % 2, -1.0, 1.0) * n**-0.5]
        pairs -= 1
    phases = np.random.default_rng(rng).uniform(0, 2 * np.pi, pairs) if rng is not None else np.zeros(pairs)
    for j, phase in enumerate(phases, start=1):
        angle = 2 * np.pi * j * t / n + phase
        columns += [np.cos(angle) * np.sqrt(2 / n), np.sin(angle) * np.sqrt(2 / n)]
    return np.column_stack(columns)


def coherent(n: int, k: int, rng: Rng = None, *, level: float = 1e-3) -> Matrix:
    """Return an orthonormal n x k basis with k leverage scores near 1 and the rest of order level^2, at random places.

    Spectrum: k ones. Uniform sampling misses the k rows that matter; leverage scores find them.

    Examples
    --------
    >>> int((np.square(coherent(50, 3, rng=0)).sum(axis=1) > 0.9).sum())
    3
    """
    n, k = check_size("n", n), check_size("k", k)
    if k > n:
        raise ValueError(f"k must be at most n = {n}, got {k}")
    g = np.random.default_rng(rng)
    B = level * g.standard_normal((n, k))
    B[g.choice(n, k, replace=False)] += haar(k, k, g)
    return np.linalg.qr(B)[0]


def spiky(n: int, k: int, rng: Rng = None, *, spikes: int | None = None, scale: float = 1e4) -> Matrix:
    """Return an orthonormal n x k basis of a Gaussian matrix with `spikes` rows (default k//2, at least 1) scaled up.

    Spectrum: k ones. As many leverage scores near 1 as there are spikes, the others share k - spikes: fewer
    huge scores than k, so taking the k largest leaves directions uncovered.

    Examples
    --------
    >>> int((np.square(spiky(50, 4, rng=0)).sum(axis=1) > 0.99).sum())
    2
    """
    n, k = check_size("n", n), check_size("k", k)
    if k > n:
        raise ValueError(f"k must be at most n = {n}, got {k}")
    spikes = max(1, k // 2) if spikes is None else check_size("spikes", spikes)
    g = np.random.default_rng(rng)
    B = g.standard_normal((n, k))
    B[g.choice(n, min(spikes, n), replace=False)] *= scale
    return np.linalg.qr(B)[0]


def aligned(s: ArrayLike, V: ArrayLike, m: int, rng: Rng = None) -> Matrix:
    """Return A = U diag(s) V^T for a given orthonormal V (n x p) and random U (m x p): known spectrum and alignment.

    Its right singular vectors are the columns of V in the order of `s`, its column coherence is V's.

    Parameters
    ----------
    s : array_like, shape (p,)
        Singular values, non-negative.
    V : array_like, shape (n, p)
        Orthonormal columns.
    m : int
        Rows, at least p.

    Examples
    --------
    >>> A = aligned([3.0, 1.0], haar(5, 2, rng=1), m=4, rng=0)
    >>> np.linalg.svd(A, compute_uv=False).round(12).tolist()
    [3.0, 1.0, 0.0, 0.0]
    """
    values, V = np.asarray(s, dtype=np.float64), np.asarray(V, dtype=np.float64)
    m = check_size("m", m)
    if values.ndim != 1 or V.ndim != 2 or V.shape[1] != values.size:
        raise ValueError(f"V must have one column per singular value ({values.size}), got shape {V.shape}")
    if np.any(values < 0) or not np.all(np.isfinite(values)):
        raise ValueError("s must be finite and non-negative")
    if m < values.size:
        raise ValueError(f"m must be at least the number of singular values, {values.size}, got {m}")
    return (haar(m, values.size, rng) * values) @ V.T


def with_spectrum(s: ArrayLike, m: int, n: int, rng: Rng = None) -> Matrix:
    """Return an m x n matrix with singular values `s` (at most min(m, n) of them) between two Haar bases.

    Examples
    --------
    >>> np.linalg.svd(with_spectrum([4.0, 2.0], 3, 5, rng=0), compute_uv=False).round(12).tolist()
    [4.0, 2.0, 0.0]
    """
    values = np.asarray(s, dtype=np.float64)
    n = check_size("n", n)
    if values.ndim != 1 or values.size > n:
        raise ValueError(f"s must be a vector of at most n = {n} values, got shape {values.shape}")
    g = np.random.default_rng(rng)
    return aligned(values, haar(n, values.size, g), m, g)


def graded(m: int, n: int, rng: Rng = None, *, decades: float = 14.0) -> Matrix:
    """Return a matrix of Haar bases around singular values falling geometrically from 1 to 10^-decades.

    Breaks naive downdating of column norms: at 14 decades the difference of squares cancels long before the
    last pivots (LAPACK Working Note 176 [drmac2008]).

    Examples
    --------
    >>> s = np.linalg.svd(graded(9, 8, rng=0, decades=7), compute_uv=False)
    >>> round(float(np.log10(s[-1])), 6)
    -7.0
    """
    return with_spectrum(np.logspace(0, -decades, min(check_size("m", m), check_size("n", n))), m, n, rng)
