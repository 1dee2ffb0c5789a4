"""What cannot be guessed of the families from Kimi to VipLlava: see `every_family`.

The comment above a recipe says what a pruned prompt of the family has to cope with. Where it says nothing, layers are
causal attention over all tokens, positions are 0, 1, ..., and an entry of ``pooler_output`` is an image.
"""

from __future__ import annotations

from typing import Any

import tiny_timm  # noqa: F401  (towers of timm)
import torch
from every_family import (
    AUDIO,
    BOS,
    END,
    EOS,
    IMAGE,
    PAD,
    RECIPES,
    START,
    VIDEO,
    Call,
    Recipe,
    finish,
    placeholder,
    recipe,
    vision_of,
)
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

# Kimi ------------------------------------------------------------------------------------------------------------


def _cut(size: int, channels: int, grids: Tensor, g: torch.Generator) -> Tensor:
    """Patches as little images."""
    return torch.randn(int(grids.prod(1).sum()), channels, size, size, generator=g)


def patch_images(model: Any, images: int, g: torch.Generator) -> dict[str, Any]:
    """Images of different sizes, cut into patches (n, 3, patch, patch)."""
    grids = torch.tensor([(1, 8, 8), (1, 4, 12), (1, 8, 4)])[torch.arange(images) % 3]
    return {"pixel_values": _cut(vision_of(model).patch_size, 3, grids, g), "image_grid_thw": grids}


def chunks(model: Any, videos: int, g: torch.Generator) -> dict[str, Any]:
    """Two chunks a video; what stands for a chunk is a frame."""
    grids = torch.tensor([(1, 4, 8)] * 2 * videos)
    return {"pixel_values_videos": _cut(vision_of(model).patch_size, 3, grids, g), "video_grid_thw": grids}


def written_chunks(model: Any, kind: str, groups: list[list[int]], made: dict[str, Any]) -> list[list[int]]:
    """Chunks of a video apart, each behind its time."""
    if kind == "image":
        return [[START] + [IMAGE] * sum(own) + [END] for own in groups]
    return [_joined([TIME, START] + [VIDEO] * n + [END] for n in own) for own in groups]


# An entry is an image, or a chunk of a video.
RECIPES["Kimi_K25ForConditionalGeneration"] = Recipe(
    {
        "text_config": {
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "head_dim": 4,
            "num_key_value_heads": 4,
        },
        "vision_config": {"pos_emb_height": 8, "pos_emb_width": 8},
        "projection_hidden_size": 32,
    },
    pixels=patch_images,
    clips=chunks,
    write=written_chunks,
)

# Pixtral towers ----------------------------------------------------------------------------------------------------


def padded(model: Any, images: int, g: torch.Generator) -> dict[str, Any]:
    """Images of different sizes, padded to the largest."""
    sizes = torch.tensor([(32, 32), (16, 32), (32, 24)])[torch.arange(images) % 3]
    values = torch.zeros(images, 3, 32, 32)
    for value, (height, width) in zip(values, sizes.tolist(), strict=True):
        value[:, :height, :width] = torch.randn(3, height, width, generator=g)
    return {"pixel_values": values, "image_sizes": sizes}


