"""A tiny random model of every family, its inputs with images and videos, and the masking oracle for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from tiny_qwen import END, START, tiny_qwen
from tiny_vlm import _TEXT, _VISION, BOS, IMAGE, PAD, PATCH, SIDE, VOCAB, _awake, tiny_model
from torch import Tensor
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

VIDEO = 8
FAMILIES = (
    "llava",
    "llava_interleave",
    "llava_next",
    "llava_onevision",
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "internvl",
    "smolvlm",
    "idefics3",
    "paligemma",
    "gemma3",
)
WITH_VIDEO = ("llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")
WITH_GRID = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
BIDIRECTIONAL = ("paligemma", "gemma3")
_SIGLIP = {k: v for k, v in _VISION.items() if k != "projection_dim"}
_GEMMA = {
    **_TEXT,
    "head_dim": 12,
    "query_pre_attn_scalar": 12,
    "sliding_window": 256,
    "layer_types": ["sliding_attention", "full_attention"],
    "tie_word_embeddings": False,
}


def family_model(name: str, seed: int = 0):
    """A random model of the family, in float32 and eval mode; weights are large enough for all tokens to count."""
    if name in ("llava", "llava_next", "llava_onevision"):
        model = tiny_model(name, seed)
    elif name in WITH_GRID:
        model = tiny_qwen(name, seed)
    else:
        torch.manual_seed(seed)
        model = _awake(_OTHERS[name]())
    with torch.no_grad():
        model.lm_head.weight[VIDEO] = 0  # never say a placeholder: the oracle feeds answers back in
        for part, weight in model.named_parameters():
            if part.endswith("image_newline"):
                weight.normal_(0, 0.5)
    return model


def _interleave():
    config = LlavaConfig(
        vision_config=SiglipVisionConfig(**_SIGLIP),
        text_config=Qwen2Config(**_TEXT),
        image_token_index=IMAGE,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    return LlavaForConditionalGeneration(config)


def _internvl():
    sizes = {**_SIGLIP, "image_size": [SIDE, SIDE], "patch_size": [PATCH, PATCH]}
    config = InternVLConfig(
        vision_config=InternVLVisionConfig(**sizes),
        text_config=Qwen2Config(**_TEXT),
        image_token_id=IMAGE,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
    )
    return InternVLForConditionalGeneration(config)


def _idefics(config, model):
    return model(
        config(
            vision_config=_SIGLIP,
            text_config={"model_type": "llama", **_TEXT},
            image_token_id=IMAGE,
            scale_factor=2,
            pad_token_id=PAD,
        )
    )


def _paligemma():
    text = {
        k: v for k, v in _GEMMA.items() if k not in ("sliding_window", "layer_types", "query_pre_attn_scalar")
    }
    config = PaliGemmaConfig(
        vision_config={"model_type": "siglip_vision_model", **_SIGLIP},
        text_config={"model_type": "gemma", **text},
        image_token_index=IMAGE,
        projection_dim=48,
        tie_word_embeddings=False,
    )
    return PaliGemmaForConditionalGeneration(config)


def _gemma():
    config = Gemma3Config(
        vision_config={"model_type": "siglip_vision_model", **_SIGLIP},
        text_config={"model_type": "gemma3_text", **_GEMMA},
        image_token_index=IMAGE,
        boi_token_index=START,
        eoi_token_index=END,
        mm_tokens_per_image=9,
        tie_word_embeddings=False,
    )
    return Gemma3ForConditionalGeneration(config)


_OTHERS = {
    "llava_interleave": _interleave,
    "internvl": _internvl,
    "smolvlm": lambda: _idefics(SmolVLMConfig, SmolVLMForConditionalGeneration),
    "idefics3": lambda: _idefics(Idefics3Config, Idefics3ForConditionalGeneration),
    "paligemma": _paligemma,
    "gemma3": _gemma,
}


@dataclass(frozen=True)
class Call:
    """Inputs as a processor gives them, and where their images and videos stand.

    Attributes
    ----------
    inputs : dict
    spans : list of (int, list of int)
        Row and columns of every image or video, in placeholder order.
    """

    inputs: dict
    spans: list


def family_call(model, images=(1, 1), text=(4, 9), videos=None, seed: int = 2) -> Call:
    """A left-padded batch with `images[b]` images, `videos[b]` videos behind them and `text[b]` words in row b."""
    g = torch.Generator().manual_seed(seed)
    kind = model.config.model_type
    videos = videos or (0,) * len(images)
    extra, pieces = _images(model, kind, images, g) if sum(images) else ({}, [])
    of_video, clips = _videos(model, kind, sum(videos), g) if sum(videos) else ({}, [])
    extra, pieces, clips = {**extra, **of_video}, iter(pieces), iter(clips)
    rows, spans = [], []
    for row, words in enumerate(text):
        ids = [BOS]
        for ids_of_one in [next(pieces) for _ in range(images[row])] + [
            next(clips) for _ in range(videos[row])
        ]:
            places = [len(ids) + i for i, token in enumerate(ids_of_one) if token in (IMAGE, VIDEO)]
            spans.append((row, places))
            ids += ids_of_one
            if kind != "paligemma":  # its processor puts images next to one another
                ids += torch.randint(10, VOCAB, (2,), generator=g).tolist()
        rows.append(ids + torch.randint(10, VOCAB, (words,), generator=g).tolist())
    width = max(map(len, rows))
    spans = [(row, [width - len(rows[row]) + c for c in columns]) for row, columns in spans]
    if kind in ("smolvlm", "idefics3"):  # the encoder gives one entry a prompt
        joined = {}
        for row, columns in spans:
            joined.setdefault(row, []).extend(columns)
        spans = list(joined.items())
    ids = torch.tensor([[PAD] * (width - len(r)) + r for r in rows])
    mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows])
    if kind in WITH_GRID:
        extra["mm_token_type_ids"] = (ids == IMAGE).int() + 2 * (ids == VIDEO).int()
    if kind == "gemma3":
        extra["token_type_ids"] = (ids == IMAGE).long()
    if kind == "paligemma":
        extra["token_type_ids"] = torch.zeros_like(ids)
    return Call({"input_ids": ids, "attention_mask": mask, **extra}, spans)


def _images(model, kind, images, g):
    """What the processor adds for the images, and the tokens of each."""
    total = sum(images)
    if kind in WITH_GRID:
        grids = torch.tensor([(1, 12, 12), (1, 8, 16), (1, 12, 8)])[torch.arange(total) % 3]
        counts = (grids.prod(1) // 4).tolist()
        extra = {"pixel_values": _patches(model, grids, g), "image_grid_thw": grids}
        return extra, [[START] + [IMAGE] * n + [END] for n in counts]
    if kind in ("smolvlm", "idefics3"):
        pixels = torch.zeros(len(images), max(images), 3, SIDE, SIDE)
        for row, count in enumerate(images):
            pixels[row, :count] = torch.randn(count, 3, SIDE, SIDE, generator=g)
        mask = torch.ones(len(images), max(images), SIDE, SIDE, dtype=torch.bool)
        return {"pixel_values": pixels, "pixel_attention_mask": mask}, [[START] + [IMAGE] * 9 + [END]] * total
    if kind == "internvl":  # two tiles an image
        pixels = torch.randn(2 * total, 3, SIDE, SIDE, generator=g)
        return {"pixel_values": pixels}, [[START] + [IMAGE] * 18 + [END]] * total
    extra = {"pixel_values": torch.randn(total, 3, SIDE, SIDE, generator=g)}
    if kind in ("llava_next", "llava_onevision"):
        sizes = torch.tensor([(SIDE, 2 * SIDE), (2 * SIDE, SIDE), (70, 80)])[torch.arange(total) % 3]
        extra = {"pixel_values": torch.randn(total, 5, 3, SIDE, SIDE, generator=g), "image_sizes": sizes}
        if kind == "llava_onevision":
            extra["batch_num_images"] = torch.tensor([n for n in images if n])
    with torch.no_grad():
        found = model.model.get_image_features(**extra, return_dict=True).pooler_output
    return extra, [[IMAGE] * len(rows) for rows in found]


def _videos(model, kind, total, g):
    """As `_images`, for videos."""
    if kind == "llava_onevision":  # two frames of 3 x 3 and a separator
        pixels = torch.randn(total, 2, 3, SIDE, SIDE, generator=g)
        return {"pixel_values_videos": pixels}, [[VIDEO] * 19] * total
    if kind not in WITH_GRID:
        return {"pixel_values_videos": torch.randn(total, 2, 3, SIDE, SIDE, generator=g)}, [[10]] * total
    grids = torch.tensor([(2, 8, 8), (3, 8, 4)])[torch.arange(total) % 2]
    extra = {"pixel_values_videos": _patches(model, grids, g), "video_grid_thw": grids}
    if kind == "qwen2_5_vl":
        extra["second_per_grid_ts"] = torch.ones(total)
    if kind == "qwen3_vl":  # one run a frame, behind its time
        return extra, [([30, START] + [VIDEO] * int(h * w // 4) + [END]) * int(t) for t, h, w in grids]
    return extra, [[START] + [VIDEO] * int(grid.prod() // 4) + [END] for grid in grids]


def _patches(model, grids, g):
    vision = model.config.vision_config
    width = 3 * vision.temporal_patch_size * vision.patch_size**2
    return torch.randn(int(grids.prod(1).sum()), width, generator=g)


# the oracle ---------------------------------------------------------------------------------------


def stay_mask(call: Call, kept) -> Tensor:
    """(B, L) bool: everything but padding and the dropped visual tokens."""
    stay = call.inputs["attention_mask"].bool().clone()
    for (row, columns), rows in zip(call.spans, kept, strict=True):
        for i, column in enumerate(columns):
            stay[row, column] = i in rows.tolist()
    return stay


def original_positions(model, call: Call) -> Tensor:
    """Where the unpruned model puts the tokens: (B, L), or (3, B, L) on a grid."""
    mask = call.inputs["attention_mask"]
    if model.config.model_type not in WITH_GRID:
        return (mask.cumsum(-1) - 1).clamp(min=0)
    names = ("input_ids", "mm_token_type_ids", "image_grid_thw", "video_grid_thw", "second_per_grid_ts")
    given = {k: call.inputs[k] for k in names if k in call.inputs}
    return model.model.get_rope_index(**given, attention_mask=mask)[0]


PROMPT = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


@torch.no_grad()
def masked_reference(model, call: Call, kept, steps=12, positions=None):
    """No pruning, no cache: dropped tokens masked out, everything else where it was (or at `positions`).

    Returns greedy tokens (B, steps) and the logits behind each, (B, steps, vocabulary).
    """
    stay = stay_mask(call, kept)
    positions = original_positions(model, call) if positions is None else positions
    if model.config.model_type == "paligemma":
        positions = positions + 1
    ids, types = call.inputs["input_ids"], call.inputs.get("token_type_ids")
    new_type = 1 if model.config.model_type == "paligemma" else 0  # text that sees what is before it
    rest = {k: v for k, v in call.inputs.items() if k not in PROMPT}
    tokens, logits = [], []
    for _ in range(steps):
        own = {} if types is None else {"token_type_ids": types}
        out = model(
            input_ids=ids, attention_mask=stay.long(), position_ids=positions, use_cache=False, **own, **rest
        ).logits[:, -1]
        best = out.argmax(-1)
        tokens.append(best)
        logits.append(out)
        ids = torch.cat([ids, best[:, None]], 1)
        stay = torch.cat([stay, torch.ones_like(best[:, None], dtype=torch.bool)], 1)
        positions = torch.cat([positions, positions[..., -1:] + 1], -1)
        if types is not None:
            types = torch.cat([types, torch.full_like(best[:, None], new_type)], 1)
    return torch.stack(tokens, 1), torch.stack(logits, 1)


def masked_inputs(model, call: Call, kept) -> dict:
    """Inputs for the unpruned model's own `generate` with the dropped tokens masked out where they are."""
    positions = original_positions(model, call)
    if positions.ndim == 3:
        text = (call.inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        positions = torch.cat([text[None], positions])
    return {**call.inputs, "attention_mask": stay_mask(call, kept).long(), "position_ids": positions}


@cache
def shared_model(name: str):
    """One model of each family for a test run."""
    return family_model(name)
