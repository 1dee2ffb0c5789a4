"""What a choice achieves against the best any columns could, as numbers and as a sentence."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cssp.bounds import width_of_columns
from cssp.linalg import host
from cssp.methods import METHODS

__all__ = ["Certificate", "promised", "ratio_of"]


@dataclass(frozen=True)
class Certificate:
    """How near the error of the chosen columns comes to the least that any columns could have; printed, it is a sentence.

    `error` is a norm, as everywhere; `ratio` and the factors are about its square, as theorems are. For a batch every
    number is an array of the batch's shape. ``None`` stays ``None`` where no item has a number; where others have one it is NaN.

    Attributes
    ----------
    error : float
        ‖A - P_S A‖_F (of A·diag(w), or of the target): `Selection.error`.
    squared_error : float
        The square of `error`.
    squared_optimum : float
        Σ_{i>k} σ_i², which no k columns can go below (Eckart and Young). ``optimum`` is its earlier name.
    ratio : float
        squared_error / squared_optimum; 1 where both are within rounding of zero.
    factor : float or None
        What a theorem promises for `ratio` with this method, m, n and k, up to rounding in the precision of A. None where no
        theorem applies: the method has none; columns were included or excluded, or a target was given; the chosen columns are
        dependent; the method was stopped by its limit of time before it had done what the theorem assumes; or the theorem
        is about an expectation, and `tol` made k depend on chance.
    source : str or None
        Bibliography key of the theorem.
    a_posteriori : float or None
        1 / σ_min(V_k[S, :])², which bounds `ratio` and `spectral_ratio` for *any* selection S; the columns of V_k are the first
        k right singular vectors, or as many as the numerical rank. None with a target.
    rank : int
        Numerical rank of the chosen columns.
    holds : str or None
        Where the theorem holds: in "every run", or in "expectation" over the random choice.
    spectral_error, spectral_squared_error, spectral_squared_optimum
        The same in the spectral norm; the squared optimum is σ_{k+1}². ``spectral_optimum`` is an earlier name for it.
    spectral_ratio, spectral_factor, spectral_source
        As `ratio`, `factor` and `source`, in the spectral norm.
    method : str
        Name of the method that chose the columns.
    k : int
        Number of columns chosen.
    max_error : float
        The largest residual norm of a column. This and all that follow are norms, not squares.
    width : float
        A lower bound of the width, the least max_error of any k-dimensional space, whether columns span it or not:
        `cssp.bounds.width_lower`, or `cssp.bounds.width_of_columns` for the chosen columns and the one with the largest residual.
    max_ratio : float
        max_error / width, which bounds max_error over the width itself for *any* selection; 1 where both are within rounding
        of zero.
    max_factor : float or None
        What a theorem promises for that ratio with this method and k, under the conditions of `factor`.
    max_source : str or None
        Bibliography key of that theorem.
    algorithm : str or None
        What the theorem calls the algorithm, where it is about groups; else that goes by `method`.

    Examples
    --------
    >>> import numpy as np, cssp
    >>> A = np.array([[3.0, 0.0, 1.0], [0.0, 2.0, 1.0]])
    >>> print(cssp.select(A, 1).certificate())
    1.04 times the best rank 1 in squared error; pivoted QR promises at most 4 times, these columns at most 1.17 times.
    >>> print(cssp.select(A, 1).certificate().in_max_norm())
    The largest residual is at most 1.41 times that of the best space of dimension 1; pivoted QR promises at most 2.24 times.
    """

    error: Any
    squared_error: Any
    squared_optimum: Any
    ratio: Any
    factor: Any
    source: str | None
    a_posteriori: Any
    rank: Any
    holds: str | None
    spectral_error: Any
    spectral_squared_error: Any
    spectral_squared_optimum: Any
    spectral_ratio: Any
    spectral_factor: Any
    spectral_source: str | None
    method: str
    k: Any
    max_error: Any
    width: Any
    max_ratio: Any
    max_factor: Any
    max_source: str | None
    algorithm: str | None = None

    @property
    def optimum(self) -> Any:
        """`squared_optimum`, under its earlier name for one release more."""
        return self.squared_optimum

    @property
    def spectral_optimum(self) -> Any:
        """`spectral_squared_optimum`, under its earlier name for one release more."""
        return self.spectral_squared_optimum

    def __str__(self) -> str:
        ratio, k = _numbers(self.ratio), _numbers(self.k)
        if not ratio.size:
            return "No matrix, no columns."
        best = f"the best rank {_span(k, str)}"
        if np.all(ratio == 1):
            achieved = f"As good as {best}"
        elif np.all(np.isinf(ratio)):
            achieved = f"{best[0].upper()}{best[1:]} leaves no error, these columns do"
        else:
            achieved = f"{_span(ratio, _number)} times {best} in squared error"
        many = f", over {ratio.size} matrices" if np.ndim(self.ratio) else ""
        return f"{achieved}{many}{self._promises()}."

    def in_max_norm(self) -> str:
        """Return a sentence about the largest residual norm of a column; the printed certificate is about squared errors."""
        ratio, k, factor = _numbers(self.max_ratio), _numbers(self.k), _numbers(self.max_factor)
        if not ratio.size:
            return "No matrix, no columns."
        best = f"that of the best space of dimension {_span(k, str)}"
        if np.all(np.isinf(ratio)):
            said = f"No bound of the largest residual against {best} is known"
        else:
            said = f"The largest residual is at most {_span(ratio, _number)} times {best}"
        many = f", over {ratio.size} matrices" if np.ndim(self.max_ratio) else ""
        return f"{said}{many}{f'; {self._promised(factor)}' if np.any(np.isfinite(factor)) else ''}."

    def _promised(self, factor: np.ndarray) -> str:
        """Return what the method's theorem says."""
        law = METHODS[self.method].guarantee
        name = self.algorithm or (law.name if law else "") or self.method.replace("_", " ")
        often = "" if self.holds in (None, "every run") else "in expectation "
        return f"{name} promises {often}at most {_span(factor, _number)} times"

    def _promises(self) -> str:
        """Return what the theorem says, and what these columns allow."""
        said = []
        factor, theirs = _numbers(self.factor), _numbers(self.a_posteriori)
        if np.any(np.isfinite(factor)):
            said.append(self._promised(factor))
        if np.any(np.isfinite(theirs)):
            said.append(f"these columns at most {_span(theirs, _number)} times")
        return f"; {', '.join(said)}" if said else ""


