"""The plumbing of ``python -m analysis bench`` at toy sizes: turns, ratios, notes, resuming, memory, growth, files."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import cssp
from analysis import __main__ as command
from analysis.benchmarks import bench, check, growth, imports, inputs, machine, memory, tables, timing, tokens
from analysis.benchmarks.implementations import (
    GRAM,
    IMPLEMENTATIONS,
    PRODUCTS,
    RESIDUAL,
    SCIPY,
    STEPS,
    TEXTBOOK,
    Implementation,
)
from analysis.benchmarks.inputs import Size, matrix
from analysis.benchmarks.rows import Row, append, read

SMALL = Size(24, 30, 5, repeats=2, kinds=("decay", "tied"))
ROOT = Path(__file__).parents[2]
FEW = tuple(
    c for c in IMPLEMENTATIONS if c.name in (PRODUCTS, GRAM, STEPS, RESIDUAL, TEXTBOOK, "greedy", SCIPY)
)


def fake(name, prepare=lambda A, k: lambda: np.arange(k), cost=lambda m, n, k: 1.0, needs="numpy"):
    return Implementation(name, "peer", prepare, cost, needs)


def row(rows, name):
    return next(r for r in rows if r.name == name)


ENTERED = [
    pytest.param(c, size, id=f"{c.name}, {size.label}")
    for c in IMPLEMENTATIONS
    for size in (SMALL, Size(30, 24, 5, "float64"), replace(SMALL, batch=2))
    if c.group != "floor" and c.suits(size)
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("c", "size"), ENTERED)
def test_every_implementation_chooses_k_columns_of_the_first_matrix(c, size):
    if not c.installed():
        pytest.skip("not installed")
    A = matrix("decay", size)
    picks = bench._first_picks(c.prepare(A, size.k)(), A.ndim)
    assert len({int(j) for j in picks}) == size.k
    if c.name.startswith(RESIDUAL) or c.name == SCIPY:
        assert picks.tolist() == cssp.select(A if A.ndim == 2 else A[0], size.k).indices.tolist()


@pytest.mark.parametrize("kind", [kind for kind in inputs.KINDS if kind not in tokens.MODELS])
def test_matrices_are_what_the_size_says(kind):
    for size in (SMALL, replace(SMALL, dtype="float64", order="F"), replace(SMALL, batch=3)):
        A = matrix(kind, size)
        assert A.shape == ((3, 24, 30) if size.batch == 3 else (24, 30))
        assert A.dtype == size.dtype
        assert A.flags["F_CONTIGUOUS" if size.order == "F" else "C_CONTIGUOUS"]
        assert np.isfinite(A).all()
    assert np.array_equal(matrix(kind, SMALL), matrix(kind, SMALL))


@pytest.mark.parametrize(("m", "n", "p"), [(64, 48, 64), (48, 64, 32), (100, 300, 64), (512, 40, 64)])
def test_tied_columns_are_orthogonal_and_of_equal_norm(m, n, p):
    A = matrix("tied", Size(m, n, 4))
    few = A[:, : min(n, p)]
    assert np.array_equal(few.T @ few, p * np.eye(few.shape[1]))
    assert np.array_equal(A[:, p:], A[:, : max(0, n - p)]) or n > 2 * p


@pytest.mark.parametrize("n", range(1, 40))
def test_intervals_cover_the_median(n):
    x = timing.median(range(1, n + 1))
    j = int(x.low)
    assert (x.value, x.high) == ((n + 1) / 2, n + 1 - j)

    def covered(j):
        return 1 - 2 * sum(math.comb(n, i) for i in range(j)) / 2**n

    if n >= 6:
        assert covered(j) >= 0.95
        assert covered(j + 1) < 0.95
    else:
        assert j == 1


def test_ratios_are_formed_within_a_repeat():
    drift = [1.0, 5.0, 2.0, 9.0, 3.0, 7.0, 4.0]
    twice = [2 * t for t in drift]
    assert timing.ratio(twice, drift) == timing.Interval(2, 2, 2)
    assert timing.ratio(twice[:3], drift) == timing.Interval(2, 2, 2)
    assert timing.ratio([8.0], drift) == timing.Interval(2, 2, 2)  # against the median


def test_intervals_in_words():
    assert timing.Interval(0.01234, 0.01, 0.0205).text(3, 1e-3) == "12.3 [10.0, 20.5]"
    assert timing.Interval(1234.5, 1234.5, 1234.5).text() == "1,234"
    assert timing.Interval(0.5, 0, float("inf")).text() == "0.50 [0, inf]"


def test_implementations_take_turns_in_an_order_drawn_anew():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in "abcd"}
    seconds = timing.alternate(runs, {"a": 6, "b": 6, "c": 6, "d": 1}, np.random.default_rng(0))
    assert {name: len(s) for name, s in seconds.items()} == {"a": 6, "b": 6, "c": 6, "d": 1}
    assert sorted(order[:4]) == list("abcd")
    rounds = ["".join(order[i : i + 3]) for i in range(4, 19, 3)]
    assert {"".join(sorted(r)) for r in rounds} == {"abc"}
    assert len(set(rounds)) > 1


def test_who_does_not_run_is_noted():
    calls = []

    def slow(A, k):
        return lambda: calls.append(A.shape) or np.arange(k)

    def broken(A, k):
        raise RuntimeError("no convergence")

    def fails(A, k):
        return lambda: 1 / (A.shape[1] < 4)

    size = Size(8, 600, 3)
    entered = [
        *(c for c in IMPLEMENTATIONS if c.group == "floor"),
        fake("absent", needs="no_such_library"),
        fake("slow", slow, lambda m, n, k: 1e12 if n == 600 else 1),
        fake("broken", broken),
        fake("fails", fails),
        fake("fine"),
        Implementation("elsewhere", "peer", slow, len, suits=lambda size: False),
    ]
    rows = bench.cell(size, "noise", 2, entered)
    assert [r.name for r in rows] == [c.name for c in entered if c.name != "elsewhere"]
    assert row(rows, "absent").note == "not installed"
    assert row(rows, "slow").note.startswith("not run: about ")
    assert row(rows, "slow").note.endswith(f"more than {bench.BUDGET:g} s")
    assert calls == [(8, 512)] * 2
    assert row(rows, "broken").note == "failed: RuntimeError: no convergence"
    assert row(rows, "fails").note.startswith("failed: ZeroDivisionError")
    assert {r.name for r in rows if r.seconds} == {PRODUCTS, GRAM, STEPS, "fine"}
    text = tables.cell(rows)
    assert all(word in text for word in ("not installed", "no convergence", "foreseen"))


def test_who_is_slow_has_fewer_repeats():
    def sleeping(A, k):
        return lambda: __import__("time").sleep(0.02) or np.arange(k)

    size = Size(8, 9, 3)
    floors = [c for c in IMPLEMENTATIONS if c.group == "floor"]
    for share, runs in ((0.07, (2, 3)), (1e-9, (1,)), (9.0, (5,))):  # floors have a share of their own
        rows = bench.cell(size, "noise", 5, [*floors, fake("sleepy", sleeping), fake("quick")], share=share)
        assert len(row(rows, "sleepy").seconds) in runs
        assert len(row(rows, PRODUCTS).seconds) == 5
        assert min(row(rows, "sleepy").seconds) >= 0.02


def test_the_error_is_that_of_the_picks():
    rows = bench.cell(SMALL, "decay", 1, FEW)
    A = matrix("decay", SMALL)
    for name, method in ((RESIDUAL, "residual"), ("greedy", "greedy")):
        assert row(rows, name).error == pytest.approx(
            cssp.select(A, SMALL.k, method).relative_error, rel=1e-4
        )
    assert math.isnan(row(rows, GRAM).error)


def test_rows_survive_the_file(tmp_path):
    rows = [
        Row("4x4x2", "decay", "a, b", "peer", (0.125, 2.5e-6), 0.25),
        Row("4x4x2", "decay", "c", "peer", (), 0.5, 'failed: "x", y'),
    ]
    append(tmp_path / "times.csv", rows[:1])
    append(tmp_path / "times.csv", rows[1:])
    assert read(tmp_path / "times.csv") == rows


@pytest.fixture
def tiny(monkeypatch):
    """The command at toy sizes, with few implementations, one of them missing; the list of what was timed."""
    sizes = (SMALL, replace(SMALL, batch=2, kinds=("decay",)), Size(9, 12, 3, "float64", repeats=1))
    entered = (
        *FEW,
        *(c for c in IMPLEMENTATIONS if "one by one" in c.name),
        fake("absent", needs="no_such_library"),
    )
    timed = []
    cell = bench.cell
    for module in (bench, tables, inputs):
        monkeypatch.setattr(module, "SIZES", sizes)
    monkeypatch.setattr(bench, "QUICK", sizes[0])
    monkeypatch.setattr(bench, "IMPLEMENTATIONS", entered)
    monkeypatch.setattr(
        bench, "cell", lambda s, k, r, **o: timed.append((s.name, k, r)) or cell(s, k, r, **o)
    )
    monkeypatch.setattr(machine, "measure", lambda: measured(1 << 12, 32, 2))
    for name, value in (
        ("_NAMED", {s.name: s for s in sizes}),
        ("_LABELS", {s.name: s.label for s in sizes}),
    ):
        monkeypatch.setattr(tables, name, value)
    monkeypatch.setattr(tables, "_ORDER", {s.name: i for i, s in enumerate(sizes)})
    monkeypatch.setattr("analysis.benchmarks.charts._NAMED", {s.name: s for s in sizes})
    axes = {"k": (Size(20, 30, 0), (2, 4)), "batch": (Size(10, 12, 2, batch=0), (1, 3))}
    measure = growth.measure
    monkeypatch.setattr(growth, "measure", lambda path: measure(path, axes, 2))
    monkeypatch.setattr(
        memory, "measure", lambda path, rows: path.write_text("name,bytes\nresidual,1000000\ngone,\n")
    )
    monkeypatch.setattr(imports, "measure", lambda: {imports.BASE: [1.0, 2.0], imports.OURS: [1.1, 2.2]})
    return timed


measured = machine.measure


def test_the_command_writes_tables_and_figures_and_resumes(tmp_path, tiny, capsys):
    out, docs = tmp_path / "bench", tmp_path / "docs"
    docs.mkdir()
    arguments = ["bench", "--out", str(out), "--docs", str(docs)]
    assert command.main(arguments) == 0
    first = [("24x30x5", "decay", 2), ("24x30x5", "tied", 2), ("24x30x5-batch2", "decay", 2)]
    assert tiny == [*first, ("9x12x3-float64", "decay", 1)]
    page = (out / "bench.md").read_text()
    for words in (
        "not installed", "## Batches", "## Kinds of matrices", "all tied", "## Growth", "gone", "failed",
        "1.10 times as long", "### 9 × 12, k = 3, float64", "(bench_cpu.png)",
    ):  # fmt: skip
        assert words in page, words
    assert "| 1.0 " in page.partition("## Peak memory")[2]
    assert "(images/bench_cpu.png)" in (docs / "bench.inc").read_text()
    assert "FIGURES" not in page + (docs / "bench.inc").read_text()
    assert (docs / "images" / "bench_cpu.png").read_bytes()[:4] == b"\x89PNG"
    assert (docs / "images" / "bench_growth.png").read_bytes()[:4] == b"\x89PNG"
    assert "24 × 30, k = 5" in capsys.readouterr().out
    before = (out / "times.csv").read_text()

    assert command.main(arguments) == 0
    assert len(tiny) == 4
    assert (out / "times.csv").read_text() == before

    kept = [r for r in read(out / "times.csv") if r.kind != "tied"]
    (out / "times.csv").unlink()
    append(out / "times.csv", kept)
    assert command.main([*arguments, "--repeats", "3"]) == 0
    assert tiny[4:] == [("24x30x5", "tied", 3)]


def test_a_part_of_the_comparison(tmp_path, tiny, capsys):
    assert command.main(["bench", "--quick", "--out", str(tmp_path / "quick")]) == 0
    assert tiny == [("24x30x5", "decay", 3)]
    assert not (tmp_path / "quick" / "growth.csv").exists()
    arguments = ["--sizes", "9x12x3-float64", "--kinds", "noise", "--out", str(tmp_path / "part")]
    assert command.main(["bench", *arguments]) == 0
    assert tiny[1:] == [("9x12x3-float64", "noise", 1)]
    capsys.readouterr()
    assert command.main(["bench", "--sizes", "9x9x9", "--out", str(tmp_path / "no")]) == 2
    assert "9x12x3-float64" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_imports_alone(tmp_path, tiny, capsys):
    assert command.main(["bench", "--imports", "--out", str(tmp_path)]) == 0
    assert "1.10 times as long" in capsys.readouterr().out
    assert json.loads((tmp_path / "imports.json").read_text())
    assert not tiny


def test_imports_are_timed_in_turn():
    lines = ("pass", "import json")
    found = imports.measure(2, lines)
    assert {line: len(s) for line, s in found.items()} == dict.fromkeys(lines, 2)
    assert all(s > 0 for times in found.values() for s in times)


def test_slopes_are_those_of_the_powers():
    sizes = [growth.varied("k", k) for k in (2, 4, 8)]
    rows = [
        {
            "name": "x", "axis": "k", "value": str(s.k), "cost": str(5.0 * s.k),
            "seconds": f"{3e-3 * s.k**1.5} {4e-3 * s.k**1.5}",
        }
        for s in sizes
    ]  # fmt: skip
    slope, theory = growth.slopes(rows)["x", "k"]
    assert (slope.value, slope.low, slope.high) == pytest.approx((1.5, 1.5, 1.5))
    assert theory == pytest.approx(1)


def test_growth_resumes_by_axis(tmp_path):
    axes = {"n": (Size(20, 0, 3), (10, 20)), "batch": (Size(10, 12, 2, batch=0), (1, 3))}
    path = tmp_path / "growth.csv"
    growth.measure(path, {"n": axes["n"]}, 1, [PRODUCTS, "greedy"])
    before = growth.read(path)
    growth.measure(path, axes, 1, [PRODUCTS, "greedy"])
    after = growth.read(path)
    assert after[: len(before)] == before
    assert {r["axis"] for r in after} == {"n", "batch"}
    assert len(after) == 8
    costs = {(r["name"], r["axis"], r["value"]): float(r["cost"]) for r in after}
    assert costs["greedy", "n", "10"] == 2 * 20 * 10 * 10 + 6 * 20 * 10 * 3
    assert costs[PRODUCTS, "batch", "3"] == 3 * costs[PRODUCTS, "batch", "1"]


def test_peak_memory_of_a_fresh_process(tmp_path):
    A = np.ones((32, 2000), dtype=np.float32)
    np.save(tmp_path / "A.npy", A)
    found = {}
    for name in (GRAM, PRODUCTS):
        call = [sys.executable, "-m", "analysis.benchmarks.memory", str(tmp_path / "A.npy"), name, "4"]
        found[name] = int(subprocess.run(call, capture_output=True, text=True, check=True, cwd=ROOT).stdout)
    size = 4 * 2000**2
    assert 0.8 * size < found[GRAM] < 4 * size
    assert 0 <= found[PRODUCTS] < size / 2


def test_memory_is_measured_once_and_failures_are_kept(tmp_path, monkeypatch):
    size = Size(20, 30, 3)
    monkeypatch.setattr(memory, "SIZE", size)
    rows = [Row(size.name, "decay", name, "peer", (1.0,)) for name in (GRAM, "no such implementation")]
    rows.append(Row(size.name, "decay", "not run", "peer"))
    path = tmp_path / "memory.csv"
    memory.measure(path, rows)
    first = path.read_text()
    found = list(csv.DictReader(first.splitlines()))
    assert [r["name"] for r in found] == [GRAM, "no such implementation"]
    assert int(found[0]["bytes"]) >= 0
    assert found[1]["bytes"] == ""
    memory.measure(path, rows)
    assert path.read_text() == first


def test_the_machine_and_its_floor():
    about = measured(1 << 12, 32, 2)
    assert about["bytes"] > 0
    assert set(about["flops"]) == {"float32", "float64"}
    about |= {"bytes": 1e9, "flops": {"float32": 1e9, "float64": 1e8}}
    assert machine.floor(Size(10, 20, 2), about) == pytest.approx(2 * 10 * 20 * 2 / 1e9)
    assert machine.floor(Size(10, 20, 2, "float64", batch=3), about) == pytest.approx(
        3 * 2 * 10 * 20 * 2 / 1e8
    )
    about["bytes"] = 1e3
    assert machine.floor(Size(10, 20, 2), about) == pytest.approx(0.8)


def test_the_sizes_of_the_comparison():
    names = [size.name for size in inputs.SIZES]
    assert len(set(names)) == len(names)
    asked = [(1024, 576, 64), (4096, 576, 64), (4096, 576, 192), (4096, 2880, 160), (4096, 2880, 640)]
    asked += [(3584, 16384, 1024), (2000, 20000, 100), (5000, 5000, 500)]
    assert set(asked) <= {(s.m, s.n, s.k) for s in inputs.SIZES}
    assert {s.batch for s in inputs.SIZES} == {1, 8, 64}
    assert {k for s in inputs.SIZES for k in s.kinds} == set(inputs.KINDS)
    assert memory.SIZE in inputs.SIZES


def test_importing_cssp_leaves_the_test_matrices_for_later():
    code = "import sys, cssp; assert 'cssp.matrices' not in sys.modules; assert cssp.matrices.kahan"
    subprocess.run(
        [sys.executable, "-c", code + "; from cssp import *; assert matrices"], check=True, cwd=ROOT
    )


def test_the_made_spectrum_is_that_of_the_tokens_it_stands_for():
    A = matrix("spectrum", Size(512, 256, 64))
    values = np.linalg.svd(A, compute_uv=False)
    for place, share in inputs.SPECTRUM.items():
        assert values[place - 1] / values[0] == pytest.approx(share, rel=0.4)
    assert values[200] > 0.005 * values[0], "no noise floor"
    norms = np.linalg.norm(A, axis=0)
    assert norms.min() == pytest.approx(inputs.NORMS[0], rel=0.1)
    assert norms.max() == pytest.approx(inputs.NORMS[1], rel=0.1)


def test_tokens_of_a_model_stand_side_by_side(monkeypatch):
    pictures = [np.full((4, 3), i, dtype=np.float32) for i in range(5)]
    monkeypatch.setitem(tokens.MODELS, "lite0", ("tokens", lambda: iter(pictures)))
    size = Size(4, 7, 2, kinds=("lite0",))
    assert matrix("lite0", size)[0].tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert size.label.endswith(", tokens")
    with pytest.raises(ValueError, match="expected m = 4"):
        matrix("lite0", Size(5, 7, 2))


def test_a_model_that_is_not_here_is_left_out(tmp_path, tiny, monkeypatch, capsys):
    def missing():
        raise FileNotFoundError("no weights: make real")
        yield

    monkeypatch.setitem(tokens.MODELS, "decimer", ("tokens", missing))
    sizes = (Size(24, 30, 5, kinds=("decimer", "tied")),)
    assert {row.kind for row in bench.times(tmp_path, sizes, None, 1)} == {"tied"}
    assert "left out: no weights: make real" in capsys.readouterr().out


def bench_page(label, **ratios):
    lines = [f"| **{name}** | 1 [1, 2] | 9 | {a} [1.0, 9.0] | {b} | 0.3 |" for name, (a, b) in ratios.items()]
    return "\n".join(
        [
            "## Every implementation",
            "",
            f"### {label}",
            "",
            *lines,
            "",
            "## Batches",
            lines[0].replace("1 [", "7 ["),
        ]
    )


def test_a_loss_of_a_fifth_beside_both_floors_is_found():
    size = Size(24, 30, 5)
    before = check.committed(
        bench_page(size.label, residual=("2.0", "1.0"), greedy=("1,004", "500"), norm=("3.0", "1.0"))
    )
    assert before[size.label, "greedy"] == (1004, 500)

    def rows(seconds):
        floors = [Row(size.name, "decay", name, "floor", (1.0, 1.0)) for name in (PRODUCTS, GRAM)]
        return [*floors, *(Row(size.name, "decay", name, "ours", (s, s)) for name, s in seconds.items())]

    found = check.changes({size.name: size.label}, rows({"residual": 2.6, "greedy": 502, "new": 1}), before)
    assert {c.name: round(c.growth, 3) for c in found} == {"residual": 1.3, "greedy": 0.5}
    assert "+30 % LOST" in check.shown(found)
    assert check.shown(found).count("LOST") == 1
    (change,) = check.changes({size.name: size.label}, rows({"residual": 2.3}), before)
    assert change.growth == pytest.approx(1.15)


@pytest.mark.parametrize(("times", "status"), [(1e6, 0), (1e-6, 1)])
def test_the_check_fails_where_speed_is_lost(tmp_path, tiny, monkeypatch, capsys, times, status):
    monkeypatch.setattr(check, "SIZES", ("24x30x5",))
    (tmp_path / "bench.inc").write_text(bench_page("24 × 30, k = 5", residual=(times, times)))
    assert command.main(["bench", "--check", "--docs", str(tmp_path)]) == status
    assert ("times as long as" in capsys.readouterr().out) == bool(status)
    (tmp_path / "bench.inc").write_text("nothing")
    assert command.main(["bench", "--check", "--docs", str(tmp_path)]) == 1


def test_the_committed_page_can_be_checked():
    before = check.committed((ROOT / "docs" / "bench.inc").read_text())
    labels = [size.label for size in inputs.SIZES if size.name in check.SIZES]
    assert len(labels) == len(check.SIZES)
    assert all((label, name) in before for label in labels for name in (RESIDUAL, "greedy"))
