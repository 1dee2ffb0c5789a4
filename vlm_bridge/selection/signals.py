"""Gather the signals of a live call: what a pruner reads beyond the features, for each image.

Signals that the caller gives come first. Otherwise text in the LLM's space is the prompt's rows of the embedding table, and
CLIP's joint space is reached through a CLIP model of the caller's, since LLaVA checkpoints carry neither CLIP's projections
nor its text tower.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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
    """What the caller gives for signals to be taken or computed from.

    Attributes
    ----------
    given : mapping
        Signals by name: one for each image, as a list or along a leading axis, or one for all.
    processor : optional
        The VLM's processor or tokenizer, which tells special tokens and decodes ids to text.
    clip : optional
        A ``CLIPModel`` whose vision tower is the VLM's, or a pair (model, tokenizer or processor).
    clean : callable, optional
        Maps the prompt's text to the text that relevance is measured against.
    """

    given: Mapping[str, Any] = field(default_factory=dict)
    processor: Any = None
    clip: Any = None
    clean: Callable[[str], str] | None = None

    @property
    def tokenizer(self) -> Any:
        """The VLM's tokenizer; None without a processor."""
        return getattr(self.processor, "tokenizer", self.processor)


@dataclass(frozen=True)
class Live:
    """A live call that signals are computed from."""

    model: Any
    family: Family
    inputs: Mapping[str, Any]
    prompt: Prompt
    visuals: list[Visual]
    towers: Mapping[Kind, Tower]
    sources: Sources

    def gather(self, request: Request) -> list[dict[str, Any]]:
        """Return the signals that `request` wants, as one mapping for each image; optional ones as far as available.

        Raises
        ------
        BridgeError
            A required signal is not available; the message names it, and the pruners that would work.
        """
        gathered: dict[str, list[Any]] = {}
        joins = patches_per_token(self.model, self.family) > 1
        for name in request.wants:
            if joins and name in request.pruner.unjoined and name not in self.sources.given:
                continue
            try:
                gathered[name] = self._signal(name)
            except BridgeError as error:
                if name in request.needs:
                    raise BridgeError(self._missing(request, name, error)) from error
        for values in gathered.values():
            for i, value in enumerate(values):
                if isinstance(value, Tensor):
                    values[i] = value.to(self.visuals[i].columns.device)
        return [{name: values[i] for name, values in gathered.items()} for i in range(len(self.visuals))]

    def tiles(self) -> list[Tensor]:
        """Return the tile of each row (n_i,) of each image; −1 for separators."""
        if self.family.pack is not anyres:
            return [visual.tiles for visual in self.visuals]
        tower = self.towers[IMAGE]
        rows, count = tower.signal("vision_clip"), tower.tiles
        marks = torch.arange(1, count + 1, dtype=torch.float64, device=rows.device)
        packed = self._packed(IMAGE, marks.repeat_interleave(len(rows) // count)[:, None])
        if any((image != image.round()).any() for image in packed):
            raise BridgeError(
                "keep = PerTile(...): the tiles of this image are interpolated into one grid, whose rows belong to no "
                "tile; use a token count or a share."
            )
        return [image[:, 0].long() - 1 for image in packed]

    def _signal(self, name: str) -> list[Any]:
        """Return one signal of every image, from the caller or from the model."""
        if self.sources.given.get(name) is not None:
            return per_image(name, self.sources.given[name], len(self.visuals))
        if name == "llm_text":
            return self._by_prompt(self._llm_text)
        if name == "clip_text":
            return self._by_prompt(self._clip_text)
        if name == "clip_patches":
            check_clip_tower(self.model, self.family)
            model, _ = clip_pair(self.sources.clip)
            return self._of_towers(lambda tower: clip_patch_embeds(model, tower.signal("vision_clip")))
        if name == "projector":
            project = projection(self.model, self.family)
            if project is None:
                raise BridgeError(
                    f"the model has no module {self.family.projector!r} that could be its projector"
                )
            return [project] * len(self.visuals)
        if name == "vision_cls":
            return self._cls_rows()
        if name == "frames":
            return self._frames()
        if name in CAPTURED:
            by_token = self._of_towers(lambda tower: tower.signal(name))
            if name in ("vision_clip", "vision_mean"):
                return by_token
            return [rows.transpose(0, 1) for rows in by_token]
        raise BridgeError(f"{name} is not known before the LLM runs")

    def _of_towers(self, read: Callable[[Tower], Tensor]) -> list[Tensor]:
        """Divide what `read` returns of a tower, (M, ...) for all its tokens, into images and videos (n_i, ...)."""
        kinds = dict.fromkeys(visual.kind for visual in self.visuals)
        of_kind = {kind: iter(self._packed(kind, read(self.towers[kind]))) for kind in kinds}
        return [next(of_kind[visual.kind]) for visual in self.visuals]

    def _packed(self, kind: Kind, rows: Tensor) -> list[Tensor]:
        """Divide rows (M, ...) of the tokens that the projector made into images."""
        tower = self.towers[kind]
        if self.family.pack is not None:
            tiles = rows.reshape(tower.tiles, -1, rows[0].numel())
            packed = self.family.pack(base_of(self.model), tiles, self.inputs)
            return [image.unflatten(1, rows.shape[1:]) for image in packed]
        images = [visual.rows for visual in self.visuals if visual.kind is kind]
        tower.check(torch.cat(images))
        return list(rows.split([len(image) for image in images]))

    def _frames(self) -> list[Tensor]:
        """Return the number of frames of each image (1) or video, as its tokens have them."""
        grid, pixels = (self.inputs.get(name) for name in ("video_grid_thw", "pixel_values_videos"))
        of_videos: Iterator[int] = iter(())
        if grid is not None:
            of_videos = iter(grid[:, 0].tolist())
        elif pixels is not None and pixels.ndim == 5:
            of_videos = iter([pixels.shape[1]] * len(pixels))
        counts = [1 if visual.kind is IMAGE else next(of_videos, 0) for visual in self.visuals]
        if 0 in counts:
            raise BridgeError("the frames of a video are not known")
        return [torch.tensor(float(count)) for count in counts]

    def _cls_rows(self) -> list[Tensor]:
        """Return the CLS row (d,) of each image, of its first tile where it has several."""
        if any(visual.kind is not IMAGE for visual in self.visuals):
            raise BridgeError("a video has no CLS row of its own")
        rows = self.towers[IMAGE].cls_rows()
        counts = self.family.count(base_of(self.model), self.inputs, len(rows))
        if len(counts) != len(self.visuals):
            raise BridgeError(f"there are CLS rows of {len(counts)} images, expected {len(self.visuals)}")
        return [tiles[0] for tiles in rows.split(counts)]

    def _missing(self, request: Request, name: str, error: BridgeError) -> str:
        """Word the message for a required signal that is not available, with the reason of this model."""
        have = []
        for other in SIGNALS:
            try:
                self._signal(other)
            except BridgeError:
                continue
            have.append(other)
        relevance = request.relevance if name in request.of_relevance else None
        return f"{missing_signals(request.pruner, [name], have, relevance)} Here {error}."

    def _by_prompt(self, read: Callable[[int], Tensor]) -> list[Tensor]:
        """Read each prompt once, and return what was read for each image in it."""
        prompts = {item: read(item) for item in dict.fromkeys(visual.item for visual in self.visuals)}
        return [prompts[visual.item] for visual in self.visuals]

    def _text_ids(self, item: int) -> Tensor:
        """Return the ids (M,) of a prompt's text, without special tokens."""
        ids = self.inputs.get("input_ids")
        if ids is None or ids.shape != self.prompt.mask.shape:
            raise BridgeError(
                "text relevance needs input_ids of the prompt's length beside inputs_embeds: pass them, or the signal"
            )
        ids = ids[item][(self.prompt.mask[item] & ~self.prompt.placeholders[item]).to(ids.device)]
        special = torch.tensor(sorted(special_ids(self.model, self.sources.processor)), device=ids.device)
        ids = ids[~torch.isin(ids, special)]
        if ids.numel() == 0:
            raise BridgeError(
                f"prompt {item} of the batch holds no text besides special tokens, so that nothing is relevant to it"
            )
        return ids

    def _llm_text(self, item: int) -> Tensor:
        """Embed a prompt's text (M, d) by the LLM's embedding table."""
        ids = self._text_ids(item)
        if self.sources.clean is not None:
            words = self.sources.tokenizer(self._text(item), add_special_tokens=False)["input_ids"]
            ids = torch.tensor(words, dtype=torch.long, device=ids.device)
        return self.model.get_input_embeddings()(ids).detach()

    def _clip_text(self, item: int) -> Tensor:
        """Embed a prompt's text (segments, d) in CLIP's joint space."""
        model, tokenizer = clip_pair(self.sources.clip)
        if tokenizer is None or self.sources.processor is None:
            raise BridgeError(
                "clip_text must be computed from the prompt: pass clip=(CLIPModel, tokenizer) and processor= "
                "(the VLM's, to read its ids), or pass clip_text= itself"
            )
        return clip_text_embeds(model, tokenizer, self._text(item))

    def _text(self, item: int) -> str:
        """Decode a prompt's text, and clean it where the caller asks for that."""
        if self.sources.tokenizer is None:
            raise BridgeError("clean= reads the prompt's text: pass processor=, the model's own")
        text = self.sources.tokenizer.decode(self._text_ids(item), skip_special_tokens=True)
        if self.sources.clean is None:
            return text
        cleaned = self.sources.clean(text)
        if not cleaned.strip():
            raise BridgeError(f"clean= left nothing of the prompt {text!r}: expected it to return some text")
        return cleaned


def clip_pair(clip: Any) -> tuple[Any, Any]:
    """Split the caller's ``clip=`` into (model, tokenizer or None)."""
    if clip is None:
        raise BridgeError(
            "the model has no CLIP text tower: pass clip=(CLIPModel, tokenizer) with the same vision tower, or "
            "clip_patches= and clip_text="
        )
    model, tokenizer = clip if isinstance(clip, (tuple, list)) else (clip, None)
    if not hasattr(model, "visual_projection"):
        raise BridgeError(
            f"clip=: expected a CLIPModel or a pair (CLIPModel, tokenizer), got {type(model).__name__}"
        )
    return model, getattr(tokenizer, "tokenizer", tokenizer)


def check_clip_tower(model: Any, family: Family) -> None:
    """Refuse a vision tower whose rows are no patches of CLIP."""
    kind = getattr(getattr(model.config, "vision_config", None), "model_type", "unknown")
    if kind != "clip_vision_model" or patches_per_token(model, family) > 1:
        raise BridgeError(
            f"the vision tower of {type(model).__name__} is of type {kind!r}, whose rows have no place in CLIP's joint "
            "space: pass clip_patches= and clip_text= yourself"
        )


@torch.no_grad()
def clip_patch_embeds(clip: Any, rows: Tensor) -> Tensor:
    """Map vision rows (..., d) to the joint space: post-layernorm, then projection, as in CDPruner."""
    norm, project = clip.vision_model.post_layernorm, clip.visual_projection
    width = project.in_features
    if rows.shape[-1] != width:
        raise BridgeError(
            f"vision rows have width {rows.shape[-1]}, those of the CLIP model {width}: expected a CLIP model with the "
            "model's own vision tower"
        )
    return project(norm(rows.to(norm.weight))).to(rows.device)


@torch.no_grad()
def clip_text_embeds(clip: Any, tokenizer: Any, text: str) -> Tensor:
    """Embed a prompt in the joint space (M, d), cut into M segments of the text tower's length as in CDPruner."""
    length = clip.config.text_config.max_position_embeddings
    ids = tokenizer(text, return_tensors="pt")["input_ids"][0]
    segments = -(-len(ids) // length)
    padded, mask = ids.new_zeros(segments * length), ids.new_zeros(segments * length)
    padded[: len(ids)], mask[: len(ids)] = ids, 1
    device = clip.device
    output = clip.get_text_features(
        input_ids=padded.reshape(segments, length).to(device),
        attention_mask=mask.reshape(segments, length).to(device),
    )
    return output if isinstance(output, Tensor) else output.pooler_output


def special_ids(model: Any, processor: Any) -> set[int]:
    """Collect the ids of special tokens: those of the configs, and the tokenizer's where a processor is given."""
    tokenizer = getattr(processor, "tokenizer", processor)
    special: set[int] = set(getattr(tokenizer, "all_special_ids", None) or ())
    for config in (model.config, model.config.get_text_config(), getattr(model, "generation_config", None)):
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            value = getattr(config, name, None)
            values = value if isinstance(value, (list, tuple)) else [value]
            special.update(one for one in values if isinstance(one, int))
    return special


def per_image(name: str, value: Any, images: int) -> list[Any]:
    """Divide a given signal among images: a list, a leading axis, or one for all."""
    if isinstance(value, (list, tuple)):
        if len(value) != images:
            raise BridgeError(
                f"{name} lists {len(value)} entries for {images} images: expected one for each."
            )
        return [as_tensor(name, v) for v in value]
    dimensions = SIGNALS[name]
    if dimensions is None:
        return [value] * images
    tensor = as_tensor(name, value)
    if tensor.ndim == dimensions:
        return [tensor] * images
    if tensor.ndim != dimensions + 1 or tensor.shape[0] != images:
        raise BridgeError(
            f"{name} of shape {tuple(tensor.shape)}: expected {dimensions} dimensions for all images, one "
            f"more in front of length {images}, or a list."
        )
    return list(tensor)
