"""The README's code runs as it stands, and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import cssp
from cssp.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_first_example_works_when_pasted(capsys, tmp_path, monkeypatch):
    import matplotlib

    matplotlib.use("Agg")
    names: dict = {}
    exec(BLOCKS[0], names)
    assert names["sel"].relative_error < 0.5
    assert names["tight"].relative_error <= 0.05
    assert "times the best rank 10 in squared error" in capsys.readouterr().out
    assert 6 <= len([line for line in BLOCKS[0].splitlines() if line]) <= 8
    monkeypatch.chdir(tmp_path)
    exec(BLOCKS[1], names)
    assert (tmp_path / "first.png").stat().st_size > 5000


def test_it_counts_the_methods_that_there_are():
    counts = re.findall(r"(\d+) methods|^\| rules \| (\d+) \|", README, re.MULTILINE)
    ours = len(cssp.METHODS.keys() - {"power_norm"})  # the guide's example, in a copy of the repository
    assert [int(a or b) for a, b in counts] == [ours] * 2


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_it_says_what_the_demo_prints(page, tmp_path, capsys):
    picture = tmp_path / "picture.svg"  # whose titles are among its comments
    assert main(["demo", "-o", str(picture)]) == 0
    out = capsys.readouterr().out
    caption = re.search(r"One call chose .+? draws this picture", (ROOT / page).read_text(), re.DOTALL)[0]
    height, width = map(int, re.search(r"(\d+) x (\d+) places", out).groups())
    assert re.search(r"chose (\w+) of ([\d,]+) places", caption).groups() == ("twelve", f"{height * width:,}")
    assert re.findall(r"(\d+) %", caption) == re.findall(r"from 12 .+: error (\d+)%", picture.read_text())


def test_the_comparison_states_what_the_tables_say():
    edges = [
        line.split("|")[2:-1] for line in (ROOT / "docs/edges.md").read_text().splitlines() if line[:1] == "|"
    ]
    counts = []
    for column in zip(*edges[2:], strict=True):
        asked = [cell.strip() for cell in column if cell.strip() != "–"]
        counts.append(f"{sum(cell.startswith(('ok', 'refused')) for cell in asked)} of {len(asked)}")
    row = next(line for line in README.splitlines() if line.startswith("| hostile inputs"))
    assert re.findall(r"\d+ of \d+", row) == counts
    table = (ROOT / "docs/bench.inc").read_text().split("### 4096 × 576, k = 64\n")[1].split("### ")[0]
    times = dict(re.findall(r"^\| \**(.+?)\** +\| ([\d.,]+)", table, re.MULTILINE))
    errors = dict(re.findall(r"^\| \**(.+?)\** +\|.*\| 0(\.\d+) +\|$", table, re.MULTILINE))
    names = [
        *("residual", "greedy", "scipy.linalg.qr(pivoting)", "scipy interp_decomp", "scikit-matter FPS"),
        *("scikit-matter CUR", "pysensors CCQR", "fastcan", "linear_operator pivoted_cholesky"),
    ]
    row = next(line for line in README.splitlines() if line.startswith("| 64 of 576"))
    assert re.findall(r"(?<![\d.])[\d,]+(?:\.\d+)?(?= *[,|])", row.split("|", 2)[2]) == [
        times[n] for n in names
    ]
    row = next(line for line in README.splitlines() if line.startswith("| relative error there"))
    assert re.findall(r"\.\d+", row) == [errors[n] for n in names]


def test_the_bridge_example_works_on_the_shipped_model():
    from analysis import reference, scenes

    model, processor = reference.load()
    inputs = processor(images=[scenes.make(0).image], text=["<image> what is behind ?"], return_tensors="pt")
    names = {"model": model, "processor": processor, "inputs": inputs}
    exec(BLOCKS[2], names)
    assert len(names["report"].kept[0]) == 64
    assert names["out"].shape[1] > inputs["input_ids"].shape[1]


@pytest.mark.parametrize("target", re.findall(r"(?:`|^)make ([a-z-]+)", README, re.MULTILINE))
def test_every_make_target_exists(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_every_linked_file_exists():
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("http") or (ROOT / link).exists(), link


def test_the_readme_says_what_was_run():
    """The verdicts are of shipped rows, and the README says whether the confirmation set is among them."""
    from analysis.study import page

    section = README.split("## What the study found")[1].split("\n## ")[0]
    assert page.SHIPPED.exists()
    assert ("the confirmation set has not been run" in section) != page.SHIPPED.with_name(
        "confirm.npz"
    ).exists()


def test_the_scope_of_the_study_is_that_of_the_verdicts():
    scope = README.split("The scope of this:")[1]
    said = re.search(
        r"(\d+) ways of pruning, (\d+) budgets, (\d+) questions about (\d+) images", " ".join(scope.split())
    )
    verdicts = (ROOT / "docs/study/verdicts.md").read_text()
    ways, budgets, questions, images = said.groups()
    assert f"{ways} ways of pruning, {budgets} budgets, {images} images" in verdicts
    assert f" {questions} questions, 2 models" in verdicts
    assert "two small models" in scope


def test_numbers_of_the_study_are_those_of_the_verdicts():
    """Every number with an interval stands in the verdicts, perhaps with the other sign."""
    section = README.split("## What the study found")[1].split("\n## ")[0]
    verdicts = (ROOT / "docs/study/verdicts.md").read_text()
    numbers = re.findall(r"([−+]?\d*\.\d+) \[([−+]?\d*\.\d+), ([−+]?\d*\.\d+)\]", section)
    assert len(numbers) == 8
    for number in numbers:
        value, low, high = (float(x.replace("−", "-")) for x in number)
        digits = 2 if abs(value) < 1 else 1
        shown = [
            f"{x:+.{digits}f} [{a:+.{digits}f}, {b:+.{digits}f}]"
            for x, a, b in ((value, low, high), (-value, -high, -low))
        ]
        assert any(x in verdicts or x.replace("+", "") in verdicts for x in shown), number
