"""The study on a user's own checkpoint and questions: what is said, and that no row is used for anything it was not made from."""

from __future__ import annotations

import functools
import importlib.util
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

import vlm_bridge
from analysis import study
from analysis.__main__ import main
from analysis.study import answer_files, digest, user_data
from analysis.study.arms import Arm
from analysis.study.predictors import NAMES, error_name
from analysis.study.question_files import read


def picture(path, seed):
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (50, 60, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny random LLaVA, saved as a user's would be."""
    spec = importlib.util.spec_from_file_location(
        "tiny_vlm", Path(__file__).parents[1] / "vlm_bridge" / "tiny_vlm.py"
    )
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    folder = tmp_path_factory.mktemp("own") / "tiny"
    model = tiny.tiny_model("llava")
    model.config.image_token_id = 7
    model.save_pretrained(folder)
    words = tiny.tiny_tokenizer()
    words.add_special_tokens({"additional_special_tokens": ["<image>"]})
    sizes = {"height": tiny.SIDE, "width": tiny.SIDE}
    pixels = CLIPImageProcessorPil(size=sizes, do_center_crop=False)
    LlavaProcessor(
        pixels, words, patch_size=tiny.PATCH, vision_feature_select_strategy="default", image_token="<image>",
        num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture(params=["jsonl", "parquet"])
def questions(request, tmp_path):
    files = [picture(tmp_path / f"{i}.png", i) for i in range(2)]
    rows = [
        {"image": f.name, "question": f"w{20 + i} w30 ?", "answer": "w40", "skill": "words"}
        for f in files
        for i in range(2)
    ]
    if request.param == "jsonl":
        path = tmp_path / "asked.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
        return path
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    import pyarrow

    for row, file in zip(rows, np.repeat(files, 2), strict=True):
        row["image"] = {"bytes": file.read_bytes(), "path": file.name}
        row["answers"], row["category"] = [row.pop("answer"), "w41"], row.pop("skill")
    path = tmp_path / "asked.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def first_unit(monkeypatch, checkpoint, questions, out, names):
    """The unit of the first image, from rows that are there."""
    kept = []
    with monkeypatch.context() as patched:
        patched.setattr(user_data, "ask", lambda *_: pytest.fail("everything has been asked"))
        patched.setattr(user_data.plans, "pack_units", lambda found, path: kept.extend(found))
        patched.setattr(user_data, "_add_saved", lambda *_: None)
        user_data.run(str(checkpoint), questions, out, names, (0.3,))
    assert [(model, family, number) for model, family, number, _ in kept] == [
        ("tiny", "asked", "0"),
        ("tiny", "asked", "1"),
    ]
    return kept[0][-1]


def test_own_checkpoint_and_questions(checkpoint, questions, tmp_path, capsys, monkeypatch):
    """The command ends in a page; what is said is what `generate` says inside `prune`."""
    out = tmp_path / "out"
    always = functools.partial(user_data.tqdm, mininterval=0, miniters=1)
    monkeypatch.setattr(user_data, "tqdm", always)
    command = [
        "study",
        "--model",
        str(checkpoint),
        "--questions",
        str(questions),
        "--out",
        str(out),
        "--keep",
        "0.3",
    ]
    assert main([*command, "--arms", "spare", "divprune + fold", "random"]) == 0
    assert (out / "report.html").stat().st_size > 10_000
    assert len(list((out / "answers").iterdir())) == 4
    one = first_unit(monkeypatch, checkpoint, questions, out, ("spare", "divprune + fold", "random"))
    assert one.skills.tolist() == ["words"] * 2
    assert set(one.cells) == {(study.FULL, 1.0), ("spare", 0.3), ("divprune + fold", 0.3), ("random", 0.3)}
    assert dict(zip(one.cells, one.tokens, strict=True))["spare", 0.3] == 11  # of 36
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model, processor = (a.from_pretrained(checkpoint) for a in (AutoModelForImageTextToText, AutoProcessor))
    asked = read(questions)[0]
    inputs = processor(images=[asked.open()], text=["<image> w20 w30 ?"], return_tensors="pt")
    inputs.pop("token_type_ids", None)
    with vlm_bridge.prune(model, 0.3, "divprune", fold=True) as report:
        new = model.generate(**inputs, max_new_tokens=user_data.WORDS, do_sample=False)[
            0, inputs["input_ids"].shape[1] :
        ]
    at = one.cells.index(("divprune + fold", 0.3))
    assert one.said[at, 0] == processor.tokenizer.decode(new, skip_special_tokens=True).strip()
    frobenius = list(NAMES).index(error_name(2))
    assert one.predictors[at, frobenius] == pytest.approx(report.errors[0], rel=1e-4)
    told = capsys.readouterr()
    assert told.out.startswith("Too few images to recommend a pruner: 2, and intervals need 8.")
    assert re.search(r"(saves|takes) \d", told.out.splitlines()[0])
    head = (out / "report.html").read_text().partition("<nav")[0]
    assert told.out.splitlines()[0] in re.sub("<[^>]*>", "", head)
    assert re.search(r"loading the model: +0%.* 0/16 ", told.err)  # four questions in four cells
    assert re.search(r"image 1 of 2: .* 1/16 ", told.err)
    assert re.search(r"image 2 of 2: 100%.* 16/16 ", told.err)


def test_what_an_answer_saves_is_measured_question_by_question(mine, monkeypatch):
    """With a clock of our own: 5 s for each answer with all tokens, 2 s with spare, 7 s with random."""
    spent = {None: 5.0, "spare": 2.0, "random": 7.0}
    ask = user_data.ask

    def timed(*given):
        arms = {answer_files.key(*cell): cell[0] and cell[0].name for cell in given[4]}
        return {key: one._replace(elapsed=spent[arms[key]]) for key, one in ask(*given).items()}

    monkeypatch.setattr(user_data, "ask", timed)
    mine.run(mine.folder / "empty")
    with np.load(mine.folder / "empty" / "rows.npz") as file:
        saved = dict(zip(file["arms"].tolist(), file["saved"].tolist(), strict=True))
    assert saved == {study.FULL: 0, "spare": 3, "random": -2}


@pytest.mark.parametrize(
    ("said", "answers", "contains", "exact"),
    [
        ("A red car.", ["red car"], True, True),
        ("It is a red car", ["red car"], True, False),
        ("bored", ["red"], False, False),
        ("1.5", ["1,5", "1.5"], True, True),
        ("no", ["yes"], False, False),
        ("", ["yes"], False, False),
        ("A", ["A"], True, True),
        ("A. a cat", ["A"], True, False),
        ("B. the cat", ["A"], False, False),
        ("yes", ["the yes", "no"], True, True),
    ],
)
def test_scoring(said, answers, contains, exact):
    assert (user_data.right(said, answers), user_data.right(said, answers, "exact")) == (contains, exact)
    with pytest.raises(ValueError, match="contains, exact"):
        user_data.right(said, answers, "vague")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"image": "0.png", "question": "w1 ?"}', "no 'answer'"),
        ('{"image": "0.png", "question": "w1 ?", "answer": "x"}\n{"image": "0.png"', "line 2: not JSON"),
        ('{"image": "none.png", "question": "w1 ?", "answer": "x"}', "none.png"),
        ("[1]", "instead of an object"),
        ("", "no question"),
    ],
)
def test_a_file_of_questions_that_is_wrong_is_told_where(tmp_path, text, told, capsys):
    picture(tmp_path / "0.png", 0)
    path = tmp_path / "asked.jsonl"
    path.write_text(text)
    assert main(["study", "--questions", str(path)]) == 2
    assert told in capsys.readouterr().err
    assert main(["study", "--questions", str(tmp_path / "missing.jsonl")]) == 2
    assert "no such file" in capsys.readouterr().err


