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
from typing import Any, NoReturn

import torch
from PIL import Image

from vlm_bridge.budget import AtMost, read_keep
from vlm_bridge.chat import prepare, question
from vlm_bridge.errors import BridgeError
from vlm_bridge.live.prune import prune
from vlm_bridge.live.verify import verify
from vlm_bridge.pruners import PRUNERS, find_pruner
from vlm_bridge.reporting import picture

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


def _parser() -> _Parser:
    parser = _Parser(prog="python -m vlm_bridge", description="Prune the visual tokens of a model.")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("generate", help="answer a question about an image on pruned tokens")
    _model_options(one, "auto")
    one.add_argument("--image", required=True, nargs="+", type=Path, help="one file, or several")
    one.add_argument("--prompt", required=True)
    one.add_argument(
        "--keep",
        type=_keep,
        default=64,
        help="tokens of an image (64), a share of them (0.25), or all of a smaller image (at-most-64)",
    )
    one.add_argument("--method", default="spare", help="a pruner; --list shows them")
    one.add_argument("--relevance", choices=("anti", "normal"))
    one.add_argument("--positions", choices=("keep", "compact"), default="keep")
    one.add_argument("--fold", nargs="?", const="cluster", choices=("cluster", "interpolation"))
    one.add_argument("--clip", help="CLIP with the model's own vision tower, for pruners that need its space")
    one.add_argument("--max-new-tokens", type=int, default=128)
    one.add_argument("--picture", type=Path, help="draw the image with the kept tokens into this file")
    one.add_argument("--list", action=_List, nargs=0, help="print the table of pruners and stop")
    check = commands.add_parser("verify", help="does this checkpoint, pruned, compute what it should?")
    _model_options(check, "float32")
    check.add_argument("--keep", type=_keep, default=0.5, help="as of generate")
    check.add_argument("--method", default="spare", help="a pruner that leaves the kept tokens as they are")
    commands.add_parser("pruners", help="print the table of pruners")
    return parser


def _model_options(command: argparse.ArgumentParser, dtype: str) -> None:
    command.add_argument("--model", required=True, help="folder of a checkpoint, or its name on the hub")
    command.add_argument("--device", help="default: cuda where there is one, else cpu")
    command.add_argument(
        "--dtype", choices=DTYPES, default=dtype, help=f"{dtype}; auto: float32 on cpu, else as stored"
    )
    command.add_argument(
        "--trust-remote-code", action="store_true", help="run code that comes with the checkpoint"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run a command, and return its exit code; an error is one line on stderr and exit code 2."""
    args = _parser().parse_args(arguments)
    if args.command == "pruners":
        print(table())
        return 0
    try:
        with _quiet():
            if args.command == "verify":
                return check(args)
            generate(args)
    except Exception as error:  # the boundary of the program: models and files fail in many ways
        kind = "" if isinstance(error, (BridgeError, OSError)) else f"{type(error).__name__}: "
        print(f"python -m vlm_bridge: error: {kind}{' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def table() -> str:
    """Format `PRUNERS`: name, required signals, what becomes of tokens that are not kept, and summary."""
    rows = [("name", "needs", "merges", "summary")]
    rows += [
        (row.name, ", ".join(row.needs) or "-", row.merges or "-", row.summary) for row in PRUNERS.values()
    ]
    widths = [max(len(row[c]) for row in rows) for c in range(3)]
    return "\n".join(
        "  ".join([*(text.ljust(w) for text, w in zip(row[:3], widths, strict=True)), row[3]]) for row in rows
    )


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


def load(path: str, device: str, dtype: str = "auto", trust_remote_code: bool = False) -> tuple[Any, Any]:
    """Load a model, in evaluation mode, and its processor; for a folder nothing is looked up on the hub.

    Raises
    ------
    BridgeError
        There is no such folder, or the processor takes no images.
    OSError, ValueError
        Raised by transformers: no safetensors, an architecture without image input, or code of the checkpoint's own.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    common = {"local_files_only": Path(path).is_dir(), "trust_remote_code": trust_remote_code}
    if path.startswith((".", "/", "~")) and not Path(path).is_dir():
        raise BridgeError(f"--model {path}: no such folder.")
    stored: Any = getattr(torch, dtype, "auto")
    if dtype == "auto" and torch.device(device).type == "cpu":
        stored = torch.float32
    processor = AutoProcessor.from_pretrained(path, **common)
    if getattr(processor, "image_processor", None) is None:
        raise BridgeError(
            f"--model {path}: {type(processor).__name__} takes no images: expected a vision-language model."
        )
    loader: Any = AutoModelForImageTextToText
    model = loader.from_pretrained(path, dtype=stored, use_safetensors=True, **common)
    return model.to(device).eval(), processor


def load_clip(path: str, device: str) -> tuple[Any, Any]:
    """Load a CLIP model, in evaluation mode, and its tokenizer."""
    from transformers import AutoTokenizer, CLIPModel

    local = Path(path).is_dir()
    model: Any = CLIPModel.from_pretrained(path, use_safetensors=True, local_files_only=local)
    return model.to(device).eval(), AutoTokenizer.from_pretrained(path, local_files_only=local)


def _keep(text: str) -> int | float | AtMost:
    try:
        return read_keep(text)
    except BridgeError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


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
