"""`MATRICES`: every family through one call (m, n, k, rng), so that a guarantee can be tried on all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cssp.matrices import adversarial as adv
from cssp.matrices import spectra, suite
from cssp.matrices.spectra import Matrix, Rng, check_size

Build = Callable[[int, int, int, np.random.Generator], Matrix]


@dataclass(frozen=True)
class Family:
    """A family of matrices, built by the same call as every other.

    Attributes
    ----------
    name : str
    build : callable
        (m, n, k, generator) to an array that fits inside m x n; it is padded with zero rows and columns.
    needs : str
        What (m, n, k) it needs beyond m >= 1 and 1 <= k <= n, in words; "" for nothing.
    fits : callable
        ``fits(m, n, k)``: whether `needs` is met.
    separates : str
        Which methods, or which claims, the family shows to differ.
    """

    name: str
    build: Build
    separates: str
    needs: str = ""
    fits: Callable[[int, int, int], bool] = lambda m, n, k: True

    def __call__(self, m: int, n: int, k: int, rng: Rng = None) -> Matrix:
        """Return the m x n member of the family made for selecting k columns; ValueError where it does not exist."""
        m, n, k = check_size("m", m), check_size("n", n), check_size("k", k)
        if k > n:
            raise ValueError(f"k must be at most n = {n}, got {k}")
        if not self.fits(m, n, k):
            raise ValueError(f"{self.name} needs {self.needs}, got m = {m}, n = {n}, k = {k}")
        A = self.build(m, n, k, np.random.default_rng(rng))
        return np.pad(A, ((0, m - A.shape[0]), (0, n - A.shape[1])))


def _kahan_angle(order: int, decades: float = 10.0) -> float:
    """Return the angle at which s^order is 10^-decades, at least 5e-3: graded, yet above rounding."""
    return max(5e-3, float(np.arcsin(10.0 ** (-decades / max(1, order)))))


def _rank_k_plus(m: int, n: int, k: int, g: np.random.Generator, tail: float) -> Matrix:
    """Return the singular values 1 .. 0.5 up to k, then `tail` decaying slowly."""
    p = min(m, n)
    s = np.concatenate([np.linspace(1.0, 0.5, min(k, p)), tail * 0.9 ** np.arange(max(0, p - k))])
    return spectra.with_spectrum(s, m, n, g)


def _on_basis(basis: Callable[..., Matrix]) -> Build:
    """Return the top k right singular vectors from `basis`, singular values 1, the tail 0.1 in the complement."""

    def build(m: int, n: int, k: int, g: np.random.Generator) -> Matrix:
        V = basis(n, k, g)
        rest = np.linalg.svd(V)[0][:, k : min(m, n)]
        s = np.concatenate([np.ones(k), np.full(rest.shape[1], 0.1)])
        return spectra.aligned(s, np.hstack([V, rest]), m, g)

    return build


def _low_rank(m: int, n: int, k: int, g: np.random.Generator) -> Matrix:
    r = max(1, k // 2)
    return g.standard_normal((m, r)) @ g.standard_normal((r, n))


def _duplicates(m: int, n: int, k: int, g: np.random.Generator) -> Matrix:
    distinct = g.standard_normal((m, max(1, n // 2)))
    return distinct[:, g.integers(0, distinct.shape[1], n)]


def _multi_peak(m: int, n: int, k: int, g: np.random.Generator) -> Matrix:
    blocks = 2 if k + 3 <= min(m, n) else 1
    return adv.multi_peak((k, 1)[:blocks], (1.0, 1e-3)[:blocks])


def _square(build: Callable[[int], Matrix]) -> Build:
    return lambda m, n, k, g: build(min(m, n))


_FAMILIES = [
    Family("gaussian", lambda m, n, k, g: g.standard_normal((m, n)), "nothing: a baseline"),
    Family(
        "kahan",
        lambda m, n, k, g: adv.kahan(min(m, n), max(0.3, _kahan_angle(min(m, n)))),
        "pivoted QR from strong RRQR",
    ),
    Family(
        "duplicated_tail_kahan",
        lambda m, n, k, g: adv.duplicated_tail_kahan(n, k, _kahan_angle(k, 8.0), nudge=1e-7),
        "attains the pivoted-QR constant",
        "m >= k + 1 and n >= k + 1",
        lambda m, n, k: min(m, n) > k,
    ),
    Family(
        "simplex",
        lambda m, n, k, g: adv.simplex(k),
        "every k-subset sits at k + 1",
        "m >= k + 1 and n >= k + 1",
        lambda m, n, k: min(m, n) > k,
    ),
    Family(
        "multi_peak",
        _multi_peak,
        "a peak of the ratio at k, a valley after it",
        "m >= k + 1 and n >= k + 1",
        lambda m, n, k: min(m, n) > k,
    ),
    Family(
        "star",
        lambda m, n, k, g: adv.star(n, 0.1),
        "spectral factor n/r is unavoidable",
        "m >= n + 1",
        lambda m, n, k: m > n,
    ),
    Family("gks", _square(adv.gks), "tie-breaking and pivoting at all"),
    Family(
        "block_kahan",
        lambda m, n, k, g: adv.block_kahan(k),
        "strong RRQR from Hybrid RRQR",
        "2 <= k <= min(m, n) - 2",
        lambda m, n, k: 2 <= k <= min(m, n) - 2,
    ),
    Family(
        "gain_greedy_killer",
        lambda m, n, k, g: adv.gain_greedy_killer((n - 1) // 2),
        "gain-greedy from pivoted QR (at k = 2)",
        "m >= 3 and n >= 3",
        lambda m, n, k: m >= 3 and n >= 3,
    ),
    Family(
        "basis_only_killer",
        lambda m, n, k, g: adv.basis_only_killer(spectra.incoherent(n, k, g)),
        "rules that see V only from those that see A",
        "m >= k + 1 and n >= k + 1",
        lambda m, n, k: min(m, n) > k,
    ),
    Family(
        "leverage_killer",
        lambda m, n, k, g: adv.leverage_killer(n, k, share=0.4),
        "attains the deterministic-leverage bound",
        "m >= k + 1 and n >= k + 1",
        lambda m, n, k: min(m, n) > k,
    ),
    Family(
        "coherent",
        _on_basis(spectra.coherent),
        "uniform sampling from leverage scores",
        "m >= k",
        lambda m, n, k: m >= k,
    ),
    Family(
        "incoherent",
        _on_basis(spectra.incoherent),
        "leverage scores from uniform sampling (no difference)",
        "m >= k",
        lambda m, n, k: m >= k,
    ),
    Family(
        "spiky",
        _on_basis(spectra.spiky),
        "top leverage scores from rank-revealing rules",
        "m >= k",
        lambda m, n, k: m >= k,
    ),
    Family("graded", lambda m, n, k, g: spectra.graded(m, n, g), "naive norm downdating"),
    Family("low_noise", lambda m, n, k, g: _rank_k_plus(m, n, k, g, 1e-6), "a sharp gap after k"),
    Family("high_noise", lambda m, n, k, g: _rank_k_plus(m, n, k, g, 0.4), "no gap after k"),
    Family("low_rank", _low_rank, "k above the rank: no zero pivot, no duplicates"),
    Family("duplicates", _duplicates, "ties between equal columns"),
    Family("identity", lambda m, n, k, g: np.eye(min(m, n)), "all ties"),
    Family("break1", lambda m, n, k, g: suite.break1(m, n, g), "one small singular value"),
    Family(
        "break9",
        lambda m, n, k, g: suite.break9(m, n, g),
        "nine small singular values",
        "min(m, n) >= 10",
        lambda m, n, k: min(m, n) >= 10,
    ),
    Family(
        "devils_stairs",
        lambda m, n, k, g: suite.devils_stairs(m, n, g, length=max(1, min(m, n) // 6)),
        "many small gaps",
    ),
    Family(
        "hc",
        lambda m, n, k, g: suite.hc(m, n, g),
        "two large values far above the rest",
        "min(m, n) >= 3",
        lambda m, n, k: min(m, n) >= 3,
    ),
    Family("exponential", lambda m, n, k, g: suite.exponential(m, n, g), "steady decay"),
    Family("polynomial", lambda m, n, k, g: suite.polynomial(m, n, g), "slow decay"),
    Family(
        "step",
        lambda m, n, k, g: suite.step(m, n, g, rank=k),
        "a cliff exactly at k",
    ),
    Family("spiked", lambda m, n, k, g: suite.spiked(m, n, g), "uniform from norm and leverage sampling"),
    Family("foxgood", _square(suite.foxgood), "ill-posed, smooth, symmetric"),
    Family("baart", _square(suite.baart), "numerical rank of about ten"),
    Family("heat", _square(suite.heat), "ill-posed, triangular"),
]

#: Name -> `Family`; each is called as ``MATRICES[name](m, n, k, rng)``.
MATRICES: dict[str, Family] = {family.name: family for family in _FAMILIES}
