"""Every block of docs/migration.md runs, beside the other library where that is installed, and ends as it says."""

import importlib.util
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "migration.md").read_text()
START = re.search(r"```python\n(.*?)```", PAGE, re.S)[1]
SECTIONS = {
    re.sub(r"[`*]", "", part.splitlines()[0]): re.search(r"```python\n(.*?)```", part, re.S)[1]
    for part in PAGE.split("\n## ")[1:]
}

#: What an installation for the tests must have: these sections are never skipped.
HERE = {"numpy", "scipy", "sklearn", "pandas", "vlm_bridge", "cssp"}


@pytest.mark.parametrize("title", SECTIONS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of the other libraries
def test_every_block_runs_and_holds(title, monkeypatch):
    code = SECTIONS[title]
    names: dict = {}
    for library in re.findall(r"^(?:import|from) (\w+)", code, re.M):
        if library not in HERE and importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed (make peers)")
    if "model.generate" in code:
        monkeypatch.syspath_prepend(str(TESTS / "vlm_bridge"))
        tiny = importlib.import_module("tiny_vlm")
        names["model"] = tiny.tiny_model("llava")
        names["inputs"] = tiny.tiny_inputs(names["model"], (1, 1), (4, 9))
    exec(compile(START + "\n" + code, "docs/migration.md", "exec"), names)


def test_every_block_says_what_holds():
    assert len(SECTIONS) >= 16
    for code in SECTIONS.values():
        assert "assert " in code
        assert "cssp." in code or "vlm_bridge." in code
