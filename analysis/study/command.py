"""``python -m analysis study``: run a plan, or a user's questions, and make the page of it."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from analysis.study import page, user_data
from analysis.study.plan import COMPLETE, QUICK, confirm, load, run

#: Options that change a field of the plan.
FIELDS = {
    "scenes": "scenes",
    "families": "families",
    "arms": "arms",
    "keep": "keeps",
    "inside": "inside_scenes",
    "model": "models",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    add = parser.add_argument
    add("--full", action="store_true", help="the complete study (hours) instead of the quick one")
    add("--quick", action="store_true", help="the quick one: a few scenes, minutes (the default)")
    add("--scenes", type=int, help="scenes of each family")
    add("--families", nargs="+", help="only these families of scenes")
    add("--arms", nargs="+", help="only these arms")
    add("--keep", nargs="+", type=float, help="shares of tokens kept")
    add("--inside", type=int, help="scenes of each family that get the systems inside the language model")
    add("--model", nargs="+", help="folders of checkpoints (the shipped one)")
    add(
        "--confirm",
        action="store_true",
        help="the same plan on the held-out confirmation set, which may be used once",
    )
    add(
        "--questions",
        type=Path,
        help="your own questions instead of scenes: JSON lines, or a parquet file (see docs/study/own.md)",
    )
    add(
        "--scoring",
        choices=("contains", "exact"),
        default="contains",
        help="of answers to your own questions",
    )
    add("--limit", type=int, help="of your own questions, only those about the first so many images")
    add("--out", type=Path, help="(default out/study, out/study-full; out/study-own with --questions)")
    add("--workers", type=int, default=2)


def main(arguments: argparse.Namespace) -> int:
    """Run the study; 2 where the plan, the questions or the rows are at fault."""
    try:
        given = {FIELDS[name]: value for name, value in vars(arguments).items() if name in FIELDS}
        changes: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in given.items() if v is not None
        }
        plan = replace(COMPLETE if arguments.full and not arguments.quick else QUICK, **changes)
        if arguments.questions is not None:
            folder = arguments.out or Path("out/study-own")
            arms = plan.arms if arguments.arms else user_data.ARMS
            limit, scoring = arguments.limit, arguments.scoring
            rows = user_data.run(
                plan.models[0], arguments.questions, folder, arms, plan.keeps, limit, scoring
            )
            return page.make(rows, folder)
        folder = arguments.out or Path("out", "study-full" if arguments.full else "study")
        if arguments.confirm:
            confirm(plan, folder / "confirm", arguments.workers)
        else:
            run(plan, folder, arguments.workers)
        return page.make(None, folder, checkpoint=load(plan.models[0]))
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
