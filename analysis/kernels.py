"""``python -m analysis kernels [--streams]``: landmarks of hard kernels and their cost; columns seen once against all at once.

The data sets "smile" and "spiral" of the paper on randomly pivoted Cholesky [chen2025], drawn from their description, with
its Gaussian kernels, its n and its k. All rules are nested, so one run of the largest k gives the errors of all k.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np

import cssp

METHODS = ("random_pivot", "residual", "uniform")
LABELS = {"random_pivot": "random_pivot", "residual": "residual (pivoted Cholesky)", "uniform": "uniform"}
SHOWN = (10, 20, 40, 60, 80, 100, 120, 150)


def smile(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return a face of radius 10: its outline, a mouth of n/10 points, and eyes of only √n points each."""
    eye, mouth = int(np.ceil(n**0.5)), int(np.ceil(n / 10))
    eyes = []
    for x in (-4.0, 4.0):
        angle, radius = rng.uniform(0, 2 * np.pi, eye), np.sqrt(rng.random(eye))
        eyes.append(np.stack([x + radius * np.cos(angle), 4 + radius * np.sin(angle)], axis=1))
    t = np.linspace(-5, 5, mouth)
    s = np.linspace(0, 2 * np.pi, n - 2 * eye - mouth)
    outline = 10 * np.stack([np.cos(s), np.sin(s)], axis=1)
    return np.concatenate([*eyes, np.stack([t, t**2 / 16 - 5], axis=1), outline])


def spiral(n: int) -> np.ndarray:
    """Return (e^{t/5} cos t, e^{t/5} sin t) for t in [0, 64], most points being close to the centre: t = u⁶."""
    t = np.linspace(0, 2, n) ** 6
    return np.exp(0.2 * t)[:, None] * np.stack([np.cos(t), np.sin(t)], axis=1)


def optimum(X: np.ndarray, gamma: float, k: int) -> np.ndarray:
    """Return the relative trace left by the best approximation of rank 0, ..., k, by subspace iteration on the kernel."""
    n, g = len(X), np.random.default_rng(0)
    V = np.linalg.qr(g.standard_normal((n, k + 50)))[0]
    for _ in range(3):
        W = np.concatenate([gaussian(X[a : a + 500], X, gamma) @ V for a in range(0, n, 500)])
        values = np.linalg.eigvalsh(V.T @ W)[::-1]
        V = np.linalg.qr(W)[0]
    return np.maximum(1 - np.append(0, np.cumsum(values[:k])) / n, 1e-16)


def gaussian(X: np.ndarray, Y: np.ndarray, gamma: float) -> np.ndarray:
    """Return exp(-γ‖x - y‖²), by differences: rounding of ‖x‖² + ‖y‖² - 2xᵀy would be seen in points far from zero."""
    return np.exp(-gamma * sum(np.subtract.outer(x, y) ** 2 for x, y in zip(X.T, Y.T, strict=True)))


def run(n: int = 10_000, k: int = 150, trials: int = 20, out: Path = Path("out/kernels")) -> dict:
    """Measure the errors, entries and seconds of all rules, and write them to ``out`` with a figure."""
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    sets = {"smile": (smile(n, rng), 2.0), "spiral": (spiral(n), 1000.0)}
    result: dict = {"n": n, "k": k, "trials": trials, "sets": {}}
    for name, (X, sigma) in sets.items():
        gamma = 0.5 / sigma**2

        def K(I, J, X=X, gamma=gamma):
            return gaussian(X[I], X[J], gamma)

        rows: dict = {"optimum": optimum(X, gamma, k).tolist()}
        for method in METHODS:
            runs = 1 if method == "residual" else trials
            errors, entries, seconds = [], [], []
            for seed in range(runs):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", cssp.RankDeficientWarning)
                    start = time.perf_counter()
                    sel = cssp.select_gram(K, k, method, n=n, diagonal=1.0, rng=seed)
                    seconds.append(time.perf_counter() - start)
                errors.append((sel.errors / sel.errors[0]).tolist())
                entries.append(sel.entries)
            rows[method] = {
                "median": np.median(errors, axis=0).tolist(),
                "low": np.quantile(errors, 0.1, axis=0).tolist(),
                "high": np.quantile(errors, 0.9, axis=0).tolist(),
                "entries": float(np.mean(entries)),
                "seconds": float(np.median(seconds)),
                "floor": floor(K, n, k),
            }
        result["sets"][name] = rows
    (out / "kernels.json").write_text(json.dumps(result))
    (out / "kernels.md").write_text(table(result))
    draw(result, out / "kernels.png")
    return result


