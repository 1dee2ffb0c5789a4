"""The first independent columns of a matrix in the order given, and how the others depend on them.

The columns are orthogonalised one after the other, by blocks (classical Gram-Schmidt, twice: Giraud, Langou, Rozložník 2005).
Sparse matrices go through their Gram matrix where all it decides is confirmed by explicit residuals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import Any

import array_api_compat
import numpy as np
import scipy.linalg

from cssp import frames, linalg, passes, scaling
from cssp.errors import ArgumentError, UnsupportedError
from cssp.in_memory import InMemory
from cssp.methods import METHODS
from cssp.passes.products import sparse_gram
from cssp.problem import Problem
from cssp.request import requested

__all__ = ["Independent", "independent_columns"]

Array = Any

#: Columns that are orthogonalised at a time.
BLOCK = 64

#: A column is clear of the others where its residual is so many times its norm, and the Gram matrix of the unit columns kept
#: tells the rest where the Frobenius norm of their inverse factor is at most 1/`LEAST`.
CLEAR, LEAST = 1e-4, 1e-3

#: Columns, and terms of each, that are printed.
SHOWN = 10

#: Largest smaller side of a matrix that is read in passes.
LARGEST = 4 * linalg.SQUARE


@dataclass(frozen=True, eq=False, repr=False)
class Independent:
    """What `independent_columns` returns; printed, it says on what each dropped column depends.

    Attributes
    ----------
    indices : int64 array, shape (r,)
        The columns kept, ascending, in the namespace and on the device of A.
    dropped : int64 array, shape (n - r,)
        The others, ascending.
    names : list of str or None
        Names of the columns kept, where A is a data frame.
    """

    indices: Array
    dropped: Array
    names: list[str] | None
    _columns: list[str] | None
    _kept: np.ndarray
    _left: np.ndarray
    _coefficients: np.ndarray

    @cached_property
    def combinations(self) -> dict[int, dict[int, Any]]:
        """For each dropped column j the coefficients c with a_j ≈ Σ c_i a_i over columns i that were kept.

        A coefficient is left out where a change of a_j as small as what counts as dependent would make it zero.
        """
        found = {}
        for j, x in zip(self._left.tolist(), self._coefficients.T, strict=True):
            used = np.flatnonzero(x)
            found[j] = dict(zip(self._kept[used].tolist(), x[used].tolist(), strict=True))
        return found

    def __repr__(self) -> str:
        shown = np.array2string(self._kept, separator=", ", threshold=10)
        return f"Independent(indices={shown}, {self._left.size} dropped)"

    def __str__(self) -> str:
        def name(j: int) -> str:
            return f"column {j}" if self._columns is None else self._columns[j]

        lines = [f"{self._kept.size} of {self._kept.size + self._left.size} columns are independent."]
        for j, used in list(self.combinations.items())[:SHOWN]:
            terms = " + ".join(f"{c:.6g} × {name(i)}" for i, c in list(used.items())[:SHOWN])
            more = f" + {len(used) - SHOWN} more terms" if len(used) > SHOWN else ""
            lines.append(f"{name(j)} = {terms or 0}".replace("+ -", "- ") + more)
        if self._left.size > SHOWN:
            lines.append(f"and {self._left.size - SHOWN} more: see combinations")
        return "\n".join(lines)


@scaling.default_floating_errors
def independent_columns(A: Array, tol: float | None = None) -> Independent:
    """Return the first linearly independent columns, in the order given, and the others as combinations of them.

    A column is kept unless it depends on those kept before it. This is what one wants against perfect collinearity and the
    dummy-variable trap of regressions; `cssp.select` chooses the *best* columns instead, in any order.

    Parameters
    ----------
    A : array, data frame or sparse matrix, shape (m, n)
        And everything else that `cssp.select` takes, without a batch. Worked on in host memory. A sparse matrix stays so
        unless its columns are close to dependence.
    tol : float in [0, 1), optional
        A column depends on others if its residual norm is at most tol·(largest column norm). The default, and the least that is
        used, is the threshold of `cssp.select`: max(m, n)·eps, eps being of the precision of A.

    Returns
    -------
    Independent

    Raises
    ------
    CsspError
        A ``ValueError``; the message names the argument, what came and what is allowed.

    Notes
    -----
    Where the columns kept are close to dependence, large coefficients magnify their rounding: a column is also called dependent
    if its residual is at most max(m, n)·eps times the sum of the norms that it is combined of. O(mn²) work for dense
    matrices. For sparse ones a product AᵀA, n³ beside it, and one pass for the columns dropped.

    Examples
    --------
    >>> import numpy as np, cssp
    >>> dummies = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1], [1, 1, 0, 0]])
    >>> found = cssp.independent_columns(dummies)
    >>> found.indices, found.dropped
    (array([0, 1, 2]), array([3]))
    >>> print(found)
    3 of 4 columns are independent.
    column 3 = 1 × column 0 - 1 × column 1 - 1 × column 2
    """
    tol = _as_tolerance(tol)
    if passes.kind_of(A) == "mapped":
        A = np.asarray(A)
    row = METHODS["residual"]
    inside = passes.kind_of(A) is None
    matrices: Any = InMemory(A, row, {}, None, False) if inside else passes.InPasses(A, row, {}, None, False)
    if len(matrices.shape) != 2:
        raise ArgumentError(
            f"A has shape {matrices.shape}: expected one matrix (m, n); call it for each of a batch"
        )
    m, n = matrices.shape
    if not inside and min(m, n) > LARGEST:
        raise UnsupportedError(
            f"A has shape {(m, n)}: expected at most {LARGEST} rows or columns of a matrix that is not an array in memory"
        )
    item = requested((), n, k=1, tol=None, include=None, exclude=None).item(())
    p = matrices.problem((), item, np.random.default_rng(0)).numpy("double")
    cut = max(p.floor, (tol or 0.0) * p.largest)
    kept, T = _found(p, cut)
    left = np.setdiff1d(np.arange(n), kept)
    xp, device = array_api_compat.array_namespace(matrices.like), array_api_compat.device(matrices.like)
    names = frames.names_of(A)
    return Independent(
        xp.asarray(kept, device=device),
        xp.asarray(left, device=device),
        None if names is None else [names[j] for j in kept],
        names,
        *(kept, left, T),
    )


def _as_tolerance(tol: Any) -> float | None:
    if tol is None:
        return None
    if isinstance(tol, bool | np.bool_) or not isinstance(tol, Real) or not 0 <= float(tol) < 1:
        raise ArgumentError(
            f"tol = {tol!r}: expected None or a number in [0, 1), a residual norm relative to the largest column norm"
        )
    return float(tol)


def _found(p: Problem, cut: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the columns kept, r of them, and the coefficients (r, n - r) of the others."""
    if hasattr(p.A, "gains") and hasattr(p.A.A, "tocsc") and p.n <= linalg.SQUARE:
        by_gram = _by_gram(p, p.A.A, cut)
        if by_gram is not None:
            return by_gram
    if p.m > p.n:
        R = p.A.triangle() if p.in_passes else linalg.triangle(p.A)
        return _in_order(p, lambda part: R[:, part], cut)
    return _in_order(p, lambda part: p.take(range(part.start, part.stop)), cut)


