"""Selection from a large .npy file mapped into memory: peak memory, time and numbers, beside the same in memory.

Each way runs in a fresh process; its peak is the high-water mark of resident memory, in which mapped pages count.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from analysis.benchmarks.memory import peak
from analysis.benchmarks.outofcore import isolated

__all__ = ["Numbers", "difference", "main", "make", "measured"]

#: Rank of what is not noise, and entries of a block that is written.
RANK, BLOCK = 64, 1 << 23

#: The choice, and what is read from the certificate.
Numbers = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("--gib", type=float, default=3.2, help="size of the file")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("-k", type=int, default=50)
    parser.add_argument("--method", default="residual")
    parser.add_argument(
        "--memory-up-to", type=float, default=1.0, help="largest file, in GiB, that is also read into memory"
    )
    parser.add_argument("--folder", type=Path, help="where the file is made (default: a temporary folder)")


def main(arguments: argparse.Namespace) -> int:
    """Make the file, select from it in every way, print a line for each, remove the file."""
    from cssp.linalg import SQUARE

    gib, rows, k, method, folder = (
        arguments.gib,
        arguments.rows,
        arguments.k,
        arguments.method,
        arguments.folder,
    )
    columns = int(gib * 2**30 / 4 / rows)
    certified = min(rows, columns) <= SQUARE  # beyond, a mapped file has no certificate
    room = shutil.disk_usage(folder or tempfile.gettempdir()).free
    if room < 1.2 * gib * 2**30:
        raise SystemExit(
            f"--gib {gib}: only {room / 2**30:.1f} GiB are free; pass a smaller one, or --folder"
        )
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / "A.npy"
        isolated(make, path, rows, columns)  # pages that it writes would count as memory of its children
        print(
            f"{rows} x {columns} float32, {path.stat().st_size / 1e9:.2f} GB, {method}, k = {k}", flush=True
        )
        mapped = _shown("mapped", isolated(measured, path, k, method, "r", certified))
        _shown("command line", by_command(path, k, method, certified))
        if gib <= arguments.memory_up_to:
            memory = _shown("in memory", isolated(measured, path, k, method, None, certified))
            for name, gap in difference(mapped, memory).items():
                print(f"  {name}: {gap}")
    return 0


def make(path: Path, m: int, n: int) -> None:
    """Write a float32 matrix of decaying spectrum by blocks of rows."""
    rng = np.random.default_rng(0)
    scale = (1.0 / (1 + np.arange(RANK)))[:, None].astype(np.float32)
    right = scale * rng.standard_normal((RANK, n), dtype=np.float32)
    right *= np.exp(0.3 * rng.standard_normal(n)).astype(np.float32)
    A = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(m, n))
    step = max(1, BLOCK // n)
    for a in range(0, m, step):
        block = A[a : a + step]
        block[:] = rng.standard_normal((len(block), RANK), dtype=np.float32) @ right
        block += np.float32(1e-3) * rng.standard_normal(block.shape, dtype=np.float32)
    A.flush()


def measured(path: Path, k: int, method: str, mode: str | None, certified: bool) -> Numbers:
    """Select, read the errors and the certificate; mode as `numpy.load` has it."""
    import cssp

    A = np.load(path, mmap_mode=mode)
    begun = time.perf_counter()
    chosen = cssp.select(A, k, method, rng=0)
    selected, after_choice = time.perf_counter() - begun, peak()
    relative_error = chosen.relative_error
    known, after_error = time.perf_counter() - begun, peak()
    record: Numbers = {
        "picks": chosen.indices.tolist(),
        "relative_error": float(relative_error),
        "seconds": {"select": selected, "error": known},
        "peak": {"select": after_choice, "error": after_error},
    }
    if certified:
        certificate = chosen.certificate()
        record |= {
            name: float(getattr(certificate, name)) for name in ("ratio", "spectral_ratio", "a_posteriori")
        }
        record["seconds"]["certificate"] = time.perf_counter() - begun
        record["peak"]["certificate"] = peak()
    return record


def by_command(path: Path, k: int, method: str, certified: bool) -> Numbers:
    """Measure the same through the command line."""
    command = [sys.executable, "-m", "cssp", "select", str(path), "-k", str(k), "--method", method]
    command += ["--rng", "0", *["--certificate"] * certified]
    begun = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    unit = 1 if sys.platform == "darwin" else 1024
    return {"seconds": {"all": time.perf_counter() - begun}, "peak": {"all": unit * used.ru_maxrss}}


def difference(one: Numbers, two: Numbers) -> dict[str, float]:
    """Return the relative differences of the numbers, and how many picks differ."""
    gaps = {
        name: abs(value / two[name] - 1)
        for name, value in one.items()
        if isinstance(value, float) and two.get(name)
    }
    return gaps | {"picks": len(set(one["picks"]) ^ set(two["picks"])) // 2}


def _shown(name: str, record: Numbers) -> Numbers:
    """Print and return the record: seconds since the start and peaks after each step, then the numbers."""
    for step, seconds in record["seconds"].items():
        print(f"{name}, {step}: {seconds:.1f} s, peak {record['peak'][step] / 1e6:.0f} MB")
    numbers = [f"{key} {value:.10g}" for key, value in record.items() if isinstance(value, float)]
    print(f"{name}: {', '.join(numbers) or 'done'}", flush=True)
    return record
