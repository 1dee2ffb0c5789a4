"""Pictures, arms, rows and tables of the study on pretrained models, with a model of four numbers."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from analysis.__main__ import main
from analysis.real import arms, cases, drawings, lite0, photographs, rows, table


@pytest.fixture
def tokens():
    rng = np.random.default_rng(0)
    return rng.standard_normal((30, 12)) * rng.uniform(0.1, 3, (30, 1)) @ np.diag(0.6 ** np.arange(12))


# ---- arms


@pytest.mark.parametrize("name", arms.ARMS)
def test_every_arm_keeps_as_many_tokens_as_asked(tokens, name):
    """Also where its picks for fewer tokens are taken from those for more."""
    signals = {"attention": torch.arange(30.0), "gradient": -torch.arange(30.0)}
    given = torch.tensor(tokens, dtype=torch.float32)
    found = arms.kept(name, arms.ARMS[name], given, (9, 6, 2), 0, signals)
    for k, kept in found.items():
        assert len(kept.unique()) == k
        assert kept.tolist() == sorted(arms.ARMS[name](given, k, 0, signals).tolist())
    if name in arms.ORACLES:
        assert found[6].tolist() == (list(range(24, 30)) if name.startswith("attention") else list(range(6)))


# ---- pictures


def test_drawings_are_the_same_every_time_and_differ_by_style():
    pytest.importorskip("rdkit", reason="drawings need rdkit (`make real`)")
    found = drawings.molecules()
    assert len(set(found)) == len(found) >= 200
    assert all(drawings.canonical(one) == one for one in found)
    pixels = {style: np.asarray(drawings.draw(found[3], style, 3), float) for style in drawings.STYLES}
    for style, image in pixels.items():
        assert image.shape == (512, 512)
        assert (image == np.asarray(drawings.draw(found[3], style, 3))).all()
        assert style == "plain" or np.abs(image - pixels["plain"]).mean() > 0.5
    assert pixels["faint"].min() >= 140
    assert (pixels["thick"] < 128).sum() > 1.5 * (pixels["plain"] < 128).sum()
    for style in ("rotated", "noisy"):
        assert (pixels[style] != np.asarray(drawings.draw(found[3], style, 4))).any()


def test_answers_are_compared_as_molecules():
    pytest.importorskip("rdkit", reason="SMILES strings need rdkit (`make real`)")
    assert drawings.canonical("C(C)O") == drawings.canonical("OCC") == "CCO"
    assert drawings.canonical("C1CC") is None
    assert drawings.tanimoto("C(C)O", "OCC") == 1
    assert 0 < drawings.tanimoto("CCO", "CCN") < 1
    assert drawings.tanimoto("C1CC", "CCN") == 0


def test_an_unknown_style_or_crop_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="style = 'bold': expected one of plain, thick"):
        drawings.draw("CCO", "bold")
    with pytest.raises(ValueError, match="which = 'left': expected one of square, top left"):
        photographs.crop(Image.new("RGB", (9, 9)), "left", 4)


def test_crops_are_squares_of_the_photograph_where_they_say():
    page = np.zeros((100, 200, 3), np.uint8)
    page[..., 0] = np.arange(200)
    page[..., 1] = np.arange(100)[:, None]
    found = {
        which: np.asarray(photographs.crop(Image.fromarray(page), which, 70)) for which in photographs.CROPS
    }
    centres = {which: image[..., :2].mean((0, 1)).round().tolist() for which, image in found.items()}
    assert centres["top left"] == pytest.approx([34.5, 34.5], abs=1)
    assert centres["bottom right"] == pytest.approx([164.5, 64.5], abs=1)
    assert centres["middle"] == pytest.approx(centres["square"], abs=1)
    assert np.ptp(found["square"][..., 0]) > 1.3 * np.ptp(found["middle"][..., 0])
    assert len(photographs.paths()) >= 15
    assert photographs.prepare(Image.new("RGB", (5, 4), (255, 127, 0))).amax((1, 2)).tolist() == [
        1,
        0,
        -127 / 128,
    ]


# ---- rows


class Toy:
    """A model whose tokens are the pixels' rows; its answer is right as far as the first token is kept."""

    budgets, columns = (4, 2), ("same",)

    def __init__(self, count=3):
        self.count, self.looked = count, []

    def names(self):
        return [{"group": "plain", "number": i} for i in range(self.count)]

    def picture(self, name):
        return Image.fromarray(np.random.default_rng(name["number"]).integers(0, 255, (8, 5), np.uint8))

    def look(self, name, picture):
        self.looked.append(name["number"])
        tokens = torch.tensor(np.asarray(picture), dtype=torch.float32)
        signals = {"attention": tokens.mean(1), "gradient": torch.ones(8)}
        return SimpleNamespace(
            tokens=tokens,
            signals=signals,
            facts={"exact": float(name["number"] != 1), "norm and ink": 0.1 * name["number"]},
            answer=lambda keep: [
                {"loss": 0.5, "accuracy": float(0 in k), "same": 0.0} for k in keep.tolist()
            ],
        )


