"""Find where the visual tokens of a call stand in its prompts, and which of them belong to one image or video."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlm_bridge.errors import BridgeError
from vlm_bridge.model.encoding import Encoded
from vlm_bridge.model.families import (
    IMAGE,
    KINDS,
    VIDEO,
    Family,
    Kind,
    base_of,
    placeholder_id,
)


def has_visuals(inputs: Mapping[str, Any]) -> bool:
    """Tell whether the call brings an image or a video."""
    return any(kind.given(inputs) for kind in KINDS)


def has_images(inputs: Mapping[str, Any]) -> bool:
    """Tell whether the call brings an image; refuse videos."""
    if VIDEO.given(inputs):
        raise BridgeError(
            "video inputs are not pruned inside the LLM yet; pass images only, use a pruner that acts before it, or "
            "run the call outside the context."
        )
    return IMAGE.given(inputs)


@dataclass(frozen=True)
class Visual:
    """An image or a video in a prompt.

    Attributes
    ----------
    kind : Kind
    item : int
        Index of the prompt in the batch.
    columns : Tensor (n,)
        Columns of the prompt at which its tokens stand.
    rows : Tensor (n, d)
        The visual rows that enter the LLM.
    planes : tuple of Tensor (n, d)
        Rows that the decoder adds behind its first layers.
    tiles : Tensor (n,)
        Number of the tile of each row: of the encoder's entry, and the unbroken run of placeholders, that it is in.
    """

    kind: Kind
    item: int
    columns: Tensor
    rows: Tensor
    planes: tuple[Tensor, ...]
    tiles: Tensor


@dataclass(frozen=True)
class Prompt:
    """The prompts of a call: real tokens, and placeholders of visual tokens.

    Attributes
    ----------
    of_kind : mapping from the name of a kind to Tensor (B, L) bool
        Where placeholders of the kind stand.
    mask : Tensor (B, L) bool
        True at tokens, false at padding.
    ids : Tensor (B, L), optional
        Ids of the tokens, where the call has them.
    """

    of_kind: Mapping[str, Tensor]
    mask: Tensor
    ids: Tensor | None = None

    @classmethod
    def of(cls, model: Any, inputs: Mapping[str, Any]) -> Prompt:
        """Read ``input_ids`` or ``inputs_embeds``, and ``attention_mask``, of a call."""
        found = _placeholders(model, inputs)
        like = found[IMAGE.name]
        given = inputs.get("attention_mask")
        if given is not None and tuple(given.shape) != tuple(like.shape):
            raise BridgeError(
                f"attention_mask of shape {tuple(given.shape)}: expected the prompt's, {tuple(like.shape)}."
            )
        mask = torch.ones_like(like) if given is None else given.to(like.device).bool()
        ids = inputs.get("input_ids")
        return cls(found, mask, ids if ids is not None and ids.shape == mask.shape else None)

    @property
    def placeholders(self) -> Tensor:
        """Placeholders (B, L) bool of all kinds."""
        return torch.stack(list(self.of_kind.values())).any(0)

    def places(self, sizes: list[int], token_id: int, kind: Kind = IMAGE) -> list[tuple[int, Tensor]]:
        """Return (batch item, columns (n_i,)) of every image of `sizes` rows, in the order of the placeholders.

        Raises
        ------
        BridgeError
            There are more or fewer placeholders than visual rows, or an image begins in one prompt and ends in another.
        """
        name = kind.name
        where = self.of_kind[name].nonzero()
        if len(where) != sum(sizes):
            raise BridgeError(
                f"the prompts hold {len(where)} placeholders (id {token_id}), the {name}s give {sum(sizes)} "
                f"visual rows ({sizes}); the processor and the {name}s do not match."
            )
        spans = []
        for i, span in enumerate(where.split(sizes)):
            if (span[:, 0] != span[0, 0]).any():
                raise BridgeError(
                    f"{name} {i} has {len(span)} visual rows, but the placeholders of batch item {int(span[0, 0])} "
                    f"end before them."
                )
            spans.append((int(span[0, 0]), span[:, 1]))
        return spans

    def units(self, kind: Kind, unit: str) -> list[int]:
        """Count the placeholders of each image or video; `unit` is as in `Family`."""
        items, columns = self.of_kind[kind.name].nonzero().T
        if unit == "prompt":
            return torch.unique_consecutive(items, return_counts=True)[1].tolist()
        sizes = torch.unique_consecutive(_run(items, columns), return_counts=True)[1].tolist()
        if unit == "run":
            return sizes
        runs = list(zip(items.split(sizes), columns.split(sizes), strict=True))
        counts: list[int] = []
        for i, (size, (item, here)) in enumerate(zip(sizes, runs, strict=True)):
            same = i > 0 and bool(runs[i - 1][0][0] == item[0])
            shown = columns[items == item[0]]
            if same and self._joined(unit, int(item[0]), int(runs[i - 1][1][-1]), int(here[0]), shown):
                counts[-1] += size
            else:
                counts.append(size)
        return counts

    def _joined(self, unit: str, item: int, last: int, first: int, shown: Tensor) -> bool:
        """Tell whether runs that end at column `last` and begin at `first` belong to one image.

        `shown` holds the columns of all placeholders of the item.
        """
        if unit == "near":
            return first - last <= 2
        if self.ids is None:
            return False
        if unit == "open":
            return bool(self.ids[item, first - 1] != self.ids[item, int(shown[0]) - 1])
        behind = int(shown[-1]) + 1
        return behind < self.ids.shape[1] and bool(self.ids[item, last + 1] != self.ids[item, behind])

    def visuals(self, model: Any, family: Family, encoded: Mapping[Kind, Encoded]) -> list[Visual]:
        """Divide the encoders' rows into images and videos, in the order of their placeholders."""
        found = []
        for kind, answer in encoded.items():
            sizes = [len(rows) for rows in answer.entries if len(rows)]
            entry = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes, dtype=torch.long))
            if max(sizes, default=1) == 1:  # Inkling: entries are single rows, and no tiles
                entry = torch.zeros_like(entry)
            unit = family.video_unit if kind is VIDEO else family.unit
            if unit != "entry" and self.of_kind[kind.name].sum() == sum(sizes):
                sizes = answer.sizes or self.units(kind, unit)
            places = self.places(sizes, placeholder_id(model, kind), kind)
            rows = torch.cat(answer.entries).split(sizes) if sizes else ()
            planes = [torch.cat(plane).split(sizes) for plane in answer.planes]
            for i, ((item, columns), tile) in enumerate(zip(places, entry.split(sizes), strict=True)):
                tiles = _run(tile.to(columns.device), columns)
                found.append(Visual(kind, item, columns, rows[i], tuple(p[i] for p in planes), tiles))
        return sorted(found, key=lambda visual: (visual.item, int(visual.columns[0])))


