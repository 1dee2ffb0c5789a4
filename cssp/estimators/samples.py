"""Samples to keep, the others being rebuilt from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import array_api_compat
import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _check_sample_weight, check_consistent_length, validate_data

from cssp import linalg
from cssp.estimators._arrays import checked, count, floats, generator
from cssp.frames import labels_of
from cssp.scaling import default_floating_errors
from cssp.select import select

__all__ = ["SampleSelector"]


class SampleSelector(BaseEstimator):
    """Keep the samples from which all others can be rebuilt: a coreset of rows.

    `fit` is ``cssp.select(X, axis="rows")``. As in imbalanced-learn, `fit_resample` returns the chosen samples, and the y that
    belong to them. Methods that choose by span, such as "residual" or "greedy", find at most as many samples as X has rank; for
    more, "gappypod_e" goes on by what steadies a linear fit, and "farthest" spreads samples evenly.

    Parameters
    ----------
    n_samples_to_select : int or float, optional
        How many (int), or which share (float in (0, 1], rounded, at least one). Left out, as many as `tol` or
        `tol_max` asks for, and without these as many as there are features, or all samples if there are fewer.
    method : str
        Name of a row of `cssp.METHODS`.
    tol : float in (0, 1], optional
        Stop once ‖X - T X_S‖_F ≤ tol·‖X‖_F; with a number of samples, too, whichever comes first.
    tol_max : float, optional
        Stop once no sample that may be chosen is farther than tol_max from the span of the chosen ones, in the unit of X
        (times the root of ``sample_weight``), instead of `tol`: see `cssp.select`.
    include, exclude : sequence of int, optional
        Samples that are chosen first, such as landmarks that are given, and that are not chosen.
    deficient : {"fill", "truncate", "raise"}
        What to do where more samples are asked for than are linearly independent, see `cssp.select`.
    method_options : dict, optional
        The method's own options.
    random_state : None, int, RandomState or Generator
        As in `ColumnSubsetSelector`.

    Attributes
    ----------
    indices_ : int64 array, shape (n_selected,)
        Chosen samples in order of choice.
    support_ : bool array, shape (n_samples,)
        The same as a mask.
    selection_ : Selection
        With errors, certificate, the coefficients T of X ≈ T X_S, and the labels of the samples, where X is a frame of pandas.
    n_features_in_ : int
    feature_names_in_ : array of str
        Where X has names.

    Examples
    --------
    >>> import cssp
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> selector = cssp.SampleSelector(50)
    >>> X_kept, y_kept = selector.fit_resample(X, y)
    >>> X_kept.shape, y_kept.shape, round(selector.selection_.relative_error, 3)
    ((50, 64), (50,), 0.039)
    """

    def __init__(
        self,
        n_samples_to_select: int | float | None = None,
        *,
        method: str = "residual",
        tol: float | None = None,
        tol_max: float | None = None,
        include: Sequence[int] | None = None,
        exclude: Sequence[int] | None = None,
        deficient: str = "fill",
        method_options: Mapping[str, Any] | None = None,
        random_state: Any = None,
    ) -> None:
        self.n_samples_to_select = n_samples_to_select
        self.method = method
        self.tol = tol
        self.tol_max = tol_max
        self.include = include
        self.exclude = exclude
        self.deficient = deficient
        self.method_options = method_options
        self.random_state = random_state

    @default_floating_errors
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> SampleSelector:
        """Choose samples.

        Parameters
        ----------
        X : array, sparse matrix or data frame, shape (n_samples, n_features)
        y : ignored
        sample_weight : array, shape (n_samples,), optional
            Not negative: how often the squared error of a sample counts. Samples of weight zero are chosen last.

        Returns
        -------
        self
        """
        labels = labels_of(X)
        X = checked("X", partial(validate_data, self), X, dtype=floats(X), accept_sparse="csr")
        n, d = X.shape
        weights = None
        if sample_weight is not None:
            weights = np.sqrt(
                linalg.host(
                    checked(
                        "sample_weight",
                        partial(_check_sample_weight, X=X),
                        sample_weight,
                        dtype=X.dtype,
                        ensure_non_negative=True,
                    )
                )
            )
        self.selection_ = select(
            X,
            count(
                "n_samples_to_select",
                self.n_samples_to_select,
                n,
                "n_samples",
                min(n, d) if self.tol is None and self.tol_max is None else None,
            ),
            self.method,
            axis="rows",
            tol=self.tol,
            tol_max=self.tol_max,
            weights=weights,
            include=self.include,
            exclude=self.exclude,
            deficient=self.deficient,
            rng=generator(self.random_state),
            **(self.method_options or {}),
        )
        self.selection_ = replace(self.selection_, _names=labels)
        self.indices_, self.support_ = self.selection_.indices, self.selection_.mask()
        return self

    def fit_resample(self, X: Any, y: Any = None) -> Any:
        """Choose samples, and return them in the order they have in X.

        Parameters
        ----------
        X : array, sparse matrix or data frame, shape (n_samples, n_features)
        y : array, shape (n_samples,) or (n_samples, n_outputs), optional
            Not used for the choice.

        Returns
        -------
        X_kept : of the kind of X, shape (n_selected, n_features)
        y_kept : of the kind of y
            Where y is given; else X_kept alone is returned.
        """
        kept = np.flatnonzero(linalg.host(self.fit(X).support_))
        if y is None:
            return _rows(X, kept)
        checked("y", lambda _: check_consistent_length(X, y), y)
        return _rows(X, kept), _rows(y, kept)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.array_api_support = True
        tags.input_tags.sparse = True
        return tags


def _rows(X: Any, kept: np.ndarray) -> Any:
    """Return these rows of an array, frame, sparse matrix or list."""
    if array_api_compat.is_array_api_obj(X):
        xp = array_api_compat.array_namespace(X)
        return xp.take(X, xp.asarray(kept, device=array_api_compat.device(X)), axis=0)
    return X.tocsr()[kept] if sparse.issparse(X) else _safe_indexing(X, kept)
