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
) -> None:
    """Train a reference model from nothing and write it, its processor and its card to ``export`` (``out/seed0/model``)."""
    data.generate(out, "train", scenes, workers)
    clock = time.monotonic()
    workers = workers if device == "cpu" else 1
    if workers > 1:  # language and vision need nothing of each other
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            jobs = [pool.submit(train_stage, name, out, seed, 1, scale) for name in ("language", "vision")]
            for job in jobs:
                job.result()
    else:
        for name in ("language", "vision"):
            train_stage(name, out, seed, 1, scale, device)
    train_stage("whole", out, seed, workers, scale, device)
    hardware = (
        f"{workers} CPU cores ({platform.machine()})" if device == "cpu" else torch.cuda.get_device_name()
    )
    spent = {"hours": (time.monotonic() - clock) / 3600, "hardware": hardware}
    folder = folder_of(out, seed)
    finish(folder, seed, export or folder / "model", scenes, spent)


def finish(folder: Path, seed: int, export: Path, scenes: int, spent: dict, count: int = 500) -> dict:
    """Export the trained model of a seed's folder, measure it as it was exported and write its card."""
    save(start_model(folder, seed, ("vision", "whole")), export)
    measured = evaluate.measure(*reference.load(export), reference.clip(export), count=count)
    steps = {
        name: torch.load(folder / f"{name}.pt", weights_only=True)["step"]
        for name in ("language", "vision", "whole")
    }
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
