"""Tiny random models with four decoder layers for pruning inside the LLM: LLaVA, Qwen2.5-VL, Qwen2-VL, Qwen3-VL.

As in `tiny_vlm`, weights are scaled so that visual tokens matter, and attention so that it is not flat.
"""

from __future__ import annotations

import torch
from tiny_vlm import _TEXT, _VISION, BOS, IMAGE, PAD, VOCAB, _awake
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

LAYERS = 4
VIDEO, START, END = 8, 5, 6
_DEEP = {**_TEXT, "num_hidden_layers": LAYERS}
_QWEN = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": START,
    "vision_end_token_id": END,
}


def _uneven(model):
    """As `_awake`, and norms with weights of their own."""
    model = _awake(model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("norm.weight"):
                weight.uniform_(0.5, 1.5)
    return model


def deep_llava(seed: int = 0):
    """A LLaVA with four decoder layers."""
    torch.manual_seed(seed)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**_VISION),
        text_config=LlamaConfig(**_DEEP),
        vision_feature_layer=-2,
        image_token_index=IMAGE,
        vision_feature_select_strategy="default",
    )
    return _uneven(LlavaForConditionalGeneration(config))


def tiny_qwen(kind: str = "qwen2_5_vl", seed: int = 0):
    """A Qwen-VL with four decoder layers and multi-dimensional rotary positions (head width 12: 2 + 2 + 2)."""
    torch.manual_seed(seed)
    text = {
        **_DEEP,
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 2, 2], "rope_theta": 1e4},
    }
    if kind == "qwen2_5_vl":
        vision = {
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 4,
            "out_hidden_size": 48,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 16,
            "fullatt_block_indexes": [1],
        }
        config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **_QWEN)
        model = Qwen2_5_VLForConditionalGeneration(config)
    elif kind == "qwen2_vl":
        vision = {
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 48,
            "num_heads": 4,
            "mlp_ratio": 2,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        }
        config = Qwen2VLConfig(text_config=text, vision_config=vision, **_QWEN)
        model = Qwen2VLForConditionalGeneration(config)
    else:
        text = {**text, "head_dim": 12, "pad_token_id": PAD}
        vision = {
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 4,
            "out_hidden_size": 48,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        }
        config = Qwen3VLConfig(text_config=text, vision_config=vision, **_QWEN)
        model = Qwen3VLForConditionalGeneration(config)
    model = _uneven(model)
    with torch.no_grad():
        for token in (VIDEO, START, END):
            model.lm_head.weight[token] = 0
    return model


def qwen_inputs(model, images=(1, 1), text=(5, 9), seed: int = 2):
    """A left-padded batch with `images[b]` images of different grids and `text[b]` words in row b."""
    g = torch.Generator().manual_seed(seed)
    grids = torch.tensor([(1, 12, 12), (1, 8, 16), (1, 12, 8)])[torch.arange(sum(images)) % 3]
    vision = model.config.vision_config
    width = 3 * vision.temporal_patch_size * vision.patch_size**2
    pixels = torch.randn(int(grids.prod(1).sum()), width, generator=g)
    rows, at = [], 0
    for count, words in zip(images, text, strict=True):
        ids = [BOS]
        for _ in range(count):
            ids += [START] + [IMAGE] * int(grids[at].prod() // 4) + [END]
            ids += torch.randint(10, VOCAB, (2,), generator=g).tolist()
            at += 1
        rows.append(ids + torch.randint(10, VOCAB, (words,), generator=g).tolist())
    width = max(map(len, rows))
    ids = torch.tensor([[PAD] * (width - len(r)) + r for r in rows])
    mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows])
    inputs = {"input_ids": ids, "attention_mask": mask}
    if not at:
        return inputs
    kinds = (ids == IMAGE).int()
    return {**inputs, "pixel_values": pixels, "image_grid_thw": grids, "mm_token_type_ids": kinds}
