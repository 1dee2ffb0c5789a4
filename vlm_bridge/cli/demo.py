"""``python -m vlm_bridge demo``: five questions about one image, to the shipped model, with all of its tokens and with few."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from time import perf_counter
from typing import Any

from PIL import Image, ImageDraw

import vlm_bridge
from vlm_bridge.cli.checkpoints import load
from vlm_bridge.cli.parser import aligned
from vlm_bridge.errors import BridgeError
from vlm_bridge.live.prune import prune
from vlm_bridge.pruners import find_pruner
from vlm_bridge.reporting import picture

__all__ = ["run"]

#: The shipped model, an image and questions about it: part of a checkout, not of an installed package.
SHIPPED = Path(vlm_bridge.__file__).parents[1] / "analysis" / "reference"


def run(args: argparse.Namespace) -> None:
    """Print answers from all tokens, from chosen ones and from as many random ones, with time and cost, and draw what was kept."""
    find_pruner(args.method)
    picture.check_path(args.picture)
    if args.picture.exists() and not args.force:
        raise BridgeError(f"--picture {args.picture}: the file exists; --force writes over it.")
    if not (SHIPPED / "example.json").is_file():
        raise BridgeError(
            f"the demo needs the model of a checkout, expected in {SHIPPED}; run it from a clone of the repository, or "
            "`python -m vlm_bridge generate` with a model of yours."
        )
    model, processor = load(str(SHIPPED), "cpu", "float32", False)
    image = Image.open(SHIPPED / "example.png").convert("RGB")
    questions = json.loads((SHIPPED / "example.json").read_text())
    inputs = processor(
        images=[image] * len(questions),
        text=[f"<image> {one['question']}" for one in questions],
        return_tensors="pt",
        padding=True,
    )
    arms: dict[str, dict[str, Any]] = {
        "all tokens": {"keep": 1.0, "method": "uniform_grid"},
        args.method: {"keep": args.keep, "method": args.method, "processor": processor},
        "random": {"keep": args.keep, "method": "random", "rng": 0},
    }
    said, seconds, reports = {}, {}, {}
    for name, options in arms.items():
        start = perf_counter()
        with prune(model, **options) as report:
            output = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        seconds[name], reports[name] = perf_counter() - start, report
        answers = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        said[name] = [answer.strip() for answer in answers]
    sizes = {name: f"{name}, {len(report.kept[0])}" for name, report in reports.items()}
    _print_table(questions, said, sizes)
    for name, report in reports.items():
        right = sum(one["answer"] == answer for one, answer in zip(questions, said[name], strict=True))
        cost = f"; {report.cost}" if name == args.method else ""
        print(f"{sizes[name]}: {right} of {len(questions)} right in {seconds[name]:.2f} s{cost}")
    one = {"pixel_values": inputs["pixel_values"][:1]}
    panels = [
        picture.draw(picture.views(model, processor, one, [image], report.sizes[:1]), report.kept[:1])
        for report in reports.values()
    ]
    picture.save(args.picture, _captioned(panels, list(sizes.values()), questions, said))
    print(f"picture: {args.picture}")


def _print_table(questions: list[dict[str, str]], said: dict[str, list[str]], sizes: dict[str, str]) -> None:
    rows = [["question", "right answer", *sizes.values()]]
    rows += [
        [one["question"], one["answer"], *(answers[i] for answers in said.values())]
        for i, one in enumerate(questions)
    ]
    print(aligned(rows))


def _captioned(
    panels: list[Image.Image], names: list[str], questions: list[dict[str, str]], said: dict[str, list[str]]
) -> Image.Image:
    """Return the panels side by side, each with its name above, and questions with its answers below; right ones are green."""
    side, gap, line = panels[0].width, picture.GAP, 30
    height = line + panels[0].height + line * (len(questions) + 1)
    canvas = Image.new("RGB", (len(panels) * (side + gap) - gap, height), "white")
    pen = ImageDraw.Draw(canvas)
    for i, (panel, name, answers) in enumerate(zip(panels, names, said.values(), strict=True)):
        left = i * (side + gap)
        pen.text((left, 2), f"{name} tokens" if "tokens" not in name else name, fill="black", font_size=22)
        canvas.paste(panel, (left, line))
        for j, (one, answer) in enumerate(zip(questions, answers, strict=True)):
            colour = (0, 110, 60) if answer == one["answer"] else (190, 30, 45)
            top = line + panel.height + 8 + line * j
            pen.text((left, top), f"{one['question']} {answer}", fill=colour, font_size=20)
    return canvas
