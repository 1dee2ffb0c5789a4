"""Positive semidefinite matrices read by blocks, never formed: a matrix, a function of indices, a named kernel."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import array_api_compat
import numpy as np

from cssp import arguments as check
from cssp.arrays import as_array
from cssp.errors import ArgumentError, UnknownNameError, UnsupportedError, check_integer
from cssp.linalg import host
from cssp.passes import kind_of

__all__ = ["Gram", "as_gram"]

Array = Any

#: Indices of a block in which the diagonal of a function is asked for: few calls, few entries beside the diagonal.
BLOCK = 16

#: Rows and columns of a matrix that are compared with each other before the work begins.
SAMPLE = 512

#: Entries of the rows that are read at once where all are read.
ROOM = 1 << 22

#: Rows I of K, or their entries at J.
Reader = Callable[[np.ndarray, np.ndarray | None], Any]

#: Kernels whose diagonal is 1 whatever the data.
UNIT = ("rbf", "laplacian")


class Gram:
    """diag(w)·K·diag(w)·4**-exponent in double precision, and a count of the entries of K that were evaluated.

    Attributes
    ----------
    n : int
        Order of K.
    entries : int
        Entries evaluated so far.
    eps : float
        Unit of rounding of the entries of K: of the precision they came in, or more where more is known.
    diagonal : float64 array, shape (n,)
        Largest entry in [1/4, 1), or all zero.
    exponent : int
    """

    def __init__(
        self,
        read: Reader,
        n: int,
        diagonal: np.ndarray | float | None,
        weights: np.ndarray | None,
        eps: float = 0.0,
    ) -> None:
        self.n, self.entries, self._read = n, 0, read
        self._all, self.eps = np.arange(n), max(eps, float(np.finfo(np.float64).eps))
        if diagonal is None:
            blocks = [self._all[a : a + BLOCK] for a in range(0, n, BLOCK)]
            diagonal = np.concatenate([np.diagonal(self._raw(J, J)) for J in blocks])
        d = self._checked_diagonal(diagonal)
        self._shift = _exponent4(float(d.max()))
        d = np.ldexp(d, -2 * self._shift)
        self._w = None
        self.exponent = self._shift
        if weights is not None:
            more = math.frexp(float(np.max(weights * np.sqrt(d))))[1] if np.any(weights * d) else 0
            self._w = np.ldexp(weights, -more)
            self.exponent += more
            d = (d * self._w) * self._w
        self.diagonal = d

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without K, which is not pickled."""
        return self.__dict__ | {"_read": _refuse_pickled}

    def __deepcopy__(self, memo: Any) -> Gram:
        return self

    def rows(self, J: Any) -> np.ndarray:
        """Return K[J, :], shape (len(J), n)."""
        return self.block(np.asarray(J, dtype=np.int64))

    def block(self, I: np.ndarray, J: np.ndarray | None = None) -> np.ndarray:
        """Return K[I, J], shape (len(I), len(J))."""
        B = np.ldexp(1.0, -2 * self._shift) * self._raw(I, J)
        if self._w is None:
            return B
        return self._w[I, None] * B * (self._w if J is None else self._w[J])

    def all_rows(self) -> Any:
        """Return the pairs (J, K[J, :]) that cover the matrix."""
        step = max(1, ROOM // self.n)
        for a in range(0, self.n, step):
            J = self._all[a : a + step]
            yield J, self.rows(J)

    def _raw(self, I: np.ndarray, J: np.ndarray | None) -> np.ndarray:
        B = _host(self._read(I, J))
        J = self._all if J is None else J
        self.entries += I.size * J.size
        if B.shape != (I.size, J.size):
            raise ArgumentError(
                f"K(I, J) returned shape {B.shape} for {I.size} and {J.size} indices: "
                f"expected ({I.size}, {J.size}), one row per index of I"
            )
        if B.dtype.kind not in "biufc":
            raise ArgumentError(f"K has dtype {B.dtype}: expected real or complex numbers")
        if B.dtype.kind in "fc":
            self.eps = max(self.eps, _eps(B))
        B = B.astype(np.complex128 if B.dtype.kind == "c" else np.float64, copy=False)
        if not np.isfinite(B).all():
            i, j = (int(x[0]) for x in np.nonzero(~np.isfinite(B)))
            raise ArgumentError(f"K has {B[i, j]} in row {I[i]}, column {J[j]}: expected finite numbers")
        return B

    def _checked_diagonal(self, diagonal: Any) -> np.ndarray:
        try:
            d = _host(diagonal)
            if d.dtype.kind not in "biufc":
                raise TypeError
        except (TypeError, ValueError):
            raise ArgumentError("diagonal must be one number, or an array of n of them") from None
        if d.shape not in ((), (self.n,)):
            raise ArgumentError(
                f"diagonal has shape {d.shape}: expected one number, or shape ({self.n},), one per index"
            )
        d = np.broadcast_to(d, (self.n,))
        if d.dtype.kind in "fc":
            self.eps = max(self.eps, _eps(d))
        for i in np.flatnonzero(~(np.isfinite(d) & (d.real >= 0) & (abs(d.imag) <= 64 * self.eps * d.real))):
            finite = np.isfinite(d[i])
            what = (
                "a positive semidefinite matrix, whose diagonal is not negative"
                if finite
                else "finite numbers"
            )
            raise ArgumentError(f"K has {d[i]} on its diagonal at index {i}: expected {what}")
        return np.array(d.real, dtype=np.float64)


def _refuse_pickled(I: np.ndarray, J: np.ndarray | None) -> Any:
    raise UnsupportedError(
        "this selection was pickled, which leaves its matrix K behind: expected K for certificate(); call it before "
        "pickling, or on select_gram(K, k, include=indices)"
    )


def _exponent4(top: float) -> int:
    """Return e with top·4**-e in [1/4, 1); 0 for 0."""
    return 0 if top == 0 else -(-math.frexp(top)[1] // 2)


def as_gram(K: Any, X: Any, n: Any, diagonal: Any, weights: Any, parameters: dict[str, Any]) -> Gram:
    """Return what `cssp.select_gram` was given, as a `Gram`."""
    eps = 0.0
    if isinstance(K, str):
        if n is not None:
            raise ArgumentError("n is given with a named kernel, whose order is the number of rows of X")
        read, size, eps = _named(K, X, parameters)
        if diagonal is None and K in UNIT:
            diagonal = 1.0
    else:
        if X is not None:
            raise ArgumentError(
                "X belongs to a named kernel such as K='rbf'; a matrix or a function needs no data"
            )
        for name in parameters:
            raise UnknownNameError(
                f"option {name!r} is unknown: expected none with a matrix or a function K; parameters of a kernel go with a named "
                "kernel and X, options of a method, such as p of greedy, with cssp.select(A)"
            )
        if kind_of(K) == "operator":
            raise UnsupportedError(
                "K is a LinearOperator: expected a dense matrix or a function of index blocks; "
                "pass lambda I, J: (K @ numpy.eye(n)[:, J])[I], and n=K.shape[0]"
            )
        if callable(K):
            if n is None and np.ndim(diagonal) == 1:
                n = len(diagonal)
            if n is None:
                raise ArgumentError("n is not given: a function K(I, J) does not tell the order of K")
            size = check_integer("n", n)
            read = _function(K, size)
        else:
            if n is not None or diagonal is not None:
                raise ArgumentError("n and diagonal belong to a function K(I, J); a matrix has its known")
            read, size, diagonal = _matrix(K)
    w = check.as_weights(weights, (), size)
    if w is not None:
        check.check_weights(w, None, "")
    return Gram(read, size, diagonal, w, eps)


def _function(K: Callable[[np.ndarray, np.ndarray], Any], n: int) -> Reader:
    """Return the caller's function, which is always given both indices."""
    everything = np.arange(n)
    return lambda I, J: K(I, everything if J is None else J)


def _matrix(K: Any) -> tuple[Reader, int, np.ndarray]:
    """Return a matrix in memory or on a device; a sample of it is compared with its adjoint."""
    if type(K).__module__.startswith(("scipy.sparse", "dask")):
        raise UnsupportedError(
            f"K is a {type(K).__name__}: expected a dense matrix or a function of index blocks; "
            "pass lambda I, J: K[I][:, J].toarray() (or .compute()), and n=K.shape[0]"
        )
    K = as_array("K", K)
    if K.ndim != 2 or K.shape[0] != K.shape[1] or K.shape[0] == 0:
        raise ArgumentError(
            f"K has shape {tuple(K.shape)}: expected a square matrix; for data A, use select(A), "
            "or the name of a kernel and X="
        )
    n = int(K.shape[0])
    xp = array_api_compat.array_namespace(K)

    def read(I: np.ndarray, J: np.ndarray | None) -> np.ndarray:
        if isinstance(K, np.ndarray):
            return K[I] if J is None else K[np.ix_(I, J)]
        place = array_api_compat.device(K)
        rows = xp.take(K, xp.asarray(I, device=place), axis=0)
        return _host(rows if J is None else xp.take(rows, xp.asarray(J, device=place), axis=1))

    diagonal = _host(xp.linalg.diagonal(K))
    sample = np.unique(np.linspace(0, n - 1, min(n, SAMPLE)).astype(np.int64))
    B = np.asarray(read(sample, sample))
    if B.dtype.kind in "fc":
        with np.errstate(invalid="ignore", over="ignore"):
            far = np.abs(B - B.conj().T) > rough(_eps(B)) * np.nanmax(np.abs(B))
    else:
        far = B.T != B
    if far.any():
        i, j = (int(sample[x[0]]) for x in np.nonzero(far))
        raise ArgumentError(
            f"K is not symmetric: entries ({i}, {j}) and ({j}, {i}) differ; use (K + K.T)/2 if that is meant"
        )
    return read, n, diagonal


def rough(eps: float) -> float:
    """Return what is beyond the rounding of a kernel, even where small pivots have magnified it; relative to the largest entry."""
    return float(np.cbrt(eps))


def _eps(B: np.ndarray) -> float:
    """Return the unit of rounding; half precision stands for exact data that is worked on in single precision."""
    return float(np.finfo(np.float32 if B.dtype == np.float16 else B.dtype).eps)


def _host(x: Array) -> np.ndarray:
    """Return the array on the host, bfloat16 as float32."""
    if array_api_compat.is_torch_array(x) and "bfloat16" in str(x.dtype):
        x = x.float()
    return np.asarray(host(x))


def _named(K: str, X: Any, parameters: dict[str, Any]) -> tuple[Reader, int, float]:
    """Return a kernel of scikit-learn between the rows of X."""
    try:
        from sklearn.metrics.pairwise import kernel_metrics
    except ImportError:
        raise UnsupportedError(
            f"K = {K!r} names a kernel of scikit-learn, which is not installed: pip install scikit-learn, "
            "or pass a function K(I, J)"
        ) from None
    kernels = kernel_metrics()
    if K not in kernels:
        raise UnknownNameError(
            f"K = {K!r} names no kernel; there are {', '.join(map(repr, sorted(kernels)))}"
        )
    if X is None:
        raise ArgumentError(f"X is not given: kernel {K!r} needs data, one point per row")
    X = _host(as_array("X", X))
    if X.ndim != 2 or 0 in X.shape or X.dtype.kind not in "biuf":
        raise ArgumentError(
            f"X has shape {X.shape} and dtype {X.dtype}: expected real numbers (n, p), one point per row"
        )
    X = X.astype(np.float32 if X.dtype in (np.float16, np.float32) else np.float64, copy=False)
    bad = np.flatnonzero(~np.isfinite(X).all(axis=1))
    if bad.size:
        raise ArgumentError(f"X has NaN or Inf in row {bad[0]}; remove the point or clean it")
    known = [p for p in inspect.signature(kernels[K]).parameters if p not in ("X", "Y", "dense_output")]
    for name in parameters:
        if name not in known:
            raise UnknownNameError(f"option {name!r} is unknown to kernel {K!r}; its parameters are {known}")

    def read(I: np.ndarray, J: np.ndarray | None) -> np.ndarray:
        try:
            return kernels[K](X[I], X if J is None else X[J], **parameters)
        except (ValueError, TypeError) as reason:
            line = str(reason).splitlines()[0]
            raise ArgumentError(f"kernel {K!r} refuses its data or parameters: {line}") from None

    read(np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64))  # refuses bad parameters
    eps = _eps(X)
    if K == "rbf":  # ‖x - y‖² comes from ‖x‖² - 2xᵀy + ‖y‖²
        gamma = parameters.get("gamma") or 1 / X.shape[1]
        eps *= max(1.0, 2 * float(gamma) * float(np.max(np.sum(X.astype(np.float64) ** 2, axis=1))))
    return read, int(X.shape[0]), eps
