"""What a row of the table of methods states."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cssp.problem import Picks

__all__ = ["FORCED", "METHODS", "NATIVE", "PASSES", "Guarantee", "Method"]

#: Backends of a method that leaves the matrix where it is.
NATIVE = ("numpy", "torch", "array-api")

#: Backends that are read in passes.
PASSES = ("dask", "sparse", "operator")

#: Arguments that nearly every method honours.
FORCED = frozenset({"include", "exclude"})


@dataclass(frozen=True)
class Guarantee:
    """A theorem about a method. All factors are on *squared* errors, but for `largest`.

    Attributes
    ----------
    text : str
        The statement in one line.
    source : str
        Bibliography key.
    name : str
        What the theorem calls the algorithm, where it is not the method's name.
    holds : {"every run", "expectation"}
        Whether the statement holds whatever is drawn, or for the mean over what is drawn.
    frobenius, spectral : callable or None
        ``f(m, n, k, **options)``: the factor on error / optimum in that norm, None where no theorem covers
        the options.
    rank : callable or None
        ``f(m, n, k, **options)``: the rank r of the optimum that the factors multiply, where it is not k.
    largest : callable or None
        ``f(m, n, k, **options)``: the factor on largest residual norm / width, not squared (`cssp.bounds.greedy_width`).
    largest_source : str
        Bibliography key of that factor.
    """

    text: str
    source: str
    holds: str
    frobenius: Callable[..., float | None] | None = None
    spectral: Callable[..., float | None] | None = None
    rank: Callable[..., int] | None = None
    name: str = ""
    largest: Callable[..., float | None] | None = None
    largest_source: str = ""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Method:
    """A row of `METHODS`.

    Attributes
    ----------
    name : str
    function : callable
        ``function(problem, **options) -> Picks``.
    summary : str
        One line.
    citation : str
        Bibliography key.
    cost : str
        Leading-order work in m, n, k.
    deterministic : bool
        Whether the picks are the same for any ``rng``.
    nested : bool
        Whether the first t picks of a longer run are the picks of a run of length t (with the same ``rng``).
    backends : tuple of str
        Where the work is done. ``("numpy", "torch", "array-api")``: in the namespace and on the device of A. "numpy" alone
        of these: on the host; arrays of other kinds are copied there, and the indices are copied back.
        ``"dask", "sparse", "operator"``: also on dask arrays, sparse matrices and LinearOperators, read in passes.
    supports : frozenset of str
        The features that the method has, of include, exclude, tol, target, complex, constraint, groups and costs.
    guarantee : Guarantee or None
    oversamples : bool
        Whether columns beyond the rank are chosen on purpose: they are neither replaced nor warned of.
    """

    name: str
    function: Callable[..., Picks]
    summary: str
    citation: str
    cost: str
    deterministic: bool = True
    nested: bool = False
    backends: tuple[str, ...] = ("numpy",)
    supports: frozenset[str] = field(default_factory=lambda: frozenset({"include", "exclude"}))
    guarantee: Guarantee | None = None
    oversamples: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """The options of this method alone, and their defaults."""
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


METHODS: dict[str, Method] = {}
"""The table of methods, which `cssp.methods` fills: a method that runs another one by name finds it here."""
