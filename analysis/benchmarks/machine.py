"""What this machine can do: the rates that the floors are made of."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

from analysis.benchmarks.inputs import Size
from analysis.benchmarks.timing import once

__all__ = ["floor", "measure"]

#: Floats read to measure the bandwidth (1 GiB), and the order of the matrices multiplied.
FLOATS, ORDER = 1 << 28, 2048

_LIBRARIES = (
    "numpy", "scipy", "torch", "fastcan", "skmatter", "linear_operator", "python-sensors", "dppy"
)  # fmt: skip


def measure(floats: int = FLOATS, order: int = ORDER, repeats: int = 5) -> dict[str, Any]:
    """Return the bytes read a second (dot product of a long vector with itself), flops a second of a square product, versions."""
    x = np.ones(floats, dtype=np.float32)
    read = min(once(lambda: x @ x)[0] for _ in range(repeats))
    flops = {}
    for dtype in ("float32", "float64"):
        Y = np.random.default_rng(0).standard_normal((order, order)).astype(dtype)
        Z = Y + 1  # not Yᵀ: that would be half the work
        flops[dtype] = 2 * order**3 / min(once(lambda Y=Y, Z=Z: Y @ Z)[0] for _ in range(repeats))
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "blas": ", ".join(
            f"{lib['internal_api']} {lib['version']}, {lib['num_threads']} threads"
            for lib in threadpool_info()[:1]
        ),
        "bytes": 4 * floats / read,
        "flops": flops,
        "versions": {name: _version(name) for name in _LIBRARIES},
    }


def floor(size: Size, about: dict[str, Any]) -> float:
    """Return a lower bound in seconds for any pivoting rule that reads every column after every pick.

    The larger of reading A once and 2mnk flops, the cost of k products with all columns whatever way they are grouped.
    """
    work = 2 * size.m * size.n * size.k * size.batch / about["flops"][size.dtype]
    return max(size.bytes / about["bytes"], work)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