RULES = {
    "first": lambda tokens, k, seed, signals: torch.arange(k),
    "last": lambda tokens, k, seed, signals: torch.arange(8 - k, 8),
}


def test_a_run_measures_each_picture_once(tmp_path):
    path, said = tmp_path / "rows" / "toy.jsonl", []
    model = Toy()
    found = rows.run(model, path, RULES, said.append)
    assert len(found) == 3 * (1 + 2 * 2) == len(rows.read(path))
    assert len(said) == 3
    cell = next(row for row in found if row["number"] == 2 and row["arm"] == "last" and row["keep"] == 2)
    tokens = np.asarray(model.picture({"number": 2}), float)
    left = tokens - tokens @ np.linalg.pinv(tokens[6:]) @ tokens[6:]
    for p in (1, 2, 4, 8, 16, np.inf):
        sizes = [np.linalg.norm(np.linalg.norm(x, axis=1), p) for x in (left, tokens)]
        assert cell[f"error {p:g}"] == pytest.approx(sizes[0] / sizes[1])
    assert cell["lost gradient"] == pytest.approx(0.75)
    assert (cell["accuracy"], cell["loss"]) == (0, 0.5)
    assert rows.run(again := Toy(), path, RULES, said.append) == found
    assert again.looked == []
    more = rows.run(wider := Toy(4), path, RULES | {"random": arms.BLIND["random"]}, said.append)
    assert wider.looked == [0, 1, 2, 3]
    assert len(more) == 4 * (1 + 3 * 2) == len(rows.read(path))


def test_a_line_that_was_cut_off_is_measured_again(tmp_path):
    path = tmp_path / "toy.jsonl"
    whole = rows.run(Toy(), path, RULES, lambda line: None)
    text = path.read_text()
    path.write_text(text[:-20])
    assert len(rows.read(path)) == len(whole) - 1
    assert path.read_text() == text[:-20]
    assert rows.run(Toy(), path, RULES, lambda line: None) == whole
    assert sorted(rows.read(path), key=str) == sorted(whole, key=str)


def test_packed_rows_keep_their_columns(tmp_path):
    found = rows.run(Toy(), tmp_path / "toy.jsonl", RULES, lambda line: None)
    rows.pack(found, tmp_path / "rows.npz")
    with np.load(tmp_path / "rows.npz", allow_pickle=False) as packed:
        assert packed["arm"].tolist() == [row["arm"] for row in found]
        assert packed["keep"].tolist() == [row["keep"] for row in found]
        wanted = [row.get("error 2", np.nan) for row in found]
        np.testing.assert_allclose(packed["error 2"], wanted, rtol=1e-3)
    again = rows.packed(tmp_path / "rows.npz")
    assert len(again) == len(found)
    for row, wanted in zip(again, found, strict=True):
        assert row.keys() == {name for name, value in wanted.items() if value == value}
        for name, value in row.items():
            exact = not isinstance(value, float)
            assert value == (wanted[name] if exact else pytest.approx(wanted[name], rel=1e-3)), name


# ---- tables


@pytest.fixture
def few_resamples(monkeypatch):
    monkeypatch.setattr(table, "RESAMPLES", 60)


def planted(pictures=12, sign=-1.0):
    """Rows in which accuracy falls with the error (or rises), and two pictures that are not answered from all tokens."""
    rng = np.random.default_rng(3)
    found = []
    for picture in range(pictures + 2):
        name = {"content": f"{picture}", "group": "plain", "number": picture}
        found.append(
            {
                **name,
                "arm": arms.ALL,
                "keep": 256,
                "exact": float(picture < pictures),
                "norm and ink": picture / 10,
            }
        )
        for i, arm in enumerate(arms.ARMS):
            for keep in (64, 16):
                error = 0.05 * i + 0.15 * rng.random()
                cell = dict.fromkeys(table.PREDICTORS, error) | {"same": 1.0, "loss": 1.0 + error}
                wrong = 0.5 if picture < pictures else 0.0
                found.append(
                    {
                        **name,
                        "arm": arm,
                        "keep": keep,
                        **cell,
                        "accuracy": wrong + sign * error / 2 + 0.6 * rng.random(),
                    }
                )
    return found


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_correlation_has_the_sign_of_what_was_planted(sign):
    found = planted(sign=sign)
    found[1]["tanimoto"] = 1.0  # a column that one row alone has is left out
    means = table.Means(found)
    found = means.order("error 2", "accuracy", 16)
    assert found.low <= found.value <= found.high
    assert sign * found.value > 0.8
    assert means.order("error 2", "loss", 16, sign=-1.0).value < -0.99


