"""The matrices on which claims are tried, and what is computed anew from a selection, from the definitions.

A statement is an inequality error ≤ bound between squared quantities. On an instance it scores

    (√error - slack)₊² / bound,     slack = 30·max(m, n)·ε·‖A‖₂,

which is at most 1 exactly where √error ≤ √bound + slack.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

import cssp
from cssp import RankDeficientWarning, bounds
from cssp.matrices import MATRICES

EPS = float(np.finfo(float).eps)


@dataclass(frozen=True)
class Instance:
    """A matrix, k, and weights; all statements are about X = A·diag(w)."""

    name: str
    A: np.ndarray
    k: int
    w: np.ndarray | None = None

    @cached_property
    def X(self) -> np.ndarray:
        """The weighted matrix A·diag(w)."""
        return self.A if self.w is None else self.A * self.w

    @cached_property
    def svd(self) -> tuple[np.ndarray, np.ndarray]:
        """All n singular values, zeros included, and V (n, min(m, n))."""
        _, s, Vh = np.linalg.svd(self.X, full_matrices=False)
        return np.append(s, np.zeros(self.n - s.size)), Vh.T

    @property
    def m(self) -> int:
        """Number of rows."""
        return self.A.shape[0]

    @property
    def n(self) -> int:
        """Number of columns."""
        return self.A.shape[1]

    @property
    def s(self) -> np.ndarray:
        """Singular values of X."""
        return self.svd[0]

    @cached_property
    def slack(self) -> float:
        """Rounding to be allowed for, in the unit of X."""
        return 30 * max(self.m, self.n) * EPS * float(self.s[0])

    def optimum(self, r: int) -> float:
        """Return OPT_r."""
        return float(np.sum(self.s[r:] ** 2))

    @property
    def has_rank_k(self) -> bool:
        """Whether k columns can be independent, beyond doubt by rounding: what every theorem here assumes."""
        return bool(self.s[self.k - 1] > 2 * self.slack)

    @property
    def has_gap(self) -> bool:
        """Whether V_k is determined."""
        return bool(self.k == self.n or self.s[self.k - 1] - self.s[self.k] > 1e-6 * self.s[0])

    def score(self, error: float, bound: float, slack: float | None = None) -> float:
        """Return a number of at most 1 where the inequality holds up to rounding."""
        above = max(0.0, math.sqrt(max(error, 0.0)) - (self.slack if slack is None else slack))
        return 0.0 if above == 0 else above**2 / bound if bound > 0 else math.inf

    def residual(self, S) -> np.ndarray:
        """Return X - P_S X by SVD of the normalised columns, directions of rounding size left out, projected twice."""
        C = self.X[:, list(S)]
        norms = np.linalg.norm(C, axis=0)
        C = C[:, norms > 0] / norms[norms > 0]
        U, s, _ = np.linalg.svd(C, full_matrices=False)
        U = U[:, s > max(self.m, self.n) * EPS]
        E = self.X - U @ (U.T @ self.X)
        return E - U @ (U.T @ E)

    def F(self, S) -> float:
        """Return ‖X - P_S X‖_F²."""
        return float(np.sum(self.residual(S) ** 2))

    def T(self, S) -> float:
        """Return ‖X - P_S X‖₂²."""
        return float(np.linalg.norm(self.residual(S), 2) ** 2)

    @property
    def V_k(self) -> np.ndarray:
        """The first k right singular vectors, shape (n, k)."""
        return self.svd[1][:, : self.k]

    def oblique(self, J) -> float:
        """Return ‖X - X_J V_J⁻ᵀVᵀ‖_F², V = V_k."""
        J = list(J)
        if np.linalg.matrix_rank(self.V_k[J]) < self.k:
            return math.inf
        return float(np.sum((self.X - self.X[:, J] @ np.linalg.solve(self.V_k[J].T, self.V_k.T)) ** 2))

    def volume2(self, S) -> float:
        """Return det(X_SᵀX_S)."""
        return float(np.prod(np.linalg.svd(self.X[:, list(S)], compute_uv=False)) ** 2)


def stream(seed: int, largest: int, most: int | None) -> Iterator[Instance]:
    """Yield all families of `cssp.matrices` in turn and random matrices between them, for ever.

    Every third one with weights over four decades, every third one with columns permuted and rows rotated.

    Parameters
    ----------
    largest : int
        m and n are at most this.
    most : int, optional
        So is k.
    """
    rng = np.random.default_rng(seed)
    kinds = itertools.cycle([*MATRICES, "", ""])
    for i in itertools.count():
        kind = next(kinds)
        for _ in range(50):
            m, n = (int(x) for x in rng.integers(1, largest + 1, 2))
            k = int(rng.integers(1, min(m, n, most or n) + 1))
            if not kind or MATRICES[kind].fits(m, n, k):
                break
        else:
            continue
        A = MATRICES[kind](m, n, k, rng) if kind else _random(m, n, rng)
        if not A.any():
            continue
        name, w = kind or "random", None
        turn = (i + i // (len(MATRICES) + 2)) % 3  # every family meets all three
        if turn == 1:
            w, name = 10 ** rng.uniform(-2, 2, n), name + ", weighted"
        elif turn == 2:
            Q, _ = np.linalg.qr(rng.standard_normal((m, m)))
            A, name = Q @ A[:, rng.permutation(n)], name + ", rotated"
        yield Instance(f"{name} {m}x{n} k={k}", A, k, w)


def _random(m: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return random spectrum, random alignment, random scales of columns."""
    s = 10 ** -np.sort(rng.uniform(0, rng.choice([0.5, 3, 8]), min(m, n)))
    A = cssp.matrices.with_spectrum(s, m, n, rng)
    if rng.random() < 0.5:
        A = A * 10 ** rng.uniform(-3, 3, n)
    if rng.random() < 0.3:  # nearly equal columns
        A[:, rng.integers(n)] = A[:, rng.integers(n)] + 1e-6 * rng.standard_normal(m)
    return A


