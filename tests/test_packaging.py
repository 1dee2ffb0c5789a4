"""What is shipped: the two packages, typed, with one version; the wheel runs beside its requirements alone."""

from __future__ import annotations

import pkgutil
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import cssp

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


CHANGES = (ROOT / "CHANGELOG.md").read_text()


def test_there_is_one_version():
    assert "version" in PROJECT["dynamic"]
    cited = (ROOT / "CITATION.cff").read_text()
    version, date = (
        re.search(rf"^{key}: (.+)$", cited, re.MULTILINE)[1] for key in ("version", "date-released")
    )
    assert version == cssp.__version__
    assert re.findall(r"^## \[(\d.*)\] - (.+)$", CHANGES, re.MULTILINE)[0] == (version, date)


def test_what_has_moved_is_where_the_changelog_says():
    released = CHANGES.partition("\n## [0.2.0]")[2].partition("\n## [")[0]
    table = released.partition("| 0.1.0 | 0.2.0 |\n")[2].partition("\n\n")[0]
    rows = [row.split("|")[1:3] for row in table.splitlines()[1:]]
    dotted = re.compile(r"`((?:cssp|vlm_bridge)\.[\w.]+)`")
    places = []
    for before, after in rows:
        for name in dotted.findall(after):
            short = re.findall(r"[\w.]*?(\w+)`", before)
            places += [name + old for old in short] if name.endswith(".") else [name]
    assert len(places) > 25
    for place in places:
        try:
            pkgutil.resolve_name(place)
        except (ImportError, AttributeError) as reason:
            pytest.fail(f"{place}: {reason}")


def test_the_changelog_keeps_its_form():
    assert CHANGES.startswith("# Changelog\n")
    heads = re.findall(r"^## (.+)$", CHANGES, re.MULTILINE)
    assert heads[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", head) for head in heads[1:])
    kinds = set(re.findall(r"^### (.+)$", CHANGES, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_importing_cssp_imports_nothing_optional():
    extras = {
        "torch",
        "sklearn",
        "dask",
        "distributed",
        "zarr",
        "matplotlib",
        "pandas",
        "polars",
        "PIL",
        "skimage",
    }
    code = "import sys, cssp; cssp.select([[1.0, 2.0], [0.0, 1.0]], 1).certificate(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not extras & set(done.stdout.split())


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Wheel and source distribution of a copy of what they are made of."""
    import shutil

    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in ("cssp", "vlm_bridge", "tests", "docs", "analysis"):
        shutil.copytree(ROOT / folder, source / folder, ignore=ignore)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, source)
    code = "import sys, setuptools.build_meta as b; out = sys.argv[1]; b.build_sdist(out); b.build_wheel(out)"
    done = subprocess.run([sys.executable, "-c", code, str(out)], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list(out.iterdir())) == 2
    return {path.suffix: path for path in out.iterdir()}


@pytest.mark.slow
def test_wheel_and_source_hold_the_two_packages(built):
    name = f"cssp-{cssp.__version__}"
    wheel = zipfile.ZipFile(built[".whl"])
    tops = {n.partition("/")[0] for n in wheel.namelist()}
    assert tops == {"cssp", "vlm_bridge", f"{name}.dist-info"}
    assert {"cssp/py.typed", "vlm_bridge/py.typed", f"{name}.dist-info/licenses/LICENSE"} <= set(
        wheel.namelist()
    )
    shipped = {n for n in wheel.namelist() if n.endswith(".py")}
    assert shipped == {
        p.relative_to(ROOT).as_posix() for d in ("cssp", "vlm_bridge") for p in (ROOT / d).rglob("*.py")
    }
    assert "cssp = cssp." in wheel.read(f"{name}.dist-info/entry_points.txt").decode()
    with tarfile.open(built[".gz"]) as archive:
        files = archive.getnames()
    tops = {n.split("/")[1] for n in files if "/" in n}
    folders = {n.split("/")[1] for n in files if n.count("/") > 1}
    assert folders == {"cssp", "vlm_bridge", "cssp.egg-info", "tests", "docs", "analysis"}
    assert {"LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml", "constraints.txt"} <= tops
    held = {n.split("/", 1)[1] for n in files if n.endswith(".py") and "/tests/" in n}
    tests = {p.relative_to(ROOT).as_posix() for p in (ROOT / "tests" / "cssp").rglob("*.py")}
    assert held == {"tests/conftest.py", *tests}
    assert not [n for n in files if n.endswith((".safetensors", ".pyc")) or "/docs/methods/" in n]


@pytest.mark.slow
def test_the_wheel_runs_from_its_own_files(built, tmp_path):
    example = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    zipfile.ZipFile(built[".whl"]).extractall(tmp_path)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{example}\nprint(cssp.__file__)"
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) in done.stdout
    assert "times the best rank 10 in squared error" in done.stdout
