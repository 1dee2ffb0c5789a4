"""Has selection become slower than the committed benchmark says? ``python -m analysis bench --check``, `make bench-check`.

The smallest sizes are timed again, ours and the two floors in turn. An implementation has lost speed where its time has grown by a
fifth and more beside *both* floors: a machine may have become better at one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from analysis.benchmarks.implementations import GRAM, PRODUCTS
from analysis.benchmarks.rows import Row
from analysis.benchmarks.tables import table
from analysis.benchmarks.timing import ratio

__all__ = ["LOSS", "SIZES", "Change", "changes", "committed", "shown"]

#: Sizes that are timed again, and the growth of a ratio from which on speed counts as lost.
SIZES, LOSS = ("1024x576x64", "4096x576x64", "4096x576x192"), 1.2


class Change(NamedTuple):
    """Time beside k products and beside the Gram product, as committed and now; ``growth`` is that of the one that grew less."""

    label: str
    name: str
    before: tuple[float, float]
    now: tuple[float, float]

    @property
    def growth(self) -> float:
        """Time now over time then."""
        return min(new / old for new, old in zip(self.now, self.before, strict=True))


def committed(page: str) -> dict[tuple[str, str], tuple[float, float]]:
    """Return (label of the size, implementation) -> medians beside k products and the Gram product, from the page's text."""
    found: dict[tuple[str, str], tuple[float, float]] = {}
    label = ""
    part = page.partition("## Every implementation")[2].partition("\n## ")[0]
    for line in part.splitlines():
        if line.startswith("### "):
            label = line[4:]
        cells = [cell.strip() for cell in line.strip("| ").split("|")]
        if len(cells) >= 5 and cells[2].isdigit():
            found[label, cells[0].strip("*")] = (_median(cells[3]), _median(cells[4]))
    return found


def _median(cell: str) -> float:
    """Return the number before the interval."""
    return float(cell.split()[0].replace(",", ""))


def changes(
    labels: dict[str, str], rows: Iterable[Row], before: dict[tuple[str, str], tuple[float, float]]
) -> list[Change]:
    """Return how ours have changed since; implementations that only one side has are left out."""
    rows = list(rows)
    floors = {(row.size, row.name): row.seconds for row in rows if row.group == "floor"}
    found = []
    for row in rows:
        old = before.get((labels[row.size], row.name))
        if row.group == "ours" and row.seconds and old is not None:
            now = [ratio(row.seconds, floors[row.size, floor]).value for floor in (PRODUCTS, GRAM)]
            found.append(Change(labels[row.size], row.name, old, (now[0], now[1])))
    return found


def shown(found: Sequence[Change]) -> str:
    """Return a table, the largest loss first."""
    lines = [["d × n, k", "implementation", "× k products", "committed", "× Gram", "committed", "change"]]
    for change in sorted(found, key=lambda c: -c.growth):
        numbers = [change.now[0], change.before[0], change.now[1], change.before[1]]
        lost = " LOST" if change.growth > LOSS else ""
        lines.append(
            [
                change.label,
                change.name,
                *(f"{x:.2f}" for x in numbers),
                f"{100 * (change.growth - 1):+.0f} %{lost}",
            ]
        )
    return table(lines)
