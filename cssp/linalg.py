"""Numerics without policy: projections, column norms, bases and error traces in any Array-API namespace."""

from __future__ import annotations

import math
from typing import Any

import array_api_compat
import numpy as np
import scipy.linalg

__all__ = [
    "adjoint",
    "basis",
    "column_norms2",
    "error_trace",
    "gram",
    "host",
    "orthogonalise",
    "places",
    "project_off",
    "put",
    "squares",
    "svd",
    "take_columns",
    "widen",
]

Array = Any

#: Entries of a temporary block; residuals of many columns are formed in blocks of this size.
BLOCK = 1 << 22

#: Most columns of a matrix that is multiplied by its own transpose in one piece.
WIDEST = 8192


def _namespace(x: Array) -> Any:
    return array_api_compat.array_namespace(x)


def _is_complex(x: Array) -> bool:
    return _namespace(x).isdtype(x.dtype, "complex floating")


def host(x: Array) -> np.ndarray:
    """The array in host memory, without a copy where it is there already."""
    if isinstance(x, np.ndarray):
        return x
    if array_api_compat.is_torch_array(x):
        return x.detach().cpu().resolve_conj().resolve_neg().numpy()
    if array_api_compat.is_cupy_array(x):
        return x.get()
    try:
        return np.asarray(x)
    except (BufferError, RuntimeError, TypeError):  # on another device
        return np.from_dlpack(x, device="cpu")


def adjoint(X: Array) -> Array:
    """Conjugate transpose of a matrix, a view where X is real."""
    return _namespace(X).conj(X).T if _is_complex(X) else X.T


def conjugate(x: Array) -> Array:
    """Complex conjugate, x itself where it is real."""
    return _namespace(x).conj(x) if _is_complex(x) else x


def squares(X: Array) -> Array:
    """Squared moduli of the entries."""
    if (
        isinstance(X, np.ndarray) and X.dtype.kind == "f"
    ):  # in loops over short vectors the rest would cost more
        return X * X
    if _is_complex(X):
        xp = _namespace(X)
        re, im = xp.real(X), xp.imag(X)
        return re * re + im * im
    return X * X


