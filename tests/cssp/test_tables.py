"""Texts and other files as people have them: what is read, what is said, what is refused and with which advice."""

from __future__ import annotations

import csv
import gzip
import os
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cssp.errors import ArgumentError, CsspError
from cssp.tables import read, spool, text
from cssp.tables.cells import MISSING, number
from cssp.tables.columns import chosen

X = np.array([[1.5, 2.0, -3e-5], [0.25, 7.0, 1e6], [4.0, 5.5, 6.0]])


@pytest.fixture
def put(tmp_path):
    """A text in a file."""

    def write(content, name="t.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def lines(A, sep=",", decimal=".", end="\n"):
    return "".join(sep.join(repr(float(x)).replace(".", decimal) for x in row) + end for row in A)


@pytest.mark.parametrize(
    ("content", "options"),
    [
        ("a,b,c\n" + lines(X), {}),
        ("\ufeffa,b,c\r\n" + lines(X, end="\r\n"), {}),
        ("a;b;c\n" + lines(X, ";"), {"sep": ";"}),
        ("a;b;c\n" + lines(X, ";", ","), {"sep": ";", "decimal": ","}),
        ("a;b;c\n" + lines(X, ";", ","), {"sep": "auto", "decimal": ","}),
        ("a\tb\tc\n" + lines(X, "\t"), {"sep": "\\t"}),
        ("a|b|c\n" + lines(X, "|"), {"sep": "auto"}),
        ("a  b c\n" + lines(X, "   "), {"sep": " "}),
        ("# made by hand\n# and old\na,b,c\n\n" + lines(X) + "\n# the end\n\n", {}),
        ("# a,b,c\n" + lines(X), {}),
        ("a,b,c\n" + lines(X, " , "), {}),
        ('"a","b","c"\n' + "".join(",".join(f'"{x!r}"' for x in row) + "\n" for row in X.tolist()), {}),
        ("a,b,c,\n" + lines(X, end=",\n"), {}),
        ("a,b,c\n" + lines(X, end=",\n"), {}),
        (',a,b,c\n"x, y",' + '"z",'.join(lines(X).splitlines(True)), {}),
        ('"a","b","c"\n"1",' + '"2",'.join(lines(X).splitlines(True)), {}),
        ("a,id,b,c\n" + "".join(f"{p},te xt,{q},{r}\n" for p, q, r in X.tolist()), {"numeric": True}),
        (
            'a,"i,\nd",b,c\n' + "".join(f'{p},"t\n""q""",{q},{r}\n' for p, q, r in X.tolist()),
            {"numeric": True},
        ),
        ("z,a,y,b,c\n" + "".join(f"?,{p},u,{q},{r}\n" for p, q, r in X.tolist()), {"columns": ["a,b", "c"]}),
        ("a,b,c\n" + lines(X) + "1,,2\nNA,1,1\n", {"missing": "rows"}),
    ],
)
@pytest.mark.parametrize("how", ["whole", "in blocks", "on disk", "gz"])
def test_texts_as_people_have_them(put, monkeypatch, content, options, how):
    if how in ("in blocks", "on disk"):
        monkeypatch.setattr(text, "BLOCK", 1)
        monkeypatch.setattr(spool, "BLOCK", 1)
    if how == "on disk":
        monkeypatch.setattr(spool, "LIMIT", 1)
    path = put(gzip.compress(content.encode()), "t.csv.gz") if how == "gz" else put(content)
    with read(path, **options) as table:
        np.testing.assert_array_equal(table.A, X)
        assert table.names == ["a", "b", "c"]
        assert isinstance(table.A, np.memmap) == (how == "on disk")
        if table.folder is not None:
            assert os.path.exists(table.folder.name)
    assert table.folder is None or not os.path.exists(table.folder.name)


@pytest.mark.parametrize("sep", [",", "\t", ";", "|"])
def test_a_row_of_missing_cells_is_no_blank_line(put, sep):
    path = put(f"a{sep}b\n1{sep}2\n{sep}\n\n3{sep}5\n")
    with pytest.raises(ArgumentError, match=r"line 3.*missing"):
        read(path, sep=sep)
    with read(path, sep=sep, missing="rows") as table:
        np.testing.assert_array_equal(table.A, [[1, 2], [3, 5]])
        assert table.dropped == 1


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_what_is_written_is_read(tmp_path_factory, data):
    """Any table, in any dialect, with text columns and missing cells: complete rows of the numbers, exactly."""
    m, n = data.draw(st.integers(1, 8)), data.draw(st.integers(2, 5))  # a blank line is no row
    sep, decimal = data.draw(st.sampled_from([(",", "."), (";", ","), ("\t", "."), ("|", ",")]))
    numbers = st.floats(allow_nan=False, allow_infinity=False)
    words = st.text("ab, ;.\n\"'é#|\t", min_size=1, max_size=5).filter(
        lambda w: w.strip() and w.strip().lower() not in MISSING
    )
    kinds = data.draw(st.lists(st.sampled_from(["number", "text"]), min_size=n, max_size=n))
    cells, A = [["" for _ in range(n)] for _ in range(m)], np.full((m, n), np.nan)
    for j, kind in enumerate(kinds):
        for i in range(m):
            if kind == "number" and data.draw(st.integers(0, 9)):
                A[i, j] = data.draw(numbers)
                cells[i][j] = repr(float(A[i, j])).replace(".", decimal)
            elif kind == "number":
                cells[i][j] = data.draw(st.sampled_from(sorted(MISSING)))
            else:
                cells[i][j] = "t" + data.draw(words)
    path = tmp_path_factory.mktemp("t") / "t.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(
            file,
            delimiter=sep,
            lineterminator=data.draw(st.sampled_from(["\n", "\r\n"])),
            quoting=data.draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
        )
        out.writerow([f"x{j}" for j in range(n)])
        out.writerows(cells)
    keep = [j for j, kind in enumerate(kinds) if kind == "number"]
    complete = ~np.isnan(A[:, keep]).any(axis=1)
    how = {"sep": sep, "decimal": decimal, "numeric": True, "missing": "rows", "header": "yes"}
    if not keep or not complete.any():
        with pytest.raises(ArgumentError, match=r"no column holds numbers|rows is complete"):
            read(path, **how)
        return
    with read(path, **how) as table:
        np.testing.assert_array_equal(table.A, A[complete][:, keep])
        assert table.names == [f"x{j}" for j in keep]
        assert table.columns.tolist() == keep
        assert table.dropped == m - complete.sum()
        assert list(table.left_out) == [f"x{j}" for j in range(n) if j not in keep]


