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
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from PIL import Image

from vlm_bridge.chat import prepare, question
from vlm_bridge.cli import demo
from vlm_bridge.cli.checkpoints import load, load_clip
from vlm_bridge.cli.parser import parser, table
from vlm_bridge.errors import BridgeError
from vlm_bridge.live.prune import prune
from vlm_bridge.live.verify import verify
from vlm_bridge.pruners import find_pruner
from vlm_bridge.reporting import picture

__all__ = ["check", "generate", "load", "load_clip", "main", "table"]


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
            (demo.run if args.command == "demo" else generate)(args)
    except Exception as error:  # the boundary of the program: models and files fail in many ways
        kind = "" if isinstance(error, (BridgeError, OSError)) else f"{type(error).__name__}: "
        print(f"python -m vlm_bridge: error: {kind}{' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def check(args: argparse.Namespace) -> int:
    """Print what `verify` returns; return 1 where not everything is right, else 0."""
    find_pruner(args.method)
    model, processor = load(args.model, _device(args), args.dtype, args.trust_remote_code)
    verification = verify(model, processor, args.keep, args.method)
    print(verification)
    return int(not verification.ok)


def _device(args: argparse.Namespace) -> str:
    return args.device or ("cuda" if torch.cuda.is_available() else "cpu")


def generate(args: argparse.Namespace) -> None:
    """Print the answer and what pruning did; cheap checks come before the checkpoint is loaded."""
    find_pruner(args.method)
    if args.picture is not None:
        picture.check_path(args.picture)
    images = [_opened(path) for path in args.image]
    device = _device(args)
    model, processor = load(args.model, device, args.dtype, args.trust_remote_code)
    inputs = prepare(processor, [question(images, args.prompt)]).to(device=device, dtype=model.dtype)
    options: dict[str, Any] = {"clip": load_clip(args.clip, device)} if args.clip else {}
    start = perf_counter()
    with prune(
        model,
        args.keep,
        args.method,
        relevance=args.relevance,
        positions=args.positions,
        fold=args.fold or False,
        processor=processor,
        **options,
    ) as report:
        output = model.generate(**inputs, max_new_tokens=args.max_new_tokens, do_sample=False)
    seconds = perf_counter() - start
    answer = processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    kept, errors = sum(map(len, report.kept)), ", ".join(f"{error:.4f}" for error in report.errors)
    print(answer.strip())
    print(f"kept: {kept} of {sum(report.sizes)} visual tokens, by {args.method}")
    print(f"relative reconstruction error: {errors}")
    print(f"seconds: {sum(report.seconds):.4f} to choose, {seconds:.2f} in all")
    print(f"cost: {report.cost}")
    if args.picture is not None:
        views = picture.views(model, processor, inputs, images, report.sizes)
        picture.save(args.picture, picture.draw(views, report.kept))
        print(f"picture: {args.picture}{picture.note(views)}")


def _opened(path: Path) -> Image.Image:
    if not path.is_file():
        raise BridgeError(f"--image {path}: no such file.")
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        raise BridgeError(
            f"--image {path}: expected an image file, which cannot be read ({error})."
        ) from error


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
