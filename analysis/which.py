"""Which method when: error and time of every method on three shapes of real data, as tables for the docs.

Errors are squared and divided by the optimum of the SVD; times are processor seconds divided by those of one Gram product AᵀA,
measured in turn. Nothing in the tables is written by hand.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

import cssp

SEEDS = 5
#: Processor seconds after which a method is not run again.
MOST_SECONDS = 120.0
#: Methods that are not run at these sizes: minutes for one choice, or more.
SLOW = ("exact", "interlacing")


@dataclass(frozen=True)
class Shape:
    """A matrix and how many of its columns are to be chosen."""

    name: str
    what: str
    k: int
    build: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Cell:
    """What a method does on a shape."""

    ratio: float
    grams: float
    factor: float | None
    holds: str | None


def tokens() -> np.ndarray:
    """Return the patches of a photograph as centred columns, shape (768, 576)."""
    from skimage import data, transform

    image = transform.resize(data.astronaut(), (384, 384), anti_aliasing=True)
    patches = image.reshape(24, 16, 24, 16, 3).swapaxes(1, 2).reshape(576, -1)
    return np.ascontiguousarray((patches - patches.mean(axis=0)).T)


def polynomial_features() -> np.ndarray:
    """Return standardised products of up to three measurements of 80 patients (breast cancer data), shape (80, 5455)."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    X = StandardScaler().fit_transform(load_breast_cancer().data)[:80]
    return StandardScaler().fit_transform(PolynomialFeatures(3, include_bias=False).fit_transform(X))


def kernel() -> np.ndarray:
    """Return the Gaussian kernel between 1000 handwritten digits, shape (1000, 1000)."""
    from sklearn.datasets import load_digits
    from sklearn.metrics.pairwise import rbf_kernel

    return rbf_kernel(load_digits().data[:1000] / 16, gamma=0.05)


SHAPES = (
    Shape("tall", "768 × 576, patches of a photograph", 64, tokens),
    Shape("wide", "80 × 5455, products of measurements of patients", 20, polynomial_features),
    Shape("square", "1000 × 1000, a kernel between digits", 50, kernel),
)

#: What is asked, and which methods may answer; the best answer is the first by the key.
QUESTIONS: tuple[tuple[str, Callable[[str, Cell, dict[str, Cell]], bool], Callable[[Cell], float]], ...] = (
    ("least error", lambda name, c, all_: True, lambda c: c.ratio),
    (
        "fastest within a tenth of the least error",
        lambda name, c, all_: c.ratio <= 1.1 * min(x.ratio for x in all_.values()),
        lambda c: c.grams,
    ),
    (
        "fastest deterministic one within half of the least error",
        lambda name, c, all_: (
            cssp.METHODS[name].deterministic and c.ratio <= 1.5 * min(x.ratio for x in all_.values())
        ),
        lambda c: c.grams,
    ),
    (
        "fastest with a promise of at most k + 1 for every run",
        lambda name, c, all_: c.holds == "every run" and c.factor is not None and c.factor <= _least(all_),
        lambda c: c.grams,
    ),
    (
        "fastest with a promise below a million for every run",
        lambda name, c, all_: c.holds == "every run" and c.factor is not None and c.factor < 1e6,
        lambda c: c.grams,
    ),
)


def _least(cells: dict[str, Cell]) -> float:
    """Return k + 1, which `osinsky` promises."""
    factor = cells["osinsky"].factor
    assert factor is not None
    return factor


def measured(A: np.ndarray, k: int, name: str) -> Cell | None:
    """Return the error and time of one method, None where it refuses the size."""
    import warnings

    row = cssp.METHODS[name]
    runs, ratios, spent, certificate = [], [], 0.0, None
    for seed in range(3 if row.deterministic else SEEDS):
        start = time.process_time()
        A.T @ A
        gram = time.process_time() - start
        start = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", cssp.RankDeficientWarning)
            try:
                sel = cssp.select(A, k, name, rng=seed)
            except cssp.CsspError:
                return None
        seconds = time.process_time() - start
        runs.append((seconds, gram))
        if certificate is None or not row.deterministic:
            certificate = sel.certificate()
            ratios.append(float(certificate.ratio))
        spent += seconds
        if spent > MOST_SECONDS:
            break
    assert certificate is not None
    grams = median(s for s, _ in runs) / median(g for _, g in runs)
    return Cell(median(ratios), grams, certificate.factor, certificate.holds)


def number(x: float) -> str:
    """Return the number with two or three digits, no exponent below a million."""
    if x < 10:
        return f"{x:.2f}"
    return f"{x:,.0f}" if x < 1e6 else f"10^{np.log10(x):.0f}^"


def promise(cell: Cell | None) -> str:
    """Return the theorem's factor in words."""
    if cell is None or cell.factor is None:
        return "–"
    size = number(cell.factor).replace("10^", "10<sup>").replace("^", "</sup>")
    return f"{size} {'' if cell.holds == 'every run' else 'on average'}".strip()


