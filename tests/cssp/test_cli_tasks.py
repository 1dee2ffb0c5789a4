"""The commands beside `select`: they answer what the functions of their names do, by the names of the file."""

import json

import numpy as np
import pytest

import cssp
from cssp.cli import main

RNG = np.random.default_rng(0)
A = RNG.standard_normal((30, 4)) @ RNG.standard_normal((4, 7)) + 0.01 * RNG.standard_normal((30, 7))
NAMES = list("abcdefg")


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Run a command line in a folder that holds a.csv; exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    np.savetxt("a.csv", A, delimiter=",", header=",".join(NAMES), comments="", fmt="%.17g")

    def go(*words):
        try:
            code = main([str(w) for w in words])
        except SystemExit as stop:
            code = stop.code
        done = capsys.readouterr()
        return code, done.out, done.err

    return go


def answer(run, *words):
    code, out, err = run(*words)
    assert (code, err) == (0, "")
    return json.loads(out)


def test_the_dummies_that_depend_are_named(run, tmp_path):
    month = np.arange(9) % 3
    X = np.column_stack([np.ones(9), np.eye(3)[month], np.arange(9)])
    np.savetxt("design.csv", X, delimiter=",", header="one,jan,feb,mar,t", comments="")
    found = answer(run, "independent", "design.csv", "--save-matrix", "kept.csv")
    assert found["names"] == ["one", "jan", "feb", "t"]
    assert found["dropped"]["names"] == ["mar"]
    assert found["combinations"] == {"mar": pytest.approx({"one": 1, "jan": -1, "feb": -1})}
    kept = (tmp_path / "kept.csv").read_text().splitlines()
    assert (kept[0], len(kept)) == ("one,jan,feb,t", 10)
    some = answer(run, "independent", "design.csv", "--columns", "mar,feb,one,jan")
    assert some["names"] == ["mar", "feb", "one"]
    assert some["numbers"] == [3, 2, 0]
    np.save("x.npy", X)
    plain = answer(run, "independent", "x.npy")
    assert plain["combinations"] == {"3": pytest.approx({"0": 1, "1": -1, "2": -1})}
    assert len(answer(run, "independent", "a.csv", "--tol", 0.2)["indices"]) < 7


def test_interpolative(run, tmp_path):
    found = answer(run, "interpolative", "a.csv", "-k", 4, "--save-factors", "f.npz")
    ours = cssp.interpolative(A, 4)
    assert found["names"] == [NAMES[j] for j in ours.columns]
    assert (found["method"], found["bound"]) == ("strong_rrqr", 2.0)
    assert found["relative_error"] == pytest.approx(ours.relative_error)
    with np.load(tmp_path / "f.npz") as file:
        np.testing.assert_allclose(file["T"], ours.T)
    by_tol = answer(run, "interpolative", "a.csv", "--tol", 0.05, "--method", "residual")
    assert by_tol["relative_error"] <= 0.05
    assert by_tol["bound"] is None


def test_cur(run, tmp_path):
    found = answer(run, "cur", "a.csv", "-k", 3, "-r", 5, "--save-factors", "f.npz", "--save-matrix", "c.csv")
    ours = cssp.cur(A, 3, 5)
    assert found["names"] == [NAMES[j] for j in ours.columns]
    assert found["row_numbers"] == ours.rows.tolist()
    with np.load(tmp_path / "f.npz") as file:
        again = file["C"] @ file["U"] @ file["R"]
    assert np.linalg.norm(A - again) / np.linalg.norm(A) == pytest.approx(found["relative_error"])
    assert (tmp_path / "c.csv").read_text().startswith(",".join(found["names"]) + "\n")
    cross = answer(run, "cur", "a.csv", "-k", 3, "--core", "cross")
    assert len(cross["row_numbers"]) == 3


def test_row_numbers_are_those_of_the_file(run):
    B = np.vstack([[np.nan, *[0.0] * 6], A])
    np.savetxt("b.csv", B, delimiter=",", header=",".join(NAMES), comments="", fmt="%.17g")
    code, out, err = run("cur", "b.csv", "-k", 3, "--missing", "rows")
    assert code == 0
    assert "1 of 31 rows" in err
    found = json.loads(out)
    assert found["row_numbers"] == [i + 1 for i in found["row_indices"]]


