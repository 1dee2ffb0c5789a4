"""Calls of one pruned model from several threads at a time, each compared with the same call made alone.

``python -m analysis threads`` runs every pattern of the tests with more calls, on tiny random models. Tokens must be equal
bit by bit, logits to 1e-5; the status is 1 where an answer is wrong or a call fails otherwise than by a refusal.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

import torch
import transformers

from analysis.benchmarks.tables import table
from analysis.families import TESTS

WORDS = ("right", "wrong", "refused", "failed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("--names", nargs="+", help="only these patterns")
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--calls", type=int, default=50, help="of each thread")
    parser.add_argument("--out", type=Path, default=Path("out/threads"))


def main(arguments: argparse.Namespace) -> int:
    """Run the patterns, print and write the table; 1 where something is wrong."""
    sys.path.insert(0, str(TESTS))
    from thread_patterns import PATTERNS, run

    names, threads, calls, out = arguments.names, arguments.threads, arguments.calls, arguments.out
    unknown = set(names or ()) - set(PATTERNS)
    if unknown:
        print(f"unknown patterns {sorted(unknown)}; choose from {list(PATTERNS)}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    lines: list[tuple[str, ...]] = [("pattern", *WORDS)]
    total: Counter[str] = Counter()
    for name in names or PATTERNS:
        found = run(name, threads, calls)
        total += found
        lines.append((name, *(str(found[word]) for word in WORDS)))
        print(name, dict(found), flush=True)
    lines.append(("all", *(str(total[word]) for word in WORDS)))
    text = f"transformers {transformers.__version__}, {threads} threads of {calls} calls each.\n\n{table(lines)}\n"
    print(text)
    out.mkdir(parents=True, exist_ok=True)
    (out / "threads.md").write_text(text)
    return int(total["wrong"] + total["failed"] > 0)
