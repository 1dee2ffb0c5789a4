"""Leading right singular vectors: from an SVD, or from a Gaussian sketch where only those are needed.

Halko, Martinsson and Tropp, "Finding structure with randomness", SIAM Review 53(2):217-288, 2011, algorithms 4.4 and 5.1
[halko2011]. With V from a sketch the bounds of the methods hold against ‖A - A V Vᴴ‖_F² in place of the optimum; how far
the two are apart is a matter of chance and of the spectrum, so no factor is claimed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cssp.errors import ArgumentError
from cssp.linalg import adjoint, right_singular, svd

__all__ = ["OVERSAMPLE", "POWER", "exact_only", "leading_svd", "orthonormal"]

#: Rows of the sketch beyond k, and passes with AᴴA over it.
OVERSAMPLE, POWER = 10, 2


#: "auto" sketches where min(m, n) is at least this, and at least so many times the rows of the sketch.
LARGE, FEW = 1024, 8

#: Rows of a tall matrix that are factored together: they stay in the cache.
TILE = 4096


def orthonormal(Y: np.ndarray) -> np.ndarray:
    """Return the Q of a QR factorisation of Y (m, l), m ≥ l: of tiles of rows and then of their factors, as stable and faster."""
    if Y.shape[0] <= 2 * TILE or Y.shape[1] > TILE:
        return np.linalg.qr(Y)[0]
    tiles = [np.linalg.qr(Y[a : a + TILE]) for a in range(0, Y.shape[0], TILE)]
    S = np.linalg.qr(np.concatenate([R for _, R in tiles]))[0]
    parts = np.split(S, np.cumsum([R.shape[0] for _, R in tiles])[:-1])
    return np.concatenate([Q @ part for (Q, _), part in zip(tiles, parts, strict=True)])


def leading_svd(
    A: np.ndarray, k: int, how: str, rng: np.random.Generator, most: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the singular values and right singular vectors, as rows: all of them, or the first ``most``, or about k from a sketch.

    Parameters
    ----------
    A : array, shape (m, n)
    k : int
        How many are needed.
    how : {"exact", "sketched", "auto"}
        A sketch with at least half of min(m, n) rows saves nothing: there the SVD is taken. "auto" sketches large matrices
        of which few vectors are needed.
    """
    if how not in ("exact", "sketched", "auto"):
        raise ArgumentError(f"svd = {how!r}: expected 'exact', 'sketched' or 'auto'")
    m, n = A.shape
    l = k + OVERSAMPLE
    if how == "auto":
        how = "sketched" if min(m, n) >= max(LARGE, FEW * l) else "exact"
    if how == "exact" or 2 * l >= min(m, n):
        return right_singular(A, most)
    Q = np.linalg.qr(adjoint(rng.standard_normal((l, m)) @ A))[0]
    for _ in range(POWER):
        Q = np.linalg.qr(adjoint(A) @ np.linalg.qr(A @ Q)[0])[0]
    _, s, Wh = svd(A @ Q)
    return s, Wh @ adjoint(Q)


def exact_only(factor: Callable[[int, int, int], float | None]) -> Callable[..., float | None]:
    """Return a theorem's factor, for runs that took the singular vectors from an SVD."""

    def promised(m: int, n: int, k: int, svd: str = "exact") -> float | None:
        return factor(m, n, k) if svd == "exact" else None

    return promised
