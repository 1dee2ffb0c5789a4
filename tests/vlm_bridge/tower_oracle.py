"""What a vision tower says about its tokens, found without the bridge: by gradients and by eager attention."""

from __future__ import annotations

import copy
import sys

import torch
from tiny_families import Call, family_model
from tiny_vlm import _TEXT, BOS, IMAGE, PAD, PATCH, VOCAB, _awake
from torch import nn
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    PixtralVisionConfig,
)

from vlm_bridge.model.families import base_of

PIXTRAL = ("mistral3", "pixtral")
_CLIP = ("llava", "llava_next", "llava_onevision")
_SIZES = ((32, 48), (48, 16), (32, 32))


def tower_model(name):
    """A family's tiny model; of "pixtral", a LLaVA with a Pixtral tower."""
    if name not in PIXTRAL:
        return family_model(name)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    common = {
        "vision_config": PixtralVisionConfig(**sizes, image_size=48, patch_size=PATCH),
        "text_config": MistralConfig(**_TEXT, sliding_window=None),
        "image_token_index": IMAGE,
        "vision_feature_layer": -1,
    }
    if name == "mistral3":
        return _awake(Mistral3ForConditionalGeneration(Mistral3Config(**common, spatial_merge_size=2)))
    return _awake(LlavaForConditionalGeneration(LlavaConfig(**common, vision_feature_select_strategy="full")))


def pixtral_call(model, images=(1, 1), text=(4, 9)):
    """Images of several sizes behind one another in the tower's one sequence; prompts padded on the left."""
    g = torch.Generator().manual_seed(2)
    total, side = sum(images), PATCH * getattr(model.config, "spatial_merge_size", 1)
    sizes = torch.tensor([_SIZES[i % 3] for i in range(total)])
    counts = iter((sizes // side).prod(1).tolist())
    rows, spans = [], []
    for row, words in enumerate(text):
        ids = [BOS]
        for _ in range(images[row]):
            n = next(counts)
            spans.append((row, list(range(len(ids), len(ids) + n))))
            ids += [IMAGE] * n + [11, 12]
        rows.append(ids + torch.randint(10, VOCAB, (words,), generator=g).tolist())
    width = max(map(len, rows))
    spans = [(row, [width - len(rows[row]) + c for c in columns]) for row, columns in spans]
    inputs = {
        "input_ids": torch.tensor([[PAD] * (width - len(r)) + r for r in rows]),
        "attention_mask": torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows]),
        "pixel_values": torch.randn(total, 3, 48, 48, generator=g),
        "image_sizes": sizes,
    }
    return Call(inputs, spans)


def vision_of(model):
    """(tower, its layers, attention module of the layer whose output the projector is given)."""
    base = base_of(model)
    if hasattr(base, "visual"):
        tower, layers = base.visual, base.visual.blocks
    elif model.config.model_type in ("smolvlm", "idefics3"):
        tower, layers = base.vision_model, base.vision_model.encoder.layers
    elif model.config.model_type == "internvl":
        tower, layers = base.vision_tower, base.vision_tower.encoder.layer
    elif hasattr(base.vision_tower, "transformer"):
        tower, layers = base.vision_tower, base.vision_tower.transformer.layers
    else:
        tower = base.vision_tower
        layers = getattr(tower, "vision_model", tower).encoder.layers
    clip = model.config.vision_config.model_type == "clip_vision_model"
    layer = layers[-2 if clip else -1]
    names = ("self_attn", "attn", "attention")
    return tower, layers, next(getattr(layer, name) for name in names if hasattr(layer, name))


def has_cls(model):
    return model.config.vision_config.model_type in ("clip_vision_model", "internvl_vision")


def encode(model, inputs, kind="image"):
    """Rows (M, D) of the LLM, as its own encoder gives them."""
    names = ("pixel_values", "pixel_attention_mask", "image_sizes", "image_grid_thw", "batch_num_images")
    if kind == "video":
        names = ("pixel_values_videos", "video_grid_thw")
    given = {name: inputs[name] for name in names if name in inputs}
    find = getattr(base_of(model), f"get_{kind}_features")
    return torch.cat(list(find(**given, return_dict=True).pooler_output))


def local(model):
    """The model with a tower in which no patch hears of any other."""
    model = copy.deepcopy(model)
    _, layers, _ = vision_of(model)
    for name, module in layers.named_modules():
        if name.rsplit(".", 1)[-1] in ("out_proj", "proj", "o_proj", "projection_layer"):
            nn.init.zeros_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


def made_of(model, inputs, kind="image"):
    """Places, in the tower's sequence of patches, of what each token of the LLM is made of: one list a token.

    Where patches hear of no others, a token's gradient is zero at all patches but its own.
    """
    model = local(model)
    _, layers, attention = vision_of(model)
    layer = next(one for one in layers if attention in list(one.modules()))
    seen = []

    def start_here(_, args, kwargs):
        seen.append((args[0] if args else kwargs["hidden_states"]).detach().requires_grad_())
        return (seen[0], *args[1:]), {k: v for k, v in kwargs.items() if k != "hidden_states"}

    layer.register_forward_pre_hook(start_here, with_kwargs=True)
    with torch.enable_grad():
        tokens = encode(model, inputs, kind)
    found = []
    for token in tokens:
        (slope,) = torch.autograd.grad(token @ torch.linspace(1, 2, len(token)), seen[0], retain_graph=True)
        slope = slope[:, 1:] if has_cls(model) else slope
        found.append(slope.flatten(0, -2).any(-1).nonzero()[:, 0].tolist())
    return found


@torch.no_grad()
def attended(model, inputs, monkeypatch, kind="image", padding=(), received=None):
    """Keys (N, H, w) and attention (N, H) of every patch of the tower's sequence, from the model's eager attention.

    Attention from CLS, or the mean over all patches that see it, but for those at the places `padding`. With `received`,
    "late" or "early", it is the mean over CLS and all patches, in the feature layer or the early one.
    """
    tower, layers, attention = vision_of(model)
    if received == "early":
        early = layers[round(len(layers) * (3 / 8 if has_cls(model) else 1 / 2)) - 1]
        attention = next(
            getattr(early, name) for name in ("self_attn", "attn", "attention") if hasattr(early, name)
        )
    file = sys.modules[type(attention).__module__]
    eager, seen, cut = file.eager_attention_forward, [], int(has_cls(model))

    def spy(module, query, key, *args, **kwargs):
        output, weights = eager(module, query, key, *args, **kwargs)
        if module is attention:
            real = [i for i in range(weights.shape[2]) if i not in padding]
            table = weights[:, :, :1] if cut and received is None else weights[:, :, real]
            mean = table.sum(2) / (table > 0).sum(2).clamp(min=1)
            seen.append([key.transpose(1, 2)[:, cut:].flatten(0, 1), mean.mT[:, cut:].flatten(0, 1)])
        return output, weights

    used = tower.config._attn_implementation
    with monkeypatch.context() as patched:
        patched.setattr(file, "eager_attention_forward", spy)
        tower.set_attn_implementation("eager")
        try:
            encode(model, inputs, kind)
        finally:
            tower.set_attn_implementation(used)
    return tuple(torch.cat(parts) for parts in zip(*seen, strict=True))
