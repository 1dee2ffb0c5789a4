"""What the feature selector makes of its arguments: features by name or number, values per feature, what y asks for, weights of samples."""

from __future__ import annotations

from functools import partial
from typing import Any

import array_api_compat
import numpy as np
from scipy import sparse
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.validation import _check_sample_weight, check_array

from cssp import linalg
from cssp.arguments import as_tolerance, in_order
from cssp.errors import ArgumentError
from cssp.estimators._arrays import Array, checked, floats, like

__all__ = ["as_target", "places", "root", "scaled", "tolerance"]


def places(argument: str, features: Any, names: list[str]) -> list[int] | None:
    """Return the feature numbers of a list of numbers or names."""
    if features is None:
        return None
    if isinstance(features, str):
        raise ArgumentError(
            f"{argument} = {features!r}: expected a list of features, got a str; pass [{features!r}]"
        )
    features = list(in_order(argument, features))
    unknown = [f for f in features if isinstance(f, str) and f not in names]
    if unknown:
        raise ArgumentError(f"{argument} contains {unknown[0]!r}, which is no feature name of X")
    return [names.index(f) if isinstance(f, str) else f for f in features]


def tolerance(tol: Any, explained_variance: Any) -> float | None:
    """Return the relative error that leaves this share of the variance explained, or tol where that is given."""
    if explained_variance is None:
        return as_tolerance(tol)
    if tol is not None:
        raise ArgumentError(
            f"tol = {tol!r} and explained_variance = {explained_variance!r}: expected one of the two; "
            "explained_variance is 1 - tol**2"
        )
    if (
        isinstance(explained_variance, bool | np.bool_)
        or not isinstance(explained_variance, int | float | np.number)
        or not 0 <= explained_variance < 1
    ):
        raise ArgumentError(
            f"explained_variance = {explained_variance!r}: expected a number in [0, 1), such as 0.95"
        )
    return float(np.sqrt(1 - explained_variance))


def as_target(target: str | None, X: Array, y: Any) -> Array | None:
    """Return what y says is to be reconstructed, shape (n_samples, p)."""
    if target is None:
        return None
    if target not in ("regression", "classification"):
        raise ArgumentError(f"target = {target!r}: expected None, 'regression' or 'classification'")
    if y is None:
        raise ArgumentError(
            f"target = {target!r} requires y to be passed, but the target y is None; "
            "target=None chooses features without it"
        )
    if target == "classification":
        y = LabelBinarizer().fit_transform(linalg.host(y) if hasattr(y, "dtype") else y)
    y = checked("y", check_array, y, dtype=floats(y), ensure_2d=False, input_name="y")
    if y.shape[0] != X.shape[0]:
        raise ArgumentError(f"y has {y.shape[0]} samples: expected {X.shape[0]}, as many as X has")
    y = like(y, X)
    return y[:, None] if y.ndim == 1 else y


def root(sample_weight: Any, X: Any) -> Array | None:
    """Return the square roots of the weights."""
    if sample_weight is None:
        return None
    w = checked(
        "sample_weight",
        partial(_check_sample_weight, X=X),
        sample_weight,
        dtype=X.dtype,
        ensure_non_negative=True,
    )
    return array_api_compat.array_namespace(w).sqrt(w)


def scaled(X: Any, root: Array | None) -> Any:
    """Return the rows of X times the roots."""
    if root is None:
        return X
    return sparse.diags_array(root) @ X if sparse.issparse(X) else X * root[:, None]
