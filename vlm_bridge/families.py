"""Where each model family keeps its visual tokens: a row per family.

A family is what the bridge must know and cannot ask the model: how patch embeddings are packed into rows,
and what is refused and why. A model without a row works when it follows the common contract of transformers
>= 5.18: a public ``get_image_features`` whose ``pooler_output`` lists the visual rows in placeholder order,
one placeholder id per row in ``input_ids``, 1-D positions, and ``mm_encoder_outputs`` in ``forward``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from vlm_bridge.errors import BridgeError

PIXELS = ("pixel_values", "pixel_values_images", "image_patches")
VIDEO = ("pixel_values_videos", "video_grid_thw")


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
        Attribute of the module that maps vision rows to LLM width; its input is what CLIP projects.
    pack : callable
        ``pack(base, tiles, inputs)``: (T, n, d) per-tile rows to one (n_i, d) tensor per image, in the
        order and number of the image's visual tokens; separator rows come out as zeros.
    """

    model_type: str
    decoder: str = "language_model"
    projector: str = "multi_modal_projector"
    pack: Callable[[Any, Tensor, Mapping[str, Any]], list[Tensor]] | None = None

    def count(self, base: Any, inputs: Mapping[str, Any], tiles: int) -> list[int]:
        """Tiles of each image."""
        return tiles_per_image(base, inputs) if self.pack is anyres else [1] * tiles


def one_tile(base: Any, tiles: Tensor, inputs: Mapping[str, Any]) -> list[Tensor]:
    """LLaVA-1.5: an image is a tile."""
    return list(tiles)


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
        Family("llava", pack=one_tile),
        Family("llava_next", pack=anyres),
        Family("llava_onevision", pack=anyres),
    )
}

REFUSED = {
    **dict.fromkeys(
        ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "glm4v", "glm4v_moe"),
        "its multi-dimensional rotary positions are not rewritten yet",
    ),
    "paligemma": "its one-based positions and bidirectional prefix are not rewritten yet",
    "gemma3": "its block-bidirectional image mask is not rewritten yet",
}
"""Model types known to need more than the common contract."""


def find_family(model: Any) -> Family:
    """The model's row, or a generic one for a model that follows the contract.

    Raises
    ------
    BridgeError
        No ``get_image_features``, no ``mm_encoder_outputs`` (transformers < 5.18), no placeholder id, or a
        family that needs more than the contract.
    """
    name = type(model).__name__
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if not callable(getattr(base_of(model), "get_image_features", None)):
        raise BridgeError(f"{name} has no get_image_features: not a vision-language model the bridge knows.")
    if kind in REFUSED:
        raise BridgeError(f"{name} is not supported: {REFUSED[kind]}. Supported: {', '.join(FAMILIES)}.")
    if callable(getattr(base_of(model), "get_rope_index", None)):
        raise BridgeError(f"{name} is not supported: its rotary positions are multi-dimensional.")
    if "mm_encoder_outputs" not in inspect.signature(model.forward).parameters:
        raise BridgeError(f"{name}.forward takes no mm_encoder_outputs; upgrade to transformers >= 5.18.")
    placeholder_id(model)
    return FAMILIES.get(str(kind), Family(str(kind)))


def base_of(model: Any) -> Any:
    """The model below its language-model head."""
    base = getattr(model, "base_model", model)
    return base if isinstance(base, nn.Module) else model


def placeholder_id(model: Any) -> int:
    """Id that stands in ``input_ids`` for a visual row."""
    for name in ("image_token_id", "image_token_index"):
        found = getattr(model.config, name, None)
        if found is not None:
            return int(found)
    raise BridgeError(
        f"{type(model).__name__}.config has no image_token_id, so placeholders cannot be found."
    )


def decoder_of(model: Any, family: Family) -> Any:
    """The text decoder."""
    base = base_of(model)
    for name in (family.decoder, "language_model", "text_model"):
        found = getattr(base, name, None)
        if isinstance(found, nn.Module):
            return found
    raise BridgeError(f"{type(model).__name__} has no {family.decoder}: its text decoder cannot be found.")


def attention_modules(model: Any, family: Family) -> list[nn.Module]:
    """The self-attention module of every decoder layer."""
    layers = getattr(decoder_of(model, family), "layers", None)
    found: list[Any] = [getattr(layer, "self_attn", None) for layer in layers or ()]
    if not found or None in found:
        raise BridgeError(f"{type(model).__name__}: the decoder's self-attention modules cannot be found.")
    return found