@pytest.mark.parametrize(
    ("first", "rest", "named", "said"),
    [
        ("a,b,c", X, True, False),
        ("a,2,3", X, True, False),
        ("2019,2020,2021", X, True, True),
        ("2021,2020,2019", X, True, True),
        ("2019,2020,2021", [[12, 15, 19], [3, 1, 2]], True, True),
        ("2019,2020,2021", [[1, 2, 3], [4, 5, 6]], True, True),
        ("2021,2016,2011", [[10, 20, 30], [1, 1, 1]], True, True),
        ("2015,2016,2017,2018,2019,2020", [[1, 2, 4, 8, 16, 32]] * 3, True, True),
        ("2019,2020,2021", [[2001, 2002, 2003], [1, 1, 1]], False, True),
        ("0,1,2", X, True, True),
        ("1,2,3", [[7, 1, 2], [9, 9, 8]], True, True),
        ("10,20,30,40", [[7, 1, 2, 2], [9, 9, 8, 1]], True, True),
        ("400.5,401,401.5,402,402.5,403", [[1, 0.5, 2, 3, 1, 1]] * 2, True, True),
        ('"7","5"', [[1, 2], [3, 4]], True, False),
        ("1.5,2.5,0.5", X, False, False),
        ("5,7,1", [[3, 1, 2], [9, 1, 1]], False, False),
        ("1,2,3", [[4, 5, 6], [7, 8, 9]], False, True),
        ("1990,1995,1999", [[1991, 1993, 1994], [1980, 1981, 1985]], False, True),
        ("5,7,1", X, False, True),
        ("1,NA,3", [[4, 4, 4]], False, False),
        ("7", [[1.5], [2.5]], False, False),
    ],
)
def test_a_first_line_that_may_be_names(put, first, rest, named, said):
    path = put(first + "\n" + "".join(",".join(f"{x:g}" for x in row) + "\n" for row in rest))
    rest = np.array(rest, dtype=float)
    table = read(path, missing="rows")
    assert (table.names is not None) == named
    assert bool(table.notes and "--header" in table.notes[0]) == said
    assert len(table.A) == len(rest) + (not named) - table.dropped
    names = [cell.strip('"') for cell in first.split(",")]
    yes = read(path, header="yes")
    assert (yes.names, yes.notes) == (names, ())
    np.testing.assert_array_equal(yes.A, rest)


