"""The options of the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import cssp
from cssp.tables import SUFFIXES

__all__ = ["parser_of"]

_EXAMPLES = """\
examples:
  cssp select data.npy -k 20 -o picked.json
  cssp select table.csv -k 5 --numeric --missing rows
  cssp select years.csv -k 3 --sep ';' --decimal , --header yes
  cssp select table.csv -k 2 --columns age,height --columns "income, net" --certificate
  zcat table.csv.gz | cssp select - -k 5 --method greedy
  cssp select expression.mtx.gz --tol 0.05 --rows --weights weights.csv
"""

_COLUMNS = "may be repeated; a value that is a column's name is taken whole, any other is split at its commas into names or numbers from 0 (a name goes first)"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def parser_of() -> argparse.ArgumentParser:
    """Return the parser of ``cssp``."""
    parser = _Parser(
        prog="cssp",
        description="Column subset selection on matrices in files.",
        epilog=_EXAMPLES + "\n`cssp select --help` shows all options, `cssp methods NAME` one method.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"cssp {cssp.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    _add_select(commands)
    demo = commands.add_parser(
        "demo", help="choose twelve places of a field, rebuild it from them, and draw it"
    )
    demo.set_defaults(run=_demo)
    demo.add_argument(
        "-o", "--output", type=Path, default=Path("cssp-demo.png"), help="the picture (default %(default)s)"
    )
    demo.add_argument("--force", action="store_true", help="write over an existing picture")
    methods = commands.add_parser("methods", help="list the methods, or show one of them")
    methods.add_argument("name", nargs="?", help="a method to show in full")
    methods.set_defaults(run=_methods)
    return parser


def _demo(o: argparse.Namespace) -> None:
    from cssp.cli.demo import run

    run(o)


def _methods(o: argparse.Namespace) -> None:
    from cssp.cli.methods import show

    print(show(o.name))


def _select(o: argparse.Namespace) -> None:
    from cssp.cli.select import select

    select(o)


def _add_select(commands: Any) -> None:
    p = commands.add_parser(
        "select",
        help="choose columns of a matrix",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.set_defaults(run=_select)
    p.add_argument("data", help=f"a file ({', '.join(SUFFIXES)}), or - for standard input")
    _add_input(p.add_argument_group("input").add_argument)
    _add_choice(p.add_argument_group("choice").add_argument)
    _add_output(p.add_argument_group("output").add_argument)


def _add_input(add: Callable[..., Any]) -> None:
    """Add how the file is read."""
    add("--format", metavar="NAME", help="the format where the ending does not tell it (standard input: csv)")
    add("--columns", action="append", metavar="A,B,...", help=f"use these columns only; {_COLUMNS}")
    add(
        "--numeric",
        action="store_true",
        help="leave out columns that hold no numbers; they are named on stderr",
    )
    add(
        "--missing",
        choices=("raise", "rows"),
        default="raise",
        help="refuse missing cells (default), or leave out the rows that have any",
    )
    add(
        "--header",
        choices=("auto", "yes", "no"),
        default="auto",
        help="whether the first line of a csv holds names; auto (default) says what it takes it for where in doubt",
    )
    add(
        "--sep",
        metavar="C",
        help="what separates the cells of a csv: one character, \\t, or auto (default , and \\t by the ending)",
    )
    add("--decimal", default=".", metavar="C", help="the decimal mark of a csv: . (default) or ,")
    add("--encoding", default="utf-8-sig", metavar="NAME", help="the encoding of a csv (default utf-8)")
    add("--key", help="the array of an npz file or a zarr group that holds several")


def _add_choice(add: Callable[..., Any]) -> None:
    """Add what is chosen, and by which method."""
    add("-k", type=int, help="number of columns")
    add("--tol", type=float, help="stop at this relative error; with or instead of -k")
    add("--method", default="residual", help="one of `cssp methods` (default residual)")
    add(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the method, such as f=1.5; may be repeated",
    )
    add("--rows", action="store_true", help="choose rows instead of columns")
    add(
        "--scale",
        action="store_true",
        help="divide each column by its norm for the choice: units do not matter",
    )
    add("--weights", metavar="FILE", help="a file with one weight per column")
    add("--include", action="append", metavar="A,B,...", help="columns chosen first, given as for --columns")
    add("--exclude", action="append", metavar="A,B,...", help="columns never chosen, given as for --columns")
    add(
        "--deficient",
        default="fill",
        help="where k exceeds the rank: fill up (default), truncate, or raise an error",
    )
    add("--rng", type=int, help="seed of the methods that draw")


def _add_output(add: Callable[..., Any]) -> None:
    """Add what is done with the answer."""
    add("-o", "--output", metavar="FILE", help="write the result there, not on stdout")
    add("--save-matrix", metavar="FILE", help="write the chosen columns (npy, npz, csv, tsv, parquet)")
    add("--certificate", action="store_true", help="compare with the best any columns could do")
    add("--progress", action="store_true", help="show how far the choice is, on stderr")
