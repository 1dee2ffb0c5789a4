"""Peak memory of each implementation, each in a fresh process.

A is loaded from a file, so that nothing larger has been in memory before; the implementation runs once on a corner of A to
load libraries and BLAS buffers; then once on A. Counted is the rise of the resident set's high-water mark from just
before that run: VmHWM of Linux, which unlike ``ru_maxrss`` knows nothing of the parent process; ``ru_maxrss`` elsewhere.
"""

from __future__ import annotations

import csv
import resource
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from analysis.benchmarks.implementations import IMPLEMENTATIONS
from analysis.benchmarks.inputs import SIZES, matrix
from analysis.benchmarks.rows import Row

__all__ = ["SIZE", "measure", "peak", "read", "rise"]

#: Where memory is measured.
SIZE, KIND = next(s for s in SIZES if s.name == "4096x2880x160"), "decay"

#: Seconds for a process.
LIMIT = 120.0


def peak() -> int:
    """Return the bytes of the high-water mark of this process."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM"):
                return 1024 * int(line.split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def rise(path: Path, name: str, k: int) -> int:
    """Return the bytes by which the implementation's run on the stored matrix raises the high-water mark of this process."""
    warnings.simplefilter("ignore")
    A = np.load(path)
    implementation = next(c for c in IMPLEMENTATIONS if c.name == name)
    implementation.prepare(np.array(A[:256, :128]), min(k, 16))()
    run = implementation.prepare(A, k)
    before = peak()
    run()
    return peak() - before


def measure(path: Path, rows: Sequence[Row], names: Sequence[str] | None = None) -> None:
    """Measure those implementations that have times at the size and no line in the file yet."""
    timed = [r.name for r in rows if (r.size, r.kind) == (SIZE.name, KIND) and r.seconds]
    have = {row["name"] for row in read(path)}
    due = [name for name in timed if name not in have and (names is None or name in names)]
    if not due:
        return
    with tempfile.TemporaryDirectory() as folder:
        stored = Path(folder) / "A.npy"
        np.save(stored, matrix(KIND, SIZE))
        for name in due:
            print(f"peak memory: {name}", flush=True)
            command = [sys.executable, "-m", __name__, str(stored), name, str(SIZE.k)]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
                found = done.stdout.strip().splitlines()[-1] if done.returncode == 0 else ""
            except subprocess.TimeoutExpired:
                found = ""
            new = not path.exists()
            with open(path, "a", newline="") as file:
                writer = csv.writer(file)
                if new:
                    writer.writerow(["name", "bytes"])
                writer.writerow([name, found])


def read(path: Path) -> list[dict[str, str]]:
    """Return the lines measured so far; ``bytes`` is empty where the process failed."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    print(rise(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
