"""Leading right singular vectors: from an SVD, or from a Gaussian sketch where only those are needed.

Halko, Martinsson and Tropp, "Finding structure with randomness", SIAM Review 53(2):217-288, 2011, algorithms 4.4 and 5.1
[halko2011]. With V from a sketch the bounds of the methods hold against ‖A - A V Vᴴ‖_F² in place of the optimum; how far
the two are apart is a matter of chance and of the spectrum, so no factor is claimed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.linalg import solve_triangular

from cssp import linalg
from cssp.errors import ArgumentError
from cssp.linalg import adjoint, blocks, gram, squares, svd, triangle

__all__ = ["OVERSAMPLE", "POWER", "Vectors", "exact_only", "leading_svd", "orthonormal", "right_singular"]

#: Rows of the sketch beyond k, and passes with AᴴA over it.
OVERSAMPLE, POWER = 10, 2


#: "auto" sketches where min(m, n) is at least this, and at least so many times the rows of the sketch.
LARGE, FEW = 1024, 8

#: Right singular vectors of a wide matrix are nearly orthonormal where the smallest singular value is not below this share of the largest.
NEARLY = 1e-3

#: Rows of a tall matrix that are factored together: they stay in the cache.
TILE = 4096


@dataclass(frozen=True)
class Vectors:
    """Right singular vectors, which are the rows of M F and formed only as far as they are asked for.

    Attributes
    ----------
    F : array, shape (l, n)
        The matrix whose vectors they are, where that is wide.
    M : array, shape (r, l), or None
        None stands for the identity.
    first : int array, shape (n,), or None
        The column that each column is to equal.
    least : float
        Rows of M F are orthonormal but for rounding where the norms of those of M are at most 1/``least``.
    """

    F: np.ndarray
    M: np.ndarray | None = None
    first: np.ndarray | None = None
    least: float = 0.0

    def __len__(self) -> int:
        return len(self.F if self.M is None else self.M)

    def __getitem__(self, rows: Any) -> Vectors:
        """Return some of the vectors, orthonormal."""
        if self.M is None:
            return replace(self, F=self.F[rows])
        some = replace(self, M=self.M[rows])
        return Vectors(some.formed(), first=self.first) if some._magnified().size else some

    def _magnified(self) -> np.ndarray:
        """Return the rows that are to be made orthonormal once more, the shortest of M first; none where rounding has done little."""
        if self.M is None:
            return np.zeros(0, dtype=np.int64)
        norms = np.linalg.norm(self.M, axis=1)
        order = np.argsort(norms)
        return order[norms[order] > 0][: len(order) * int(self.least * norms.max(initial=0) > 1)]

    def columns(self, place: Any) -> np.ndarray:
        """Return some columns, shape (r, c)."""
        X = self.F[:, place if self.first is None else self.first[place]]
        return X if self.M is None else self.M @ X

    def norms2(self, weights: np.ndarray | None = None, place: np.ndarray | None = None) -> np.ndarray:
        """Return the squared norms of the columns, or of those at ``place``, each row taken so many times."""
        if self.first is not None:
            own, again = np.unique(self.first if place is None else self.first[place], return_inverse=True)
            return replace(self, first=None).norms2(weights, own)[again]
        sums = np.empty(self.F.shape[1] if place is None else place.size)
        w = np.ones(len(self)) if weights is None else weights
        for part in blocks(self.F[:, : sums.size]):
            sums[part] = w @ squares(self.columns(part if place is None else place[part]))
        return sums

    def formed(self) -> np.ndarray:
        """Return all of them, shape (r, n), orthonormal."""
        V = self.F
        if self.M is not None:
            V = np.empty((len(self), self.F.shape[1]), dtype=np.result_type(self.M, self.F))
            for part in blocks(self.F):
                np.matmul(self.M, self.F[:, part], out=V[:, part])
        rows = self._magnified()
        if rows.size:
            try:
                L = np.linalg.cholesky(gram(adjoint(V))[np.ix_(rows, rows)])
                for part in blocks(V):
                    V[rows, part] = solve_triangular(L, V[rows, part], lower=True, check_finite=False)
            except np.linalg.LinAlgError:  # rounding all over
                V[rows] = adjoint(np.linalg.qr(adjoint(V[rows]))[0])
        return V if self.first is None else V[:, self.first]


def orthonormal(Y: np.ndarray) -> np.ndarray:
    """Return the Q of a QR factorisation of Y (m, l), m ≥ l: of tiles of rows and then of their factors, as stable and faster."""
    if Y.shape[0] <= 2 * TILE or Y.shape[1] > TILE:
        return np.linalg.qr(Y)[0]
    tiles = [np.linalg.qr(Y[a : a + TILE]) for a in range(0, Y.shape[0], TILE)]
    S = np.linalg.qr(np.concatenate([R for _, R in tiles]))[0]
    parts = np.split(S, np.cumsum([R.shape[0] for _, R in tiles])[:-1])
    return np.concatenate([Q @ part for (Q, _), part in zip(tiles, parts, strict=True)])


def right_singular(A: np.ndarray, most: int | None = None) -> tuple[np.ndarray, Vectors]:
    """Return the singular values of A and its first ``most`` right singular vectors, all min(m, n) by default.

    Those of a wide matrix come from its triangular factor: with AAᴴ = RᴴR and R = U diag(s) Wᴴ they are diag(1/s) WᴴA, made
    orthonormal once more, the largest first, where division by small s has magnified rounding. They are zero where s is rounding.
    """
    m, n = A.shape
    if n < linalg.WIDE * m or m * n < linalg.LARGE:
        _, s, Vh = svd(A)
        return s, Vectors(Vh[:most])
    _, s, Wh = svd(triangle(A))
    r = int(np.count_nonzero(s > np.finfo(s.dtype).eps * s[0]))
    M = np.zeros_like(Wh)
    M[:r] = Wh[:r] / s[:r, None]
    return s, Vectors(A, M[:most], least=NEARLY * float(s[0]))


def leading_svd(
    A: np.ndarray, k: int, how: str, rng: np.random.Generator, most: int | None = None
) -> tuple[np.ndarray, Vectors]:
    """Return the singular values and right singular vectors: all of them, or the first ``most``, or about k from a sketch.

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
    return s, Vectors(Wh @ adjoint(Q))


def exact_only(factor: Callable[[int, int, int], float | None]) -> Callable[..., float | None]:
    """Return a theorem's factor, for runs that took the singular vectors from an SVD."""

    def promised(m: int, n: int, k: int, svd: str = "exact") -> float | None:
        return factor(m, n, k) if svd == "exact" else None

    return promised