def test_years_beside_a_column_of_text(put):
    path = put("country,2019,2020\nA,1.5,2\nB,3,0.5\n")
    table = read(path, numeric=True)
    assert table.names == ["2019", "2020"]
    assert table.left_out == ("country",)
    assert "--header no" in table.notes[0]
    bare = read(put("A,1.5,2\nB,3,0.5\nC,1,1\n"), numeric=True)
    assert bare.names is None
    assert bare.A.shape == (3, 2)
    assert "--header yes" in bare.notes[0]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("a;b\n1;2\n", {}, "use --sep ';'"),
        ("a\tb\n1\t2\n", {}, r"use --sep '\\t'"),
        ("1,5;2,5\n3,5;4,5\n", {"header": "no"}, "use --sep ';'"),
        (
            "a;b\n1,5;2\n",
            {"sep": ";"},
            "line 2, column 0 .'a', counted from 0.: '1,5' is no number; use --decimal ','",
        ),
        ('a,b\n"1,234.5",2\n', {}, "without thousands separators"),
        ('a,b\n"1,234",2\n', {}, "without thousands separators, or --decimal ','"),
        ("a;b\n1.234,5;2\n", {"sep": ";", "decimal": ","}, "without thousands separators"),
        ("a,b\n1_000,2\n", {}, "'1_000' is no number"),
        ("a,b\n１,2\n", {}, "is no number"),
        ("a,b\n1,x\n", {}, "line 2, column 1 .'b', counted from 0.: 'x' is no number; use --numeric"),
        ("a,b\n,x\n", {}, "use --numeric.*--columns"),
        ("a,b\n1,2\n3,\n", {}, "line 3: NaN in column 1 .'b'.*use --missing rows"),
        ("a,b\n1,2\n\n#c\n3,NA\n", {}, "line 5: NaN in column 1"),
        ("a,b\n1,\n2,\n", {"missing": "rows"}, r"none of the 2 rows is complete.*'b' \(2\).*--columns"),
        ("a,b\nx,y\n", {"numeric": True}, "no column holds numbers: 'a' .'x' in line 2., 'b'"),
        ("a,b\n1,2\n3\n", {}, "line 3 has 1 cells and the lines before it have 2"),
        ("a,b\n1,2\n3,4,5\n", {}, "line 3 has 3 cells"),
        ('a,b\n1,2\n3,"4\n', {}, "line 3: .*quotation mark"),
        ("a,b\n1," + "x" * 200_000 + "\n", {}, "line 2: field larger"),
        (b"a,b\n1,\xe9\n", {}, "--encoding, such as latin-1"),
        ("", {}, "is empty"),
        ("\n\n", {}, "is empty"),
        ("a,b\n1,2\n", {"sep": "ab"}, "--sep ab: expected one character"),
        ("a,b\n1,2\n", {"encoding": "klingon"}, "--encoding klingon: no such encoding"),
        ("a,b\n1,2\n", {"key": "x"}, "--key x: csv files"),
        ("a,a\n1,2\n", {"columns": ["a"]}, "columns 0 and 1 have this name; use their numbers"),
        ("price,b\n1,2\n", {"columns": ["prise"]}, "did you mean 'price'"),
    ],
)
def test_refusals_say_where_and_what_to_do(put, content, options, message):
    path = put(content)
    with pytest.raises(ArgumentError, match=message) as caught:
        read(path, **options)
    assert "\n" not in str(caught.value)


