"""What cannot be guessed of the families from Kimi to VipLlava: see `every_family`.

The comment above a recipe says what a pruned prompt of the family has to cope with. Where it says nothing, layers are
causal attention over all tokens, positions are 0, 1, ..., and an entry of ``pooler_output`` is an image.
"""

from __future__ import annotations

from typing import Any

import torch
from every_family import END, IMAGE, RECIPES, START, VIDEO, Recipe, finish, patches, placeholder, vision_of
from torch import Tensor

# Tokens that processors write between placeholders; any id below the words will do.
TILE, ROW, SLICE, SLICE_END, THUMBNAIL, BREAK, TIME = 10, 11, 12, 13, 14, 15, 16
SIDE = 24


def squares(model: Any, images: int, g: torch.Generator) -> dict[str, Any]:
    """Images of one size, without anything else."""
    return {"pixel_values": torch.randn(images, 3, SIDE, SIDE, generator=g)}


def tiles_of(images: int) -> list[int]:
    """Tiles of each image, the view of the whole included: three, one, three, ..."""
    return [3 - 2 * (i % 2) for i in range(images)]


def divided(sizes: list[int], counts: list[int]) -> list[list[int]]:
    """Sizes of entries, image by image."""
    entries = iter(sizes)
    return [[next(entries) for _ in range(n)] for n in counts]


def tiles(model: Any, images: int, g: torch.Generator) -> dict[str, Any]:
    """Images of three tiles and of one, alternating."""
    return {"pixel_values": torch.randn(sum(tiles_of(images)), 3, SIDE, SIDE, generator=g)}


