"""What an implementation did with a matrix, and the file of such rows."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """What an implementation did with a size and kind: seconds of each repeat, or a note that says why there are none.

    ``error`` is ‖A − P_S A‖ / ‖A‖ of the picks, NaN where there are none; of the first item of a batch.
    """

    size: str
    kind: str
    name: str
    group: str
    seconds: tuple[float, ...] = ()
    error: float = float("nan")
    note: str = ""

    def cells(self) -> dict[str, str]:
        """Return the cells as in the CSV file."""
        return asdict(self) | {
            "seconds": " ".join(f"{s:.6g}" for s in self.seconds),
            "error": f"{self.error:.6g}",
        }


def read(path: Path) -> list[Row]:
    """Return the rows measured so far."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    numbers = [
        {"seconds": tuple(map(float, row["seconds"].split())), "error": float(row["error"])} for row in rows
    ]
    return [Row(**row | values) for row, values in zip(rows, numbers, strict=True)]


def append(path: Path, rows: Sequence[Row]) -> None:
    """Add the rows of a size and kind in one go."""
    new = not path.exists()
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)])
        if new:
            writer.writeheader()
        writer.writerows(row.cells() for row in rows)
