"""From arrays in memory to problems: checked, padding removed, weighted and scaled by powers of two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import array_api_compat
import numpy as np

from cssp import arguments as check
from cssp import frames, linalg, scaling
from cssp.arrays import as_matrix, check_finite, compute_dtype
from cssp.errors import ArgumentError
from cssp.folding import folding_of
from cssp.methods import Method
from cssp.problem import Array, Problem
from cssp.request import Item

__all__ = ["REMEDY", "InMemory"]

#: What else to do about missing values.
MISSING = "; for missing values pass missing='rows' or missing='pairwise'"

#: What to do about a column that is not finite.
REMEDY = "clean it, or mark the column as padding with valid (exclude only forbids choosing it)"


class InMemory:
    """The matrices of one call, in memory; `cssp.passes.InPasses` is the same for a matrix that is read in passes.

    Attributes
    ----------
    row : Method
        The method with its function for such matrices.
    shape : tuple of int
        (..., m, n), the batch first.
    like : array, shape (0,)
        It carries the namespace and the device of the answer.
    passes : float or None
        How often a matrix that is read in passes was read so far; None here.
    """

    passes = None

    def __init__(self, A: Any, row: Method, options: Mapping[str, Any], target: Any, unit: bool) -> None:
        """Check the arrays; with ``unit`` columns will be divided by their norms."""
        check.check_options(row, options)
        self.row, self.unit, self.names = row, unit, frames.names_of(A)
        self.A = as_matrix("A", A, row)
        self.shape = tuple(int(s) for s in self.A.shape)
        self.target = None if target is None else _as_target(target, self.A, row)
        xp, device = array_api_compat.array_namespace(self.A), array_api_compat.device(self.A)
        self.like = xp.empty((0,), device=device)

    @scaling.default_floating_errors
    def problem(self, place: tuple[int, ...], item: Item, rng: np.random.Generator) -> Problem:
        """Return the two-dimensional problem of one batch item."""
        A = _native(self.A[(*place, ...)] if place else self.A)
        if item.columns is not None:
            A = linalg.take_columns(A, item.columns)
        A = _computed(A)
        xp = array_api_compat.array_namespace(A)
        plain = item.weights is None and not self.unit
        (norms2, clear), exponent = scaling.in_range(A) if plain else (None, False), 0
        if not clear:
            single = not place and not xp.isdtype(A.dtype, "complex floating")
            top = check_finite(
                "A", A, item.columns, item.where, REMEDY, self.names, if_nan=MISSING if single else ""
            )
            if self.unit:
                A, top = scaling.unit_columns(A), 1.0
            if item.weights is None:
                A, exponent = scaling.normalised(A, top)
            else:
                A, exponent = scaling.weighted(A, item.weights, top)
        problem = Problem(
            A=A,
            k=item.k,
            candidates=xp.asarray(item.candidates, device=array_api_compat.device(A)),
            include=item.include,
            tol=item.tol,
            rng=rng,
            exponent=exponent,
            columns=item.columns,
            width=item.width,
            measured=None if norms2 is None or exponent else (A, norms2),
        )
        problem = _flush_negligible_columns(problem)
        if self.target is not None:
            problem = self._aimed(problem, place, item.where)
        return replace(problem, folding=folding_of(problem.A, problem.target))

    def _aimed(self, problem: Problem, place: tuple[int, ...], where: str) -> Problem:
        """Return the problem with its target."""
        assert self.target is not None
        B = _native(self.target[(*place, ...)] if place and self.target.ndim > 2 else self.target)
        B = _computed(B)
        top = check_finite("target", B, None, where, "clean it")
        B, exponent = scaling.normalised(B, top, always=B.dtype != problem.A.dtype)
        B = problem.xp.astype(B, problem.A.dtype, copy=False)
        return replace(problem, target=B, target_exponent=exponent)


def _as_target(target: Any, A: Array, row: Method) -> Array:
    """Return the target as a numeric array (..., m, p) of the namespace of A."""
    check.check_supported(row, "target", "target")
    B = as_matrix("target", target, row)
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


def _flush_negligible_columns(p: Problem) -> Problem:
    """Return the problem with columns set to zero whose squared norms underflow beside the largest."""
    xp = p.xp
    negligible = p.norms2 < 2.0 ** (-120 if p.eps > 1e-10 else -900)
    if not bool(xp.any(negligible)):
        return p
    if not bool(xp.any(linalg.take_columns(p.A, linalg.places(negligible)) != 0)):
        return p
    return replace(p, A=xp.where(negligible[None, :], xp.zeros_like(p.A), p.A))


def _computed(A: Array) -> Array:
    """Return A in the precision that is computed in; of a tensor in host memory NumPy's view, which costs nothing.

    Threads of torch would wait for work beside those of NumPy's BLAS: together they take up to ten times as long.
    """
    A = array_api_compat.array_namespace(A).astype(A, compute_dtype(A), copy=False)
    return linalg.host(A) if linalg.in_host_memory(A) else A


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
