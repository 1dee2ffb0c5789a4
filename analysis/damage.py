"""Damage to kept state: each damaged checkpoint or state of a stream must be refused as a `CsspError`, or do no harm.

Checkpoints are taken at every stage of runs on dask arrays, sparse matrices and operators in four precisions, states of streams
at several lengths. Each is damaged in one of the ways of `analysis.corruptions`, and the run goes on from it. Then pairs of problems
that sums of column norms cannot tell apart: the checkpoint of one must not be taken for the other.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import aslinearoperator
from tqdm import tqdm

import cssp
from analysis import corruptions
from analysis.corruptions import Kept
from cssp import stream_state
from cssp.passes import checkpoint
from cssp.passes.fingerprint import fingerprint

ROWS, COLUMNS, PICKS = 40, 90, 30
DTYPES = (np.float32, np.float64, np.complex64, np.complex128)
OUTCOMES = ("refused", "harmless", "wrong", "escaped")


def chunked(A: np.ndarray, chunks: Any = (17, 40)) -> Any:
    """Return A as a dask array."""
    import dask.array as da

    return da.from_array(A, chunks=chunks)


STORAGES: tuple[Callable[[np.ndarray], Any], ...] = (chunked, sp.csc_array, aslinearoperator)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("--cases", type=int, default=2000, help="damaged files")
    parser.add_argument(
        "--pairs", type=int, default=200, help="pairs of problems that a weaker fingerprint confuses"
    )
    parser.add_argument("--seed", type=int, default=0)


def main(arguments: argparse.Namespace) -> int:
    """Print what became of the damaged files and of the pairs; 1 where one went wrong."""
    pairs, seed = arguments.pairs, arguments.seed
    counts = damaged(states(), arguments.cases, seed)
    width = max(map(len, counts)) + 2
    print("damage".ljust(width), *(name.rjust(9) for name in OUTCOMES))
    for name, line in counts.items():
        print(name.ljust(width), *(str(line[outcome]).rjust(9) for outcome in OUTCOMES))
    total = sum(counts.values(), Counter())
    print("all".ljust(width), *(str(total[outcome]).rjust(9) for outcome in OUTCOMES))
    confused = confusions(pairs, seed)
    print(f"\n{pairs} pairs alike in sums of column norms: {len(confused)} confused {' '.join(confused[:5])}")
    return int(total["wrong"] + total["escaped"] + len(confused) > 0)


def states() -> list[Kept]:
    """Return every file that is to be damaged."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.npz"
        return [*residual_runs(path), *streams(path)]


def damaged(kept: list[Kept], cases: int, seed: int = 0) -> dict[str, Counter[str]]:
    """Return the outcomes of so many damaged files, by the kind of damage."""
    rng = np.random.default_rng(seed)
    counts: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for i in tqdm(range(cases), disable=None):
            name, damage = corruptions.CORRUPTIONS[i % len(corruptions.CORRUPTIONS)]
            one, other = (kept[j] for j in rng.choice(len(kept), 2, replace=False))
            outcome, why = one.outcome(damage(one, other, rng), Path(folder) / "state.npz")
            counts.setdefault(name, Counter())[outcome] += 1
            if outcome in ("wrong", "escaped"):
                print(f"case {i} (seed {seed}), {name}, {one.kind}: {outcome} {why}")
    return counts


def residual_runs(path: Path) -> Iterator[Kept]:
    """Yield the checkpoints after every pass of runs on each storage in each precision."""
    rng = np.random.default_rng(1)
    fall = 0.7 ** np.arange(ROWS)[:, None]  # so steep that norms are formed anew, and precision is doubled
    for stored, dtype in itertools.product(STORAGES, DTYPES):
        A = (fall * _normal(rng, (ROWS, COLUMNS), dtype)).astype(dtype)
        resume = partial(_selected, stored(A), rng.uniform(0.5, 2, COLUMNS))
        files, keys, right = stages(path, resume)
        for content, key in zip(files, keys, strict=True):
            kept = Kept(checkpoint.KIND, content, key, resume, right)
            assert kept.outcome(content, path)[0] == "harmless"
            yield kept


def _selected(A: Any, weights: np.ndarray, path: Path) -> Any:
    sel = cssp.select(A, PICKS, include=[5, 3], exclude=[7], weights=weights, checkpoint=path)
    return sel.indices.tolist(), int(sel.rank)


def _normal(rng: np.random.Generator, shape: tuple[int, int], dtype: Any) -> np.ndarray:
    X = rng.standard_normal(shape)
    return X + 1j * rng.standard_normal(shape) if np.issubdtype(dtype, np.complexfloating) else X


def stages(path: Path, resume: Callable[[Path], Any]) -> tuple[list[bytes], list[bytes], Any]:
    """Return every file that a run writes, the keys of their digests, and what the run gives."""
    files, keys, save = [], [], checkpoint.State.save

    def kept(state: checkpoint.State, path: Path, p: Any) -> None:
        save(state, path, p)
        files.append(path.read_bytes())
        keys.append(fingerprint(p))

    path.unlink(missing_ok=True)
    with mock.patch.object(checkpoint.State, "save", kept):
        right = resume(path)
    return files, keys, right


