"""The command line: every format gives the picks of `select`, results are whole, errors are one line and code 2."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import signal
import subprocess
import sys

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

import cssp
from cssp.cli import main

NAMES = [f"c{j}" for j in range(8)]
A = np.round(np.random.default_rng(0).standard_normal((30, 8)) * np.arange(1, 9), 6)


def put(folder, name, A=A, names=NAMES):
    """The matrix in a file of that format."""
    path = folder / name
    if name.endswith(".npy"):
        np.save(path, A)
    elif name.endswith(".npz"):
        np.savez(path, A=A)
    elif name.endswith((".csv", ".tsv")):
        mark = "," if name.endswith(".csv") else "\t"
        header = mark.join(names) if names else ""
        np.savetxt(path, A, delimiter=mark, header=header, comments="", fmt="%.17g")
        if not names:
            path.write_text(path.read_text().lstrip("\n"))
    elif name.endswith(".parquet"):
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.table(dict(zip(names, A.T, strict=True))), path)
    elif name.endswith(".zarr"):
        zarr = pytest.importorskip("zarr")
        zarr.open(path, mode="w", shape=A.shape, dtype=A.dtype, chunks=(10, 4))[:] = A
    else:
        plain = folder / "plain.mtx"
        scipy.io.mmwrite(plain, A if "dense" in name else sp.coo_array(A))
        if name.endswith(".gz"):
            path.write_bytes(gzip.compress(plain.read_bytes()))
        else:
            plain.replace(path)
    return path


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Run a command line in an empty folder; exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def go(*words):
        try:
            code = main([str(w) for w in words])
        except SystemExit as stop:
            code = stop.code
        done = capsys.readouterr()
        return code, done.out, done.err

    return go


FORMATS = ["a.npy", "a.npz", "a.csv", "a.tsv", "a.parquet", "a.zarr", "a.mtx", "dense.mtx", "a.mtx.gz"]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_answer(run, tmp_path, name):
    path = put(tmp_path, name)
    code, out, err = run("select", path, "-k", 3)
    assert (code, err) == (0, "")
    found, sel = json.loads(out), cssp.select(A, 3)
    assert found["indices"] == sel.indices.tolist()
    assert found["errors"] == pytest.approx(sel.errors.tolist())
    assert found["error"] == pytest.approx(sel.error)
    assert found["relative_error"] == pytest.approx(sel.relative_error)
    assert found["names"] == (
        [f"c{j}" for j in sel.indices] if name.endswith(("csv", "tsv", "parquet")) else None
    )
    assert (found["method"], found["shape"], found["rank"]) == ("residual", [30, 8], 3)
    assert found["versions"]["cssp"] == cssp.__version__
    assert found["data"] == str(path)


@pytest.mark.parametrize("name", ["a.zarr", "a.mtx"])
@pytest.mark.parametrize("method", ["qdeim", "greedy", "exact"])
def test_methods_that_need_the_matrix_in_memory_get_it(run, tmp_path, name, method):
    code, out, err = run("select", put(tmp_path, name), "-k", 2, "--method", method)
    assert (code, err) == (0, "")
    assert json.loads(out)["rank"] == 2
    if method != "greedy":  # in passes greedy is another algorithm
        assert json.loads(out)["indices"] == cssp.select(A, 2, method).indices.tolist()


def test_a_result_in_a_file(run, tmp_path):
    put(tmp_path, "a.csv")
    code, out, err = run("select", "a.csv", "-k", 3, "--certificate", "-o", "picked.json")
    assert (code, out, err) == (0, "", "")
    found = json.loads((tmp_path / "picked.json").read_text())
    assert found["certificate"]["ratio"] == pytest.approx(cssp.select(A, 3).certificate().ratio)
    assert found["certificate"]["source"] == "kawamura2021"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.csv", "picked.json"]


def test_options_reach_the_method(run, tmp_path):
    path = put(tmp_path, "a.npy")
    w = np.linspace(2, 0.1, 8)
    np.savetxt(tmp_path / "w.csv", w)
    np.save(tmp_path / "w.npy", w[:, None])
    for weights in ("w.csv", "w.npy"):
        out = run("select", path, "-k", 3, "--weights", weights, "--include", "2", "--exclude", "7,0")[1]
        want = cssp.select(A, 3, weights=w, include=[2], exclude=[7, 0])
        assert json.loads(out)["indices"] == want.indices.tolist()
    found = json.loads(run("select", path, "-k", 3, "--method", "strong_rrqr", "--option", "f=1.0")[1])
    assert found["indices"] == cssp.select(A, 3, "strong_rrqr", f=1.0).indices.tolist()
    assert found["options"]["f"] == 1.0
    found = json.loads(run("select", path, "-k", 3, "--method", "greedy", "--option", "p=inf")[1])
    assert found["indices"] == cssp.select(A, 3, "greedy", p=np.inf).indices.tolist()
    words = ("select", path, "-k", 3, "--method", "random_pivot", "--rng", 5)
    assert json.loads(run(*words)[1])["indices"] == cssp.select(A, 3, "random_pivot", rng=5).indices.tolist()
    assert json.loads(run("select", path, "--tol", "0.3")[1])["relative_error"] <= 0.3


def test_rows_and_named_columns(run, tmp_path):
    path = put(tmp_path, "a.csv")
    found = json.loads(run("select", path, "-k", 4, "--rows")[1])
    assert found["indices"] == cssp.select(A.T, 4).indices.tolist()
    assert (found["rows"], found["names"]) == (True, None)
    found = json.loads(run("select", path, "-k", 2, "--columns", "c5,c1,c3", "--include", "c1")[1])
    sel = cssp.select(A[:, [5, 1, 3]], 2, include=[1])
    assert found["indices"] == sel.indices.tolist()
    assert found["names"] == [["c5", "c1", "c3"][j] for j in sel.indices]
    plain = put(tmp_path, "b.csv", names=None)
    found = json.loads(run("select", plain, "-k", 2, "--columns", "5,1,3")[1])
    assert found["indices"] == cssp.select(A[:, [5, 1, 3]], 2).indices.tolist()


@pytest.mark.parametrize("target", ["o.npy", "o.npz", "o.csv", "o.parquet"])
@pytest.mark.parametrize("source", ["a.csv", "a.zarr", "a.mtx"])
@pytest.mark.parametrize("rows", [False, True])
def test_the_chosen_columns_in_a_file(run, tmp_path, source, target, rows):
    if target.endswith("parquet"):
        pytest.importorskip("pyarrow")
    words = ["select", put(tmp_path, source), "-k", 3, "--save-matrix", target, "-o", "picked.json"]
    code, _, err = run(*words, *(["--rows"] if rows else []))
    assert (code, err) == (0, "")
    from cssp.tables import read

    S = json.loads((tmp_path / "picked.json").read_text())["indices"]
    back = read(tmp_path / target)
    np.testing.assert_array_equal(np.asarray(back.A), A[S] if rows else A[:, S])
    if source == "a.csv" and target in ("o.csv", "o.parquet"):
        assert back.names == (NAMES if rows else [NAMES[j] for j in S])


def test_infinities_are_words(run, tmp_path):
    put(tmp_path, "r.npy", np.outer(np.arange(1.0, 4), [1.0, 0, 2]))
    code, out, err = run("select", "r.npy", "-k", 2, "--certificate")
    assert code == 0
    assert err.startswith("cssp: warning: k exceeds the numerical rank")
    assert err.count("\n") == 1
    json.loads(out, parse_constant=pytest.fail)
    put(tmp_path, "d.npy", np.diag([1.0, 2.0]))
    out = run("select", "d.npy", "-k", 1, "--exclude", 1, "--certificate")[1]
    assert json.loads(out, parse_constant=pytest.fail)["certificate"]["a_posteriori"] == "inf"


def test_a_table_with_text_and_missing_cells(run, tmp_path):
    (tmp_path / "t.csv").write_text("name;x;y;2019\nu;1,5;2;3\nv;;1;1\nw;2;5;0,5\nz;1;1;1\n")
    words = ("select", "t.csv", "-k", 2, "--sep", ";", "--decimal", ",", "--numeric", "--missing", "rows")
    code, out, err = run(*words, "--include", "2019", "--exclude", "2")
    assert code == 0
    assert err == (
        "cssp: note: 1 column holds no numbers, left out: 'name' ('u' in line 2)\n"
        "cssp: note: 1 of 4 rows have missing cells, left out; missing cells by column: 'x' (1)\n"
    )
    found = json.loads(out)
    B = np.array([[1.5, 2, 3], [2, 5, 0.5], [1, 1, 1]])
    assert found["relative_error"] == pytest.approx(
        cssp.select(B, 2, include=[2], exclude=[1]).relative_error
    )
    assert (found["names"], found["indices"], found["numbers"]) == (["2019", "x"], [2, 0], [3, 1])
    assert (found["left_out"], found["dropped_rows"], found["shape"]) == (["name"], 1, [3, 3])
    found = json.loads(run(*words, "--rows", "--include", "2")[1])
    assert (found["indices"][0], found["numbers"][0]) == (1, 2)  # row 1 of the file is not complete


def test_standard_input(run, monkeypatch):
    class Typed:
        buffer = io.BytesIO(b"1,2\n3,5\n")

    monkeypatch.setattr("sys.stdin", Typed)
    assert json.loads(run("select", "-", "-k", 1)[1])["shape"] == [2, 2]
    buffer = io.BytesIO()
    np.save(buffer, A)
    buffer.seek(0)
    Typed.buffer = buffer
    assert (
        json.loads(run("select", "-", "-k", 3, "--format", "npy")[1])["indices"]
        == cssp.select(A, 3).indices.tolist()
    )


def test_names_with_commas(run, tmp_path):
    (tmp_path / "t.csv").write_text('"a, b",c,d\n1,2,3\n4,5,7\n')
    words = ("select", "t.csv", "-k", 2, "--columns", "a, b", "--columns", "2,c")
    found = json.loads(run(*words, "--include", "c", "--include", "a, b")[1])
    assert found["names"] == ["c", "a, b"]
    assert (found["indices"], found["numbers"]) == ([2, 0], [1, 0])


def test_one_meaning_of_error(run, tmp_path):
    """`error` is a norm wherever it stands."""
    found = json.loads(run("select", put(tmp_path, "a.npy"), "-k", 3, "--certificate")[1])
    for block in (found, found["certificate"]):
        assert block["error"] == pytest.approx(cssp.select(A, 3).error)
        assert block["squared_error"] == pytest.approx(block["error"] ** 2)
    c = found["certificate"]
    s = np.linalg.svd(A, compute_uv=False)
    assert c["squared_optimum"] == pytest.approx(np.sum(s[3:] ** 2))
    assert c["spectral_squared_optimum"] == pytest.approx(s[3] ** 2)
    assert c["ratio"] == pytest.approx(c["squared_error"] / c["squared_optimum"])
    assert c["spectral_squared_error"] == pytest.approx(c["spectral_error"] ** 2)
    assert not {"optimum", "spectral_optimum"} & set(c)


def test_a_large_file_goes_through_a_temporary_one(run, tmp_path, monkeypatch):
    from cssp.tables import spool

    monkeypatch.setattr(spool, "LIMIT", 1)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    for words in ([], ["--rows"], ["--numeric", "--missing", "rows"]):
        found = json.loads(run("select", put(tmp_path, "a.csv"), "-k", 3, *words)[1])
        assert found["indices"] == cssp.select(A.T if "--rows" in words else A, 3).indices.tolist()
    monkeypatch.setattr(cssp, "select", lambda *a, **b: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run("select", "a.csv", "-k", 3) == (130, "", "cssp select: interrupted\n")
    assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.parametrize(
    ("fault", "said"), [(MemoryError(), "out of memory"), (KeyError("x"), "please report")]
)
def test_no_traceback_whatever_happens(run, tmp_path, monkeypatch, fault, said):
    def broken(*a, **b):
        raise fault

    monkeypatch.setattr(cssp, "select", broken)
    code, out, err = run("select", put(tmp_path, "a.npy"), "-k", 3)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


def test_an_interrupt_is_one_line(tmp_path):
    # What runs in the background of a shell ignores interrupts, and so would what it starts.
    start = "import signal, runpy; signal.signal(signal.SIGINT, signal.default_int_handler); runpy.run_module('cssp', run_name='__main__')"
    command = [sys.executable, "-c", start, "select", "-", "-k", "1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdin.write("1,2\n" * 100_000)  # more than a pipe holds: the program is reading
        process.stdin.flush()
        for _ in range(10):  # one that arrives within a callback of the interpreter is lost
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
                break
        assert process.returncode == 130
        assert process.stderr.read() == "cssp select: interrupted\n"


def test_help(run):
    code, out, err = run()
    assert (code, err) == (0, "")
    assert "cssp select data.npy" in out
    code, out, _ = run("select", "--help")
    assert code == 0
    assert [group in out for group in ("\ninput:", "\nchoice:", "\noutput:", "\nexamples:")] == [True] * 4


@pytest.mark.parametrize("name", cssp.METHODS)
def test_a_method_in_full(run, name):
    code, out, _ = run("methods", name)
    assert code == 0
    assert all(f"{option}=" in out for option in cssp.METHODS[name].options)
    assert cssp.METHODS[name].summary in " ".join(out.split())
    assert max(map(len, [*out.splitlines(), *run("methods")[1].splitlines()])) <= 100
    assert run("methods", "residul")[2].endswith("did you mean 'residual'?\n")


def test_the_table_of_methods_and_the_version(run):
    code, out, _ = run("methods")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:] if line[0] != " "] == list(cssp.METHODS)
    assert run("--version")[:2] == (0, f"cssp {cssp.__version__}\n")


def hole(folder):
    B = A.copy()
    B[3, 2] = np.nan
    np.savetxt(folder / "hole.csv", B, delimiter=",", header=",".join(NAMES), comments="")
    np.save(folder / "hole.npy", B)
    np.save(folder / "flat.npy", np.ones((3, 3)))
    (folder / "inf.csv").write_text("a,b\n1,inf\n")
    (folder / "a.csv").mkdir()
    zarr = pytest.importorskip("zarr")
    zarr.open(folder / "damaged.zarr", mode="w", shape=A.shape, dtype=A.dtype, chunks=(10, 4))[:] = A
    next(path for path in (folder / "damaged.zarr" / "c").rglob("*") if path.is_file()).write_bytes(b"x")
    (folder / "gap.csv").write_text("a,b\n1,2\n3,\n")
    (folder / "words.csv").write_text("a,b\n1,x\n")
    (folder / "ragged.csv").write_text("a,b\n1,2\n3\n")
    (folder / "empty.csv").write_text("")
    (folder / "head.csv").write_text("a,b\n")
    (folder / "bad.npy").write_bytes(b"nonsense")
    (folder / "bad.parquet").write_bytes(b"nonsense")
    (folder / "bad.mtx").write_text("nonsense")
    (folder / "bad.zarr").mkdir()
    np.savez(folder / "two.npz", A=A, B=A)
    np.save(folder / "one.npy", np.ones(3))
    np.save(folder / "object.npy", np.array([{}], dtype=object), allow_pickle=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.npy"], "neither k nor tol"),
        (["a.npy", "-k", "9"], "only 8 of 8 columns"),
        (["a.npy", "-k", "x"], "invalid int value"),
        (["a.npy", "-k", "2", "--wrong"], "unrecognized arguments"),
        (["a.npy", "-k", "2", "--method", "residul"], "did you mean 'residual'"),
        (["a.npy", "-k", "2", "--option", "f"], "NAME=VALUE"),
        (["a.npy", "-k", "2", "--option", "k=3"], "no option of a method"),
        (["a.npy", "-k", "2", "--option", "f=3"], "option 'f' is unknown"),
        (["a.npy", "-k", "2", "--weights", "absent.csv"], "absent.csv: no such file"),
        (["a.npy", "-k", "2", "--weights", "a.npy"], "one per column"),
        (["a.npy", "-k", "2", "--include", "c1"], "column number"),
        (["a.npy", "-k", "2", "--exclude", "8"], "exclude contains 8"),
        (["a.npy", "-k", "2", "--columns", "c1"], "no header"),
        (["a.npy", "-k", "2", "--columns", "8"], "from 0 to 7"),
        (["a.npy", "-k", "2", "--columns", "1,1"], "named twice"),
        (["a.npy", "-k", "2", "--key", "A"], "npz and zarr"),
        (["a.npy", "-k", "2", "-o", "no/such/folder.json"], "No such file or directory"),
        (["a.npy", "-k", "2", "--save-matrix", "o.mtx"], "columns are written as"),
        (["absent.npy", "-k", "2"], "no such file"),
        (["a.xlsx", "-k", "2"], "the ending tells the format"),
        (["hole.csv", "-k", "2"], "NaN in column 2"),
        (["gap.csv", "-k", "2"], "NaN in column 1"),
        (["words.csv", "-k", "2"], "words.csv"),
        (["ragged.csv", "-k", "2"], "ragged.csv"),
        (["empty.csv", "-k", "2"], "is empty"),
        (["head.csv", "-k", "2"], "at least one row"),
        (["bad.npy", "-k", "2"], "bad.npy"),
        (["bad.parquet", "-k", "2"], "bad.parquet"),
        (["bad.mtx", "-k", "2"], "bad.mtx"),
        (["bad.zarr", "-k", "2"], "bad.zarr"),
        (["two.npz", "-k", "2"], "holds the arrays A, B; pass --key"),
        (["two.npz", "-k", "2", "--key", "C"], "not C"),
        (["one.npy", "-k", "2"], "expected a matrix"),
        (["a.npy", "-k", "2", "--option", "A=1"], "no option of a method"),
        (["a.npy", "-k", "2", "--option", "progress=1"], "no option of a method"),
        (["a.npy", "-k", "2", "--include", "²"], "--include ²"),
        (["a.npy", "-k", "2", "--sep", ";"], "npy files have no such thing"),
        (
            ["a.npy", "-k", "2", "--columns", "0,1,3", "--include", "2"],
            "column 2 of the file is not among those",
        ),
        (["a.npy", "-k", "2", "--rows", "--include", "30"], "row numbers run from 0 to 29"),
        (["a.npy", "-k", "2", "--deficient", "x"], "--deficient x"),
        (["a.npy", "-k", "2", "--tol", "2"], "--tol 2.0"),
        (["a.npy", "-k", "2", "--rng", "-1"], "--rng -1"),
        (["flat.npy", "-k", "2", "--deficient", "raise"], "--deficient raise"),
        (["-", "-k", "2", "--weights", "-"], "standard input is the data already"),
        (["hole.npy", "-k", "2"], "NaN in column 2 (counted from 0); use --missing rows"),
        (["hole.npy", "-k", "2", "--columns", "3,2"], "NaN in column 2 (counted from 0)"),
        (["hole.npy", "-k", "2", "--rows"], "NaN in row 3 (counted from 0)"),
        (["inf.csv", "-k", "1"], "Inf in column 1 ('b', counted from 0)"),
        (["damaged.zarr", "-k", "2"], "damaged.zarr cannot be read"),
        (["a.csv/", "-k", "2"], "got a folder"),
        (["a.npy", "-k", "2", "--format", "xls"], "--format xls"),
        (["object.npy", "-k", "2"], "object.npy"),
    ],
)
def test_errors_are_one_line(run, tmp_path, words, message):
    put(tmp_path, "a.npy")
    hole(tmp_path)
    before = sorted(p.name for p in tmp_path.iterdir())
    code, out, err = run("select", *words)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith(("cssp select: error: ", "cssp: error: "))
    assert message in err
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("module", "name", "hint"),
    [("pyarrow", "a.parquet", "pip install pyarrow"), ("zarr", "a.zarr", "pip install zarr")],
)
def test_a_missing_reader_says_how_to_get_it(run, tmp_path, monkeypatch, module, name, hint):
    path = put(tmp_path, name)
    for loaded in [m for m in sys.modules if m.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    code, _, err = run("select", path, "-k", 2)
    assert code == 2
    assert hint in err


def test_zarr_without_dask_is_read_into_memory(run, tmp_path, monkeypatch):
    path = put(tmp_path, "a.zarr")
    monkeypatch.setitem(sys.modules, "dask.array", None)
    assert json.loads(run("select", path, "-k", 3)[1])["indices"] == cssp.select(A, 3).indices.tolist()


def test_a_name_given_by_key(run, tmp_path):
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(tmp_path / "g.zarr", mode="w")
    for name in ("x", "y"):
        group.create_array(name, shape=A.shape, dtype=A.dtype)[:] = A if name == "y" else A[:, ::-1]
    for key, B in (("y", A), ("x", A[:, ::-1])):
        out = run("select", tmp_path / "g.zarr", "-k", 3, "--key", key)[1]
        assert json.loads(out)["indices"] == cssp.select(B, 3).indices.tolist()
    hole(tmp_path)
    assert run("select", "two.npz", "-k", 3, "--key", "B")[0] == 0


@pytest.mark.parametrize(
    "words", [["-m", "cssp", "methods"], ["-m", "cssp", "select", "absent.npy", "-k", "1"]]
)
def test_as_a_program(tmp_path, words):
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == (0 if "methods" in words else 2)
    assert "Traceback" not in done.stderr


def test_importing_the_package_imports_no_reader():
    code = "import sys, cssp.cli; sys.exit(bool({'zarr', 'dask', 'pyarrow', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
