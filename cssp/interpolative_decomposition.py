"""Interpolative decomposition: all columns as combinations, with bounded coefficients, of some of them.

Cheng, Gimbutas, Martinsson and Rokhlin, "On the compression of low rank matrices", SIAM J. Sci. Comput. 26(4):1389-1404, 2005.
The coefficients are bounded because the columns are those of a strong rank-revealing QR decomposition [gu1996].
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import array_api_compat
import numpy as np

from cssp.arguments import check_options, find_method
from cssp.errors import ArgumentError
from cssp.linalg import host
from cssp.methods import METHODS
from cssp.methods.strong_rrqr import LEAST_F
from cssp.select import select
from cssp.selection import Selection

__all__ = ["ID", "interpolative"]

Array = Any


@dataclass(frozen=True, eq=False)
class ID:
    """An interpolative decomposition A ≈ A[:, columns] @ T.

    Attributes
    ----------
    columns : int64 array, shape (k,)
        In the namespace and on the device of A.
    T : array, shape (k, n)
        Double precision; exactly the identity at ``columns``.
    relative_error : float
        ‖A - A[:, columns] T‖_F / ‖A‖_F.
    bound : float or None
        What a theorem promises for `max_abs`; None where none applies.
    selection : Selection
        The choice of the columns, with its certificate.
    """

    columns: Array
    T: Array
    relative_error: float
    bound: float | None
    selection: Selection

    @cached_property
    def max_abs(self) -> float:
        """The largest modulus of a coefficient, at least 1."""
        return float(np.max(np.abs(host(self.T))))

    @property
    def idx(self) -> Array:
        """``columns`` followed by all others: ``idx`` of `scipy.linalg.interpolative.interp_decomp`."""
        columns = host(self.columns)
        rest = np.setdiff1d(np.arange(self.T.shape[1]), columns)
        return _like(self.columns, np.concatenate([columns, rest]))

    @property
    def proj(self) -> Array:
        """T at the columns not chosen, shape (k, n - k): ``proj`` of `scipy.linalg.interpolative.interp_decomp`."""
        xp = array_api_compat.array_namespace(self.T)
        return xp.take(self.T, self.idx[self.T.shape[0] :], axis=1)

    def __repr__(self) -> str:
        shape = tuple(self.T.shape)
        return f"ID(k={shape[0]}, n={shape[1]}, relative_error={self.relative_error:.3g}, max_abs={self.max_abs:.3g})"


def interpolative(
    A: Array,
    k: int | None = None,
    tol: float | None = None,
    method: str = "strong_rrqr",
    *,
    rng: int | np.random.Generator | None = None,
    **options: Any,
) -> ID:
    """Write A as combinations of k of its columns: A ≈ A[:, columns] @ T.

    What `scipy.linalg.interpolative.interp_decomp` gives with k or a precision; ``idx`` and ``proj`` of the result are its
    results, for its functions that reconstruct.

    Parameters
    ----------
    A : array, data frame or sparse matrix, shape (m, n)
        A sparse one needs a method that reads it in passes, such as "residual".
    k : int, optional
        Number of columns; as many as the numerical rank where that is less.
    tol : float in (0, 1], optional
        As few columns as the method needs for ‖A - A[:, columns] T‖_F ≤ tol·‖A‖_F. SciPy's precision is one of pivots, beside
        which this is the error itself.
    method : str
        Name of a row of `cssp.METHODS`. The default bounds all coefficients by its option ``f``, 2.
    rng, **options
        As `cssp.select` takes them; the options are the method's own.

    Returns
    -------
    ID

    Raises
    ------
    CsspError
        A ``ValueError``; the message names the argument, what came and what is allowed.

    Notes
    -----
    With the columns of a strong rank-revealing QR decomposition |T| ≤ f [gu1996]; any smaller bound than 1 is impossible,
    and columns of largest volume, which are hard to find, reach it.

    Examples
    --------
    >>> import numpy as np, cssp
    >>> A = np.vander(np.linspace(0, 1, 9), 5)
    >>> found = cssp.interpolative(A, 3)
    >>> found.max_abs <= found.bound
    True
    >>> bool(np.linalg.norm(A - A[:, found.columns] @ found.T) < 0.2)
    True
    """
    check_options(find_method(method), options)
    if isinstance(k, float) and 0 < k < 1:
        raise ArgumentError(f"k = {k}: expected an integer; for a relative error pass tol={k}")
    sel = select(A, k, method, tol=tol, deficient="truncate", rng=rng, **options)
    if sel.indices.ndim != 1:
        raise ArgumentError("A is a batch: expected one matrix (m, n); call it for each of a batch")
    T = sel.coefficients()
    xp, device = array_api_compat.array_namespace(T), array_api_compat.device(T)
    columns = host(sel.indices)
    identity, chosen = np.zeros(T.shape), np.zeros(T.shape[1], dtype=bool)
    identity[range(len(columns)), columns] = chosen[columns] = 1
    T = xp.where(xp.asarray(chosen, device=device), xp.asarray(identity, dtype=T.dtype, device=device), T)
    bounded = method == "strong_rrqr" and sel._parts[0].is_a_run_of(METHODS[method])
    bound = max(float(options.get("f", 2.0)), LEAST_F) if bounded else None
    return ID(sel.indices, T, sel.relative_error, bound, sel)


def _like(x: Array, values: np.ndarray) -> Array:
    xp = array_api_compat.array_namespace(x)
    return xp.asarray(values, device=array_api_compat.device(x))
