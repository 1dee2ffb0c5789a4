"""``python -m analysis train``: scenes, three stages, export, measurement, model card. Each part resumes where it stopped."""

from __future__ import annotations

import argparse
import json
import platform
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from analysis import reference
from analysis.training import data, evaluate
from analysis.training.card import write_card
from analysis.training.model import processor, tokenizer
from analysis.training.recipe import HEADS, folder_of, start_model, train_stage

STAGES = ("language", "vision", "whole")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/train"))
    parser.add_argument("--scenes", type=int, default=40, help="training scenes, in thousands")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--scale", type=float, default=1.0, help="share of the recipe's steps (for trying it out)"
    )
    parser.add_argument("--device", default="cpu", help="cpu, or cuda")
    parser.add_argument(
        "--export", type=Path, help="write the finished model there (default: OUT/seedN/model)"
    )
    parser.add_argument(
        "--codes",
        choices=("summed", "neutral"),
        default="summed",
        help="what visual tokens are taught: summed codes, longer where more is shown, or neutral ones, whose norms tell nothing",
    )
    parser.add_argument(
        "--start",
        type=Path,
        help="folder of a finished model that goes on instead: it learns to transcribe (and neutral norms, if asked for)",
    )


def main(arguments: argparse.Namespace) -> int:
    """Train, export and measure a model."""
    train(**vars(arguments))
    return 0


def train(
    seed: int = 0,
    out: Path = Path("out/train"),
    scenes: int = 40,
    workers: int = 2,
    scale: float = 1.0,
    export: Path | None = None,
    device: str = "cpu",
    codes: str = "summed",
    start: Path | None = None,
) -> None:
    """Train a reference model and write it, its processor and its card to ``export`` (``out/seed0/model``).

    Parameters
    ----------
    seed, out, scenes, workers, scale, export, device
        Of the weights and the order of scenes; where scenes and stages are kept; thousands of scenes; processes; share of the
        recipe's steps; where the model goes; "cpu" or "cuda".
    codes : {"summed", "neutral"}
        Whether what a patch shows adds to the norm of its token, see `analysis.training.codes`.
    start : Path, optional
        The folder of a finished model that goes on: it learns transcriptions, and neutral norms before that where ``codes`` says
        so. Its vision tower stays as it is, with summed codes its visual tokens, too.
    """
    data.generate(out, "train", scenes, workers)
    clock = time.monotonic()
    workers = workers if device == "cpu" else 1
    given = (scale, device, codes)
    if start is not None:
        for name in going_on(codes):
            train_stage(name, out, seed, workers, *given, start)
    elif workers > 1:  # language and vision need nothing of each other
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            jobs = [pool.submit(train_stage, name, out, seed, 1, *given) for name in ("language", "vision")]
            for job in jobs:
                job.result()
    else:
        for name in ("language", "vision"):
            train_stage(name, out, seed, 1, *given)
    if start is None:
        train_stage("whole", out, seed, workers, *given)
    hardware = (
        f"{workers} CPU cores ({platform.machine()})" if device == "cpu" else torch.cuda.get_device_name()
    )
    spent = {"hours": (time.monotonic() - clock) / 3600, "hardware": hardware}
    folder = folder_of(out, seed, codes)
    spent |= {"codes": codes, "start": start is not None}
    finish(folder, seed, export or folder / "model", scenes, spent, start=start)


def going_on(codes: str) -> tuple[str, ...]:
    """Return the stages in which a finished model goes on."""
    return ("project", "transcribe") if codes == "neutral" else ("transcribe",)


def finish(
    folder: Path,
    seed: int,
    export: Path,
    scenes: int,
    spent: dict,
    count: int = 300,
    start: Path | None = None,
) -> dict:
    """Export the trained model of a seed's folder, measure it as it was exported and write its card.

    A model that went on from the finished one in ``start`` shares its tower, and so its joint space: that is not written again.
    """
    stages = STAGES if start is None else going_on(spent["codes"])
    model = start_model(folder, seed, stages, start)
    if start is not None:
        del model.joint
    save(model, export)
    clip = None if start is not None else reference.clip(export)
    measured = evaluate.measure(*reference.load(export), clip, count=count)
    steps = {name: torch.load(folder / f"{name}.pt", weights_only=True)["step"] for name in stages}
    measured |= {"seed": seed, "training_scenes": scenes * data.SHARD, "steps": steps, **spent}
    (export / "measured.json").write_text(json.dumps(measured, indent=1) + "\n")
    write_card(measured, export / "README.md")
    return measured


def save(model, folder: Path) -> None:
    """Write weights in half precision as safetensors, with the processor beside them; the joint space in ``clip/``."""
    folder.mkdir(parents=True, exist_ok=True)
    joint = model._modules.pop("joint", None)
    for head in HEADS:
        model._modules.pop(head, None)
    model.half().save_pretrained(folder)
    processor().save_pretrained(folder)
    if joint is not None:
        joint.half().save_pretrained(folder / "clip")
        tokenizer(captions=True).save_pretrained(folder / "clip")
