"""``python -m vlm_bridge generate``: answer a question about images on pruned tokens, and print what pruning did."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import nullcontext
from pathlib import Path
from time import perf_counter
from typing import Any

from PIL import Image
from tqdm import tqdm

from vlm_bridge.chat import has_template, prepare, question
from vlm_bridge.cli.checkpoints import device_of, load, load_clip
from vlm_bridge.errors import BridgeError
from vlm_bridge.live.prune import prune
from vlm_bridge.pruners import find_pruner
from vlm_bridge.reporting import picture

__all__ = ["run"]

#: Endings of the files that are taken from a folder.
ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def run(args: argparse.Namespace) -> None:
    """Print an answer for all images together, or with ``--each`` one for every image; cheap checks come before the checkpoint is loaded."""
    find_pruner(args.method)
    if args.picture is not None:
        picture.check_path(args.picture)
        if args.each:
            raise BridgeError("--picture draws the images of one question: expected it without --each.")
    asked = [[path] for path in _files(args.image)] if args.each else [args.image]
    for paths in asked:
        for path in paths:
            _opened(path)
    device = device_of(args.device)
    model, processor = load(args.model, device, args.dtype, args.trust_remote_code)
    clip = {"clip": load_clip(args.clip, device)} if args.clip else {}
    for paths in tqdm(asked, unit="image", disable=not args.each, file=sys.stderr):
        record = _answer(args, model, processor, clip, paths)
        with tqdm.external_write_mode(sys.stderr) if args.each else nullcontext():
            print(json.dumps(record) if args.json else _text(record, args.each), flush=True)


def _answer(
    args: argparse.Namespace, model: Any, processor: Any, clip: dict[str, Any], paths: list[Path]
) -> dict[str, Any]:
    images = [_opened(path) for path in paths]
    inputs = prepare(processor, [question(images, args.prompt)]).to(device=model.device, dtype=model.dtype)

    def generated() -> tuple[str, float]:
        start = perf_counter()
        output = model.generate(**inputs, max_new_tokens=args.max_new_tokens, do_sample=False)
        said = processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return said.strip(), perf_counter() - start

    with prune(
        model,
        args.keep,
        args.method,
        relevance=args.relevance,
        positions=args.positions,
        fold=args.fold or False,
        processor=processor,
        **clip,
        **dict(args.option),
    ) as report:
        answer, seconds = generated()
    record: dict[str, Any] = {
        "images": [str(path) for path in paths],
        "prompt": args.prompt,
        "chat_template": has_template(processor),
        "answer": answer,
        "method": args.method,
        "kept": [len(one) for one in report.kept],
        "tokens": list(report.sizes),
        "errors": [float(error) for error in report.errors],
        "seconds_to_choose": sum(report.seconds),
        "seconds": seconds,
        "cost": str(report.cost),
    }
    if args.compare:
        record["answer_from_all_tokens"], record["seconds_from_all_tokens"] = generated()
    if args.picture is not None:
        views = picture.views(model, processor, inputs, images, report.sizes)
        picture.save(args.picture, picture.draw(views, report.kept))
        record["picture"] = f"{args.picture}{picture.note(views)}"
    return record


def _text(record: dict[str, Any], several: bool) -> str:
    """Return the record in words; the name of the image goes first where there are several records."""
    template = (
        "by the model's chat template" if record["chat_template"] else "as it is, without a chat template"
    )
    errors = ", ".join(f"{error:.4f}" for error in record["errors"])
    lines = [
        *([f"image: {record['images'][0]}"] if several else []),
        record["answer"],
        f"kept: {sum(record['kept'])} of {sum(record['tokens'])} visual tokens, by {record['method']}",
        f"relative reconstruction error: {errors}",
        f"seconds: {record['seconds_to_choose']:.4f} to choose, {record['seconds']:.2f} in all",
        f"cost: {record['cost']}",
        f"prompt: {template}",
    ]
    if "answer_from_all_tokens" in record:
        lines.append(
            f"from all tokens: {record['answer_from_all_tokens']} ({record['seconds_from_all_tokens']:.2f} seconds)"
        )
    if "picture" in record:
        lines.append(f"picture: {record['picture']}")
    return "\n".join(lines)


def _files(paths: list[Path]) -> list[Path]:
    """Return the files, and the images in the folders, among these paths."""
    found: list[Path] = []
    for path in paths:
        inside = sorted(f for f in path.iterdir() if f.suffix.lower() in ENDINGS) if path.is_dir() else [path]
        if not inside:
            raise BridgeError(f"--image {path}: expected a folder with images ({', '.join(ENDINGS)}).")
        found += inside
    return found


def _opened(path: Path) -> Image.Image:
    if path.is_dir():
        raise BridgeError(f"--image {path}: this is a folder; --each asks about every image in it.")
    if not path.is_file():
        raise BridgeError(f"--image {path}: no such file.")
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        raise BridgeError(
            f"--image {path}: expected an image file, which cannot be read ({error})."
        ) from error
