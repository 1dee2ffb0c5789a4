"""Command lines on tables made of bytes: the exit code is 0, 2 or 130, errors are one line, and no input is written to."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import scipy.io
import scipy.sparse as sp
from hypothesis import strategies as st

import cssp
from cssp.cli import main

CELLS = (
    *("0", "1", "2", "-3.5", "1e3", "nan", "NA", "", "x", "1,5", " 3 ", '"4"', '"a,b"', "1_000", "\u0663", "inf", "1e999"),
    *("0x10", "\u00b2", "-", "+", "True", "2020", "#1", "a;b", '"', '""', "1.000,5", "\x00", "None", "1e-320", "\u2212" "1"),
)  # fmt: skip
NAMES = ("a", "b", "", "a", "2019", "x y", "é", '"q"', "a.b", "1e5", "NA")
ENDINGS = ("csv", "tsv", "csv.gz", "npy", "npz", "mtx", "mtx.gz", "parquet", "txt", "CSV")

#: Options, each with values of which some are wrong.
WORDS: dict[str, tuple[str, ...]] = {
    "-k": ("1", "2", "3", "0", "-1", "99", "x", "1.5", ""),
    "--tol": ("0.5", "1e-9", "0", "2", "nan", "x"),
    "--method": (*sorted(cssp.METHODS), "magic", ""),
    "--columns": ("0", "0,1", "a", "b,a", "9", "-1", "", ",", "\u00b2", '"a,b"', "x y"),
    "--include": ("0", "1,0", "a", "9", "\u00b2", "", "1.5"),
    "--exclude": ("0", "1", "b", "99", ""),
    "--missing": ("rows", "pairwise", "raise", "columns"),
    "--tol-each": ("0.5", "0.1", "0", "2", "x"),
    "--axis": ("rows", "columns", "both"),
    "--groups": ("w.csv", "l.txt", "none.csv", "-", "data"),
    "--group-by": (".", "a", "", " "),
    "--costs": ("w.csv", "l.txt", "none.csv", "-", "data"),
    "--budget": ("2", "0.5", "0", "-1", "inf", "x"),
    "--at-most": ("1 l.txt", "2 w.csv", "x l.txt", "1 none.csv", "-1 l.txt"),
    "--min-distance": ("1 w.csv", "0.1 data", "0 w.csv", "x w.csv", "1 none.csv"),
    "--methods": ("residual,uniform", "greedy", "magic", ""),
    "--core": ("cross", "best", "x"),
    "-r": ("1", "2", "0", "99", "x"),
    "--save-factors": ("out.npz", "out.npy", "data", "none/out.npz"),
    "--header": ("yes", "no", "auto", "maybe"),
    "--sep": (",", ";", "\\t", "auto", " ", "", "ab", '"', "1", "."),
    "--decimal": (".", ",", "x", ""),
    "--encoding": ("utf-8", "latin-1", "utf-16", "ascii", "nonsense", "rot13", "idna", "zlib"),
    "--format": ("csv", "tsv", "npy", "mtx", "xls", ""),
    "--key": ("A", "B", "", "0"),
    "--option": ("f=1.5", "f=x", "accelerated=true", "A=1", "nodes=1e6", "rank=[1]", "=", "rounds=" + "[" * 99, "oversample=1"),
    "--weights": ("w.csv", "none.csv", "-", "data"),
    "--deficient": ("fill", "truncate", "raise", "x"),
    "--rng": ("0", "7", "-1", "x", "9" * 30),
    "-o": ("out.json", "none/out.json", ".", "data", "w.csv"),
    "--save-matrix": ("out.csv", "out.npy", "out.parquet", "out.xls", "data", "out.npz", "."),
}  # fmt: skip
#: Any other value; it names no file elsewhere.
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), max_size=5)

FLAGS = ("--numeric", "--rows", "--scale", "--certificate", "--progress", "--nonsense")


@dataclass(frozen=True)
class CommandLine:
    """Files, words, standard input, and where the table is plain what `select` must say of it."""

    files: dict[str, bytes]
    words: tuple[str, ...]
    stdin: bytes = b""
    table: list[list[float]] | None = None
    command: str = "select"


#: Of every command the options that are drawn, and flags.
COMMANDS = {
    "select": tuple(WORDS),
    "compare": ("--methods", "--rng", "--tol-each", "--groups", "--costs", "--budget", "--missing", "-o"),
    "independent": ("--tol", "--missing", "--columns", "--save-matrix", "-o"),
    "interpolative": ("--tol", "--method", "--rng", "--save-factors", "--save-matrix", "-o"),
    "cur": ("-r", "--core", "--method", "--rng", "--save-factors", "--save-matrix", "-o"),
}


# --- how bytes become a command line --------------------------------------------------------------------


def draw(draw: Callable[[st.SearchStrategy[Any]], Any]) -> CommandLine:
    """Draw a command line on any bytes, with options of which some are wrong."""
    content, ending = draw(st.one_of(_texts(), _binaries()))
    if draw(st.integers(0, 2)) == 0:
        content = _damaged(content, draw)
    name = f"data.{ending}"
    command = draw(st.sampled_from(["select"] * 4 + list(COMMANDS)))
    words = [draw(st.sampled_from([name, name, name, "-", "none.csv", ".", ""]))]
    if command != "independent" and draw(st.integers(0, 4)):
        words += ["-k", draw(st.sampled_from(WORDS["-k"][:3]))]
    for option in draw(st.lists(st.sampled_from([*COMMANDS[command], *FLAGS]), max_size=4, unique=True)):
        words.append(option)
        if option in WORDS:
            value = draw(st.sampled_from(WORDS[option][:2]) | st.sampled_from(WORDS[option]) | TEXT)
            pair = value.split(" ") if option in ("--at-most", "--min-distance") else [value]
            words += [name if word == "data" else word for word in pair]
    weights = draw(st.sampled_from([b"1,2,3\n", b"1\n2\n", b"w\n1\n", b"", b"-1,nan\n"]))
    labels = draw(st.sampled_from([b"a\nb\na\n", b"1\n1\n", b"a,1\nb,2\n", b"", b"\xff\n"]))
    return CommandLine(
        {name: content, "w.csv": weights, "l.txt": labels}, tuple(words), content, command=command
    )


def draw_plain(draw: Any) -> CommandLine:
    """Draw a table without a fault, in any format, and options that fit."""
    m, n = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    A = np.array(
        draw(st.lists(st.lists(st.integers(-9, 9), min_size=n, max_size=n), min_size=m, max_size=m)),
        dtype=float,
    )
    ending = draw(st.sampled_from(ENDINGS[:8]))
    words = [
        f"data.{ending}",
        "-k",
        str(draw(st.integers(1, n))),
        "--method",
        draw(st.sampled_from(sorted(cssp.METHODS))),
        "--rng",
        "3",
    ]
    words += ["--scale"] if draw(st.booleans()) else []
    if not ending.endswith(("npy", "npz", "mtx", "mtx.gz")):
        words += ["--certificate"] if draw(st.booleans()) else []
    return CommandLine({words[0]: packed(A / 4, ending)}, tuple(words), table=(A / 4).tolist())


def packed(A: np.ndarray, ending: str) -> bytes:
    """Return the matrix in a file of that format."""
    out = io.BytesIO()
    form = ending.removesuffix(".gz").lower()
    if form == "npy":
        np.save(out, A)
    elif form == "npz":
        np.savez(out, A=A)
    elif form == "mtx":
        scipy.io.mmwrite(out, sp.coo_array(A))
    elif form == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({f"c{j}": x for j, x in enumerate(A.T)}), out)
    else:
        mark = "\t" if form == "tsv" else ","
        header = mark.join(f"c{j}" for j in range(A.shape[1]))
        np.savetxt(out, A, delimiter=mark, header=header, comments="", fmt="%.17g")
    return gzip.compress(out.getvalue(), mtime=0) if ending.endswith(".gz") else out.getvalue()


@st.composite
def _texts(draw: Any) -> tuple[bytes, str]:
    """Draw a text that may be a table, and an ending."""
    ending = draw(st.sampled_from(ENDINGS[:3] + ENDINGS[8:]))
    sep = draw(st.sampled_from([",", ",", ";", "\t", " ", "|"]))
    n = draw(st.integers(1, 4))
    cells = st.sampled_from(CELLS[:6] if draw(st.booleans()) else CELLS)
    rows = draw(st.lists(st.lists(cells, min_size=n, max_size=n), max_size=5))
    if draw(st.booleans()):
        rows.insert(0, draw(st.lists(st.sampled_from(NAMES), min_size=n, max_size=n)))
    if draw(st.integers(0, 3)) == 0:
        rows.insert(draw(st.integers(0, len(rows))), draw(st.lists(cells, max_size=6)))
    end = draw(st.sampled_from(["\n", "\n", "\r\n", "\r", "\n\n", sep + "\n"]))
    text = end.join(sep.join(row) for row in rows) + draw(st.sampled_from([end, ""]))
    code = draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"]))
    content = text.encode(code, "replace")
    return gzip.compress(content, mtime=0) if ending.endswith(".gz") else content, ending


@st.composite
def _binaries(draw: Any) -> tuple[bytes, str]:
    """Draw an array of any type and dimension, and an ending that fits or does not."""
    own, ending = draw(st.sampled_from(ENDINGS[3:8])), draw(st.sampled_from(ENDINGS[3:8]))
    shape = (draw(st.integers(0, 4)), draw(st.integers(0, 4)))
    A = np.random.default_rng(draw(st.integers(0, 99))).integers(-3, 4, shape) / 2
    own = own if draw(st.booleans()) else ending
    if own in ("npy", "npz"):
        A = A.astype(draw(st.sampled_from(["f8", "f4", "f2", "i4", "u1", "?", "c8", "S3", ">f8"])))
        A = draw(st.sampled_from([A, A.ravel(), A[None], np.asfortranarray(A)]))
    return packed(A, "csv" if A.size == 0 and own.startswith("mtx") else own), ending


def _damaged(content: bytes, draw: Any) -> bytes:
    place, byte = st.integers(0, max(0, len(content) - 1)), st.integers(0, 255)
    changed = bytearray(content)
    for i, b in draw(st.lists(st.tuples(place, byte), max_size=4)) if content else ():
        changed[i] = b
    return bytes(changed[: draw(place)]) if draw(st.booleans()) else bytes(changed)


# --- how the answer is judged ---------------------------------------------------------------------------


def judge(case: CommandLine) -> str:
    """Run a command line and return its outcome in a word; raise AssertionError where it breaks the contract."""
    with _folder() as folder:
        for name, content in case.files.items():
            (folder / name).write_bytes(content)
        code, out, said = _run([case.command, *case.words], case.stdin)
        for name, content in case.files.items():
            assert (folder / name).read_bytes() == content, f"{name} is an input"
        output = folder / "out.json"
        found = output.read_text() if output.exists() else out
    assert not re.search("Traceback|please report it", said), said
    lines = [line for line in said.splitlines() if not line.startswith(("cssp: note: ", "cssp: warning: "))]
    if "--progress" not in case.words:
        assert len(lines) == (code != 0), said
    if code:
        assert code == 2, code
        assert lines[-1].startswith("cssp"), said
        assert not found, "nothing is written where there is an error"
        if case.table is not None:
            _expected(case)
            raise AssertionError(said)
        return "refused"
    if "--help" in case.words or "-h" in case.words:
        return "help"
    if "-o" in case.words and not found:  # in a file of another name
        return "answer"
    if case.command == "compare" and "-o" not in case.words:
        assert found.startswith("method "), "a table"
        return "answer"
    result = json.loads(found)
    if case.command == "compare":
        return "answer"
    assert len(set(result["indices"])) == len(result["indices"]), "distinct"
    if case.table is None:
        return "answer"
    expected = _expected(case)
    assert result["indices"] == expected.indices.tolist(), "the columns of the array"
    assert np.allclose(result["errors"], expected.errors, rtol=1e-9, atol=1e-12), "the errors of the array"
    return "right answer"


def _expected(case: CommandLine) -> cssp.Selection:
    """Return what `select` says of a plain table."""
    given = dict(zip(case.words[1:7:2], case.words[2:8:2], strict=True))
    A, method = np.array(case.table), given["--method"]
    if "mtx" in case.words[0] and method in cssp.passes.METHODS:
        A = sp.csc_array(A)
    scale = "norm" if "--scale" in case.words else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", cssp.RankDeficientWarning)
        return cssp.select(A, int(given["-k"]), method, rng=3, scale=scale)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """Yield an empty folder to work in."""
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        yield Path(name)


def _run(words: list[str], stdin: bytes) -> tuple[int, str, str]:
    """Return exit code, standard output and standard error of a command line."""
    out, said = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(said),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin))),
    ):
        try:
            code = main(words)
        except SystemExit as end:
            code = int(end.code or 0)
    return code, out.getvalue(), said.getvalue()
