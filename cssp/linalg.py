"""Numerics without policy: projections, column norms, bases and error traces in any Array-API namespace."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import array_api_compat
import numpy as np
import scipy.linalg

__all__ = [
    "adjoint",
    "basis",
    "blocks",
    "column_norms2",
    "error_trace",
    "first_independent",
    "gram",
    "host",
    "in_host_memory",
    "independent_columns",
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

#: Entries of a temporary block; residuals of many columns are formed in blocks of this size. In host memory blocks are smaller, to
#: stay in the cache, but of so many columns at least.
BLOCK, CACHED, COLUMNS = 1 << 22, 1 << 18, 64

#: Fewest rows that are read at a time for a triangular factor, and its largest order.
SLAB, SQUARE = 4096, 5120

#: Entries of rows that are folded into it at once, which stay in the cache, most and fewest such rows, and columns of a block reflector.
FOLDED, MOST_FOLDED, FEWEST_FOLDED, REFLECTORS = 1 << 18, 2048, 256, 16

#: From so many columns for each row on, and so many entries, singular vectors of a matrix come from its triangular factor.
WIDE, LARGE = 8, 1 << 20

#: Coefficients are compared with those of a truncated SVD where a singular value is below so many times max(m, k)·eps
#: times the largest, for so many places to truncate it.
ROUNDING_CUT, CUTS = 1e4, 12

#: Share of a squared norm below which what is left of a column is projected again.
LITTLE = 1e-10

#: Residuals above so many times √eps can be distinguished by a Gram matrix.
GRAM_RESOLVES = 64

#: Most columns of a matrix that is multiplied by its own transpose in one piece.
WIDEST = 8192


def _namespace(x: Array) -> Any:
    return array_api_compat.array_namespace(x)


def _is_complex(x: Array) -> bool:
    return _namespace(x).isdtype(x.dtype, "complex floating")


def host(x: Array) -> np.ndarray:
    """Return the array in host memory, without a copy where it is there already."""
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


def in_host_memory(x: Array) -> bool:
    """Return whether `host` returns the array without a copy."""
    return isinstance(x, np.ndarray) or (array_api_compat.is_torch_array(x) and x.device.type == "cpu")


def adjoint(X: Array) -> Array:
    """Return the conjugate transpose of a matrix, a view where X is real."""
    return _namespace(X).conj(X).T if _is_complex(X) else X.T


def conjugate(x: Array) -> Array:
    """Return the complex conjugate, x itself where it is real."""
    return _namespace(x).conj(x) if _is_complex(x) else x


def squares(X: Array) -> Array:
    """Return the squared moduli of the entries."""
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
    """Return the squared norms of the columns, shape (n,), in the real precision of X; formed block by block."""
    xp = _namespace(X)
    m, n = X.shape
    if isinstance(X, np.ndarray) and X.dtype.kind == "f":
        # One pass, no temporary; sums of sums keep rounding small.
        rows = 256 if X.strides[0] > X.strides[1] else 1024
        sums = [np.einsum("ij,ij->j", X[a : a + rows], X[a : a + rows]) for a in range(0, m, rows)]
        return np.sum(sums, axis=0) if sums else np.zeros(n, dtype=X.dtype)
    parts = [xp.sum(squares(X[:, part]), axis=0) for part in blocks(X)]
    return xp.concat(parts) if len(parts) > 1 else parts[0] if parts else xp.sum(squares(X), axis=0)


def gram(X: Array) -> Array:
    """Return XᴴX, by blocks of columns where there are many.

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
    """Return the squared Frobenius norm."""
    return float(_namespace(X).sum(column_norms2(X)))


def take_columns(X: Array, index: Any) -> Array:
    """Return the columns of X in the given order, stored the way X is stored (by rows or by columns)."""
    xp = _namespace(X)
    place = xp.asarray(index, dtype=xp.int64, device=array_api_compat.device(X))
    if _by_columns(X):
        return xp.take(X.T, place, axis=0).T
    return xp.take(X, place, axis=1)


def places(mask: Array) -> np.ndarray:
    """Return where a bool vector is True, on the host: of a shape that depends on data, not all namespaces have arrays."""
    return np.flatnonzero(host(mask))