def column_norms2(X: Array) -> Array:
    """Squared norms of the columns, shape (n,), in the real precision of X; formed block by block."""
    xp = _namespace(X)
    m, n = X.shape
    if isinstance(X, np.ndarray) and X.dtype.kind == "f":
        # One pass, no temporary; sums of sums keep rounding small.
        rows = 256 if X.strides[0] > X.strides[1] else 1024
        blocks = [np.einsum("ij,ij->j", X[a : a + rows], X[a : a + rows]) for a in range(0, m, rows)]
        return np.sum(blocks, axis=0) if blocks else np.zeros(n, dtype=X.dtype)
    step = max(1, BLOCK // max(1, m))
    parts = [xp.sum(squares(X[:, a : min(a + step, n)]), axis=0) for a in range(0, n, step)]
    return parts[0] if len(parts) == 1 else xp.concat(parts)


def gram(X: Array) -> Array:
    """XᴴX, by blocks of columns where there are many.

    NumPy hands the product of an array with its own transpose to a routine of BLAS that crashes in threaded OpenBLAS for
    some 15,000 columns and more (numpy issue 19685); the product with a part of itself goes another way.
    """
    n = X.shape[1]
    if n <= WIDEST:
        return adjoint(X) @ X
    xp = _namespace(X)
    G = xp.empty((n, n), dtype=X.dtype, device=array_api_compat.device(X))
    for a in range(0, n, WIDEST):
        G[:, a : a + WIDEST] = adjoint(X) @ X[:, a : min(a + WIDEST, n)]
    return G


def frobenius2(X: Array) -> float:
    """Squared Frobenius norm."""
    return float(_namespace(X).sum(column_norms2(X)))


def take_columns(X: Array, index: Any) -> Array:
    """Columns of X in the given order, stored the way X is stored (by rows or by columns)."""
    xp = _namespace(X)
    place = xp.asarray(index, dtype=xp.int64, device=array_api_compat.device(X))
    strides = X.stride() if array_api_compat.is_torch_array(X) else getattr(X, "strides", (1, 0))
    if strides is not None and strides[0] < strides[1]:
        return xp.take(X.T, place, axis=0).T
    return xp.take(X, place, axis=1)


def places(mask: Array) -> np.ndarray:
    """Where a bool vector is True, on the host: of a shape that depends on data, not all namespaces have arrays."""
    return np.flatnonzero(host(mask))


def put(x: Array, mask: Array, values: Array) -> Array:
    """The vector x with the values, in their order, where the mask is True; at least one place is."""
    xp = _namespace(x)
    source = np.maximum(np.cumsum(host(mask)) - 1, 0)
    return xp.where(mask, xp.take(values, xp.asarray(source, device=array_api_compat.device(x)), axis=0), x)


def widen(X: Array) -> Array:
    """X in double precision, where its device has it."""
    xp = _namespace(X)
    if "mps" in str(array_api_compat.device(X)):
        return X
    return xp.astype(X, xp.complex128 if _is_complex(X) else xp.float64, copy=False)


def project_off(X: Array, Q: Array) -> Array:
    """X - Q Qᴴ X, projected twice: "twice is enough" (Giraud, Langou, Rozložník 2005)."""
    if Q.shape[1] == 0:
        return X
    Qh = adjoint(Q)
    X = X - Q @ (Qh @ X)
    return X - Q @ (Qh @ X)


def svd(A: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thin SVD on the host; the slow and sure driver where the fast one does not converge."""
    try:
        return scipy.linalg.svd(A, full_matrices=False, check_finite=False)
    except np.linalg.LinAlgError:
        return scipy.linalg.svd(A, full_matrices=False, check_finite=False, lapack_driver="gesvd")


def orthogonalise(a: Array, Q: Array) -> tuple[Array, float]:
    """Part of the vector a orthogonal to the orthonormal columns of Q, and its norm."""
    e = project_off(a, Q)
    return e, math.sqrt(float(_namespace(e).sum(squares(e))))


def residual_norms2(X: Array, Q: Array) -> Array:
    """Squared norms of the columns of X - Q Qᴴ X, formed explicitly block by block, so that none cancels."""
    xp = _namespace(X)
    m, n = X.shape
    step = max(1, BLOCK // max(1, m))
    return xp.concat([column_norms2(project_off(X[:, a : min(a + step, n)], Q)) for a in range(0, n, step)])


def basis(C: Array, floor: float) -> tuple[Array, list[bool]]:
    """Orthonormal basis of the columns of C, built in their order.

    A column whose residual norm against the previous ones is at most ``floor`` is dependent and adds no
    direction.

    Parameters
    ----------
    C : array, shape (m, k)
    floor : float
        In the unit of C.

    Returns
    -------
    Q : array, shape (m, r)
        Column s is the direction added by the s-th independent column.
    independent : list of bool, length k
        r of them are True.
    """
    xp = _namespace(C)
    m, k = C.shape
    if k == 0:
        return C, []
    if k <= m:
        Q, R = xp.linalg.qr(C)
        if float(xp.min(xp.abs(xp.linalg.diagonal(R)))) > floor:
            return Q, [True] * k
    # Householder QR would go on with an arbitrary direction after a dependent column; start again, one by
    # one.
    Q = xp.zeros((m, min(m, k)), dtype=C.dtype, device=array_api_compat.device(C))
    independent, r = [False] * k, 0
    for t in range(k):
        if r == m:
            break
        q, norm = orthogonalise(C[:, t], Q[:, :r])
        if norm > floor:
            Q[:, r] = q / norm
            independent[t], r = True, r + 1
    return Q[:, :r], independent


def error_trace(C: Array, B: Array, floor: float) -> np.ndarray:
    """Squared Frobenius residual of B after projecting on the first 0, 1, ..., k columns of C.

    The last entry is the squared norm of an explicit residual, and the others add the directions' energies
    to it from the back, so that all have *relative* accuracy: ‖B‖² - Σ‖qᴴB‖² would lose every digit of a
    small residual.

    Parameters
    ----------
    C : array, shape (m, k)
    B : array, shape (m, p)
    floor : float
        Residual norm at or below which a column of C counts as dependent, in the unit of C.

    Returns
    -------
    errors : float64 array, shape (k + 1,), nonincreasing
    """
    xp = _namespace(B)
    Q, independent = basis(C, floor)
    Qh = adjoint(Q)
    G = Qh @ B
    R = B - Q @ G
    if frobenius2(R) < 1e-10 * frobenius2(B):
        again = Qh @ R
        R, G = R - Q @ again, G + again
    gains = np.zeros(len(independent))
    gains[independent] = host(xp.sum(squares(G), axis=1))
    tail = np.cumsum(gains[::-1])[::-1]
    return frobenius2(R) + np.append(tail, 0.0)
