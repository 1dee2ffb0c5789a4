"""Recipes of the families from Aria to Janus, see `every_family`.

What one entry of the encoder's answer is, and which tokens are written around it, follows each family's processor.
"""

from __future__ import annotations

import torch
from every_family import AUDIO, END, IMAGE, RECIPES, START, VIDEO, WORDS, Recipe, _patches, finish

LINE, STAMP = 10, 11
"""A token between tiles, and one in front of a frame."""


def squares(side: int):
    """`pixels` of square images or tiles."""
    return lambda model, images, g: {"pixel_values": torch.randn(images, 3, side, side, generator=g)}


def parts(ids: list[int], size: int) -> list[list[int]]:
    """Placeholders `size` at a time: of a tile, of a frame."""
    return [ids[i : i + size] for i in range(0, len(ids), size)]


def frames(model, videos, g):
    """Videos of two and three frames of eight tokens each."""
    grids = torch.tensor([(2, 8, 4), (3, 4, 8)])[torch.arange(videos) % 2]
    return {"pixel_values_videos": _patches(model, grids, g), "video_grid_thw": grids}


def stamped(ids: list[int], kind: str) -> list[int]:
    """A time stamp, start and end around every frame."""
    if kind == "image":
        return [START, *ids, END]
    return [token for frame in parts(ids, 8) for token in (STAMP, START, *frame, END)]


def numbered_tiles(ids: list[int], kind: str) -> list[int]:
    """A marker in front of each tile, the whole image last."""
    return [START, *(token for tile in parts(ids, 9) for token in (LINE, *tile)), END]


def lines_behind_tiles(ids: list[int], kind: str) -> list[int]:
    """A line break behind every tile."""
    return [START, *(token for tile in parts(ids, 9) for token in (*tile, LINE)), END]


def spoken(ids: torch.Tensor, sounds: int) -> torch.Tensor:
    """The prompts with `sounds` of the last words in place of a sound: the sixth to last and those in front of it."""
    ids = ids.clone()
    ids[:, -2 - sounds : -2] = AUDIO
    return ids


# An entry is a tile, all tiles stand in one run; no tile is marked.
RECIPES["AriaForConditionalGeneration"] = Recipe(
    {"projector_patch_to_query_dict": {36: 8}, "text_config": {"moe_num_experts": 4}},
    lambda model, images, g: {
        "pixel_values": torch.randn(images, 3, 24, 24, generator=g),
        "pixel_mask": torch.ones(images, 24, 24, dtype=torch.bool),
    },
    tiles=(3, 1),
)
# An entry is a tile; sliding windows.
RECIPES["AyaVisionForConditionalGeneration"] = Recipe(wrap=numbered_tiles, tiles=(3, 1))
RECIPES["Cohere2VisionForConditionalGeneration"] = Recipe(wrap=lines_behind_tiles, tiles=(3, 1))
# Rows are the embeddings of discrete tokens of a VQ-VAE.
RECIPES["ChameleonForConditionalGeneration"] = Recipe(
    {
        "vocabulary_map": {"<image>": IMAGE, **{f"IMGIMG{chr(65 + i)}Z": 100 + i for i in range(10)}},
        "image_token_id": IMAGE,
        "vq_config": {
            "num_embeddings": 10,
            "latent_channels": 32,
            "base_channels": 32,
            "resolution": 12,
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
        },
    },
    squares(12),
)
# Three position axes, rows for later layers.
RECIPES["CohereCompassForConditionalGeneration"] = Recipe(
    {
        "text_config": {
            "layer_types": ["sliding_attention", "full_attention"],
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
                "full_attention": None,
            },
        },
        "vision_config": {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]},
    },
    clips=frames,
    wrap=stamped,
)
# Three position axes.
RECIPES["Cosmos3EdgeForConditionalGeneration"] = Recipe(
    {
        "text_config": {
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
        },
        "vision_config": {"num_patches": 64},
        "projector_hidden_size": 32,
    },
    clips=frames,
    wrap=stamped,
)
RECIPES["Cosmos3OmniForConditionalGeneration"] = Recipe(clips=frames, wrap=stamped)
RECIPES["DeepseekVLHybridForConditionalGeneration"] = Recipe(
    {
        "high_res_vision_config": {
            "image_size": 64,
            "output_channels": 32,
            "num_pos_feats": 16,
            "window_size": 3,
            "global_attn_indexes": [1],
        }
    },
    lambda model, images, g: {
        "pixel_values": torch.randn(images, 3, 24, 24, generator=g),
        "high_res_pixel_values": torch.randn(images, 3, 64, 64, generator=g),
    },
)


def local_views(model, images, g):
    """An image with two local views, one without, over and over."""
    views = [2 * (i % 2 == 0) for i in range(images)]
    return {
        "pixel_values": torch.randn(images, 3, 64, 64, generator=g),
        "pixel_values_local": torch.randn(sum(views), 3, 48, 48, generator=g),
        "num_local_patches": views,
    }


# An entry is an image: local views, the whole image, a separator; the encoder asks 144 queries of a view.
RECIPES["DeepseekOcr2ForConditionalGeneration"] = Recipe(
    {
        "vision_config": {
            "sam_config": {
                "output_channels": 32,
                "image_size": 64,
                "window_size": 3,
                "global_attn_indexes": [1],
                "downsample_channels": [32, 32],
            },
        },
        "text_config": {
            "num_experts_per_tok": 2,
            "mlp_layer_types": ["dense", "sparse"],
            "n_group": 1,
            "topk_group": 1,
        },
    },
    local_views,
)
# Rows are the embeddings of discrete tokens of a VQ-VAE, and a line break behind every row.
RECIPES["Emu3ForConditionalGeneration"] = Recipe(
    {
        "vocabulary_map": {
            "<image>": IMAGE,
            "<|extra_200|>": LINE,
            **{f"<|visual token {i:06d}|>": 100 + i for i in range(20)},
        },
        "image_token_id": IMAGE,
        "vq_config": {
            "codebook_size": 20,
            "base_channels": 32,
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
            "temporal_downsample_factor": 2,
            "attn_resolutions": [1],
        },
    },
    lambda model, images, g: {
        "pixel_values": torch.randn(images, 3, 16, 16, generator=g),
        "image_sizes": torch.tensor([(16, 8), (12, 16)])[torch.arange(images) % 2],
    },
)
