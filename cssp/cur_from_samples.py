"""A CUR decomposition that reads few entries: columns from some sampled rows, rows from the columns found.

Cortinovis and Ying, "A sublinear-time randomized algorithm for column and row subset selection based on strong rank-revealing QR
factorizations", 2024 [cortinovis2024b]: rows and columns drawn uniformly, then refined by strong RRQR, for matrices that are an incoherent
matrix of low rank and noise. Only the abstract and the beginning of the paper could be read. The rows here come from the columns found
instead of from drawn ones, so that the error of the columns is multiplied by one known factor; theorem and proof are our own
(`cssp.bounds.strong_rrqr_of_rows`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from operator import index
from typing import Any

import numpy as np

from cssp import bounds, linalg
from cssp.arguments import as_generator
from cssp.arrays import as_array, check_finite
from cssp.certificate import ratio_of
from cssp.cur_decomposition import CURCertificate
from cssp.errors import ArgumentError, UnsupportedError, check_integer
from cssp.scaling import default_floating_errors, normalised, shifted
from cssp.select import select

__all__ = ["SampledCUR", "sampled_cur"]


@dataclass(frozen=True, eq=False, repr=False)
class SampledCUR:
    """A ≈ C @ U @ R, found from few entries of A.

    Attributes
    ----------
    C : array, shape (m, k)
        ``A[:, columns]``.
    U : array, shape (k, k)
        Inverse of ``A[rows][:, columns]``, in double precision.
    CU : array, shape (m, k)
        C @ U from an orthonormal basis of C, with the identity in its rows `rows`: where A[rows][:, columns] is ill-conditioned it is
        accurate, and the product of C and U is not.
    R : array, shape (k, n)
        ``A[rows]``.
    columns, rows : int64 array, shape (k,)
        In order of choice.
    sampled : int64 array
        Rows that the columns were chosen from, ascending.
    read : int
        Entries of A that were read, those read twice counted twice.
    growth : float
        The factor, squared, by which the error may exceed that of projecting on the columns.
    """

    C: np.ndarray
    U: np.ndarray
    CU: np.ndarray
    R: np.ndarray
    columns: np.ndarray
    rows: np.ndarray
    sampled: np.ndarray
    read: int
    growth: float
    _A: Any
    _f: float

    def reconstruct(self) -> np.ndarray:
        """Return CUR, shape (m, n), dense."""
        return self.CU @ self.R

    def estimate(self, rows: int | None = None, rng: int | np.random.Generator | None = None) -> float:
        """Return ‖A - CUR‖_F / ‖A‖_F on rows drawn uniformly, which are read for it; on all rows it is exact.

        Parameters
        ----------
        rows : int, optional
            How many; by default as many as were sampled.
        rng : int or Generator, optional
            The draw. It should not be the one that sampled the rows: those are rebuilt better than others.
        """
        m = len(self.C)
        count = check_integer("rows", len(self.sampled) if rows is None else rows, 1, m)
        drawn = np.sort(as_generator(rng).choice(m, count, replace=False))
        X = _taken(self._A, drawn, 0)
        scale = float(np.max(np.abs(X)))
        if scale == 0:
            return 0.0
        left = (X - self.CU[drawn] @ self.R) / scale
        return math.sqrt(linalg.frobenius2(left) / linalg.frobenius2(X / scale))

    @cached_property
    def _certificate(self) -> CURCertificate:
        A = _taken(self._A, np.arange(len(self.C)), 0)
        A, e = normalised(A, float(np.max(np.abs(A))), always=True)  # squares stay in range
        k = len(self.columns)
        left, s, _ = linalg.svd(A)
        error2 = linalg.frobenius2(A - self.CU @ shifted(self.R, -e))
        optimum = float(np.sum(s[k:] ** 2))
        smallest = float(linalg.svd(left[self.sampled, :k])[1][-1])
        noise = (max(A.shape) * np.finfo(float).eps * float(s[0])) ** 2
        factor = None
        if k <= len(s) and smallest > 0:
            E = (left[self.sampled, k:] * s[k:]) if optimum > noise else np.zeros((1, 1))
            share = linalg.frobenius2(E) / optimum if optimum > noise else 0.0
            factor = self.growth * bounds.strong_rrqr_of_rows(
                A.shape[1], k, max(1.0, smallest**-2), min(share, 1.0), self._f
            )
        known = factor is not None
        return CURCertificate(
            float(shifted(error2, 2 * e)),
            float(shifted(optimum, 2 * e)),
            ratio_of(error2, optimum, noise),
            factor,
            "cortinovis2024b" if known else None,
            "every run" if known else None,
        )

    def certificate(self) -> CURCertificate:
        """Compare with the best approximation of the same rank and with the theorem; reads all of A, and costs an SVD."""
        return self._certificate

    def __repr__(self) -> str:
        (m, k), n = self.C.shape, self.R.shape[1]
        return f"SampledCUR(A: {m} x {n}, {k} columns and rows, {self.read:,} entries read of {m * n:,})"


@default_floating_errors
def sampled_cur(
    A: Any,
    k: int,
    sample: int | None = None,
    *,
    rounds: int = 1,
    f: float = 2.0,
    rng: int | np.random.Generator | None = None,
) -> SampledCUR:
    """Approximate A by k of its columns and k of its rows, of which few more are read: A ≈ C @ U @ R.

    ``sample`` rows are drawn uniformly; strong RRQR chooses columns from them, and rows from an orthonormal basis of these columns.
    That reads sample·n + k·m + k·n entries.

    Parameters
    ----------
    A : object with ``shape`` (m, n), ``A[rows]`` and ``A[:, columns]`` for arrays of indices
        An array, a memory map, a sparse matrix, a dataset of HDF5 or Zarr, or an object that computes entries when they are asked
        for. What is read becomes a dense NumPy array. Only that is checked for NaN and Inf.
    k : int
        Number of columns and of rows; as many as the rank of the sampled rows where that is less.
    sample : int, optional
        Rows drawn, at least k: 4k by default, or all of them.
    rounds : int
        In every further one new rows are drawn, the rows found join them, and columns and rows are chosen again.
    f : float
        Largest growth of a volume that a swap of strong RRQR may still bring, at least 1.
    rng : None, int or Generator
        As `cssp.select` takes it.

    Returns
    -------
    SampledCUR

    Raises
    ------
    CsspError
        A ``ValueError``; the message names the argument, what came and what is allowed.

    Notes
    -----
    With I the sampled rows, U_k the k leading left singular vectors and E = A - A_k,
    ‖A - CUR‖² ≤ growth · (1 + f²k(n - k)) (1 + 4‖U_k[I]⁺‖² ‖E[I]‖²/‖E‖²) ‖E‖² in the Frobenius norm and in the spectral norm; `growth` is at most
    `cssp.bounds.strong_rrqr_basis` of (m, k). How large ‖U_k[I]⁺‖ is depends on the draw and on the coherence of U_k:
    `cssp.bounds.sampled_rows`. Where a few rows hold what no others do, a uniform sample misses them, and `estimate` is likely to
    miss them, too [cortinovis2024b].

    Examples
    --------
    >>> import numpy as np, cssp
    >>> x = np.linspace(1, 2, 500)
    >>> found = cssp.sampled_cur(1 / (x[:, None] + x), 6, rng=0)
    >>> found
    SampledCUR(A: 500 x 500, 6 columns and rows, 18,000 entries read of 250,000)
    >>> bool(found.estimate(rng=1) < 1e-9)
    True
    """
    m, n = _shape(A)
    k = check_integer("k", k, 1, min(m, n))
    count = check_integer("sample", min(4 * k, m) if sample is None else sample, k, m)
    rounds = check_integer("rounds", rounds)
    generator = as_generator(rng)
    rows, read = np.zeros(0, dtype=np.int64), 0
    for _ in range(rounds):
        sampled = np.union1d(generator.choice(m, count, replace=False), rows)
        X = _taken(A, sampled, 0)
        columns = select(X, k, "strong_rrqr", f=f, deficient="truncate").indices
        C = _taken(A, columns, 1)
        Q = np.linalg.qr(C)[0]
        rows = select(linalg.adjoint(Q), len(columns), "strong_rrqr", f=f).indices
        read += X.size + C.size
    R = _taken(A, rows, 0)
    left, s, right = linalg.svd(Q[rows])
    CU = ((Q @ linalg.adjoint(right)) / s) @ linalg.adjoint(left)
    U = np.linalg.pinv(R[:, columns], rcond=len(rows) * np.finfo(float).eps)
    return SampledCUR(C, U, CU, R, columns, rows, sampled, read + R.size, float(s[-1]) ** -2, A, f)


def _shape(A: Any) -> tuple[int, int]:
    """Return (m, n) of what rows and columns can be taken of."""
    kind = type(A).__name__
    if hasattr(A, "columns") and hasattr(A, "dtypes"):
        raise UnsupportedError(f"A is a {kind}: expected an array; pass A.to_numpy()")
    if not hasattr(A, "shape") or not hasattr(A, "__getitem__"):
        raise UnsupportedError(
            f"A is a {kind}: expected an array, or an object with a shape of which A[rows] and A[:, columns] can be taken"
        )
    try:
        m, n = map(index, A.shape)
    except (TypeError, ValueError):
        m = n = 0
    if m < 1 or n < 1:
        raise ArgumentError(f"A has shape {A.shape}: expected (m, n), one row and one column at least")
    return m, n


def _taken(A: Any, places: np.ndarray, axis: int) -> np.ndarray:
    """Read the rows (axis 0) or columns (1) at these places, in double precision; they are asked for in ascending order."""
    order = np.argsort(places)
    try:
        part = A[places[order]] if axis == 0 else A[:, places[order]]
    except Exception as reason:  # whatever another library raises
        raise UnsupportedError(
            f"A is a {type(A).__name__}, of which {'A[rows]' if axis == 0 else 'A[:, columns]'} cannot be taken: "
            f"{str(reason) or type(reason).__name__}"
        ) from reason
    part = linalg.host(as_array("A", part.toarray() if hasattr(part, "toarray") else part))
    wanted = (len(places), A.shape[1]) if axis == 0 else (A.shape[0], len(places))
    if part.shape != tuple(wanted):
        what = "rows" if axis == 0 else "columns"
        raise ArgumentError(
            f"{len(places)} {what} of A came with shape {part.shape}: expected {tuple(wanted)}"
        )
    check_finite("A", part, places[order] if axis else None, "", "expected finite numbers")
    part = part.astype(np.result_type(part.dtype, np.float64), copy=False)
    back = np.argsort(order)
    return part[back] if axis == 0 else part[:, back]
