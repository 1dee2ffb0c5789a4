"""The study end to end on an untrained model: rows, resumption, statistics, figures and page."""

from __future__ import annotations

import csv
import re

import numpy as np
import pytest

from analysis import report, statistics, study
from analysis.__main__ import main

ARMS = ("spare", "resprune", "random", "random + fold")


@pytest.fixture(scope="module")
def plan(untrained):
    return study.Plan(scenes=2, keeps=(0.25, 0.06), arms=ARMS, model=str(untrained))


@pytest.fixture(scope="module")
def finished(plan, tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    return study.run(plan, out, workers=1)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_one_row_a_question_and_cell(plan, finished):
    found = rows(finished)
    questions = [len(study.held_out(0, i).questions) for i in range(2)]
    assert len(found) == sum(questions) * len(plan.cells())
    tokens = {(r["method"], r["keep"], r["tokens"]) for r in found}
    assert tokens == {(m, str(k), {1.0: "144", 0.25: "36", 0.06: "9"}[k]) for m, k in plan.cells()}
    assert all(0 <= float(r["error"]) <= 1 for r in found)
    assert {r["error"] for r in found if r["method"] == "full"} == {"0.0"}


def test_folding_keeps_the_same_tokens_and_random_differs_between_scenes(finished):
    error = {(r["method"], r["keep"], r["scene"]): r["error"] for r in rows(finished)}
    assert error["random", "0.06", "0"] == error["random + fold", "0.06", "0"]
    assert error["random", "0.06", "0"] != error["random", "0.06", "1"]


def test_a_killed_study_goes_on(plan, finished, tmp_path):
    text = finished.read_text().splitlines(keepends=True)
    second = next(i for i, r in enumerate(rows(finished)) if r["scene"] != rows(finished)[0]["scene"]) + 1
    path = tmp_path / "rows.csv"
    path.write_text(
        "".join(text[: second + 5]) + text[second + 5][:9]
    )  # killed within a line of the second scene
    assert len(study.whole_units(path)) == 1
    assert path.read_text() == "".join(text[:second])
    study.run(plan, tmp_path, workers=1)
    without_time = lambda p: sorted([tuple(v for k, v in r.items() if k != "seconds") for r in rows(p)])  # noqa: E731
    assert without_time(path) == without_time(finished)
    before = path.stat().st_mtime_ns, path.read_bytes()
    study.run(plan, tmp_path, workers=1)  # nothing left to do
    assert path.read_bytes() == before[1]


def test_figures_and_one_self_contained_page(plan, finished, capsys):
    assert main(["figures", "--out", str(finished.parent), "--model", plan.model]) == 0
    printed = capsys.readouterr().out
    assert "random + fold" in printed
    assert "Spearman" in printed
    page = (finished.parent / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert len(rows(finished.parent / "summary.csv")) == len(plan.cells())


def test_unknown_arm_is_named(capsys):
    assert main(["study", "--arms", "spare", "nonsense"]) == 2
    assert "nonsense" in capsys.readouterr().err


def made(right, asked, error, cells=None):
    """Results with given (cells, scenes) arrays."""
    right, asked, error = (np.asarray(x, float) for x in (right, asked, error))
    cells = cells or [("full", 1.0)] + [(f"m{i}", 0.5) for i in range(len(right) - 1)]
    names = tuple((0, i) for i in range(right.shape[1]))
    return statistics.Results(tuple(cells), names, right, asked, error, np.full(len(cells), 9.0), {})


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    """Scenes as clusters: the 95 % interval covers the true accuracy in 86 to 100 of 100 repetitions.

    With coverage 0.95 the chance of fewer than 83 hits is below 1e-6 (binomial tail).
    """
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        asked = np.full((1, 60), 12)
        level = rng.beta(8, 4, size=60)
        right = rng.binomial(12, level)[None]
        (bar,) = statistics.accuracies(made(right, asked, asked * 0, [("full", 1.0)]))
        hits += bar.low <= 8 / 12 <= bar.high
    assert hits >= 83


def test_correlations_have_the_right_sign_and_stay_out_of_folded_arms():
    rng = np.random.default_rng(1)
    error = np.repeat(np.linspace(0, 0.6, 7)[:, None], 80, 1)
    asked = np.full(error.shape, 20.0)
    right = rng.binomial(20, 0.9 - error)
    cells = [("full", 1.0)] + [(f"m{i}", 0.5) for i in range(5)] + [("m0 + fold", 0.5)]
    right[-1] = 20  # a folded twin with the largest error and perfect answers must not blur the relation
    found = statistics.correlations(made(right, asked, error, cells))
    assert found["all budgets pooled"].value == pytest.approx(-1)
    assert found["within keep = 0.5"].high < 0
    reversed_ = statistics.correlations(made(20 - right, asked, error, cells))
    assert reversed_["within keep = 0.5"].low > 0
    assert any("against the theory" in s for s in report.verdict(reversed_))


def test_paired_difference_is_sharper_than_two_intervals():
    rng = np.random.default_rng(2)
    level = rng.beta(2, 2, size=100)
    base = rng.binomial(20, level)
    right = np.stack([base, base, np.minimum(20, base + 1)])
    results = made(right, np.full(right.shape, 20.0), np.zeros(right.shape))
    gap = statistics.differences(results, "m0", 0.5)["m1"]
    bars = statistics.accuracies(results)
    assert gap.low > 0
    assert bars[1].high > bars[2].low
    assert statistics.retained(results)[1].value == 1
