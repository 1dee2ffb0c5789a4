"""Hostile inputs: every method of ours passes, and the judge notices whatever is wrong."""

from __future__ import annotations

import csv
import os
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analysis.__main__ import main
from analysis.benchmarks import edges
from analysis.benchmarks.edges import cases, routines
from analysis.benchmarks.edges.judge import Exact, Verdict, fails, judge
from analysis.benchmarks.edges.routines import Answer, Routine, answer, answers
from cssp import METHODS

CASES = {case.name: case for case in cases.CASES}
OURS = {routine.method: routine for routine in routines.OURS}
DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("method", METHODS)
def test_no_cell_of_ours_fails(method):
    replies = {name: answer(OURS[method], case) for name, case in CASES.items()}
    verdicts = {
        name: judge(case, OURS[method], replies[name], replies.get(case.like)) for name, case in CASES.items()
    }
    assert not {name: str(v) for name, v in verdicts.items() if fails(CASES[name], v)}


def test_the_table_in_the_docs_has_these_rows_and_no_failure():
    lines = (DOCS / "edges.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert rows[0][1] == "cssp, every method"
    assert [row[0] for row in rows[2:]] == list(CASES)
    for row in rows[2:]:
        assert row[1] == ("refused" if CASES[row[0]].senseless else "ok"), row


def fake(picks=(), **reply):
    return Routine("fake", run=lambda case: Answer(picks=(tuple(picks),), **reply), rule="residual")


def verdict(name, routine, plain=None):
    return str(judge(CASES[name], routine, answer(routine, CASES[name]), plain))


GOOD = (9, 2, 8, 1)  # the pivots of the plain matrix


def test_the_exact_pivots():
    state, picks = Exact(CASES["plain"].A), []
    for _ in range(4):
        picks.append(int(np.argmax([float(x) for x in state.norms2])))
        state.take(picks[-1])
    A = CASES["plain"].A
    Q, _ = np.linalg.qr(A[:, picks])
    np.testing.assert_allclose(float(sum(state.norms2)), np.linalg.norm(A - Q @ (Q.T @ A)) ** 2, rtol=1e-12)
    assert tuple(picks) == GOOD
    assert verdict("plain", fake(GOOD)) == "ok"
    before = np.linalg.norm(A) ** 2
    for j, gain in enumerate(Exact(A).gains):
        q = A[:, j] / np.linalg.norm(A[:, j])
        np.testing.assert_allclose(float(gain), before - np.linalg.norm(A - np.outer(q, q @ A)) ** 2)
    assert [Exact(CASES[c].A).rank() for c in ("rank 2", "all zero", "every column twice")] == [2, 0, 5]


@pytest.mark.parametrize(
    ("name", "routine", "expected"),
    [
        ("plain", fake((9, 2, 9, 1)), "WRONG: duplicates"),
        ("plain", fake((9, 2, 8)), "WRONG: 3 of 4 columns"),
        ("plain", fake((9, 2, 8, 10)), "WRONG: no such column"),
        ("plain", fake((9, 2, 8, -9)), "WRONG: no such column"),
        ("plain", fake((9, 2, 1, 8)), "WRONG: pick 3 is 1, not 8"),
        ("times 1e200", fake((0, 1, 2, 3)), "WRONG: pick 1 is 0, not 9"),
        ("times 1e-200", fake((9, 2, 1, 8)), "WRONG: pick 3 is 1, not 8"),
        ("plain", fake(GOOD, finite=False), "NaN"),
        ("rank 2", replace(fake((0, 1, 2, 3)), rule=""), "silent"),
        ("all zero", fake((0, 1, 2, 3), finite=False), "NaN"),
        ("eight zero columns", replace(fake((0, 1, 2, 3)), rule=""), "WRONG: dependent columns"),
        ("every column twice", replace(fake((0, 1, 2, 4)), rule=""), "WRONG: dependent columns"),
        ("NaN in one column", fake((9, 2, 6, 1)), "WRONG: picks column 6"),
        ("NaN in one column", fake((9, 2, 8, 1)), "WRONG: accepted"),
        ("weights with NaN", fake(GOOD), "WRONG: accepted"),
        ("batch: rank 2 beside full rank", fake(GOOD), "WRONG: 1 answers to 2 matrices"),
    ],
)
def test_wrong_answers_are_noticed(name, routine, expected):
    assert verdict(name, routine) == expected


def test_the_columns_of_the_plain_case_are_wanted_again():
    loose = replace(fake((0, 1, 2, 3)), rule="")
    assert verdict("times 1e200", loose, Answer(picks=(GOOD,))) == "WRONG: not the columns of 'plain'"
    assert verdict("times 1e200", loose, Answer(picks=((0, 1, 2, 3),))) == "ok"


@pytest.mark.parametrize("item", [0, 1])
def test_one_bad_item_condemns_a_batch(item):
    name = "batch: rank 2 beside full rank"
    picks = list(answer(OURS["residual"], CASES[name]).picks)
    assert (
        verdict(name, Routine("fake", run=lambda case: Answer(picks=tuple(picks)), rule="residual"))
        == "silent"
    )
    picks[item] = picks[item][::-1]
    routine = Routine("fake", run=lambda case: Answer(picks=tuple(picks)), rule="residual")
    assert verdict(name, routine).startswith(f"WRONG: pick 1 is {picks[item][0]}")


def test_a_tie_of_ours_goes_to_the_lowest_index():
    assert verdict("equal norms", fake((3, 1, 2, 0))) == "ok"
    assert (
        verdict("equal norms", replace(fake((3, 1, 2, 0)), lowest=True))
        == "WRONG: pick 1 is 3 in a tie with 0"
    )
    assert verdict("all zero", replace(fake((0, 2, 1, 3)), lowest=True)).startswith("WRONG: pick 2 is 2, not")


def test_the_gain_rule():
    gains = [float(x) for x in Exact(CASES["plain"].A).gains]
    best = answer(OURS["greedy"], CASES["plain"]).picks[0]
    assert best[0] == int(np.argmax(gains))
    swapped = Routine("fake", lambda case: Answer(picks=(best[::-1],)), rule="gain")
    assert verdict("plain", swapped) == f"WRONG: pick 1 is {best[-1]}, not {best[0]}"


def test_a_refusal_says_why():
    def refuse(words, kind=ValueError):
        def run(case):
            raise kind(words)

        return Routine("fake", run)

    assert verdict("NaN in one column", refuse("Input X contains NaN.")) == "refused"
    assert verdict("NaN in one column", refuse("info = -4")) == "obscure error: ValueError"
    assert verdict("plain", refuse("rank is too small")) == "obscure error: ValueError"
    ours = replace(refuse("A has NaN in column 6"), method="residual")
    assert fails(
        CASES["NaN in one column"], judge(CASES["NaN in one column"], ours, answer(ours, CASES["plain"]))
    )


def test_what_fails():
    sound, senseless = CASES["plain"], CASES["one Inf"]
    kinds = ("ok", "silent", "refused", "obscure error", "WRONG", "NaN", "CRASH", "HANG")
    assert [kind for kind in kinds if not fails(sound, Verdict(kind))] == ["ok"]
    assert [kind for kind in kinds if not fails(senseless, Verdict(kind))] == ["refused"]


def liar(name, method="residual", **changes):
    """Our own answer to a case, changed."""
    true = answer(OURS[method], CASES[name])
    return str(judge(CASES[name], OURS[method], replace(true, **changes)))


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("plain", {"ranks": (3,)}, "WRONG: rank 3 reported, 4 true"),
        ("plain", {"ranks": None}, "WRONG: no rank or error reported"),
        ("rank 2", {"ranks": (4,)}, "WRONG: rank 4 reported, 2 true"),
        ("plain", {"errors": (0.5,)}, "WRONG: error 0.5 reported"),
        ("plain", {"errors": (float("nan"),)}, "WRONG: error nan reported"),
        ("graded to 1e-12", {"errors": (0.0,)}, "WRONG: error 0 reported"),
        ("rank 2", {"warned": ()}, "WRONG: no warning"),
        ("plain", {"warned": ("RankDeficientWarning: k exceeds",)}, "WRONG: warning without reason"),
        ("plain", {"warned": ("RuntimeWarning: overflow",)}, "WRONG: stray RuntimeWarning"),
        ("NaN in one column", {"raised": "ValueError: contains NaN"}, "obscure error"),
    ],
)
def test_false_reports_of_ours_are_noticed(name, changes, expected):
    assert liar(name, **changes).startswith(expected)