_STREAMS: dict[tuple, tuple[Iterator[Instance], list[Instance]]] = {}


def instances(seed: int, largest: int = 10, most: int | None = None) -> Iterator[Instance]:
    """Yield `stream`, each instance being made once and kept, so that all methods meet the same ones."""
    source, made = _STREAMS.setdefault((seed, largest, most), (stream(seed, largest, most), []))
    for i in itertools.count():
        if i == len(made):
            made.append(next(source))
        yield made[i]


def chosen(at: Instance, method: str, options: dict, rng: int | None = None) -> tuple[list[int], bool]:
    """Return the picks of `cssp.select`, and whether it warned that k exceeds the rank."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RankDeficientWarning)
        S = cssp.select(at.A, at.k, method, weights=at.w, rng=rng, **options).indices
    return [int(j) for j in S], bool(caught)


@dataclass(frozen=True)
class Run:
    """An instance, the columns chosen, and what follows from them."""

    at: Instance
    S: list[int]
    method: str
    options: dict
    rng: int | None = None

    @cached_property
    def E(self) -> np.ndarray:
        """The residual X - P_S X."""
        return self.at.residual(self.S)

    @property
    def F(self) -> float:
        """The squared Frobenius norm of the residual."""
        return float(np.sum(self.E**2))

    @cached_property
    def T(self) -> float:
        """The squared spectral norm of the residual."""
        return float(np.linalg.norm(self.E, 2) ** 2)

    @cached_property
    def a_posteriori(self) -> float:
        """The factor that the picks allow, `cssp.bounds.a_posteriori`."""
        return bounds.a_posteriori(self.at.V_k[self.S])

    @cached_property
    def R(self) -> np.ndarray:
        """R of the QR factorisation with S in front."""
        rest = [j for j in range(self.at.n) if j not in self.S]
        return np.asarray(np.linalg.qr(self.at.X[:, self.S + rest], mode="r"))

    def prefixes(self) -> Iterator[tuple[int, list[int]]]:
        """Yield t and the first t picks, for t = 0, ..., k - 1."""
        for t in range(self.at.k):
            yield t, self.S[:t]
