"""Recipes of the families from Aria to Janus, see `every_family`.

The comment above a recipe says what a pruned prompt of the family has to cope with. Where it says nothing, layers are
causal attention over all tokens, positions are 0, 1, ... on one axis, and an entry of ``pooler_output`` is an image.
"""

from __future__ import annotations

import tiny_timm  # noqa: F401  (towers of timm)
import torch
from every_family import AUDIO, BOS, END, IMAGE, RECIPES, START, VIDEO, VOCAB, WORDS, Recipe, _patches, finish

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


def page(ids: list[int], kind: str) -> list[int]:
    """A marker in front of every tile, the whole image last, a marker behind it."""
    return [*(token for tile in parts(ids, 9) for token in (START, LINE, *tile)), END]


def tiles_by_prompt(model, images, g):
    """Square tiles that are seen whole."""
    return {
        "pixel_values": torch.randn(images, 3, 24, 24, generator=g),
        "pixel_attention_mask": torch.ones(images, 24, 24, dtype=torch.bool),
    }


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
# An entry is a tile, behind a marker of its own; sliding windows.
RECIPES["AyaVisionForConditionalGeneration"] = Recipe(wrap=numbered_tiles, tiles=(3, 1))
# An entry is a tile, in front of a line break; sliding windows.
RECIPES["Cohere2VisionForConditionalGeneration"] = Recipe(
    {"alignment_intermediate_size": 64}, wrap=lines_behind_tiles, tiles=(3, 1)
)
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
# Three position axes; rows for later layers; sliding windows; frames of a video in runs of their own.
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
# Three position axes; frames of a video in runs of their own.
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
# Alike, and rows for later layers.
RECIPES["Cosmos3OmniForConditionalGeneration"] = Recipe(
    {
        "text_config": {"rope_parameters": {"mrope_section": [2, 1, 1]}},
        "vision_config": {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]},
    },
    clips=frames,
    wrap=stamped,
)
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


# An entry is local views, the whole image and one separator, which is not called `image_newline`; of every view the
# encoder asks 144 queries.
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
# Rows are the embeddings of discrete tokens of a VQ-VAE; a line break, a placeholder too, ends every row of the grid.
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


def typed_experts(model, inputs):
    """Token types for positions; for experts start and end count as visual."""
    found, ids = finish(model, inputs), inputs["input_ids"]
    around = (ids == START) | (ids == END)
    return {**found, "moe_mm_token_type_ids": torch.where(around, 1, found["mm_token_type_ids"])}