def test_arms_that_need_a_joint_space_are_refused_with_those_that_do_not():
    with pytest.raises(ValueError, match="divprune"):
        user_data._arguments(study.ARMS["cdpruner"], 0.5)


# ---- rows are used for what they were made from, and for nothing else


class Study:
    """Files of a user's study, which a test may change between runs."""

    def __init__(self, folder):
        self.folder, self.out = folder, folder / "out"
        self.model, self.file = folder / "tiny", folder / "asked.jsonl"
        self.rows = [
            {"image": f"{i}.png", "question": f"w{20 + q} ?", "answer": "w40"}
            for i in range(2)
            for q in range(2)
        ]
        self.arms, self.keeps, self.scoring = ("spare", "random"), (0.3,), "contains"

    def run(self, out=None):
        """Arrays of the packed rows but for times, and the questions that the model was asked, with the number of cells."""
        self.file.write_text("\n".join(map(json.dumps, self.rows)))
        asked, ask = [], user_data.ask
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(
                user_data, "ask", lambda *given: asked.append((given[3], len(given[4]))) or ask(*given)
            )
            path = user_data.run(
                str(self.model), self.file, out or self.out, self.arms, self.keeps, scoring=self.scoring
            )
        with np.load(path) as found:
            measured = ("seconds", "saved")
            return {name: repr(found[name].tolist()) for name in found.files if name not in measured}, asked

    def edit(self, name, change):
        path = self.model / name
        found = json.loads(path.read_text())
        change(found)
        path.write_text(json.dumps(found))


