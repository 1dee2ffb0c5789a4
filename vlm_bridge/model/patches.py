"""Which patches of the vision tower each visual token is made of: a row per family.

A projector that takes patches one by one makes a token of each. Others join g of them: the mergers of Qwen-VL
and Mistral3 and the pixel shuffle of InternVL, Idefics3 and SmolVLM put them side by side, Gemma3 takes their
mean. Each map is found by running the model's own rearrangement on the numbers of the patches.
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
    """Patches g by g in the order of the tower's sequence."""
    return torch.arange(shape[:-1].numel()).view(-1, g)


def one_by_one(projector: Any, rows: Tensor, g: int) -> Tensor:
    """Rows that the projector takes as they are."""
    found: Tensor = projector(rows[None])[0]
    return found


@dataclass(frozen=True)
class Connector:
    """How patches become tokens.

    Attributes
    ----------
    size : callable
        ``size(base)``: g, the patches of a token.
    patches : callable
        ``patches(base, shape, inputs, g)``: (M, g), the places of each token's patches in the tower's sequence of
        patches (without CLS), in the order in which the projector, given rows of that shape, makes tokens.
    order : callable, optional
        ``order(base, grid)``: (M,), places of the LLM's tokens among those that the projector makes.
    project : callable
        ``project(projector, rows, g)``: what the projector makes of tokens (m, d) one by one.
    pools : bool
        Whether the projector takes the mean of the patches instead of joining them side by side.
    videos : bool
        Whether the tower takes videos like images, frames behind one another in one sequence.
    """

    size: Callable[[Any], int] = lambda base: 1
    patches: Callable[[Any, torch.Size, Inputs, int], Tensor] = in_sequence
    order: Callable[[Any, Any], Tensor] | None = None
    project: Callable[[Any, Tensor, int], Tensor] = one_by_one
    pools: bool = False
    videos: bool = False


@dataclass(frozen=True)
class Joined:
    """Patches (M, g) of every token that the projector makes, and places (M,) of the LLM's tokens among these."""

    patches: Tensor
    order: Tensor


def connector_of(family: Family) -> Connector:
    """The family's row."""
    if family.model_type not in CONNECTORS:
        raise BridgeError(
            f"which patches a token of {family.model_type!r} is made of is not known; it is of "
            f"{', '.join(CONNECTORS)}"
        )
    return CONNECTORS[family.model_type]


def joined(base: Any, family: Family, given: Tensor, inputs: Inputs, kind: Kind) -> Joined:
    """What tokens are made of, where the projector was `given` rows (..., d) for the images or videos of a call."""
    row = connector_of(family)
    grid = inputs.get(f"{kind.name}_grid_thw")
    if kind is not IMAGE and (grid is None or not row.videos):
        raise BridgeError("how rows of the vision tower make up a video is not known")
    patches = row.patches(base, given.shape, inputs, row.size(base))
    order = torch.arange(len(patches)) if row.order is None else row.order(base, grid)
    return Joined(patches.to(given.device), order.to(given.device))


def patches_per_token(model: Any, family: Family) -> int:
    """Patches that the projector joins to one token; 1 where nothing says that it joins any."""
    row = CONNECTORS.get(family.model_type)
    return 1 if row is None else row.size(base_of(model))


def projector_of(base: Any, family: Family) -> nn.Module | None:
    """The module that maps rows of the vision tower to the LLM's width."""
    try:
        found = attrgetter(family.projector)(base)
    except AttributeError:
        return None
    return found if isinstance(found, nn.Module) else None


class Projection(nn.Module):
    """From rows `vision_clip` (n, d) of the vision tower to rows of the LLM, in the precision of the weights.

    A module, so that it can be run on copies of its weights in a higher precision.
    """

    def __init__(self, projector: nn.Module, row: Connector, size: int) -> None:
        super().__init__()
        self.projector, self.row, self.size = projector, row, size

    @torch.no_grad()
    def forward(self, rows: Tensor) -> Tensor:
        """Token by token."""
        weight = next(self.projector.parameters(), None)  # none where its layers are quantised
        return self.row.project(self.projector, rows if weight is None else rows.to(weight), self.size)


def projection(model: Any, family: Family) -> Projection | None:
    """The model's projector, of single tokens; None where there is no such module."""
    base, row = base_of(model), CONNECTORS.get(family.model_type, Connector())
    projector = projector_of(base, family)
    return None if projector is None else Projection(projector, row, row.size(base))


def in_squares(heights: list[int], widths: list[int], side: int) -> Tensor:
    """Squares of patches, raster by raster, of images (h, w) that stand behind one another."""
    found, start = [], 0
    for h, w in zip(heights, widths, strict=True):
        numbers = torch.arange(h * w, dtype=torch.float64).view(1, 1, h, w)
        squares = nn.functional.unfold(numbers, side, stride=side)[0].mT
        found.append(start + squares.long())
        start += h * w
    return torch.cat(found)


def _numbers(shape: torch.Size, g: int) -> tuple[Tensor, int]:
    """The numbers of the patches of tiles (T, n) of which a projector is given (T, n / g, d), and √n."""
    tiles, n = shape[0], shape[1] * g
    return torch.arange(tiles * n, dtype=torch.float64).view(tiles, n), round(n**0.5)


def _shuffled_by_internvl(base: Any, shape: torch.Size, inputs: Inputs, g: int) -> Tensor:
    numbers, side = _numbers(shape, g)
    grid = numbers.view(-1, side, side, 1)
    found: Tensor = base.pixel_shuffle(grid, scale_factor=base.config.downsample_ratio)
    return found.reshape(-1, g).long()


def _shuffled_by_idefics(base: Any, shape: torch.Size, inputs: Inputs, g: int) -> Tensor:
    numbers, _ = _numbers(shape, g)
    found: Tensor = base.connector.pixel_shuffle(numbers[..., None], base.connector.scale_factor)
    return found.reshape(-1, g).long()


def _squares_of_gemma(base: Any, shape: torch.Size, inputs: Inputs, g: int) -> Tensor:
    projector = base.multi_modal_projector
    sides = [projector.patches_per_image] * shape[0]
    return in_squares(sides, sides, projector.kernel_size)


def _squares_of_mistral(base: Any, shape: torch.Size, inputs: Inputs, g: int) -> Tensor:
    sizes = torch.as_tensor(inputs["image_sizes"]) // base.multi_modal_projector.patch_merger.patch_size
    heights, widths = sizes.T.tolist()
    return in_squares(heights, widths, base.config.spatial_merge_size)


def _behind_windows(base: Any, grid: Tensor) -> Tensor:
    """The tower runs window by window; the LLM's tokens are put back into raster order behind the merger."""
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
    order: Tensor = torch.as_tensor(windows).argsort()
    return order


def _patch_by_patch(projector: Any, rows: Tensor, g: int) -> Tensor:
    found: Tensor = projector(rows.unflatten(-1, (g, -1)).flatten(0, 1))
    return found


def _as_one_column(projector: Any, rows: Tensor, g: int) -> Tensor:
    """Mistral3's merger, of tokens one below the other in an image that is one token wide."""
    merger = projector.patch_merger
    side = merger.spatial_merge_size * merger.patch_size
    found: Tensor = projector(rows.unflatten(-1, (g, -1)).flatten(0, 1), [(side * len(rows), side)])
    return found


def _behind_pooling(projector: Any, rows: Tensor, g: int) -> Tensor:
    found: Tensor = projector.mm_soft_emb_norm(rows) @ projector.mm_input_projection_weight
    return found.type_as(rows)


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
