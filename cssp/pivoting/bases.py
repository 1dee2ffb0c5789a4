"""Orthonormal bases of a block of columns by products of matrices, where that is safe.

Cholesky QR costs two products and loses the square of the condition number, so it is taken where columns are clearly
independent, and repeated.
"""

from __future__ import annotations

import math

import numpy as np

from cssp import linalg
from cssp.linalg import squares
from cssp.pivoting import tie_bar

__all__ = ["basis", "orthonormal", "pivots", "reorthonormalised"]

#: Cholesky QR is taken where it adds no more than this factor to the rounding of textbook orthogonalisation.
CANCELLED = 16

#: Columns of a panel.
PANEL = 32


def pivots(
    G: np.ndarray,
    N: np.ndarray,
    slack: np.ndarray,
    first: int,
    length: int,
    least: float,
    eps: float,
    R: np.ndarray | None = None,
    t: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return up to ``length`` more pivots of Cholesky's factor of G with the ties of the rule, and their rows of the factor.

    Parameters
    ----------
    G : array, shape (b, b)
        Gram matrix of residuals.
    N : array, shape (b,)
        Squared norms, minus infinity for columns that may not be picked.
    slack : array, shape (b,)
        Rounding of the norms.
    first : int
        The first pivot.
    least : float
        Pivots end where the squared norm is no more than that.
    R : array, shape (at least t + length, b), optional
        Its first t rows are those of the pivots so far; the new ones are written behind them.
    """
    if R is None:
        R = np.empty((length, len(N)), dtype=G.dtype)
    order = np.empty(length, dtype=np.int64)
    d, fair = np.array(N), np.empty_like(N)
    j, complex_ = first, G.dtype.kind == "c"
    for s in range(length):
        height = float(d[j])
        if not height > least:
            return order[:s], R[t : t + s]
        row, known, root = R[t + s], R[: t + s, j], math.sqrt(height)
        np.dot(known.conj() if complex_ else known, R[: t + s], out=row)
        np.subtract(G[j], row, out=row)
        row /= root
        row[j], order[s] = root, j
        d -= squares(row) if complex_ else np.multiply(row, row, out=fair)
        d[j] = -math.inf
        np.add(d, slack, out=fair)
        j = int((fair >= tie_bar(float(d[d.argmax()]), eps)).argmax())
    return order, R[t : t + length]


def orthonormal(E: np.ndarray, R: np.ndarray) -> np.ndarray:
    """Return rows that span the first 1, 2, ... rows of E, orthonormal where R, the Cholesky factor of their Gram matrix, is accurate.

    Rows are combined with weights R⁻¹, or by Householder QR where these weights cancel more than the residuals themselves do.
    """
    X = np.triu(np.linalg.inv(R))
    norms = np.sqrt(np.sum(squares(R), axis=0))
    cancelled = (norms @ np.abs(X)) * R.diagonal().real / norms
    if float(cancelled.max()) > CANCELLED:
        return np.linalg.qr(E.T)[0].T
    return X.T @ E


def reorthonormalised(V: np.ndarray) -> np.ndarray:
    """Orthonormalise nearly orthonormal rows by Cholesky QR, cut where they are no longer nearly orthonormal."""
    s = len(V)
    G = V.conj() @ V.T
    off = np.abs(G - np.eye(s))
    if float(off.max()) > 1 / (4 * s):
        s = int(np.argmax(np.max(np.tril(off), axis=1) > 1 / (4 * s)))
        if s < 2:
            return V[:s]
    return np.linalg.inv(np.linalg.cholesky(G[:s, :s])).conj() @ V[:s]


def basis(C: np.ndarray, noise: float, known: np.ndarray | None = None) -> np.ndarray:
    """Return an orthonormal basis of the columns of C: panel by panel by Cholesky QR, where clearly independent, else one by one.

    The basis of the first columns may be ``known``.
    """
    V, clear = np.empty(C.shape[::-1], dtype=C.dtype), float(np.finfo(C.dtype).eps) ** 0.25
    begun = 0 if known is None else known.shape[1]
    if known is not None:
        V[:begun] = known.T
    for a in range(begun, len(V), PANEL):
        E = linalg.project_off(C[:, a : a + PANEL], V[:a].T).T
        try:
            R = np.linalg.cholesky(E.conj() @ E.T).conj().T
        except np.linalg.LinAlgError:
            return linalg.basis(C, noise)[0]
        d = R.diagonal().real  # residual norms of the columns, in order
        if not float(d.min()) > max(noise, clear * float(d.max())):
            return linalg.basis(C, noise)[0]
        E = linalg.project_off(orthonormal(E, R).T, V[:a].T, times=1).T
        E = reorthonormalised(E)
        if len(E) < len(R):
            return linalg.basis(C, noise)[0]
        V[a : a + PANEL] = E
    return V.T
