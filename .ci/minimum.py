"""The fast tests of cssp with the oldest releases that pyproject.toml allows.

    python .ci/minimum.py out/minimum [extra ...]

An environment of its own gets every requirement of cssp, and of the extras (by default plot and dask), at its stated
minimum. All else that tests need (pytest, torch, ...) is that of the environment which runs this.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent

#: What the lent environment has too new for these.
COMPANIONS = ["pandas==2.2.2", "pyparsing<3.3", "pytest<9"]


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
    oldest = pins(list(extras or ("plot", "dask")))
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *oldest, *COMPANIONS],
        check=True,
    )
    own = sysconfig.get_path("purelib", vars={"base": str(place)})
    Path(own, "lent.pth").write_text(
        f"{sysconfig.get_path('purelib')}\n{ROOT}\n"
    )  # after its own on the path
    show = (
        "import importlib.metadata as m, sys; print(*(f'{n} {m.version(n)}' for n in sys.argv[1:]), sep=', ')"
    )
    names = [re.match(r"[\w-]+", pin)[0] for pin in oldest]
    subprocess.run([python, "-c", show, *names, "torch"], check=True)
    command = [python, "-m", "pytest", "-q", "-m", "not slow", "-n", "2", "tests/cssp"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
