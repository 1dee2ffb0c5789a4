"""Where each model family keeps its visual tokens: a row per family.

A family is what the bridge must know and cannot ask the model: how patch embeddings are packed into rows,
what the encoder's entries are, and which tokens see those behind them. A model without a row works when it
follows the common contract of transformers >= 5.18: ``get_image_features`` (and ``get_video_features``) whose
``pooler_output`` lists the visual rows in placeholder order, one placeholder id per row in ``input_ids``,
positions that are 1-D or come from ``get_rope_index``, and ``mm_encoder_outputs`` in ``forward``.

What needs no row, because it can be asked: multi-dimensional positions (``get_rope_index``), rows for later
layers (``deepstack_features``), separators (``image_newline``), windows (``config.layer_types``). PaliGemma
counts positions from one; rotary positions are relative, so the common offset changes nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from inspect import getsource
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from vlm_bridge.errors import BridgeError


@dataclass(frozen=True)
class Kind:
    """A kind of visual input.

    Attributes
    ----------
    name : str
        ``get_{name}_features`` encodes it, ``mm_encoder_outputs[name]`` holds the answer.
    pixels : tuple of str
        Arguments that bring it.
    ids : tuple of str
        Names of its placeholder id in the config.
    """

    name: str
    pixels: tuple[str, ...]
    ids: tuple[str, ...]

    def given(self, inputs: Mapping[str, Any]) -> bool:
        """Whether a call brings it, as pixels or encoded."""
        return self.encoded(inputs) is not None or any(inputs.get(name) is not None for name in self.pixels)

    def encoded(self, inputs: Mapping[str, Any]) -> Any:
        """What the caller has had encoded already; None where nothing."""
        return (inputs.get("mm_encoder_outputs") or {}).get(self.name)


PIXELS = ("pixel_values", "pixel_values_images", "image_patches", "image_pixel_values")
IMAGE = Kind("image", PIXELS, ("image_token_id", "image_token_index"))
VIDEO = Kind("video", ("pixel_values_videos",), ("video_token_id", "video_token_index"))
KINDS = (IMAGE, VIDEO)


@dataclass(frozen=True)
class Family:
    """A row.

    Attributes
    ----------
    model_type : str
        ``config.model_type``.
    decoder : str
        Attribute path of the text decoder below the base model.
    projector : str
        Attribute path of the module that maps vision rows to LLM width; its input is what CLIP projects.
    pack : callable, optional
        ``pack(base, tiles, inputs)``: (T, n, d) per-tile rows to one (n_i, d) tensor per image, in the
        order and number of the image's visual tokens; separator rows come out as zeros. Without, an image's
        tokens are those that the projector made, in its order.
    unit, video_unit : {"entry", "run", "near", "open", "close", "prompt"}
        What counts as one image, or video: an entry of the encoder's answer. Where entries are tiles or frames, an
        unbroken run of placeholders; runs with one token between; what begins with the token in front of the
        prompt's first run; what ends with the token behind its last run; or all that a prompt shows.
    sizes : callable, optional
        ``sizes(pixels, inputs, rows)``: how many of all `rows` are each image's, or video's. Where processors write no
        token between images, a run may be several; without pixels `unit` must do.
    embeds : str
        Of a model outside of the contract: its module that writes images and sounds into a prompt's embeddings. The
        pruned prompt goes in as ``inputs_embeds``.
    """

    model_type: str
    decoder: str = "language_model"
    projector: str = "multi_modal_projector"
    pack: Callable[[Any, Tensor, Mapping[str, Any]], list[Tensor]] | None = None
    unit: str = "entry"
    video_unit: str = "entry"
    sizes: Callable[[Tensor, Mapping[str, Any], int], list[int]] | None = None
    embeds: str = ""

    def count(self, base: Any, inputs: Mapping[str, Any], tiles: int) -> list[int]:
        """Tiles of each image."""
        return tiles_per_image(base, inputs) if self.pack is anyres else [1] * tiles


def anyres(base: Any, tiles: Tensor, inputs: Mapping[str, Any]) -> list[Tensor]:
    """LLaVA-NeXT and OneVision: base view, unpadded grid of tiles, a separator after each row of the grid."""
    counts = tiles_per_image(base, inputs)
    arguments: dict[str, Any] = {
        "image_features": torch.split(tiles, counts),
        "image_sizes": inputs["image_sizes"],
        "image_newline": tiles.new_zeros(tiles.shape[-1]),
        "vision_feature_select_strategy": inputs.get("vision_feature_select_strategy")
        or getattr(base.config, "vision_feature_select_strategy", None),
        "vision_aspect_ratio": inputs.get("vision_aspect_ratio")
        or getattr(base.config, "vision_aspect_ratio", None),
    }
    known = inspect.signature(base.pack_image_features).parameters
    packed, _ = base.pack_image_features(**{k: v for k, v in arguments.items() if k in known})
    return list(packed)


def evenly(pixels: Tensor, inputs: Mapping[str, Any], rows: int) -> list[int]:
    """Perception LM, Video-LLaVA: pixels (images, tiles, ...), with as many tiles, or frames, for each."""
    return [rows // len(pixels)] * len(pixels)


def cropped(pixels: Tensor, inputs: Mapping[str, Any], rows: int) -> list[int]:
    """Phi-4: the part of the grid of crops that is not padding, a separator, the whole image; one more ends a line."""
    masks = inputs["image_attention_mask"].bool()
    side, size = masks.shape[-1] // 2, pixels.shape[-1]
    found = []
    for mask, (height, width) in zip(masks, inputs["image_sizes"].view(-1, 2).tolist(), strict=True):
        down, across = height // size, width // size
        grid = mask[1 : down * across + 1, ::2, ::2].reshape(down, across, side, side)
        lines, columns = int(grid[:, 0, :, 0].sum()), int(grid[0, :, 0].sum())
        found.append(lines * (columns + 1) + 1 + side * (side + 1))
    return found


def tiles_per_image(base: Any, inputs: Mapping[str, Any]) -> list[int]:
    """Tiles of each image, by the same rule as the model's own file."""
    count = import_module(type(base).__module__).image_size_to_num_patches
    groups = inputs.get("batch_num_images")
    tiled = [True] * len(inputs["image_sizes"])
    if groups is not None:  # OneVision: several images in a sample are not tiled
        tiled = [int(n) == 1 for n in groups for _ in range(int(n))]
    config = base.config
    return [
        count(
            image_size=size,
            grid_pinpoints=config.image_grid_pinpoints,
            patch_size=config.vision_config.image_size,
        )
        if several
        else 1
        for size, several in zip(inputs["image_sizes"], tiled, strict=True)
    ]