def stamped(sizes: list[int], frames: list[int], token: int) -> list[list[int]]:
    """Videos whose frames stand apart, each behind its time."""
    return [([TIME, START] + [token] * (n // t) + [END]) * t for n, t in zip(sizes, frames, strict=True)]


def stamped_grids(
    model: Any, kind: str, sizes: list[int], count: int, made: dict[str, Any]
) -> list[list[int]]:
    """Images in one run; the frames of a video apart."""
    if kind == "video":
        return stamped(sizes, made["video_grid_thw"][:, 0].tolist(), VIDEO)
    return [[START] + [placeholder(model, kind)] * n + [END] for n in sizes]


def bare(model: Any, kind: str, sizes: list[int], count: int, made: dict[str, Any]) -> list[list[int]]:
    """One unbroken run for each entry, without markers."""
    return [[placeholder(model, kind)] * n for n in sizes]


# Qwen ------------------------------------------------------------------------------------------------------------

_SECTIONS = {"rope_parameters": {"mrope_section": [2, 1, 1]}}
# Positions on three axes, from get_rope_index; generate makes them (4, B, L). Frames of a video in one run.
RECIPES["Qwen2VLForConditionalGeneration"] = Recipe({"text_config": _SECTIONS})
# Alike; the time axis of a video is in seconds.
RECIPES["Qwen2_5_VLForConditionalGeneration"] = Recipe(
    {"text_config": _SECTIONS, "vision_config": {"fullatt_block_indexes": [1], "window_size": 16}},
    finish=lambda model, inputs: (
        finish(model, inputs)
        | (
            {"second_per_grid_ts": torch.ones(len(inputs["video_grid_thw"]))}
            if "video_grid_thw" in inputs
            else {}
        )
    ),
)
_DEEPSTACK = {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64}
_MROPE = {"rope_parameters": {"mrope_section": [2, 1, 1], "mrope_interleaved": True}}
# Three axes; rows for later layers (deepstack); frames of a video apart, one grid (1, h, w) each in get_rope_index.
RECIPES["Qwen3VLForConditionalGeneration"] = Recipe(
    {"text_config": _MROPE, "vision_config": _DEEPSTACK}, write=stamped_grids
)
RECIPES["Qwen3VLMoeForConditionalGeneration"] = RECIPES["Qwen3VLForConditionalGeneration"]
# Recurrent: three of four layers are linear attention with a convolution. Otherwise as Qwen3-VL, without deepstack.
RECIPES["Qwen3_5ForConditionalGeneration"] = Recipe(
    {
        "text_config": {"rope_parameters": {**_MROPE["rope_parameters"], "partial_rotary_factor": 1.0}},
        "vision_config": {"num_position_embeddings": 64},
    },
    write=stamped_grids,
)
RECIPES["Qwen3_5MoeForConditionalGeneration"] = RECIPES["Qwen3_5ForConditionalGeneration"]

# LLaVA -----------------------------------------------------------------------------------------------------------

RECIPES["LlavaForConditionalGeneration"] = Recipe(pixels=squares, write=bare)
RECIPES["VipLlavaForConditionalGeneration"] = Recipe(
    {"vision_feature_layer": [-2, -1, 1]}, pixels=squares, write=bare
)


def anyres(model: Any, images: int, g: torch.Generator) -> dict[str, Any]:
    """The whole and up to four tiles of images of different shapes."""
    sizes = torch.tensor([(SIDE, 2 * SIDE), (2 * SIDE, SIDE), (40, 44)])[torch.arange(images) % 3]
    return {"pixel_values": torch.randn(images, 5, 3, SIDE, SIDE, generator=g), "image_sizes": sizes}


_PINPOINTS = {"image_grid_pinpoints": [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]}
# An entry is an image: the whole, then the grid of tiles with an image_newline behind each of its rows.
RECIPES["LlavaNextForConditionalGeneration"] = Recipe(_PINPOINTS, pixels=anyres, write=bare)
# Videos are one tensor (videos, frames * rows, d), in one run.
RECIPES["LlavaNextVideoForConditionalGeneration"] = Recipe(_PINPOINTS, pixels=anyres, write=bare)


def _several(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """How many images each prompt has; runs are separated by words."""
    image = (inputs["input_ids"] == IMAGE).int()
    starts = (image.diff(dim=1, prepend=torch.zeros_like(image[:, :1])) == 1).sum(1)
    return {"batch_num_images": starts[starts > 0]} if "pixel_values" in inputs else {}


# Videos are one tensor (videos, frames * rows + 1, d): the last row is the image_newline.
RECIPES["LlavaOnevisionForConditionalGeneration"] = Recipe(
    _PINPOINTS, pixels=anyres, write=bare, finish=_several
)
# An image is a row of the tensor, a video one for each frame, which has its CLS token too; frames in one run.
RECIPES["VideoLlavaForConditionalGeneration"] = Recipe(
    pixels=lambda model, images, g: {"pixel_values_images": torch.randn(images, 3, SIDE, SIDE, generator=g)},
)

# MiniCPM ---------------------------------------------------------------------------------------------------------


def _packed(sizes: list[tuple[int, int]], side: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Patches of all tiles side by side, and the grid of each."""
    grids = torch.tensor(sizes)
    return torch.randn(1, 3, side, side * int(grids.prod(1).sum()), generator=g), grids


def slices(model: Any, images: int, g: torch.Generator) -> dict[str, Any]:
    """The whole and two slices for every other image."""
    shapes = [[(8, 8), (8, 4), (8, 4)], [(4, 12)]]
    pixels, grids = _packed([s for i in range(images) for s in shapes[i % 2]], vision_of(model).patch_size, g)
    return {"pixel_values": pixels, "target_sizes": grids}


def two_frames(model: Any, videos: int, g: torch.Generator) -> dict[str, Any]:
    """Two frames each."""
    pixels, grids = _packed([(8, 4), (8, 4)] * videos, vision_of(model).patch_size, g)
    return {"pixel_values_videos": pixels, "target_sizes_videos": grids}


def written_slices(
    model: Any, kind: str, sizes: list[int], count: int, made: dict[str, Any]
) -> list[list[int]]:
    """Every slice, and every frame, between markers of its own."""
    token = placeholder(model, kind)
    if kind == "video":
        return [sum(([START] + [token] * n + [END] for n in own), []) for own in divided(sizes, [2] * count)]
    return [
        [START] + [token] * first + [END] + sum(([SLICE] + [token] * n + [SLICE_END] for n in rest), [])
        for first, *rest in divided(sizes, tiles_of(count))
    ]


# Recurrent: layers of linear attention, as in Qwen3.5. An entry is a slice, or a frame of a video.
_MINICPM = Recipe(
    {
        "image_token_id": IMAGE,
        "video_token_id": VIDEO,
        "insert_layer_id": 0,
        "vision_config": {"insert_layer_id": 0, "image_size": 32},
        "text_config": {"rope_parameters": {"partial_rotary_factor": 1.0}},
    },
    pixels=slices,
    clips=two_frames,
    write=written_slices,
)
for _name in ("MiniCPMV4_6", "MiniCPMV4_7", "MiniCPMOcr"):
    RECIPES[f"{_name}ForConditionalGeneration"] = _MINICPM

# LFM -------------------------------------------------------------------------------------------------------------


def naflex(model: Any, images: int, g: torch.Generator) -> dict[str, Any]:
    """Two tiles and a thumbnail for every other image, padded to equally many patches."""
    shapes = [[(8, 8), (8, 8), (4, 8)], [(6, 10)]]
    shapes = torch.tensor([s for i in range(images) for s in shapes[i % 2]])
    lengths = shapes.prod(1)
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    values = torch.randn(*mask.shape, 3 * vision_of(model).patch_size ** 2, generator=g) * mask[..., None]
    return {"pixel_values": values, "spatial_shapes": shapes, "pixel_attention_mask": mask.long()}


def written_naflex(
    model: Any, kind: str, sizes: list[int], count: int, made: dict[str, Any]
) -> list[list[int]]:
    """A token with row and column in front of each tile, one in front of the thumbnail."""
    found = []
    for own in divided(sizes, tiles_of(count)):
        marks = [TILE] * (len(own) - 1) + [THUMBNAIL] if len(own) > 1 else [None]
        pieces = [([] if mark is None else [mark]) + [IMAGE] * n for mark, n in zip(marks, own, strict=True)]
        found.append([START, *sum(pieces, []), END])
    return found


# Recurrent: most layers are short convolutions over neighbouring tokens. An entry is a tile.
RECIPES["Lfm2VlForConditionalGeneration"] = Recipe(
    {
        "text_config": {
            "layer_types": ["conv", "full_attention"],
            "full_attn_idxs": [1],
            "block_multiple_of": 8,
        },
        "vision_config": {"num_patches": 64},
        "projector_hidden_size": 32,
    },
    pixels=naflex,
    write=written_naflex,
)

# Llama 4 ---------------------------------------------------------------------------------------------------------


def written_tiles(
    model: Any, kind: str, sizes: list[int], count: int, made: dict[str, Any]
) -> list[list[int]]:
    """Tiles of a row, a token that ends the row, the whole behind them."""
    found = []
    for *parts, last in divided(sizes, tiles_of(count)):
        row = sum(([IMAGE] * n + [TILE] for n in parts), [])[:-1] + [ROW] if parts else []
        found.append([START, *row, THUMBNAIL, *[IMAGE] * last, END])
    return found


@torch.no_grad()
def last_hidden(model: Any, kind: str, made: dict[str, Any]) -> list[int]:
    """Llama 4 has no pooler_output."""
    return [len(rows) for rows in model.get_image_features(made["pixel_values"]).last_hidden_state]


# Chunks of attention in three of four layers, counted in places of the cache; get_image_features has no pooler_output,
# its last_hidden_state is projected in forward; an entry is a tile; layers without positions scale by position.
RECIPES["Llama4ForConditionalGeneration"] = Recipe(
    {
        "vision_config": {
            "vision_output_dim": 32,
            "projector_input_dim": 32,
            "projector_output_dim": 32,
            "intermediate_size": 128,
        },
        "text_config": {"intermediate_size_mlp": 48, "moe_layers": [1], "no_rope_layers": [1, 0]},
    },
    pixels=tiles,
    write=written_tiles,
    rows=last_hidden,
)