def test_only_pictures_answered_from_all_tokens_and_measured_everywhere_count():
    found = planted()
    assert table.Means(found).pictures == [f"{i}" for i in range(12)]
    found.remove(next(row for row in found if row["content"] == "4" and row["arm"] == "greedy"))
    means = table.Means(found)
    assert means.pictures == [f"{i}" for i in range(12) if i != 4]
    own = [
        row["accuracy"]
        for row in found
        if (row["arm"], row["keep"]) == ("greedy", 16) and row["number"] not in (4, 12, 13)
    ]
    assert means.mean("accuracy", "greedy", 16) == pytest.approx(np.mean(own))


def test_a_gap_is_paired_and_has_no_interval_from_few_pictures():
    means = table.Means(planted())
    found = means.gap("accuracy", "residual", "random", 64)
    assert found.value == pytest.approx(
        means.mean("accuracy", "residual", 64) - means.mean("accuracy", "random", 64)
    )
    assert 0 < found.low < found.value < found.high
    assert np.isnan(table.Means(planted(pictures=5)).gap("loss", "residual", "random", 64).low)


def test_the_interval_of_a_mean_is_near_students():
    values = np.random.default_rng(0).standard_normal(60)
    found = table.interval(lambda picks, axis=-1: values[picks].mean(-1), 60)
    half = 2.0 * values.std(ddof=1) / 60**0.5
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * half, rel=0.15)


@pytest.mark.usefixtures("few_resamples")
def test_pages_show_every_arm_and_each_style():
    found = planted()
    text = table.pages(found, "drawings")
    assert all(text.count(f"| {arm} ") >= 3 for arm in arms.ARMS)
    assert "14 pictures; 12 are counted below, which the model answers rightly" in text
    assert "| norm and ink " in text
    other = [row | {"group": "noisy", "content": f"n{row['content']}"} for row in found]
    assert table.pages(found + other, "drawings").count("## drawings, ") == 3
    assert "No picture was measured" in table.pages(found[:1], "drawings")


# ---- the command


@pytest.mark.usefixtures("few_resamples")
def test_the_command_prints_the_table_of_rows_that_are_there(tmp_path, capsys):
    (tmp_path / "rows").mkdir()
    text = "".join(f"{json.dumps(row)}\n" for row in planted())
    (tmp_path / "rows" / "drawings.jsonl").write_text(text)
    command = ["real", "--models", "drawings", "--table", "--out", str(tmp_path)]
    assert main([*command, "--pack", str(tmp_path / "rows.npz")]) == 0
    assert capsys.readouterr().out.strip() == (tmp_path / "real.md").read_text().strip()
    assert (tmp_path / "rows.npz").exists()
    assert main([*command, "--arms", "best"]) == 2
    assert "--arms: expected names among residual" in capsys.readouterr().err


@pytest.mark.usefixtures("few_resamples")
def test_without_rows_of_its_own_the_command_prints_the_table_of_the_shipped_ones(tmp_path, capsys):
    assert main(["real", "--models", "photographs", "--table", "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "## photographs" in text
    assert "108 pictures" in text
    assert "drawings" not in text


def test_each_molecule_in_turn_is_drawn_in_another_style(monkeypatch):
    monkeypatch.setattr(cases.decimer, "load", lambda: None)
    monkeypatch.setattr(cases.drawings, "molecules", lambda: ("C",) * 9)
    styles = ("thick", "noisy", "faint")
    named = cases.Drawings(styles, 4, first=2, in_turn=True).names()
    assert [(n["number"], n["group"]) for n in named] == [
        (2, "faint"),
        (3, "thick"),
        (4, "noisy"),
        (5, "faint"),
    ]
    assert len(cases.Drawings(styles, 4).names()) == 12


def test_without_the_models_the_command_says_how_to_get_them(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["real", "--models", "photographs"]) == 2
    assert "`make real`" in capsys.readouterr().err


def test_tokens_that_add_to_the_class_are_the_signal_of_photographs():
    """The whole way from a crop to a row, with a classifier of two classes."""
    model = object.__new__(cases.Photographs)
    head = torch.tensor([[3.0, 0, 0], [0, 1, 0]])
    model.model = SimpleNamespace(
        encode=lambda x: torch.tensor([[[4.0, 0, 0], [0, 2, 0], [0, 0, 1]]]),
        logits=lambda t, keep=None: (t if keep is None else t[0][keep]).mean(1) @ head.T,
        contributions=lambda t: (t - t.mean(1, keepdim=True)) @ head[0],
    )
    case = model.look({}, Image.new("RGB", (lite0.SIDE, lite0.SIDE)))
    assert case.facts["exact"] == 1
    assert case.signals["attention"].argmax() == 0
    assert case.signals["attention"].min() < 0
    assert (case.signals["gradient"] == case.signals["attention"].abs()).all()
    assert [row["same"] for row in case.answer(torch.tensor([[0, 2], [1, 2]]))] == [1, 0]
