"""``python -m analysis real``: prune DECIMER on drawings and EfficientNet-Lite0 on photographs.

Rows are kept under ``out/real/rows`` as they come, so a run goes on where it stopped. ``make real`` downloads the models.
Both have inputs of a fixed size, so "a smaller image with fewer tokens" is not among the arms: it cannot be tried here.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

MODELS = ("drawings", "photographs")
#: Rows of both models; the study reads those of drawings.
SHIPPED = Path(__file__).parent / "rows.npz"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    from analysis.real.drawings import STYLES

    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="what to measure")
    parser.add_argument("--styles", nargs="+", choices=STYLES, default=["plain"], help="of drawings")
    parser.add_argument(
        "--in-turn", action="store_true", help="draw each molecule once, in one of the styles in turn"
    )
    parser.add_argument("--drawings", type=int, default=56, help="molecules")
    parser.add_argument("--first", type=int, default=0, help="number of the first molecule")
    parser.add_argument(
        "--strings", action="store_true", help="also write strings from fewer tokens, for similarity (slow)"
    )
    parser.add_argument("--arms", nargs="+", help="only these")
    parser.add_argument(
        "--table",
        action="store_true",
        help="only the tables of the rows there are, without a model: those in --out, or else the shipped ones",
    )
    parser.add_argument("--pack", type=Path, help="write all rows into this npz file, too")
    parser.add_argument(
        "--unpack", action="store_true", help="only unpack the downloaded models (see `make real`)"
    )
    parser.add_argument("--out", type=Path, default=Path("out/real"))


def main(arguments: argparse.Namespace) -> int:
    """Measure what is missing, print and write the tables; return 2 where the models are missing."""
    from analysis.real import weights

    if arguments.unpack:
        weights.unpack(arguments.out)
        print(weights.LICENCES)
        return 0
    try:
        return _measure(arguments)
    except (FileNotFoundError, ModuleNotFoundError, ValueError) as error:
        print(
            f"{error}" if not isinstance(error, ModuleNotFoundError) else f"{error}: run `make real`.",
            file=sys.stderr,
        )
        return 2


def _measure(arguments: argparse.Namespace) -> int:
    import torch

    from analysis.real import arms, cases, rows, table

    unknown = [arm for arm in arguments.arms or () if arm not in arms.ARMS]
    if unknown:
        raise ValueError(f"--arms: expected names among {', '.join(arms.ARMS)}, got {', '.join(unknown)}.")
    chosen = {name: arms.ARMS[name] for name in arguments.arms or arms.ARMS}
    torch.set_num_threads(1)
    pages, every = [], []
    for name in arguments.models:
        path = arguments.out / "rows" / f"{name}.jsonl"
        if not arguments.table:
            model = (
                cases.Photographs()
                if name == "photographs"
                else cases.Drawings(
                    tuple(arguments.styles),
                    arguments.drawings,
                    arguments.strings,
                    arguments.first,
                    arguments.in_turn,
                )
            )
            rows.run(model, path, chosen, say=lambda line: print(line, flush=True))
        found = rows.read(path) if path.exists() else _shipped(name)
        every += found
        pages.append(table.pages(found, name))
    text = "\n".join(pages)
    print(text)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "real.md").write_text(text)
    if arguments.pack is not None:
        rows.pack(every, arguments.pack)
    return 0


def _shipped(model: str) -> list[dict[str, Any]]:
    from analysis.real import rows
    from analysis.real.drawings import STYLES

    return [row for row in rows.packed(SHIPPED) if (row["group"] in STYLES) == (model == "drawings")]