def _in_order(
    p: Problem, columns: Callable[[slice], np.ndarray], cut: float
) -> tuple[np.ndarray, np.ndarray]:
    """Orthogonalise the columns in their order, those of a block against all before in one product.

    Parameters
    ----------
    columns : callable
        Returns a range of columns in some orthonormal coordinates.
    """
    first = columns(slice(0, min(BLOCK, p.n)))
    Q = np.zeros((len(first), min(len(first), p.n)), dtype=first.dtype, order="F")
    H = np.zeros((Q.shape[1], p.n), dtype=Q.dtype)  # the columns in the coordinates Q
    norms, unit = np.sqrt(p.norms2), p.floor / p.largest if p.largest else 0.0
    kept: list[int] = []
    for a in range(0, p.n, BLOCK):
        part = slice(a, min(a + BLOCK, p.n))
        X = np.array(columns(part))
        before = len(kept)
        for _ in range(2):
            G = Q[:, :before].conj().T @ X
            X -= Q[:, :before] @ G
            H[:before, part] += G
        if before == Q.shape[1]:
            continue
        for j, x in zip(range(part.start, part.stop), X.T, strict=True):
            for _ in range(2):
                g = Q[:, before : len(kept)].conj().T @ x
                x = x - Q[:, before : len(kept)] @ g
                H[before : len(kept), j] += g
            height, r = float(np.linalg.norm(x)), len(kept)
            if height <= cut or r == Q.shape[1]:
                continue
            if height <= CLEAR * norms[j]:
                c = scipy.linalg.solve_triangular(H[:r, kept], H[:r, j], check_finite=False)
                if height <= unit * float(np.abs(c) @ norms[kept]):
                    continue
            Q[:, r], H[r, j] = x / height, height
            kept.append(j)
    r, left = len(kept), np.setdiff1d(np.arange(p.n), kept)
    inverse, T = H[:r, kept], H[:r, left]
    if r:
        inverse, T = (scipy.linalg.solve_triangular(inverse, X, check_finite=False) for X in (np.eye(r), T))
    return np.asarray(kept, dtype=np.int64), _flushed(T, inverse, norms[kept], p.floor, unit)


