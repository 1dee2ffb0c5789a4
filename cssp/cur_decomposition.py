"""CUR decompositions: a matrix from some of its columns C, some of its rows R, and a small matrix U between them.

Mahoney and Drineas, "CUR matrix decompositions for improved data analysis", PNAS 106(3):697-702, 2009; the sum of two projection
errors bounds that of U = C⁺AR⁺ [sorensen2016]; cross approximation by U = A[rows, columns]⁻¹ [goreinov2001].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import array_api_compat
import numpy as np

from cssp import bounds, linalg, passes
from cssp.arguments import as_generator, check_options, find_method
from cssp.arrays import as_matrix
from cssp.certificate import ratio_of
from cssp.errors import ArgumentError, UnsupportedError, check_integer
from cssp.scaling import default_floating_errors
from cssp.select import select
from cssp.selection import Selection

__all__ = ["CUR", "CURCertificate", "cur"]

Array = Any

#: How U may be formed.
CORES = ("best", "cross")


@dataclass(frozen=True)
class CURCertificate:
    """What a CUR decomposition achieves against the best matrix of its rank.

    Attributes
    ----------
    squared_error : float
        ‖A - CUR‖_F².
    squared_optimum : float
        Σ_{i>k} σ_i², k the number of columns, or of rows where these are fewer.
    ratio : float
        squared_error / squared_optimum; 1 where both are within rounding of zero.
    factor : float or None
        What theorems promise for `ratio`; None where there is none for this method.
    source : str or None
        Bibliography key of the theorem that joins the bounds of the columns and of the rows.
    holds : str or None
        "every run" or "expectation".
    """

    squared_error: float
    squared_optimum: float
    ratio: float
    factor: float | None
    source: str | None
    holds: str | None

    def __str__(self) -> str:
        often = "in expectation " if self.holds == "expectation" else ""
        promise = "" if self.factor is None else f"; theorems promise {often}at most {self.factor:.3g} times"
        return f"{self.ratio:.3g} times the best matrix of this rank in squared error{promise}."


@dataclass(frozen=True, eq=False, repr=False)
class CUR:
    """A ≈ C @ U @ R.

    Attributes
    ----------
    C : array or sparse array, shape (m, k)
        ``A[:, columns]``, of the kind of A.
    U : array, shape (k, r)
        In double precision; dense.
    R : array or sparse array, shape (r, n)
        ``A[rows]``.
    columns, rows : int64 array, shape (k,) and (r,)
        In order of choice.
    relative_error : float
        ‖A - CUR‖_F / ‖A‖_F.
    core : str
        How U was formed.
    growth : float
        For ``core="cross"`` the factor, squared, by which the error may exceed that of projecting on the columns; 1 for "best".
    """

    C: Any
    U: Array
    R: Any
    columns: Array
    rows: Array
    relative_error: float
    core: str
    growth: float
    _by_column: Selection
    _by_row: Selection | None

    @cached_property
    def _certificate(self) -> CURCertificate:
        k, r = (int(x) for x in self.U.shape)
        first, total = self._by_column.certificate(), float(self._by_column.errors[0])
        best = _share(self._by_column)  # of ‖A‖_F²: squares themselves may be out of range
        m = int(self.C.shape[0])
        factor, source, holds = first.factor, "goreinov2001", first.holds
        least = first.squared_optimum
        if self._by_row is None:
            factor = None if factor is None else factor * bounds.strong_rrqr_basis(m, k)
        else:
            second = self._by_row.certificate()
            least, source = max(least, second.squared_optimum), "sorensen2016"
            parts = [(first.factor, best), (second.factor, _share(self._by_row))]
            best = max(share for _, share in parts)
            if any(f is None for f, _ in parts):
                factor = None
            elif k == r:
                factor = first.factor + second.factor
            else:
                factor = sum(f * share for f, share in parts) / best if best > 0 else None
        error2 = self.relative_error**2
        noise = (max(self.C.shape[0], self.R.shape[1]) * np.finfo(float).eps) ** 2
        known = factor is not None
        return CURCertificate(
            error2 * total,
            float(least),
            ratio_of(error2, best, noise),
            float(factor) if known else None,
            source if known else None,
            holds if known else None,
        )

    def certificate(self) -> CURCertificate:
        """Compare with the best approximation of the same rank and with theorems; costs an SVD of A."""
        return self._certificate

    def reconstruct(self) -> Array:
        """Return CUR, shape (m, n), dense."""
        xp = array_api_compat.array_namespace(self.U)
        if hasattr(self.C, "tocsc"):
            return self.C @ (self.U @ self.R.toarray())
        return xp.astype(self.C, self.U.dtype) @ (self.U @ xp.astype(self.R, self.U.dtype))

    def __repr__(self) -> str:
        (m, k), (r, n) = self.C.shape, self.R.shape
        return f"CUR(A: {m} x {n}, {k} columns, {r} rows, core={self.core!r}, relative_error={self.relative_error:.3g})"


def _share(sel: Selection) -> float:
    """Return the optimum of a selection's certificate over ‖A‖_F²."""
    return float(sel.relative_error) ** 2 / sel.certificate().ratio


