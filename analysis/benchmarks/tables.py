"""What was measured, in Markdown: a summary, then every size, kinds of matrices, batches, memory, growth, imports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from analysis.benchmarks import growth as growth_
from analysis.benchmarks import machine
from analysis.benchmarks import memory as memory_
from analysis.benchmarks.implementations import GRAM, PRODUCTS, RESIDUAL, SCIPY, STEPS, TEXTBOOK
from analysis.benchmarks.imports import BASE, OURS
from analysis.benchmarks.inputs import KINDS, SIZES
from analysis.benchmarks.rows import Row
from analysis.benchmarks.timing import Interval, median, ratio

__all__ = ["better_floor", "cell", "cells", "imports", "nearest", "page", "summary"]

_ORDER = {size.name: i for i, size in enumerate(SIZES)}
_LABELS = {size.name: size.label for size in SIZES}
_NAMED = {size.name: size for size in SIZES}


def table(rows: Iterable[Sequence[str]]) -> str:
    """Return Markdown, columns padded; the first row is the header."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in rows
    )


def cells(rows: Sequence[Row]) -> dict[tuple[str, str], dict[str, Row]]:
    """Return (size, kind) -> name -> row, in the order of `SIZES` and `KINDS`."""
    found: dict[tuple[str, str], dict[str, Row]] = {}
    kinds = list(KINDS)
    for row in sorted(rows, key=lambda r: (_ORDER.get(r.size, len(_ORDER)), kinds.index(r.kind))):
        found.setdefault((row.size, row.kind), {})[row.name] = row
    return found


def better_floor(race: dict[str, Row]) -> Row:
    """Return the faster of k products and a Gram product with its steps."""
    return min((race[PRODUCTS], race[STEPS]), key=lambda row: float(np.median(row.seconds)))


def nearest(race: dict[str, Row]) -> Row | None:
    """Return the fastest that is not ours."""
    others = [row for row in race.values() if row.group in ("peer", "loop") and row.seconds]
    return min(others, key=lambda row: float(np.median(row.seconds)), default=None)


def cell(rows: Sequence[Row]) -> str:
    """Return the implementations of one size and kind, the fastest first."""
    race = {row.name: row for row in rows}
    ran = sorted((row for row in rows if row.seconds), key=lambda row: float(np.median(row.seconds)))
    lines = [["implementation", "ms", "runs", "× k products", "× Gram", "relative error"]]
    for row in ran:
        lines.append(
            [
                f"**{row.name}**" if row.group == "ours" else row.name,
                median(row.seconds).text(3, 1e-3),
                str(len(row.seconds)),
                ratio(row.seconds, race[PRODUCTS].seconds).text(),
                ratio(row.seconds, race[GRAM].seconds).text(),
                "" if row.group == "floor" else f"{row.error:.4f}",
            ]
        )
    lines += [[row.name, row.note, "", "", "", ""] for row in rows if not row.seconds]
    return table(lines)


def summary(rows: Sequence[Row], about: dict[str, Any]) -> str:
    """Return a line for each size: `residual` between the floors and the others."""
    lines = [
        [
            "d × n, k",
            "residual, ms",
            "k products, ms",
            "Gram product, ms",
            "with k steps, ms",
            "machine limit, ms",
            "residual / faster limit",
            "fastest other",
            "its time / residual",
            "SciPy QR / residual",
        ]
    ]
    for (size, kind), race in cells(rows).items():
        if kind != "decay" or RESIDUAL not in race:
            continue
        ours, other, floor = race[RESIDUAL].seconds, nearest(race), better_floor(race)
        qr = race.get(SCIPY)
        lines.append(
            [
                _LABELS.get(size, size),
                median(ours).text(3, 1e-3),
                median(race[PRODUCTS].seconds).text(3, 1e-3),
                median(race[GRAM].seconds).text(3, 1e-3),
                median(race[STEPS].seconds).text(3, 1e-3),
                f"{1e3 * machine.floor(_NAMED[size], about):.3g}" if size in _NAMED else "",
                ratio(ours, floor.seconds).text(),
                other.name if other else "none ran",
                f"{_ahead(other, ours).text()} ×" if other else "",
                f"{_ahead(qr, ours).text()} ×" if qr and qr.seconds else (qr.note if qr else ""),
            ]
        )
    return table(lines)


def _ahead(other: Row, ours: Sequence[float]) -> Interval:
    """Return how many times longer the other takes; repeat by repeat where it took part in several."""
    return ratio(other.seconds, ours)


def _kinds(rows: Sequence[Row]) -> str:
    lines = [
        [
            "d × n, k",
            "columns",
            "residual, ms",
            "× k products",
            "× textbook",
            "× faster limit",
            "greedy, ms",
            "greedy × k products",
            "ahead of scipy QR",
        ]
    ]
    for (size, kind), race in cells(rows).items():
        if len({k for s, k in cells(rows) if s == size}) == 1:
            continue
        ours = race[RESIDUAL].seconds
        qr = race[SCIPY]
        lines.append(
            [
                _LABELS.get(size, size),
                KINDS[kind][0],
                median(ours).text(3, 1e-3),
                ratio(ours, race[PRODUCTS].seconds).text(),
                ratio(ours, race[TEXTBOOK].seconds).text(),
                ratio(ours, better_floor(race).seconds).text(),
                median(race["greedy"].seconds).text(3, 1e-3)
                if race["greedy"].seconds
                else race["greedy"].note,
                ratio(race["greedy"].seconds, race[PRODUCTS].seconds).text()
                if race["greedy"].seconds
                else "",
                f"{_ahead(qr, ours).text()} ×" if qr.seconds else qr.note,
            ]
        )
    return table(lines)


