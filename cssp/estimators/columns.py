"""Features to keep, the others being rebuilt from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import array_api_compat
import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.feature_selection import SelectorMixin
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.validation import _check_sample_weight, check_array, check_is_fitted, validate_data

from cssp import linalg
from cssp.arguments import in_order
from cssp.errors import ArgumentError
from cssp.estimators._arrays import Array, check_same_kind, checked, count, floats, generator, like
from cssp.scaling import default_floating_errors
from cssp.select import select

__all__ = ["ColumnSubsetSelector"]


class ColumnSubsetSelector(SelectorMixin, BaseEstimator):
    """Keep the features from which all others can be rebuilt.

    `fit` is `cssp.select` on X, one column per feature. `transform` keeps the chosen features in the order they have in X;
    `inverse_transform` rebuilds the others from them, by the least-squares coefficients of the training data. Nothing is
    centred or scaled: put a ``StandardScaler`` before it where means or units should not count.

    Parameters
    ----------
    n_features_to_select : int or float, optional
        How many (int), or which share (float in (0, 1], rounded, at least one). Left out, as many as `tol` asks for, and half
        of them without `tol`.
    method : str
        Name of a row of `cssp.METHODS`.
    tol : float in (0, 1], optional
        Stop once ‖X - P_S X‖_F ≤ tol·‖X‖_F; with a number of features, too, whichever comes first.
    target : {None, "regression", "classification"}
        What the features are chosen for: to rebuild X, whatever y is (None); to predict y (a number or several per sample),
        or the indicators of its classes, linearly and without intercept. Only methods that support ``target`` can.
    feature_weights : array, shape (n_features,), optional
        ``weights`` of `cssp.select`: how much the error of a feature counts.
    include, exclude : sequence of int or of str, optional
        Features, by number or by name, that are chosen first, and that are not chosen.
    deficient : {"fill", "truncate", "raise"}
        What to do where more features are asked for than are linearly independent, see `cssp.select`.
    method_options : dict, optional
        The method's own options.
    random_state : None, int, RandomState or Generator
        Randomness of sampling methods. None draws anew in every fit; NumPy's global generator is never touched.

    Attributes
    ----------
    indices_ : int64 array, shape (n_selected,)
        Chosen features in order of choice.
    n_features_ : int
        How many.
    coefficients_ : array, shape (n_selected, n_features)
        T with X ≈ transform(X) @ T, identity in the chosen features.
    rank_ : int
        Numerical rank of the chosen features.
    n_features_in_ : int
    feature_names_in_ : array of str
        Where X has names.

    Notes
    -----
    Under ``sklearn.set_config(array_api_dispatch=True)`` a torch tensor, or an array of any other Array-API namespace, is
    worked on where it is, and what comes back is of its kind.

    Examples
    --------
    >>> import cssp
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.preprocessing import StandardScaler
    >>> X = StandardScaler().fit_transform(load_wine().data)
    >>> selector = cssp.ColumnSubsetSelector(6).fit(X)
    >>> selector.indices_
    array([ 0, 10,  2,  8,  4,  7])
    >>> selector.inverse_transform(selector.transform(X)).shape
    (178, 13)
    """

    def __init__(
        self,
        n_features_to_select: int | float | None = None,
        *,
        method: str = "residual",
        tol: float | None = None,
        target: str | None = None,
        feature_weights: Any = None,
        include: Sequence[int | str] | None = None,
        exclude: Sequence[int | str] | None = None,
        deficient: str = "fill",
        method_options: Mapping[str, Any] | None = None,
        random_state: Any = None,
    ) -> None:
        self.n_features_to_select = n_features_to_select
        self.method = method
        self.tol = tol
        self.target = target
        self.feature_weights = feature_weights
        self.include = include
        self.exclude = exclude
        self.deficient = deficient
        self.method_options = method_options
        self.random_state = random_state

    @default_floating_errors
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> ColumnSubsetSelector:
        """Choose features.

        Parameters
        ----------
        X : array or data frame, shape (n_samples, n_features)
        y : array, shape (n_samples,) or (n_samples, n_outputs), optional
            Used where `target` says so.
        sample_weight : array, shape (n_samples,), optional
            Not negative. Two counts as the sample twice, zero as not at all: rows are scaled by the square root.

        Returns
        -------
        self
        """
        sparse_too = "csc" if self.target is None else False
        X = checked("X", partial(validate_data, self), X, dtype=floats(X), accept_sparse=sparse_too)
        n = X.shape[1]
        default = None if self.tol is not None else max(1, n // 2)
        B = self._target(X, y)
        root = _root(sample_weight, X)
        A = _scaled(X, root)
        sel = select(
            A,
            count("n_features_to_select", self.n_features_to_select, n, "n_features", default),
            self.method,
            tol=self.tol,
            target=None if B is None else _scaled(B, root),
            weights=self.feature_weights,
            include=self._columns("include"),
            exclude=self._columns("exclude"),
            deficient=self.deficient,
            rng=generator(self.random_state),
            **(self.method_options or {}),
        )
        self.indices_ = sel.indices
        self.rank_ = int(sel.rank)
        self.n_features_ = int(sel.k)
        if B is not None or self.feature_weights is not None:  # the same columns, for X itself
            sel = select(A, tol=1.0, include=sel.indices)
        self.coefficients_ = self._identity_on_chosen(sel.coefficients(), X.dtype)
        return self

    @default_floating_errors
    def transform(self, X: Any) -> Any:
        """Return the chosen features, in the order they have in X.

        Parameters
        ----------
        X : array or data frame, shape (n_samples, n_features)

        Returns
        -------
        array or data frame, shape (n_samples, n_selected)
        """
        check_is_fitted(self)
        check_same_kind(self, X, self.coefficients_, "transform")
        return super().transform(X)

    @default_floating_errors
    def inverse_transform(self, X: Any) -> Array:
        """Return all features, those not chosen rebuilt from those that are.

        Parameters
        ----------
        X : array, shape (n_samples, n_selected)
            As `transform` returns it.

        Returns
        -------
        array, shape (n_samples, n_features)
            ``X @ coefficients_``.
        """
        check_is_fitted(self)
        X = checked("X", check_array, X, dtype=floats(X), accept_sparse="csr", input_name="X")
        if X.shape[1] != self.n_features_:
            raise ArgumentError(
                f"X has {X.shape[1]} features: expected the {self.n_features_} chosen ones, as transform returns them"
            )
        return X @ like(self.coefficients_, X)

    @default_floating_errors
    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return the share of the squared norm of X that its chosen features rebuild: 1 - ‖X - X_S T‖²/‖X‖².

        Parameters
        ----------
        X : array or data frame, shape (n_samples, n_features)
        y : ignored
        sample_weight : array, shape (n_samples,), optional

        Returns
        -------
        float
            At most 1; what is missing to it is the squared relative error.
        """
        check_is_fitted(self)
        X = checked("X", partial(validate_data, self), X, dtype=floats(X), accept_sparse="csr", reset=False)
        X = _scaled(X, _root(sample_weight, X))
        rows = max(1, linalg.BLOCK // X.shape[1]) if sparse.issparse(X) else X.shape[0]
        whole = missing = 0.0
        for a in range(0, X.shape[0], rows):
            x = X[a : a + rows, :].toarray() if sparse.issparse(X) else X
            whole += linalg.frobenius2(x)
            missing += linalg.frobenius2(x - self._transform(x) @ like(self.coefficients_, x))
        return 1.0 - missing / whole if whole > 0 else 1.0

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.array_api_support = True
        tags.input_tags.sparse = self.target is None
        tags.target_tags.required = self.target is not None
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _get_support_mask(self) -> np.ndarray:
        check_is_fitted(self)
        mask = np.zeros(self.n_features_in_, dtype=bool)
        mask[linalg.host(self.indices_)] = True
        return mask

    def _transform(self, X: Any) -> Any:
        if hasattr(X, "iloc") or sparse.issparse(X):
            return super()._transform(X)
        return linalg.take_columns(X, np.flatnonzero(self._get_support_mask()))

    def _target(self, X: Array, y: Any) -> Array | None:
        """Return what y says is to be reconstructed, shape (n_samples, p)."""
        if self.target is None:
            return None
        if self.target not in ("regression", "classification"):
            raise ArgumentError(f"target = {self.target!r}: expected None, 'regression' or 'classification'")
        if y is None:
            raise ArgumentError(
                f"target = {self.target!r} requires y to be passed, but the target y is None; "
                "target=None chooses features without it"
            )
        if self.target == "classification":
            y = LabelBinarizer().fit_transform(linalg.host(y) if hasattr(y, "dtype") else y)
        y = checked("y", check_array, y, dtype=floats(y), ensure_2d=False, input_name="y")
        if y.shape[0] != X.shape[0]:
            raise ArgumentError(f"y has {y.shape[0]} samples: expected {X.shape[0]}, as many as X has")
        y = like(y, X)
        return y[:, None] if y.ndim == 1 else y

    def _columns(self, argument: str) -> list[int] | None:
        """Return the feature numbers of a list of numbers or names."""
        features = getattr(self, argument)
        if features is None:
            return None
        if isinstance(features, str):
            raise ArgumentError(
                f"{argument} = {features!r}: expected a list of features, got a str; pass [{features!r}]"
            )
        features = list(in_order(argument, features))
        names = list(getattr(self, "feature_names_in_", ()))
        unknown = [f for f in features if isinstance(f, str) and f not in names]
        if unknown:
            raise ArgumentError(f"{argument} contains {unknown[0]!r}, which is no feature name of X")
        return [names.index(f) if isinstance(f, str) else f for f in features]

    def _identity_on_chosen(self, T: Array, dtype: Any) -> Array:
        """Return the coefficients with the rows in the order of `transform`, each chosen feature standing for itself."""
        xp, device = array_api_compat.array_namespace(T), array_api_compat.device(T)
        chosen = linalg.host(self.indices_)
        order = np.argsort(chosen)
        T = xp.take(xp.astype(T, dtype, copy=False), xp.asarray(order, device=device), axis=0)
        rows = np.full(self.n_features_in_, -1)
        rows[chosen[order]] = np.arange(len(order))
        own = rows[None, :] == np.arange(len(order))[:, None]
        mask, own = (xp.asarray(x, device=device) for x in ((rows >= 0)[None, :], own))
        return xp.where(mask, xp.astype(own, dtype), T)


def _root(sample_weight: Any, X: Any) -> Array | None:
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


def _scaled(X: Any, root: Array | None) -> Any:
    """Return the rows of X times the roots."""
    if root is None:
        return X
    return sparse.diags_array(root) @ X if sparse.issparse(X) else X * root[:, None]
