"""Features to keep, the others being rebuilt from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import array_api_compat
import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.feature_selection import SelectorMixin
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from cssp import linalg
from cssp.errors import ArgumentError
from cssp.estimators._arrays import HOLES, Array, check_same_kind, checked, count, floats, generator, like
from cssp.estimators._features import as_target, places, root, scaled, tolerance
from cssp.frames import by_name
from cssp.scaling import default_floating_errors
from cssp.select import select

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ColumnSubsetSelector"]


class ColumnSubsetSelector(SelectorMixin, BaseEstimator):
    """Keep the features from which all others can be rebuilt.

    `fit` is `cssp.select` on X, one column per feature. `transform` keeps the chosen features in the order they have in X;
    `inverse_transform` rebuilds the others from them, by the least-squares coefficients of the training data. Nothing is
    centred or scaled: put a ``StandardScaler`` before it where means or units should not count.

    Parameters
    ----------
    n_features_to_select : int or float, optional
        How many (int), or which share of the features (float in (0, 1], rounded, at least one): 0.95 keeps 95 % of the
        columns, which is not what ``PCA(0.95)`` means, see `explained_variance`. With `groups`, how many groups. Left out, as
        many as `tol`, `tol_each`, `tol_max`, `explained_variance` or `budget` allows, and half of them without these.
    method : str
        Name of a row of `cssp.METHODS`.
    tol : float in (0, 1], optional
        Stop once ‖X - P_S X‖_F ≤ tol·‖X‖_F; with a number of features, too, whichever comes first.
    tol_each : float in (0, 1), optional
        Stop once the residual norm of every feature is at most tol_each times its own norm, instead of `tol`.
    tol_max : float, optional
        Stop once the residual norm of every feature that may be chosen is at most tol_max, in the unit of X (times
        `feature_weights` and the root of ``sample_weight``), instead of `tol`: see `cssp.select`.
    explained_variance : float in [0, 1), optional
        Stop once the chosen features rebuild this share of the squared norm of X, instead of `tol`: of its variance, as
        PCA counts it, if the features are centred. The same as ``tol=sqrt(1 - explained_variance)``.
    target : {None, "regression", "classification"}
        What the features are chosen for: to rebuild X, whatever y is (None); to predict y (a number or several per sample),
        or the indicators of its classes, linearly and without intercept. Only methods that support ``target`` can.
    feature_weights : array, shape (n_features,), optional
        ``weights`` of `cssp.select`: how much the error of a feature counts.
    include, exclude : sequence of int or of str, optional
        Features, by number or by name, that are chosen first, and that are not chosen.
    groups : sequence of labels, shape (n_features,), or mapping, optional
        Features of one label are chosen together or not at all, such as the indicators of one category. A mapping has the
        label of each feature name. So have those of `costs`.
    costs : array, shape (n_features,), or mapping, optional
        What each feature costs, with `budget`.
    budget : float, optional
        The most that the chosen features may cost.
    constraint : object or sequence of these, optional
        Which features may stand together: `cssp.AtMost`, `cssp.MinDistance`, or anything with ``allowed(chosen)``.
    missing : {"raise", "rows", "pairwise"}
        What to do with NaN in `fit`, see `cssp.select`; not "raise" lets `transform` pass NaN on.
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
    selection_ : cssp.Selection
        The choice itself, with its certificate and the names of the features, to ask, print or save. It refers to X until
        the estimator is pickled.
    errors_ : float64 array, shape (n_selected + 1,)
        Squared Frobenius error after 0, ..., n_selected picks.
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
        tol_each: float | None = None,
        tol_max: float | None = None,
        explained_variance: float | None = None,
        target: str | None = None,
        feature_weights: Any = None,
        include: Sequence[int | str] | None = None,
        exclude: Sequence[int | str] | None = None,
        groups: Any = None,
        costs: Any = None,
        budget: float | None = None,
        constraint: Any = None,
        missing: str = "raise",
        deficient: str = "fill",
        method_options: Mapping[str, Any] | None = None,
        random_state: Any = None,
    ) -> None:
        self.n_features_to_select = n_features_to_select
        self.method = method
        self.tol = tol
        self.tol_each = tol_each
        self.tol_max = tol_max
        self.explained_variance = explained_variance
        self.target = target
        self.feature_weights = feature_weights
        self.include = include
        self.exclude = exclude
        self.groups = groups
        self.costs = costs
        self.budget = budget
        self.constraint = constraint
        self.missing = missing
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
        sparse_too = "csc" if self._takes_sparse() else False
        finite = self.missing == "raise" or "allow-nan"
        validate = partial(validate_data, self, ensure_all_finite=finite)
        X = checked("X", validate, X, hint=HOLES, dtype=floats(X), accept_sparse=sparse_too)
        B = as_target(self.target, X, y)
        weights = root(sample_weight, X)
        A = scaled(X, weights)
        names = list(getattr(self, "feature_names_in_", ()))
        groups = by_name("groups", self.groups, names, "feature", "X")
        tol = tolerance(self.tol, self.explained_variance)
        for name in ("tol_each", "tol_max"):
            if self.explained_variance is not None and getattr(self, name) is not None:
                raise ArgumentError(
                    f"explained_variance = {self.explained_variance!r} and {name} = {getattr(self, name)!r}: expected one of the two"
                )
        n = X.shape[1] if groups is None else len(set(groups))
        ends = (tol, self.tol_each, self.tol_max, self.budget)
        default = max(1, n // 2) if all(end is None for end in ends) else None
        conditions = {
            "tol_each": self.tol_each,
            "tol_max": self.tol_max,
            "groups": groups,
            "costs": by_name("costs", self.costs, names, "feature", "X"),
            "budget": self.budget,
            "constraint": self.constraint,
            "missing": None if self.missing == "raise" else self.missing,
        }
        sel = select(
            A,
            count("n_features_to_select", self.n_features_to_select, n, "n_features", default),
            self.method,
            tol=tol,
            target=None if B is None else scaled(B, weights),
            weights=by_name("feature_weights", self.feature_weights, names, "feature", "X"),
            include=places("include", self.include, names),
            exclude=places("exclude", self.exclude, names),
            deficient=self.deficient,
            rng=generator(self.random_state),
            **{name: value for name, value in conditions.items() if value is not None},
            **(self.method_options or {}),
        )
        self.selection_ = replace(sel, _names=names or None)
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
        X = scaled(X, root(sample_weight, X))
        rows = max(1, linalg.BLOCK // X.shape[1]) if sparse.issparse(X) else X.shape[0]
        whole = missing = 0.0
        for a in range(0, X.shape[0], rows):
            x = X[a : a + rows, :].toarray() if sparse.issparse(X) else X
            whole += linalg.frobenius2(x)
            missing += linalg.frobenius2(x - self._transform(x) @ like(self.coefficients_, x))
        return 1.0 - missing / whole if whole > 0 else 1.0

    @property
    def errors_(self) -> Array:
        """Squared Frobenius error after 0, ..., n_selected picks, shape (n_selected + 1,)."""
        check_is_fitted(self)
        return self.selection_.errors

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw `errors_` beside the best that any features could do, see `cssp.plotting.error_trace`.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            A new one by default.
        """
        check_is_fitted(self)
        return self.selection_.plot(ax)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.array_api_support = True
        tags.input_tags.sparse = self._takes_sparse()
        tags.input_tags.allow_nan = self.missing != "raise"
        tags.target_tags.required = self.target is not None
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _takes_sparse(self) -> bool:
        return self.target is None and self.missing == "raise"

    def _get_support_mask(self) -> np.ndarray:
        check_is_fitted(self)
        mask = np.zeros(self.n_features_in_, dtype=bool)
        mask[linalg.host(self.indices_)] = True
        return mask

    def _transform(self, X: Any) -> Any:
        if hasattr(X, "iloc") or sparse.issparse(X):
            return super()._transform(X)
        return linalg.take_columns(X, np.flatnonzero(self._get_support_mask()))

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
