"""The one entry point: check the arguments, hand each matrix to the method, complete and record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import array_api_compat
import numpy as np

from cssp import arguments as check
from cssp import frames, gradients, linalg, passes, scaling, transforms
from cssp.errors import ArgumentError, RankDeficientWarning, UnsupportedError, warn
from cssp.finish import limit, solved, threshold
from cssp.methods import Method
from cssp.problem import Array, Problem
from cssp.progress import reporting
from cssp.selection import Part, Selection

__all__ = ["select"]

_REMEDY = "clean it, or mark the column as padding with valid (exclude only forbids choosing it)"


def select(
    A: Array,
    k: Any = None,
    method: str = "residual",
    *,
    weights: Any = None,
    scale: str | None = None,
    target: Any = None,
    tol: float | None = None,
    include: Any = None,
    exclude: Any = None,
    valid: Any = None,
    deficient: str = "fill",
    rng: int | np.random.Generator | None = None,
    progress: Any = False,
    **options: Any,
) -> Selection:
    """Choose columns of A that span the others best.

    Parameters
    ----------
    A : array, shape (..., m, n); or dask array or DataFrame, sparse matrix or array of SciPy, LinearOperator, shape (m, n)
        NumPy, torch, or any Array-API array; real, complex where the method allows it, integer and bool
        (worked on in float64), half precisions (worked on in float32). Never modified.
    k : int, or one int per batch item
        Number of columns. It may be left out where `tol` is given.
    method : str
        Name of a row of `cssp.METHODS`.
    weights : array, shape (n,) or (..., n), optional
        Target weights, finite and not negative: the same as ``select(A * weights, ...)``. For pivoting
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
    include, exclude : sequence of int, or one sequence per batch item, optional
        Columns chosen first, in this order; columns never chosen (they still count in the error).
    valid : bool array, shape (n,) or (..., n), optional
        False marks padding: such columns are not part of the problem and may hold anything, NaN too.
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
    A column depends on others if its residual norm is at most max(m, n)·eps·(largest column norm), n counting as 16,384 at
    the most, max(m, n) as 10 at least, and eps being of the precision of A. It does not count for `rank`, and no method picks it while a column above
    that threshold may be picked: such picks are replaced by those of the residual rule. Errors and coefficients are of the
    exact numbers, in double precision, by the same rule.

    Scores within 64 units of rounding tie, and the lowest index wins. Matrices are scaled by powers of two,
    so that entries from 1e-200 to 1e+200 (1e±30 in float32) give the same picks. An item of a batch gives
    the same bits as alone.

    Examples
    --------
    >>> import numpy as np, cssp
    >>> A = np.array([[3.0, 0.0, 1.0], [0.0, 2.0, 1.0]])
    >>> cssp.select(A, 2).indices
    array([0, 1])
    """
    under_transform = transforms.under_transform(A, weights, target)
    if under_transform is not None:
        same = {"tol": tol, "include": include, "exclude": exclude, "valid": valid, "deficient": deficient}
        same |= {"scale": scale, "rng": rng, "progress": progress, **options}
        return under_transform(
            lambda A, w, B: select(A, k, method, weights=w, target=B, **same),
            *(A, weights, target, check.as_scale(scale)),
        )
    row = check.find_method(method)
    if passes.kind_of(A) == "mapped":
        A = passes.settled(A, row, options, k, target)
    in_passes = passes.kind_of(A) is not None
    if in_passes:
        row = passes.row_for(row, A)
    check.check_options(row, options)
    live = gradients.sources(A, weights, target, check.as_scale(scale))
    names = frames.names_of(A)
    A = passes.source_of(A, row, "checkpoint" in options) if in_passes else check.as_matrix("A", A, row)
    *lead, _, n = (int(s) for s in A.shape)
    batch = tuple(lead)
    counts, tol = check.as_counts(k, batch), check.as_tolerance(tol)
    if counts is None and tol is None:
        raise ArgumentError(
            "neither k nor tol is given: expected how many columns (k=10), or how small an error (tol=0.01)"
        )
    check.check_deficient(deficient)
    if deficient == "truncate" and batch:
        raise UnsupportedError("deficient = 'truncate' needs a 2-D A: the items of a batch keep one length")
    if counts is None and in_passes and method not in passes.OPEN_ENDED:
        raise UnsupportedError(
            f"tol without k: method {method!r} needs k on a matrix read in passes; "
            f"methods that do not: {', '.join(map(repr, passes.OPEN_ENDED))}"
        )
    for name, value in (("tol", tol), ("include", include), ("exclude", exclude), ("target", target)):
        if value is not None:
            check.check_supported(row, name, name)
    wanted = _Arguments(
        A=A,
        in_passes=in_passes,
        target=None if target is None else _as_target(target, A, row),
        counts=counts,
        tol=tol,
        weights=check.as_weights(weights, batch, n),
        unit=check.as_scale(scale),
        include=check.as_columns("include", include, batch, n),
        exclude=check.as_columns("exclude", exclude, batch, n),
        valid=check.as_mask(valid, batch, n),
        names=names,
    )
    check.check_disjoint(wanted.include, wanted.exclude)
    generator = check.as_generator(rng)
    items = list(np.ndindex(batch))
    chance = bool(options) or not row.deterministic  # an option may bring chance in: a random start
    generators = [generator] if not batch else generator.spawn(len(items)) if chance else None
    problems = [
        wanted.problem(item, generator if generators is None else generators[i])
        for i, item in enumerate(items)
    ]
    with reporting(progress, f"select {method}") as report:
        done = []
        for problem in problems:
            own = problem if batch else replace(problem, progress=report)
            done.append(solved(own, row, options, deficient, counts is not None))
            if batch:
                report(len(done), len(problems))
    short = [part for part, is_short in done if is_short]
    if short and deficient == "fill":
        found = ", ".join(sorted({f"{p.rank} of {len(p.picks)}" for p in short})[:3])
        many = f" in {len(short)} of {len(items)} batch items" if batch else ""
        warn(
            f"k exceeds {limit(short[0])}{many}: only {found} chosen columns are independent. {threshold(short[0])}. "
            "deficient='fill' keeps dependent columns; pass deficient='truncate' or deficient='raise', or tol, to avoid them",
            RankDeficientWarning,
        )
    parts = transforms.attached([part for part, _ in done], live, items)
    return _record(parts, row, options, batch, A)


@dataclass(frozen=True, eq=False)
class _Arguments:
    """Checked arguments of one call, host vectors spread over the batch."""

    A: Array
    in_passes: bool
    target: Array | None
    counts: np.ndarray | None
    tol: float | None
    weights: np.ndarray | None
    unit: bool
    include: np.ndarray
    exclude: np.ndarray
    valid: np.ndarray | None
    names: list[str] | None

    @scaling.default_floating_errors
    def problem(self, item: tuple[int, ...], rng: np.random.Generator) -> Problem:
        """Return the two-dimensional problem of one batch item."""
        where = f" of batch item {item[0] if len(item) == 1 else item}" if item else ""
        width = int(self.A.shape[-1])
        columns = None if self.valid is None or self.valid[item].all() else np.flatnonzero(self.valid[item])
        if columns is not None and not columns.size:
            raise ArgumentError(f"valid{where} is all False: expected at least one column")
        if self.in_passes:
            return self._in_passes(columns, rng)
        A = _native(self.A[(*item, ...)] if item else self.A)
        xp = array_api_compat.array_namespace(A)
        if columns is not None:
            A = linalg.take_columns(A, columns)
        A = xp.astype(A, check.compute_dtype(A), copy=False)
        top = check.check_finite("A", A, columns, where, _REMEDY, self.names)
        if self.unit:
            A, top = scaling.unit_columns(A), 1.0
        if self.weights is None:
            A, exponent = scaling.normalised(A, top)
        else:
            w = self.weights[item] if columns is None else self.weights[item][columns]
            check.check_weights(w, columns, where)
            A, exponent = scaling.weighted(A, w, top)
        k, free, include = self._choice(item, columns, int(A.shape[1]), where)
        problem = Problem(
            A=A,
            k=k,
            candidates=xp.asarray(free, device=array_api_compat.device(A)),
            include=include,
            tol=self.tol,
            rng=rng,
            exponent=exponent,
            columns=columns,
            width=width,
        )
        problem = _flush_negligible_columns(problem)
        return problem if self.target is None else self._aimed(problem, item, where)

    def _in_passes(self, columns: np.ndarray | None, rng: np.random.Generator) -> Problem:
        """Return the problem of a matrix that is read in passes."""
        w, width = self.weights, int(self.A.shape[1])
        if w is not None:
            w = w if columns is None else w[columns]
            check.check_weights(w, columns, "")
        A = self.A if columns is None else self.A.narrowed(columns)
        k, free, include = self._choice((), columns, int(A.shape[1]), "")
        A, exponent, norms2 = passes.scaled(A, w, columns, _REMEDY, self.unit)
        return passes.PassProblem(
            A=A,
            k=k,
            candidates=free,
            include=include,
            tol=self.tol,
            rng=rng,
            exponent=exponent,
            columns=columns,
            width=width,
            given=norms2,
            record=passes.record_of(A),
        )

    def _choice(
        self, item: tuple[int, ...], columns: np.ndarray | None, n: int, where: str
    ) -> tuple[int, np.ndarray, tuple[int, ...]]:
        """Return k, the columns that may be chosen freely, and those included, numbered among the valid ones."""
        include, exclude = self.include[item], self.exclude[item]
        if columns is not None:
            include = _renumbered("include", include, columns, where)
            exclude = np.searchsorted(columns, exclude[np.isin(exclude, columns)])
        k = self._count(item, n - len(exclude), int(self.A.shape[-1]), len(include), where)
        free = np.ones(n, dtype=bool)
        free[exclude] = False
        free[include] = False
        return k, free, tuple(int(j) for j in include)

    def _count(self, item: tuple[int, ...], admissible: int, width: int, included: int, where: str) -> int:
        """Return k of one item, checked against the columns that may be chosen."""
        k = admissible if self.counts is None else int(self.counts[item])
        if k > admissible:
            why = "" if admissible == width else " (valid and exclude taken into account)"
            raise ArgumentError(
                f"k = {k}{where}, but only {admissible} of {width} columns may be chosen{why}"
            )
        if k < 1:
            raise ArgumentError(f"exclude{where} leaves no column to choose")
        if included > k:
            raise ArgumentError(f"include{where} has {included} columns, more than k = {k}")
        return k

    def _aimed(self, problem: Problem, item: tuple[int, ...], where: str) -> Problem:
        """Return the problem with its target."""
        assert self.target is not None
        B = _native(self.target[(*item, ...)] if item and self.target.ndim > 2 else self.target)
        B = problem.xp.astype(B, check.compute_dtype(B), copy=False)
        top = check.check_finite("target", B, None, where, "clean it")
        B, exponent = scaling.normalised(B, top, always=B.dtype != problem.A.dtype)
        B = problem.xp.astype(B, problem.A.dtype, copy=False)
        return replace(problem, target=B, target_exponent=exponent)


def _as_target(target: Any, A: Array, row: Method) -> Array:
    B = check.as_matrix("target", target, row)
    if array_api_compat.array_namespace(B) is not array_api_compat.array_namespace(A):
        raise ArgumentError(
            f"target is a {type(B).__name__} and A a {type(A).__name__}: expected arrays of the same library"
        )
    lead, m = tuple(B.shape[:-2]), B.shape[-2]
    if m != A.shape[-2] or lead not in ((), tuple(A.shape[:-2])):
        raise ArgumentError(
            f"target has shape {tuple(B.shape)}: "
            f"expected (..., {A.shape[-2]}, p), with the batch of A, {tuple(A.shape)}"
        )
    complex_ = [array_api_compat.array_namespace(X).isdtype(X.dtype, "complex floating") for X in (A, B)]
    if complex_ == [False, True]:
        raise ArgumentError("target is complex and A is real: make A complex too")
    return B


def _renumbered(argument: str, index: np.ndarray, columns: np.ndarray, where: str) -> np.ndarray:
    """Return the places of column numbers among the valid ones."""
    outside = index[~np.isin(index, columns)]
    if outside.size:
        raise ArgumentError(f"{argument}{where} contains column {outside[0]}, which valid marks as padding")
    return np.searchsorted(columns, index)


def _flush_negligible_columns(p: Problem) -> Problem:
    """Return the problem with columns set to zero whose squared norms underflow beside the largest."""
    xp = p.xp
    negligible = p.norms2 < 2.0 ** (-120 if p.eps > 1e-10 else -900)
    if not bool(xp.any(negligible)):
        return p
    if not bool(xp.any(linalg.take_columns(p.A, linalg.places(negligible)) != 0)):
        return p
    return replace(p, A=xp.where(negligible[None, :], xp.zeros_like(p.A), p.A))


def _native(A: Array) -> Array:
    """Return A where methods can work on it in place, a host copy otherwise (immutable arrays)."""
    xp = array_api_compat
    if (
        xp.is_numpy_array(A)
        or xp.is_torch_array(A)
        or xp.is_cupy_array(A)
        or xp.is_array_api_strict_namespace(xp.array_namespace(A))
    ):
        return A
    return linalg.host(A)


@scaling.default_floating_errors
def _record(
    parts: list[Part], row: Method, options: Mapping[str, Any], batch: tuple[int, ...], A: Array
) -> Selection:
    """Return the parts as one record in the namespace and on the device of A."""
    read = A.passes[0] if any(part.problem.in_passes for part in parts) else None
    A = np.empty(0) if read is not None else A
    xp, device = array_api_compat.array_namespace(A), array_api_compat.device(A)
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
        method=row.name,
        rank=numbers([part.rank for part in parts]),
        k=numbers([len(part.picks) for part in parts]),
        options=dict(options),
        passes=read,
        _parts=tuple(parts),
        _batch=batch,
        _like=xp.empty((0,), device=device),
    )
