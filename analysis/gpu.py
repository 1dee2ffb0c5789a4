"""Everything that waits for a GPU: tests on the device, speed tables, prefill, a grafted model, training from its checkpoint.

``python -m analysis gpu`` does the steps that are not done yet; ``--step NAME`` does one of them, anew. Each step takes
less than ten minutes on an H200 (training aside), writes ``OUT/<step>.json`` and goes on where an interrupted call
stopped. Without a CUDA device it says so and stops. ``--tiny`` tries the plumbing on the CPU with toy sizes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["STEPS", "main"]


def _tests(out: Path, device: str, tiny: bool) -> dict:
    """Run tests/gpu on the device."""
    import pytest

    arguments = ["-q", "-p", "no:cacheprovider", "tests/gpu"]
    return {"exit status of pytest": int(pytest.main([*arguments, "--collect-only"] if tiny else arguments))}


def _speed(out: Path, device: str, tiny: bool) -> dict:
    """Time the kernel against published loops and the floor."""
    from analysis.benchmarks.device import speed

    return speed(out, device, tiny)


def _prefill(out: Path, device: str, tiny: bool) -> dict:
    """Time the prefill of a model of the shape of LLaVA-1.5-7B with and without selection."""
    from analysis.benchmarks.prefill import measure

    return measure(out, device, tiny)


def _bench(out: Path, device: str, tiny: bool) -> dict:
    """Time `cssp.select` on tensors of the device."""
    from analysis.benchmarks import speed

    return {} if tiny else {"rows": speed.main(device, repeats=5)}


def _train(out: Path, device: str, tiny: bool) -> dict:
    """Train the reference models of three seeds on the device."""
    from analysis.training.train import train

    for seed in () if tiny else range(3):
        train(seed, out=out / "train", workers=8, device=device)
    return {}


def _graft(out: Path, device: str, tiny: bool) -> dict:
    """Teach SmolLM2-135M to read the reference model's visual tokens, if `make graft` has been run."""
    from analysis.training import data
    from analysis.training.graft import FOLDER, graft, language_model, train

    if tiny or not FOLDER.exists():
        return {"not done": "toy sizes" if tiny else f"no language model in {FOLDER}: run `make graft`"}
    data.generate(out / "train", "train", 40, 8)
    model, tokenizer = language_model(FOLDER)
    return train(graft(model, tokenizer), tokenizer, data.load(out / "train", "train"), out / "graft")


#: In this order; training last, since it takes longest.
STEPS: dict[str, Callable[[Path, str, bool], dict]] = {
    "tests": _tests,
    "speed": _speed,
    "prefill": _prefill,
    "bench": _bench,
    "graft": _graft,
    "train": _train,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("--out", type=Path, default=Path("out/gpu"))
    parser.add_argument(
        "--step", nargs="+", help="only these steps, anew: tests speed prefill bench graft train"
    )
    parser.add_argument("--tiny", action="store_true", help="try the plumbing on the CPU with toy sizes")


def main(arguments: argparse.Namespace) -> int:
    """Do the steps and write what they measured; 1 where there is no device or a test failed."""
    import torch

    out, step, tiny = arguments.out, arguments.step, arguments.tiny
    unknown = set(step or ()) - set(STEPS)
    if unknown:
        print(f"unknown steps {sorted(unknown)}; choose from {list(STEPS)}", file=sys.stderr)
        return 2
    if not (tiny or torch.cuda.is_available()):
        print(
            "no CUDA device: nothing was run. The plumbing of this command is tested on the CPU by `make test`.",
            file=sys.stderr,
        )
        return 1
    device = "cpu" if tiny else "cuda"
    out.mkdir(parents=True, exist_ok=True)
    status = 0
    for name in step or STEPS:
        done = out / f"{name}.json"
        if done.exists():
            if not step:
                continue
            (out / f"{name}_parts.json").unlink(missing_ok=True)
        print(f"\n== {name}")
        start = time.perf_counter()
        found = STEPS[name](out, device, tiny)
        about = {
            "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
            "torch": torch.__version__,
            "tiny": tiny,
            "seconds": time.perf_counter() - start,
        }
        done.write_text(json.dumps(about | found, indent=1) + "\n")
        status |= int(bool(found.get("exit status of pytest")))
    return status