def _batches(rows: Sequence[Row]) -> str:
    lines = [
        ["d × n, k", "residual, ms a matrix", "one by one", "one by one / batched", "batched / faster limit"]
    ]
    for (size, _), race in cells(rows).items():
        if "residual, one by one" not in race:
            continue
        ours, single = race[RESIDUAL].seconds, race["residual, one by one"].seconds
        each = 1e-3 * _NAMED[size].batch
        lines.append(
            [
                _LABELS[size],
                median(ours).text(3, each),
                median(single).text(3, each),
                f"{ratio(single, ours).text()} ×",
                ratio(ours, better_floor(race).seconds).text(),
            ]
        )
    return table(lines)


def _memory(peaks: Sequence[dict[str, str]]) -> str:
    lines = [["implementation", "MB above A", "× A"]]
    for row in sorted(peaks, key=lambda row: float(row["bytes"] or "inf")):
        if row["bytes"]:
            lines.append(
                [
                    row["name"],
                    f"{float(row['bytes']) / 1e6:.1f}",
                    f"{float(row['bytes']) / memory_.SIZE.bytes:.2f}",
                ]
            )
        else:
            lines.append([row["name"], "failed", ""])
    return table(lines)


def _growth(grown: Sequence[dict[str, str]]) -> str:
    found = growth_.slopes(grown)
    axes = list(dict.fromkeys(axis for _, axis in found))
    lines = [["implementation", *(f"with {axis} (flops)" for axis in axes)]]
    for name in dict.fromkeys(name for name, _ in found):
        lines.append(
            [
                name,
                *(
                    f"{slope.value:.2f} [{slope.low:.2f}, {slope.high:.2f}] ({theory:.2f})"
                    for slope, theory in (found[name, axis] for axis in axes)
                ),
            ]
        )
    return table(lines)


def imports(took: dict[str, Any]) -> str:
    """Return the line about imports."""
    base, ours = took[BASE], took[OURS]
    return (
        f"`{OURS}` {median(ours).text(3, 1e-3)} ms, `{BASE}` {median(base).text(3, 1e-3)} ms, both with the start of "
        f"Python: {ratio(ours, base).text(3)} times as long."
    )


def page(
    rows: Sequence[Row],
    peaks: Sequence[dict[str, str]],
    grown: Sequence[dict[str, str]],
    took: dict[str, Any],
    about: dict[str, Any],
) -> str:
    """Return all tables as the docs include it."""
    versions = ", ".join(
        f"{name} {v}" if v else f"{name} not installed" for name, v in about["versions"].items()
    )
    flops = about["flops"]
    parts = [
        f"{about['processor']}, {about['cores']} logical processors; {about['blas']}; reads {about['bytes'] / 1e9:.1f} GB/s; "
        f"multiplies {flops['float32'] / 1e9:.0f} Gflop/s in single, {flops['float64'] / 1e9:.0f} in double precision. "
        f"{versions}.",
        "Times are medians of runs in turn. Brackets hold an interval of order statistics of at least 95 % coverage: the range "
        "where there are fewer than six runs, nothing where there is one. Ratios are formed within a repeat. The *machine "
        "limit* is the time to read A once or to do 2dnk operations at the rates above, whichever is longer; the *faster "
        "limit* is the shorter of k products and the Gram product with k steps of pivoted Cholesky. The others are libraries and loops of "
        "published pruners.",
        summary(rows, about),
        "![Time of every implementation at every size](FIGURES/bench_cpu.png)",
        "## Every implementation",
    ]
    kinds = {size: len({k for s, k in cells(rows) if s == size}) for size, _ in cells(rows)}
    for (size, kind), race in cells(rows).items():
        if kind == "decay" or kinds[size] == 1:
            parts += [f"### {_LABELS.get(size, size)}", cell(list(race.values()))]
    if any(n > 1 for n in kinds.values()):
        parts += ["## Kinds of matrices", _kinds(rows)]
    if any("one by one" in row.name for row in rows):
        parts += ["## Batches", _batches(rows)]
    if peaks:
        a = f"{memory_.SIZE.bytes / 1e6:.0f} MB"
        parts += ["## Peak memory", f"At {memory_.SIZE.label}, where A itself is {a}.", _memory(peaks)]
    if grown:
        parts += [
            "## Growth",
            "Slope of log time against log size, and that of the flop count over the same points.",
            _growth(grown),
            "![Growth with every size; kinds of matrices](FIGURES/bench_growth.png)",
        ]
    if took:
        parts += ["## Import", imports(took)]
    return "\n\n".join(parts) + "\n"