_ERNIE = Recipe(
    {
        "text_config": {
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
            "num_hidden_layers": 3,
            "mlp_layer_types": ["dense", "sparse", "dense"],
            "moe_intermediate_size": [16, 8],
            "moe_num_experts": 4,
            "moe_k": 2,
        }
    },
    clips=lambda model, videos, g: {
        "pixel_values_videos": torch.randn(32 * (2 * videos + 2 * (videos // 2)), 48, generator=g),
        "video_grid_thw": torch.tensor([(2, 8, 4), (4, 4, 8)])[torch.arange(videos) % 2],
    },
    finish=typed_experts,
)
# Three position axes; experts are chosen by token types of their own; two frames of a video become one.
RECIPES["Ernie4_5_VLMoeForConditionalGeneration"] = _ERNIE
RECIPES["Ernie4_5_VL_MoeForConditionalGeneration"] = _ERNIE
# `prepare_inputs_for_generation` drops position_ids; sliding windows; a video is one run.
RECIPES["Exaone4_5_ForConditionalGeneration"] = Recipe(
    {"vision_config": {"window_size": 16, "fullatt_block_indexes": [1]}}, clips=frames
)
# The encoder's answer is that of a timm tower.
RECIPES["FastVlmForConditionalGeneration"] = Recipe(
    {"vision_config": {"architecture": "tiny", "model_args": None}}, squares(24)
)
# Placeholders of a run see one another; an entry is a crop, behind words; sliding windows.
RECIPES["Gemma3ForConditionalGeneration"] = Recipe(
    {"mm_tokens_per_image": 9},
    wrap=lambda ids, kind: [token for crop in parts(ids, 9) for token in (LINE, START, *crop, END)],
    tiles=(3, 1),
)


def mel(model, inputs, g):
    """A sound of five placeholders."""
    return {
        "input_ids": spoken(inputs["input_ids"], 5),
        "input_features": torch.randn(len(inputs["input_ids"]), 20, 16, generator=g),
        "input_features_mask": torch.ones(len(inputs["input_ids"]), 20, dtype=torch.bool),
    }


# The encoder's answer is that of a timm tower; embeddings for every layer are read from input_ids; the last layers
# share keys and values, so that the cache has fewer layers; sliding windows; sounds beside images.
RECIPES["Gemma3nForConditionalGeneration"] = Recipe(
    {
        "vision_soft_tokens_per_image": 9,
        "audio_soft_tokens_per_image": 5,
        "text_config": {
            "num_hidden_layers": 4,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "vocab_size": VOCAB + 16,
            "intermediate_size": 48,
            "activation_sparsity_pattern": [0.5, 0.5, 0.0, 0.0],
            "vocab_size_per_layer_input": VOCAB,
            "hidden_size_per_layer_input": 8,
            "num_kv_shared_layers": 2,
            "laurel_rank": 8,
        },
        "vision_config": {
            "architecture": "tiny",
            "model_args": {"patch": 8},
            "vocab_size": 8,
            "vocab_offset": VOCAB,
        },
        "audio_config": {
            "vocab_size": 8,
            "vocab_offset": VOCAB + 8,
            "input_feat_size": 16,
            "conf_num_attention_heads": 4,
            "conf_num_hidden_layers": 1,
            "sscp_conv_channel_size": [8, 4],
        },
    },
    squares(24),
    sound=mel,
)


def places(sides: list[tuple[int, int]], most: int) -> torch.Tensor:
    """Places (x, y) of the patches of images, -1 behind them (n, most, 2)."""
    found = torch.full((len(sides), most, 2), -1)
    for one, (height, width) in zip(found, sides, strict=True):
        grid = torch.cartesian_prod(torch.arange(height), torch.arange(width)).flip(1)
        one[: len(grid)] = grid
    return found


def placed(merge: int, values: int):
    """`pixels` of Gemma 4: patches of images of two sizes, padded, with their places."""

    def given(model, images, g):
        sides = [[(4 * merge, 4 * merge), (2 * merge, 6 * merge)][i % 2] for i in range(images)]
        most = 16 * merge**2
        return {
            "pixel_values": torch.rand(images, most, values, generator=g),
            "image_position_ids": places(sides, most),
        }

    return given


def placed_frames(merge: int, values: int):
    """The same for videos: the frames of all of them one behind another, eight tokens each."""

    def given(model, videos, g):
        counts = torch.tensor([2, 3])[torch.arange(videos) % 2]
        total, most = int(counts.sum()), 8 * merge**2
        return {
            "pixel_values_videos": torch.rand(total, most, values, generator=g),
            "video_position_ids": places([(2 * merge, 4 * merge)] * total, most),
            "num_frames_per_video": counts,
        }

    return given


_GEMMA4 = {"use_bidirectional_attention": "vision", "per_layer_config": {1: {"head_dim": 16}}}
# Placeholders of a run see one another, in the layers with a window only; frames of a video stand in runs of their own;
# embeddings for every layer are read from input_ids; head_dim differs by layer; sounds beside images.
RECIPES["Gemma4ForConditionalGeneration"] = Recipe(
    {
        "text_config": {
            **_GEMMA4,
            "vocab_size_per_layer_input": VOCAB,
            "hidden_size_per_layer_input": 8,
        },
        "vision_config": {
            "model_type": "gemma4_vision",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 8,
            "pooling_kernel_size": 2,
            "patch_size": 4,
            "position_embedding_size": 32,
        },
        "audio_config": {
            "model_type": "gemma4_audio",
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "subsampling_conv_channels": [8, 4],
            "output_proj_dims": 32,
        },
    },
    placed(2, 48),
    placed_frames(2, 48),
    stamped,
    sound=lambda model, inputs, g: {
        **mel(model, inputs, g),
        "input_features": torch.randn(len(inputs["input_ids"]), 20, 8, generator=g),
    },
)
# Alike, without a vision tower and without embeddings for every layer.
RECIPES["Gemma4UnifiedForConditionalGeneration"] = Recipe(
    {
        "text_config": _GEMMA4,
        "vision_config": {
            "model_type": "gemma4_unified_vision",
            "patch_size": 4,
            "pooling_kernel_size": 2,
            "mm_embed_dim": 32,
            "mm_posemb_size": 32,
            "output_proj_dims": 32,
        },
        "audio_config": {"model_type": "gemma4_unified_audio", "audio_embed_dim": 16},
    },
    placed(1, 192),
    placed_frames(1, 192),
    stamped,
    sound=lambda model, inputs, g: {
        "input_ids": spoken(inputs["input_ids"], 5),
        "input_features": torch.randn(len(inputs["input_ids"]), 5, 16, generator=g),
        "input_features_mask": torch.ones(len(inputs["input_ids"]), 5, dtype=torch.bool),
    },
)


OPEN, CLOSE = 12, 13
"""Around a video of GLM."""


def glm(ids: list[int], kind: str) -> list[int]:
    """The frames of a video are written as images, each in front of its time."""
    if kind == "image":
        return [START, *ids, END]
    frames = [token for frame in parts(ids, 8) for token in (START, *[IMAGE] * len(frame), END, STAMP)]
    return [OPEN, *frames, CLOSE]


def glm_types(model, inputs):
    """Placeholders are of a video where one is open."""
    ids = inputs["input_ids"]
    inside = (ids == OPEN).cumsum(1) > (ids == CLOSE).cumsum(1)
    return {"mm_token_type_ids": (ids == IMAGE).int() * (1 + inside.int())}


def _glm(**text) -> Recipe:
    config = {"text_config": text, "video_start_token_id": OPEN, "video_end_token_id": CLOSE}
    return Recipe(config, clips=frames, wrap=glm, finish=glm_types)


def _axes(*sections: int, **more) -> dict:
    return {"rope_type": "default", "rope_theta": 1e4, "mrope_section": list(sections), **more}


# Three position axes; frames of a video in runs of their own, of image_token_id; images beside videos fail in the model.
for _name in ("Glm4v", "Glm46V", "GlmOcr"):
    RECIPES[f"{_name}ForConditionalGeneration"] = _glm(rope_parameters=_axes(2, 1, 1))
RECIPES["Glm4vMoeForConditionalGeneration"] = _glm(
    head_dim=8, rope_parameters=_axes(2, 1, 1, partial_rotary_factor=1.0)
)
# A layer of linear attention (recurrent), a layer that attends to chosen blocks of tokens; no positions.
RECIPES["Glm5NextForConditionalGeneration"] = Recipe(
    {
        "text_config": {
            "num_key_value_heads": 4,
            "qk_rope_head_dim": 0,
            "qk_nope_head_dim": 8,
            "qk_head_dim": 8,
            "index_topk": 256,
            "index_head_dim": 8,
            "index_n_heads": 2,
            "index_kpool": 4,
            "indexer_types": ["full", "full"],
            "linear_head_dim": 8,
            "linear_num_heads": 4,
            "hc_mult": 2,
        },
        "vision_config": {"projection_intermediate_size": 48},
        "video_start_token_id": OPEN,
        "video_end_token_id": CLOSE,
    },
    clips=frames,
    wrap=glm,
    finish=glm_types,
)
# An entry is a tile or a page; all stand in one run.
RECIPES["GotOcr2ForConditionalGeneration"] = Recipe(
    {
        "vision_config": {
            "image_size": 48,
            "output_channels": 32,
            "window_size": 3,
            "global_attn_indexes": [1],
        }
    },
    tiles=(3, 1),
)


def anyres(model, images, g):
    """Images of two tiles and the whole, or of four, padded to five."""
    sizes = torch.tensor([(40, 24), (40, 48)])[torch.arange(images) % 2]
    return {"pixel_values": torch.randn(images, 5, 3, 24, 24, generator=g), "image_sizes": sizes}


# No pooler_output: `deepstack_features` lists (layer, rows of each image), which are added in front of these layers;
# `image_newline` ends every row of the grid.
RECIPES["Granite4VisionForConditionalGeneration"] = Recipe(
    {
        "text_config": {"num_hidden_layers": 3},
        "vision_config": {"hidden_size": 64},
        "image_grid_pinpoints": [[24, 48], [48, 24], [48, 48]],
        "downsample_rate": "1/2",
        "deepstack_layer_map": [[-2, 0], [-1, 1]],
        "spatial_target_layers": [1, 2],
        "qformer_config": {"num_hidden_layers": 1},
    },
    anyres,
    rows=lambda model, kind, made: [
        len(rows)
        for rows in model.model.get_image_features(
            **made, vision_feature_select_strategy="default", return_dict=True
        ).deepstack_features[0][1]
    ],
)
# Rows for later layers; an entry is all tiles of a prompt, each behind markers.
RECIPES["GraniteDoclingForConditionalGeneration"] = Recipe(
    {
        "text_config": {
            "attention_multiplier": 0.35,
            "embedding_multiplier": 1.0,
            "residual_multiplier": 1.0,
        },
        "vision_config": {"deepstack_visual_indexes": [0, 1], "scale_factor": 2},
    },
    lambda model, images, g: {
        "pixel_values": torch.randn(images, 3, 24, 24, generator=g),
        "pixel_attention_mask": torch.ones(images, dtype=torch.bool),
    },
    wrap=page,
    by_prompt=True,
    tiles=(3, 1),
)
# Four position axes: text, width, height, number of the image. No text row stands in front of them: all four turn
# queries and keys. An entry has a row at both ends and one behind every row of the grid.
RECIPES["HunYuanVLForConditionalGeneration"] = Recipe(
    {
        "text_config": {
            "head_dim": 16,
            "rope_parameters": _axes(2, 2, 2, 2, rope_type="dynamic", factor=1.0, alpha=1000.0),
        },
        "vision_config": {"text_hidden_size": 32, "img_max_token_num": 64, "max_image_size": 64},
        "im_start_id": START,
        "im_end_id": END,
        "im_newline_id": LINE,
    }
)
# `prepare_inputs_for_generation` drops position_ids; a video is one run.
RECIPES["HyperCLOVAXVisionV2ForConditionalGeneration"] = Recipe(
    {"vision_config": {"window_size": 16, "fullatt_block_indexes": [1]}}, clips=frames
)
# An entry is all images of a prompt.
RECIPES["Idefics2ForConditionalGeneration"] = Recipe(
    {"perceiver_config": {"resampler_n_latents": 9, "resampler_depth": 1}},
    tiles_by_prompt,
    wrap=lambda ids, kind: [START, *ids, START],
    by_prompt=True,
)
# An entry is all tiles of a prompt, each behind markers.
RECIPES["Idefics3ForConditionalGeneration"] = Recipe(
    {"vision_config": {"hidden_size": 32}, "scale_factor": 2},
    tiles_by_prompt,
    wrap=page,
    by_prompt=True,
    tiles=(5, 1),
)
RECIPES["JanusForConditionalGeneration"] = Recipe(
    {
        "vq_config": {
            "num_embeddings": 16,
            "base_channels": 32,
            "latent_channels": 8,
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
        }
    }
)
# An entry is a tile, or a frame of a video: frames are images, each in a run of its own.
RECIPES["InternVLForConditionalGeneration"] = Recipe(
    {"vision_config": {"image_size": [24, 24], "patch_size": [4, 4]}}, squares(24), tiles=(3, 1)
)

_OPT = {"ffn_dim": 48, "word_embed_proj_dim": 32, "do_layer_norm_before": True}
_QFORMER = {"encoder_hidden_size": 32, "cross_attention_frequency": 1, "num_hidden_layers": 1}


def bare(ids: list[int], kind: str) -> list[int]:
    """Placeholders without markers."""
    return ids


# `forward` and `generate` demand pixel_values; learned positions, counted from the attention mask.
RECIPES["Blip2ForConditionalGeneration"] = Recipe(
    {"image_token_index": IMAGE, "num_query_tokens": 8, "text_config": _OPT, "qformer_config": _QFORMER},
    squares(24),
    wrap=bare,
)


def questions(model, images, g):
    """Each image beside a question for the Q-Former."""
    ids = torch.randint(WORDS[0], VOCAB, (images, 5), generator=g)
    return {
        "pixel_values": torch.randn(images, 3, 24, 24, generator=g),
        "qformer_input_ids": ids,
        "qformer_attention_mask": torch.ones_like(ids),
    }


# Alike, and they demand the question.
RECIPES["InstructBlipForConditionalGeneration"] = Recipe(
    {"image_token_index": IMAGE, "num_query_tokens": 8, "text_config": _OPT, "qformer_config": _QFORMER},
    questions,
    wrap=bare,
)
# `pixel_values` are the four frames of a video: no image, and no `get_image_features`.
RECIPES["InstructBlipVideoForConditionalGeneration"] = Recipe(
    {"video_token_index": VIDEO, "num_query_tokens": 4, "text_config": _OPT, "qformer_config": _QFORMER},
    clips=lambda model, videos, g: {
        **questions(model, videos, g),
        "pixel_values": torch.randn(videos, 4, 3, 24, 24, generator=g),
    },
    wrap=bare,
    finish=lambda model, inputs: {},
)
# Encoder and decoder: visual rows go through the encoder of the text, which has no `mm_encoder_outputs`.
RECIPES["Florence2ForConditionalGeneration"] = Recipe(
    {
        "text_config": {
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
        },
        "vision_config": {
            "depths": [1, 1],
            "patch_size": [7, 3],
            "patch_stride": [2, 2],
            "patch_padding": [3, 1],
            "patch_prenorm": [False, True],
            "embed_dim": [16, 32],
            "num_heads": [4, 4],
            "num_groups": [4, 4],
            "window_size": 6,
            "projection_dim": 32,
        },
    },
    squares(24),
    wrap=bare,
)


def fuyu(ids: list[int], kind: str) -> list[int]:
    """A line break behind every row of patches."""
    return [*(token for row in parts(ids, 4) for token in (*row, LINE)), BOS]


# No pooler_output: the patches of all images are one `last_hidden_state`; a line break, not a placeholder, ends a row.
RECIPES["FuyuForCausalLM"] = Recipe(
    {
        "text_config": {
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
        }
    },
    lambda model, images, g: {
        "pixel_values": torch.randn(sum(12 + 4 * (i % 2) for i in range(images)), 48, generator=g)
    },
    wrap=fuyu,
    rows=lambda model, kind, made: (
        [12, 16] * (len(made["pixel_values"]) // 28) + [12] * (len(made["pixel_values"]) % 28 // 12)
    ),
)
# Every layer is attention (with a window, or none) and a short convolution; `pooler_output` is one tensor for all images.
RECIPES["InklingForConditionalGeneration"] = Recipe(
    {
        "text_config": {
            "swa_num_attention_heads": 4,
            "swa_num_key_value_heads": 2,
            "swa_head_dim": 8,
            "d_rel": 4,
            "rel_extent": 64,
            "intermediate_size": 48,
            "route_scale": 1.0,
            "logits_mup_width_multiplier": 1.0,
        },
        "audio_config": {"n_mel_bins": 8, "mel_vocab_size": 16, "text_hidden_size": 32},
        "vision_config": {"text_hidden_size": 32, "n_layers": 3},
    },
    lambda model, images, g: {"pixel_values": torch.randn(9 * images, 2, 4, 4, 3, generator=g)},
    rows=lambda model, kind, made: [9] * (len(made["pixel_values"]) // 9),
    sound=lambda model, inputs, g: {
        "input_ids": spoken(inputs["input_ids"], 5),
        "audio_input_ids": torch.randint(16, (len(inputs["input_ids"]), 5, 8), generator=g),
        "audio_input_ids_mask": torch.ones(len(inputs["input_ids"]), 5, dtype=torch.bool),
    },
)


def grid(model, images, g):
    """Patches of images of 4 x 4, 2 x 6 and 4 x 2 tokens."""
    grids = torch.tensor([(1, 4, 4), (1, 2, 6), (1, 4, 2)])[torch.arange(images) % 3]
    return {
        "pixel_values": torch.randn(int(grids.prod(1).sum()), 8, 8, 3, generator=g),
        "image_grid_thw": grids,
    }


# The same layers; an entry is an image.
RECIPES["Inkling2ForConditionalGeneration"] = Recipe(
    {
        "text_config": {
            "unpadded_vocab_size": None,
            "swa_num_attention_heads": 4,
            "swa_num_key_value_heads": 2,
            "swa_head_dim": 8,
            "d_rel": 4,
            "rel_extent": 64,
            "route_scale": 1.0,
        },
        "vision_config": {"text_hidden_size": 32, "projection_hidden_dim": 32, "posemb_grid_size": 8},
    },
    grid,
)
# A layer that attends to chosen tokens, a layer with a window; sounds beside images and videos.
RECIPES["Dots3NoteForConditionalGeneration"] = Recipe(
    {
        "text_config": {
            "num_key_value_heads": 4,
            "index_topk": 256,
            "index_head_dim": 8,
            "index_n_heads": 2,
            "shared_experts_intermediate_size": 16,
            "per_layer_config": {
                1: {
                    **dict.fromkeys(("num_attention_heads", "num_key_value_heads"), 4),
                    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
                    **dict.fromkeys(("head_dim", "v_head_dim"), 8),
                    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim"), 4),
                }
            },
        },
        "vision_config": {"adapter_in_dim": 32, "adapter_out_dim": 32},
        "audio_config": {
            "downsample_hidden_size": 8,
            "conv_output_size": 128,
            "adapter_input_size": 32,
            "adapter_out_dim": 32,
        },
    },
    sound=lambda model, inputs, g: {
        "input_ids": spoken(inputs["input_ids"], 5),
        "input_features": torch.randn(len(inputs["input_ids"]), 128, 40, generator=g),
        "chunk_sample_lengths": torch.full((len(inputs["input_ids"]),), 5 * 1280),
    },
)
NOT_TEXT = {
    "BlipForConditionalGeneration": "its text decoder sees the image by cross-attention; a prompt has no placeholder",
    "BlipForQuestionAnswering": "its text encoder sees the image by cross-attention; a prompt has no placeholder",
    "EvollaForProteinText2Text": "it looks at proteins by cross-attention",
    "IdeficsForVisionText2Text": "it looks at images by cross-attention; a prompt has no visual tokens",
    "GitForCausalLM": "its image stands in front of the prompt without placeholders",
    "GlmImageForConditionalGeneration": "it generates the tokens of an image",
}
"""Classes that generate no text from visual tokens in a prompt, and why."""
