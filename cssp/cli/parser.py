"""The options of the command line."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from functools import partial
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
  cssp select onehot.csv -k 3 --group-by _
  cssp select sensors.csv --costs price.csv --budget 40 --min-distance 2.5 places.csv
  cssp independent design.csv --save-matrix full_rank.csv
  cssp interpolative data.npy --tol 1e-3 --save-factors T.npz
  cssp cur data.npy -k 10 --save-factors cur.npz
  cssp compare data.npy -k 10 --methods residual,greedy,uniform
"""

_COLUMNS = "may be repeated; a value that is a column's name is taken whole, any other is split at its commas into names or numbers from 0 (a name goes first)"


_PER_COLUMN = "a file with one per column, or a csv with lines NAME,VALUE"

Add = Callable[..., Any]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")


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
    _add_commands(commands)
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


def _runs(command: str) -> Callable[[argparse.Namespace], None]:
    """Return what runs a command; its module is imported only then."""

    def run(o: argparse.Namespace) -> None:
        module = importlib.import_module("cssp.cli.select" if command == "select" else "cssp.cli.tasks")
        getattr(module, command)(o)

    return run


def _add_commands(commands: Any) -> None:
    """Add the commands that read a file: what each does, what it chooses, what else it writes."""
    for command, text, choice, outputs in (
        (
            "select",
            "choose columns of a matrix",
            (_add_number, _add_method, _add_which),
            (_add_certificate, _add_matrix),
        ),
        (
            "compare",
            "choose columns by several methods, side by side",
            (_add_methods, _add_which),
            (),
        ),
        (
            "independent",
            "keep the first linearly independent columns, and say how the others depend on them",
            (_add_dependence,),
            (_add_matrix,),
        ),
        (
            "interpolative",
            "write all columns as combinations of some, with bounded coefficients",
            (_add_number, partial(_add_method, default="strong_rrqr")),
            (_add_matrix, _add_factors),
        ),
        (
            "cur",
            "approximate a matrix by some columns, some rows and a small matrix between them",
            (_add_cross, _add_method),
            (_add_matrix, _add_factors),
        ),
    ):
        p = commands.add_parser(
            command, help=text, epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        p.set_defaults(run=_runs(command))
        p.add_argument("data", help=f"a file ({', '.join(SUFFIXES)}), or - for standard input")
        _add_input(p.add_argument_group("input").add_argument, pairwise=command == "select")
        group = p.add_argument_group("choice").add_argument
        for add_options in choice:
            add_options(group)
        group = p.add_argument_group("output").add_argument
        group("-o", "--output", metavar="FILE", help="write the result there, as JSON, not on stdout")
        for add_options in outputs:
            add_options(group)


def _add_input(add: Add, pairwise: bool) -> None:
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
        choices=("raise", "rows", "pairwise")[: 2 + pairwise],
        default="raise",
        help="refuse missing cells (default), or leave out the rows that have any"
        + (", or use for each pair of columns the rows that have both" if pairwise else ""),
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


def _add_number(add: Add) -> None:
    """Add how many columns."""
    add("-k", type=int, help="number of columns")
    add("--tol", type=float, help="stop at this relative error; with or instead of -k")


def _add_method(add: Add, default: str = "residual") -> None:
    """Add by which method."""
    add("--method", default=default, help=f"one of `cssp methods` (default {default})")
    add(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the method, such as f=1.5; may be repeated",
    )
    add("--rng", type=int, help="seed of the methods that draw")


def _add_methods(add: Add) -> None:
    """Add how many columns, by which methods."""
    add("-k", type=int, required=True, help="number of columns")
    add("--methods", metavar="A,B,...", help="of `cssp methods`; left out, a usual few")
    add("--rng", type=int, help="seed of the methods that draw")


def _add_which(add: Add) -> None:
    """Add which columns may be chosen, and what counts."""
    add("--axis", choices=("columns", "rows"), default="columns", help="what is chosen (default columns)")
    add("--rows", dest="axis", action="store_const", const="rows", help="short for --axis rows")
    add(
        "--tol-each",
        type=float,
        metavar="TOL",
        help="stop once every column is explained to this share of its own norm; instead of --tol",
    )
    add(
        "--tol-max",
        type=float,
        metavar="NORM",
        help="stop once no column is farther than this from the span of the chosen; instead of --tol",
    )
    add(
        "--scale",
        action="store_true",
        help="divide each column by its norm for the choice: units do not matter",
    )
    add("--weights", metavar="FILE", help=f"how much the error of each column counts: {_PER_COLUMN}")
    add("--include", action="append", metavar="A,B,...", help="columns chosen first, given as for --columns")
    add("--exclude", action="append", metavar="A,B,...", help="columns never chosen, given as for --columns")
    add("--groups", metavar="FILE", help=f"choose groups whole, -k counting them; {_PER_COLUMN}")
    add("--group-by", metavar="SEP", help="the same for names that agree before SEP, such as _ in city_Rome")
    add("--costs", metavar="FILE", help=f"choose by gain per cost; {_PER_COLUMN}")
    add("--budget", type=float, help="the most that the chosen may cost; with or instead of -k")
    add(
        "--at-most",
        nargs=2,
        metavar=("Q", "FILE"),
        help=f"at most Q columns of one label; {_PER_COLUMN}",
    )
    add(
        "--min-distance",
        nargs=2,
        metavar=("R", "FILE"),
        help="chosen columns are R apart, by a file with one line of coordinates per column",
    )
    add("--progress", action="store_true", help="show how far the choice is, on stderr")
    add(
        "--deficient",
        default="fill",
        help="where k exceeds the rank: fill up (default), truncate, or raise an error",
    )


def _add_dependence(add: Add) -> None:
    """Add what counts as dependent."""
    add("--tol", type=float, help="a column depends on others if it is within this share of the largest norm")


def _add_cross(add: Add) -> None:
    """Add how many columns and rows, and how the matrix between them is formed."""
    add("-k", type=int, required=True, help="number of columns")
    add("-r", type=int, help="number of rows (default as many as columns)")
    add(
        "--core",
        default="best",
        help="the matrix between: best (default), of least error, or cross, from columns and rows alone",
    )


def _add_matrix(add: Add) -> None:
    """Add where the chosen columns go."""
    add("--save-matrix", metavar="FILE", help="write the chosen columns (npy, npz, csv, tsv, parquet)")


def _add_factors(add: Add) -> None:
    """Add where the factors go."""
    add("--save-factors", metavar="FILE.npz", help="write the factors as arrays of one npz file")


def _add_certificate(add: Add) -> None:
    """Add the comparison with the optimum."""
    add("--certificate", action="store_true", help="compare with the best any columns could do")
