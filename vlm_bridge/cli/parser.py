"""The options of the command line, and the table of pruners that it prints."""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from vlm_bridge.budget import AtMost, read_keep
from vlm_bridge.errors import BridgeError
from vlm_bridge.live.prune import prune
from vlm_bridge.pruners import PRUNERS

__all__ = ["aligned", "parser", "table"]

DTYPES = ("auto", "float32", "bfloat16", "float16")


class _Parser(argparse.ArgumentParser):
    """A parser that answers a wrong command line by one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


class _List(argparse.Action):
    """An option that prints the table of pruners and stops, whatever else is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        print(table())
        parser.exit()


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = _Parser(prog="python -m vlm_bridge", description="Prune the visual tokens of a model.")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_generate(commands)
    check = commands.add_parser("verify", help="does this checkpoint, pruned, compute what it should?")
    _model_options(check, "float32")
    check.add_argument("--keep", type=_keep, default=0.5, help="as of generate (default %(default)s)")
    check.add_argument(
        "--method",
        default="spare",
        help="a pruner that leaves the kept tokens as they are (default %(default)s)",
    )
    demo = commands.add_parser(
        "demo", help="questions about one image, answered by the shipped model from all and from few tokens"
    )
    demo.add_argument("--keep", type=_keep, default=24, help="as of generate (default %(default)s of 144)")
    demo.add_argument("--method", default="spare", help="a pruner (default %(default)s)")
    demo.add_argument(
        "--picture", type=Path, default=Path("vlm-bridge-demo.png"), help="the picture (default %(default)s)"
    )
    demo.add_argument("--force", action="store_true", help="write over an existing picture")
    commands.add_parser("pruners", help="print the table of pruners")
    return parser


def _add_generate(commands: Any) -> None:
    one = commands.add_parser("generate", help="answer a question about an image on pruned tokens")
    _model_options(one, "auto")
    one.add_argument(
        "--image", required=True, nargs="+", type=Path, help="one file, or several; with --each folders, too"
    )
    one.add_argument("--prompt", required=True, help="the question; the model's chat template goes around it")
    one.add_argument(
        "--each", action="store_true", help="ask about every image by itself, instead of all together"
    )
    one.add_argument(
        "--keep",
        type=_keep,
        default=64,
        help="tokens of an image (64), a share of them (0.25), or all of a smaller image (at-most-64); default 64",
    )
    one.add_argument("--method", default="spare", help="a pruner; --list shows them (default %(default)s)")
    one.add_argument(
        "--option",
        type=_option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the pruner, such as alpha=0.5; may be repeated",
    )
    one.add_argument(
        "--relevance",
        choices=("anti", "normal"),
        help="sign of the text's weight (default: the pruner's own)",
    )
    one.add_argument(
        "--positions",
        choices=("keep", "compact"),
        default="keep",
        help="original positions of kept tokens, or 0, 1, ... (default %(default)s)",
    )
    one.add_argument(
        "--fold",
        nargs="?",
        const="cluster",
        choices=("cluster", "interpolation"),
        help="fold dropped tokens into kept ones (default: they are dropped)",
    )
    one.add_argument("--clip", help="CLIP with the model's own vision tower, for pruners that need its space")
    one.add_argument("--max-new-tokens", type=int, default=128, help="longest answer (default %(default)s)")
    one.add_argument("--compare", action="store_true", help="answer from all tokens, too, with its time")
    one.add_argument("--json", action="store_true", help="print a line of JSON for every answer")
    one.add_argument("--picture", type=Path, help="draw the image with the kept tokens into this file")
    one.add_argument("--list", action=_List, nargs=0, help="print the table of pruners and stop")


def _model_options(command: argparse.ArgumentParser, dtype: str) -> None:
    command.add_argument("--model", required=True, help="folder of a checkpoint, or its name on the hub")
    command.add_argument("--device", help="default: cuda where there is one, else cpu")
    command.add_argument(
        "--dtype", choices=DTYPES, default=dtype, help=f"{dtype}; auto: float32 on cpu, else as stored"
    )
    command.add_argument(
        "--trust-remote-code", action="store_true", help="run code that comes with the checkpoint"
    )


def _option(text: str) -> tuple[str, Any]:
    """Return name and value; a value that is no JSON, such as a word, is text."""
    name, equals, value = text.partition("=")
    if not (name.isidentifier() and equals):
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=VALUE, such as alpha=0.5")
    if name in inspect.signature(prune).parameters:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected an option of the pruner, and {name} is one of prune itself"
        )
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _keep(text: str) -> int | float | AtMost:
    try:
        return read_keep(text)
    except BridgeError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def table() -> str:
    """Format `PRUNERS`: name, required signals, what becomes of tokens that are not kept, and summary."""
    rows = [("name", "needs", "merges", "summary")]
    rows += [
        (row.name, ", ".join(row.needs) or "-", row.merges or "-", row.summary) for row in PRUNERS.values()
    ]
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as lines, the cells of a column one below the other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
