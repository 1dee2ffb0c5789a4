"""Pictures of a selection, on matplotlib axes (extra ``plot``). Lines differ in dash and marker, not in colour alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import array_api_compat
import numpy as np

from cssp import linalg
from cssp.arrays import as_matrix, check_finite, compute_dtype
from cssp.errors import ArgumentError, check_integer
from cssp.methods import METHODS, Method

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from cssp.part import Part
    from cssp.selection import Selection

__all__ = ["error_trace", "spectrum"]


def error_trace(selection: Selection, ax: Axes | None = None, *, item: Any = None) -> Axes:
    """Return the relative error after each pick, beside the best that any columns could do and what the theorem promises.

    The best is the SVD's, √(Σ_{i>t} s_i²)/‖A‖. The bound is the theorem's factor, which bounds squared errors, under a root:
    for a nested method at every t, for others at k; drawn only where it is below 1. Costs an SVD.

    Parameters
    ----------
    selection : Selection
    ax : matplotlib Axes, optional
        A new one by default.
    item : int or tuple of int, optional
        Which item of a batch.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    CsspError
        A batch is given without `item`, or a matrix that is read in passes is too large for its singular values to be computed.
    """
    part, row = _part(selection, item), METHODS[selection.method]
    total = float(part.trace[0])
    k = len(part.picks)
    t = np.arange(k + 1)
    ax = axes_or_new(ax)
    style = "o" if k <= 40 else ""
    if total == 0:
        return _finished(ax, "relative error  ‖A − P A‖ / ‖A‖", selection)
    ax.plot(t, np.sqrt(part.trace / total), color="black", marker=style, ms=4, label=selection.method)
    s = part.spectrum()[0]
    tails = np.append(np.cumsum(s[::-1] ** 2)[::-1], 0.0)
    best = tails[np.minimum(t, len(s))]
    ax.plot(t, np.sqrt(best / total), color="#0072b2", ls="--", label="best rank t (SVD)")
    steps, bound = _bound(selection, part, row, tails)
    within = (bound <= total) & (bound > 0)
    if np.any(within):
        law = row.guarantee
        assert law is not None
        kind = "bound" if law.holds == "every run" else "bound on the mean square"
        single = np.sum(within) == 1
        ax.plot(
            steps[within],
            np.sqrt(bound[within] / total),
            color="#d55e00",
            ls="" if single else ":",
            marker="v" if single else "",
            label=f"{kind} ({law.source})",
        )
    _logarithmic(ax, np.sqrt(np.concatenate([part.trace, best]) / total))
    return _finished(ax, "relative error  ‖A − P A‖ / ‖A‖", selection)


def spectrum(A: Any, k: int | None = None, ax: Axes | None = None) -> Axes:
    """Return the singular values of A on a logarithmic scale, k marked, with what is left after it.

    Parameters
    ----------
    A : array, shape (m, n)
    k : int, optional
        Number of columns to be marked.
    ax : matplotlib Axes, optional
        A new one by default.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    CsspError
        A is not a matrix of finite numbers, or k is not between 1 and the number of columns.
    """
    A = as_matrix("A", A, METHODS["residual"])
    if A.ndim != 2:
        raise ArgumentError(
            f"A has shape {tuple(A.shape)}: expected one matrix (m, n), got a batch; pass one item of it"
        )
    xp = array_api_compat.array_namespace(A)
    A = xp.astype(A, compute_dtype(A), copy=False)
    check_finite("A", A, None, "", "clean it")
    k = None if k is None else check_integer("k", k, 1, int(A.shape[1]))
    s = linalg.svd(linalg.host(linalg.widen(A)))[1]
    ax = axes_or_new(ax)
    place = np.arange(1, len(s) + 1)
    shown = s > 0
    ax.plot(
        place[shown],
        s[shown],
        color="black",
        marker="o" if len(s) <= 60 else "",
        ms=4,
        label="singular values",
    )
    if k is not None:
        left = float(np.linalg.norm(s[k:] / s[0]) / np.linalg.norm(s / s[0])) if s[0] > 0 else 0.0
        ax.axvline(k + 0.5, color="#d55e00", ls="--", label=f"k = {k}: {left:.2g} of ‖A‖ behind it")
        if k < len(s):
            ax.axvspan(k + 0.5, len(s) + 0.5, color="0.9", zorder=0)
    ax.set_xlim(0.5, len(s) + 0.5)
    _logarithmic(ax, s[shown])
    ax.set_xlabel("$i$")
    ax.set_ylabel(r"singular value  $\sigma_i$")
    ax.legend(frameon=False)
    _whole_ticks(ax)
    return ax


def _part(selection: Selection, item: Any) -> Part:
    """Return the picks of one matrix."""
    batch = selection._batch
    if not batch:
        if item is not None:
            raise ArgumentError(f"item = {item!r}: the selection is of one matrix, not of a batch")
        return selection._parts[0]
    if item is None:
        raise ArgumentError(f"item is not given: say which item of the batch {batch} is drawn, item=0")
    try:
        return selection._parts[int(np.arange(len(selection._parts)).reshape(batch)[item])]
    except (IndexError, TypeError):
        raise ArgumentError(f"item = {item!r}: expected an index into the batch {batch}") from None


def _bound(selection: Selection, part: Part, row: Method, tails: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of picks for which the method's theorem holds, and the squared errors it promises."""
    p, k, law = part.problem, len(part.picks), row.guarantee
    none = np.empty(0)
    if law is None or law.frobenius is None or not part.is_a_run_of(row):
        return none, none
    steps, bound = [], []
    for t in range(1, k + 1) if row.nested else [k]:
        factor = law.frobenius(p.m, p.n, t, **selection.options)
        if factor is not None:
            r = t if law.rank is None else law.rank(p.m, p.n, t, **selection.options)
            steps.append(t)
            bound.append(factor * tails[min(r, len(tails) - 1)])
    return np.asarray(steps), np.asarray(bound)


def axes_or_new(ax: Axes | None) -> Axes:
    """Return the axes, or new ones where there are none."""
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ImportError as reason:
        raise ImportError(
            "plots need matplotlib, which is not installed: pip install 'cssp[plot]'"
        ) from reason
    return pyplot.subplots(layout="constrained")[1]


def _logarithmic(ax: Axes, values: np.ndarray) -> None:
    """Set a logarithmic scale that ends above rounding."""
    ax.set_yscale("log")
    top = float(values.max(initial=0.0))
    lowest = top * 1e-14
    positive = values[values > lowest]
    if positive.size and float(values.min()) <= lowest:
        ax.set_ylim(bottom=float(positive.min()) / 3)


def _finished(ax: Axes, ylabel: str, selection: Selection) -> Axes:
    ax.set_xlabel(f"number of {selection.axis}  t")
    ax.set_ylabel(ylabel)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False)
    _whole_ticks(ax)
    return ax


def _whole_ticks(ax: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
