"""Say which patches of the vision tower each visual token is made of: a table with one entry for each family.

A projector that takes patches one by one makes a token of each. Others join g of them: the mergers of Qwen-VL and Mistral3
and the pixel shuffle of InternVL, Idefics3 and SmolVLM concatenate them, Gemma3 takes their mean. Each map is found by
running the model's own rearrangement on the indices of the patches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from vlm_bridge.errors import BridgeError
from vlm_bridge.model.families import IMAGE, Family, Kind, base_of

Inputs = Mapping[str, Any]


def in_sequence(base: Any, shape: torch.Size, inputs: Inputs, g: int) -> Tensor:
    """Join patches g by g in the order of the tower's sequence."""
    return torch.arange(shape[:-1].numel()).view(-1, g)


def one_by_one(projector: Any, rows: Tensor, g: int) -> Tensor:
    """Project rows that the projector takes as they are."""
    return projector(rows[None])[0]


@dataclass(frozen=True)
class Connector:
    """How a family's projector makes tokens of patches.

    Attributes
    ----------
    size : callable
        ``size(base)`` returns g, the number of patches of a token.
    patches : callable
        ``patches(base, shape, inputs, g)`` returns (M, g), the index of each token's patches in the tower's sequence
        (without CLS), in the order in which the projector makes tokens of an input of that shape.
    order : callable, optional
        ``order(base, grid)`` returns (M,), the index of each of the LLM's tokens among those of the projector.
    project : callable
        ``project(projector, rows, g)`` applies the projector to tokens (m, d) one by one.
    pools : bool
        Whether the projector takes the mean of the patches instead of concatenating them.
    videos : bool
        Whether the tower takes videos like images, with all frames in one sequence.
    """

    size: Callable[[Any], int] = lambda base: 1
    patches: Callable[[Any, torch.Size, Inputs, int], Tensor] = in_sequence
    order: Callable[[Any, Any], Tensor] | None = None
    project: Callable[[Any, Tensor, int], Tensor] = one_by_one
    pools: bool = False
    videos: bool = False


@dataclass(frozen=True)
class Joined:
    """Patches (M, g) of every token that the projector makes, and the index (M,) of each of the LLM's tokens among them."""

    patches: Tensor
    order: Tensor


def connector_of(family: Family) -> Connector:
    """Return the family's connector.

    Raises
    ------
    BridgeError
        `CONNECTORS` has none.
    """
    if family.model_type not in CONNECTORS:
        raise BridgeError(
            f"which patches a token of {family.model_type!r} is made of is not known: expected one of "
            f"{', '.join(CONNECTORS)}"
        )
    return CONNECTORS[family.model_type]


def joined(base: Any, family: Family, given: Tensor, inputs: Inputs, kind: Kind) -> Joined:
    """Return what tokens are made of, where the projector was `given` rows (..., d) for the visuals of a call."""
    connector = connector_of(family)
    grid = inputs.get(f"{kind.name}_grid_thw")
    if kind is not IMAGE and (grid is None or not connector.videos):
        raise BridgeError("how rows of the vision tower make up a video is not known")
    patches = connector.patches(base, given.shape, inputs, connector.size(base))
    order = torch.arange(len(patches)) if connector.order is None else connector.order(base, grid)
    return Joined(patches.to(given.device), order.to(given.device))


def patches_per_token(model: Any, family: Family) -> int:
    """Return how many patches the projector joins to a token; 1 for a family that is not in `CONNECTORS`."""
    return CONNECTORS.get(family.model_type, Connector()).size(base_of(model))


def projector_of(base: Any, family: Family) -> nn.Module | None:
    """Return the module that maps rows of the vision tower to the LLM's width; None where there is none."""
    try:
        projector = attrgetter(family.projector)(base)
    except AttributeError:
        return None
    return projector if isinstance(projector, nn.Module) else None


class Projection(nn.Module):
    """Map rows `vision_clip` (n, d) of the vision tower to rows of the LLM, in the precision of the weights.

    It is a module, so that it can be run on copies of its weights in a higher precision.
    """

    def __init__(self, projector: nn.Module, connector: Connector, size: int) -> None:
        super().__init__()
        self.projector, self.connector, self.size = projector, connector, size

    @torch.no_grad()
    def forward(self, rows: Tensor) -> Tensor:
        """Project rows (n, d), each by itself."""
        weight = next(self.projector.parameters(), None)  # none where its layers are quantised
        return self.connector.project(self.projector, rows if weight is None else rows.to(weight), self.size)


def projection(model: Any, family: Family) -> Projection | None:
    """Return the model's projector as a map of single tokens; None where there is no such module."""
    base, connector = base_of(model), CONNECTORS.get(family.model_type, Connector())
    projector = projector_of(base, family)
    return None if projector is None else Projection(projector, connector, connector.size(base))


