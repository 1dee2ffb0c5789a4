"""The way from a file to its reader."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cssp.errors import ArgumentError, CsspError
from cssp.tables import arrays
from cssp.tables.parquet import read_parquet
from cssp.tables.table import ReadOptions, Table
from cssp.tables.text import read_text

__all__ = ["SUFFIXES", "format_of", "read"]

Reader = Callable[[Path, ReadOptions], Table]

_TEXT = ("header", "sep", "decimal", "encoding")

#: Of every format: its reader, and the options that not all have.
_FORMATS: dict[str, tuple[Reader, tuple[str, ...]]] = {
    ".npy": (arrays.read_npy, ()),
    ".npz": (arrays.read_npz, ("key",)),
    ".csv": (lambda path, o: read_text(path, ",", o), _TEXT),
    ".tsv": (lambda path, o: read_text(path, "\t", o), _TEXT),
    ".csv.gz": (lambda path, o: read_text(path, ",", o), _TEXT),
    ".tsv.gz": (lambda path, o: read_text(path, "\t", o), _TEXT),
    ".parquet": (read_parquet, ()),
    ".zarr": (arrays.read_zarr, ("key",)),
    ".mtx": (arrays.read_market, ()),
    ".mtx.gz": (arrays.read_market, ()),
}

#: Endings that are understood.
SUFFIXES = tuple(_FORMATS)


def read(path: str | Path, key: str | None = None, **options: Any) -> Table:
    """Return the matrix in a file, or on standard input for "-"; see `ReadOptions` for the options.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "small.csv")
    >>> _ = path.write_text("id,a,b\\nx,1,2\\ny,3,4\\n")
    >>> table = read(path, numeric=True)
    >>> table.names, table.A.tolist()
    (['a', 'b'], [[1.0, 2.0], [3.0, 4.0]])
    """
    o = ReadOptions(key=key, **options)
    form = format_of(path, o.form)
    reader, own = _FORMATS[form]
    for name in ("key", *_TEXT):
        value, usual = getattr(o, name), getattr(ReadOptions, name)
        if value != usual and name not in own:
            able = " and ".join(f[1:] for f, row in _FORMATS.items() if name in row[1])
            raise ArgumentError(f"--{name} {value}: {form[1:]} files have no such thing, {able} files may")
    for name, values in (
        ("header", ("auto", "yes", "no")),
        ("missing", ("raise", "rows", "pairwise")),
        ("decimal", (".", ",")),
    ):
        if getattr(o, name) not in values:
            raise ArgumentError(
                f"--{name} {getattr(o, name)}: expected {', '.join(values[:-1])} or {values[-1]}"
            )
    try:
        with _as_file(path, form) as file:
            return reader(file, o)
    except ArgumentError as reason:
        said = str(reason)
        raise type(reason)(
            said if said.startswith("--") or str(path) in said else f"{path}: {said}"
        ) from None
    except (CsspError, MemoryError):
        raise
    except UnicodeError as reason:
        raise ArgumentError(
            f"{path} is no text in {o.encoding.removesuffix('-sig')} ({reason}); use --encoding, such as latin-1"
        ) from None
    except Exception as reason:  # readers have families of their own
        said = getattr(reason, "strerror", None) or " ".join(str(reason).split())[:300]
        what = said or type(reason).__name__
        raise ArgumentError(f"{path} cannot be read as {form[1:]}: {what}") from None


def format_of(path: str | Path, given: str | None = None) -> str:
    """Return the ending, which gives the format."""
    name = "." + given.lower().removeprefix(".") if given else Path(path).name.lower()
    if str(path) == "-" and not given:
        return ".csv"
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name == suffix or (not given and name.endswith(suffix)):
            return suffix
    if given:
        raise ArgumentError(f"--format {given}: expected one of {', '.join(s[1:] for s in SUFFIXES)}")
    raise ArgumentError(
        f"{path}: the ending tells the format; {', '.join(SUFFIXES)} are understood; or pass --format"
    )


@contextlib.contextmanager
def _as_file(path: str | Path, form: str) -> Iterator[Path]:
    """Yield the path itself; a copy of what comes through standard input or a pipe, which can be read once only."""
    place = Path(path)
    if str(path) != "-":
        if not place.exists():
            raise ArgumentError(f"{path}: no such file")
        if place.is_dir() and form != ".zarr":
            raise ArgumentError(f"{path}: expected a {form[1:]} file, got a folder")
        if place.is_file() or place.is_dir():
            yield place
            return
    if form == ".zarr":
        raise ArgumentError(f"{path}: a zarr array is a folder and cannot come through a pipe")
    with tempfile.TemporaryDirectory(prefix="cssp-") as folder:
        copy = Path(folder) / f"data{form}"
        with copy.open("wb") as target:
            if str(path) == "-":
                shutil.copyfileobj(sys.stdin.buffer, target)
            else:
                with place.open("rb") as source:
                    shutil.copyfileobj(source, target)
        yield copy