def test_latin_1_is_read_when_told(put):
    assert read(put("é,b\n1,2\n".encode("latin-1")), encoding="latin-1").names == ["é", "b"]


@pytest.mark.parametrize("cell", [*sorted(MISSING), " NA ", "Null", "N/A"])
def test_missing_cells(cell):
    assert np.isnan(number(cell))


@pytest.mark.parametrize("cell", ["-", "x", "1 2", "0x10", "1_0", "1,5", "TRUE", "12%", "--", "٣"])
def test_text_is_no_number(cell):
    with pytest.raises(ValueError):
        number(cell)


def test_columns_as_users_name_them():
    names = ["a", "b, c", "2", "x", "x", ""]
    assert chosen("columns", ["a,2"], names, 6) == [0, 2]  # a name goes before a number
    assert chosen("columns", ["b, c", "0"], names, 6) == [1, 0]
    assert chosen("columns", [" 3 , 5"], names, 6) == [3, 5]
    assert chosen("include", ["1,0"], None, 2) == [1, 0]
    for values in (["x"], ["²"], ["-1"], ["6"], ["a", "0"], [""], ["a,"], ["1.0"]):
        with pytest.raises(ArgumentError, match=r"^--columns"):
            chosen("columns", values, names, 6)


def table_of(columns):
    pa = pytest.importorskip("pyarrow")
    return pa.table(columns)