@pytest.fixture(scope="module")
def finished(checkpoint, tmp_path_factory):
    """The folder of a study that has been run."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(checkpoint, folder / "tiny")
    for i in range(2):
        picture(folder / f"{i}.png", i)
    assert Study(folder).run()[1] == ALL_NEW
    return folder


@pytest.fixture
def mine(finished, tmp_path):
    """A copy of it, to be changed."""
    return Study(shutil.copytree(finished, tmp_path / "mine"))


def other_image(mine):
    picture(mine.folder / "0.png", 9)


def other_question(mine):
    mine.rows[1]["question"] = "w50 w51 ?"


def other_model(mine):
    """One of the same folder name, moved in its place."""
    path = mine.model / "model.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if "embed_tokens" in name)
    weights[name] = weights[name].roll(1, 0).contiguous()
    save_file(weights, path, {"format": "pt"})


def other_configuration(mine):
    mine.edit("config.json", lambda found: found["text_config"].update(rms_norm_eps=0.1))


def other_generation(mine):
    mine.edit("generation_config.json", lambda found: found.update(repetition_penalty=5.0))


def other_processor(mine):
    mine.edit(
        "processor_config.json", lambda found: found["image_processor"].update(image_mean=[0.9, 0.9, 0.9])
    )


def more_arms(mine):
    mine.arms = (*mine.arms, "divprune")


def other_options(mine):
    mine.patched.setitem(user_data.ALL, "spare", Arm("spare", "spare", options={"alpha": 2.0}))


def other_code(mine):
    mine.patched.setattr(digest, "SOURCES", digest.SOURCES | {"study": str(mine.model / "changed.py")})


def other_library(mine):
    known = digest.version
    mine.patched.setattr(digest, "version", lambda name: "99" if name == "transformers" else known(name))


def new_file_name(mine):
    mine.file = mine.folder / "questions.jsonl"


def same_file_name_elsewhere(mine):
    mine.file = mine.folder / "elsewhere" / "asked.jsonl"
    mine.file.parent.mkdir()
    mine.rows = [{"image": picture(mine.file.parent / "0.png", 7).name, "question": "w20 ?", "answer": "w1"}]


def other_order(mine):
    mine.rows.reverse()


def moved_model(mine):
    mine.model = mine.model.rename(mine.folder / "moved")


def moved_image(mine):
    (mine.folder / "0.png").rename(mine.folder / "new.png")
    for row in mine.rows[:2]:
        row["image"] = "new.png"


def fewer_arms(mine):
    mine.arms = ("spare",)


def nothing(mine):
    pass


ALL_NEW = [("w20 ?", 3), ("w21 ?", 3)] * 2


@pytest.mark.parametrize(
    ("change", "asked"),
    [
        (nothing, []),
        (other_image, [("w20 ?", 3), ("w21 ?", 3)]),
        (other_question, [("w50 w51 ?", 3)]),
        (same_file_name_elsewhere, [("w20 ?", 3)]),
        (other_model, ALL_NEW),
        (other_configuration, ALL_NEW),
        (other_generation, ALL_NEW),
        (other_processor, ALL_NEW),
        (other_code, ALL_NEW),
        (other_library, ALL_NEW),
        (more_arms, [("w20 ?", 1), ("w21 ?", 1)] * 2),
        (other_options, [("w20 ?", 1), ("w21 ?", 1)] * 2),
        (new_file_name, []),
        (other_order, []),
        (moved_model, []),
        (moved_image, []),
        (fewer_arms, []),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_changed_ingredient_is_asked_anew_and_nothing_else(mine, change, asked, monkeypatch):
    """What comes of old and new rows together is what an empty folder gives."""
    mine.patched = monkeypatch
    change(mine)
    found, anew = mine.run()
    assert anew == asked
    expected, everything = mine.run(mine.folder / "empty")
    assert len(everything) == len(mine.rows)
    assert found == expected


def test_answers_and_scoring_are_judged_anew_without_asking(mine):
    with np.load(next((mine.out / "answers").iterdir())) as file:
        said = str(file["said"][0])
    assert len(said.split()) > 1
    before, _ = mine.run()
    for row in mine.rows:
        row |= {"answer": said.split()[0], "skill": "words"}
    contained, asked = mine.run()
    assert (contained["score"] != before["score"], contained["skills"], asked) == (True, "['words']", [])
    assert (contained, len(mine.rows)) == (mine.run(mine.folder / "empty")[0], 4)
    mine.scoring = "exact"
    exact, asked = mine.run()
    assert (exact["score"] != contained["score"], asked) == (True, [])


def test_a_killed_run_goes_on_with_the_question_it_was_at(mine, monkeypatch):
    expected, _ = mine.run()
    shutil.rmtree(mine.out)
    ask, count = user_data.ask, iter(range(9))

    def killed(*given):
        if next(count) == 2:
            raise KeyboardInterrupt
        return ask(*given)

    with monkeypatch.context() as patched:
        patched.setattr(user_data, "ask", killed)
        with pytest.raises(KeyboardInterrupt):
            mine.run()
    assert mine.run() == (expected, ALL_NEW[2:])


def test_files_that_are_damaged_or_were_made_from_something_else_are_not_used(mine):
    expected, _ = mine.run()
    first, second, third, fourth = sorted((mine.out / "answers").iterdir())
    shutil.copy(first, second)
    third.write_bytes(first.read_bytes()[:300])
    with np.load(fourth) as file:
        known = {name: file[name] for name in file.files if name != "made_from"}
    np.savez_compressed(fourth, **known)
    found, asked = mine.run()
    assert (found, len(asked)) == (expected, 3)


def test_a_byte_that_is_damaged_anywhere_costs_a_row_and_nothing_else(mine):
    mine.run()
    path = next((mine.out / "answers").iterdir())
    with np.load(path) as file:
        made_from = json.loads(str(file["made_from"]))
    whole = path.read_bytes()
    expected = str(answer_files.load(path.parent, made_from))
    for place in range(0, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        assert str(answer_files.load(path.parent, made_from)) in ("{}", expected)


def test_rows_of_earlier_versions_are_refused_by_name(mine, capsys):
    old = mine.out / "rows" / "tiny" / "asked-0.npz"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"")
    mine.file.write_text("\n".join(map(json.dumps, mine.rows)))
    assert main(["study", "--questions", str(mine.file), "--out", str(mine.out)]) == 2
    told = capsys.readouterr().err
    assert str(old.parents[1]) in told
    assert "--out" in told


def test_an_image_that_changes_while_the_study_runs_is_noticed(mine):
    mine.run()
    (one, _) = read(mine.file)
    other_image(mine)
    with pytest.raises(ValueError, match=r"0\.png has changed"):
        one.open()


def test_images_in_a_parquet_file_are_told_apart_by_their_bytes(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
    from pyarrow import parquet

    files = [picture(tmp_path / f"{i}.png", i).read_bytes() for i in (0, 1, 0)]
    rows = [
        {"image": {"bytes": file, "path": "image.png"}, "question": f"w{i} ?", "answer": "x"}
        for i, file in enumerate(files)
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "asked.parquet")
    found = read(tmp_path / "asked.parquet")
    assert [[q.text for q in one.questions] for one in found] == [["w0 ?", "w2 ?"], ["w1 ?"]]
    assert [one.source for one in found] == files[:2]
