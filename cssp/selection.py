"""What `cssp.select` returns: the chosen columns, their error, and the certificate."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import array_api_compat
import numpy as np

from cssp.certificate import Certificate
from cssp.errors import UnsupportedError
from cssp.methods import METHODS
from cssp.missing_values import Missing
from cssp.part import Part, relative
from cssp.problem import Array
from cssp.residuals import as_exponent, relative_p_norm
from cssp.scaling import default_floating_errors, shifted
from cssp.selection_uses import SelectionUses

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Certificate", "Selection"]


@dataclass(frozen=True, eq=False, repr=False)
class Selection(SelectionUses):
    """Columns chosen by `cssp.select`.

    Errors, coefficients and reconstructions are computed from A when first asked for: do not overwrite A
    before. They are about A·diag(w), or about ``target`` where one was given, and of the exact data: half and
    single precision input is widened to float64 for them.

    A pickled selection leaves A behind: its errors are computed before, its residuals, coefficients, reconstruction and
    certificate are refused afterwards. Copies share A.

    Where A is a torch tensor and A, ``weights`` or ``target`` requires a gradient, `coefficients` and `reconstruct` carry
    it, the indices being fixed; indices and errors never do. The selection then holds the graph of these arguments: detach
    them, or select under ``torch.no_grad()``, where no gradient is needed. If the chosen columns are dependent, both are
    discontinuous, and the derivative is the one along matrices of the same rank.

    Attributes
    ----------
    indices : int64 array, shape (..., k)
        In order of choice, distinct, in the namespace and on the device of A. Where the items of a batch have
        different lengths (one k per item, or ``tol``) the shorter ones are padded with -1.
    method : str
    rank : int, or int64 array of the batch's shape
        Numerical rank of the chosen columns: less than k where k exceeds the numerical rank of A, or where
        a method chose dependent columns.
    k : int, or int64 array of the batch's shape
        Number of columns chosen.
    options : dict
        The method's options of this call.
    groups : tuple or None
        With `groups`: the labels of the chosen groups, in order of choice; for a batch a list of them, one per item. The
        columns of a group stand in `indices` one after the other.
    cost : float, or array of the batch's shape, or None
        With `costs`: what the chosen columns cost in all.
    conditional : bool
        Whether there were groups, constraints or costs.
    passes : float or None
        For a matrix that is not in memory: how often the choice read all of it, parts of it counted as parts (for a
        LinearOperator, products with blocks). `errors` and the others read it again.
    axis : {"columns", "rows"}
        What was chosen. Where it is rows, all that is said here of columns holds for rows, and `coefficients` and
        `reconstruct` are transposed accordingly.
    missing : Missing or None
        What was done about missing values, where there were any.

    Examples
    --------
    >>> import numpy as np, cssp
    >>> A = np.array([[1.0, 0.0, 1.0], [0.0, 2.0, 2.0]])
    >>> sel = cssp.select(A, 2)
    >>> sel.indices.tolist(), sel.mask().tolist()
    ([2, 0], [True, False, True])
    >>> bool(np.allclose(A[:, sel.indices] @ sel.coefficients(), A)), bool(np.allclose(sel.reconstruct(), A))
    (True, True)
    >>> round(cssp.select(A, 1).certificate().ratio, 2)
    1.15
    """

    indices: Array
    method: str
    rank: Any
    k: Any
    options: Mapping[str, Any]
    passes: float | None
    _parts: tuple[Part, ...]
    _batch: tuple[int, ...]
    _like: Array  # an empty array that carries namespace and device
    _names: list[str] | None = None  # of all columns
    groups: Any = None
    cost: Any = None
    conditional: bool = False
    axis: str = "columns"
    missing: Missing | None = None
    _rows_at_hand: bool = True  # else the matrix of the parts has the Gram matrix of A, but other rows

    @cached_property
    @default_floating_errors
    def errors(self) -> Array:
        """Squared Frobenius residual after 0, ..., k picks, float64, shape (..., k + 1), nonincreasing.

        Shorter items of a batch are padded with their last value. At scales whose squares leave float64
        these are 0 or inf; `error` is not.
        """
        length = max((len(part.picks) for part in self._parts), default=0)
        rows = [
            np.pad(part.scaled(part.trace, 2), (0, length - len(part.picks)), mode="edge")
            for part in self._parts
        ]
        return self._gather(np.reshape(np.asarray(rows, dtype=np.float64), (*self._batch, length + 1)))

    @cached_property
    @default_floating_errors
    def error(self) -> Any:
        """Frobenius norm of the residual, not squared: a float, or an array of the batch's shape."""
        return self._numbers([float(part.scaled(math.sqrt(part.trace[-1]))) for part in self._parts])

    @cached_property
    @default_floating_errors
    def squared_error(self) -> Any:
        """`error` squared, the last of `errors`; 0 or inf where that leaves the range of float64."""
        return self._numbers([float(part.scaled(part.trace[-1], 2)) for part in self._parts])

    @cached_property
    @default_floating_errors
    def relative_error(self) -> Any:
        """`error` over the norm of what is reconstructed; 0 for a zero matrix."""
        return self._numbers([relative(part.trace)[-1] for part in self._parts])

    @cached_property
    @default_floating_errors
    def residuals(self) -> Array:
        """Norms of the residuals of all columns, ‖(I - P_S) a_j‖, float64, shape (..., n), in the order of A.

        Of A·diag(w); of the columns of ``target`` where one was given, shape (..., p). Zero for columns of padding. The
        squares add up to `squared_error`; norms outside the range of float64 are 0 or inf.

        Examples
        --------
        >>> import numpy as np, cssp
        >>> cssp.select(np.array([[3.0, 0.0, 1.0], [0.0, 2.0, 1.0]]), 1).residuals
        array([0., 2., 1.])
        """
        rows = [part.scaled(np.sqrt(part.norms2[1])) for part in self._parts]
        return self._gather(
            np.reshape(np.asarray(rows, dtype=np.float64), (*self._batch, *np.shape(rows)[1:]))
        )

    @property
    def max_error(self) -> Any:
        """The largest of `residuals` over the largest column norm, which is ``error_p(inf)``."""
        return self.error_p(math.inf)

    @default_floating_errors
    def error_p(self, p: float) -> Any:
        """Return (Σ h_j^p)^(1/p) / (Σ ‖a_j‖^p)^(1/p), h_j being the `residuals`; 0 for a zero matrix.

        `relative_error` is ``error_p(2)``; the larger p, the more the worst columns count.

        Parameters
        ----------
        p : float
            From 1 to infinity.

        Returns
        -------
        float, or array of the batch's shape

        Raises
        ------
        CsspError
            p is less than 1, or no number.

        Examples
        --------
        >>> import numpy as np, cssp
        >>> s = cssp.select(np.array([[3.0, 0.0, 1.0], [0.0, 2.0, 1.0]]), 1)
        >>> round(s.error_p(1), 3), round(s.error_p(2), 3), round(s.error_p(np.inf), 3)
        (0.468, 0.577, 0.667)
        """
        p = as_exponent(p)
        return self._numbers([relative_p_norm(part.norms2, p) for part in self._parts])

    def mask(self) -> Array:
        """Return the chosen columns as a bool array (..., n)."""
        width = self._parts[0].width if self._parts else 0
        mask = np.zeros((len(self._parts), width), dtype=bool)
        for chosen, part in zip(mask, self._parts, strict=True):
            chosen[part.indices] = True
        return self._gather(mask.reshape((*self._batch, width)))

    @default_floating_errors
    def coefficients(self) -> Array:
        """Return T (..., k, n) with X[:, S] T ≈ X in the least-squares sense, X = A·diag(w).

        Where the chosen columns are dependent this is the solution of least norm, so it is always finite (but for
        coefficients beyond the range of the precision). With a target, T has shape (..., k, p) and X[:, S] T ≈ target. Rows beyond a shorter item's k are zero; so are columns of
        padding. To reconstruct A itself from A[:, S], use ``w[S][:, None] * T / w``.

        Where rows were chosen, T has shape (..., m, k) and T X[S] ≈ X = diag(w)·A.
        """
        length = max((len(part.picks) for part in self._parts), default=0)
        return self._stack([_tall(part.spread(part.coefficients()), length) for part in self._parts])

    @default_floating_errors
    def reconstruct(self) -> Array:
        """Return P_S X (..., m, n), the projection of X = A·diag(w) on the chosen; with a target, P_S target."""
        if not self._rows_at_hand:
            raise UnsupportedError(
                "reconstruct() needs all rows of A: expected A itself, got what is known of A.T @ A; "
                "A[:, indices] @ coefficients() reconstructs rows that are at hand"
            )
        return self._stack(
            [shifted(part.spread(part.reconstruct()), part.wanted_exponent) for part in self._parts]
        )

    @default_floating_errors
    def certificate(self) -> Certificate:
        """Compare with the best rank-k approximation and with the method's theorem; costs an SVD of A."""
        records = [part.certificate(METHODS[self.method], self.options) for part in self._parts]
        if not self._batch:
            return Certificate(**records[0])
        columns = {f.name: self._column([record[f.name] for record in records]) for f in fields(Certificate)}
        if not records:
            columns |= {f.name: self._numbers([]) for f in fields(Certificate) if f.type == "Any"}
            columns["method"] = self.method
        return Certificate(**columns)

    def plot(self, ax: Axes | None = None, *, item: Any = None) -> Axes:
        """Draw `errors` beside the SVD optimum and the theorem's bound, see `cssp.plotting.error_trace`."""
        from cssp.plotting import error_trace

        return error_trace(self, ax, item=item)

    def __repr__(self) -> str:
        shape = tuple(self.indices.shape)
        if self._batch:
            shown = f"shape {shape}"
        else:
            shown = np.array2string(self._parts[0].indices, separator=", ", threshold=10)
        names = "" if self.names is None else f", names={reprlib.repr(self.names)}"
        return f"Selection(method={self.method!r}, k={self.k}, rank={self.rank}, indices={shown}{names})"

    def _gather(self, x: np.ndarray) -> Array:
        xp = array_api_compat.array_namespace(self._like)
        return xp.asarray(x, device=array_api_compat.device(self._like))

    def _numbers(self, values: list[Any]) -> Any:
        return values[0] if not self._batch else self._gather(np.reshape(np.asarray(values), self._batch))

    def _column(self, values: list[Any]) -> Any:
        known = [value for value in values if value is not None]
        if not known or isinstance(known[0], str):
            return known[0] if known else None
        return self._numbers([math.nan if value is None else value for value in values])

    def _stack(self, matrices: list[Array]) -> Array:
        xp, device = array_api_compat.array_namespace(self._like), array_api_compat.device(self._like)
        if not self._batch and len(matrices) == 1 and type(matrices[0]).__module__.startswith("dask"):
            return matrices[0] if self.axis == "columns" else matrices[0].T
        kind = type(self._like)
        matrices = [X if isinstance(X, kind) else xp.asarray(X, device=device) for X in matrices]
        if self.axis == "rows":
            matrices = [X.T for X in matrices]
        if not self._batch:
            return matrices[0]
        stacked = xp.stack(matrices)
        return xp.reshape(stacked, (*self._batch, *stacked.shape[1:]))


def _tall(T: Array, rows: int) -> Array:
    """Return T with zero rows below."""
    if T.shape[0] == rows:
        return T
    xp = array_api_compat.array_namespace(T)
    more = xp.zeros((rows - T.shape[0], T.shape[1]), dtype=T.dtype, device=array_api_compat.device(T))
    return xp.concat([T, more])