def promised(
    factor: Callable[..., float | None] | None,
    size: tuple[int, int, int],
    options: Mapping[str, Any] | None = None,
) -> float | None:
    """Return a theorem's factor for size (m, n, k) and the method's options; None where it promises none."""
    value = None if factor is None else factor(*size, **(options or {}))
    return None if value is None else float(value)


def ratio_of(error: float, optimum: float, noise: float) -> float:
    """Return error over optimum, both squared, where the optimum may be ``noise`` alone."""
    if optimum > noise:
        return error / optimum
    return 1.0 if error <= 4 * noise else math.inf if optimum == 0 else error / optimum


def against_width(
    largest: float, s: np.ndarray, k: int, n: int, C: np.ndarray | None, noise: float
) -> tuple[float, float]:
    """Return a lower bound of the width, not above the largest residual norm, and the ratio of the two.

    Parameters
    ----------
    s : array
        Singular values of the columns to be reconstructed.
    n : int
        How many these are.
    C : array, shape (m, k + 1), or None
        The chosen columns and the one with the largest residual, where they are among them.
    noise : float
        Norms at or below this are rounding.
    """
    low = float(np.linalg.norm(s[k:])) / math.sqrt(n)
    low = min(largest, low if C is None else max(low, width_of_columns(C)))
    if low > noise:
        return low, largest / low
    return low, 1.0 if largest <= 4 * noise else math.inf


def _numbers(x: Any) -> np.ndarray:
    """Return the numbers of a field as a flat array, empty for None; NaN and infinity are kept."""
    return np.empty(0) if x is None else np.ravel(np.asarray(host(x) if hasattr(x, "shape") else x))


def _span(x: np.ndarray, text: Any) -> str:
    """Return a number, or the least and the largest of several."""
    known = x[~np.isnan(x)]
    low, high = text(known.min()), text(known.max())
    return low if low == high else f"{low} to {high}"


def _number(x: float) -> str:
    """Return a number as text, such as 1.50, 38 or 1.7e7."""
    if not math.isfinite(x):
        return str(x)
    if x < 1e5:
        return f"{x:.0f}" if x >= 10 or x == round(x) else f"{x:.2f}"
    digits, exponent = f"{x:.1e}".split("e")
    return f"{digits}e{int(exponent)}"
