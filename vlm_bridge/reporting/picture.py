"""Draw the image as the model saw it, with dropped tokens dimmed.

The number of tokens tells which part of an image a token covers: they form a grid over the tile that the vision tower was
given, line by line. Of images that are cut into tiles only the view of the whole image is drawn.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from vlm_bridge.errors import BridgeError
from vlm_bridge.model.families import FAMILIES, anyres

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LONGEST = 640
"""Longest side of a picture in pixels, to about which smaller images are enlarged."""
DIMMED, EDGE, GAP = 0.35, (255, 214, 10), 12


@dataclass(frozen=True)
class View:
    """The part of one image that is drawn.

    Attributes
    ----------
    image : PIL image, RGB
    grid : (int, int)
        Number of lines and columns of tokens over it.
    first : int
        Index of the token in the upper left corner; the others follow line by line.
    size : int
        Number of all tokens of the image.
    """

    image: Image.Image
    grid: tuple[int, int]
    first: int
    size: int

    def kept(self, indices: Tensor) -> np.ndarray:
        """Return which cells (lines, columns) of the grid are kept."""
        mask = np.zeros(self.size, dtype=bool)
        mask[indices.cpu().numpy()] = True
        rows, columns = self.grid
        return mask[self.first : self.first + rows * columns].reshape(self.grid)


def views(
    model: Any,
    processor: Any,
    inputs: Mapping[str, Any],
    images: Sequence[Image.Image],
    sizes: Sequence[int],
) -> list[View]:
    """Make a view for every entry of a report.

    Parameters
    ----------
    model, processor, inputs
        As in the call.
    images : list of PIL images
        As they were passed to the processor.
    sizes : list of int
        ``report.sizes`` of that call.

    Raises
    ------
    BridgeError
        The tokens form no grid over anything that the model was given.
    """
    pixels, kind = inputs.get("pixel_values"), str(model.config.model_type)
    if pixels is not None and inputs.get("image_grid_thw") is not None and pixels.ndim == 2:
        grids = inputs["image_grid_thw"].tolist()
        return [_patches(model, *one) for one in zip(images, grids, sizes, strict=True)]
    if pixels is not None and pixels.ndim == 4 and len(pixels) == len(sizes):
        shapes = inputs.get("image_sizes")
        spans = [pixels.shape[-2:]] * len(sizes) if shapes is None else shapes.tolist()
        first = int(getattr(model.config, "vision_feature_select_strategy", None) == "full")
        return [
            _whole(_seen(processor, tile[:, :h, :w]), n, first)
            for tile, (h, w), n in zip(pixels, spans, sizes, strict=True)
        ]
    if pixels is not None and pixels.ndim == 5:
        family = FAMILIES.get(kind)
        if family is not None and family.pack is anyres and len(pixels) == len(sizes):
            vision = model.config.vision_config
            side = vision.image_size // vision.patch_size
            return [
                View(_seen(processor, tiles[0]), (side, side), 0, n)
                for tiles, n in zip(pixels, sizes, strict=True)
            ]
        if kind in ("idefics3", "smolvlm") and len(images) == 1 and len(sizes) == 1:
            return [_last_tile(model, processor, pixels[0], sizes[0])]
    raise BridgeError(f"no picture: how the {list(sizes)} tokens of {kind!r} lie in the image is not known.")


def note(found: Sequence[View]) -> str:
    """Say in words what the picture leaves out; empty where it shows everything."""
    shown, size = sum(v.grid[0] * v.grid[1] for v in found), sum(v.size for v in found)
    if shown == size:
        return ""
    return f" (the view of the whole image: {shown} of {size} tokens; tiles and separators are not drawn)"


def draw(found: Sequence[View], kept: Sequence[Tensor]) -> Image.Image:
    """Draw the views side by side: kept cells framed, all others dimmed."""
    panels = [_panel(view, view.kept(indices)) for view, indices in zip(found, kept, strict=True)]
    width = sum(panel.width + GAP for panel in panels) - GAP
    canvas = Image.new("RGB", (width, max(panel.height for panel in panels)), "white")
    left = 0
    for panel in panels:
        canvas.paste(panel, (left, 0))
        left += panel.width + GAP
    return canvas


def show(found: Sequence[View], kept: Sequence[Tensor], ax: Axes | None = None) -> Axes:
    """Show the picture of `draw` on matplotlib axes, new ones by default; the title says how much is kept."""
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.subplots(layout="constrained")[1]
    ax.imshow(draw(found, kept))
    ax.set_axis_off()
    ax.set_title(f"{sum(len(k) for k in kept)} of {sum(v.size for v in found)} tokens{note(found)}")
    return ax


def check_path(path: Path) -> None:
    """Refuse a path that could not be written to, before any work is done."""
    known = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.SAVE}
    if path.suffix.lower() not in known:
        raise BridgeError(f"--picture {path}: expected the ending of an image file, such as .png.")
    if not path.absolute().parent.is_dir():
        raise BridgeError(f"--picture {path}: there is no folder {path.absolute().parent}.")
    if path.is_dir():
        raise BridgeError(f"--picture {path}: this is a folder.")


def save(path: Path, image: Image.Image) -> None:
    """Write a picture; a failure leaves no half-written file."""
    partial = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        image.save(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _panel(view: View, kept: np.ndarray) -> Image.Image:
    """Draw one view, with the cells `kept` framed."""
    rows, columns = view.grid
    scale = max(1, round(LONGEST / max(view.image.size)))
    width, height = view.image.width * scale, view.image.height * scale
    image = view.image.resize((width, height), Image.Resampling.BICUBIC)
    light = kept[np.arange(height) * rows // height][:, np.arange(width) * columns // width]
    pixels = np.asarray(image, dtype=np.float32) * np.where(light, 1.0, DIMMED)[..., None]
    panel = Image.fromarray(pixels.astype(np.uint8))
    pen = ImageDraw.Draw(panel)
    down = [-(-r * height // rows) for r in range(rows + 1)]
    across = [-(-c * width // columns) for c in range(columns + 1)]
    for r, c in np.argwhere(kept):
        pen.rectangle((across[c], down[r], across[c + 1] - 1, down[r + 1] - 1), outline=EDGE)
    return panel


def _seen(processor: Any, tile: Tensor) -> Image.Image:
    """Undo the processor's normalisation of a tile (3, H, W)."""
    prepared, values = processor.image_processor, tile.detach().float().cpu()
    if getattr(prepared, "do_normalize", False):
        mean, deviation = (torch.tensor(getattr(prepared, name)) for name in ("image_mean", "image_std"))
        values = values * deviation[:, None, None] + mean[:, None, None]
    return Image.fromarray((values.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())


def _whole(image: Image.Image, n: int, first: int = 0) -> View:
    """Lay a grid of n − first cells, in the image's proportions, over it."""
    cells = n - first
    rows = isqrt(max(cells, 0) * image.height // image.width)
    for candidate in (rows, rows + 1):
        if candidate and cells == candidate * (cells // candidate):
            columns = cells // candidate
            if candidate * image.width == columns * image.height:
                return View(image, (candidate, columns), first, n)
    raise BridgeError(
        f"no picture: {n} tokens form no grid over a tile of {image.width} x {image.height} pixels."
    )


def _patches(model: Any, image: Image.Image, grid: Sequence[int], n: int) -> View:
    """Lay Qwen-VL's grid (time, height, width) of patches, squares of which become tokens, over an image."""
    vision = model.config.vision_config
    _, high, wide = grid
    merge = int(getattr(vision, "spatial_merge_size", 1))
    if grid[0] != 1 or (high // merge) * (wide // merge) != n:
        raise BridgeError(f"no picture: {n} tokens form no grid of {list(grid)} patches.")
    size = (wide * vision.patch_size, high * vision.patch_size)
    return View(image.resize(size, Image.Resampling.BICUBIC), (high // merge, wide // merge), 0, n)


def _last_tile(model: Any, processor: Any, tiles: Tensor, n: int) -> View:
    """Take the view of the whole image, which follows the tiles in Idefics3 and SmolVLM."""
    vision = model.config.vision_config
    side = vision.image_size // vision.patch_size // model.config.scale_factor
    count, rest = divmod(n, side * side)
    if rest or not 0 < count <= len(tiles):
        raise BridgeError(f"no picture: {n} tokens are not tiles of {side * side}.")
    return View(_seen(processor, tiles[count - 1]), (side, side), n - side * side, n)
