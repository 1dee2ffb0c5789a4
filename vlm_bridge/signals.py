"""Signals of a live call: what a pruner reads beyond the features, gathered per image.

The caller's own signals come first. Otherwise text in the LLM's space is the prompt's rows of the embedding
table, and CLIP's joint space is reached through a CLIP model that the caller hands in, since LLaVA
checkpoints carry neither CLIP's projections nor its text tower.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vlm_bridge.errors import BridgeError
from vlm_bridge.families import Family, base_of
from vlm_bridge.inputs import Prompt
from vlm_bridge.pruners import PRUNERS
from vlm_bridge.pruners.plan import SIGNALS
from vlm_bridge.select import as_tensor


@dataclass(frozen=True)
class Sources:
    """Where signals may come from.

    Attributes
    ----------
    given : mapping
        Signals by name: one per image (list, or leading axis), or one for all.
    processor : optional
        The VLM's processor or tokenizer: drops special tokens, turns ids back into text.
    clip : optional
        A ``CLIPModel`` whose vision tower is the VLM's, or a pair (model, tokenizer or processor).
    """

    given: Mapping[str, Any] = field(default_factory=dict)
    processor: Any = None
    clip: Any = None


@contextmanager
def captured_input(model: Any, family: Family, wanted: bool) -> Iterator[list[Tensor]]:
    """Collect what the projector is given while the encoder runs: vision rows (tiles, n, d)."""
    seen: list[Tensor] = []
    projector = getattr(base_of(model), family.projector, None)
    if not wanted or not isinstance(projector, nn.Module):
        yield seen
        return
    handle = projector.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    try:
        yield seen
    finally:
        handle.remove()


@dataclass(frozen=True)
class Live:
    """A call in which signals are looked for."""

    model: Any
    family: Family
    inputs: Mapping[str, Any]
    prompt: Prompt
    places: list[tuple[int, Tensor]]
    tiles: list[Tensor]
    sources: Sources

    def gather(self, needs: tuple[str, ...]) -> list[dict[str, Tensor]]:
        """The signals named in `needs`, one mapping per image."""
        images = range(len(self.places))
        found: dict[str, list[Tensor]] = {}
        for name in dict.fromkeys([*needs, *(n for n in SIGNALS if self.sources.given.get(n) is not None)]):
            if self.sources.given.get(name) is not None:
                found[name] = per_image(name, self.sources.given[name], len(self.places))
            elif name == "llm_text":
                found[name] = self._by_row(self._llm_text)
            elif name == "clip_text":
                found[name] = self._by_row(self._clip_text)
            elif name == "clip_patches":
                found[name] = self._clip_patches()
        return [{name: values[i] for name, values in found.items()} for i in images]

    def _by_row(self, of_row: Any) -> list[Tensor]:
        rows = {row: of_row(row) for row in dict.fromkeys(row for row, _ in self.places)}
        return [rows[row] for row, _ in self.places]

    def _text_ids(self, row: int) -> Tensor:
        ids = self.inputs.get("input_ids")
        if ids is None or ids.shape != self.prompt.mask.shape:
            raise BridgeError(
                "text relevance needs input_ids, this call has inputs_embeds only; pass the signal."
            )
        ids = ids[row][(self.prompt.mask[row] & ~self.prompt.placeholders[row]).to(ids.device)]
        special = torch.tensor(sorted(special_ids(self.model, self.sources.processor)), device=ids.device)
        ids = ids[~torch.isin(ids, special)]
        if ids.numel() == 0:
            raise BridgeError(
                f"row {row} holds no text besides special tokens, so nothing can be relevant to it."
            )
        return ids

    def _llm_text(self, row: int) -> Tensor:
        return self.model.get_input_embeddings()(self._text_ids(row)).detach()

    def _clip_text(self, row: int) -> Tensor:
        model, tokenizer = clip_pair(self.sources.clip)
        if tokenizer is None or self.sources.processor is None:
            raise BridgeError(
                "clip_text must be computed from the prompt: pass clip=(CLIPModel, tokenizer) and processor= "
                "(the VLM's, to read its ids), or pass clip_text= itself."
            )
        reader = getattr(self.sources.processor, "tokenizer", self.sources.processor)
        return clip_text_embeds(
            model, tokenizer, reader.decode(self._text_ids(row), skip_special_tokens=True)
        )

    def _clip_patches(self) -> list[Tensor]:
        model, _ = clip_pair(self.sources.clip)
        if not self.tiles or self.family.pack is None:
            raise BridgeError(
                f"no vision rows to project for {self.family.model_type!r}: pass clip_patches=."
            )
        tiles = clip_patch_embeds(model, torch.cat(self.tiles))
        return self.family.pack(base_of(self.model), tiles, self.inputs)


def clip_pair(clip: Any) -> tuple[Any, Any]:
    """(model, tokenizer or None) of the caller's ``clip=``."""
    if clip is None:
        free = ", ".join(name for name, row in PRUNERS.items() if "clip_text" not in row.needs)
        raise BridgeError(
            "relevance in CLIP's joint space needs a CLIP text tower, which the model does not have: pass "
            "clip=(CLIPModel, tokenizer) with the same vision tower, or clip_patches= and clip_text=, or "
            f"choose a pruner that needs neither: {free}."
        )
    model, tokenizer = clip if isinstance(clip, (tuple, list)) else (clip, None)
    if not hasattr(model, "visual_projection"):
        raise BridgeError(
            f"clip= must be a CLIPModel or a pair (CLIPModel, tokenizer), not {type(model).__name__}."
        )
    return model, getattr(tokenizer, "tokenizer", tokenizer)


