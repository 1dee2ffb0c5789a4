"""Landmarks of a positive semidefinite matrix: pivoted Cholesky, read by rows, K never formed.

Pivoted Cholesky [harbrecht2012] and randomly pivoted Cholesky [chen2025], also by rejection [epperly2024], choose on K what
`cssp.select` chooses on any A with AᴴA = K; the errors are those of A, squared. What differs is rounding: K holds the
squares of A's singular values, so a column of A whose residual is below √eps of its norm counts as dependent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import array_api_compat
import numpy as np
import scipy.linalg

from cssp import arguments as check
from cssp import conditions
from cssp.certificate import Certificate, against_width, promised, ratio_of
from cssp.cholesky import RULES, Cholesky, rank_of
from cssp.conditions.constraints import positive
from cssp.errors import ArgumentError, RankDeficientWarning, UnknownNameError, warn
from cssp.finish import filled, shortened, within
from cssp.gram import Gram, as_gram
from cssp.linalg import squares
from cssp.methods import METHODS, Guarantee
from cssp.problem import Array
from cssp.request import requested
from cssp.residuals import as_exponent, relative_p_norm
from cssp.scaling import default_floating_errors, shifted

__all__ = ["GramSelection", "select_gram"]


@default_floating_errors
def select_gram(
    K: Any,
    k: int | None = None,
    method: str = "residual",
    *,
    X: Any = None,
    n: int | None = None,
    diagonal: Any = None,
    tol: float | None = None,
    tol_max: float | None = None,
    weights: Any = None,
    include: Any = None,
    exclude: Any = None,
    constraint: Any = None,
    costs: Any = None,
    budget: float | None = None,
    deficient: str = "fill",
    rng: int | np.random.Generator | None = None,
    **options: Any,
) -> GramSelection:
    """Choose rows and columns S of a positive semidefinite K so that K[:, S] K[S, S]⁺ K[S, :] is near K.

    Parameters
    ----------
    K : array, shape (n, n), or callable, or str
        A symmetric or Hermitian matrix, NumPy or torch, of which only the rows chosen are read; or a function
        ``K(I, J)`` of two int64 arrays that returns the block (len(I), len(J)); or the name of a kernel of
        scikit-learn, such as "rbf", between the rows of `X`. What is read is checked, the rest is not.
    k : int, optional
        Number of landmarks. It may be left out where `tol` or `tol_max` is given.
    method : {"residual", "random_pivot", "greedy", "norm", "uniform"}
        As in `cssp.select` on A with K = AᴴA. "residual" and "random_pivot" evaluate (k + 1)n entries, "greedy"
        (k + 1)n² of them.
    X : array, shape (n, p), optional
        Data of a named kernel, one point per row.
    n : int, optional
        Order of K where it is a function.
    diagonal : float, or array, shape (n,), optional
        Diagonal of a function or a named kernel; without it, it is asked for in small blocks.
    tol : float in (0, 1], optional
        Stop at the first pick with tr(K - K_S) ≤ tol·tr(K): the square of the tol of `cssp.select`.
    tol_max : float, optional
        Stop at the first pick after which no diagonal entry of K - K_S that may be chosen is above tol_max: the
        square of the tol_max of `cssp.select`. With "residual" and ``tol_max=1`` this is greedy MAP inference of the
        determinantal process with kernel K, without a fixed size: det K_S is multiplied by the entry of the next
        pick. At least one pick is made.
    weights : array, shape (n,), optional
        The same as ``select_gram(diag(weights) K diag(weights), ...)``.
    include, exclude : sequence of int, optional
        Landmarks chosen first, in this order; indices never chosen (they still count in the error).
    constraint, costs, budget
        As in `cssp.select`, for "residual" and "greedy"; a constraint also for "random_pivot".
    deficient : {"fill", "truncate", "raise"}
        What to do where k exceeds the numerical rank of K, or the rank that the included landmarks allow: complete with the
        lowest unused indices and warn; return the independent landmarks only; raise `RankDeficientError`.
    rng : None, int or numpy.random.Generator
        Randomness of "random_pivot", "norm" and "uniform".
    **options
        ``accelerated`` of "random_pivot": True draws by rejection in blocks, False one by one, "auto" (default) goes
        by n; and the parameters of a named kernel, such as ``gamma``.

    Returns
    -------
    GramSelection

    Raises
    ------
    CsspError
        An entry that was read shows that K is not symmetric, not positive semidefinite or not finite; or an argument is wrong.

    Warns
    -----
    RankDeficientWarning
        k exceeds the numerical rank, residuals falling below max(n, 64)·eps of their diagonal entry, or an included
        index depends on those before it.

    Examples
    --------
    >>> import numpy as np, cssp
    >>> A = np.array([[3.0, 0.0, 1.0], [0.0, 2.0, 1.0]])
    >>> cssp.select_gram(A.T @ A, 2).indices
    array([0, 1])
    """
    if not isinstance(method, str) or method not in RULES:
        raise UnknownNameError(f"method = {method!r}: expected one of {', '.join(map(repr, RULES))}")
    method_options = {name: options.pop(name) for name in ("accelerated",) if name in options}
    if method_options and method != "random_pivot":
        raise UnknownNameError(f"option 'accelerated' is unknown to method {method!r}; 'random_pivot' has it")
    G = as_gram(K, X, n, diagonal, weights, options)
    under = conditions.asked(
        METHODS[method], G.n, k, {}, constraint=constraint, costs=costs, budget=budget
    ) or conditions.Conditions(G.n)
    request = requested(
        (), G.n, k=k, tol=tol, include=include, exclude=exclude, ends=under.ends or tol_max is not None
    )
    if tol_max is not None:
        tol_max = positive("tol_max", tol_max)
        if tol is not None:
            raise ArgumentError(f"tol = {tol!r} and tol_max = {tol_max!r}: expected one of the two")
    check.check_deficient(deficient)
    item, generator = request.item(()), check.as_generator(rng)
    under.check_included(np.asarray(item.include, dtype=np.int64))

    def run(price: np.ndarray | float) -> Cholesky:
        allowed = under.allowed if under.constraints else None
        L = Cholesky(G, item.k, item.candidates, list(item.include), request.tol, tol_max, allowed, price)
        RULES[method](L, generator, **method_options)
        return L

    L = run(1.0 if under.costs is None else under.costs)
    if method == "greedy" and under.budget is not None:
        other = run(1.0)
        L = other if under.prefers(_found(other), _found(L)) else L
    method_picks = tuple(L.indices)
    if under.constraints:
        limit = _complete_under(L, under, deficient, request.counted)
    else:
        limit = _complete(L, method, deficient, request.counted)
    if limit is not None:
        warn(
            f"k exceeds {limit}: only {L.rank} of {len(L.indices)} landmarks are independent, the residuals of the others "
            "are no more than rounding of K (deficient='fill'); use deficient='truncate' or 'raise', or tol",
            RankDeficientWarning,
        )
    return _record(K, L, method, method_options, method_picks, under)


def _complete(L: Cholesky, method: str, deficient: str, counted: bool) -> str | None:
    """Cut the picks at the tolerance and fill them up to k; return what k exceeds where the caller is to be warned, else None."""
    length = _length(L, counted)
    for j in filled(L.indices, L.candidates, length)[len(L.indices) :]:
        L.append(j)
    L.cut(length)
    if depend := _dependent(L):
        limit = (
            f"the rank {L.rank} that include allows ({', '.join(map(str, depend))} depends on those before)"
        )
    elif not counted or length < L.k or L.rank == L.k or L.reached():
        return None
    else:
        rank = L.rank if method == "residual" and not L.include else rank_of(L)
        if rank == L.k:
            return None
        limit = f"the numerical rank {rank} of K"
    if shortened(deficient, len(L.indices), lambda: limit):
        L.truncate()
        return None
    return limit


def _found(L: Cholesky) -> conditions.Found:
    """Return what a choice is compared with another by."""
    return conditions.Found(L.trace[-1], L.reached(), np.asarray(L.indices, dtype=np.int64))


def _complete_under(L: Cholesky, under: conditions.Conditions, deficient: str, counted: bool) -> str | None:
    """Do what `_complete` does, under constraints: fill with what they allow, and refuse what they end too early."""
    met = within((trace <= L.goal for trace in L.trace), max(1, len(L.include)))
    if met is not None:
        L.cut(met)
        return None
    if L.small():
        return None
    least = L.k if counted and under.budget is None and deficient != "truncate" else 1
    rank, ended = L.rank, bool(L.open_.any()) and not L.may_follow().any()
    while len(L.indices) < least and (places := np.flatnonzero(L.may_follow())).size:
        L.append(int(places[0]))
        L.open_[places[0]] = False
    if len(L.indices) < least or (ended and counted and under.budget is None):
        under.refuse_short(np.asarray(L.indices, dtype=np.int64), L.k, deficient)
    if not counted or under.budget is not None or rank == len(L.indices):
        return None
    limit = f"the numerical rank {rank} of the allowed part of K"
    if shortened(deficient, len(L.indices), lambda: limit):
        L.truncate()
        return None
    return limit


def _dependent(L: Cholesky) -> list[int]:
    """Return the included indices that depend on those included before."""
    return [j for j, yes in zip(L.include, L.clear, strict=False) if not yes]


def _length(L: Cholesky, counted: bool) -> int:
    """Return the number of picks: to the first place that meets the tolerance, else k, or the independent ones without k."""
    least = max(1, len(L.include))
    met = within((trace <= L.goal for trace in L.trace), least)
    if met is not None:
        return met
    if L.small():
        return len(L.indices)
    return L.k if counted else max(least, L.rank + len(_dependent(L)))


@dataclass(frozen=True, eq=False, repr=False)
class GramSelection:
    """Landmarks chosen by `cssp.select_gram`.

    Errors are traces of K - K_S. They are its trace norms, and the squared Frobenius errors of A where K = AᴴA. With weights w
    every number is about diag(w) K diag(w).

    Attributes
    ----------
    indices : int64 array, shape (k,)
        Landmarks in order of choice, distinct, in the namespace and on the device of K where that is an array.
    method : str
        Name of the method that chose them.
    rank : int
        Numerical rank of K[S, S].
    k : int
        Number of landmarks.
    options : dict
        The method's options of this call.
    entries : int
        Entries of K that were evaluated for the selection.
    errors : float64 array, shape (k + 1,)
        Trace of K - K_S after 0, ..., k picks, where K_S = K[:, S] K[S, S]⁺ K[S, :].
    cost : float or None
        With `costs`: what the landmarks cost in all.

    Examples
    --------
    >>> import numpy as np, cssp
    >>> K = np.array([[4.0, 2.0, 0.0], [2.0, 2.0, 1.0], [0.0, 1.0, 3.0]])
    >>> sel = cssp.select_gram(K, 2)
    >>> sel.indices.tolist(), sel.mask().tolist(), round(sel.error, 3)
    ([0, 2], [True, False, True], 0.667)
    >>> F, T = sel.nystrom(), sel.coefficients()
    >>> bool(np.allclose(F @ F.T, sel.reconstruct())), bool(np.allclose(K[:, sel.indices] @ T, sel.reconstruct()))
    (True, True)
    """

    indices: Array
    method: str
    rank: int
    k: int
    options: Mapping[str, Any]
    entries: int
    errors: Array
    _F: np.ndarray
    _picks: tuple[int, ...]
    _full: bool
    _gram: Gram = field(repr=False)
    _like: Array | None
    cost: float | None = None

    @property
    def error(self) -> float:
        """Trace of K - K_S, which is its trace norm; of A with K = AᴴA it is the squared Frobenius error."""
        return float(self.errors[-1])

    @cached_property
    def relative_error(self) -> float:
        """`error` over the trace of K; 0 for a zero matrix."""
        return self.error / float(self.errors[0]) if self.errors[0] > 0 else 0.0

    @cached_property
    def _norms2(self) -> np.ndarray:
        """Diagonals of K and of K - K_S in the unit of `_gram`, shape (2, n)."""
        before = self._gram.diagonal
        left = np.maximum(before - np.sum(squares(self._F), axis=0), 0)
        if self._F.shape[0] == self.k:
            left[list(self._picks)] = 0
        return np.stack([before, left])

    @cached_property
    @default_floating_errors
    def residuals(self) -> Array:
        """Norms of the residuals of all columns of A with K = AᴴA, float64, shape (n,): the roots of the diagonal of K - K_S.

        Their squares add up to `error`.
        """
        return self._gather(np.ldexp(np.sqrt(self._norms2[1]), self._gram.exponent))

    @property
    def max_error(self) -> float:
        """The largest of `residuals` over the largest column norm of A, which is ``error_p(inf)``."""
        return self.error_p(math.inf)

    @default_floating_errors
    def error_p(self, p: float) -> float:
        """Return (Σ h_j^p)^(1/p) / (Σ ‖a_j‖^p)^(1/p) of A with K = AᴴA, where h_j are the `residuals`; 0 for a zero matrix.

        ``error_p(2)`` is the root of `relative_error`, which is a ratio of traces.

        Parameters
        ----------
        p : float
            From 1 to infinity.

        Raises
        ------
        CsspError
            p is less than 1, or no number.

        Examples
        --------
        >>> import numpy as np, cssp
        >>> s = cssp.select_gram(np.diag([4.0, 9.0, 1.0]), 1)
        >>> s.residuals.tolist(), round(s.max_error, 3), round(s.error_p(1), 3)
        ([2.0, 0.0, 1.0], 0.667, 0.5)
        """
        return relative_p_norm(self._norms2, as_exponent(p))

    def mask(self) -> Array:
        """Return the landmarks as a bool array (n,)."""
        mask = np.zeros(self._gram.n, dtype=bool)
        mask[list(self._picks)] = True
        return self._gather(mask)

    @default_floating_errors
    def nystrom(self) -> Array:
        """Return F (n, r) with F Fᴴ = K_S; r is less than k where landmarks are dependent."""
        return self._gather(shifted(self._F.conj().T, self._gram.exponent))

    @default_floating_errors
    def coefficients(self) -> Array:
        """Return T (k, n) = K[S, S]⁺ K[S, :], so that K_S = K[:, S] T."""
        L = self._F[:, list(self._picks)].conj().T  # K[S, S] = L Lᴴ
        if L.shape[0] == L.shape[1]:
            return self._gather(scipy.linalg.solve_triangular(L, self._F, trans="C", lower=True))
        return self._gather(np.linalg.pinv(L.conj().T) @ self._F)

    @default_floating_errors
    def reconstruct(self) -> Array:
        """Return K_S, shape (n, n)."""
        return self._gather(shifted(self._F.conj().T @ self._F, 2 * self._gram.exponent))

    @default_floating_errors
    def certificate(self) -> Certificate:
        """Compare with the best approximation of rank k and with the method's theorem.

        This forms the whole of K, and computes its eigenvalues. The certificate is about A with K = AᴴA: the squared Frobenius and
        spectral norms of its residual are the trace and the spectral norm of K - K_S, so that `Certificate.squared_error`
        is `error` here.
        """
        G, k, picks = self._gram, self.k, list(self._picks)
        K = np.concatenate([rows for _, rows in G.all_rows()])
        K = (K + K.conj().T) / 2
        values, V = np.linalg.eigh(K)
        values, V = np.maximum(values[::-1], 0), V[:, ::-1]
        noise = G.n * G.eps * float(values[0])
        error = float(np.ldexp(self.errors[-1], -2 * G.exponent))
        spread = float(np.max(np.abs(np.linalg.eigvalsh(K - self._F.conj().T @ self._F))))
        optimum, next_ = float(np.sum(values[k:])), float(values[k]) if k < G.n else 0.0
        law = METHODS[self.method].guarantee if self._full and self.rank == k else None
        size = (G.n, G.n, k)
        factor = promised(law.frobenius if law else None, size)
        spectral = promised(law.spectral if law else None, size)
        r = min(k, int(np.sum(values > noise)))
        least = float(np.linalg.svd(V[picks, :r], compute_uv=False)[-1]) if r else 1.0
        scale = 2.0 ** (2 * G.exponent)
        return Certificate(
            error=math.sqrt(error) * 2.0**G.exponent,
            squared_error=error * scale,
            squared_optimum=min(optimum, error) * scale,
            ratio=max(1.0, ratio_of(error, optimum, noise)),
            factor=factor,
            source=law.source if law and factor is not None else None,
            a_posteriori=1 / least**2 if least > 4 * G.n * float(np.finfo(np.float64).eps) else math.inf,
            rank=self.rank,
            holds=law.holds if law and (factor, spectral) != (None, None) else None,
            spectral_error=math.sqrt(spread) * 2.0**G.exponent,
            spectral_squared_error=spread * scale,
            spectral_squared_optimum=min(next_, spread) * scale,
            spectral_ratio=max(1.0, ratio_of(spread, next_, noise)),
            spectral_factor=spectral,
            spectral_source=law.source if law and spectral is not None else None,
            method=self.method,
            k=k,
            **self._max_norm(values, noise, law),
        )

    def _max_norm(self, values: np.ndarray, noise: float, law: Guarantee | None) -> dict[str, Any]:
        """Return the fields of `Certificate` about the largest residual norm of A."""
        G, k, left2 = self._gram, self.k, self._norms2[1]
        worst, C = int(np.argmax(left2)), None
        if worst not in self._picks:
            T = np.asarray([*self._picks, worst])
            lam, V = np.linalg.eigh(G.block(T, T))
            C = np.sqrt(np.maximum(lam, 0))[:, None] * V.conj().T  # CᴴC = K[T, T]
        largest = math.sqrt(float(left2[worst]))
        low, ratio = against_width(largest, np.sqrt(values), k, G.n, C, math.sqrt(noise))
        factor = law.largest(G.n, G.n, k) if law and law.largest else None
        scale = 2.0**G.exponent
        return {
            "max_error": largest * scale,
            "width": low * scale,
            "max_ratio": ratio,
            "max_factor": factor,
            "max_source": law.largest_source if law and factor is not None else None,
        }

    def __repr__(self) -> str:
        shown = np.array2string(np.asarray(self._picks), separator=", ", threshold=10)
        return f"GramSelection(method={self.method!r}, k={self.k}, rank={self.rank}, indices={shown})"

    def _gather(self, x: np.ndarray) -> Array:
        if self._like is None:
            return x
        xp = array_api_compat.array_namespace(self._like)
        return xp.asarray(x, device=array_api_compat.device(self._like))


def _record(
    K: Any,
    L: Cholesky,
    method: str,
    options: dict[str, Any],
    method_picks: tuple[int, ...],
    under: conditions.Conditions,
) -> GramSelection:
    G = L.G
    like = None
    if array_api_compat.is_array_api_obj(K):
        xp = array_api_compat.array_namespace(K)
        like = xp.empty((0,), device=array_api_compat.device(K))
    with np.errstate(over="ignore", under="ignore"):
        errors = np.ldexp(np.asarray(L.trace), 2 * G.exponent)
    picks = tuple(L.indices)
    row = METHODS[method]
    unchanged = method_picks == picks or (row.nested and method_picks[: len(picks)] == picks)
    fixed = L.goal < 0 or row.deterministic
    selection = GramSelection(
        indices=np.asarray(picks, dtype=np.int64),
        method=method,
        rank=L.rank,
        k=len(picks),
        options=options,
        entries=G.entries,
        errors=errors,
        _F=L.factor.copy(),
        _picks=picks,
        _full=unchanged
        and fixed
        and bool(L.candidates.all())
        and not under.constraints
        and under.costs is None,
        _gram=G,
        _like=like,
        cost=under.cost_of(np.asarray(picks, dtype=np.int64)),
    )
    for name in ("indices", "errors"):
        object.__setattr__(selection, name, selection._gather(getattr(selection, name)))
    return selection
