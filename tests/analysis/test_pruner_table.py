"""The table of pruners is made of the rows: its costs are recomputed here by hand."""

from pathlib import Path

import pytest

from analysis import field, pruners
from analysis.__main__ import main
from vlm_bridge import PRUNERS


def flops(n):
    """Prefill of n tokens by the decoder of LLaVA-1.5-7B, one layer."""
    d, m = 4096, 11008
    return 2 * n * (4 * d * d + 3 * d * m) + 4 * n * n * d


def test_costs_before_the_llm():
    layers = pruners.per_layer(PRUNERS["spare"], 64)
    assert layers == [64] * 32
    assert pruners.share(layers, pruners.SHAPE.prefill_flops) == pytest.approx(flops(128) / flops(640))
    assert pruners.share(layers, pruners.SHAPE.kv_bytes) == pytest.approx(128 / 640)


def test_costs_inside_the_llm():
    layers = pruners.per_layer(PRUNERS["fastv"], 64)
    assert layers == [576] * 2 + [64] * 30
    want = (2 * flops(640) + 30 * flops(128)) / (32 * flops(640))
    assert pruners.share(layers, pruners.SHAPE.prefill_flops) == pytest.approx(want)


def test_every_row_is_in_the_table(monkeypatch, tmp_path, capsys):
    """Each published system and baseline has a line with its own words; nothing is timed here."""
    monkeypatch.setattr(pruners, "milliseconds", lambda row, keep, given: float(set(row.needs) <= set(given)))
    assert main(["pruners", "--keep", "192", "--out", str(tmp_path), "--docs", str(tmp_path)]) == 0
    text = (tmp_path / "pruners.inc").read_text()
    assert text in capsys.readouterr().out
    lines = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    assert set(lines) == {
        name for name, row in PRUNERS.items() if not row.open_options or name in pruners.OF_CSSP
    }
    for name, line in lines.items():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        row = PRUNERS[name]
        assert cells[2] == (", ".join(f"`{s}`" for s in row.needs) or "–")
        assert (cells[3], cells[4]) == (
            "yes" if row.uses_text else "no",
            "yes" if {"cls_attention", "received"} & set(row.needs) else "no",
        )
        assert cells[5] == (row.merges or "dropped")
        assert cells[1].startswith("before" if row.inside is None else "at layer")
        assert cells[9] == "1", "all signals that it needs were at hand"


def test_what_reads_a_tower_is_in_the_docs_with_whose_rule_it_is():
    """The table in the docs is the one that the rows make."""
    text = (Path(__file__).parents[2] / "docs" / "towers.inc").read_text()
    assert text == pruners.towers()
    for row in PRUNERS.values():
        assert (f"| `{row.name}` " in text) == bool(row.elsewhere)
        assert row.elsewhere in text


def test_a_budget_that_cannot_be_is_said():
    line = pruners.line(PRUNERS["pyramiddrop"], 64, {})
    assert line[:2] == ("`pyramiddrop`", "cannot")
    assert line[2] == "144.8 is the least", "8 layers of 32 work on all of 576, 24 on one token: 4632/32"


@pytest.mark.parametrize("name", ["spare", "cdpruner"])
def test_the_time_is_measured(name):
    row = PRUNERS[name]
    assert 0 < pruners.milliseconds(row, 8, {k: pruners.signals()[k] for k in row.needs}) < 60_000


def test_the_picture_of_the_field_is_what_the_pruners_do():
    """Some lines by hand; and each line in the docs is the one that trying its pruner makes."""
    lines = {
        cells[0].strip("`"): cells
        for cells in map(field.line, map(PRUNERS.get, ("spare", "cdpruner", "hiprune", "random")))
    }
    assert lines["spare"][2:] == ("tokens", "counts", "the caller's", "∞", "`residual`")
    assert lines["cdpruner"][2:5] == (
        "tokens, `clip_patches`, `clip_text`",
        "does not count",
        "mean cosine with text, negated, CLIP's joint space",
    )
    assert lines["hiprune"][1:] == ("before the LLM", "`received`, `received_early`", "–", "–", "–", "own")
    assert lines["random"][2:] == ("places", "–", "–", "–", "`uniform`")
    text = (Path(__file__).parents[2] / "docs" / "field.inc").read_text()
    shown = [tuple(cell.strip() for cell in row.split("|")[1:-1]) for row in text.splitlines()[2:]]
    assert len(shown) > 30
    assert shown == [field.line(PRUNERS[cells[0].strip("`")]) for cells in shown]
