"""Time to choose k of n visual tokens of width d on a device, against the floor of reading A once per pick.

A step of ``python -m analysis gpu``; ``python -m analysis bench`` is the larger comparison on the CPU. Machines are
noisy: implementations take turns within every repeat and the table shows the median of each and its ratio to the floor, k
products q'A with a fresh q.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import scipy.linalg
import torch

import cssp

SHAPES = ((1024, 576, 64), (4096, 576, 64), (4096, 2880, 160))


def tokens(d: int, n: int, seed: int = 0) -> np.ndarray:
    """Return synthetic projected tokens (d, n) float32: decaying spectrum, common mean, spread norms."""
    rng = np.random.default_rng(seed)
    decay = np.arange(1, 129) ** -0.7
    x = rng.standard_normal((d, 128)) * decay @ rng.standard_normal((128, n)) + 0.1 * rng.standard_normal(
        (d, n)
    )
    x += rng.standard_normal((d, 1))
    return (x * rng.lognormal(0, 0.3, n)).astype(np.float32)


def floor(A, k: int) -> None:
    """Make k passes over A."""
    q = A[:, 0] / 7
    for _ in range(k):
        q @ A


def implementations(A: np.ndarray, k: int, device: str) -> dict[str, Callable[[], object]]:
    """Return the functions to time, by name."""
    T = torch.from_numpy(A).to(device)
    runs: dict[str, Callable[[], object]] = {
        "floor: k products": lambda: floor(T if device != "cpu" else A, k),
        "residual, numpy": lambda: cssp.select(A, k),
        "residual, torch": lambda: cssp.select(T, k),
        "greedy, numpy": lambda: cssp.select(A, k, method="greedy"),
    }
    if A.shape[1] <= 1000:
        runs["scipy.linalg.qr(pivoting)"] = lambda: scipy.linalg.qr(
            A, pivoting=True, mode="r", check_finite=False
        )
    return runs


def main(device: str = "cpu", repeats: int = 5) -> list[dict]:
    """Print the table; returns its rows."""
    sync = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    rows = []
    for d, n, k in SHAPES:
        runs = implementations(tokens(d, n), k, device)
        times: dict[str, list[float]] = {name: [] for name in runs}
        for repeat in range(repeats + 1):
            for name, run in runs.items():
                sync()
                start = time.perf_counter()
                run()
                sync()
                if repeat:  # the first round warms up
                    times[name].append(time.perf_counter() - start)
        base = statistics.median(times["floor: k products"])
        print(f"\n{n} tokens of width {d}, keep {k}, {device}")
        for name, seconds in times.items():
            median = statistics.median(seconds)
            print(f"  {name:28s}{1e3 * median:10.1f} ms {median / base:8.2f} x floor")
            rows.append(
                {
                    "d": d,
                    "n": n,
                    "k": k,
                    "device": device,
                    "name": name,
                    "seconds": median,
                    "ratio": median / base,
                }
            )
    return rows
