"""Who is timed: the floors, our methods, other libraries and the loops of published pruners."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import cssp
from analysis.benchmarks import peers
from analysis.benchmarks.inputs import Size
from cssp.linalg import gram

__all__ = ["GRAM", "IMPLEMENTATIONS", "PRODUCTS", "RESIDUAL", "SCIPY", "STEPS", "TEXTBOOK", "Implementation"]

PRODUCTS, GRAM, STEPS = "k products Aᵀq", "one Gram product AᵀA", "one Gram product and k steps on it"
RESIDUAL, TEXTBOOK, SCIPY = "residual", "residual, speculate=False", "scipy.linalg.qr(pivoting)"


@dataclass(frozen=True)
class Implementation:
    """Something to time.

    prepare(A, k)
        What is not timed (layout, precision, tensors); gives a function without arguments, whose result is the picks:
        an array (k,) or (B, k), or a list of arrays (k,). A is (m, n) or a batch (B, m, n).
    cost(m, n, k)
        Operations of one item to leading order: foretells the time from that of a smaller matrix.
    group
        "floor", "ours", "peer" or "loop" (a published pruner's).
    """

    name: str
    group: str
    prepare: Callable[[np.ndarray, int], Callable[[], Any]]
    cost: Callable[[int, int, int], float]
    needs: str = "numpy"
    suits: Callable[[Size], bool] = lambda size: True

    def installed(self) -> bool:
        """Return whether its library is installed."""
        return importlib.util.find_spec(self.needs) is not None


def _items(A: np.ndarray) -> np.ndarray:
    return A if A.ndim == 3 else A[None]


def _products(A: np.ndarray, k: int) -> Callable[[], Any]:
    q = np.random.default_rng(0).standard_normal((k, A.shape[-2])).astype(A.dtype)

    def run() -> None:
        for X in _items(A):
            for row in q:
                X.T @ row

    return run


def _gram(A: np.ndarray, k: int) -> Callable[[], Any]:
    def run() -> None:
        for X in _items(A):
            gram(X)

    return run


def _steps(A: np.ndarray, k: int) -> Callable[[], Any]:
    """Return pivoted Cholesky on the Gram matrix, with no thought for rounding: its picks need not be right."""

    def run() -> None:
        for X in _items(A):
            G = gram(X)
            R, left = np.empty((k, len(G)), G.dtype), G.diagonal().copy()
            for t in range(k):
                j = int(left.argmax())
                R[t] = G[j] - R[:t, j] @ R[:t]
                R[t] /= np.sqrt(max(left[j], np.finfo(G.dtype).tiny))
                left -= R[t] ** 2
                left[j] = -np.inf

    return run


def _select(A: np.ndarray, k: int, method: str = "residual", **options) -> Callable[[], Any]:
    return lambda: cssp.select(A, k, method, **options).indices


def _separately(A: np.ndarray, k: int) -> Callable[[], Any]:
    return lambda: [cssp.select(X, k).indices for X in A]


def _tensor(A: np.ndarray, k: int, method: str = "residual") -> Callable[[], Any]:
    import torch

    T = torch.from_numpy(A)
    return lambda: cssp.select(T, k, method).indices.numpy()


def _peer(A: np.ndarray, k: int, routine: Callable, double: bool = False) -> Callable[[], Any]:
    X = _items(A.astype(np.float64) if double else A)
    return lambda: [np.asarray(routine(x, k)[0]) for x in X]


def _loop(A: np.ndarray, k: int, rule: str) -> Callable[[], Any]:
    """Return the tokens as rows, which is how the pruners have them; deflation takes columns."""
    import torch

    from analysis.benchmarks import published

    tokens = torch.from_numpy(np.ascontiguousarray(np.moveaxis(_items(A), 2, 1)))
    one = torch.ones(tokens.shape[:2])
    columns = torch.from_numpy(_items(A))
    return {
        "cdpruner": lambda: published.cdpruner(tokens, one, k).numpy(),
        "divprune": lambda: [published.divprune(x, k).numpy() for x in tokens],
        "deflation": lambda: published.deflation(columns, k).numpy(),
    }[rule]


def _mnk(m: int, n: int, k: int) -> float:
    return m * n * k


def _svd(m: int, n: int, k: int) -> float:
    return m * n * min(m, n)


def _kernel(m: int, n: int, k: int) -> float:
    return m * n * n + n * k * k


def _numerical(size: Size) -> bool:
    return size.numerical


def _tokens(size: Size) -> bool:
    return not size.numerical


def _batch(size: Size) -> bool:
    return size.batch > 1


def _ours(method: str, cost: Callable[[int, int, int], float]) -> Implementation:
    """Return a method that belongs to numerical analysis."""
    options: dict[str, Any] = {} if cssp.METHODS[method].deterministic else {"rng": 0}
    return Implementation(method, "ours", partial(_select, method=method, **options), cost, suits=_numerical)


IMPLEMENTATIONS = (
    Implementation(PRODUCTS, "floor", _products, _mnk),
    Implementation(GRAM, "floor", _gram, _kernel),
    Implementation(STEPS, "floor", _steps, _kernel),
    Implementation(RESIDUAL, "ours", _select, _mnk),
    Implementation("residual, one by one", "ours", _separately, _mnk, suits=_batch),
    Implementation(TEXTBOOK, "ours", partial(_select, speculate=False), _mnk),
    Implementation("residual, torch", "ours", _tensor, _mnk, "torch"),
    Implementation("greedy", "ours", partial(_select, method="greedy"), _svd),
    _ours("random_pivot", _mnk),
    _ours("sketched_qr", _mnk),
    _ours("strong_rrqr", _mnk),
    _ours("leverage", _svd),
    _ours("volume", _svd),
    _ours("osinsky", _svd),
    Implementation(SCIPY, "peer", partial(_peer, routine=peers.scipy_qr), _svd, "scipy"),
    Implementation(
        "scipy interp_decomp", "peer", partial(_peer, routine=peers.interp_decomp, double=True), _mnk, "scipy"
    ),
    Implementation(
        "linear_operator pivoted_cholesky",
        "peer",
        partial(_peer, routine=peers.pivoted_cholesky),
        _kernel,
        "linear_operator",
    ),
    Implementation("scikit-matter CUR", "peer", partial(_peer, routine=peers.cur), _mnk, "skmatter"),
    Implementation("scikit-matter FPS", "peer", partial(_peer, routine=peers.fps), _mnk, "skmatter"),
    Implementation("pysensors CCQR", "peer", partial(_peer, routine=peers.ccqr), _svd, "pysensors"),
    Implementation(
        "fastcan", "peer", partial(_peer, routine=peers.fastcan), lambda m, n, k: m * n * k * k, "fastcan"
    ),
    Implementation(
        "DPPy k-DPP",
        "peer",
        partial(_peer, routine=peers.dppy),
        lambda m, n, k: m * n**2 + 10 * n**3,
        "dppy",
    ),
    Implementation("CDPruner's loop", "loop", partial(_loop, rule="cdpruner"), _kernel, "torch", _tokens),
    Implementation("DivPrune's loop", "loop", partial(_loop, rule="divprune"), _kernel, "torch", _tokens),
    Implementation("naive deflation", "loop", partial(_loop, rule="deflation"), _mnk, "torch", _tokens),
)
