"""Photographic backgrounds: crops of eight photographs that scikit-image and scikit-learn ship.

=========  ==========================================  ===============================================
name       photograph                                  licence
=========  ==========================================  ===============================================
brick      scikit-image ``brick`` (CC0Textures)        CC0
grass      scikit-image ``grass`` (CC0Textures/D.S.)   CC0
gravel     scikit-image ``gravel`` (CC0Textures)       CC0
coffee     scikit-image ``coffee`` (R. Michetti)       CC0
cat        scikit-image ``chelsea`` (S. van der Walt)  CC0
rocket     scikit-image ``rocket`` (SpaceX)            public domain
temple     scikit-learn ``china.jpg`` (danielbuechele) CC BY 2.0
flower     scikit-learn ``flower.jpg`` (vultilion)     CC BY 2.0
=========  ==========================================  ===============================================
"""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image

NAMES = ("brick", "grass", "gravel", "coffee", "cat", "rocket", "temple", "flower")
_TINT = {"brick": (1.0, 0.78, 0.68), "grass": (0.72, 1.0, 0.62), "gravel": (1.0, 0.96, 0.88)}


@cache
def photograph(name: str) -> Image.Image:
    """Return the whole photograph as an RGB image; grey textures get their natural tint."""
    import skimage.data
    from sklearn.datasets import load_sample_image

    if name == "temple":
        pixels = load_sample_image("china.jpg")
    elif name == "flower":
        pixels = load_sample_image("flower.jpg")
    else:
        pixels = getattr(skimage.data, name)()
    if pixels.ndim == 2:
        pixels = pixels[..., None] * np.array(_TINT[name])
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def crop(name: str, size: int, training: bool, rng: np.random.Generator) -> np.ndarray:
    """Return a random square crop, flipped and re-lit at random. Returns float32 (size, size, 3) in 0..255.

    Training crops come from the left 60 % of the photograph, the others from the right 40 %: no pixel is in both.
    """
    photo = photograph(name)
    width, height = photo.size
    border = round(0.6 * width)
    start, stop = (0, border) if training else (border, width)
    side = int(rng.integers(size, min(stop - start, height)))
    left, top = start + int(rng.integers(0, stop - start - side + 1)), int(rng.integers(0, height - side + 1))
    part = photo.crop((left, top, left + side, top + side))
    pixels = np.asarray(part.resize((size, size), Image.Resampling.BILINEAR))
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    contrast, brightness = rng.uniform(0.55, 0.9), rng.uniform(-20, 30)
    return (pixels.astype(np.float32) - 128) * contrast + 118 + brightness