FAMILIES: dict[str, Family] = {
    row.model_type: row
    for row in (
        Family("llava"),  # LLaVA-1.5, LLaVA-NeXT-Interleave, Pixtral
        Family("llava_next", pack=anyres),
        Family("llava_onevision", pack=anyres),
        Family("qwen2_vl", projector="visual.merger"),
        Family("qwen2_5_vl", projector="visual.merger"),
        Family("qwen3_vl", projector="visual.merger"),
        Family("internvl", unit="run"),
        Family("smolvlm", "text_model", "connector.modality_projection", unit="prompt"),
        Family("idefics3", "text_model", "connector.modality_projection", unit="prompt"),
        Family("mistral3"),
        Family("aria", unit="run"),
        Family("aya_vision", unit="close"),
        Family("cohere2_vision", unit="near"),
        Family("got_ocr2", unit="run"),
        Family("ovis2", unit="near"),
        Family("lfm2_vl", unit="near"),
        Family("minicpmv4_6", unit="open", video_unit="prompt"),
        Family("minicpmv4_7", unit="open", video_unit="prompt"),
        Family("minicpm_ocr", unit="open", video_unit="prompt"),
        Family("inkling_mm_model", unit="run"),
        Family("kimi_k25", video_unit="prompt"),
        Family("nemotron_h_omni", video_unit="prompt"),
        Family("qianfan_ocr", unit="run"),
        Family("video_llava", video_unit="run", sizes=evenly),
        Family("perception_lm", unit="run", video_unit="run", sizes=evenly),
        Family("llama4", unit="close"),
        Family("fuyu", unit="near"),
        Family("phi4_multimodal", unit="run", sizes=cropped, embeds="embed_tokens_extend"),
    )
}

STATELESS = {"moe", "mlp", "sparse", "dense"}
"""Layer types that work on single tokens."""

_SCORED = {"full_attention", "sliding_attention", "chunked_attention"}
"""Layer types in which every token is scored against all that the mask lets it see."""

_ATTENTION = STATELESS | {
    *_SCORED,
    "indexed_attention",
    "minimax_m3_sparse",
}
"""Layer types in which a dropped token is one that nothing looks at."""


def find_family(model: Any) -> Family:
    """The model's row, or a generic one for a model that follows the contract.

    Raises
    ------
    BridgeError
        No ``get_image_features``, no ``mm_encoder_outputs`` (transformers < 5.18), an encoder-decoder, or no
        placeholder id.
    """
    check_contract(model)
    return _row(model)


def _row(model: Any) -> Family:
    kind = str(getattr(getattr(model, "config", None), "model_type", None))
    return FAMILIES.get(kind, Family(kind))