def put(x: Array, mask: Array, values: Array) -> Array:
    """Return the vector x with the values, in their order, where the mask is True; at least one place is."""
    xp = _namespace(x)
    source = np.maximum(np.cumsum(host(mask)) - 1, 0)
    return xp.where(mask, xp.take(values, xp.asarray(source, device=array_api_compat.device(x)), axis=0), x)


def widen(X: Array) -> Array:
    """Return X in double precision, where its device has it."""
    xp = _namespace(X)
    if "mps" in str(array_api_compat.device(X)):
        return X
    return xp.astype(X, xp.complex128 if _is_complex(X) else xp.float64, copy=False)


def project_off(X: Array, Q: Array, times: int = 2) -> Array:
    """Return X - Q Qᴴ X, stored the way X is; projected twice: "twice is enough" (Giraud, Langou, Rozložník 2005)."""
    if Q.shape[1] == 0:
        return X
    Qh = adjoint(Q)
    for _ in range(times):
        X = X - ((X.T @ Qh.T) @ Q.T).T if X.ndim == 2 and _by_columns(X) else X - Q @ (Qh @ X)
    return X


def _by_columns(X: Array) -> bool:
    """Return whether the entries of a column of a matrix lie side by side."""
    strides = X.stride() if array_api_compat.is_torch_array(X) else getattr(X, "strides", None)
    return strides is not None and strides[0] < strides[1]