def _run(group: Tensor, column: Tensor) -> Tensor:
    """Find the unbroken runs of ascending columns, each within one group, and return the run of each column."""
    starts = torch.zeros_like(column)
    starts[1:] = (group.diff() != 0) | (column.diff() != 1)
    return starts.cumsum(0)


def _placeholders(model: Any, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Find the placeholders of each kind; in the embeddings where there are any, as the model does."""
    ids, embeds = inputs.get("input_ids"), inputs.get("inputs_embeds")
    test: Callable[[int], Tensor]
    if embeds is not None:
        table = model.get_input_embeddings()
        like = embeds[..., 0]

        def test(token: int) -> Tensor:
            return (embeds == table(torch.tensor(token, device=embeds.device)).to(embeds)).all(-1)
    elif ids is not None:
        like, test = ids, lambda token: ids == token
    else:
        raise BridgeError(
            "the inputs hold an image or video: expected input_ids or inputs_embeds with it, got neither."
        )
    none = torch.zeros_like(like, dtype=torch.bool)
    found = {
        kind.name: test(placeholder_id(model, kind)) if kind is IMAGE or kind.given(inputs) else none
        for kind in KINDS
    }
    if VIDEO.given(inputs) and not found[VIDEO.name].any() and found[IMAGE.name].any():
        found = _frames(model, inputs, found[IMAGE.name])
    if embeds is not None and ids is not None:
        _check_same_prompt(model, ids, found)
    return found


def _check_same_prompt(model: Any, ids: Tensor, of_embeds: Mapping[str, Tensor]) -> None:
    """Refuse ids beside embeddings of another prompt; where no grid is read, ids of another length are not used."""
    like = of_embeds[IMAGE.name]
    if ids.shape != like.shape:
        if callable(getattr(base_of(model), "get_rope_index", None)) or ids.shape[0] != like.shape[0]:
            raise BridgeError(
                f"input_ids of shape {tuple(ids.shape)} beside inputs_embeds of {tuple(like.shape)}: expected ids of the "
                "same prompts, by which the model places visual tokens."
            )
        return
    for kind in KINDS:
        of_ids = ids.to(like.device) == placeholder_id(model, kind) if of_embeds[kind.name].any() else None
        if of_ids is not None and (of_ids != of_embeds[kind.name]).any():
            raise BridgeError(
                f"input_ids and inputs_embeds disagree on where the {kind.name} is: {int(of_ids.sum())} placeholders (id "
                f"{placeholder_id(model, kind)}) in the ids, {int(of_embeds[kind.name].sum())} rows of its embedding, "
                "or at other places. Embed the same ids."
            )


def _frames(model: Any, inputs: Mapping[str, Any], both: Tensor) -> dict[str, Tensor]:
    """Tell images from videos in a model that marks both by the placeholder of images, as GLM does."""
    ids, find = inputs.get("input_ids"), getattr(base_of(model), "get_placeholder_mask", None)
    if not IMAGE.given(inputs):
        return {IMAGE.name: torch.zeros_like(both), VIDEO.name: both}
    if ids is not None and find is not None and "video_features" in inspect.signature(find).parameters:
        like = torch.zeros(*ids.shape, 1, device=ids.device)
        image, video = (mask[..., 0] for mask in find(ids, like)[:2])
        if not (image & video).any():
            return {IMAGE.name: image, VIDEO.name: video}
    raise BridgeError(
        f"{type(model).__name__} marks images and frames of a video by one placeholder and does not tell them apart: "
        "expected images or videos in a call, got both."
    )
