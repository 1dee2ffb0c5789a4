"""Signals of a live call: what a pruner reads beyond the features, gathered per image.

The caller's own signals come first. Otherwise text in the LLM's space is the prompt's rows of the embedding
table, and CLIP's joint space is reached through a CLIP model that the caller hands in, since LLaVA
checkpoints carry neither CLIP's projections nor its text tower.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vlm_bridge.errors import BridgeError
from vlm_bridge.model.families import IMAGE, Family, Kind, anyres, base_of
from vlm_bridge.model.patches import patches_per_token, projection
from vlm_bridge.model.prompt import Prompt, Visual
from vlm_bridge.model.tower import CAPTURED, Tower
from vlm_bridge.pruners.plan import SIGNALS
from vlm_bridge.selection.given import as_tensor
from vlm_bridge.selection.request import Request, missing_signals


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
    clean : callable, optional
        From the prompt's text to the text that relevance is measured against.
    """

    given: Mapping[str, Any] = field(default_factory=dict)
    processor: Any = None
    clip: Any = None
    clean: Callable[[str], str] | None = None

    @property
    def tokenizer(self) -> Any:
        """The VLM's tokenizer; None where no processor was given."""
        return getattr(self.processor, "tokenizer", self.processor)


@dataclass(frozen=True)
class Live:
    """A call in which signals are looked for."""

    model: Any
    family: Family
    inputs: Mapping[str, Any]
    prompt: Prompt
    visuals: list[Visual]
    towers: Mapping[Kind, Tower]
    sources: Sources

    def gather(self, request: Request) -> list[dict[str, Any]]:
        """The signals that `request` wants, one mapping per image; those it can do without where they are.

        Raises
        ------
        BridgeError
            A signal that it needs cannot be had: what is missing, and which pruners would work.
        """
        found: dict[str, list[Any]] = {}
        joins = patches_per_token(self.model, self.family) > 1
        for name in request.wants:
            if joins and name in request.pruner.unjoined and name not in self.sources.given:
                continue
            try:
                found[name] = self._signal(name)
            except BridgeError as error:
                if name in request.needs:
                    raise BridgeError(self._missing(request, name, error)) from error
        for values in found.values():
            for i, value in enumerate(values):
                if isinstance(value, Tensor):
                    values[i] = value.to(self.visuals[i].columns.device)
        return [{name: values[i] for name, values in found.items()} for i in range(len(self.visuals))]

    def tiles(self) -> list[Tensor]:
        """Tile of each row (n_i,) of each image, −1 for separators."""
        if self.family.pack is not anyres:
            return [visual.tiles for visual in self.visuals]
        tower = self.towers[IMAGE]
        rows, count = tower.signal("vision_clip"), tower.tiles
        marks = torch.arange(1, count + 1, dtype=torch.float64, device=rows.device)
        packed = self._packed(IMAGE, marks.repeat_interleave(len(rows) // count)[:, None])
        if any((image != image.round()).any() for image in packed):
            raise BridgeError("PerTile: the tiles of this image are interpolated into one grid.")
        return [image[:, 0].long() - 1 for image in packed]

    def _signal(self, name: str) -> list[Any]:
        if self.sources.given.get(name) is not None:
            return per_image(name, self.sources.given[name], len(self.visuals))
        if name == "llm_text":
            return self._by_row(self._llm_text)
        if name == "clip_text":
            return self._by_row(self._clip_text)
        if name == "clip_patches":
            check_clip_tower(self.model, self.family)
            model, _ = clip_pair(self.sources.clip)
            return self._of_towers(lambda tower: clip_patch_embeds(model, tower.signal("vision_clip")))
        if name == "projector":
            project = projection(self.model, self.family)
            if project is None:
                raise BridgeError(f"no projector {self.family.projector!r} is known.")
            return [project] * len(self.visuals)
        if name == "vision_cls":
            return self._cls_rows()
        if name in CAPTURED:
            found = self._of_towers(lambda tower: tower.signal(name))
            if name in ("vision_clip", "vision_mean"):
                return found
            return [rows.mT if name == "cls_attention" else rows.transpose(0, 1) for rows in found]
        raise BridgeError(f"{name} is not known before the LLM runs.")

    def _of_towers(self, read: Callable[[Tower], Tensor]) -> list[Tensor]:
        """What is read of a tower, (M, ...) of all its tokens, for each image and video (n_i, ...)."""
        kinds = dict.fromkeys(visual.kind for visual in self.visuals)
        found = {kind: iter(self._packed(kind, read(self.towers[kind]))) for kind in kinds}
        return [next(found[visual.kind]) for visual in self.visuals]

    def _packed(self, kind: Kind, rows: Tensor) -> list[Tensor]:
        """Rows (M, ...) of the tokens that the projector made, image by image."""
        tower = self.towers[kind]
        if self.family.pack is not None:
            tiles = rows.reshape(tower.tiles, -1, rows[0].numel())
            packed = self.family.pack(base_of(self.model), tiles, self.inputs)
            return [image.unflatten(1, rows.shape[1:]) for image in packed]
        own = [visual.rows for visual in self.visuals if visual.kind is kind]
        tower.check(torch.cat(own))
        return list(rows.split([len(image) for image in own]))

    def _cls_rows(self) -> list[Tensor]:
        if any(visual.kind is not IMAGE for visual in self.visuals):
            raise BridgeError("a video has no CLS row of its own")
        rows = self.towers[IMAGE].cls_rows()
        counts = self.family.count(base_of(self.model), self.inputs, len(rows))
        if len(counts) != len(self.visuals):
            raise BridgeError(f"there are {len(counts)} CLS rows of {len(self.visuals)} images")
        return [tiles[0] for tiles in rows.split(counts)]

    def _missing(self, request: Request, name: str, error: BridgeError) -> str:
        have = []
        for other in SIGNALS:
            try:
                self._signal(other)
            except BridgeError:
                continue
            have.append(other)
        relevance = request.relevance if name in request.of_relevance else None
        return f"{missing_signals(request.pruner, [name], have, relevance)} Here {error}."

    def _by_row(self, of_row: Any) -> list[Tensor]:
        rows = {row: of_row(row) for row in dict.fromkeys(visual.row for visual in self.visuals)}
        return [rows[visual.row] for visual in self.visuals]

    def _text_ids(self, row: int) -> Tensor:
        ids = self.inputs.get("input_ids")
        if ids is None or ids.shape != self.prompt.mask.shape:
            raise BridgeError(
                "text relevance needs input_ids of the prompt's length beside inputs_embeds; pass them, or the signal."
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
        ids = self._text_ids(row)
        if self.sources.clean is not None:
            words = self.sources.tokenizer(self._text(row), add_special_tokens=False)["input_ids"]
            ids = torch.tensor(words, dtype=torch.long, device=ids.device)
        return self.model.get_input_embeddings()(ids).detach()

    def _clip_text(self, row: int) -> Tensor:
        model, tokenizer = clip_pair(self.sources.clip)
        if tokenizer is None or self.sources.processor is None:
            raise BridgeError(
                "clip_text must be computed from the prompt: pass clip=(CLIPModel, tokenizer) and processor= "
                "(the VLM's, to read its ids), or pass clip_text= itself"
            )
        return clip_text_embeds(model, tokenizer, self._text(row))

    def _text(self, row: int) -> str:
        if self.sources.tokenizer is None:
            raise BridgeError("clean= reads the prompt's text: pass processor=, the model's own.")
        text = self.sources.tokenizer.decode(self._text_ids(row), skip_special_tokens=True)
        if self.sources.clean is None:
            return text
        cleaned = self.sources.clean(text)
        if not cleaned.strip():
            raise BridgeError(f"clean= left nothing of the prompt {text!r}.")
        return cleaned


def clip_pair(clip: Any) -> tuple[Any, Any]:
    """(model, tokenizer or None) of the caller's ``clip=``."""
    if clip is None:
        raise BridgeError(
            "the model has no CLIP text tower: pass clip=(CLIPModel, tokenizer) with the same vision tower, or "
            "clip_patches= and clip_text="
        )
    model, tokenizer = clip if isinstance(clip, (tuple, list)) else (clip, None)
    if not hasattr(model, "visual_projection"):
        raise BridgeError(
            f"clip= must be a CLIPModel or a pair (CLIPModel, tokenizer), not {type(model).__name__}."
        )
    return model, getattr(tokenizer, "tokenizer", tokenizer)


def check_clip_tower(model: Any, family: Family) -> None:
    """Refuse a vision tower whose rows are not patches of CLIP."""
    kind = getattr(getattr(model.config, "vision_config", None), "model_type", "unknown")
    if kind != "clip_vision_model" or patches_per_token(model, family) > 1:
        raise BridgeError(
            f"the vision tower of {type(model).__name__} is of type {kind!r}, whose rows have no place in CLIP's joint "
            "space: pass clip_patches= and clip_text= of your own"
        )


@torch.no_grad()
def clip_patch_embeds(clip: Any, rows: Tensor) -> Tensor:
    """Vision rows (..., d) in the joint space: post-layernorm, then projection, as in CDPruner."""
    norm, project = clip.vision_model.post_layernorm, clip.visual_projection
    width = project.in_features
    if rows.shape[-1] != width:
        raise BridgeError(
            f"vision rows have width {rows.shape[-1]}, the CLIP model's {width}: another tower."
        )
    return project(norm(rows.to(norm.weight))).to(rows.device)


@torch.no_grad()
def clip_text_embeds(clip: Any, tokenizer: Any, text: str) -> Tensor:
    """Joint-space embeddings (M, d) of a prompt, cut into segments of the tower's length as in CDPruner."""
    length = clip.config.text_config.max_position_embeddings
    ids = tokenizer(text, return_tensors="pt")["input_ids"][0]
    segments = -(-len(ids) // length)
    padded, mask = ids.new_zeros(segments * length), ids.new_zeros(segments * length)
    padded[: len(ids)], mask[: len(ids)] = ids, 1
    device = clip.device
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