@default_floating_errors
def cur(
    A: Array,
    k: int,
    rows: int | None = None,
    method: str = "residual",
    *,
    core: str = "best",
    rng: int | np.random.Generator | None = None,
    **options: Any,
) -> CUR:
    """Approximate A by k of its columns, some of its rows and a small matrix: A ≈ C @ U @ R.

    All of A is read; `cssp.sampled_cur` reads some rows and columns alone.

    Parameters
    ----------
    A : array, data frame or sparse matrix, shape (m, n)
        C and R of a sparse matrix are sparse.
    k : int
        Number of columns; as many as the numerical rank where that is less.
    rows : int, optional
        Number of rows, k by default.
    method : str
        Name of the row of `cssp.METHODS` that chooses columns, and rows as columns of Aᴴ.
    core : {"best", "cross"}
        "best": U = C⁺AR⁺, of least Frobenius error for these columns and rows; needs all of A. "cross": U = A[rows, columns]⁻¹,
        which needs C and R alone and reproduces them exactly. Its rows, as many as columns, are a strong rank-revealing choice
        on an orthonormal basis of C, which keeps the inverse stable; ``rows`` is not taken.
    rng, **options
        As `cssp.select` takes them; the options are the method's own.

    Returns
    -------
    CUR

    Raises
    ------
    CsspError
        A ``ValueError``; the message names the argument, what came and what is allowed.

    Notes
    -----
    "best": ‖A - CUR‖_F² ≤ ‖A - CC⁺A‖_F² + ‖A - AR⁺R‖_F², so the factors of the two choices add up [sorensen2016]. "cross":
    A - CUR = (I - C C_I⁻¹ E_I)(A - CC⁺A) for the rows I, so the factor of the columns is multiplied by that of the rows,
    `cssp.bounds.strong_rrqr_basis` of (m, k).

    Examples
    --------
    >>> import numpy as np, cssp
    >>> A = np.arange(12.0).reshape(3, 4)
    >>> found = cssp.cur(A, 2)
    >>> found.columns, found.rows, bool(found.relative_error < 1e-12)
    (array([3, 0]), array([2, 0]), True)
    >>> bool(np.allclose(found.C @ found.U @ found.R, A))
    True
    """
    check_options(row := find_method(method), options)
    if not isinstance(core, str) or core not in CORES:
        raise ArgumentError(f"core = {core!r}: expected 'best' or 'cross'")
    if core == "cross" and rows is not None:
        raise ArgumentError(
            f"rows = {rows!r} with core='cross': it takes as many rows as columns; leave rows out"
        )
    kind = passes.kind_of(A)
    if kind in ("dask", "operator"):
        raise UnsupportedError(
            f"A is a {type(A).__name__}: expected an array, a data frame or a sparse matrix, whose rows can be taken"
        )
    A = A.tocsc() if kind == "sparse" else as_matrix("A", A, row)
    if len(A.shape) != 2:
        raise ArgumentError(
            f"A has shape {tuple(A.shape)}: expected one matrix (m, n); call it for each of a batch"
        )
    k = check_integer("k", k, 1, int(A.shape[1]))
    r = k if rows is None else check_integer("rows", rows, 1, int(A.shape[0]))
    generator = as_generator(rng)
    by_column = select(A, k, method, deficient="truncate", rng=generator, **options)
    columns = linalg.host(by_column.indices)
    C, by_row, growth = _taken(A, columns, 1), None, 1.0
    if core == "best":
        by_row = select(
            _adjoint(A), min(r, int(A.shape[0])), method, deficient="truncate", rng=generator, **options
        )
        chosen = by_row.indices
    else:
        X = linalg.widen(C) if kind != "sparse" else C.toarray().astype(np.result_type(C.dtype, np.float64))
        Q = array_api_compat.array_namespace(X).linalg.qr(X)[0]
        chosen = select(linalg.adjoint(Q), len(columns), "strong_rrqr").indices
        growth = float(linalg.svd(linalg.host(_taken(Q, linalg.host(chosen), 0)))[1][-1]) ** -2
    R = _taken(A, linalg.host(chosen), 0)
    if by_column.rank == 0:  # of a zero matrix
        U = linalg.adjoint(_dense(_taken(R, columns, 1)))
    else:
        U = _best(by_column.coefficients(), R) if by_row else _inverse(_taken(R, columns, 1))
    error = _relative_error(A, C, U, R)
    return CUR(C, U, R, by_column.indices, chosen, error, core, growth, by_column, by_row)