def floor(K, n: int, k: int) -> float:
    """Return the seconds of the kernel evaluations and the nk² flops alone: k rows in one call, and one triangular solve."""
    import scipy.linalg

    J = np.arange(0, n, n // k)[:k]
    start = time.perf_counter()
    B = K(J, np.arange(n))
    L = np.tril(np.ones((k, k))) + k * np.eye(k)
    scipy.linalg.solve_triangular(L, B, lower=True, check_finite=False)
    return time.perf_counter() - start


def table(result: dict) -> str:
    """Return Markdown: median relative trace error by k; entries in units of nk; seconds over the floor."""
    shown = [k for k in SHOWN if k <= result["k"]]
    lines = [
        "| data | rule | " + " | ".join(f"k = {k}" for k in shown) + " | entries / nk | time / floor |",
        "|---" * (len(shown) + 4) + "|",
    ]
    for name, rows in result["sets"].items():
        best = " | ".join(f"{rows['optimum'][k]:.1e}" for k in shown)
        lines.append(f"| {name} | best of any rank k | {best} | – | – |")
        for method in METHODS:
            r = rows[method]
            cells = " | ".join(f"{r['median'][k]:.1e}" for k in shown)
            cost = f"{r['entries'] / result['n'] / result['k']:.2f} | {r['seconds'] / r['floor']:.1f}"
            lines.append(f"| {name} | `{method}` | {cells} | {cost} |")
    return "\n".join(lines) + "\n"


def draw(result: dict, path: Path) -> None:
    """Draw the errors against k, one panel a data set."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    colours = {"random_pivot": "#1b6ca8", "residual": "#c0392b", "uniform": "#7f8c8d"}
    for axis, (name, rows) in zip(axes, result["sets"].items(), strict=True):
        place = np.arange(1, result["k"] + 1)
        for method in METHODS:
            r = rows[method]
            axis.fill_between(place, r["low"][1:], r["high"][1:], color=colours[method], alpha=0.2, lw=0)
            axis.plot(place, r["median"][1:], color=colours[method], label=LABELS[method])
        axis.plot(place, rows["optimum"][1:], color="black", ls=":", label="best of rank k")
        axis.set(yscale="log", xlabel="landmarks k", title=name)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("tr(K − K_S) / tr K")
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def streams(out: Path = Path("out/kernels"), m: int = 100, n: int = 5000, k: int = 15) -> str:
    """Measure the stream on columns in random, growing and shrinking order: error over optimum, bound and estimate over error."""
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    U = np.linalg.qr(rng.standard_normal((m, m)))[0]
    lines = [
        "| singular values | method | all at once | oversample | error / optimum | bound / error | estimate / error | memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for decay in (0.8, 0.95):
        A = (U * decay ** np.arange(m)) @ rng.standard_normal((m, n))
        best = np.linalg.norm(np.linalg.svd(A, compute_uv=False)[k:])
        size = np.argsort(np.linalg.norm(A, axis=0))
        for method in ("greedy", "residual", "strong_rrqr"):
            once = cssp.select(A, k, method).error / best
            for oversample in (1, 2, 4):
                found = []
                for order in (rng.permutation(n), size, size[::-1]):
                    stream = cssp.StreamingSelector(k, method=method, oversample=oversample, rng=0)
                    sel = stream.partial_fit(A[:, order]).selection()
                    Q = np.linalg.qr(sel.columns)[0]
                    error = float(np.linalg.norm(A - Q @ (Q.T @ A)))
                    found.append((error / best, sel.bound / error, sel.error / error))
                cells = " | ".join(f"{min(x):.2f}–{max(x):.2f}" for x in zip(*found, strict=True))
                share = f"{100 * stream.nbytes / A.nbytes:.0f} %"
                lines.append(f"| {decay}^i | `{method}` | {once:.2f} | {oversample} | {cells} | {share} |")
    text = "\n".join(lines) + "\n"
    (out / "streams.md").write_text(text)
    return text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("--streams", action="store_true", help="the streams, instead of the kernels")
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("out/kernels"))


def main(arguments: argparse.Namespace) -> int:
    """Measure and print the table of the kernels, or of the streams."""
    if arguments.streams:
        print(streams(arguments.out))
    else:
        print(table(run(arguments.points, trials=arguments.trials, out=arguments.out)))
    return 0
