"""Say where each model family keeps its visual tokens: a table with one entry for each family.

An entry holds what cannot be asked of the model: how patch embeddings are packed into rows, and what the entries of the
encoder's output are. A model without an entry works when it follows the common contract of transformers >= 5.18:

- ``get_image_features`` (and ``get_video_features``) whose ``pooler_output`` lists the visual rows in the order of their
  placeholders;
- one placeholder id for each row in ``input_ids``;
- positions that are 1-D or come from ``get_rope_index``;
- ``mm_encoder_outputs`` among the arguments of ``forward``.

The rest is asked of the model: multi-dimensional positions (``get_rope_index``), rows for later layers
(``deepstack_features``), separators (``image_newline``), windows (``config.layer_types``). PaliGemma counts positions from
one; rotary positions are relative, so that the common offset changes nothing.
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
    """A kind of visual input: images or videos.

    Attributes
    ----------
    name : str
        ``get_{name}_features`` encodes it, and ``mm_encoder_outputs[name]`` holds the output.
    pixels : tuple of str
        Names of the arguments that hold its pixels.
    ids : tuple of str
        Names of its placeholder id in the config.
    """

    name: str
    pixels: tuple[str, ...]
    ids: tuple[str, ...]

    def given(self, inputs: Mapping[str, Any]) -> bool:
        """Tell whether a call brings this kind, as pixels or encoded."""
        return self.encoded(inputs) is not None or any(inputs.get(name) is not None for name in self.pixels)

    def encoded(self, inputs: Mapping[str, Any]) -> Any:
        """Return the encoder's output where the caller passes it; None otherwise."""
        return (inputs.get("mm_encoder_outputs") or {}).get(self.name)


PIXELS = ("pixel_values", "pixel_values_images", "image_patches", "image_pixel_values")
"""Names of the arguments that hold the pixels of images."""
IMAGE = Kind("image", PIXELS, ("image_token_id", "image_token_index"))
VIDEO = Kind("video", ("pixel_values_videos",), ("video_token_id", "video_token_index"))
KINDS = (IMAGE, VIDEO)


@dataclass(frozen=True)
class Family:
    """What the bridge knows of a model family.

    Attributes
    ----------
    model_type : str
        ``config.model_type``.
    decoder : str
        Attribute path of the text decoder below the base model.
    projector : str
        Attribute path of the module that maps rows of the vision tower to the LLM's width.
    pack : callable, optional
        ``pack(base, tiles, inputs)`` turns the rows (T, n, d) of tiles into one tensor (n_i, d) for each image, in the
        order and number of its visual tokens; separator rows are zeros. Without it an image's tokens are those that the
        projector made, in its order.
    unit, video_unit : {"entry", "run", "near", "open", "close", "prompt"}
        What counts as one image, or video. ``"entry"``: an entry of the encoder's output. Where entries are tiles or
        frames: ``"run"``, an unbroken run of placeholders; ``"near"``, runs with at most one token between them;
        ``"open"``, runs up to the next one that follows the same token as the prompt's first run; ``"close"``, runs up to
        one that precedes the same token as the prompt's last run; ``"prompt"``, all runs of a prompt.
    sizes : callable, optional
        ``sizes(pixels, inputs, rows)`` returns how many of all `rows` belong to each image, or video, where a run may
        hold several since processors write no token between them. Without pixels `unit` decides.
    embeds : str
        Name of the module that writes images and sounds into a prompt's embeddings, of a model outside the contract.
        Its pruned prompt is passed as ``inputs_embeds``.
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
        """Return the number of tiles of each image, given the number of all."""
        return tiles_per_image(base, inputs) if self.pack is anyres else [1] * tiles


def anyres(base: Any, tiles: Tensor, inputs: Mapping[str, Any]) -> list[Tensor]:
    """Pack tiles as LLaVA-NeXT and OneVision do: base view, unpadded grid of tiles, a separator after each line of it."""
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
    """Divide rows equally among images, as for the pixels (images, tiles, ...) of Perception LM and Video-LLaVA."""
    return [rows // len(pixels)] * len(pixels)


def cropped(pixels: Tensor, inputs: Mapping[str, Any], rows: int) -> list[int]:
    """Count the rows of Phi-4's images: unpadded grid of crops, separator, whole image; each line ends with one more."""
    masks = inputs["image_attention_mask"].bool()
    side, size = masks.shape[-1] // 2, pixels.shape[-1]
    counts = []
    for mask, (height, width) in zip(masks, inputs["image_sizes"].view(-1, 2).tolist(), strict=True):
        down, across = height // size, width // size
        grid = mask[1 : down * across + 1, ::2, ::2].reshape(down, across, side, side)
        lines, columns = int(grid[:, 0, :, 0].sum()), int(grid[0, :, 0].sum())
        counts.append(lines * (columns + 1) + 1 + side * (side + 1))
    return counts


def tiles_per_image(base: Any, inputs: Mapping[str, Any]) -> list[int]:
    """Count the tiles of each image by the rule of the model's own file."""
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
    family.model_type: family
    for family in (
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


def find_family(model: Any) -> Family:
    """Return the model's family, a generic one for a model that follows the contract.

    Raises
    ------
    BridgeError
        The model has no ``get_image_features``, no ``mm_encoder_outputs`` (transformers < 5.18) or no placeholder id, or
        is an encoder-decoder.
    """
    check_contract(model)
    return _family(model)


def _family(model: Any) -> Family:
    """Look the model up in `FAMILIES` by its type, without a check."""
    kind = str(getattr(getattr(model, "config", None), "model_type", None))
    return FAMILIES.get(kind, Family(kind))


def check_contract(model: Any) -> None:
    """Refuse a model that does not follow the common contract of transformers >= 5.18."""
    name = type(model).__name__
    if _family(model).embeds:
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


def base_of(model: Any) -> Any:
    """Return the model below its language-model head."""
    base = getattr(model, "base_model", model)
    return base if isinstance(base, nn.Module) else model


def placeholder_id(model: Any, kind: Kind = IMAGE) -> int:
    """Return the id that stands in ``input_ids`` for a visual row."""
    configs = (model.config, getattr(model.config, "vision_config", None))
    ids = (getattr(config, name, None) for config in configs for name in kind.ids)
    token_id = next((token for token in ids if token is not None), None)
    if token_id is None:
        raise BridgeError(
            f"{type(model).__name__}.config has no {kind.ids[0]}, so placeholders cannot be found."
        )
    return int(token_id)


def separators_of(model: Any, rows: Tensor) -> Tensor:
    """Tell which of an image's rows (n, d) only end a line of its grid, or a video: (n,) bool."""
    newline = getattr(base_of(model), "image_newline", None)
    if not isinstance(newline, Tensor):
        return torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    return (rows == newline.to(rows)).all(-1)