def _adjoint(A: Any) -> Any:
    return A.conj().T.tocsc() if hasattr(A, "tocsc") else linalg.adjoint(A)


def _taken(A: Any, places: np.ndarray, axis: int) -> Any:
    """Return the rows (axis 0) or columns (1) at these places."""
    if hasattr(A, "tocsc"):
        return A[:, places] if axis else A.tocsr()[places]
    return linalg.take_columns(A, places) if axis else linalg.take_columns(A.T, places).T


def _dense(X: Any) -> Any:
    """Return a dense array in double precision."""
    if hasattr(X, "tocsc"):
        return X.toarray().astype(np.result_type(X.dtype, np.float64))
    xp = array_api_compat.array_namespace(X)
    if xp.isdtype(X.dtype, ("bool", "integral")):
        return xp.astype(X, xp.float64)
    return linalg.widen(X)


def _best(T: Any, R: Any) -> Any:
    """Return the U of least ‖T - UR‖_F."""
    xp = array_api_compat.array_namespace(T)
    Q, L = xp.linalg.qr(linalg.adjoint(_dense(R)))
    return linalg.adjoint(xp.linalg.solve(L, linalg.adjoint(T @ Q)))


def _inverse(G: Any) -> Any:
    G = _dense(G)
    return array_api_compat.array_namespace(G).linalg.inv(G)


def _relative_error(A: Any, C: Any, U: Any, R: Any) -> float:
    """Return ‖A - CUR‖_F / ‖A‖_F from explicit residuals, block by block."""
    left = total = 0.0
    scale = float(abs(A).max()) if hasattr(A, "tocsc") else float(np.max(np.abs(linalg.host(A))))
    if scale == 0:
        return 0.0
    C = C if hasattr(C, "tocsc") else _dense(C)
    for part in linalg.blocks(A):
        X = _dense(A[:, part])
        left += linalg.frobenius2((X - C @ (U @ _dense(R[:, part]))) / scale)
        total += linalg.frobenius2(X / scale)
    return math.sqrt(left / total)
