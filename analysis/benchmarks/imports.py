"""``import cssp`` against the import of what it stands on, in fresh interpreters that take turns."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np

from analysis.benchmarks.timing import alternate

__all__ = ["BASE", "measure"]

BASE, OURS = "import numpy, scipy.linalg", "import cssp"


def measure(repeats: int = 25, lines: tuple[str, str] = (BASE, OURS)) -> dict[str, Any]:
    """Return the seconds of each, repeat by repeat; interpreter start included in both."""
    runs = {
        line: lambda line=line: subprocess.run([sys.executable, "-c", line], check=True) for line in lines
    }
    for run in runs.values():
        run()
    return alternate(runs, dict.fromkeys(runs, repeats), np.random.default_rng(0))