def tables(found: dict[str, dict[str, Cell]]) -> str:
    """Return the decision and the measurements, in Markdown."""
    head = " | ".join(f"{s.name}: {s.what}, k = {s.k}" for s in SHAPES)
    lines = [f"| goal | {head} |", "|---" * (len(SHAPES) + 1) + "|"]
    for question, allowed, key in QUESTIONS:
        answers = []
        for shape in SHAPES:
            cells = found[shape.name]
            names = [name for name, c in cells.items() if allowed(name, c, cells)]
            best = min(names, key=lambda name: key(cells[name])) if names else None
            answers.append(
                f"[`{best}`](methods/{best}.md) {number(cells[best].ratio)}, {number(cells[best].grams)}"
                if best
                else "–"
            )
        lines.append(f"| {question} | {' | '.join(answers)} |")
    decision = "\n".join(lines)
    head = " | ".join(f"{s.name}: error | time | promise" for s in SHAPES)
    lines = [f"| method | same in every run | {head} |", "|---" * (2 + 3 * len(SHAPES)) + "|"]
    for name, row in cssp.METHODS.items():
        measured = [found[s.name].get(name) for s in SHAPES]
        body = " | ".join(
            f"{number(c.ratio)} | {number(c.grams)} | {promise(c)}" if c else "– | – | –" for c in measured
        )
        lines.append(f"| [`{name}`](methods/{name}.md) | {'yes' if row.deterministic else 'no'} | {body} |")
    return (
        f"{decision}\n\n## Every method\n\n"
        + "\n".join(lines)
        + "\n\n![Error against time](images/which.png)\n"
    )


def draw(found: dict[str, dict[str, Cell]], path: Path) -> None:
    """Draw error against time, a panel for every shape."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(10, 4), layout="constrained")
    for shape, ax in zip(SHAPES, fig.subplots(1, len(SHAPES)), strict=True):
        cells = found[shape.name]
        for name, c in cells.items():
            same = cssp.METHODS[name].deterministic
            ax.plot(c.grams, c.ratio, "o", color="C0", fillstyle="full" if same else "none")
        front = [n for n, c in cells.items() if not any(_better(d, c) for d in cells.values())]
        last = max(front, key=lambda name: cells[name].grams)
        for name in front:
            c = cells[name]
            if any(_near(cells[other], c) for other in front[: front.index(name)]):
                continue
            side = {"xytext": (-6, -4), "ha": "right"} if name == last else {"xytext": (5, 4)}
            ax.annotate(name, (c.grams, c.ratio), textcoords="offset points", fontsize=8, **side)
        ax.set(xscale="log", yscale="log", title=f"{shape.name}, k = {shape.k}", xlabel="time / Gram product")
        ax.yaxis.set_minor_formatter("{x:.3g}")
        ax.yaxis.set_major_formatter("{x:.3g}")
    fig.axes[0].set_ylabel("squared error / optimum")
    fig.savefig(path, dpi=150)


def _near(a: Cell, b: Cell) -> bool:
    """Return whether their names would overlap."""
    return abs(np.log(a.grams / b.grams)) < 1.2 and abs(np.log(a.ratio / b.ratio)) < 0.05


def _better(a: Cell, b: Cell) -> bool:
    return a.ratio <= b.ratio and a.grams <= b.grams and (a.ratio, a.grams) != (b.ratio, b.grams)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("--docs", type=Path, help="put the tables and the figure into this folder instead")
    parser.add_argument("--method", nargs="+", help="measure only these; the others stay as they were")
    parser.add_argument("--out", type=Path, default=Path("out/which"))


def main(arguments: argparse.Namespace) -> int:
    """Measure, and write the tables and the figure."""
    folder = arguments.docs or arguments.out
    (folder / "images").mkdir(parents=True, exist_ok=True)
    kept = folder / "which.json"
    before = json.loads(kept.read_text()) if arguments.method and kept.exists() else {}
    found: dict[str, dict[str, Cell]] = {}
    for shape in SHAPES:
        A = shape.build()
        cssp.select(A, 2)
        cells = {name: Cell(**cell) for name, cell in before.get(shape.name, {}).items()}
        for name in arguments.method or [name for name in cssp.METHODS if name not in SLOW]:
            cell = measured(A, shape.k, name)
            print(shape.name, name, cell, flush=True)
            cells.pop(name, None)
            if cell is not None:
                cells[name] = cell
        found[shape.name] = {name: cells[name] for name in cssp.METHODS if name in cells}
    rows = {shape: {name: vars(cell) for name, cell in cells.items()} for shape, cells in found.items()}
    kept.write_text(json.dumps(rows, indent=1) + "\n")
    (folder / "which.inc").write_text(tables(found))
    draw(found, folder / "images" / "which.png")
    return 0
