"""A LinearOperator: columns by products with unit vectors, products from the left by its adjoint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from cssp.errors import ArgumentError, UnsupportedError
from cssp.passes.blocks import BLOCK, dense
from cssp.passes.scan import Scan, joined, scan_from
from cssp.passes.source import Products

__all__ = ["OperatorSource", "dtype_of"]

#: Most entries of an operator without an adjoint that is formed as a dense matrix.
FORMED = 1 << 24


class OperatorSource(Products):
    """What a LinearOperator returns is checked: it is the caller's code."""

    def __init__(self, A: Any, dtype: Any) -> None:
        super().__init__(A, dtype)
        m, n = self.shape
        if m * n <= FORMED and not _has_adjoint(A, self.dtype):
            self.passes[0] += 1
            self.A = aslinearoperator(self._columns(np.arange(n)))

    def scan(self) -> Scan:
        self.passes[0] += 1
        m, n = self.shape
        step = max(1, BLOCK // m)
        first = 0 if self.summed else None
        scans = [scan_from(self._columns(np.arange(a, min(a + step, n))), first) for a in range(0, n, step)]
        found = joined(scans, [(a, 0) for a in range(0, n, step)])
        if found.bad is None:
            self._check_adjoint(found)
        return found

    def _check_adjoint(self, s: Scan) -> None:
        """Check that uᴴ(Av) = (Aᴴu)ᴴv for a random u and v, entries of v undoing the scale of the columns: to half the digits."""
        rng = np.random.default_rng(0)
        largest = s.exponent.max(initial=-(1 << 20), where=s.norms2 > 0)
        if not -100 <= largest <= 100:
            return
        u, v = (rng.standard_normal((size, 1)).astype(self.dtype) for size in self.shape)
        one = complex(np.vdot(u, self._right(v)))
        try:
            two = complex((self._left(u) @ v).item())
        except UnsupportedError:  # it has none, which matters where one is needed
            return
        norm = float(np.sqrt(np.sum(np.ldexp(s.norms2, 2 * s.exponent.clip(-400, 400)))))
        size = norm * float(np.linalg.norm(u) * np.linalg.norm(v))
        if abs(one - two) > float(np.sqrt(np.finfo(self.dtype).eps)) * size:
            raise ArgumentError(
                f"A.rmatvec is not the adjoint of A.matvec: for random u and v, the products u·(A v) = {one:.4g} and "
                f"(Aᴴ u)·v = {two:.4g} differ; correct the operator"
            )

    def _left(self, Q: np.ndarray) -> np.ndarray:
        return self._product("rmatmat", np.asarray(Q, dtype=self.dtype), self.shape[1]).conj().T

    def _right(self, X: np.ndarray) -> np.ndarray:
        return self._product("matmat", X, self.shape[0])

    def _product(self, name: str, X: np.ndarray, rows: int) -> np.ndarray:
        if not X.shape[1]:
            return np.zeros((rows, 0), dtype=self.dtype)
        m, n = self.shape
        try:
            with np.errstate(invalid="ignore"):  # NaN is refused by name
                Y = getattr(self.A, name)(X)
        except (NotImplementedError, TypeError) as reason:
            if name == "matmat":
                raise ArgumentError(f"A.matmat fails on a block of vectors: {reason}") from reason
            raise UnsupportedError(
                f"A is a LinearOperator without rmatvec ({reason}), and too large to be formed ({m} x {n}); "
                "pass rmatvec=, the product with the conjugate transpose, to LinearOperator"
            ) from reason
        except ValueError as reason:
            raise ArgumentError(
                f"A.{name} fails on a block of vectors: {reason}; expected vectors of length {rows}"
            ) from reason
        Y = dense(Y)
        if Y.shape != (rows, X.shape[1]):
            raise ArgumentError(
                f"A.{name} returned shape {Y.shape} for {X.shape}: expected {(rows, X.shape[1])}; "
                "correct the operator or its shape"
            )
        if not np.can_cast(Y.dtype, self.dtype, "same_kind"):
            raise ArgumentError(
                f"A.{name} returned dtype {Y.dtype}, and A.dtype is {self.A.dtype}; "
                f"give the operator dtype={Y.dtype}"
            )
        with np.errstate(over="ignore"):  # what is beyond the range is Inf, and refused
            Y = np.asarray(Y, dtype=self.dtype)
        if name == "rmatmat" and not np.isfinite(Y).all():  # in columns it is found by the scan
            raise ArgumentError("A.rmatmat returned NaN or Inf for finite vectors; correct the operator")
        return Y

    def _narrow(self, columns: np.ndarray) -> Any:
        A, m, n = self.A, *self.shape

        def wide(X: np.ndarray) -> np.ndarray:
            Y = np.zeros((n, X.shape[1]), dtype=X.dtype)
            Y[columns] = X
            return A.matmat(Y)

        return LinearOperator(
            shape=(m, columns.size),
            dtype=self.dtype,
            matvec=lambda x: wide(np.reshape(x, (-1, 1)))[:, 0],
            matmat=wide,
            rmatvec=lambda y: A.rmatvec(np.ravel(y))[columns],
            rmatmat=lambda Y: A.rmatmat(Y)[columns],
        )

    def _columns(self, place: np.ndarray) -> np.ndarray:
        return self._right(_unit(self.shape[1], place, self.dtype))

    def _rows(self, step: int) -> Iterator[np.ndarray]:
        m = self.shape[0]
        for a in range(0, m, step):
            yield self._left(_unit(m, np.arange(a, min(a + step, m)), self.dtype))


def dtype_of(A: Any) -> Any:
    """Return the operator's dtype, that of a product where it has none."""
    if A.dtype is not None:
        return A.dtype
    try:
        return np.asarray(A.matvec(np.zeros(A.shape[1]))).dtype
    except (NotImplementedError, TypeError, ValueError) as reason:
        raise ArgumentError(f"A has no dtype, and A.matvec fails: {reason}; correct the operator") from reason


def _has_adjoint(A: Any, dtype: np.dtype) -> bool:
    try:
        A.rmatvec(np.zeros(A.shape[0], dtype=dtype))
    except (NotImplementedError, TypeError):
        return False
    except ValueError:  # it has one that is wrong, which a product will tell
        pass
    return True


def _unit(n: int, place: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return the columns of the identity."""
    X = np.zeros((n, place.size), dtype=dtype)
    X[place, np.arange(place.size)] = 1
    return X
