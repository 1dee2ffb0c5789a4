"""What the estimators share: numbers of things, random states, arrays of several kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import array_api_compat
import numpy as np
import sklearn
from scipy import sparse

from cssp import frames, linalg
from cssp.errors import ArgumentError

__all__ = ["check_same_kind", "checked", "count", "floats", "generator", "like"]

Array = Any


def count(argument: str, number: Any, n: int, kind: str, default: int | None) -> int | None:
    """Return how many of n to choose; ``kind`` names what is counted."""
    if number is None:
        return default
    if isinstance(number, (int, np.integer)) and not isinstance(number, bool):
        if not 1 <= number <= n:
            raise ArgumentError(f"{argument} = {number}: expected between 1 and {kind} = {n}")
        return int(number)
    if isinstance(number, (float, np.floating)):
        if not 0 < number <= 1:
            raise ArgumentError(
                f"{argument} = {number}: expected a share in (0, 1]; for a number of them pass int({number})"
            )
        return max(1, round(float(number) * n))
    hint = "; for a share of the variance pass explained_variance" if "%" in str(number) else ""
    raise ArgumentError(
        f"{argument} = {number!r} ({type(number).__name__}): expected a number (int), a share (float) or None{hint}"
    )


def generator(random_state: Any) -> Any:
    """Return the generator that a scikit-learn `random_state` stands for."""
    if isinstance(random_state, np.random.RandomState):
        return np.random.default_rng(random_state.randint(2**31 - 1))
    return random_state


def floats(X: Any) -> list[Any]:
    """Return the precisions that are worked on, in the namespace that scikit-learn leaves X in; the first to convert others to."""
    native = sklearn.get_config()["array_api_dispatch"] and array_api_compat.is_array_api_obj(X)
    xp = array_api_compat.array_namespace(X) if native else np
    return [xp.float64, xp.float32]


class Refused(ArgumentError, TypeError):
    """What scikit-learn refuses; for some inputs it asks of estimators that this be a TypeError."""


#: What a selector with missing values may be told, before scikit-learn's own words about them.
HOLES = "pass missing='rows' or missing='pairwise' to choose with missing values, or fill them before: "


def checked(argument: str, validate: Callable[..., Any], X: Any, hint: str = "", **how: Any) -> Any:
    """Return ``validate(X, ...)`` of scikit-learn, with errors of this package: of columns of text, and the hint about NaN."""
    frames.as_values(argument, X)
    if array_api_compat.is_torch_array(X):
        X = X.detach()
    try:
        return validate(X, **how)
    except (TypeError, ValueError) as reason:
        said = hint if "contains NaN" in str(reason) else ""
        raise Refused(f"{argument} is refused: {said}{reason}") from reason


def like(T: Array, X: Array) -> Array:
    """Return T in the namespace and precision, and on the device, of X; for a sparse matrix, of NumPy."""
    if sparse.issparse(X):
        return T.astype(X.dtype, copy=False)
    xp = array_api_compat.array_namespace(X)
    if type(T) is not type(X):
        T = xp.asarray(linalg.host(T), device=array_api_compat.device(X))
    return xp.astype(T, X.dtype, copy=False)


def check_same_kind(estimator: Any, X: Any, fitted: Array, method: str) -> None:
    """Refuse, under array_api_dispatch, arrays of another namespace or device than those of `fit`."""
    if not sklearn.get_config()["array_api_dispatch"]:
        return
    native = array_api_compat.is_array_api_obj(X)
    xp = array_api_compat.array_namespace(X if native else np.empty(0))
    if xp is not array_api_compat.array_namespace(fitted) or (
        native and array_api_compat.device(X) != array_api_compat.device(fitted)
    ):
        raise ArgumentError(
            f"Inputs of {type(estimator).__name__}.{method}() must use the same namespace and device as those "
            f"of fit(): a {type(fitted).__name__}, not a {type(X).__name__}"
        )