@torch.no_grad()
def clip_patch_embeds(clip: Any, rows: Tensor) -> Tensor:
    """Vision rows (tiles, n, d) in the joint space: post-layernorm, then projection, as in CDPruner."""
    norm, project = clip.vision_model.post_layernorm, clip.visual_projection
    width = project.in_features
    if rows.shape[-1] != width:
        raise BridgeError(
            f"vision rows have width {rows.shape[-1]}, the CLIP model's {width}: another tower."
        )
    return project(norm(rows.to(norm.weight)).to(project.weight)).to(rows.device)


@torch.no_grad()
def clip_text_embeds(clip: Any, tokenizer: Any, text: str) -> Tensor:
    """Joint-space embeddings (M, d) of a prompt, cut into segments of the tower's length as in CDPruner."""
    length = clip.config.text_config.max_position_embeddings
    ids = tokenizer(text, return_tensors="pt")["input_ids"][0]
    segments = -(-len(ids) // length)
    padded, mask = ids.new_zeros(segments * length), ids.new_zeros(segments * length)
    padded[: len(ids)], mask[: len(ids)] = ids, 1
    device = clip.visual_projection.weight.device
    found = clip.get_text_features(
        input_ids=padded.reshape(segments, length).to(device),
        attention_mask=mask.reshape(segments, length).to(device),
    )
    return found if isinstance(found, Tensor) else found.pooler_output


def special_ids(model: Any, processor: Any) -> set[int]:
    """Ids that are no words: the tokenizer's special ones where a processor is given, else the config's."""
    tokenizer = getattr(processor, "tokenizer", processor)
    found: set[int] = set(getattr(tokenizer, "all_special_ids", None) or ())
    for config in (model.config, model.config.get_text_config(), getattr(model, "generation_config", None)):
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            value = getattr(config, name, None)
            found |= (
                set(value)
                if isinstance(value, (list, tuple))
                else {value}
                if isinstance(value, int)
                else set()
            )
    return found


def per_image(name: str, value: Any, images: int) -> list[Any]:
    """A given signal for each of `images` images: a list, a leading axis, or one for all."""
    if isinstance(value, (list, tuple)):
        if len(value) != images:
            raise BridgeError(f"{name} lists {len(value)} entries for {images} images.")
        return [as_tensor(name, v) for v in value]
    dimensions = SIGNALS[name]
    if dimensions is None:
        return [value] * images
    tensor = as_tensor(name, value)
    if tensor.ndim == dimensions:
        return [tensor] * images
    if tensor.ndim != dimensions + 1 or tensor.shape[0] != images:
        raise BridgeError(
            f"{name} of shape {tuple(tensor.shape)}: expected {dimensions} dimensions for all images, "
            f"{images} along one more in front, or a list."
        )
    return list(tensor)
