"""Landmarks of a kernel, and the Nyström features they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import array_api_compat
from scipy import sparse
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.metrics.pairwise import KERNEL_PARAMS, pairwise_kernels
from sklearn.utils.validation import check_is_fitted, validate_data

from cssp import linalg
from cssp.arguments import as_tolerance
from cssp.conditions.constraints import positive
from cssp.errors import ArgumentError
from cssp.estimators._arrays import Array, check_same_kind, checked, count, floats, generator, like
from cssp.nystrom import GramSelection, select_gram
from cssp.scaling import default_floating_errors
from cssp.select import select
from cssp.selection import Selection

__all__ = ["LandmarkSelector"]


class LandmarkSelector(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Nyström features of a kernel, the landmarks being chosen instead of drawn uniformly.

    `fit` chooses rows S of X by `cssp.select_gram` on the kernel matrix K, which is never formed, or by `cssp.select` for the
    linear kernel. `transform` maps x to k(x, X_S) K[S, S]^(-1/2): products of these features approximate the kernel. The
    parameters of the kernel are those of ``sklearn.kernel_approximation.Nystroem``, which this can replace.

    Parameters
    ----------
    n_components : int or float, optional
        Number of landmarks (int), or their share (float in (0, 1], rounded, at least one). Left out, as many as `tol`
        or `tol_max` asks for, and without these 100 or all samples if there are fewer.
    kernel : str or callable
        Name of a kernel of scikit-learn, or a function of two samples.
    gamma, coef0, degree : float, optional
        Parameters of the kernel, as far as it has them.
    kernel_params : dict, optional
        Further keyword arguments of the kernel.
    method : str
        As `cssp.select_gram` has it. "residual" takes the sample that is worst approximated, deterministically;
        "random_pivot", which draws each with some probability, is less affected by outliers. For the linear kernel any row of
        `cssp.METHODS`.
    tol : float in (0, 1], optional
        Stop once tr(K - K_S) ≤ tol·tr(K); with a number of landmarks, too, whichever comes first.
    tol_max : float, optional
        Stop once no diagonal entry of K - K_S that may be chosen is above tol_max, instead of `tol`: see
        `cssp.select_gram`.
    include, exclude : sequence of int, optional
        Samples that are landmarks first, in this order, and that are none.
    deficient : {"fill", "truncate", "raise"}
        What to do where more landmarks are asked for than K has rank.
    method_options : dict, optional
        The method's own options.
    random_state : None, int, RandomState or Generator
        As in `ColumnSubsetSelector`.

    Attributes
    ----------
    components_ : array, shape (n_landmarks, n_features)
        The landmarks.
    component_indices_ : int64 array, shape (n_landmarks,)
        Their rows in X, in order of choice.
    normalization_ : array, shape (n_landmarks, n_landmarks)
        Inverse square root of the kernel between landmarks, zero where its eigenvalues are rounding.
    rank_ : int
        Numerical rank of that kernel.
    relative_error_ : float
        tr(K - K_S)/tr(K) on the training data.
    n_features_in_ : int
    feature_names_in_ : array of str
        Where X has names.

    Examples
    --------
    >>> import cssp
    >>> from sklearn.datasets import load_digits
    >>> X = load_digits().data / 16
    >>> landmarks = cssp.LandmarkSelector(50, gamma=0.05, method="random_pivot", random_state=0).fit(X)
    >>> landmarks.transform(X).shape
    (1797, 50)
    """

    def __init__(
        self,
        n_components: int | float | None = None,
        *,
        kernel: Any = "rbf",
        gamma: float | None = None,
        coef0: float | None = None,
        degree: float | None = None,
        kernel_params: Mapping[str, Any] | None = None,
        method: str = "residual",
        tol: float | None = None,
        tol_max: float | None = None,
        include: Sequence[int] | None = None,
        exclude: Sequence[int] | None = None,
        deficient: str = "fill",
        method_options: Mapping[str, Any] | None = None,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.kernel = kernel
        self.gamma = gamma
        self.coef0 = coef0
        self.degree = degree
        self.kernel_params = kernel_params
        self.method = method
        self.tol = tol
        self.tol_max = tol_max
        self.include = include
        self.exclude = exclude
        self.deficient = deficient
        self.method_options = method_options
        self.random_state = random_state

    @default_floating_errors
    def fit(self, X: Any, y: Any = None) -> LandmarkSelector:
        """Choose landmarks.

        Parameters
        ----------
        X : array, sparse matrix or data frame, shape (n_samples, n_features)
        y : ignored

        Returns
        -------
        self
        """
        X = checked("X", partial(validate_data, self), X, dtype=floats(X), accept_sparse="csr")
        n = X.shape[0]
        default = min(100, n) if self.tol is None and self.tol_max is None else None
        k = count("n_components", self.n_components, n, "n_samples", default)
        common: dict[str, Any] = {
            "tol": as_tolerance(self.tol),
            "tol_max": None if self.tol_max is None else positive("tol_max", self.tol_max),
            "deficient": self.deficient,
            "include": self.include,
            "exclude": self.exclude,
            "rng": generator(self.random_state),
            **(self.method_options or {}),
        }
        dense, parameters = not sparse.issparse(X), self._parameters()
        sel: Selection | GramSelection
        if self.kernel == "linear":
            common |= {name: common[name] ** 0.5 for name in ("tol", "tol_max") if common[name] is not None}
            sel = select(X, k, self.method, axis="rows", **common)
        elif isinstance(self.kernel, str) and dense:
            common |= parameters
            sel = select_gram(self.kernel, k, self.method, X=linalg.host(X), **common)
        else:
            kernel = self._kernel
            sel = select_gram(lambda I, J: kernel(X[I], X[J]), k, self.method, n=n, **common)
        lost = float(sel.relative_error) ** (2 if self.kernel == "linear" else 1)
        picks = linalg.host(sel.indices)
        if dense:
            xp, device = array_api_compat.array_namespace(X), array_api_compat.device(X)
            self.component_indices_ = xp.asarray(picks, device=device)
            self.components_ = xp.take(X, self.component_indices_, axis=0)
        else:
            self.component_indices_, self.components_ = picks, X[picks]
        self.normalization_ = _inverse_root(self._kernel(self.components_, self.components_))
        self.rank_, self.relative_error_ = int(sel.rank), lost
        self._n_features_out = len(picks)
        return self

    @default_floating_errors
    def transform(self, X: Any) -> Array:
        """Return the Nyström features.

        Parameters
        ----------
        X : array, sparse matrix or data frame, shape (n_samples, n_features)

        Returns
        -------
        array, shape (n_samples, n_landmarks)
        """
        check_is_fitted(self)
        check_same_kind(self, X, self.normalization_, "transform")
        X = checked("X", partial(validate_data, self), X, dtype=floats(X), accept_sparse="csr", reset=False)
        K = self._kernel(X, self.components_)
        return K @ like(self.normalization_, K)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.array_api_support = True
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _parameters(self) -> dict[str, Any]:
        """Return the keyword arguments of the kernel."""
        if not callable(self.kernel) and self.kernel not in KERNEL_PARAMS:
            raise ArgumentError(
                f"kernel = {self.kernel!r}: expected one of {sorted(KERNEL_PARAMS)}, or a function"
            )
        own = {name: getattr(self, name) for name in ("gamma", "coef0", "degree")}
        given = {name: value for name, value in own.items() if value is not None}
        if isinstance(self.kernel, str):
            given = {name: given[name] for name in given if name in KERNEL_PARAMS.get(self.kernel, ())}
        elif given:
            raise ArgumentError(
                f"{next(iter(given))} goes with a named kernel; put it into kernel_params of a function"
            )
        return given | dict(self.kernel_params or {})

    def _kernel(self, X: Any, Y: Any) -> Array:
        return pairwise_kernels(X, Y, metric=self.kernel, **self._parameters())


def _inverse_root(K: Array) -> Array:
    """Return K^(-1/2), zero on eigenvectors whose eigenvalues are rounding."""
    xp = array_api_compat.array_namespace(K)
    s, V = xp.linalg.eigh((K + K.T) / 2)
    real = s > K.shape[0] * float(xp.finfo(K.dtype).eps) * float(s[-1])
    inverse = xp.where(real, 1 / xp.sqrt(xp.where(real, s, xp.ones_like(s))), xp.zeros_like(s))
    return (V * inverse[None, :]) @ V.T