def _by_gram(p: Problem, A: Any, cut: float) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the same from AᴴA of a sparse A; None where that cannot tell.

    Columns that stay clear of those before them are kept. All others are taken for dependent, and explicit residuals, after one
    step of refinement of the coefficients, must confirm each of them.
    """
    norms, unit = np.sqrt(p.norms2), p.floor / p.largest if p.largest else 0.0
    live = np.flatnonzero(norms > cut)
    D, by_rows = norms[live], A.tocsr()
    G = sparse_gram(by_rows)[np.ix_(live, live)] / D[:, None] / D
    N, R = np.ones(live.size), np.zeros_like(G)
    kept: list[int] = []
    for j in range(live.size):
        if N[j] <= max(CLEAR, cut / D[j]) ** 2:
            continue
        t = len(kept)
        R[t, j:] = (G[j, j:] - R[:t, j].conj() @ R[:t, j:]) / np.sqrt(N[j])
        N = N - linalg.squares(R[t])
        kept.append(j)
    r, left = len(kept), np.setdiff1d(np.arange(live.size), kept)
    F = R[:r][:, kept]
    inverse = scipy.linalg.solve_triangular(F, np.eye(r), check_finite=False) if r else F
    if np.linalg.norm(inverse) > 1 / LEAST:
        return None
    T = np.zeros((r, left.size), dtype=G.dtype)
    X = inverse @ R[:r][:, left]
    adjoint = by_rows.conj().T
    step = max(1, linalg.BLOCK // p.m)
    for a in range(0, left.size, step):
        some = left[a : a + step]
        later = np.asarray(kept)[:, None] > some
        B = A[:, live[some]].toarray()
        x = X[:, a : a + step] * D[some]
        whole = np.zeros((p.n, some.size), dtype=G.dtype)
        for _ in range(2):
            whole[live[kept]] = x / D[kept][:, None]
            E = B - by_rows @ whole
            height = np.sqrt(linalg.column_norms2(E))
            less = (adjoint @ E)[live[kept]] / D[kept][:, None]
            x = np.where(later, 0, x + inverse @ (inverse.conj().T @ less))
        if np.any(height > np.maximum(cut, unit * np.sum(np.abs(x), axis=0))):
            return None
        T[:, a : a + step] = x
    order = np.asarray(live[kept], dtype=np.int64)
    dropped = np.setdiff1d(np.arange(p.n), order)
    full = np.zeros((r, dropped.size), dtype=T.dtype)
    full[:, np.searchsorted(dropped, live[left])] = T
    return order, _flushed(full, inverse, np.ones(r), p.floor, unit) / D[kept][:, None]


def _flushed(T: np.ndarray, inverse: np.ndarray, norms: np.ndarray, floor: float, unit: float) -> np.ndarray:
    """Return coefficients T of columns on those of F, the inverse of which is given, with the negligible ones set to zero.

    These are what a change by ``floor``, or by ``unit`` times the sum of the norms that are combined, could make zero.
    """
    change = np.maximum(floor, unit * (norms @ np.abs(T)))
    return np.where(np.abs(T) > np.linalg.norm(inverse, axis=1)[:, None] * change, T, T.dtype.type(0))
