"""Objects and their pixels: five shapes, six colours, two sizes; and handwritten digits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle", "cross", "star")
COLOURS = ("red", "green", "blue", "yellow", "purple", "white")
SIZES = ("small", "large")
RADII = {"small": (6.0, 7.2), "large": (10.2, 12.0)}  # half the drawn width, pixels

_RGB = {
    "red": (215, 35, 35),
    "green": (30, 165, 60),
    "blue": (40, 80, 225),
    "yellow": (245, 215, 40),
    "purple": (160, 50, 185),
    "white": (245, 245, 245),
}
_OVERSAMPLE = 4


@dataclass(frozen=True)
class Thing:
    """One object: what it is and where (centre and radius in pixels)."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    angle: float


@dataclass(frozen=True)
class Mark:
    """One handwritten digit: its value, its patch (row, column), and its ink where that is coloured."""

    value: int
    patch: tuple[int, int]
    colour: str | None


def _outline(shape: str, angle: float) -> np.ndarray:
    """Return the corners of a polygon inside the unit circle, (corners, 2)."""
    if shape == "star":
        turn = np.arange(10) * np.pi / 5 - np.pi / 2 + angle
        reach = np.where(np.arange(10) % 2 == 0, 1.08, 0.45)
        return np.stack([np.cos(turn), np.sin(turn)], 1) * reach[:, None]
    if shape == "cross":
        a, b = 1.0, 0.32
        corners = np.array(
            [
                (-b, -a),
                (b, -a),
                (b, -b),
                (a, -b),
                (a, b),
                (b, b),
                (b, a),
                (-b, a),
                (-b, b),
                (-a, b),
                (-a, -b),
                (-b, -b),
            ]
        )
    elif shape == "square":
        corners = 0.86 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    else:
        turn = np.arange(3) * 2 * np.pi / 3 - np.pi / 2
        corners = 1.1 * np.stack([np.cos(turn), np.sin(turn)], 1)
    c, s = np.cos(angle), np.sin(angle)
    return corners @ np.array([[c, s], [-s, c]])


def coverage(thing: Thing, size: int) -> np.ndarray:
    """Return the share of every pixel that the object covers, float32 (size, size) in 0..1."""
    reach = 1.25 * thing.radius + 1
    left, top = max(0, int(thing.x - reach)), max(0, int(thing.y - reach))
    right, bottom = min(size, int(thing.x + reach) + 2), min(size, int(thing.y + reach) + 2)
    box = Image.new("L", ((right - left) * _OVERSAMPLE, (bottom - top) * _OVERSAMPLE))
    pen = ImageDraw.Draw(box)
    x, y, r = ((v * _OVERSAMPLE) for v in (thing.x - left, thing.y - top, thing.radius))
    if thing.shape == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=255)
    else:
        corners = _outline(thing.shape, thing.angle) * r + (x, y)
        pen.polygon([tuple(p) for p in corners], fill=255)
    mask = np.zeros((size, size), np.float32)
    mask[top:bottom, left:right] = np.asarray(box.reduce(_OVERSAMPLE), np.float32) / 255
    return mask


def paint(canvas: np.ndarray, thing: Thing, rng: np.random.Generator) -> np.ndarray:
    """Draw the object on ``canvas`` (in place), shaded a little; returns its coverage."""
    mask = coverage(thing, len(canvas))
    colour = np.clip(np.array(_RGB[thing.colour]) * rng.uniform(0.88, 1.06) + rng.normal(0, 6, 3), 0, 255)
    ramp = np.linspace(-1, 1, len(canvas)) * rng.uniform(-8, 8)
    canvas += mask[..., None] * (colour + ramp[:, None, None] - canvas)
    return mask


def brighter_sides(pixels: np.ndarray, patch: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the side towards which every patch grows brighter, and by how much more than across.

    Parameters
    ----------
    pixels : ndarray (size, size, 3)
    patch : int
        Pixels along the side of a patch.

    Returns
    -------
    sides : ndarray (size / patch, size / patch) of str
        One of "left", "right", "above", "below": where the steeper of the two mean slopes of brightness points, the upright one
        where they are equal.
    margins : ndarray of the same shape
        How much steeper it is than the other slope, in levels of 255 a pixel.
    """
    grid = len(pixels) // patch
    level = pixels.sum(-1, dtype=np.int64).reshape(grid, patch, grid, patch)
    along = 2 * np.arange(patch) - (patch - 1)  # whole numbers, so that equal slopes compare as equal
    across, down = (np.einsum(f"rycx,{axis}->rc", level, along) for axis in "xy")
    steps = 3 * patch * np.square(along).sum() / 2  # of one level a pixel, in three channels
    sides = np.where(
        abs(across) > abs(down),
        np.where(across > 0, "right", "left"),
        np.where(down > 0, "below", "above"),
    )
    return sides, abs(abs(across) - abs(down)) / steps


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    data = load_digits()
    return data.images.astype(np.float32) / 16, data.target


def write(
    canvas: np.ndarray,
    value: int,
    patch: tuple[int, int],
    colour: str | None,
    size: int,
    training: bool,
    rng: np.random.Generator,
) -> Mark:
    """Write a handwritten 8 x 8 digit into a patch of ``canvas`` (in place), in white where no colour is given.

    The last fifth of the handwriting samples is kept for held-out scenes.
    """
    images, values = _digits()
    first = int(0.8 * len(images))
    samples = images[:first][values[:first] == value] if training else images[first:][values[first:] == value]
    ink = samples[int(rng.integers(len(samples)))][..., None]
    row, column = patch
    box = canvas[row * size : (row + 1) * size, column * size : (column + 1) * size]
    if colour is None:
        paper: Any = np.float32(25)
        paint = np.array((250.0, 250.0, 250.0))
    else:  # on darkened ground, so that every ink stands out
        paper = np.clip(0.3 * box, 0, 60)
        paint = np.clip(np.array(_RGB[colour]) * rng.uniform(0.9, 1.1), 0, 255)
    box += 0.92 * (ink * paint + (1 - ink) * paper - box)
    return Mark(value, patch, colour)
