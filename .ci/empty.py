"""Install a wheel into an empty environment and run the README's first example there.

    python .ci/empty.py dist

Nothing but the wheel's own requirements may be needed: NumPy, SciPy and array-api-compat.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent


def main(folder: str) -> None:
    """Fail where the example does, or where more came along than was asked for."""
    (wheel,) = Path(folder).absolute().glob("*.whl")
    example = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    with tempfile.TemporaryDirectory() as empty:
        venv.create(empty, with_pip=True)
        python = f"{empty}/bin/python"
        pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "-c", str(ROOT / "constraints.txt"), str(wheel)], check=True)
        show = (
            "import importlib.metadata as m; print(*{d.metadata['Name'].lower() for d in m.distributions()})"
        )
        listed = subprocess.run([python, "-c", show], check=True, capture_output=True, text=True)
        found = set(listed.stdout.split()) - {"pip", "setuptools"}
        assert found == {"cssp", "numpy", "scipy", "array-api-compat"}, found
        done = subprocess.run(
            [python, "-W", "error", "-c", example], cwd=empty, capture_output=True, text=True
        )
        print(done.stdout, done.stderr)
        assert done.returncode == 0
        assert "times the best rank 10 in squared error" in done.stdout
        subprocess.run([f"{empty}/bin/cssp", "methods"], check=True, stdout=subprocess.DEVNULL)
    print(f"{wheel.name}: runs beside {', '.join(sorted(found - {'cssp'}))} alone")


if __name__ == "__main__":
    main(*sys.argv[1:])
