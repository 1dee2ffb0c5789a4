"""One selection problem in compute precision, as every method receives it, and what a method gives back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import array_api_compat
import numpy as np

from cssp import linalg, pivoting
from cssp.folding import Folding
from cssp.progress import Report, silent

__all__ = ["Array", "Picks", "Problem"]

Array = Any


@dataclass(frozen=True)
class Picks:
    """What a method found.

    Attributes
    ----------
    indices : sequence of int
        Distinct columns in order of choice, the included ones first; fewer than ``k`` where the method
        ran out of independent columns (``select`` completes them) or met the tolerance.
    rank : int or None
        Number of linearly independent columns among them, where all are beyond doubt, see `cssp.pivoting.CLEAR`; None otherwise.
    exhausted : bool
        Whether the method has seen that no candidate is independent of those found.
    proven : bool
        Whether the method's theorem covers them; False where a limit of time ended it too early for that.
    """

    indices: Sequence[int]
    rank: int | None = None
    exhausted: bool = False
    proven: bool = True


@dataclass(frozen=True, eq=False)
class Problem:
    """One two-dimensional problem, validated, weighted and scaled.

    Attributes
    ----------
    A : array, shape (m, n)
        ``A·diag(w)·2**-exponent`` in compute precision (float32, float64, complex64, complex128) and in the
        caller's namespace and device. The power of two keeps squares and fourth powers of the entries in
        range. Padding columns (``valid=False``) are gone; all others are here, also those that may not be
        chosen. Never write into it: it may be the caller's own memory.
    k : int
        Number of columns to choose, the included ones counted.
    candidates : bool array, shape (n,)
        Columns that may be chosen freely: neither included nor excluded.
    include : tuple of int
        Columns to be chosen first, in this order.
    tol : float or None
        Target of the relative residual norm; see `goal`.
    target : array, shape (m, p), or None
        The matrix to be reconstructed where it is not A, scaled by ``2**-target_exponent``.
    rng : numpy.random.Generator
        The only source of randomness.
    columns : int array, shape (n,), or None
        The caller's index of each column where padding was removed.
    width : int
        The caller's number of columns.
    progress : callable
        ``progress(done, total)`` reports how far the method is.
    data_eps : float
        Unit of rounding of the precision the data came in, where A was widened since; 0 where it was not.
    folding : Folding or None
        How to make A and the target few rows, where they are tall; see `folded`.
    measured : pair of arrays or None
        A matrix and its squared column norms, which are `norms2` as long as A is this matrix.
    """

    A: Array
    k: int
    candidates: Array
    include: tuple[int, ...] = ()
    tol: float | None = None
    target: Array | None = None
    rng: np.random.Generator = field(default_factory=np.random.default_rng)
    exponent: int = 0
    target_exponent: int = 0
    columns: np.ndarray | None = None
    width: int = 0
    progress: Report = silent
    data_eps: float = 0.0
    folding: Folding | None = None
    measured: tuple[Array, Array] | None = None

    in_passes = False  #: Whether A is a `cssp.passes.Source`, see `cssp.passes.problem`.

    @property
    def xp(self) -> Any:
        """Array-API namespace of A."""
        return array_api_compat.array_namespace(self.A)

    @property
    def device(self) -> Any:
        """Device of A."""
        return array_api_compat.device(self.A)

    @property
    def m(self) -> int:
        """Number of rows."""
        return int(self.A.shape[0])

    @property
    def tall(self) -> bool:
        """Whether A and the target have many more rows than columns, and can be `folded`."""
        f = self.folding
        return f is not None and f.A is self.A and (self.target is None or f.B is self.target)

    @property
    def height(self) -> int:
        """Number of rows of the matrix that was given, which A may be a triangular factor of."""
        f = self.folding
        return int(f.A.shape[0]) if f is not None and f.formed and f.factors[0] is self.A else self.m

    @property
    def n(self) -> int:
        """Number of columns, padding removed."""
        return int(self.A.shape[1])

    @property
    def free(self) -> int:
        """Number of picks the method makes itself."""
        return self.k - len(self.include)

    @property
    def B(self) -> Array:
        """The matrix to be reconstructed: `target`, or A itself."""
        return self.A if self.target is None else self.target

    @cached_property
    def eps(self) -> float:
        """Unit of rounding of the compute precision."""
        return float(self.xp.finfo(self.A.dtype).eps)

    @cached_property
    def norms2(self) -> Array:
        """Squared column norms of A, shape (n,); copy before writing."""
        X, norms2 = self.measured or (None, None)
        return norms2 if X is self.A else linalg.column_norms2(self.A)

    @cached_property
    def largest(self) -> float:
        """Largest norm among the columns that are included or may be chosen."""
        xp = self.xp
        if self.n == 0:
            return 0.0
        admissible = xp.asarray(self.candidates, copy=True)
        for j in self.include:
            admissible[j] = True
        return math.sqrt(float(xp.max(xp.where(admissible, self.norms2, xp.zeros_like(self.norms2)))))

    @property
    def unit(self) -> float:
        """Unit of rounding of the data: what is dependent does not change when A is widened."""
        return self.data_eps or self.eps

    @cached_property
    def floor(self) -> float:
        """Residual norm at or below which a column counts as dependent, see `cssp.pivoting.floor`.

        The one threshold of the library: rank, errors, coefficients, included columns and picks use it.
        """
        return pivoting.floor(self.height, self.n, self.unit, self.largest)

    @cached_property
    def noise(self) -> float:
        """Residual norm at or below which nothing is left but rounding, see `cssp.pivoting.noise`.

        Between `noise` and `floor` a column no longer counts for the rank, but its residual still tells it
        from the others: once no column above `floor` is left, pivoting goes on there, which single precision needs
        (max(m, n)·eps is 5e-4 for m = 4096).
        """
        return pivoting.noise(self.height, self.n, self.unit, self.largest)

    @property
    def beyond_doubt(self) -> float:
        """Residual norm, or singular value, above which columns count as independent whatever rounding has done to it."""
        return self.floor + pivoting.CLEAR * min(self.noise, self.floor)

    @property
    def reach(self) -> float:
        """Residual norm below which single precision has lost half of its digits."""
        return pivoting.SINGLE_REACH * self.largest

    def eligible(self, norms2: Array, open_: Array) -> Array:
        """Open columns that may be picked: those with residuals above `floor`, or above `noise` where there are none.

        Parameters
        ----------
        norms2 : array, shape (n,)
            Squared residual norms.
        open_ : bool array, shape (n,)
        """
        above = open_ & (norms2 > self.floor**2)
        return above if bool(self.xp.any(above)) else open_ & (norms2 > self.noise**2)

    @cached_property
    def goal(self) -> float:
        """Squared residual norm at which a nested method may stop; -1 without `tol`.

        A little below tol²·‖B‖², so that rounding never stops a method too soon: ``select`` cuts at the
        exact place.
        """
        if self.tol is None:
            return -1.0
        slack = min(0.5, 64 * self.eps * (1 + 1 / self.tol))
        return (1 - slack) * self.tol**2 * float(self.xp.sum(linalg.column_norms2(self.B)))

    def pivots(self, indices: Sequence[int], heights: Sequence[float]) -> Picks:
        """Return the columns chosen by largest residual, whose norms were ``heights``; included columns have none."""
        if self.include:
            return Picks(indices)
        least = min(heights, default=math.inf)
        short = len(indices) < self.k or not least > self.floor
        return Picks(indices, len(indices) if least > self.beyond_doubt else None, short and self.tol is None)

    def take(self, columns: Sequence[int]) -> Array:
        """Return these columns of A, in this order."""
        return linalg.take_columns(self.A, columns)

    def argmax(self, scores: Array, allowed: Array, slack: Array | float = 0.0) -> int:
        """Return the index of the largest score among allowed columns, the lowest one in a tie.

        Parameters
        ----------
        scores : array, shape (n,)
            Nonnegative.
        allowed : bool array, shape (n,)
            At least one True.
        slack : array, shape (n,), or float
            Rounding error of each score where it is known to exceed `cssp.pivoting.TIE_BAND` units of its own size.
        """
        return self._first(self.tied(scores, scores, allowed, slack))

    def best_gain(
        self, gain: Array, norms2: Array, allowed: Array, slack: Array | float, norm_slack: Array | float
    ) -> int:
        """Return the index of the largest gain; a tie goes to the larger residual, and only then to the lowest index.

        Parameters
        ----------
        gain, norms2 : array, shape (n,)
            What each column would bring, and its squared residual norm.
        allowed : bool array, shape (n,)
            At least one True.
        slack, norm_slack : array, shape (n,), or float
            Their rounding errors. A gain is a quotient, and that of a nearly dependent column may owe its size to them.
        """
        tied = self.tied(gain, gain - slack, allowed, slack)
        return self._first(self.tied(norms2, norms2, tied, norm_slack))

    def tied(self, scores: Array, least: Array, allowed: Array, slack: Array | float) -> Array:
        """Return the allowed columns whose scores, but for rounding, reach the largest of what scores are at least."""
        low = self.xp.full_like(scores, -math.inf)
        bar = pivoting.tie_bar(self.xp.max(self.xp.where(allowed, least, low)), self.eps)
        return self.xp.where(allowed, scores, low) + slack >= bar

    def _first(self, which: Array) -> int:
        if isinstance(which, np.ndarray):
            return int(np.argmax(which))
        place = self.xp.arange(which.shape[0], device=self.device)
        return int(self.xp.min(self.xp.where(which, place, self.xp.full_like(place, which.shape[0]))))

    def independent(self, columns: Sequence[int]) -> list[bool]:
        """Return which of these columns add to the span of those before, by the one threshold."""
        if (
            self.tall and self.folding is not None and not self.folding.formed
        ):  # a factor of these columns alone is cheaper
            return linalg.first_independent(linalg.triangle(self.take(columns)), self.floor).tolist()
        return linalg.basis(linalg.widen(self.folded().take(columns)), self.floor)[1]

    def folded(self) -> Problem:
        """Return the same problem on few rows, in host memory and double precision, where A is tall; itself elsewhere.

        All inner products of columns are the same but for rounding, and so are the thresholds `floor` and `noise`.
        """
        if self.folding is None or not self.tall:
            return self
        A, B = self.folding.factors
        candidates = linalg.host(self.candidates)
        target = None if self.target is None else B
        return replace(self, A=A, target=target, candidates=candidates, data_eps=self.unit)

    @property
    def reduced(self) -> Problem:
        """`folded` where A is in host memory, the problem itself elsewhere."""
        return self.folded() if linalg.in_host_memory(self.A) else self

    def numpy(self, dtype: str | None = None) -> Problem:
        """Return the same problem in host memory as NumPy arrays.

        Parameters
        ----------
        dtype : {None, "double"}
            ``"double"`` widens float32 and complex64, and makes a tall A `folded`.
        """
        if dtype == "double" and self.tall:
            return self.folded()

        def move(x: Array) -> np.ndarray:
            y = linalg.host(x)
            if dtype == "double":
                y = y.astype(np.complex128 if y.dtype.kind == "c" else np.float64, copy=False)
            return y

        if dtype is None and isinstance(self.A, np.ndarray):
            return self
        target = None if self.target is None else move(self.target)
        A = move(self.A)
        known = dtype is None and (self.measured is not None or "norms2" in vars(self))
        return replace(
            self,
            A=A,
            target=target,
            candidates=linalg.host(self.candidates),
            data_eps=self.data_eps if dtype is None else self.unit,
            measured=(A, linalg.host(self.norms2)) if known else None,
        )
