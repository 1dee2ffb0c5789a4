"""Errors, rank and coefficients of the picks of a sparse matrix, without their dense orthonormal basis where its Gram matrix is good enough.

With A_S = QR, R from the Gram matrix of the chosen columns, Q = A_S R⁻¹ is never formed: QᴴA = R⁻ᴴ(A_SᴴA) has k rows. That costs
eps·cond(A_S)² in the orthogonality of Q. It is used where this is small, and residuals are projected twice; elsewhere the work is
done with a dense Q, as of every matrix that is read in passes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg

from cssp import linalg
from cssp.passes.problem import LARGEST, PassPart, PassProblem
from cssp.passes.residual import SparseColumns
from cssp.passes.source import BLOCK, SparseSource
from cssp.pivoting import CLEAR
from cssp.pivoting.gram import gram_picks

__all__ = ["SparsePart"]

#: Least residual norm of a chosen column after the others, over the largest norm, with which the Gram matrix is good enough.
CONDITION = 1e-4

#: Relative accuracy of squared errors.
ACCURACY = 1e-10


@dataclass(frozen=True, eq=False)
class Factor:
    """A_S = QR for the independent chosen columns S, Q = A_S·X.

    Attributes
    ----------
    C : sparse array, shape (m, r)
        A_S.
    X : array, shape (r, r)
        R⁻¹.
    F : array, shape (r, k)
        The chosen columns in some orthonormal coordinates.
    independent : list of bool, length k
    error : float
        What Q may lack in orthogonality.
    """

    C: Any
    X: np.ndarray
    F: np.ndarray
    independent: list[bool]
    error: float

    def times(self, A: Any) -> np.ndarray:
        """Return QᴴA for a sparse or dense A."""
        product = self.C.conj().T @ A
        return self.X.conj().T @ (product.toarray() if hasattr(product, "toarray") else product)


@dataclass(frozen=True, eq=False)
class SparsePart(PassPart):
    """The picks of a problem whose matrix is sparse."""

    @property
    def matrix(self) -> SparseSource:
        """A·diag(w) in double precision."""
        assert isinstance(self.source, SparseSource)
        return self.source

    @cached_property
    def factor(self) -> Factor | None:
        """None where the Gram matrix of the chosen columns cannot tell all that is asked."""
        p, A, picks = self.problem, self.matrix, list(self.picks)
        assert isinstance(p, PassProblem)
        if not picks or len(picks) ** 2 > LARGEST:
            return None
        every = np.ones(len(picks), dtype=bool)
        own = A.narrowed(np.asarray(picks))
        part = replace(p, A=own, given=p.given[picks], candidates=every, include=(), k=len(picks), tol=None)
        run = gram_picks(part.numpy("double"), SparseColumns(own))
        S = list(run.picks.indices)
        least = max(CONDITION * part.largest, CLEAR * p.floor)
        small = any(height <= least for height in run.heights)
        if not S or small or not run.final:
            return None
        independent = linalg.first_independent(run.R, 0.5 * CONDITION * part.largest)
        kept = np.flatnonzero(independent)
        C = own.A[:, kept]
        R = scipy.linalg.qr(run.R[:, kept], mode="r", check_finite=False)[0]
        X = scipy.linalg.solve_triangular(R, np.eye(len(R)))
        condition = part.largest / min(run.heights)
        return Factor(C, X, run.R, independent.tolist(), 8 * float(np.finfo(X.dtype).eps) * condition**2)

    @property
    def independent(self) -> list[bool]:
        known = self.known_rank == len(self.picks)
        return super().independent if known or self.factor is None else self.factor.independent

    def clear(self) -> list[bool]:
        """Return which chosen columns are independent by far more than the threshold."""
        f = self.factor
        if f is None:
            return super().clear()
        return linalg.first_independent(f.F, CLEAR * self.problem.floor).tolist()

    @cached_property
    def trace(self) -> np.ndarray:
        f, A = self.factor, self.matrix
        if f is None:
            return super().trace
        A.passes[0] += 1
        energies = np.zeros(f.X.shape[0])
        for columns in self._blocks():
            energies += np.sum(linalg.squares(f.times(A.A[:, columns])), axis=1)
        total = float(np.sum(self.problem.norms2))
        left = total - float(np.sum(energies))
        if left < total * f.error / ACCURACY:  # what is left cancels
            unchosen = np.setdiff1d(np.arange(self.problem.n), np.asarray(self.picks)[f.independent])
            parts = (A.take(columns.tolist()) for columns in self._blocks(unchosen))
            left = math.fsum(linalg.frobenius2(self._residual(Y)[0]) for Y in parts)
        return linalg.errors_of(energies, f.independent, left)

    def column_norms(self) -> np.ndarray:
        """Return the squared norms of the columns and of their residuals, shape (2, n)."""
        A = self.matrix
        if self.factor is None:
            return super().column_norms()
        A.passes[0] += 1
        left = [linalg.column_norms2(self._residual(A.take(J.tolist()))[0]) for J in self._blocks()]
        return np.stack([self.problem.norms2, np.concatenate(left)])

    def coefficients(self) -> np.ndarray:
        """Return the least-squares coefficients (k, n)."""
        f, A = self.factor, self.matrix
        if f is None:
            return super().coefficients()
        A.passes[0] += 1
        T = np.zeros((len(self.picks), self.problem.n), dtype=A.dtype)
        own = f.times(A.A[:, list(self.picks)])
        for columns in self._blocks():
            G = self._residual(A.take(columns.tolist()))[1]
            T[:, columns] = linalg.least_norm(own, G)
        return T

    def reconstruct(self) -> np.ndarray:
        """Return P_S A as a dense array (m, n)."""
        f, (m, n) = self.factor, self.source.shape
        if f is None:
            return super().reconstruct()
        self.refuse_large()
        X = np.empty((m, n), dtype=self.source.dtype)
        for columns in self._blocks():
            Y = self.source.take(columns.tolist())
            X[:, columns] = Y - self._residual(Y)[0]
        return X

    def _residual(self, Y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return Y - QQᴴY, projected twice, and QᴴY."""
        f = self.factor
        assert f is not None
        G = f.times(Y)
        Y = Y - f.C @ (f.X @ G)
        again = f.times(Y)
        return Y - f.C @ (f.X @ again), G + again

    def _blocks(self, columns: np.ndarray | None = None) -> Iterator[np.ndarray]:
        """Yield the columns, all by default, in parts of which dense ones fit."""
        columns = np.arange(self.problem.n) if columns is None else columns
        step = max(1, BLOCK // self.problem.m)
        return (columns[a : a + step] for a in range(0, columns.size, step))
