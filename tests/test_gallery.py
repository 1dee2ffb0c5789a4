"""Every example of the gallery runs, draws, and warns of nothing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))

#: Runs a file with warnings as errors and saves what it shows.
RUN = """
import sys, warnings
warnings.simplefilter("error")
import matplotlib; matplotlib.use("Agg")
import matplotlib.pyplot as plt
shown = []
def show():
    for number in plt.get_fignums():
        plt.figure(number).canvas.draw()
        shown.append(len(plt.figure(number).axes))
    plt.close("all")
plt.show = show
exec(compile(open(sys.argv[1]).read(), sys.argv[1], "exec"), {"__name__": "__main__"})
print("figures:", shown)
"""


def test_there_are_at_least_ten():
    assert len(EXAMPLES) >= 10


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_title_and_length(path):
    text = path.read_text()
    title, rule = re.match(r'"""\n(.+)\n(=+)\n\n', text).groups()
    assert len(title) == len(rule)
    assert len(text.splitlines()) < 100
    assert "plt.show()" in text


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_example_runs_and_draws(path):
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(path)], capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    assert done.returncode == 0, done.stderr
    figures = re.search(r"figures: \[(.*)\]", done.stdout)[1]
    assert figures
    assert "0" not in figures.split(", ")


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_notebooks_are_their_scripts_with_output(path):
    from analysis.notebook import cells_of

    script = ROOT / "docs" / "examples" / f"{path.stem}.py"
    made, kept = cells_of(script)["cells"], json.loads(path.read_text())["cells"]
    assert [(c["cell_type"], "".join(c["source"])) for c in made] == [
        (c["cell_type"], "".join(c["source"])) for c in kept
    ]
    outputs = [output for cell in kept for output in cell.get("outputs", ())]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