def broken_rows(model: Any, kind: str, groups: list[list[int]], made: dict[str, Any]) -> list[list[int]]:
    """A token behind every row of an image, another behind the last."""
    side = vision_of(model).patch_size * model.config.spatial_merge_size
    rows = [int(height) // side for height, _ in made["image_sizes"]]
    found = [
        _joined([*[IMAGE] * (n // r), ROW] for _ in range(r)) for (n,), r in zip(groups, rows, strict=True)
    ]
    return [[*ids[:-1], END] for ids in found]


# Rows of an image are separated by tokens.
RECIPES["Mistral3ForConditionalGeneration"] = Recipe(pixels=padded, write=broken_rows)
RECIPES["LightOnOcrForConditionalGeneration"] = Recipe(pixels=padded, wrap=bare)
# Indexed attention: each token sees those that an indexer picks; layers without rotary positions; shared caches.
RECIPES["MistralLarge4ForConditionalGeneration"] = Recipe(
    {
        "text_config": {
            "kv_source_layers": [0, 1],
            "indexer_types": ["full", "full"],
            "no_rope_layers": [1, 0],
            "index_n_heads": 16,
            "index_head_dim": 8,
            "index_topk": 8,
            "head_dim": 4,
            "num_key_value_heads": 4,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        },
    },
    pixels=padded,
    write=broken_rows,
)

# MiniMax, Muse, Ovis, Paddle, PaliGemma ------------------------------------------------------------------------------

# Sparse layers see the blocks of tokens that an indexer picks, counted in places of the cache. Frames apart.
RECIPES["MiniMaxM3SparseForConditionalGeneration"] = Recipe(
    {
        "text_config": {
            "layer_types": ["full_attention", "minimax_m3_sparse"],
            "mlp_layer_types": ["dense", "sparse"],
            "index_n_heads": 2,
            "index_head_dim": 8,
            "index_block_size": 4,
            "index_topk_blocks": 2,
            "rotary_dim": 8,
            "dense_intermediate_size": 48,
            "shared_intermediate_size": 16,
        },
        "projector_hidden_size": 32,
    },
    write=stamped,
)
_MUSE = {
    "projector_hidden_size": 32,
    "out_hidden_size": 128,
    "vision_config": {"pos_emb_height": 8, "pos_emb_width": 8},
}


def written_muse(model: Any, kind: str, groups: list[list[int]], made: dict[str, Any]) -> list[list[int]]:
    """Images between markers; in a video each frame behind its time, a separator behind all but the last."""
    if kind == "image":
        return [[START] + [IMAGE] * sum(own) + [END] for own in groups]
    frames = made["video_grid_thw"][:, 0].tolist()
    return [
        [START, *(([TIME] + [VIDEO] * (n // t) + [ROW]) * t)[:-1], END]
        for (n,), t in zip(groups, frames, strict=True)
    ]


# Layers with a window alternate with layers without rotary positions. Frames apart.
RECIPES["MuseGlimmerForConditionalGeneration"] = Recipe(
    {**_MUSE, "text_config": {"layer_rope_theta": [1e4, 0], "output_multiplier": 1.0}}, write=written_muse
)


def spoken(model: Any, inputs: dict[str, Any], tokens: int) -> Tensor:
    """The ids with the last but two words of each prompt in favour of `tokens` placeholders of a sound."""
    ids = inputs["input_ids"].clone()
    ids[:, -tokens - 1 : -1] = AUDIO
    return ids


def wave(model: Any, inputs: dict[str, Any], g: torch.Generator) -> dict[str, Any]:
    """Two tokens of sound a prompt, as a waveform."""
    ids = spoken(model, inputs, 2)
    mask = torch.ones(len(ids), 2 * model.config.audio_config.samples_per_token, dtype=torch.long)
    return {"input_ids": ids, "input_values": torch.randn(mask.shape, generator=g), "input_values_mask": mask}


# As Muse Glimmer, with sounds and experts.
RECIPES["MuseSparkForConditionalGeneration"] = Recipe(
    {
        **_MUSE,
        "text_config": {"layer_rope_theta": [1e4, 0], "output_multiplier": 1.0, "moe_hidden_size": 32},
        "audio_config": {"patch_sizes": [4, 2], "hidden_sizes": [8, 16], "depths": [1, 1]},
    },
    write=written_muse,
    sound=wave,
)


def written_atoms(model: Any, kind: str, groups: list[list[int]], made: dict[str, Any]) -> list[list[int]]:
    """The whole, then the tiles with a separator between them, and indicators around."""
    start, grid, column, _, end = model.config.visual_indicator_token_ids
    found = []
    for whole, *rest in groups:
        tiles = _joined([column] + [IMAGE] * n for n in rest)[1:]
        found.append([start, *[IMAGE] * whole, grid, *tiles, end])
    return found


# An entry is a tile; the markers around and between tiles are rows of the encoder's answer, visual_indicator_features.
RECIPES["Ovis2ForConditionalGeneration"] = Recipe(
    {"visual_indicator_token_ids": [10, 11, 12, 13, 14]}, pixels=squares, write=written_atoms, tiles=(3, 1)
)
# Positions on three axes.
RECIPES["PaddleOCRVLForConditionalGeneration"] = Recipe(
    {
        "text_config": {
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
        }
    },
    pixels=patch_images,
)


def _no_suffix(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    return {"token_type_ids": torch.zeros_like(inputs["input_ids"])}


# All of the prompt is bidirectional; positions count from one.
RECIPES["PaliGemmaForConditionalGeneration"] = Recipe(wrap=bare, finish=_no_suffix)
# An entry is a tile; tiles of an image in one run.
RECIPES["QianfanOCRForConditionalGeneration"] = Recipe(
    {"vision_config": {"image_size": [SIDE, SIDE], "patch_size": [4, 4]}, "image_seq_length": 9},
    pixels=squares,
    tiles=(3, 1),
)

# Molmo -----------------------------------------------------------------------------------------------------------


def _pools(crops: int, tokens: int, per: int) -> Tensor:
    """Patches that each of `tokens` pools, per crop."""
    return torch.arange(crops * tokens * per).view(crops * tokens, per)


def crops(model: Any, images: int, g: torch.Generator) -> dict[str, Any]:
    """A low-resolution view of 3 x 3 tokens and a high-resolution view of 3 x 6, from two crops, of each image."""
    grids = torch.tensor([(3, 3, 3, 6)] * images)
    values = torch.randn(3 * images, 36, 48, generator=g)
    numbers = torch.full((images,), 3)
    pools = {
        "image_token_pooling": _pools(3 * images, 9, 4),
        "image_grids": grids,
        "image_num_crops": numbers,
    }
    return {"pixel_values": values, **pools}


def low_frames(model: Any, videos: int, g: torch.Generator) -> dict[str, Any]:
    """Two frames of 3 x 3 tokens each."""
    grids = torch.tensor([(2, 3, 3)] * videos)
    values = torch.randn(2 * videos, 36, 48, generator=g)
    return {
        "pixel_values_videos": values,
        "video_token_pooling": _pools(2 * videos, 9, 4),
        "video_grids": grids,
    }


def written_crops(model: Any, kind: str, groups: list[list[int]], made: dict[str, Any]) -> list[list[int]]:
    """Both views of an image with a token behind every row; frames of a video behind their times."""
    if kind == "video":
        return [[TIME, START, *[IMAGE] * 9, END] * 2 for _ in groups]
    return [[START, *([IMAGE] * 3 + [ROW]) * 3, END, START, *([IMAGE] * 6 + [ROW]) * 3, END] for _ in groups]


def _marked(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """One for everything that belongs to an image, markers of rows and views too."""
    ids = inputs["input_ids"]
    return {"mm_token_type_ids": torch.isin(ids, torch.tensor([IMAGE, START, END, ROW])).int()}


# All tokens of images see one another, through mm_token_type_ids; rows are added to the placeholders' embeddings;
# frames of a video have the image's placeholder; an image and a video in one call are refused by the model.
RECIPES["Molmo2ForConditionalGeneration"] = Recipe(
    {
        "image_patch_id": IMAGE,
        "vision_config": {"image_size": [SIDE, SIDE], "num_position_embeddings": 36},
        "adapter_config": {"vision_feature_layer": [-1, 0], "text_hidden_size": 32},
        "text_config": {"additional_vocab_size": 0, "rope_scaling_layers": [0, 1]},
    },
    pixels=crops,
    clips=low_frames,
    write=written_crops,
    finish=_marked,
)

# Qwen Omni -------------------------------------------------------------------------------------------------------

SOUND, SOUND_END = 16, 17
_OMNI = {"vision_start_token_id": START, "vision_end_token_id": END, "audio_start_token_id": SOUND}
_EAR = {
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "output_dim": 32,
    "num_mel_bins": 8,
    "n_window": 8,
}


def _spectra(frames: int):
    def sound(model: Any, inputs: dict[str, Any], g: torch.Generator) -> dict[str, Any]:
        """Two tokens of sound a prompt, between markers, as a spectrogram."""
        ids = spoken(model, inputs, 2)
        ids[:, -4], ids[:, -1] = SOUND, SOUND_END
        mask = torch.ones(len(ids), frames, dtype=torch.long)
        return {"input_ids": ids, "input_features": torch.randn(len(ids), 8, frames, generator=g)} | {
            "feature_attention_mask": mask
        }

    return sound


def _grid_seconds(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """How long a frame of each video lasts."""
    grids = inputs.get("video_grid_thw")
    return {} if grids is None else {"video_second_per_grid": torch.full((len(grids),), 0.5)}


# Three axes, whose get_rope_index reads sounds and seconds of videos under names of its own (audio_seqlens,
# second_per_grids). Frames of a video in one run.
RECIPES["Qwen2_5OmniThinkerForConditionalGeneration"] = Recipe(
    {
        **_OMNI,
        "audio_end_token_id": SOUND_END,
        "text_config": {"rope_parameters": {"mrope_section": [2, 1, 1]}},
        "vision_config": {"fullatt_block_indexes": [1], "window_size": 16},
        "audio_config": _EAR,
    },
    sound=_spectra(8),
    finish=_grid_seconds,
)
# Alike, with rows for later layers.
RECIPES["Qwen3OmniMoeThinkerForConditionalGeneration"] = Recipe(
    {
        **_OMNI,
        "text_config": {"rope_parameters": _ROPE},
        "vision_config": {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64},
        "audio_config": {**_EAR, "n_window": 50, "downsample_hidden_size": 8},
    },
    sound=_spectra(16),
    finish=_grid_seconds,
)


def with_soundtrack(model: Any, silent: Call) -> Call:
    """A call with one video a prompt, made into one whose videos have two tokens of sound each.

    Sounds stand among the frames: Qwen2.5-Omni puts two seconds of sound behind two seconds of frames, Qwen3-Omni
    every token of sound behind the frame that was on then, which is the first here.
    """
    sooner = "Qwen3" in type(model).__name__
    frames = silent.inputs["video_grid_thw"][:, 0].tolist()
    rows, spans = [], []
    for row, (ids, (kind, _, columns)) in enumerate(
        zip(silent.inputs["input_ids"].tolist(), silent.spans, strict=True)
    ):
        first, behind = columns[0], columns[0] + len(columns) // (frames[row] if sooner else 1)
        sound = [AUDIO, AUDIO, *ids[behind : columns[-1] + 1], SOUND_END]
        rows.append([*ids[:first], SOUND, *ids[first:behind], *sound, *ids[columns[-1] + 1 :]])
        spans.append((kind, row, [i for i, token in enumerate(rows[-1]) if token == VIDEO]))
    mask = silent.inputs["attention_mask"]
    heard = recipe(model).sound(model, silent.inputs, torch.Generator().manual_seed(3))
    inputs = {
        **silent.inputs,
        **heard,
        "input_ids": torch.tensor(rows),
        "attention_mask": torch.cat([mask, mask.new_ones(len(mask), 4)], 1),
        "use_audio_in_video": True,
    }
    return Call(inputs, spans)


# Recurrent: most layers are linear attention, with embeddings of runs of tokens (n-grams of input_ids); others see the
# blocks that an indexer picks. Three axes.
RECIPES["Qwen4ExpForConditionalGeneration"] = Recipe(
    {
        "text_config": {
            "rope_parameters": {**_ROPE, "partial_rotary_factor": 1.0},
            "eos_token_id": EOS,
            "hc_lowrank": 8,
            "number_of_conv_states": None,
            "layer_types": ["indexed_attention", "linear_attention"],
            "ple_layer_ids": [2],
            "ple_embed_dim": 32,
            "heads_per_ngram": 2,
            "ngram_vocab_size_base": 64,
            "split_ngram_parts": 1,
            "indexer_n_heads": 2,
            "indexer_kv_heads": 1,
            "indexer_head_dim": 8,
            "indexer_budget": 8,
            "indexer_compress_ratio": 4,
        },
        "vision_config": {"num_position_embeddings": 64},
    },
    write=stamped,
)

# SmolVLM, Step, Unlimited OCR, VideoLLaMA 3, Perception LM -------------------------------------------------------------


def masked_squares(model: Any, images: int, g: torch.Generator) -> dict[str, Any]:
    """Tiles without padding."""
    mask = torch.ones(images, SIDE, SIDE, dtype=torch.bool)
    return squares(model, images, g) | {"pixel_attention_mask": mask}


def marked_tiles(model: Any, kind: str, groups: list[list[int]], made: dict[str, Any]) -> list[list[int]]:
    """Two markers in front of each tile, the whole last."""
    return [[*_joined([START, TILE] + [IMAGE] * n for n in own), END] for own in groups]


# An entry is all that a prompt shows; frames of a video are images.
RECIPES["SmolVLMForConditionalGeneration"] = Recipe(
    pixels=masked_squares, write=marked_tiles, by_prompt=True, tiles=(3, 1)
)


def local_tiles(model: Any, images: int, g: torch.Generator) -> dict[str, Any]:
    """A global view of each image, two local tiles of the first, the third, ..."""
    local = [2 - 2 * (i % 2) for i in range(images)]
    return {
        "pixel_values": torch.randn(images, 3, 48, 48, generator=g),
        "pixel_values_local": torch.randn(sum(local), 3, 32, 32, generator=g),
        "num_local_patches": local,
    }


def written_locals(model: Any, kind: str, groups: list[list[int]], made: dict[str, Any]) -> list[list[int]]:
    """Local tiles between markers of their own, a new line, the global view last."""
    found = []
    for (n,), local in zip(groups, made["num_local_patches"], strict=True):
        size = 4 if local else 0
        tiles = _joined([SLICE] + [IMAGE] * size + [SLICE_END] for _ in range(local))
        found.append([*tiles, *([ROW] if local else []), START, *[IMAGE] * (n - local * size), END])
    return found


# Layers with a window and more heads alternate with full ones; an entry is an image, whose tiles stand apart.
RECIPES["Step3p7ForConditionalGeneration"] = Recipe(
    {
        "text_config": {
            "layer_types": ["full_attention", "sliding_attention"],
            "sliding_window": 256,
            "num_sliding_attention_heads": 4,
            "share_expert_dim": 16,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 1e4},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
        "vision_config": {"image_size": 48},
    },
    pixels=local_tiles,
    write=written_locals,
)


def local_grid(model: Any, images: int, g: torch.Generator) -> dict[str, Any]:
    """A global view of each image, one row of two local tiles of the first, the third, ..."""
    local = [2 - 2 * (i % 2) for i in range(images)]
    return {
        "pixel_values": torch.randn(images, 3, 64, 64, generator=g),
        "pixel_values_local": torch.randn(sum(local), 3, 32, 32, generator=g),
        "num_local_patches": local,
        "patches_grid": [[2, 1] if n else [1, 1] for n in local],
    }


# An entry is an image: its tiles and the whole, an image_newline behind every row of them, a view_separator last, all in
# one run. Every layer sees all of the prompt and a window of the answer ("reference_sliding_attention").
RECIPES["UnlimitedOcrForConditionalGeneration"] = Recipe(
    {
        "vision_config": {
            "sam_config": {
                "output_channels": 32,
                "image_size": 64,
                "window_size": 4,
                "global_attn_indexes": [1],
                "downsample_channels": [32, 32],
            },
            "encoder_config": {"image_size": 16, "patch_size": 4},
        }
    },
    pixels=local_grid,
    wrap=bare,
)


def merged_images(model: Any, images: int, g: torch.Generator) -> dict[str, Any]:
    """Patches of images, of which none are merged."""
    grids = torch.tensor([(1, 4, 4), (1, 2, 6), (1, 4, 2)])[torch.arange(images) % 3]
    return {
        "pixel_values": _flat(grids, g),
        "image_grid_thw": grids,
        "image_merge_sizes": torch.ones(images, dtype=torch.long),
    }


def compressed_clips(model: Any, videos: int, g: torch.Generator) -> dict[str, Any]:
    """Two frames a video, 2 x 2 patches merged; of the second frame only half is new."""
    grids = torch.tensor([(2, 8, 4)] * videos)
    return {
        "pixel_values_videos": _flat(grids, g),
        "video_grid_thw": grids,
        "video_merge_sizes": torch.full((videos,), 2),
        "video_compression_mask": torch.tensor(([True] * 12 + [False] * 4) * videos),
    }


def _flat(grids: Tensor, g: torch.Generator) -> Tensor:
    return torch.randn(int(grids.prod(1).sum()), 48, generator=g)


def _left(model: Any, kind: str, made: dict[str, Any]) -> list[int]:
    """Rows of each image; of videos those that the compression leaves."""
    sizes = (made[f"{kind}_grid_thw"].prod(1) // made[f"{kind}_merge_sizes"] ** 2).tolist()
    return (
        sizes if kind == "image" else [int(own.sum()) for own in made["video_compression_mask"].split(sizes)]
    )


def written_compressed(
    model: Any, kind: str, groups: list[list[int]], made: dict[str, Any]
) -> list[list[int]]:
    """Frames behind their times, the second shorter."""
    if kind == "image":
        return [[IMAGE] * n for (n,) in groups]
    return [[TIME, *[VIDEO] * 8, TIME, *[VIDEO] * (n - 8)] for (n,) in groups]


# forward takes out of a video's rows those that video_compression_mask says are no news.
RECIPES["VideoLlama3ForConditionalGeneration"] = Recipe(
    pixels=merged_images, clips=compressed_clips, write=written_compressed, rows=_left
)


def pixels_of_perception(model: Any, images: int, g: torch.Generator) -> dict[str, Any]:
    """Two tiles of each image."""
    return {"pixel_values": torch.randn(images, 2, 3, SIDE, SIDE, generator=g)}


def clips_of_perception(model: Any, videos: int, g: torch.Generator) -> dict[str, Any]:
    """Two frames of each video."""
    return {"pixel_values_videos": torch.randn(videos, 2, 3, SIDE, SIDE, generator=g)}


# A tower of timm. An entry is a tile, or a frame; those of an image in one run; videos through get_image_features.
RECIPES["PerceptionLMForConditionalGeneration"] = Recipe(
    {
        "vision_config": {
            "architecture": "tiny",
            "model_args": {"embed_dim": 32, "tokens": True},
            "do_pooling": False,
        },
        "vision_use_cls_token": False,
    },
    pixels=pixels_of_perception,
    clips=clips_of_perception,
    rows=lambda model, kind, made: (
        [36] * (2 * len(made["pixel_values" if kind == "image" else "pixel_values_videos"]))
    ),
)

# No get_image_features -------------------------------------------------------------------------------------------------


def pixels_of_phi(model: Any, images: int, g: torch.Generator) -> dict[str, Any]:
    """A global view and up to two crops."""
    sizes = torch.tensor([(SIDE, 2 * SIDE), (SIDE, SIDE)])[torch.arange(images) % 2]
    mask = torch.ones(images, 3, 6, 6)
    mask[1::2, 2] = 0
    values = torch.randn(images, 3, 3, SIDE, SIDE, generator=g)
    return {"image_pixel_values": values, "image_sizes": sizes, "image_attention_mask": mask}


def _rows_of_phi(model: Any, kind: str, made: dict[str, Any]) -> list[int]:
    """Crops and the whole with a row's end behind each row, one between them."""
    return [3 * (3 * int(width) // SIDE + 1) + 1 + 12 for _, width in made["image_sizes"]]


# Encodes inside of forward, under names of its own.
RECIPES["Phi4MultimodalForCausalLM"] = Recipe(
    {
        "image_token_id": IMAGE,
        "vision_config": {"crop_size": SIDE},
        "audio_config": {
            "num_blocks": 1,
            "ext_pw_out_channel": 32,
            "depthwise_separable_out_channel": 32,
            "nemo_conv_channels": 8,
        },
        "eos_token_id": EOS,
    },
    pixels=pixels_of_phi,
    rows=_rows_of_phi,
)


def _latents(model: Any, kind: str, made: dict[str, Any]) -> list[int]:
    return [model.config.latent_query_num] * len(made["pixel_values"])


def _masked(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    return {"image_embeds_position_mask": (inputs["input_ids"] == IMAGE).long()}


# Encodes inside of forward; placeholders are found by image_embeds_position_mask. generate is the text model's.
RECIPES["Kosmos2ForConditionalGeneration"] = Recipe(
    {
        "image_token_id": IMAGE,
        "latent_query_num": 4,
        "text_config": {"layers": 2, "ffn_dim": 48, "attention_heads": 4, "pad_token_id": PAD},
    },
    pixels=squares,
    rows=_latents,
    finish=_masked,
)


def _begun(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    return {"decoder_input_ids": torch.full((len(inputs["input_ids"]), 1), BOS)}


# Encoder-decoder: visual rows go through the text encoder, which ignores mm_encoder_outputs.
RECIPES["T5Gemma2ForConditionalGeneration"] = Recipe(
    {"encoder": {"mm_tokens_per_image": 9}, "image_token_index": IMAGE},
    pixels=squares,
    rows=lambda model, kind, made: [9] * len(made["pixel_values"]),
    finish=_begun,
)


def grids_of_two(model: Any, images: int, g: torch.Generator) -> dict[str, Any]:
    """Patches of all images, one behind the other, and the height and width of each."""
    grids = torch.tensor([(4, 6), (6, 2), (4, 4)])[torch.arange(images) % 3]
    width = 3 * vision_of(model).patch_size ** 2
    return {"pixel_values": torch.randn(int(grids.prod(1).sum()), width, generator=g), "image_grid_hw": grids}


# Mamba, experts, attention and MLPs take turns. Frames, two in a group, carry the placeholder of images; an entry is a
# group. The model may drop rows of a video by itself (`video_pruning_rate`).
RECIPES["NemotronH_Omni_Reasoning_V3"] = Recipe(
    {
        "image_token_id": IMAGE,
        "video_token_id": VIDEO,
        "projector_hidden_size": 32,
        "vision_hidden_size": 32,
        "vision_config": {"max_img_size": 48},
        "text_config": {
            "ssm_state_size": 8,
            "mamba_num_heads": 4,
            "mamba_head_dim": 16,
            "n_groups": 2,
            "chunk_size": 8,
            "moe_shared_expert_intermediate_size": 16,
        },
    },
    pixels=grids_of_two,
    clips=lambda model, videos, g: {
        "pixel_values_videos": torch.randn(2 * videos, 3, SIDE, SIDE, generator=g)
    },
    wrap=lambda ids, kind: [TIME, START, *[IMAGE] * len(ids), END],
)


NOT_TEXT = {
    "Kosmos2_5ForConditionalGeneration": "it writes images into embeddings of its own accord, without encoding them first",
    "Mistral4ForCausalLM": "a text model",
    "MllamaForConditionalGeneration": "it looks at images by cross-attention; a prompt has no visual tokens",
    "Pix2StructForConditionalGeneration": "an encoder of images with a text decoder that has no visual tokens",
    "PPFormulaNetForConditionalGeneration": "an encoder of images with a text decoder that has no visual tokens",
    "UdopForConditionalGeneration": "patches and words go through one encoder",
    "VisionEncoderDecoderModel": "an encoder of images with a text decoder that has no visual tokens",
    "PI0ForConditionalGeneration": "it predicts the actions of a robot",
    "Qwen2_5OmniPreTrainedModelForConditionalGeneration": "an abstract base without layers",
    "Qwen2_5OmniTalkerForConditionalGeneration": "it speaks, from the thinker's hidden states",
    "Qwen2_5OmniForConditionalGeneration": "a thinker and what speaks its answers; it has generate, but no forward",
    "Qwen3OmniMoePreTrainedModelForConditionalGeneration": "an abstract base without layers",
    "Qwen3OmniMoeTalkerCodePredictorModelForConditionalGeneration": "it predicts codes of sounds",
    "Qwen3OmniMoeTalkerForConditionalGeneration": "it speaks, from the thinker's hidden states",
    "Qwen3OmniMoeForConditionalGeneration": "a thinker and what speaks its answers; it has generate, but no forward",
}
"""Classes that generate no text from visual tokens in a prompt, and why."""