def in_squares(heights: list[int], widths: list[int], side: int) -> Tensor:
    """Join squares of patches, in raster order, of images (h, w) that follow one another in a sequence."""
    joined, start = [], 0
    for h, w in zip(heights, widths, strict=True):
        numbers = torch.arange(h * w, dtype=torch.float64).view(1, 1, h, w)
        squares = nn.functional.unfold(numbers, side, stride=side)[0].mT
        joined.append(start + squares.long())
        start += h * w
    return torch.cat(joined)


def _numbers(shape: torch.Size, g: int) -> tuple[Tensor, int]:
    """Return the indices (T, n) of the patches of tiles, where a projector is given (T, n / g, d), and √n."""
    tiles, n = shape[0], shape[1] * g
    return torch.arange(tiles * n, dtype=torch.float64).view(tiles, n), round(n**0.5)


def _shuffled_by_internvl(base: Any, shape: torch.Size, inputs: Inputs, g: int) -> Tensor:
    """Run InternVL's pixel shuffle on the indices of the patches."""
    numbers, side = _numbers(shape, g)
    grid = numbers.view(-1, side, side, 1)
    return base.pixel_shuffle(grid, scale_factor=base.config.downsample_ratio).reshape(-1, g).long()


def _shuffled_by_idefics(base: Any, shape: torch.Size, inputs: Inputs, g: int) -> Tensor:
    """Run the pixel shuffle of Idefics3 and SmolVLM on the indices of the patches."""
    numbers, _ = _numbers(shape, g)
    shuffle, factor = base.connector.pixel_shuffle, base.connector.scale_factor
    return shuffle(numbers[..., None], factor).reshape(-1, g).long()


def _squares_of_gemma(base: Any, shape: torch.Size, inputs: Inputs, g: int) -> Tensor:
    """Join the squares that Gemma3 takes means of."""
    projector = base.multi_modal_projector
    sides = [projector.patches_per_image] * shape[0]
    return in_squares(sides, sides, projector.kernel_size)


def _squares_of_mistral(base: Any, shape: torch.Size, inputs: Inputs, g: int) -> Tensor:
    """Join the squares that Mistral3's merger concatenates."""
    sizes = torch.as_tensor(inputs["image_sizes"]) // base.multi_modal_projector.patch_merger.patch_size
    heights, widths = sizes.T.tolist()
    return in_squares(heights, widths, base.config.spatial_merge_size)


def _behind_windows(base: Any, grid: Tensor) -> Tensor:
    """Return the raster order of tokens that Qwen2.5-VL's tower computes window by window."""
    tower = base.visual
    find = getattr(import_module(type(tower).__module__), "get_vision_window_index", None)
    if find is None:
        windows, _ = tower.get_window_index(grid)
    else:
        windows, _ = find(
            grid,
            spatial_merge_size=tower.spatial_merge_size,
            window_size=tower.window_size,
            patch_size=tower.patch_size,
        )
    return torch.as_tensor(windows).argsort()


def _patch_by_patch(projector: Any, rows: Tensor, g: int) -> Tensor:
    """Project rows of g concatenated patches by a merger that takes patches."""
    return projector(rows.unflatten(-1, (g, -1)).flatten(0, 1))


def _as_one_column(projector: Any, rows: Tensor, g: int) -> Tensor:
    """Project by Mistral3's merger, as tokens of an image that is one token wide."""
    merger = projector.patch_merger
    side = merger.spatial_merge_size * merger.patch_size
    return projector(rows.unflatten(-1, (g, -1)).flatten(0, 1), [(side * len(rows), side)])


def _behind_pooling(projector: Any, rows: Tensor, g: int) -> Tensor:
    """Project means of patches by what Gemma3 does after pooling."""
    return (projector.mm_soft_emb_norm(rows) @ projector.mm_input_projection_weight).type_as(rows)


_QWEN = Connector(lambda base: int(base.visual.spatial_merge_size) ** 2, project=_patch_by_patch, videos=True)
_IDEFICS = Connector(lambda base: int(base.connector.scale_factor) ** 2, _shuffled_by_idefics)

CONNECTORS: dict[str, Connector] = {
    "llava": Connector(),
    "llava_next": Connector(),
    "llava_onevision": Connector(),
    "paligemma": Connector(),
    "qwen2_vl": _QWEN,
    "qwen2_5_vl": replace(_QWEN, order=_behind_windows),
    "qwen3_vl": _QWEN,
    "internvl": Connector(lambda base: round(1 / base.config.downsample_ratio) ** 2, _shuffled_by_internvl),
    "smolvlm": _IDEFICS,
    "idefics3": _IDEFICS,
    "gemma3": Connector(
        lambda base: int(base.multi_modal_projector.kernel_size) ** 2,
        _squares_of_gemma,
        project=_behind_pooling,
        pools=True,
    ),
    "mistral3": Connector(
        lambda base: int(base.config.spatial_merge_size) ** 2,
        _squares_of_mistral,
        project=_as_one_column,
    ),
}
