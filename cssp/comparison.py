"""Several methods on one matrix, side by side."""

from __future__ import annotations

import html
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cssp import linalg, passes, plotting
from cssp.arguments import find_method
from cssp.errors import ArgumentError
from cssp.methods import METHODS, Method
from cssp.part import relative
from cssp.scaling import default_floating_errors
from cssp.select import select
from cssp.selection import Selection

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Comparison", "compare"]

Array = Any

#: What is compared by default: greedy rules, one with a strong theorem, one that draws, and columns at random.
USUAL = ("residual", "greedy", "local_search", "strong_rrqr", "arp", "uniform")

#: Columns of the table.
HEAD = ("method", "relative error", "against best", "largest residual", "rank", "seconds")


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """Selections of k columns by several methods; printed, it is a table.

    "against best" is the relative error over that of the best matrix of rank k, which no columns can beat, k being the number of
    columns of each selection; "largest residual"
    is `Selection.max_error`.

    Attributes
    ----------
    selections : dict of str to Selection
        In the order asked for.
    seconds : dict of str to float
        What each choice took, errors left out.
    optimum : float or None
        Relative error of the best matrix whose rank is the largest number of columns; None for a matrix that is read in passes.
    """

    selections: dict[str, Selection]
    seconds: dict[str, float]
    optimum: float | None
    _numbers: dict[str, tuple[float, float | None]]  # largest residual, and the optimum of as many columns

    def __getitem__(self, method: str) -> Selection:
        if method not in self.selections:
            raise ArgumentError(
                f"method = {method!r}: expected one that was compared, {list(self.selections)}"
            )
        return self.selections[method]

    def __iter__(self) -> Iterator[str]:
        return iter(self.selections)

    def __len__(self) -> int:
        return len(self.selections)

    @property
    def best(self) -> Selection:
        """The selection of least error, the first of them in a tie."""
        return min(self.selections.values(), key=lambda sel: float(sel.relative_error))

    def rows(self) -> list[tuple[str, float, float | None, float, int, float]]:
        """Return the table, one tuple for each method, least error first: what stands under `HEAD`."""
        found = []
        for name, sel in self.selections.items():
            error, (largest, best) = float(sel.relative_error), self._numbers[name]
            against = None if best is None else error / best if best > 0 else 1.0 if error < 1e-12 else np.inf
            found.append((name, error, against, largest, int(sel.rank), self.seconds[name]))
        return sorted(found, key=lambda row: row[1])

    def __str__(self) -> str:
        width = max(len(name) for name in ("method", *self.selections))
        lines = [f"{HEAD[0]:<{width}}  " + "  ".join(f"{head:>16}" for head in HEAD[1:])]
        for name, *numbers in self.rows():
            lines.append(f"{name:<{width}}  " + "  ".join(f"{_text(x):>16}" for x in numbers))
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in HEAD)
        rows = (
            "".join(f"<td>{html.escape(x if isinstance(x, str) else _text(x))}</td>" for x in row)
            for row in self.rows()
        )
        return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the relative error after each pick, one line for each method; a dashed line is the best matrix of rank k.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            A new one by default.
        """
        ax = plotting.axes_or_new(ax)
        for (name, sel), marker in zip(self.selections.items(), _MARKERS * len(self), strict=False):
            errors = relative(sel._parts[0].trace)
            ax.plot(
                range(len(errors)),
                errors,
                marker=marker,
                ms=4,
                markevery=max(1, len(errors) // 12),
                label=name,
            )
        if self.optimum is not None:
            ax.axhline(self.optimum, color="black", ls="--", lw=1, label="best of rank k (SVD)")
        ax.set_xlabel("number of columns  t")
        ax.set_ylabel("relative error  ‖A − P A‖ / ‖A‖")
        ax.legend(frameon=False)
        return ax


_MARKERS = ("o", "s", "^", "v", "D", "x", "+", "*")


def compare(
    A: Array,
    k: int,
    methods: Sequence[str] | None = None,
    *,
    rng: int | None = 0,
    **arguments: Any,
) -> Comparison:
    """Choose k columns by several methods.

    Parameters
    ----------
    A : array, data frame or sparse matrix, shape (m, n)
        Anything that `cssp.select` takes, without a batch.
    k : int
    methods : sequence of str, optional
        Names of rows of `cssp.METHODS`. By default "residual", "greedy", "local_search", "strong_rrqr", "arp" and "uniform", those of
        them that take A and the arguments.
    rng : int or None
        The seed that every method gets.
    **arguments
        Arguments of `cssp.select` for all of them, such as weights or exclude.

    Returns
    -------
    Comparison

    Raises
    ------
    CsspError
        As `cssp.select` does.

    Examples
    --------
    >>> import numpy as np, cssp
    >>> A = np.random.default_rng(0).standard_normal((20, 30))
    >>> found = cssp.compare(A, 5, ["residual", "greedy", "uniform"])
    >>> found.best.method
    'greedy'
    >>> found["residual"].indices.shape
    (5,)
    """
    if isinstance(methods, str):
        raise ArgumentError(f"methods = {methods!r}: expected a list of names; pass [{methods!r}]")
    kind = passes.kind_of(A)
    usual = [m for m in USUAL if _takes(METHODS[m], kind, arguments)]
    names = usual if methods is None else [find_method(name).name for name in methods]
    if not names or len(set(names)) < len(names):
        raise ArgumentError(f"methods = {methods!r}: expected at least one name, and none of them twice")
    selections, seconds = {}, {}
    for name in names:
        start = time.perf_counter()
        selections[name] = select(A, k, name, rng=rng, **arguments)
        seconds[name] = time.perf_counter() - start
        if selections[name]._batch:
            raise ArgumentError("A is a batch: expected one matrix (m, n); call it for each of a batch")
    tails = None if kind else _tails(selections[names[0]])
    lengths = {name: len(sel._parts[0].picks) for name, sel in selections.items()}
    best = {
        name: None if tails is None else float(tails[min(t, len(tails) - 1)]) for name, t in lengths.items()
    }
    numbers = {name: (float(sel.max_error), best[name]) for name, sel in selections.items()}
    return Comparison(selections, seconds, best[max(lengths, key=lengths.__getitem__)], numbers)


def _takes(row: Method, kind: str | None, arguments: Mapping[str, Any]) -> bool:
    """Return whether a method takes matrices of this kind and these arguments of `cssp.select`."""
    given = {name for name, value in arguments.items() if value is not None}
    return (
        (kind is None or kind in row.backends)
        and given & {"tol", "include", "exclude", "target", "groups", "constraint", "costs"}
        <= set(row.supports)
        and (row.nested or not given & {"tol_each", "tol_max"})
    )


@default_floating_errors
def _tails(sel: Selection) -> np.ndarray:
    """Return the relative errors of the best matrices of rank 0, 1, ..., min(m, n)."""
    (part,) = sel._parts
    s2 = np.linalg.svd(linalg.host(linalg.widen(part.reduced.B)), compute_uv=False) ** 2
    total = float(s2.sum())
    tails = np.append(np.cumsum(s2[::-1])[::-1], 0.0)
    return np.sqrt(tails / total) if total > 0 else tails


def _text(x: float | None) -> str:
    return "" if x is None else str(x) if isinstance(x, int) else f"{x:.4g}"