@pytest.fixture
def parquet(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")

    def write(table):
        pq.write_table(table, tmp_path / "t.parquet", row_group_size=2)
        return tmp_path / "t.parquet"

    return write


def test_parquet_of_all_kinds(parquet, monkeypatch):
    import datetime
    import decimal

    pa = pytest.importorskip("pyarrow")
    kinds = {
        "i": pa.array([1, None, 3], pa.int32()),
        "b": pa.array([True, False, True]),
        "t": pa.array(["x", "y", None]),
        "a.b": pa.array([0.5, 1.5, 2.5], pa.float32()),
        "d": pa.array([decimal.Decimal("1.25")] * 3),
        "s": pa.array([{"p": 1, "q": 2}] * 3),
        "when": pa.array([datetime.date(2020, 1, 1)] * 3),
        "c": pa.array([4, 5, 4]).dictionary_encode(),
    }
    path = parquet(pa.table(kinds))
    want = {"i": [1, np.nan, 3], "b": [1, 0, 1], "a.b": [0.5, 1.5, 2.5], "d": [1.25] * 3, "c": [4, 5, 4]}
    for limit in (spool.LIMIT, 1):
        monkeypatch.setattr(spool, "LIMIT", limit)
        with read(path, columns=["c,d,a.b,b"]) as table:
            np.testing.assert_array_equal(table.A, np.transpose([want[name] for name in table.names]))
            assert table.columns.tolist() == [7, 4, 3, 1]
        with read(path, numeric=True, missing="rows") as table:
            np.testing.assert_array_equal(table.A, np.transpose(list(want.values()))[[0, 2]])
            assert table.left_out == ("t", "s", "when")
            assert table.rows.tolist() == [0, 2]
    with pytest.raises(
        ArgumentError, match=r"column 2 .'t', counted from 0. holds string, not numbers; use --numeric"
    ):
        read(path)
    with pytest.raises(ArgumentError, match=r"row 1 .counted from 0.: NaN in column 0 .'i'.*--missing rows"):
        read(path, numeric=True)
    with pytest.raises(ArgumentError, match="no column holds numbers"):
        read(path, columns=["t"], numeric=True)
    with read(path, columns=["a.b"]) as table:
        assert table.A.dtype == np.float32


def test_parquet_with_a_name_twice(parquet):
    pa = pytest.importorskip("pyarrow")
    path = parquet(pa.Table.from_arrays([pa.array([1.0, 2]), pa.array([3.0, 4])], ["x", "x"]))
    assert read(path).A.tolist() == [[1, 3], [2, 4]]
    assert read(path, columns=["1"]).A.tolist() == [[3], [4]]
    with pytest.raises(ArgumentError, match="columns 0 and 1 have this name"):
        read(path, columns=["x"])


def test_other_columns_of_a_parquet_file_are_not_read(parquet, monkeypatch):
    """A column whose pages are damaged does not matter where it is not asked for."""
    pq = pytest.importorskip("pyarrow.parquet")
    rng = np.random.default_rng(0)
    path = parquet(table_of({f"c{j}": rng.standard_normal(50) for j in range(4)}))
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(2)
    content = bytearray(path.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content[start : start + chunk.total_compressed_size] = bytes(chunk.total_compressed_size)
    path.write_bytes(content)
    assert read(path, columns=["c0,c3"]).A.shape == (50, 2)
    with pytest.raises(CsspError, match="cannot be read"):
        read(path)


@pytest.mark.parametrize("order", ["C", "F"])
def test_mapped_arrays_are_narrowed_in_blocks(tmp_path, monkeypatch, order):
    A = np.asarray(np.random.default_rng(0).standard_normal((30, 6)), order=order)
    A[[3, 7], [1, 4]] = np.nan
    np.save(tmp_path / "a.npy", A)
    monkeypatch.setattr("cssp.tables.arrays.LIMIT", 1)
    monkeypatch.setattr("cssp.tables.arrays.BLOCK", 100)
    with read(tmp_path / "a.npy", columns=["4,0,2"], missing="rows") as table:
        np.testing.assert_array_equal(table.A, np.delete(A, 7, axis=0)[:, [4, 0, 2]])
        assert (table.dropped, table.columns.tolist()) == (1, [4, 0, 2])


@pytest.mark.parametrize("ending", ["mtx", "zarr", "npz"])
def test_complete_rows_of_every_format(tmp_path, ending):
    import scipy.io
    import scipy.sparse as sp

    A = np.round(np.random.default_rng(0).standard_normal((20, 4)), 3)
    A[5, 2] = np.nan
    path = tmp_path / f"a.{ending}"
    if ending == "mtx":
        scipy.io.mmwrite(path, sp.coo_array(A))
    elif ending == "npz":
        np.savez(path, A=A)
    else:
        zarr = pytest.importorskip("zarr")
        zarr.open(path, mode="w", shape=A.shape, dtype=A.dtype, chunks=(7, 2))[:] = A
    table = read(path, missing="rows")
    B = table.A.toarray() if hasattr(table.A, "toarray") else np.asarray(table.A)
    np.testing.assert_array_equal(B, np.delete(A, 5, axis=0))
    assert read(path, columns=["3,0"], missing="rows").dropped == 0


@pytest.mark.parametrize("content", [b"1 1 2.5\n2 2 1.5E", b"1 1 2.5\n2 2 1.5e-", b"1 1 2.5E-\0\n2 2 1\n"])
@pytest.mark.parametrize("name", ["t.mtx", "t.mtx.gz"])
def test_damage_that_crashes_the_reader_of_matrix_market(put, content, name):
    content = b"%%MatrixMarket matrix coordinate real general\n2 2 2\n" + content
    with pytest.raises(ArgumentError, match=r"cut short|binary"):
        read(put(gzip.compress(content) if name.endswith("gz") else content, name))


def test_a_pipe_is_read_once(tmp_path):
    pipe = tmp_path / "t.csv"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("a,b\n1,2\n3,5\n",))
    writer.start()
    assert read(pipe).A.tolist() == [[1, 2], [3, 5]]
    writer.join()


def test_nothing_stays_behind_after_an_error(put, tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "LIMIT", 1)
    monkeypatch.setattr(text, "BLOCK", 1)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    path = put("a,b\n" + "1,2\n" * 50 + "3,x\n")
    with pytest.raises(ArgumentError, match="line 52"):
        read(path)
    monkeypatch.setattr(spool.Spool, "matrix", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        read(put("a,b\n1,2\n3,4\n"))
    assert not list((tmp_path / "temporary").iterdir())