def streams(path: Path) -> Iterator[Kept]:
    """Yield the states of streams of several lengths, methods and precisions."""
    rng = np.random.default_rng(2)
    for dtype in DTYPES:
        A = (0.9 ** np.arange(15)[:, None] * _normal(rng, (15, 200), dtype)).astype(dtype)
        for method in ("greedy", "residual", "strong_rrqr"):
            if method != "residual" and np.issubdtype(dtype, np.complexfloating):
                continue
            for seen in (3, 77, 150):
                stream = cssp.StreamingSelector(4, method=method, oversample=2, buffer=17, rng=5)
                stream.partial_fit(A[:, :seen]).save(path)
                resume = partial(_streamed, A[:, seen:])
                yield Kept(stream_state.KIND, path.read_bytes(), b"", resume, resume(path))


def _streamed(rest: np.ndarray, path: Path) -> Any:
    s = cssp.StreamingSelector.load(path).partial_fit(rest).selection()
    return s.indices.tolist(), s.bound, s.norm, s.error, s.rank


# --- pairs that a weaker fingerprint confuses ----------------------------------------------------------


def confusions(pairs: int, seed: int = 0) -> list[str]:
    """Return the pairs of which the checkpoint of one was taken for the other, or refused for itself in other chunks."""
    rng, found = np.random.default_rng(seed), []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.npz"
        for i in tqdm(range(pairs), disable=None):
            name, make = list(PAIRS.items())[i % len(PAIRS)]
            stored = STORAGES[i // len(PAIRS) % len(STORAGES)]
            (A, given), (B, others) = make(rng)
            assert weak(A, given) == weak(B, others), name
            path.unlink(missing_ok=True)
            right = cssp.select(stored(A), 4, checkpoint=path, **given).indices.tolist()
            again = cssp.select(chunked(A, (5, 7)), 4, checkpoint=path, **given).indices.tolist()
            try:
                cssp.select(stored(B), 4, checkpoint=path, **others)
                found.append(name)
            except cssp.CsspError:
                found += [f"{name} (itself)"] if again != right else []
    return found


def weak(A: np.ndarray, given: dict[str, Any]) -> list[float]:
    """Return shape, arguments and sums of column norms: the fingerprint of earlier releases."""
    A = (A * given.get("weights", 1.0))[:, given.get("valid", slice(None))]
    norms2 = np.sum(np.abs(A.astype(np.complex128)) ** 2, axis=0)
    order, include = np.arange(1, A.shape[1] + 1), given.get("include", [])
    free = np.setdiff1d(np.arange(A.shape[1]), [*include, *given.get("exclude", [])])
    sums = [norms2.sum(), (norms2 * order).sum(), float(np.sum(free))]
    return [*A.shape, float(len(include)), float(sum(include)), *sums]


def _signs(rng: np.random.Generator, m: int = 16, n: int = 20) -> np.ndarray:
    """Return ±1: columns of one norm, in exact arithmetic."""
    return rng.choice([-1.0, 1.0], (m, n))


def _one_sign(rng: np.random.Generator) -> Any:
    A = _signs(rng)
    B = A.copy()
    B[rng.integers(16), rng.integers(20)] *= -1
    return (A, {}), (B, {})


def _both(make: Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]) -> Callable[..., Any]:
    return lambda rng: tuple((X, {}) for X in make(rng))


def _arguments(one: dict[str, Any], two: dict[str, Any]) -> Callable[..., Any]:
    def make(rng: np.random.Generator) -> Any:
        A = _signs(rng)
        return (A, one), (A, two)

    return make


def _integers(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(-4, 5, (16, 20)).astype(float)


#: Pairs of problems of one shape whose columns have the same norms.
PAIRS: dict[str, Callable[[np.random.Generator], Any]] = {
    "two of ±1": _both(lambda rng: (_signs(rng), _signs(rng))),
    "one sign": _one_sign,
    "columns in another order": _both(lambda rng: ((A := _signs(rng)), A[:, rng.permutation(20)])),
    "rows in another order": _both(lambda rng: ((A := _integers(rng)), A[rng.permutation(16)])),
    "entries in another order": _both(lambda rng: ((A := _integers(rng)), rng.permuted(A, axis=0))),
    "negated": _both(lambda rng: ((A := _integers(rng)), -A)),
    "transposed": _both(lambda rng: ((A := _signs(rng, 18, 18)), A.T.copy())),
    "conjugated": _both(lambda rng: ((A := _signs(rng) + 1j * _signs(rng)), A.conj())),
    "times i": _both(lambda rng: ((A := _signs(rng) + 1j * _signs(rng)), 1j * A)),
    "real and complex": _both(lambda rng: ((A := _signs(rng)), A.astype(complex))),
    "single and double": _both(lambda rng: ((A := _signs(rng)), A.astype(np.float32))),
    "one-hot": _both(lambda rng: tuple(np.eye(16)[:, rng.integers(0, 16, 20)] for _ in range(2))),
    "include in another order": _arguments({"include": [1, 2]}, {"include": [2, 1]}),
    "include of one sum": _arguments({"include": [1, 4]}, {"include": [2, 3]}),
    "exclude of one sum": _arguments({"exclude": [1, 4]}, {"exclude": [2, 3]}),
    "valid": _arguments({"valid": np.arange(20) > 0}, {"valid": np.arange(20) < 19}),
    "weights": _arguments(
        {"weights": [1, 2, 1, 1, 2, 1] + 14 * [1]}, {"weights": [1, 1, 2, 2, 1, 1] + 14 * [1]}
    ),
}