def check_contract(model: Any) -> None:
    """Refuse a model that does not encode images for a decoder in the common way of transformers >= 5.18."""
    name = type(model).__name__
    if _row(model).embeds:
        return
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        raise BridgeError(
            f"{name} is not supported: its visual rows go through a text encoder. Supported: decoder-only models, "
            f"such as {', '.join(FAMILIES)}."
        )
    if not callable(getattr(base_of(model), "get_image_features", None)):
        raise BridgeError(
            f"{name} has no get_image_features: expected a vision-language model of transformers that encodes images "
            "into rows of the prompt, got another module. If it is a part of such a model, pass the whole model; if it "
            "wraps one, pass the model inside; a model of text alone, or one that looks at images by cross-attention, "
            "has no visual tokens."
        )
    if "mm_encoder_outputs" not in inspect.signature(model.forward).parameters:
        raise BridgeError(
            f"{name}.forward takes no mm_encoder_outputs, by which models are given encoded images: expected a generative "
            f"vision-language model of transformers >= 5.18 (installed: {transformers.__version__}), with the code of "
            "transformers and not of the checkpoint."
        )
    find = getattr(base_of(model), "get_placeholder_mask", None)
    if find is not None and "image_ids" in inspect.signature(find).parameters:
        raise BridgeError(
            f"{name} is not supported: it turns images into tokens of a vocabulary of its own, to draw others; no visual "
            "rows go into its prompt."
        )
    own = getattr(type(model), "generate", None)
    if (
        own is not None
        and own.__module__ == type(model).__module__
        and "super().generate" not in getsource(own)
    ):
        raise BridgeError(
            f"{name} is not supported: its `generate` is its own, encodes pixels itself and takes no pruned rows."
        )
    placeholder_id(model)


def recurrent_layers(model: Any) -> tuple[str, ...]:
    """Types of the decoder's layers that carry a state from token to token: convolutions, linear attention, Mamba.

    With such layers a dropped token is one that is never fed: the pruned model equals the model given the shorter
    sequence. Without any it is also one that is masked out, which nothing else looks at.
    """
    found = tuple(sorted(layer_kinds(model) - _ATTENTION))
    if found:
        return found
    stateful = any(getattr(module, "_is_stateful", False) for module in model.modules())
    return ("recurrent",) if stateful else ()


def unscored_layers(model: Any) -> tuple[str, ...]:
    """Types of the decoder's layers that carry a state, or that choose which tokens they score."""
    return tuple(sorted((layer_kinds(model) - STATELESS - _SCORED) | set(recurrent_layers(model))))


def layer_kinds(model: Any) -> set[str]:
    """Types of the decoder's layers, as far as the configuration names them."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None) or ()
    return {"full_attention" if kind == "attention" else kind for kind in kinds}


def is_bidirectional(model: Any) -> bool:
    """Whether visual tokens see those behind them, so that a prompt cannot be read in chunks.

    Such a model builds masks of its own from the token types, some only where the configuration says so.
    """
    own = getattr(type(model), "create_masks_for_generate", None)
    if own is None or "token_type" not in (source := getsource(own)):
        return False
    used = getattr(model.config.get_text_config(), "use_bidirectional_attention", None)
    return "use_bidirectional_attention" not in source or used == "vision"


def base_of(model: Any) -> Any:
    """The model below its language-model head."""
    base = getattr(model, "base_model", model)
    return base if isinstance(base, nn.Module) else model


def placeholder_id(model: Any, kind: Kind = IMAGE) -> int:
    """Id that stands in ``input_ids`` for a visual row."""
    configs = (model.config, getattr(model.config, "vision_config", None))
    ids = (getattr(config, name, None) for config in configs for name in kind.ids)
    found = next((token for token in ids if token is not None), None)
    if found is None:
        raise BridgeError(
            f"{type(model).__name__}.config has no {kind.ids[0]}, so placeholders cannot be found."
        )
    return int(found)


def separators_of(model: Any, rows: Tensor) -> Tensor:
    """Which of an image's rows (n, d) only end a row of its grid, or a video: (n,) bool."""
    newline = getattr(base_of(model), "image_newline", None)
    if not isinstance(newline, Tensor):
        return torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    return (rows == newline.to(rows)).all(-1)


def window_of(model: Any) -> int | None:
    """Tokens that a layer with a sliding window, or with chunks, sees; None without such layers."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    found = []
    for kind, name in (
        ("sliding_attention", "sliding_window"),
        ("chunked_attention", "attention_chunk_size"),
    ):
        size = getattr(config, name, None)
        if size and (kinds is None or kind in kinds) and getattr(config, f"use_{name}", True):
            found.append(int(size))
    return min(found, default=None)


def decoder_of(model: Any, family: Family) -> Any:
    """The text decoder."""
    base = base_of(model)
    for name in (family.decoder, "language_model", "text_model"):
        found = getattr(base, name, None)
        if isinstance(found, nn.Module):
            below = getattr(found, "model", None)  # Llama 4, Fuyu: a text model with its head
            return below if not hasattr(found, "layers") and isinstance(below, nn.Module) else found
    if isinstance(getattr(base, "layers", None), nn.ModuleList):  # Chameleon: the base is the decoder
        return base
    raise BridgeError(f"{type(model).__name__} has no {family.decoder}: its text decoder cannot be found.")


def attention_modules(model: Any, family: Family) -> list[nn.Module]:
    """The self-attention module of every decoder layer."""
    layers = getattr(decoder_of(model, family), "layers", None)
    found: list[Any] = [getattr(layer, "self_attn", None) for layer in layers or ()]
    if not found or None in found:
        raise BridgeError(f"{type(model).__name__}: the decoder's self-attention modules cannot be found.")
    return found
