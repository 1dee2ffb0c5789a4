"""Studies, benchmarks and checks; ``python -m analysis COMMAND --help`` shows the options of one."""

from __future__ import annotations

import argparse
import importlib
import sys

#: Of every command: its module, which has ``add_arguments(parser)`` and ``main(arguments) -> int``, and what it does.
COMMANDS = {
    "study": ("study.command", "prune held-out scenes in many ways and relate predictors to accuracy"),
    "figures": (
        "study.page",
        "verdicts, figures and report again from the rows of a study, without a model",
    ),
    "best": ("study.best", "which pruner is best at which task of the study"),
    "train": ("training.train", "train the reference model (resumes where it stopped)"),
    "graft": (
        "training.graft",
        "teach a pretrained language model to read the reference model's visual tokens",
    ),
    "bench": ("benchmarks.bench", "time the selectors, their peers and the floors side by side"),
    "edges": ("benchmarks.edges", "hostile inputs on every method and on peer routines"),
    "guarantees": ("theory.guarantees", "try every method against every statement about it"),
    "mutation": ("theory.mutation", "sabotage every method and see whether a test notices"),
    "deep": ("deep", "the property tests on many examples each"),
    "fuzz": ("fuzz", "fuzz cssp and its command line, guided by the branches reached"),
    "gpu": ("gpu", "everything that waits for a GPU"),
    "pruners": ("pruners", "what every pruner needs, does and costs"),
    "families": ("families", "every feature on every model family, against the oracle"),
    "threads": ("threads", "calls of one pruned model from several threads at a time"),
    "outofcore": ("benchmarks.outofcore", "selection from a matrix on disk, on a local cluster"),
    "memory-map": ("benchmarks.mapped", "selection from a large mapped file: memory, time and numbers"),
    "shapes": (
        "benchmarks.shapes",
        "tall and wide matrices: every method, its error, certificate and memory",
    ),
    "kernels": ("kernels", "landmarks of hard kernels; columns that are seen once"),
    "tasks": ("peer_tasks", "tasks that peers show on their own pages, side by side"),
    "notebook": ("notebook", "a script of the gallery as a notebook with its output"),
    "real": ("real.command", "prune two pretrained models on drawings of molecules and on photographs"),
    "tables": ("real_tables", "real tables through the command line and through every method"),
    "which": ("which", "error and time of every method on three shapes of real data"),
    "dependence": ("dependence", "tied and dependent columns in every method, and what they cost"),
    "structure": ("structure", "imports between packages, long functions and modules, lines of code"),
    "extend": (
        "extend",
        "add the method and the pruner of docs/guide/extend.md to a copy and run the fast tests there",
    ),
    "damage": ("damage", "damage checkpoints and states of streams and see what happens"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code; only the module of the command is imported."""
    words = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m analysis", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (module, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text)
        if words[:1] == [name]:
            chosen = importlib.import_module(f"analysis.{module}")
            chosen.add_arguments(command)
    given = parser.parse_args(words)
    del given.command
    return chosen.main(given)


if __name__ == "__main__":
    sys.exit(main())