@pytest.mark.parametrize("method", ["strong_rrqr", "osinsky", "volume"])
def test_a_method_must_reach_the_rank(method):
    zeros = (0, 1, 2, 4)
    spoilt = liar("eight zero columns", method, picks=(zeros,), ranks=(0,), errors=(1.0,))
    assert spoilt == "WRONG: rank missed"


def test_a_broken_bound_is_noticed():
    """Eight columns of graded size, the smallest taken: more than (k + 1) times the optimum."""
    A = np.eye(8) * 10.0 ** -np.arange(8)
    case = cases.Case("falling", A, k=2)
    true = answer(OURS["exact"], case)
    assert str(judge(case, OURS["exact"], true)) == "ok"
    error = float(np.linalg.norm(A[:, :6]) / np.linalg.norm(A))
    worst = replace(true, picks=((6, 7),), errors=(error,))
    assert str(judge(case, OURS["exact"], worst)) == "WRONG: bound broken"
    assert str(judge(case, OURS["uniform"], worst)) == "ok"  # which promises nothing


def crash(case):
    if case.name == "plain":
        os.abort()
    return Answer(picks=(GOOD,))


def hang(case):
    time.sleep(60 if case.name == "plain" else 0)
    return Answer(picks=(GOOD,))


def test_crash_and_hang_cost_one_cell_each():
    few = [CASES["plain"], CASES["times 1e200"], CASES["weights"]]
    replies = answers(Routine("fake", crash), few)
    assert [r.status for r in replies] == ["CRASH", "", "–"]
    assert replies[1].picks == (GOOD,)
    start = time.perf_counter()
    assert [r.status for r in answers(Routine("fake", hang), few, seconds=0.5)] == ["HANG", "", "–"]
    assert time.perf_counter() - start < 50
    assert [str(judge(few[0], fake(), r)) for r in replies[:1]] == ["CRASH"]


