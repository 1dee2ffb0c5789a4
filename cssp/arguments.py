"""The input contract: each argument of `select` besides its matrices checked once, here, with a message that says what to do."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, KeysView, Mapping, Set, ValuesView
from typing import Any

import array_api_compat
import numpy as np

from cssp.errors import ArgumentError, UnknownNameError, UnsupportedError, check_integer
from cssp.habits import in_our_words
from cssp.linalg import host
from cssp.methods import METHODS, Method

__all__ = [
    "as_columns",
    "as_counts",
    "as_generator",
    "as_mask",
    "as_scale",
    "as_tolerance",
    "as_weights",
    "check_deficient",
    "check_disjoint",
    "check_options",
    "check_supported",
    "check_weights",
    "find_method",
    "in_order",
]

#: More columns than any matrix has.
MOST = 2**62


def find_method(name: object) -> Method:
    """Return the row of `METHODS` of that name."""
    if isinstance(name, str) and name in METHODS:
        return METHODS[name]
    if not isinstance(name, str):
        raise UnknownNameError(f"method = {name!r}: expected a name, one of {_listed(METHODS)}")
    near = difflib.get_close_matches(name.lower(), METHODS, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are {_listed(METHODS)}"
    raise UnknownNameError(f"method = {name!r} is unknown; {hint}")


def check_options(row: Method, options: Mapping[str, object]) -> None:
    """Refuse options that the method does not have."""
    for name in options:
        if name not in row.options:
            own = f"its options are {_listed(row.options)}" if row.options else "it has no options of its own"
            raise UnknownNameError(
                f"option {name!r} is unknown to method {row.name!r}{in_our_words(name)}; {own}"
            )


def check_supported(row: Method, feature: str, argument: str) -> None:
    """Refuse an argument the method cannot honour, naming the methods that can."""
    if feature not in row.supports:
        able = _listed(name for name, other in METHODS.items() if feature in other.supports)
        raise UnsupportedError(f"method {row.name!r} cannot honour {argument}; methods that can: {able}")


def as_counts(k: object, batch: tuple[int, ...]) -> np.ndarray | None:
    """Return k for every batch item, int64 of shape ``batch``; None where k was not given."""
    if k is None:
        return None
    counts = _as_array("k", k)
    if counts.ndim == 0:
        one = check_integer("k", k)
        if one > MOST:
            raise ArgumentError(f"k = {one}: no matrix has so many columns")
        return np.full(batch, one, dtype=np.int64)
    if counts.dtype.kind not in "iu":
        raise ArgumentError(f"k has dtype {counts.dtype}: expected integers, one per batch item")
    if counts.shape != batch:
        raise ArgumentError(
            f"k has shape {counts.shape}: expected one integer, or one per batch item, shape {batch}"
        )
    if counts.size and counts.min() < 1:
        raise ArgumentError(f"k = {counts.min()} for one batch item: must be at least 1")
    if counts.size and counts.max() > MOST:
        raise ArgumentError(f"k = {counts.max()} for one batch item: no matrix has so many columns")
    return counts.astype(np.int64)


def as_tolerance(tol: object) -> float | None:
    """Return tol in (0, 1], or None."""
    if tol is None:
        return None
    try:
        if isinstance(tol, (bool, np.bool_, str)):
            raise TypeError
        value = float(tol)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise ArgumentError(f"tol = {tol!r} ({type(tol).__name__}): expected one number in (0, 1]") from None
    if not 0 < value <= 1:
        raise ArgumentError(
            f"tol = {value}: must be in (0, 1]; it is relative, ‖A - P A‖ ≤ tol·‖A‖ in the Frobenius norm"
        )
    return value


def as_scale(scale: object) -> bool:
    """Return whether columns are divided by their norms."""
    if scale is None or (isinstance(scale, str) and scale == "norm"):
        return scale is not None
    raise ArgumentError(f"scale = {scale!r}: expected None or 'norm', which divides every column by its norm")


def as_generator(rng: object) -> np.random.Generator:
    """Return a NumPy generator from None, a seed or a generator."""
    if isinstance(rng, np.random.Generator):
        return rng
    if rng is None:
        return np.random.default_rng()
    if isinstance(rng, (bool, np.bool_)) or not isinstance(rng, (int, np.integer)):
        raise ArgumentError(
            f"rng = {rng!r} ({type(rng).__name__}): "
            "expected None, an integer seed or a numpy.random.Generator"
        )
    if rng < 0:
        raise ArgumentError(f"rng = {rng}: a seed must not be negative")
    return np.random.default_rng(int(rng))


def as_columns(argument: str, index: object, batch: tuple[int, ...], n: int) -> np.ndarray:
    """Return the column indices for every batch item, int64 of shape (*batch, c); one list for all or one per item."""
    if index is None:
        return np.zeros((*batch, 0), dtype=np.int64)
    array = _as_array(argument, in_order(argument, index))
    if array.ndim == 0 and array.dtype.kind in "iu":
        raise ArgumentError(f"{argument} = {array}: expected a list of column indices; pass [{array}]")
    if array.size == 0 and array.shape[:-1] in ((), batch):
        return np.zeros((*batch, 0), dtype=np.int64)
    if array.dtype.kind == "b":
        raise ArgumentError(
            f"{argument} is a mask: expected column indices; pass numpy.flatnonzero({argument})"
        )
    if array.dtype.kind not in "iu":
        named = next((str(x) for x in array.flat if isinstance(x, str)), None)
        raise ArgumentError(
            f"{argument} has dtype {array.dtype}: expected column indices (integers)"
            + ("" if named is None else f", got the name {named!r}; pass list(names).index({named!r})")
        )
    if array.ndim != 1 and array.shape[:-1] != batch:
        raise ArgumentError(
            f"{argument} has shape {array.shape}: "
            f"expected a list of column indices, or one per batch item {batch}"
        )
    if array.size and not (array.min() >= 0 and array.max() < n):
        wrong = array[(array < 0) | (array >= n)].flat[0]
        raise ArgumentError(f"{argument} contains {wrong}: column indices run from 0 to {n - 1}")
    ordered = np.sort(array, axis=-1)
    if (ordered[..., 1:] == ordered[..., :-1]).any():
        twice = ordered[..., 1:][ordered[..., 1:] == ordered[..., :-1]].flat[0]
        raise ArgumentError(f"{argument} contains column {twice} twice")
    return np.broadcast_to(array.astype(np.int64), (*batch, array.shape[-1]))


def in_order(argument: str, index: Any) -> Any:
    """Return the indices, those of an iterator collected; a set has no order."""
    if isinstance(index, Set) and not isinstance(index, KeysView):
        raise ArgumentError(
            f"{argument} = {index!r}: expected a sequence, as its order counts, got a {type(index).__name__}; "
            f"pass sorted({argument})"
        )
    if isinstance(index, Mapping):
        raise ArgumentError(
            f"{argument} is a {type(index).__name__}: expected a sequence of indices; pass list({argument})"
        )
    return list(index) if isinstance(index, (Iterator, KeysView, ValuesView)) else index


def check_deficient(deficient: Any) -> None:
    """Refuse what does not say what to do where k exceeds the rank."""
    if not isinstance(deficient, str) or deficient not in ("fill", "truncate", "raise"):
        raise ArgumentError(f"deficient = {deficient!r}: expected 'fill', 'truncate' or 'raise'")


def check_disjoint(include: np.ndarray, exclude: np.ndarray) -> None:
    """Refuse columns that are both included and excluded, item by item."""
    if not (include.size and exclude.size):
        return
    for i in np.ndindex(include.shape[:-1]):
        both = np.intersect1d(include[i], exclude[i])
        if both.size:
            raise ArgumentError(
                f"include and exclude both contain column {both[0]}; remove it from one of them"
            )


def as_mask(valid: object, batch: tuple[int, ...], n: int) -> np.ndarray | None:
    """Return the validity of every column of every item, bool of shape (*batch, n); None where all are valid."""
    if valid is None:
        return None
    mask = _as_array("valid", valid)
    if mask.dtype.kind != "b":
        raise ArgumentError(
            f"valid has dtype {mask.dtype}: expected booleans; pass valid != 0 if that is meant"
        )
    return _spread("valid", mask, batch, n)


def as_weights(weights: object, batch: tuple[int, ...], n: int) -> np.ndarray | None:
    """Return the weights of every column of every item, float64 of shape (*batch, n); None where not given."""
    if weights is None:
        return None
    if array_api_compat.is_torch_array(weights):
        weights = weights.detach().double() if not weights.dtype.is_complex else weights.detach()
    w = _as_array("weights", weights)
    if w.dtype.kind not in "biuf":
        raise ArgumentError(f"weights has dtype {w.dtype}: expected real numbers, one per column")
    with np.errstate(over="ignore"):  # a long double beyond the range is refused as Inf
        return _spread("weights", w.astype(np.float64), batch, n)


def _as_array(argument: str, value: object) -> np.ndarray:
    """Return a host array, lists of unequal length refused by name."""
    try:
        return np.asarray(host(value) if hasattr(value, "shape") else value)
    except ValueError:
        raise ArgumentError(
            f"{argument} has rows of unequal length: expected one list for all batch items, "
            "or lists of one length, one per item"
        ) from None


def _spread(argument: str, x: np.ndarray, batch: tuple[int, ...], n: int) -> np.ndarray:
    if x.shape not in ((n,), (*batch, n)):
        allowed = f"({n},)" if not batch else f"({n},) or {(*batch, n)}"
        raise ArgumentError(f"{argument} has shape {x.shape}: expected {allowed}, one entry per column")
    return np.broadcast_to(x, (*batch, n))


def check_weights(w: np.ndarray, columns: np.ndarray | None, where: str) -> None:
    """Refuse the first negative, NaN or infinite weight of an item."""
    bad = np.flatnonzero(~(np.isfinite(w) & (w >= 0)))
    if bad.size:
        j = int(bad[0]) if columns is None else int(columns[bad[0]])
        raise ArgumentError(
            f"weights must be finite and not negative; column {j}{where} has {w[bad[0]]}"
            + ("; a column to be left out goes into exclude or valid" if math.isnan(w[bad[0]]) else "")
        )


def _listed(names: Any) -> str:
    return ", ".join(repr(name) for name in sorted(names))
