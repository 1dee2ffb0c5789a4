"""Pages with examples: each block runs after those before it, and prints what stands below it."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(("page", "shown"), [("quickstart.md", 5), ("guide/choosing.md", 0)])
def test_examples_run_and_print_what_is_shown(page, shown, capsys):
    names: dict = {}
    blocks = re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", (DOCS / page).read_text(), re.S)
    assert len(blocks) >= 5
    for code, expected in blocks:
        exec(compile(code, page, "exec"), names)
        printed = capsys.readouterr().out
        if expected:
            assert printed == expected
    assert sum(bool(expected) for _, expected in blocks) == shown
    if page.startswith("guide"):
        assert names["found"].ratio <= names["found"].factor == 9
