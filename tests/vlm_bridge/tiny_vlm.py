"""Tiny random vision-language models, and the slow reference they are compared with.

Visual tokens must matter: weights are scaled up, so that pruning moves the logits by far more than any
tolerance here (`test_pruning_matters`).
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

IMAGE, PAD, BOS, EOS, VOCAB = 7, 0, 1, 2, 120
SIDE, PATCH = 48, 8
N = (SIDE // PATCH) ** 2
FAMILIES = ("llava", "llava_next", "llava_onevision")

_VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": PATCH,
    "projection_dim": 24,
}
_TEXT = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCAB,
    "max_position_embeddings": 1024,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}
_GRID = {"image_grid_pinpoints": [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]}


def tiny_model(family: str, seed: int = 0):
    """A random model of the family, in float32 and eval mode."""
    torch.manual_seed(seed)
    common = {"image_token_index": IMAGE, "vision_feature_select_strategy": "default"}
    vision = CLIPVisionConfig(**_VISION)
    if family == "llava":
        config = LlavaConfig(
            vision_config=vision, text_config=LlamaConfig(**_TEXT), vision_feature_layer=-2, **common
        )
        model = LlavaForConditionalGeneration(config)
    elif family == "llava_next":
        text = MistralConfig(**_TEXT, sliding_window=None)
        config = LlavaNextConfig(
            vision_config=vision, text_config=text, vision_feature_layer=-2, **_GRID, **common
        )
        model = LlavaNextForConditionalGeneration(config)
    else:
        config = LlavaOnevisionConfig(
            vision_config=vision,
            text_config=Qwen2Config(**_TEXT),
            vision_feature_layer=-2,
            video_token_index=8,
            **_GRID,
            **common,
        )
        model = LlavaOnevisionForConditionalGeneration(config)
    return _awake(model)


def _awake(model):
    """Weights large enough for every token to count."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim >= 2:
                weight.normal_(0, 0.5 if "embed" in name else 1 / weight.shape[-1] ** 0.5)
        model.lm_head.weight[IMAGE] = 0  # never say the placeholder: the reference feeds answers back in
    model.generation_config.pad_token_id = PAD
    model.generation_config.eos_token_id = None
    return model.eval()


def tiny_tensor_model(seed: int = 0):
    """An InternVL: no row in the bridge, and its encoder gives one tensor for all tiles."""
    torch.manual_seed(seed)
    sizes = {k: v for k, v in _VISION.items() if k not in ("image_size", "patch_size", "projection_dim")}
    vision = InternVLVisionConfig(**sizes, image_size=[SIDE, SIDE], patch_size=[PATCH, PATCH])
    config = InternVLConfig(
        vision_config=vision, text_config=Qwen2Config(**_TEXT), image_token_id=IMAGE, downsample_ratio=0.5
    )
    return _awake(InternVLForConditionalGeneration(config))


def tiny_clip(seed: int = 1):
    """A random CLIP with the models' vision tower shape, and a word tokenizer for it."""
    torch.manual_seed(seed)
    text = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "vocab_size": VOCAB,
        "max_position_embeddings": 8,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
    }
    config = CLIPConfig(text_config=text, vision_config=_VISION, projection_dim=24)
    return CLIPModel(config).eval(), tiny_tokenizer()


def tiny_tokenizer():
    """Words w9, w10, ...; <s> and </s> around them."""
    words = {"<pad>": PAD, "<s>": BOS, "</s>": EOS, "<image>": IMAGE}
    free = [i for i in range(VOCAB) if i not in words.values()]
    words |= {f"w{i}": i for i in free}
    inner = Tokenizer(WordLevel(words, unk_token="w9"))
    inner.pre_tokenizer = Whitespace()
    inner.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="w9"
    )


def tiny_inputs(model, images=(1, 1), text=(5, 9), seed: int = 2):
    """A left-padded batch with `images[b]` images and `text[b]` words in row b."""
    g = torch.Generator().manual_seed(seed)
    family, total = model.config.model_type, sum(images)
    extra = {}
    if family in ("llava", "internvl"):
        pixels = torch.randn(total, 3, SIDE, SIDE, generator=g)
    else:
        sizes = torch.tensor([(SIDE, 2 * SIDE), (2 * SIDE, SIDE), (70, 80)])[torch.arange(total) % 3]
        pixels = torch.randn(total, 5, 3, SIDE, SIDE, generator=g)
        extra = {"image_sizes": sizes}
        if family == "llava_onevision":
            extra["batch_num_images"] = torch.tensor([n for n in images if n])
    sizes = []
    if total:
        with torch.no_grad():
            out = model.model.get_image_features(pixel_values=pixels, **extra, return_dict=True).pooler_output
        sizes = [len(x) for x in out]
    rows, at = [], 0
    for count, words in zip(images, text, strict=True):
        ids = [BOS]
        for _ in range(count):
            ids += [IMAGE] * sizes[at] + torch.randint(10, VOCAB, (2,), generator=g).tolist()
            at += 1
        rows.append(ids + torch.randint(10, VOCAB, (words,), generator=g).tolist())
    width = max(map(len, rows))
    ids = torch.tensor([[PAD] * (width - len(r)) + r for r in rows])
    mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows])
    inputs = {"input_ids": ids, "attention_mask": mask}
    return {**inputs, "pixel_values": pixels, **extra} if total else inputs


def keep_mask(inputs, kept, sizes):
    """(B, L) bool: everything but the dropped visual tokens."""
    places = (inputs["input_ids"] == IMAGE).nonzero()
    stay = inputs["attention_mask"].bool().clone()
    for span, rows in zip(places.split(sizes), kept, strict=True):
        dropped = torch.ones(len(span), dtype=torch.bool)
        dropped[rows] = False
        stay[span[dropped][:, 0], span[dropped][:, 1]] = False
    return stay


def positions_of(mask):
    """Positions that `generate` gives an unpruned prompt."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


@torch.no_grad()
def masked_reference(model, inputs, kept, sizes, steps=12):
    """The oracle: no pruning, no cache; dropped tokens masked out, everything else where it was.

    Returns greedy tokens (B, steps) and the logits behind each, (B, steps, vocabulary).
    """
    stay = keep_mask(inputs, kept, sizes)
    positions = positions_of(inputs["attention_mask"])
    ids, tokens, logits = inputs["input_ids"], [], []
    pixels = {k: v for k, v in inputs.items() if k not in ("input_ids", "attention_mask")}
    for _ in range(steps):
        out = model(
            input_ids=ids, attention_mask=stay.long(), position_ids=positions, use_cache=False, **pixels
        ).logits[:, -1]
        best = out.argmax(-1)
        tokens.append(best)
        logits.append(out)
        ids = torch.cat([ids, best[:, None]], 1)
        stay = torch.cat([stay, torch.ones_like(best[:, None], dtype=torch.bool)], 1)
        positions = torch.cat([positions, positions[:, -1:] + 1], 1)
    return torch.stack(tokens, 1), torch.stack(logits, 1)


def generated(model, inputs, steps=12, **options):
    """Greedy tokens after the prompt and their logits."""
    out = model.generate(
        **inputs,
        max_new_tokens=steps,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
        **options,
    )
    prompt = inputs["input_ids"]
    assert torch.equal(out.sequences[:, : prompt.shape[1]], prompt), "the full prompt stands in front"
    return SimpleNamespace(
        tokens=out.sequences[:, prompt.shape[1] :],
        logits=torch.stack(out.logits, 1),
        cache=out.past_key_values,
    )
