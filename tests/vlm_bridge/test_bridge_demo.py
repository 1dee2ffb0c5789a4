"""``python -m vlm_bridge demo``: answers are the shipped model's own, and it writes one file that was not there."""

import json

import pytest
from PIL import Image

from vlm_bridge.cli import demo, main


def test_the_demo_answers_as_the_model_does(tmp_path, capsys):
    path = tmp_path / "picture.png"
    assert main(["demo", "--picture", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    questions = json.loads((demo.SHIPPED / "example.json").read_text())
    assert [line.split("?")[0] for line in lines[1:6]] == [one["question"].split("?")[0] for one in questions]
    right = {line.split(",")[0]: int(line.split(": ")[1][0]) for line in lines[6:9]}
    assert right["random"] < right["spare"] >= right["all tokens"]
    columns = [line.split("?")[1].split() for line in lines[1:6]]
    for place, name in enumerate(("all tokens", "spare", "random"), 1):
        assert right[name] == sum(
            one["answer"] == c[place] for one, c in zip(questions, columns, strict=True)
        )
    assert "prompt 755 -> 155 tokens" in lines[7]
    assert [one.name for one in tmp_path.iterdir()] == ["picture.png"]
    with Image.open(path) as picture:
        assert picture.width > 3 * 600


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--picture", "there.png"], "the file exists; --force"),
        (["--picture", "picture.xyz"], "expected the ending of an image file"),
        (["--picture", "new.png", "--method", "spar"], "spare"),
        (["--picture", "new.png", "--keep", "200"], "200"),
    ],
)
def test_a_wrong_command_is_one_line_and_leaves_no_file(tmp_path, capsys, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.png").write_text("mine")
    assert main(["demo", *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [one.name for one in tmp_path.iterdir()] == ["there.png"]
    assert (tmp_path / "there.png").read_text() == "mine"


def test_outside_of_a_checkout_it_says_what_to_do(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "SHIPPED", tmp_path / "nowhere")
    assert main(["demo", "--picture", str(tmp_path / "new.png")]) == 2
    assert "run it from a clone of the repository" in capsys.readouterr().err
