"""Everything that waits for a GPU, in pieces of under ten minutes: tests on the device, speed tables, longer training.

``python -m analysis gpu`` writes what it measured to ``out/gpu``. Without a CUDA device it says so and stops.
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

    out.mkdir(parents=True, exist_ok=True)
    code = pytest.main(["-q", "tests/gpu"])
    rows = speed.main("cuda", repeats=5)
    found = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "tests": int(code),
        "speed": rows,
    }
    (out / "measured.json").write_text(json.dumps(found, indent=1) + "\n")
    return int(code)
