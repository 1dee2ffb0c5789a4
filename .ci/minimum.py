"""The fast tests of cssp with the oldest releases that pyproject.toml allows.

    python .ci/minimum.py out/minimum [extra ...]

An environment of its own gets every requirement of cssp, and of the extras (by default sklearn and plot), at its stated
minimum. Tests that need torch are left out: its old releases do not come with every Python.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
TOOLS = ["pytest", "pytest-xdist", "hypothesis", "array-api-strict"]


def pins(extras: list[str]) -> list[str]:
    """``name==minimum`` of every requirement."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(r for e in extras for r in project["optional-dependencies"][e])]
    return [re.sub(r">=", "==", r) for r in wanted if not r.startswith("cssp")]


def main(folder: str, *extras: str) -> int:
    """Install and test; the status of pytest."""
    place = (ROOT / folder).absolute()
    venv.create(place, with_pip=True, clear=True)
    python = place / "bin" / "python"
    chosen = pins(list(extras or ("sklearn", "plot")))
    print(" ".join(chosen), flush=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *chosen, *TOOLS], check=True)
    subprocess.run([*pip, "--no-deps", "-e", ROOT], check=True)
    files = sorted((ROOT / "tests" / "cssp").glob("test_*.py"))
    plain = [
        f
        for f in files
        if not re.search(r"^(import torch|from (torch|strategies|kernel_cases))", f.read_text(), re.M)
    ]
    left = sorted({f.name for f in files} - {f.name for f in plain})
    print(f"{len(plain)} files of tests; left out, as they import torch: {', '.join(left)}", flush=True)
    command = [python, "-m", "pytest", "-q", "-m", "not slow", *plain]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
