"""The README's code runs as it stands, and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_first_example_works_when_pasted(capsys):
    names: dict = {}
    exec(BLOCKS[0], names)
    assert names["sel"].relative_error < 0.5
    assert names["tight"].relative_error <= 0.05
    assert "ratio=" in capsys.readouterr().out


def test_the_bridge_example_works_on_the_shipped_model():
    from analysis import reference, scenes

    model, processor = reference.load()
    inputs = processor(images=[scenes.make(0).image], text=["<image> what is behind ?"], return_tensors="pt")
    names = {"model": model, "processor": processor, "inputs": inputs}
    exec(BLOCKS[1], names)
    assert len(names["report"].kept[0]) == 64
    assert names["out"].shape[1] > inputs["input_ids"].shape[1]


@pytest.mark.parametrize("target", re.findall(r"(?:`|^)make ([a-z-]+)", README, re.MULTILINE))
def test_every_make_target_exists(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_every_linked_file_exists():
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("http") or (ROOT / link).exists(), link
