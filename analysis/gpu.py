"""Everything that waits for a GPU: tests on the device, the speed table, training resumed from its checkpoint.

``python -m analysis gpu`` writes what it measured to its output folder; each call goes on where the last one stopped.
Without a CUDA device it says so and stops.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(out: Path) -> int:
    import torch

    if not torch.cuda.is_available():
        print(
            "no CUDA device: nothing was run. Everything this command does is tested on the CPU by `make test`.",
            file=sys.stderr,
        )
        return 1
    import pytest

    from .benchmarks import speed
    from .training.train import train

    out.mkdir(parents=True, exist_ok=True)
    found: dict = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    found["tests"] = int(pytest.main(["-q", "tests/gpu"]))
    found["speed"] = speed.main("cuda", repeats=5)
    (out / "measured.json").write_text(json.dumps(found, indent=1) + "\n")
    train(out=out / "train", export=out / "model", workers=8, device="cuda")
    return found["tests"]
