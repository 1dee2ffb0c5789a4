"""``python -m analysis dependence``: what every method does where columns tie or depend on each other, and what that costs.

Correctness: matrices with orthonormal rows (cosines, Legendre polynomials, POD and PCA modes), on which all gains tie, and
matrices with dependent columns, through every method. Cost: processor time of dependent columns beside independent ones.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse as sp

import cssp
from cssp.pivoting import FEW, MANY

#: Rows and columns of the matrices with orthonormal rows.
SIZES = ((5, 40), (8, 100), (12, 400), (20, 250), (30, 300), (40, 1000), (50, 2000))

#: `exact` is asked up to this many columns.
SMALL = 40


def cosines(r: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return r random cosines at n points, as rows of length one, shape (r, n)."""
    x = (np.arange(n) + 0.5) / n
    B = np.cos(np.pi * np.arange(r)[:, None] * x)
    return B / np.linalg.norm(B, axis=1, keepdims=True)


def legendre(r: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return an orthonormal basis of the first r Legendre polynomials at n points, shape (r, n)."""
    return np.linalg.qr(np.polynomial.legendre.legvander(np.linspace(-1, 1, n), r - 1))[0].T


def pod(r: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return the modes of pulses of random place and width."""
    x, place, width = np.linspace(0, 1, n), rng.random((3 * r, 1)), 0.02 + 0.2 * rng.random((3 * r, 1))
    return np.linalg.svd(np.exp(-(((x - place) / width) ** 2)), full_matrices=False)[2][:r]


def pca(r: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return r principal directions of random data with n features, shape (r, n)."""
    X = rng.standard_normal((max(3 * r, n // 4), n)) * np.exp(-3 * np.linspace(0, 1, n))
    return np.linalg.svd(X - X.mean(axis=0), full_matrices=False)[2][:r]


KINDS: dict[str, Callable[[int, int, np.random.Generator], np.ndarray]] = {
    "cosines": cosines,
    "Legendre": legendre,
    "POD": pod,
    "PCA": pca,
}


def orthonormal_rows(count: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield that many matrices of the four kinds, sizes in turn."""
    for i in range(count):
        kind = list(KINDS)[i % 4]
        yield kind, KINDS[kind](*SIZES[i // 4 % len(SIZES)], np.random.default_rng(i))


def rank_of(C: np.ndarray, floor: float) -> int:
    """Return the pivots of LAPACK's column-pivoted QR above the threshold."""
    R = scipy.linalg.qr(C, mode="r", pivoting=True)[0]
    return int(np.count_nonzero(np.abs(np.diagonal(R)) > floor))


def faults(A: np.ndarray, sel: cssp.Selection, slack: float = 1.25) -> list[str]:
    """Return the faults of a selection of A: dependent picks, rank, coefficients.

    A rank is compared at the library's threshold; one that a change of it by the factor ``slack`` would change is no fault.
    """
    S, (m, n) = np.asarray(sel.indices), A.shape
    wide = A.astype(np.complex128 if A.dtype.kind == "c" else np.float64)
    C = wide[:, S]
    floor = (
        max(FEW, m, min(n, MANY)) * float(np.finfo(A.dtype).eps) * float(np.linalg.norm(wide, axis=0).max())
    )
    low, high = rank_of(C, floor * slack), rank_of(C, floor / slack)
    found, there = [], rank_of(wide, floor * slack)
    if high < min(S.size, there):
        found.append(f"{high} independent columns of {S.size} where there are {there}")
    if not low <= int(sel.rank) <= high:
        found.append(f"rank {sel.rank}, not {low}")
    rounding = 1e3 * max(m, n) * float(np.finfo(A.dtype).eps)
    left = np.linalg.norm(wide - C @ np.asarray(sel.coefficients())) / np.linalg.norm(wide)
    best = np.linalg.norm(wide - C @ np.linalg.lstsq(C, wide, rcond=None)[0]) / np.linalg.norm(wide)
    if not left <= 1.01 * best + rounding:
        found.append(f"coefficients leave {left:.1e}, least squares {best:.1e}")
    return found


def correctness(count: int) -> int:
    """Try every method on matrices with orthonormal rows, in double and single precision; return the number of faults."""
    total = {name: [0, 0] for name in cssp.METHODS}
    for kind, B in orthonormal_rows(count):
        r, n = B.shape
        for name in cssp.METHODS:
            if name == "exact" and n > SMALL:
                continue
            for k in (max(1, r // 2), r):
                for A in (B, B.astype(np.float32)):
                    wrong = faults(A, cssp.select(A, k, name, rng=0))
                    total[name][0] += 1
                    total[name][1] += bool(wrong)
                    for line in wrong:
                        print(f"{name}, {kind} {r} x {n}, k = {k}, {A.dtype}: {line}")
    print(f"{'method':20} {'runs':>6} {'faults':>7}")
    for name, (runs, faulty) in total.items():
        print(f"{name:20} {runs:6} {faulty:7}")
    return sum(faulty for _, faulty in total.values())


def one_hot(m: int, levels: tuple[int, ...], rng: np.random.Generator) -> sp.csc_array:
    """Return the indicator columns of categorical variables with so many levels each."""
    start = np.cumsum((0, *levels[:-1]))
    columns = np.concatenate([a + rng.integers(0, size, m) for a, size in zip(start, levels, strict=True)])
    rows = np.tile(np.arange(m), len(levels))
    return sp.csc_array((np.ones(columns.size), (rows, columns)), shape=(m, sum(levels)))


def seconds(f: Callable[[], Any], repeats: int = 3) -> tuple[float, Any]:
    """Return the least processor time of some calls, and the answer of the last."""
    times, answer = [], None
    for _ in range(repeats):
        start = time.process_time()
        answer = f()
        times.append(time.process_time() - start)
    return min(times), answer


def cost(full: bool) -> None:
    """Print the processor time of dependent columns beside independent ones, LAPACK's QR and the Gram way."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((10_000, 400))
    copy, sums = X.copy(), X.copy()
    copy[:, -1] = copy[:, 0]
    for i in range(10):
        sums[:, 40 * i + 39] = sums[:, 40 * i : 40 * i + 5].sum(axis=1)
    D = one_hot(20_000, (200, 150, 100, 3), rng)
    E = rng.standard_normal(D.shape)
    print(
        f"\n{'processor seconds':34} {'residual':>9} {'ratio':>6} {'pivoted_qr':>11} {'ratio':>6} {'scipy qr':>9} {'rank':>6}"
    )
    base: dict[tuple[str, int], float] = {}
    for name, A in (
        ("10,000 x 400, independent", X),
        ("10,000 x 400, a copy", copy),
        ("10,000 x 400, ten sums", sums),
        ("20,000 x 453, independent", E),
        ("20,000 x 453, one-hot, dense", D.toarray()),
    ):
        n, cells = A.shape[1], []
        for method in ("residual", "pivoted_qr"):
            t, sel = seconds(lambda A=A, n=n, method=method: cssp.select(A, n, method, deficient="truncate"))
            cells += [t, t / base.setdefault((method, n), t)]
        lapack, _ = seconds(lambda A=A: scipy.linalg.qr(A, mode="r", pivoting=True))
        print(
            f"{name:34} {cells[0]:9.2f} {cells[1]:6.1f} {cells[2]:11.2f} {cells[3]:6.1f} {lapack:9.2f} {sel.rank:6}"
        )
    shapes = [("20,000 x 453, one-hot, sparse", D)]
    if full:
        shapes.append(("200,000 x 2,053, one-hot, sparse", one_hot(200_000, (1000, 1000, 53), rng)))
    print(
        f"\n{'processor seconds':34} {'k = n':>7} {'tol = 1e-8':>11} {'error':>7} {'Gram way':>9} {'rank':>6}"
    )
    for name, S in shapes:
        n = S.shape[1]
        t, sel = seconds(lambda S=S, n=n: cssp.select(S, n, deficient="truncate"), 1)
        tight, _ = seconds(lambda S=S: cssp.select(S, tol=1e-8), 1)
        error, _ = seconds(lambda sel=sel: sel.relative_error, 1)
        gram, _ = seconds(lambda S=S, n=n: cssp.select_gram((S.T @ S).toarray(), n), 1)
        print(f"{name:34} {t:7.2f} {tight:11.2f} {error:7.2f} {gram:9.2f} {sel.rank:6}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("--matrices", type=int, default=200, help="matrices with orthonormal rows")
    parser.add_argument("--full", action="store_true", help="200,000 x 2,053 one-hot as well")


def main(arguments: argparse.Namespace) -> int:
    """Print the number of faults and the cost of dependent columns; return 1 where there is a fault."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", cssp.RankDeficientWarning)
        wrong = correctness(arguments.matrices)
        cost(arguments.full)
    return int(wrong > 0)