def test_compare(run, tmp_path):
    code, out, err = run("compare", "a.csv", "-k", 3, "--methods", "residual, uniform", "--rng", 1)
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == ["method", "residual", "uniform"]
    run("compare", "a.csv", "-k", 3, "--include", "b", "-o", "table.json")
    found = json.loads((tmp_path / "table.json").read_text())
    assert all(row["names"][0] == "b" for row in found["methods"])
    errors = [row["relative_error"] for row in found["methods"]]
    assert errors == sorted(errors)
    assert errors[0] >= found["optimum"] > 0


def test_a_note_is_one_line_whatever_the_names_are(run, tmp_path):
    (tmp_path / "odd.csv").write_text('1990,1991,"\n",1993\n1,2,3,4\n2,2,1,0\n')
    code, _, err = run("independent", "odd.csv")
    assert code == 0
    assert err.count("\n") == err.count("cssp: ") > 0


def test_one_tolerance_for_each_column(run):
    found = answer(run, "select", "a.csv", "--tol-each", 0.05)
    assert found["indices"] == cssp.select(A, tol_each=0.05).indices.tolist()
    found = answer(run, "select", "a.csv", "--tol-max", 0.5)
    assert found["indices"] == cssp.select(A, tol_max=0.5).indices.tolist()


def test_groups_are_chosen_whole(run, tmp_path):
    names = ["city_a", "city_b", "age", "job_x", "job_y", "job_z", "pay"]
    np.savetxt("g.csv", A, delimiter=",", header=",".join(names), comments="", fmt="%.17g")
    found = answer(run, "select", "g.csv", "-k", 2, "--group-by", "_")
    sel = cssp.select(A, 2, groups=[name.split("_")[0] for name in names])
    assert found["groups"] == list(sel.groups)
    assert found["names"] == [names[j] for j in sel.indices]
    labels = "name,group\n" + "".join(f"{name},{i // 3}\n" for i, name in enumerate(names))
    (tmp_path / "l.csv").write_text(labels)
    by_name = answer(run, "select", "g.csv", "-k", 1, "--groups", "l.csv")
    assert by_name["indices"] == cssp.select(A, 1, groups=[i // 3 for i in range(7)]).indices.tolist()
    (tmp_path / "l.txt").write_text("".join(f"{i // 3}\n" for i in range(7)))
    assert answer(run, "select", "g.csv", "-k", 1, "--groups", "l.txt")["indices"] == by_name["indices"]
    assert by_name["options"]["groups"] == "l.csv"


def test_costs_and_constraints(run, tmp_path):
    costs = np.arange(1.0, 8.0)
    (tmp_path / "p.csv").write_text(
        "".join(f"{name},{c}\n" for name, c in reversed(list(zip(NAMES, costs, strict=True))))
    )
    found = answer(run, "select", "a.csv", "--costs", "p.csv", "--budget", 9)
    sel = cssp.select(A, costs=costs, budget=9)
    assert found["indices"] == sel.indices.tolist()
    assert found["cost"] == sel.cost <= 9
    for plain in ("plain.csv", "plain.txt"):
        np.savetxt(plain, costs)
        again = answer(run, "select", "a.csv", "--costs", plain, "--budget", 9)
        assert again["indices"] == found["indices"]
    (tmp_path / "side.txt").write_text("left\n" * 3 + "right\n" * 4)
    np.savetxt("xy.csv", np.arange(7.0)[:, None] * [1, 1], delimiter=",")
    np.savetxt("xy.txt", np.arange(7.0)[:, None] * [1, 1])
    for words, limits in (
        (("--at-most", 1, "side.txt"), cssp.AtMost(["l"] * 3 + ["r"] * 4, 1)),
        (("--min-distance", 4, "xy.txt"), cssp.MinDistance(np.arange(7.0)[:, None] * [1, 1], 4)),
        (("--min-distance", 4, "xy.csv"), cssp.MinDistance(np.arange(7.0)[:, None] * [1, 1], 4)),
    ):
        found = answer(run, "select", "a.csv", "-k", 2, *words)["indices"]
        assert found == cssp.select(A, 2, constraint=limits).indices.tolist()
        assert found != cssp.select(A, 2).indices.tolist()
    (tmp_path / "bad.txt").write_text("1\ntwo\n")
    code, _, err = run("select", "a.csv", "-k", 2, "--costs", "bad.txt")
    assert (code, err.count("\n")) == (2, 1)
    assert "--costs bad.txt: expected lines of numbers" in err
    np.save("r.npy", np.arange(1.0, 31.0)[:, None])
    rows = answer(run, "select", "a.csv", "-k", 2, "--axis", "rows", "--costs", "r.npy")
    assert rows["indices"] == cssp.select(A.T, 2, costs=np.arange(1.0, 31.0)).indices.tolist()


@pytest.mark.parametrize("name", ["h.csv", "h.npy", "h.parquet"])
def test_missing_cells_by_pairs(run, tmp_path, name):
    B = np.where(np.random.default_rng(1).random(A.shape) < 0.1, np.nan, A)
    if name == "h.npy":
        np.save(name, B)
    elif name == "h.csv":
        np.savetxt(name, B, delimiter=",", header=",".join(NAMES), comments="", fmt="%.17g")
    else:
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.table(dict(zip(NAMES, B.T, strict=True))), name)
    found = answer(run, "select", name, "-k", 3, "--missing", "pairwise")
    sel = cssp.select(B, 3, missing="pairwise")
    assert found["indices"] == sel.indices.tolist()
    assert found["missing"]["least"] == sel.missing.least < 30
    assert found["dropped_rows"] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["interpolative", "a.csv"], "neither k nor tol"),
        (["interpolative", "a.csv", "-k", 9], "only 7 of 7 columns"),
        (["interpolative", "a.csv", "-k", 2, "--save-factors", "f.npy"], "ends with .npz"),
        (["interpolative", "a.csv", "-k", 2, "--save-factors", "a.csv"], "overwrite"),
        (["interpolative", "a.csv", "-k", 2, "-o", "x", "--save-factors", "x"], "overwrite"),
        (["cur", "a.csv"], "required: -k"),
        (["cur", "a.csv", "-k", 3, "-r", 31], "error: -r 31: "),
        (["cur", "a.csv", "-k", 3, "--core", "x"], "--core x: expected 'best' or 'cross'"),
        (["compare", "a.csv"], "required: -k"),
        (["compare", "a.csv", "-k", 3, "--methods", "residul"], "did you mean 'residual'"),
        (["compare", "a.csv", "-k", 3, "--tol-each", "x"], "invalid float"),
        (["independent", "a.csv", "--tol", 2], "tol"),
        (["independent", "a.csv", "--missing", "pairwise"], "choose from"),
        (["select", "a.csv", "-k", 3, "--tol-each", 2], "--tol-each 2.0"),
        (["select", "a.csv", "--budget", 3], "budget"),
        (["select", "a.csv", "--budget", 3, "--costs", "a.csv"], "one per column"),
        (["select", "a.csv", "--budget", 3, "--costs", "absent.csv"], "no such file"),
        (
            ["select", "a.csv", "-k", 3, "--costs", "absent.bin"],
            "--costs absent.bin: the ending tells the format",
        ),
        (["select", "a.csv", "-k", 3, "--groups", "absent.txt"], "absent.txt: no such file"),
        (["select", "a.csv", "-k", 3, "--groups", "."], "--groups . cannot be read"),
        (["select", "a.csv", "-k", 3, "--groups", "a.csv"], "expected 7, one in a line"),
        (["select", "a.csv", "-k", 3, "--group-by", "_", "--groups", "x"], "one of the two"),
        (["select", "a.csv", "-k", 3, "--rows", "--group-by", "_"], "names of the columns"),
        (["select", "a.csv", "-k", 3, "--at-most", "x", "a.csv"], "a number of columns"),
        (["select", "a.csv", "-k", 3, "--min-distance", "x", "a.csv"], "a distance"),
        (["select", "a.csv", "-k", 3, "--min-distance", 1, "a.csv"], "30 lines: expected 7"),
        (["select", "a.csv", "-k", 8, "--group-by", "_"], "only 7 groups"),
        (["select", "a.csv", "-k", 3, "--method", "volume", "--group-by", "_"], "cannot honour groups"),
        (["select", "-", "-k", 3, "--costs", "-"], "--costs -: standard input is the data already"),
        (["select", "a.csv", "-k", 3, "--costs", "a.csv", "-o", "a.csv"], "overwrite"),
    ],
)
def test_errors_are_one_line_and_nothing_is_written(run, tmp_path, words, message):
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]
