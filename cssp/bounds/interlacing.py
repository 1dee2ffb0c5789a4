"""Interlacing polynomials: some k columns have a spectral error that the mean characteristic polynomial bounds.

Factors multiply s_{k+1}^2: squared errors.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from cssp.bounds._record import check_int, check_spectrum, theorem

#: Bisections of an interval on a logarithmic scale: to the last digit, whatever its ends are.
HALVINGS = 64


def secular_roots(x: NDArray[np.float64], w: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the roots v of sum_i w_i/(x_i - v) = 0, one between each two neighbours of x, to full relative accuracy.

    With w = |q|^2 they are the eigenvalues of diag(x) compressed to the complement of q; with w = x they are the
    reciprocals of the roots of the derivative of prod_i (1 - x_i t).

    Parameters
    ----------
    x : array, shape (..., r)
        Descending, not negative; zeros count for nothing.
    w : array, shape (..., r)
        Not negative.

    Returns
    -------
    array, shape (..., r - 1)
        Descending; zero where the lower neighbour is.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = np.log(x[..., 1:]), np.log(x[..., :-1])
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            f = np.sum(w[..., None, :] / (x[..., None, :] - np.exp(middle)[..., None]), axis=-1)
            low, high = np.where(f < 0, middle, low), np.where(f < 0, high, middle)
        return np.where(x[..., 1:] > 0, np.exp((low + high) / 2), 0.0)


def largest_root(x: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Return the largest root of the mean characteristic polynomial of what k columns leave, shape (...).

    It is the reciprocal of the least root of the k-th derivative of prod_i (1 - x_i t); zero where k columns leave
    nothing. The mean is that of volume sampling.

    Parameters
    ----------
    x : array, shape (..., r)
        Squared singular values, descending.
    k : int
        Not negative.
    """
    if k >= x.shape[-1]:
        return np.zeros(x.shape[:-1])
    for _ in range(k):
        x = secular_roots(x, x)
    return x[..., 0]


@theorem(
    "spectral",
    "some subset",
    "cai2024",
    "min_S T <= 1/(least root of the k-th derivative of prod (1 - s_i^2 t))",
    derived=True,
)
def interlacing_spectrum(s: ArrayLike, k: int) -> float:
    """Return the factor that some k columns have in the spectral norm, from the spectrum, squared [cai2024].

    min_S T is at most the largest root of the mean of the characteristic polynomials det(x - E_S E_S^T), E_S = A -
    P_S A, under volume sampling of k columns; the method `interlacing` finds such columns. Needs rank(A) >= k.

    Parameters
    ----------
    s : array_like
        All singular values of A (missing ones count as zero).
    k : int

    Examples
    --------
    >>> round(interlacing_spectrum([1.0, 1.0, 1.0, 1.0], 2), 12)
    1.0
    >>> round(interlacing_spectrum([1e9, 1.0, 1.0, 1.0], 1), 6)
    4.0
    """
    values = check_spectrum(s)
    k = check_int("k", k, 1)
    if values.size < k or values[k - 1] == 0.0:
        raise ValueError(f"s must hold at least k = {k} positive values: the volume law needs rank >= k")
    if values.size == k or values[k] == 0.0:
        return math.inf
    with np.errstate(over="ignore", under="ignore"):
        squares = (values / values[k]) ** 2
    return float(largest_root(np.minimum(squares, np.finfo(np.float64).max), k))


@theorem(
    "spectral",
    "some subset",
    "cai2024",
    "min_S T <= s_{k+1}^2/(least root of the k-th derivative of t^k (1 - t)^N), N = min(m, n) - k",
    derived=True,
)
def interlacing(m: int, n: int, k: int) -> float:
    """Return the factor that some k columns have in the spectral norm, whatever the spectrum, squared [cai2024].

    The limit of `interlacing_spectrum` as s_1, ..., s_k grow and s_{k+1}, ... are equal, which is its supremum: the
    reciprocal of the least zero of a Jacobi polynomial on [0, 1], found as an eigenvalue of its three-term
    recurrence. At most 1 + k (min(m, n) - k), with equality at k = 1 and k = min(m, n) - 1; so it is never above
    `exact_spectral`.

    Examples
    --------
    >>> round(interlacing(6, 10, 1), 6)
    6.0
    >>> round(interlacing(6, 10, 2), 6)
    8.162278
    """
    m, n = check_int("m", m, 1), check_int("n", n, 1)
    k = check_int("k", k, 1, min(m, n), "min(m, n)")
    N = min(m, n) - k
    if N == 0:
        return 1.0
    i, b = np.arange(min(k, N), dtype=np.float64), float(abs(N - k))
    diagonal = (2 * i * (i + b + 1) + b) / np.maximum((2 * i + b) * (2 * i + b + 2), 1)
    diagonal[0] = 1 / (b + 2)
    i = i[1:]
    beside = i * (i + b) / ((2 * i + b) * np.sqrt((2 * i + b) ** 2 - 1))
    least = scipy.linalg.eigh_tridiagonal(
        diagonal, beside, eigvals_only=True, select="i", select_range=(0, 0)
    )
    return float(1 / least[0])
