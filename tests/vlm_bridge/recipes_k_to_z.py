"""What cannot be guessed of the families from Kimi to VipLlava: see `every_family`.

The comment above a recipe says what a pruned prompt of the family has to cope with. Where it says nothing, layers are
causal attention over all tokens, positions are 0, 1, ..., and an entry of ``pooler_output`` is an image.
"""

from __future__ import annotations

from typing import Any

import torch
from every_family import END, IMAGE, RECIPES, START, VIDEO, Recipe, finish, placeholder, vision_of
from torch import Tensor

# Tokens that processors write between placeholders; any id below the words will do.
TILE, ROW, SLICE, SLICE_END, THUMBNAIL, TIME = 10, 11, 12, 13, 14, 15
SIDE = 24


def _joined(pieces) -> list[int]:
    """Pieces of a prompt, one behind the other."""
    return [token for piece in pieces for token in piece]


def bare(ids: list[int], kind: str) -> list[int]:
    """A run without markers."""
    return ids


def squares(model: Any, images: int, g: torch.Generator) -> dict[str, Any]:
    """Images of one size, without anything else."""
    return {"pixel_values": torch.randn(images, 3, SIDE, SIDE, generator=g)}


def stamped(model: Any, kind: str, groups: list[list[int]], made: dict[str, Any]) -> list[list[int]]:
    """Images in one run; the frames of a video apart, each behind its time."""
    token = placeholder(model, kind)
    frames = made["video_grid_thw"][:, 0].tolist() if kind == "video" else [1] * len(groups)
    time = [TIME] if kind == "video" else []
    return [(time + [START] + [token] * (n // t) + [END]) * t for (n,), t in zip(groups, frames, strict=True)]


# Qwen ------------------------------------------------------------------------------------------------------------

# Positions on three axes, from get_rope_index; generate makes them (4, B, L). Frames of a video in one run.
RECIPES["Qwen2VLForConditionalGeneration"] = Recipe(
    {"text_config": {"rope_parameters": {"mrope_section": [2, 1, 1]}}}
)


def _seconds(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Token types, and how long a frame of each video lasts."""
    grids = inputs.get("video_grid_thw")
    return finish(model, inputs) | (
        {} if grids is None else {"second_per_grid_ts": torch.full((len(grids),), 0.5)}
    )


# Alike; the time axis of a video is in seconds.
RECIPES["Qwen2_5_VLForConditionalGeneration"] = Recipe(
    {
        "text_config": {"rope_parameters": {"mrope_section": [2, 1, 1]}},
        "vision_config": {"fullatt_block_indexes": [1], "window_size": 16},
    },
    finish=_seconds,
)
_ROPE = {"mrope_section": [2, 1, 1], "mrope_interleaved": True}
# Three axes; rows for later layers (deepstack); frames of a video apart.
_QWEN3 = Recipe(
    {
        "text_config": {"rope_parameters": _ROPE},
        "vision_config": {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64},
    },
    write=stamped,
)
RECIPES["Qwen3VLForConditionalGeneration"] = RECIPES["Qwen3VLMoeForConditionalGeneration"] = _QWEN3
# Recurrent: three of four layers are linear attention with a convolution. Otherwise as Qwen3-VL, without deepstack.
_QWEN35 = Recipe(
    {
        "text_config": {"rope_parameters": {**_ROPE, "partial_rotary_factor": 1.0}},
        "vision_config": {"num_position_embeddings": 64},
    },
    write=stamped,
)
RECIPES["Qwen3_5ForConditionalGeneration"] = RECIPES["Qwen3_5MoeForConditionalGeneration"] = _QWEN35

# LLaVA -----------------------------------------------------------------------------------------------------------

RECIPES["LlavaForConditionalGeneration"] = Recipe(pixels=squares, wrap=bare)
RECIPES["VipLlavaForConditionalGeneration"] = Recipe(
    {"vision_feature_layer": [-2, -1, 1]}, pixels=squares, wrap=bare
)


def anyres(model: Any, images: int, g: torch.Generator) -> dict[str, Any]:
    """The whole and up to four tiles of images of different shapes."""
    sizes = torch.tensor([(SIDE, 2 * SIDE), (2 * SIDE, SIDE), (40, 44)])[torch.arange(images) % 3]
    return {"pixel_values": torch.randn(images, 5, 3, SIDE, SIDE, generator=g), "image_sizes": sizes}


def _one_each(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """How many images each prompt has; the images of a prompt with several would have one tile each."""
    images = len(inputs.get("pixel_values", ()))
    rows = (inputs["input_ids"] == IMAGE).any(1).sum()
    return {"batch_num_images": torch.ones(images, dtype=torch.long)} if images == rows else {}


_PINPOINTS = {"image_grid_pinpoints": [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]}
# An image is the whole, then the grid of its tiles with an image_newline behind each row of it.
RECIPES["LlavaNextForConditionalGeneration"] = Recipe(_PINPOINTS, pixels=anyres, wrap=bare)
# Videos are one tensor (videos, frames * rows, d), in one run.
RECIPES["LlavaNextVideoForConditionalGeneration"] = Recipe(_PINPOINTS, pixels=anyres, wrap=bare)
# Videos are one tensor (videos, frames * rows + 1, d): the last row is the image_newline.
RECIPES["LlavaOnevisionForConditionalGeneration"] = Recipe(
    _PINPOINTS, pixels=anyres, wrap=bare, finish=_one_each
)


def named_squares(model: Any, images: int, g: torch.Generator) -> dict[str, Any]:
    """Images under the name that Video-LLaVA gives them."""
    return {"pixel_values_images": squares(model, images, g)["pixel_values"]}


# An entry is an image, or a frame of a video with its CLS token; frames in one run. The pixels' name is its own.
RECIPES["VideoLlavaForConditionalGeneration"] = Recipe(pixels=named_squares, wrap=bare)

# MiniCPM ---------------------------------------------------------------------------------------------------------


def _packed(sizes: list[tuple[int, int]], side: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Patches of all tiles side by side, and the grid of each."""
    grids = torch.tensor(sizes)
    return torch.randn(1, 3, side, side * int(grids.prod(1).sum()), generator=g), grids


def slices(model: Any, images: int, g: torch.Generator) -> dict[str, Any]:
    """The whole and two slices, then an image that is not sliced."""
    shapes = [((8, 8), (8, 4), (8, 4), (4, 12))[i % 4] for i in range(images)]
    pixels, grids = _packed(shapes, vision_of(model).patch_size, g)
    return {"pixel_values": pixels, "target_sizes": grids}


def two_frames(model: Any, videos: int, g: torch.Generator) -> dict[str, Any]:
    """Two frames each."""
    pixels, grids = _packed([(8, 4), (8, 4)] * videos, vision_of(model).patch_size, g)
    return {"pixel_values_videos": pixels, "target_sizes_videos": grids}


def written_slices(model: Any, kind: str, groups: list[list[int]], made: dict[str, Any]) -> list[list[int]]:
    """Every slice, and every frame, between markers of its own."""
    token, whole = placeholder(model, kind), 1 if kind == "image" else 2
    marks = [(START, END) if i < whole else (SLICE, SLICE_END) for i in range(3)]
    return [
        _joined([start, *[token] * n, end] for n, (start, end) in zip(own, marks, strict=False))
        for own in groups
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
    tiles=(3, 1),
)
for _name in ("MiniCPMV4_6", "MiniCPMV4_7", "MiniCPMOcr"):
    RECIPES[f"{_name}ForConditionalGeneration"] = _MINICPM

# LFM -------------------------------------------------------------------------------------------------------------


def naflex(model: Any, images: int, g: torch.Generator) -> dict[str, Any]:
    """Two tiles and a thumbnail, then an image of one tile, padded to equally many patches."""
    shapes = torch.tensor([((8, 8), (8, 8), (4, 8), (6, 10))[i % 4] for i in range(images)])
    lengths = shapes.prod(1)
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    values = torch.randn(*mask.shape, 3 * vision_of(model).patch_size ** 2, generator=g) * mask[..., None]
    return {"pixel_values": values, "spatial_shapes": shapes, "pixel_attention_mask": mask.long()}


def written_naflex(model: Any, kind: str, groups: list[list[int]], made: dict[str, Any]) -> list[list[int]]:
    """A token with row and column in front of each tile, one in front of the thumbnail."""
    found = []
    for own in groups:
        marks = [[TILE], [TILE], [THUMBNAIL]] if len(own) > 1 else [[]]
        found.append([START, *_joined(mark + [IMAGE] * n for mark, n in zip(marks, own, strict=True)), END])
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
    tiles=(3, 1),
)
# Recurrent: short convolutions; other layers have a window or see all. Frames of a video apart.
RECIPES["Lfm3VlForConditionalGeneration"] = Recipe({"projector_hidden_size": 32}, write=stamped)

# Llama 4 ---------------------------------------------------------------------------------------------------------


def written_tiles(model: Any, kind: str, groups: list[list[int]], made: dict[str, Any]) -> list[list[int]]:
    """Tiles with a separator between them, a token that ends their row, the whole behind them."""
    found = []
    for first, *rest in groups:
        ids = [IMAGE] * first
        if rest:
            ids += [TILE, *[IMAGE] * rest[0], ROW, THUMBNAIL, *[IMAGE] * rest[1]]
        found.append([START, *([] if rest else [THUMBNAIL]), *ids, END])
    return found


@torch.no_grad()
def _last_hidden(model: Any, kind: str, made: dict[str, Any]) -> list[int]:
    return [len(rows) for rows in model.get_image_features(made["pixel_values"]).last_hidden_state]


# Chunks of attention in three of four layers, counted in places of the cache; get_image_features has no pooler_output:
# its last_hidden_state is projected in forward; an entry is a tile; layers without rotary positions scale by position.
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
    pixels=squares,
    write=written_tiles,
    rows=_last_hidden,
    tiles=(3, 1),
)