def svd(A: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the thin SVD on the host; the slow and sure driver where the fast one does not converge."""
    try:
        return scipy.linalg.svd(A, full_matrices=False, check_finite=False)
    except np.linalg.LinAlgError:
        return scipy.linalg.svd(A, full_matrices=False, check_finite=False, lapack_driver="gesvd")


def orthogonalise(a: Array, Q: Array) -> tuple[Array, float]:
    """Return the part of the vector a orthogonal to the orthonormal columns of Q, and its norm."""
    e = project_off(a, Q)
    return e, math.sqrt(float(_namespace(e).sum(squares(e))))


def residual_norms2(X: Array, Q: Array) -> Array:
    """Return the squared norms of the columns of X - Q Qᴴ X, formed explicitly block by block, so that none cancels."""
    return _namespace(X).concat([column_norms2(project_off(X[:, part], Q)) for part in blocks(X)])


def basis(C: Array, cut: float) -> tuple[Array, list[bool]]:
    """Return an orthonormal basis of the columns of C, in their order, and which columns add to it.

    The rank is that of column-pivoted QR: the number of pivots above ``cut``. Where it is below k, the columns that
    depend on the others are set aside, the latest ones first.

    Parameters
    ----------
    C : array, shape (m, k)
    cut : float
        In the unit of C.

    Returns
    -------
    Q : array, shape (m, r)
        Column s is the direction added by the s-th independent column.
    independent : list of bool, length k
        r of them are True.
    """
    xp = _namespace(C)
    k = C.shape[1]
    if k == 0:
        return C, []
    quick = _cholesky_qr(C)
    Q, R = quick or xp.linalg.qr(C)
    # No pivot is below the least singular value, nor is that below 1/‖R⁻¹‖_F.
    if quick and cut * np.linalg.norm(np.linalg.inv(widen(host(R)))) < 1:
        return Q, [True] * k
    independent = first_independent(host(R), cut)
    kept = np.flatnonzero(independent)
    if kept.size == k:
        return Q, [True] * k
    if kept.size and kept[-1] >= kept.size:  # not simply the first ones
        Q = Q @ xp.linalg.qr(take_columns(R, kept))[0]
    return Q[:, : kept.size], independent.tolist()


def _cholesky_qr(C: Array) -> tuple[Array, Array] | None:
    """Return Q and R of the QR decomposition, by Cholesky's of CᴴC in double precision; None where unit columns are ill-conditioned.

    It costs products of matrices alone. The error of Q is κ²·eps for columns that are κ from dependence when divided by their norms; a
    second time, which data in single precision does not need, κ is 1 [yamamoto2015].
    """
    xp, E = _namespace(C), widen(C)
    norms, most = xp.sqrt(column_norms2(E)), float(xp.finfo(E.dtype).eps) ** -0.25
    if not (float(xp.min(norms)) > 0 and float(xp.max(norms)) < math.inf):
        return None
    E, R = E / norms, np.diag(host(norms))
    for first in (True, False)[: 1 if E.dtype != C.dtype else 2]:
        G = host(adjoint(E) @ E)
        try:
            L = np.linalg.cholesky(G)
        except np.linalg.LinAlgError:
            return None
        X = np.triu(np.linalg.inv(L).conj().T)
        if first and not np.linalg.norm(L) * np.linalg.norm(X) < most:
            lam = np.linalg.eigvalsh(G)
            if not lam[-1] < most**2 * lam[0]:
                return None
        E, R = E @ xp.asarray(X, dtype=E.dtype, device=array_api_compat.device(C)), L.conj().T @ R
    return xp.astype(E, C.dtype), xp.asarray(R, dtype=C.dtype, device=array_api_compat.device(C))


def independent_columns(C: Array, cut: float) -> list[bool]:
    """Return which columns add to the basis, as `basis` says, without a basis: from the Gram matrix, where ``cut`` is far above
    what that can resolve."""
    xp = _namespace(C)
    norms2 = column_norms2(C)
    scale = math.sqrt(float(xp.max(norms2))) if C.shape[1] else 0.0
    eps = float(xp.finfo(C.dtype).eps)
    if not C.shape[1] or cut < GRAM_RESOLVES * math.sqrt(eps) * scale:
        return basis(C, cut)[1]
    G = host(gram(C))
    with contextlib.suppress(np.linalg.LinAlgError):
        if 2 * cut * np.linalg.norm(np.linalg.inv(np.linalg.cholesky(G))) < 1:
            return [True] * C.shape[1]
    lam, V = np.linalg.eigh(G)
    if lam[0] > 4 * cut**2:
        return [True] * C.shape[1]
    return first_independent(np.sqrt(np.maximum(lam, 0))[:, None] * V.conj().T, cut).tolist()


def first_independent(R: np.ndarray, cut: float) -> np.ndarray:
    """Return which columns of a matrix of few rows to keep, so that as many as its rank remain, the earliest where possible.

    Pivoted QR decides how many: one column after the other, a small residual would get a direction made of rounding, and
    columns that depend on it would count as independent. With F = [F₁ F₂] the pivoted factor, the columns of
    N = [-F₁⁻¹F₂; I] say how the columns depend on each other: those can be set aside whose rows of N are independent.
    """
    k = R.shape[1]
    R = _without_negligible_parts(R)
    F, order = scipy.linalg.qr(R, mode="r", pivoting=True, check_finite=False)
    r = int(np.count_nonzero(np.abs(np.diagonal(F)) > cut))
    keep = np.ones(k, dtype=bool)
    if r == k:
        return keep
    norms = np.sqrt(column_norms2(R))
    keep[norms <= cut] = False
    rest = order[r:][keep[order[r:]]]
    if not rest.size:
        return keep
    N = np.zeros((k, rest.size), dtype=R.dtype)
    N[order[:r]] = -scipy.linalg.solve_triangular(
        F[:r, :r], F[:r, r:][:, keep[order[r:]]], check_finite=False
    )
    N[rest, np.arange(rest.size)] = 1
    N *= norms[:, None]
    N /= np.sqrt(column_norms2(N))
    for clear in (float(np.finfo(R.dtype).eps) ** 0.25, 0.02, 0.3):
        kept = _set_aside(N, keep, clear)
        if np.count_nonzero(kept) == r and _least_pivot(R[:, kept]) > cut / 2:
            return kept
    keep[:] = False  # the earliest are too close to dependence
    keep[order[:r]] = True
    return keep


def _set_aside(N: np.ndarray, keep: np.ndarray, clear: float) -> np.ndarray:
    """Return the columns kept but for as many as N has, the latest ones whose rows of N are independent by more than ``clear``."""
    kept = keep.copy()
    V = np.zeros((N.shape[1], N.shape[1]), dtype=N.dtype)  # rows of N set aside, orthonormal
    taken = 0
    for j in np.flatnonzero(keep)[::-1]:
        if taken == N.shape[1]:
            break
        v = N[j]
        for _ in range(2):
            v = v - (v @ V[:taken].conj().T) @ V[:taken]
        size = float(np.linalg.norm(v))
        if size > clear:
            V[taken], kept[j], taken = v / size, False, taken + 1
    return kept


def _without_negligible_parts(R: np.ndarray) -> np.ndarray:
    """Return R with parts of entries set to zero that are beyond rounding of rounding: complex LAPACK fails on subnormal ones."""
    X = np.ascontiguousarray(R)
    X = X.view(X.real.dtype)
    eps = float(np.finfo(X.dtype).eps)
    return np.where(np.abs(X) > eps**2 * np.max(np.abs(X)), X, X.dtype.type(0)).view(R.dtype)


def _least_pivot(R: np.ndarray) -> float:
    F = scipy.linalg.qr(R, mode="r", pivoting=True, check_finite=False)[0]
    return float(np.min(np.abs(np.diagonal(F)), initial=math.inf))


def folded(R: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return R of a QR decomposition of [R; rows]; R, upper triangular, is overwritten."""
    tpqrt = scipy.linalg.get_lapack_funcs("tpqrt", (R,))
    step = min(MOST_FOLDED, max(FEWEST_FOLDED, FOLDED // len(R)))
    for a in range(0, len(rows), step):
        X = np.array(rows[a : a + step], dtype=R.dtype, order="F")  # a copy: it is overwritten
        R = tpqrt(0, min(REFLECTORS, len(R)), R, X, overwrite_a=True, overwrite_b=True)[0]
    return R


def triangle(B: Array, *beside: Array) -> np.ndarray:
    """Return R, upper triangular of order min(m, n), with RᴴR = BBᴴ where m ≤ n and BᴴB elsewhere, in double precision.

    By orthogonal transformations, so that small singular values are as good as in an SVD of B, which is widened slab by slab.
    Matrices ``beside`` B stand to its right.
    """
    parts = (B, *beside)
    m, n = B.shape[0], sum(X.shape[1] for X in parts)
    order, length = min(m, n), max(m, n)
    step = max(SLAB, BLOCK // order)
    R = np.zeros((order, order), dtype=host(widen(B[:1, :1])).dtype, order="F")
    for a in range(0, length, step):
        part = slice(a, min(a + step, length))
        if m > n:
            R = folded(R, np.concatenate([host(widen(X[part, :])) for X in parts], axis=1))
        else:
            R = folded(R, adjoint(host(widen(B[:, part]))))
    return R


def spectrum(
    R: np.ndarray, C: np.ndarray | None, picks: list[int], cut: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return, from a triangular factor of A, its singular values, its right singular vectors at the picks (rows of an array
    (min(m, n), k)), and the spectral norm of what the picks leave of it.

    Parameters
    ----------
    R : array, shape (min(m, n), min(m, n))
        As `triangle` gives it.
    C : array, shape (m, k), or None
        The chosen columns where m ≤ n; None elsewhere.
    """
    X, C_ = (R, R[:, picks]) if C is None else (adjoint(R), C)
    left = project_off(X, basis(C_, cut)[0])
    spectral = float(scipy.linalg.svdvals(left, overwrite_a=True, check_finite=False)[0])
    del X, left
    _, s, Vh = svd(R)
    if C is None:
        return s, Vh[:, picks], spectral
    inverse = np.divide(1, s, out=np.zeros_like(s), where=s > 0)
    return s, inverse[:, None] * (Vh @ C), spectral  # the right singular vectors of R are the left ones of A


def least_norm(R: Array, G: Array) -> Array:
    """Return the solution T of RT = G of least norm, for R (r, k) of rank r ≤ k."""
    xp = _namespace(R)
    r, k = R.shape
    try:
        if r == k:
            return xp.linalg.solve(R, G)
        Z, L = xp.linalg.qr(adjoint(R))
        return Z @ xp.linalg.solve(adjoint(L), G)
    except np.linalg.LinAlgError:  # of full rank but for rounding
        return np.linalg.lstsq(R, G)[0]


def truncated_solvers(C: Array, R: Array) -> list[tuple[Array, Array]]:
    """Return the pairs V, W with VW the pseudoinverse of C where the smallest singular values are zero, for the last `CUTS` of those
    that rounding of the coefficients may hide; none where no singular value is so small.

    Parameters
    ----------
    C : array, shape (m, k)
    R : array, shape (r, k)
        QᴴC for an orthonormal basis Q: its singular values are those of C.
    """
    xp = _namespace(R)
    s = svd(host(R))[1]
    if not s.size or s[-1] > ROUNDING_CUT * float(np.finfo(s.dtype).eps) * max(C.shape) * s[0]:
        return []
    U, s, Vh = svd(host(C))
    eps = float(np.finfo(s.dtype).eps)
    last = int(np.count_nonzero(s > eps * s[0]))
    first = int(np.count_nonzero(s > ROUNDING_CUT * eps * max(C.shape) * s[0]))
    pairs = [
        (Vh[:r].conj().T / s[:r], U[:, :r].conj().T) for r in range(max(first, last - CUTS, 1), last + 1)
    ]
    place = array_api_compat.device(R)
    return [(xp.asarray(V, device=place), xp.asarray(W, device=place)) for V, W in pairs]


def blocks(X: Array) -> Iterator[slice]:
    """Yield ranges of columns that hold about `BLOCK` entries each, in host memory `CACHED`."""
    m, n = X.shape
    step = max(1, BLOCK // max(1, m))
    if in_host_memory(X):
        step = min(step, max(COLUMNS, CACHED // max(1, m)))
    return (slice(a, min(a + step, n)) for a in range(0, n, step))


def left_after(Q: Array, B: Array) -> tuple[np.ndarray, np.ndarray]:
    """Return what each column of Q takes away from B, and the squared norms of the columns of B and of B - QQᴴB, in one pass.

    Residuals are formed explicitly and projected again where little is left, so that each is right to rounding of its column.

    Parameters
    ----------
    Q : array, shape (m, r)
        Orthonormal, in double precision.
    B : array, shape (m, p)
        Widened block by block.

    Returns
    -------
    energies : float64 array, shape (r,)
        ‖q_sᴴB‖².
    norms2 : float64 array, shape (2, p)
    """
    xp = _namespace(B)
    Qh = adjoint(Q)
    energies, norms2 = np.zeros(Q.shape[1]), [np.zeros((2, 0))]
    for part in blocks(B):
        X = widen(B[:, part])
        G = Qh @ X
        R = X - Q @ G
        energies += host(xp.sum(squares(G), axis=1))
        before, left = host(column_norms2(X)), np.array(host(column_norms2(R)))
        small = np.flatnonzero(left < LITTLE * before)
        if small.size:
            R = take_columns(R, small)
            again = Qh @ R
            G = take_columns(G, small)
            energies += host(xp.sum(squares(G + again) - squares(G), axis=1))
            left[small] = host(column_norms2(R - Q @ again))
        norms2.append(np.stack([before, left]))
    return energies, np.concatenate(norms2, axis=1)


def error_trace(Q: Array, independent: Sequence[bool], B: Array) -> np.ndarray:
    """Return the squared Frobenius residual of B after projecting on the first 0, 1, ..., k chosen columns.

    The last entry is the squared norm of an explicit residual, and the others add the directions' energies
    to it from the back, so that all have *relative* accuracy: ‖B‖² - Σ‖qᴴB‖² would lose every digit of a
    small residual. B is widened block by block.

    Parameters
    ----------
    Q : array, shape (m, r)
        Orthonormal, in double precision.
    independent : sequence of bool, length k
        Which columns brought a direction of Q, see `basis`.
    B : array, shape (m, p)

    Returns
    -------
    errors : float64 array, shape (k + 1,), nonincreasing
    """
    energies, norms2 = left_after(Q, B)
    return errors_of(energies, independent, float(np.sum(norms2[1])))


def errors_of(energies: np.ndarray, independent: Sequence[bool], left: float) -> np.ndarray:
    """Return the squared errors after 0, 1, ..., k columns, from what each direction takes away and what is left after all of them."""
    gains = np.zeros(len(independent))
    gains[np.asarray(independent, dtype=bool)] = energies
    return left + np.append(np.cumsum(gains[::-1])[::-1], 0.0)
