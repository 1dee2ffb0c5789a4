"""Command line: answer a question about an image on pruned tokens, verify a model, or print the table of pruners.

``python -m vlm_bridge generate --model PATH --image x.jpg --prompt "..." --keep 64 --method spare`` takes a
folder written by ``save_pretrained`` or a name on the hub. Weights come from safetensors only, and no code of
the checkpoint runs unless ``--trust-remote-code`` is given.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from vlm_bridge.cli import demo, generate
from vlm_bridge.cli.checkpoints import device_of, load, load_clip
from vlm_bridge.cli.parser import parser, table
from vlm_bridge.errors import BridgeError
from vlm_bridge.live.verify import verify
from vlm_bridge.pruners import find_pruner

__all__ = ["check", "load", "load_clip", "main", "table"]


def main(arguments: list[str] | None = None) -> int:
    """Run a command, and return its exit code; an error is one line on stderr and exit code 2."""
    args = parser().parse_args(arguments)
    if args.command == "pruners":
        print(table())
        return 0
    try:
        with _quiet():
            if args.command == "verify":
                return check(args)
            (demo if args.command == "demo" else generate).run(args)
    except Exception as error:  # the boundary of the program: models and files fail in many ways
        kind = "" if isinstance(error, (BridgeError, OSError)) else f"{type(error).__name__}: "
        print(f"python -m vlm_bridge: error: {kind}{' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def check(args: argparse.Namespace) -> int:
    """Print what `verify` returns; return 1 where not everything is right, else 0."""
    find_pruner(args.method)
    model, processor = load(args.model, device_of(args.device), args.dtype, args.trust_remote_code)
    verification = verify(model, processor, args.keep, args.method)
    print(verification)
    return int(not verification.ok)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence progress bars and warnings of transformers inside the block, so that stderr holds the error line alone."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
