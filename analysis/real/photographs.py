"""Photographs that come with scikit-image, scikit-learn and Matplotlib, and square crops of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

#: Files by package.
FILES = {
    "skimage": [
        f"data/{name}"
        for name in (
            "astronaut.png",
            "brick.png",
            "camera.png",
            "chelsea.png",
            "clock_motion.png",
            "coffee.png",
            "coins.png",
            "grass.png",
            "gravel.png",
            "hubble_deep_field.jpg",
            "ihc.png",
            "moon.png",
            "motorcycle_left.png",
            "retina.jpg",
            "rocket.jpg",
        )
    ],
    "sklearn": ["datasets/images/china.jpg", "datasets/images/flower.jpg"],
    "matplotlib": ["mpl-data/sample_data/grace_hopper.jpg"],
}
#: Crops of a photograph: the whole square in the middle, and squares of 70 % of its side at four corners and in the middle.
CROPS = ("square", "top left", "top right", "bottom left", "bottom right", "middle")
CORNERS = {"top left": (0, 0), "top right": (1, 0), "bottom left": (0, 1), "bottom right": (1, 1)}


def paths() -> dict[str, Path]:
    """Return the photographs that are installed, by name, always in the same order."""
    import importlib.util

    found: dict[str, Path] = {}
    for package, files in FILES.items():
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            found |= {Path(name).stem: Path(spec.origin).parent / name for name in files}
    return {name: path for name, path in found.items() if path.exists()}


def crop(image: Image.Image, which: str, side: int) -> Image.Image:
    """Return a square crop, scaled to side x side pixels; which is one of `CROPS`."""
    if which not in CROPS:
        raise ValueError(f"which = {which!r}: expected one of {', '.join(CROPS)}.")
    length = min(image.size) * (1.0 if which == "square" else 0.7)
    x, y = CORNERS.get(which, (0.5, 0.5))
    left, top = x * (image.width - length), y * (image.height - length)
    box = (round(left), round(top), round(left + length), round(top + length))
    return image.convert("RGB").crop(box).resize((side, side), Image.Resampling.BICUBIC)


def prepare(image: Image.Image) -> Tensor:
    """Return an image as EfficientNet-Lite wants it, (3, height, width), values in [-1, 1]."""
    return torch.tensor(((np.asarray(image, np.float32) - 127) / 128).transpose(2, 0, 1).copy())
