"""The one entry point: check the arguments, hand each matrix to the method, complete and record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import array_api_compat
import numpy as np

from cssp import arguments as check
from cssp import conditions, frames, gradients, missing_values, passes, rows, scaling, transforms
from cssp.each import check_each, solved_each
from cssp.errors import UnsupportedError
from cssp.finish import solved, warn_of_dependence
from cssp.in_memory import InMemory
from cssp.methods import Method
from cssp.part import Part
from cssp.problem import Array
from cssp.progress import reporting
from cssp.request import requested
from cssp.selection import Selection

if TYPE_CHECKING:
    from cssp.passes.table import InPasses

__all__ = ["select"]


def select(
    A: Array,
    k: Any = None,
    method: str = "residual",
    *,
    weights: Any = None,
    scale: str | None = None,
    target: Any = None,
    tol: float | None = None,
    tol_each: float | None = None,
    tol_max: float | None = None,
    include: Any = None,
    exclude: Any = None,
    valid: Any = None,
    groups: Any = None,
    constraint: Any = None,
    costs: Any = None,
    budget: float | None = None,
    deficient: str = "fill",
    rng: int | np.random.Generator | None = None,
    progress: Any = False,
    missing: str = "raise",
    axis: str | int = "columns",
    **options: Any,
) -> Selection:
    """Choose columns of A that span the others best.

    Parameters
    ----------
    A : array, shape (..., m, n); or dask array or DataFrame, sparse matrix or array of SciPy, LinearOperator, shape (m, n)
        NumPy, torch, or any Array-API array; real, complex where the method allows it, integer and bool
        (worked on in float64), half precisions (worked on in float32). Never modified.
    k : int, or one int per batch item, optional
        Number of columns; of groups where `groups` is given. It may be left out where `tol`, `tol_each`, `tol_max` or
        `budget` is given.
    method : str
        Name of a row of `cssp.METHODS`.
    weights : array, shape (n,) or (..., n), optional
        Values per column, here and below, may also be given by name where A is a data frame: a mapping, or a Series. Target weights, finite and not negative: the same as ``select(A * weights, ...)``. For pivoting
        methods this is also a relevance prior. A zero weight does not exclude a column; `exclude` does.
    scale : {None, "norm"}
        "norm" divides every column by its norm first, so that units do not matter: the same as weights
        ``w / numpy.linalg.norm(A, axis=0)``, zero columns staying zero.
    target : array, shape (..., m, p), optional
        Choose columns of A to reconstruct this matrix instead of A.
    tol : float in (0, 1], optional
        Stop at the first pick with ‖A - P_S A‖_F ≤ tol·‖A‖_F, at least one pick and all included ones being
        made. Without k it is no error if independent columns run out before; included ones that are dependent are
        treated as `deficient` says.
    tol_each : float in (0, 1), optional
        Stop at the first pick with which the residual norm of every column is at most tol_each times its own norm, instead of
        tol. For methods that pick one column after the other, the others refuse it.
    tol_max : float, optional
        Stop at the first pick with which the residual norm of every column that may be chosen is at most tol_max, in
        the unit of A·diag(weights), instead of tol; at least one pick is made. With "residual" and ``tol_max=1`` this
        is greedy MAP inference of the determinantal process with kernel L = diag(w) AᴴA diag(w), without a fixed
        size: det L_S is multiplied by the squared residual norm of the next pick, and it ends where no column raises
        it.
    include, exclude : sequence of int or str, or one sequence per batch item, optional
        Columns chosen first, in this order; columns never chosen (they still count in the error). Also names
        of columns where A is a data frame.
    valid : bool array, shape (n,) or (..., n), optional
        False marks padding: such columns are not part of the problem and may hold anything, NaN too.
    groups : sequence of int or str, shape (n,), optional
        A label for each column. Columns of one label are chosen together, and k counts labels; an included column brings its
        group, an excluded one forbids it. With "residual" the group with the largest Frobenius norm of its residuals comes
        next, large groups not being scaled down; with "greedy" the one that lowers the squared error most.
    constraint : AtMost, MinDistance, any object with ``allowed(chosen) -> bool mask (n,)``, or a sequence of them, optional
        What may follow the columns chosen so far, for methods that pick one column after the other. If it allows
        nothing more before there are k columns, that is an error that says how many there are, unless ``deficient="truncate"``.
    costs : array, shape (n,), optional
        Positive cost of each column. Scores are divided by it: squared residual norms, or for "greedy" the decrease of the
        squared error. A group costs what its columns cost.
    budget : float, optional
        What the chosen columns may cost in all, included ones counted; with k, whichever ends first. Columns that
        bring nothing are not bought. "greedy" also tries the scores undivided, and keeps the better of the two choices.
    deficient : {"fill", "truncate", "raise"}
        What to do where k exceeds the numerical rank, or the rank that the included columns allow: complete with the
        lowest unused indices and warn; return the independent columns only (2-D A), those included or not; raise
        `RankDeficientError`.
    rng : None, int or numpy.random.Generator
        Randomness of sampling methods. Item i of a batch draws from the i-th generator spawned from it.
    progress : bool or callable
        True shows on stderr how far the choice is: a bar where tqdm is installed, else lines. A function is called with
        the steps done and the steps there are (None where nobody knows), a step being a pick, a swap (`local_search`,
        `strong_rrqr`), a node (`exact`) or an item of a batch.
    missing : {"raise", "rows", "pairwise"}
        What to do about NaN in one real matrix in memory, and in its target: refuse it; leave out the rows in which one is
        (with ``axis="rows"`` the columns: "columns"); or choose by products of columns over the rows that both have, see
        Notes. `Selection.missing` says what was done.
    axis : {"columns", "rows"} or int
        Choose rows instead, so that A ≈ ``sel.coefficients() @ A[sel.indices]``: all arguments and results then speak of
        rows where they speak of columns, and names are the labels of rows. -1 and -2 are columns and rows, too; without a
        batch also 1 and 0.
    **options
        The method's own options, see ``METHODS[method].options``.

    Returns
    -------
    Selection

    Raises
    ------
    CsspError
        A ``ValueError``; the message names the argument, what came and what is allowed.

    Warns
    -----
    RankDeficientWarning
        k exceeds the numerical rank, or an included column depends on those before it.

    Notes
    -----
    A column depends on others if its residual norm is at most N·eps·(largest column norm). N is max(m, n), with n counted as
    at most 16,384, and at least 10; eps is that of the precision of A. It does not count for `rank`, and no method picks it while a column above
    that threshold may be picked: such picks are replaced by those of the residual rule. Errors and coefficients are of the
    exact numbers, in double precision, by the same rule.

    Scores within 64 units of rounding tie, and the lowest index wins. Matrices are scaled by powers of two,
    so that entries from 1e-200 to 1e+200 (1e±30 in float32) give the same picks. An item of a batch gives
    the same bits as alone.

    ``missing="pairwise"`` estimates AᵀA by m times the mean product over the rows that two columns share, which is right in
    expectation where values are missing completely at random; takes the nearest positive semidefinite matrix in the Frobenius
    norm (negative eigenvalues set to zero: Higham, 1988); and selects columns of a factor R of it, RᵀR being that matrix. Errors, coefficients
    and the certificate are about R. A matrix without NaN is worked on as it is.

    Examples
    --------
    >>> import numpy as np, cssp
    >>> A = np.array([[3.0, 0.0, 1.0], [0.0, 2.0, 1.0]])
    >>> cssp.select(A, 2).indices
    array([0, 1])
    >>> chosen = cssp.select(A, 1, "greedy", groups=["x", "y", "x"])
    >>> chosen.groups, chosen.indices
    (('x',), array([0, 2]))
    >>> chosen = cssp.select(A, method="greedy", costs=[9.0, 1.0, 2.0], budget=4)
    >>> chosen.indices, chosen.cost
    (array([1, 2]), 3.0)
    """
    same = {
        "tol": tol,
        "tol_each": tol_each,
        "tol_max": tol_max,
        "include": include,
        "exclude": exclude,
        "valid": valid,
        "deficient": deficient,
        "groups": groups,
        "constraint": constraint,
        "costs": costs,
        "budget": budget,
    }
    same |= {"scale": scale, "rng": rng, "progress": progress, "missing": missing, **options}
    under_transform = transforms.under_transform(A, weights, target)
    if under_transform is not transforms.untraced and rows.as_axis(axis, A) == "rows":
        return rows.select_rows(select, A, k, method, target, weights=weights, **same)
    if under_transform is not None:
        return under_transform(
            lambda A, w, B: select(A, k, method, weights=w, target=B, axis=axis, **same),
            *(A, weights, target, check.as_scale(scale)),
        )
    row, unit = check.find_method(method), check.as_scale(scale)
    names = frames.names_of(A)
    groups, costs, weights, valid = (
        frames.by_name(name, value, names)
        for name, value in (("groups", groups), ("costs", costs), ("weights", weights), ("valid", valid))
    )
    A, target, absent = missing_values.settled(A, target, valid, missing)
    live = gradients.sources(A, weights, target, unit)
    matrices = _opened(A, row, options, k, target, unit)
    each = tol_each is not None or tol_max is not None
    if each:
        tol_max = check_each(row, tol=tol, tol_each=tol_each, tol_max=tol_max, target=target)
    row, (*lead, _, n) = matrices.row, matrices.shape
    batch = tuple(lead)
    check.check_deficient(deficient)
    if deficient == "truncate" and batch:
        raise UnsupportedError("deficient = 'truncate' needs a 2-D A: the items of a batch keep one length")
    for name, value in (("tol", tol), ("include", include), ("exclude", exclude)):
        if value is not None:
            check.check_supported(row, name, name)
    include, exclude = (
        frames.as_places(name, index, matrices.names)
        for name, index in (("include", include), ("exclude", exclude))
    )
    under = conditions.asked(
        row,
        n,
        k,
        options,
        groups=groups,
        constraint=constraint,
        costs=costs,
        budget=budget,
        each="tol_max" if tol_max is not None else "tol_each" if each else "",
        in_passes=matrices.passes is not None,
    )
    request = requested(
        batch,
        n,
        k=k if groups is None else None,
        ends=tol_max is not None or (under is not None and under.ends),
        tol=tol if tol_each is None else tol_each,
        include=include,
        exclude=exclude,
        weights=weights,
        valid=valid,
    )
    generator, places = check.as_generator(rng), list(request.places())
    chance = bool(options) or not row.deterministic  # an option may bring chance in: a random start
    generators = generator.spawn(len(places)) if batch and chance else [generator] * len(places)
    problems = [
        matrices.problem(place, request.item(place), g) for place, g in zip(places, generators, strict=True)
    ]
    solve = partial(solved_each, largest=tol_max) if each else solved
    if under is not None:
        solve = partial(conditions.solved_under, under)
    with reporting(progress, f"select {method}") as report:
        answers = []
        for problem in problems:
            watched = problem if batch else replace(problem, progress=report)
            answers.append(solve(watched, row, options, deficient, request.counted))
            if batch:
                report(len(answers), len(problems))
    if deficient == "fill":
        warn_of_dependence([part for part, is_short in answers if is_short], len(places) if batch else 0)
    parts = transforms.attached([part for part, _ in answers], live, places)
    return replace(
        _record(parts, matrices, options, under),
        missing=absent,
        _rows_at_hand=absent is None or absent.how == "rows",
    )


def _opened(
    A: Any, row: Method, options: Mapping[str, Any], k: Any, target: Any, unit: bool
) -> InMemory | InPasses:
    """Return what makes the problems: of arrays in memory, or of a matrix that is read in passes."""
    if passes.kind_of(A) == "mapped":
        A = passes.settled(A, row, options, k, target)
    if passes.kind_of(A) is None:
        return InMemory(A, row, options, target, unit)
    made: InPasses = passes.InPasses(A, row, options, target, unit)
    return made


@scaling.default_floating_errors
def _record(
    parts: list[Part],
    matrices: InMemory | InPasses,
    options: Mapping[str, Any],
    under: conditions.Conditions | None = None,
) -> Selection:
    """Return the parts as one record in the namespace and on the device of the matrices."""
    read = matrices.passes  # before the rank is asked for, which may read the matrix again
    batch, like = matrices.shape[:-2], matrices.like
    xp, device = array_api_compat.array_namespace(like), array_api_compat.device(like)
    length = max((len(part.picks) for part in parts), default=0)
    indices = np.full((len(parts), length), -1, dtype=np.int64)
    for line, part in zip(indices, parts, strict=True):
        line[: len(part.picks)] = part.indices

    def numbers(values: list[int]) -> Any:
        if not batch:
            return values[0]
        return xp.asarray(np.asarray(values, dtype=np.int64).reshape(batch), device=device)

    return Selection(
        indices=xp.asarray(indices.reshape((*batch, length)), device=device),
        method=matrices.row.name,
        rank=numbers([part.rank for part in parts]),
        k=numbers([len(part.picks) for part in parts]),
        options=dict(options),
        passes=read,
        _parts=tuple(parts),
        _batch=batch,
        _like=like,
        _names=matrices.names,
        **_of_conditions(parts, batch, under),
    )


def _of_conditions(
    parts: list[Part], batch: tuple[int, ...], under: conditions.Conditions | None
) -> dict[str, Any]:
    """Return the fields of the record that conditions add."""
    if under is None:
        return {}
    groups, cost = [under.groups_of(p.indices) for p in parts], [under.cost_of(p.indices) for p in parts]
    return {
        "groups": None if under.codes is None else groups if batch else groups[0],
        "cost": None if under.costs is None else np.reshape(np.asarray(cost), batch) if batch else cost[0],
        "conditional": True,
    }