def test_a_peer_that_is_not_there_is_said_to_be():
    assert {r.status for r in answers(Routine("fake", crash, needs="no_such_peer"), [CASES["plain"]])} == {
        "not installed"
    }


def test_the_command_fails_where_a_cell_does(tmp_path, monkeypatch, capsys):
    few = [CASES["plain"], CASES["NaN in one column"], CASES["rank 2"]]
    monkeypatch.setattr(edges, "CASES", few)
    monkeypatch.setattr(edges, "PEERS", [])
    command = ["edges", "--out", str(tmp_path), "--method"]
    assert main([*command, "residual", "osinsky"]) == 0
    assert re.search("plain +ok", capsys.readouterr().out)
    rows = list(csv.reader((tmp_path / "edges.csv").read_text().splitlines()))
    assert rows == [
        ["input", "cssp residual", "cssp osinsky"],
        ["plain", "ok", "ok"],
        ["NaN in one column", "refused", "refused"],
        ["rank 2", "ok", "ok"],
    ]
    monkeypatch.setattr(edges, "CASES", [replace(few[0], senseless=True)])
    assert main([*command, "residual"]) == 1
    printed = capsys.readouterr().out
    assert "1 failing" in printed
    assert "plain  residual WRONG: accepted" in printed
    assert main([*command, "residul"]) == 2
