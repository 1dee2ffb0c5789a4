"""Missing values, NaN: rows without them, or products of columns over the rows that both have.

Higham, "Computing a nearest symmetric positive semidefinite matrix", Linear Algebra Appl. 103, 1988 [higham1988]: setting the
negative eigenvalues of a symmetric matrix to zero gives the positive semidefinite one nearest to it in the Frobenius norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import array_api_compat
import numpy as np

from cssp import arguments as check
from cssp import frames, linalg, passes
from cssp.arrays import as_array, check_finite
from cssp.errors import ArgumentError, UnsupportedError
from cssp.scaling import default_floating_errors, normalised

__all__ = ["Missing", "settled"]

Array = Any


@dataclass(frozen=True)
class Missing:
    """What was done about missing values, see ``missing`` of `cssp.select`.

    Attributes
    ----------
    how : {"rows", "columns", "pairwise"}
    used : int
        Rows used: those without a missing value, or those that hold any value. Where rows were chosen, this and all that
        follows counts columns instead.
    of : int
        Rows of A.
    least, most : int
        Rows that two columns, or a column with itself, have in common: the fewest and the most.
    moved : float
        ‖G₊ - G‖_F / ‖G‖_F, G being the estimate of AᵀA (with a target of [A B]ᵀ[A B]) and G₊ the positive semidefinite
        matrix nearest to it; 0 with complete rows.

    Examples
    --------
    >>> import numpy as np, cssp
    >>> A = np.array([[1.0, 2.0, np.nan], [0.0, 3.0, 1.0], [2.0, 0.0, 1.0], [1.0, 1.0, 5.0]])
    >>> cssp.select(A, 2, missing="rows").missing
    Missing(how='rows', used=3, of=4, least=3, most=3, moved=0.0)
    >>> found = cssp.select(A, 2, missing="pairwise")
    >>> found.indices.tolist(), found.missing.least, found.missing.most
    ([2, 1], 3, 4)
    """

    how: str
    used: int
    of: int
    least: int
    most: int
    moved: float


#: The matrix and target to go on with, and what was done; None where no value is missing.
Settled = tuple[Any, Any, Missing | None]


def settled(A: Any, target: Any, valid: Any, missing: Any) -> Settled:
    """Return A and its target without missing values, as ``missing`` says, and what was done.

    Raises
    ------
    ArgumentError, UnsupportedError
        ``missing`` is no known word, A is no real matrix in memory, or too little is left of it.
    """
    if missing == "raise":
        return A, target, None
    if not isinstance(missing, str) or missing not in ("rows", "pairwise"):
        raise ArgumentError(
            f"missing={missing!r}: expected missing='raise', missing='rows' or missing='pairwise'; columns with missing "
            "values are left out by valid=~numpy.isnan(A).any(axis=0)"
        )
    if passes.kind_of(A) is not None:
        raise UnsupportedError(
            f"missing={missing!r}: expected a matrix in memory (NumPy, torch, a data frame), got a {type(A).__name__}; "
            "fill its missing values before, or pass it as an array"
        )
    X = as_array("A", A)
    Y = None if target is None else as_array("target", target)
    for name, Z in [("A", X)] if Y is None else [("A", X), ("target", Y)]:
        if Z.ndim != 2 or array_api_compat.array_namespace(Z).isdtype(Z.dtype, "complex floating"):
            raise UnsupportedError(
                f"missing={missing!r}: expected one real matrix, got {name} of shape {tuple(Z.shape)} and dtype {Z.dtype}"
            )
    if Y is not None and Y.shape[0] != X.shape[0]:
        return A, target, None  # refused by name later
    mask = check.as_mask(valid, (), int(X.shape[1]))
    names = frames.names_of(A)
    blank = _blank(X, mask)
    gaps = [blank] if Y is None else [blank, _blank(Y, None)]
    if not any(bool(array_api_compat.array_namespace(g).any(g)) for g in gaps):
        return A, target, None
    if missing == "rows":
        return _complete_rows(A, target, X, Y, gaps, names)
    if any(getattr(Z, "requires_grad", False) for Z in (A, target)):
        raise UnsupportedError(
            "missing='pairwise' carries no gradient: expected a tensor without, pass A.detach() and target.detach()"
        )
    return _pairwise(X, Y, mask, names)


def _blank(X: Array, valid: np.ndarray | None) -> Array:
    """Return where a value is missing in a column that counts, bool of the shape of X."""
    xp = array_api_compat.array_namespace(X)
    if not xp.isdtype(X.dtype, "real floating"):
        return xp.zeros(tuple(X.shape), dtype=xp.bool, device=array_api_compat.device(X))
    blank = xp.isnan(X)
    return blank if valid is None else blank & xp.asarray(valid, device=array_api_compat.device(X))[None, :]


def _complete_rows(
    A: Any, target: Any, X: Array, Y: Array | None, gaps: list[Array], names: list[str] | None
) -> Settled:
    """Return the rows without a missing value; tensors keep their graph."""
    xp = array_api_compat.array_namespace(X)
    full = np.ones(int(X.shape[0]), dtype=bool)
    for gap in gaps:
        full &= ~linalg.host(array_api_compat.array_namespace(gap).any(gap, axis=1))
    if not full.any():
        counts = linalg.host(xp.sum(xp.astype(gaps[0], xp.int64), axis=0))
        j = int(np.argmax(counts))
        raise ArgumentError(
            f"missing='rows': every row has a missing value; expected a complete row. {_title(j, names)} has most, "
            f"{counts[j]} of {full.size}: leave it out with valid, or pass missing='pairwise'"
        )

    def part(given: Any, checked: Array) -> Array:
        Z = given if array_api_compat.is_torch_array(given) else checked
        space = array_api_compat.array_namespace(Z)
        return space.take(Z, space.asarray(np.flatnonzero(full), device=array_api_compat.device(Z)), axis=0)

    used, kept = int(full.sum()), part(A, X)
    return (
        kept if names is None else frames.Named(kept, names),
        None if Y is None else part(target, Y),
        Missing("rows", used, full.size, used, used, 0.0),
    )


@default_floating_errors
def _pairwise(X: Array, Y: Array | None, valid: np.ndarray | None, names: list[str] | None) -> Settled:
    """Return R with RᵀR the positive semidefinite matrix nearest to the estimated products of all columns."""
    m, n = (int(s) for s in X.shape)
    host = linalg.host(linalg.widen(X)).astype(np.float64)
    if valid is not None:
        host[:, ~valid] = 0.0
    parts, exponents = [host], []
    if Y is not None:
        parts.append(linalg.host(linalg.widen(Y)).astype(np.float64))
    for name, Z in zip(("A", "target"), parts, strict=False):
        filled = np.where(np.isnan(Z), 0.0, Z)
        top = check_finite(name, filled, None, "", "clean it; only NaN is a missing value")
        exponents.append(normalised(filled, top, always=True)[1])
    Z = np.concatenate([np.ldexp(Z, -e) for Z, e in zip(parts, exponents, strict=True)], axis=1)
    G, N, used = _products(Z)
    _check_pairs(N, n, names, valid)
    G *= m / N
    values, V = np.linalg.eigh(G)
    left = values > len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)
    R = (np.sqrt(values[left]) * V[:, left]).T if left.any() else np.zeros((1, len(values)))
    whole = float(np.linalg.norm(values))
    moved = float(np.linalg.norm(values[values < 0])) / whole if whole > 0 else 0.0
    if valid is not None:  # a column of padding has no part in the counts
        N = N[np.ix_(*[np.append(valid, np.ones(len(N) - n, dtype=bool))] * 2)]
    xp, device = array_api_compat.array_namespace(X), array_api_compat.device(X)
    R_A = xp.asarray(np.ldexp(R[:, :n], exponents[0]), device=device)
    return (
        R_A if names is None else frames.Named(R_A, names),
        None if Y is None else xp.asarray(np.ldexp(R[:, n:], exponents[1]), device=device),
        Missing(
            "pairwise", used, m, int(N.min()), int(N.max()), moved if moved > len(values) * 1e-15 else 0.0
        ),
    )


def _products(Z: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Return ZᵀZ over the values there are, how many each entry sums, and the number of rows that hold any; some rows at a time."""
    n = Z.shape[1]
    G, N, used = np.zeros((n, n)), np.zeros((n, n)), 0
    step = max(1, linalg.BLOCK // n)
    for a in range(0, len(Z), step):
        slab = Z[a : a + step]
        there = ~np.isnan(slab)
        known, present = np.where(there, slab, 0.0), there.astype(np.float64)
        G += known.T @ known
        N += present.T @ present
        used += int(np.count_nonzero(there.any(axis=1)))
    return G, N, used


def _check_pairs(N: np.ndarray, n: int, names: list[str] | None, valid: np.ndarray | None) -> None:
    """Refuse columns without a value, and pairs of columns that share no row."""
    empty = np.flatnonzero(np.diagonal(N) == 0)
    if empty.size:
        j = int(empty[0])
        what = _title(j, names) if j < n else f"column {j - n} of target"
        raise ArgumentError(
            f"missing='pairwise': {what} holds no value: expected at least one; mark it as padding with valid, or leave it out"
        )
    apart = np.argwhere(N == 0)
    if apart.size:
        i, j = (int(x) for x in apart[0])
        two = [_title(x, names) if x < n else f"column {x - n} of target" for x in (i, j)]
        raise ArgumentError(
            f"missing='pairwise': {two[0]} and {two[1]} have no row in common: expected at least one for every pair; "
            "leave one of them out with valid"
        )


def _title(j: int, names: list[str] | None) -> str:
    return f"column {j}" if names is None else f"column {j} ({names[j]!r})"
