"""A selection problem on a matrix read in passes, and the record of its picks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import array_api_compat.numpy
import numpy as np

from cssp import linalg
from cssp.errors import UnsupportedError
from cssp.methods.row import Method
from cssp.part import Part
from cssp.passes.chunks import ChunkSource
from cssp.passes.source import Source
from cssp.problem import Array, Problem

__all__ = ["LARGEST", "PassPart", "PassProblem"]

#: Most entries of a dense matrix that is handed out.
LARGEST = 1 << 28

#: Methods whose picks, or their law, are those of the same method in memory; not of greedy where it uses core-sets.
SAME = ("residual", "greedy", "norm", "uniform", "random_pivot", "sketched_qr")


@dataclass(frozen=True, eq=False)
class PassProblem(Problem):
    """A problem whose ``A`` is a `Source`, scaled and weighted.

    ``given`` are the squared norms of its columns, ``record`` computes what is said of its picks, see `cssp.passes.record_of`.
    """

    A: Source
    given: np.ndarray = field(default_factory=lambda: np.zeros(0))
    record: type[Part] = field(default_factory=lambda: PassPart)

    in_passes = True

    @property
    def xp(self) -> Any:
        return array_api_compat.numpy

    @property
    def device(self) -> Any:
        return "cpu"

    @cached_property
    def norms2(self) -> np.ndarray:
        return self.given

    @cached_property
    def goal(self) -> float:
        if self.tol is None:
            return -1.0
        slack = min(0.5, 64 * self.eps * (1 + 1 / self.tol))
        return (1 - slack) * self.tol**2 * float(np.sum(self.given))

    def take(self, columns: Sequence[int]) -> np.ndarray:
        """Return these columns of A, in this order, as a dense array."""
        return self.A.take(columns)

    def independent(self, columns: Sequence[int]) -> list[bool]:
        chosen = tuple(int(j) for j in columns)
        return self.record(self, chosen, None, chosen).independent

    @property
    def reduced(self) -> PassProblem:
        return self

    def numpy(self, dtype: str | None = None) -> PassProblem:
        """Return the same problem, its products in double precision where that is asked for."""
        return self if dtype is None else replace(self, A=self.A.view(self.A.wide), data_eps=self.unit)


@dataclass(frozen=True, eq=False)
class PassPart(Part):
    """The picks of such a problem; errors, rank and coefficients are computed in further passes."""

    @property
    def source(self) -> Source:
        """A·diag(w) in double precision."""
        A: Source = self.problem.A
        return A.view(A.wide)

    @cached_property
    def chosen(self) -> np.ndarray:
        return self.source.take(self.picks)

    @cached_property
    def trace(self) -> np.ndarray:
        """As `cssp.linalg.error_trace`; explicit residuals only where the difference of energies would cancel."""
        p = self.problem
        Q, independent = self.basis
        energies = np.sum(self.source.sweep(Q, after=_energies)[0].map(_same), axis=0)
        total = float(np.sum(p.norms2))
        left = total - float(np.sum(energies))
        if left < 1e-6 * total:
            left = float(np.sum(self.source.residual_norms2(Q)))
        return linalg.errors_of(energies, independent, left)

    @cached_property
    def column_norms(self) -> np.ndarray:
        """Squared norms of the columns and of their residuals, shape (2, n)."""
        return np.stack([self.problem.norms2, self.source.residual_norms2(self.basis[0])])

    def coefficients(self) -> Array:
        """Return the coefficients as of a matrix in memory; for a dask array a dask array."""
        Qh = linalg.adjoint(self.basis[0])
        R, G = Qh @ self.chosen, self._product(Qh)
        if isinstance(G, np.ndarray):
            return linalg.least_norm(R, G)
        return G.map_blocks(
            partial(linalg.least_norm, R), chunks=((R.shape[1],), G.chunks[1]), dtype=G.dtype, meta=G._meta
        )

    def reconstruct(self) -> Array:
        """Return P_S X; for a dask array a dask array. A large dense matrix is refused."""
        if not isinstance(self.source, ChunkSource):
            self.refuse_large()
        Q = self.basis[0]
        if not isinstance(self.source, ChunkSource):
            return Q @ self._product(linalg.adjoint(Q))
        return self._product(linalg.adjoint(Q), Q)

    def refuse_large(self) -> None:
        """Refuse to hand out a dense matrix that hardly fits."""
        m, n = self.source.shape
        if m * n > LARGEST:
            raise UnsupportedError(
                f"reconstruct() would be a dense matrix of {m} x {n} numbers; "
                "take blocks of columns of A[:, indices] @ coefficients() instead"
            )

    def _product(self, *factors: np.ndarray) -> Array:
        """Return A·diag(w) multiplied from the left by small matrices, the first one first."""
        A = self.source
        if not isinstance(A, ChunkSource):
            return A.sweep(linalg.adjoint(factors[0]))[0].whole()
        import dask.array as da

        X = A.array()
        for M in factors:
            X = da.matmul(da.from_array(M, chunks=(M.shape[0], X.chunks[0])), X)
        return X

    def spread(self, X: Array) -> Array:
        """Return X with a zero column in each place where padding was removed."""
        p = self.problem
        if p.columns is None or isinstance(X, np.ndarray):
            return super().spread(X)
        import dask.array as da

        place = np.full(p.width, p.n, dtype=np.int64)
        place[p.columns] = np.arange(p.n)
        return da.concatenate([X, da.zeros((X.shape[0], 1), dtype=X.dtype)], axis=1)[:, place]

    def is_a_run_of(self, row: Method) -> bool:
        """Return whether the theorem holds here, which it does not for a method on a sketch or core-sets."""
        sketched = row.name not in SAME or (row.name == "greedy" and isinstance(self.source, ChunkSource))
        return not sketched and super().is_a_run_of(row)

    def spectrum(self) -> tuple[np.ndarray, np.ndarray, float]:
        """Return the spectrum from R with RᴴR = AAᴴ or AᴴA: R or Rᴴ has the singular values of A, and its residual those of A's residual."""
        A, picks = self.source, list(self.picks)
        m, n = A.shape
        if min(m, n) > linalg.SQUARE:
            raise UnsupportedError(
                f"min(m, n) = {min(m, n)}: the singular values of a matrix read in passes need a triangular factor of this "
                f"order, and {linalg.SQUARE} is the most; error and relative_error are exact, and cssp.passes.sketched_optimum(A, k) estimates the optimum"
            )
        return linalg.spectrum(A.triangle(), self.chosen if m <= n else None, picks, self.cut)


def _energies(G: np.ndarray) -> np.ndarray:
    return np.sum(linalg.squares(G), axis=1)


def _same(part: np.ndarray, start: int) -> np.ndarray:
    return part
