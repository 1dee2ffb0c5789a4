"""Rewriting a call's inputs: fewer placeholders, the chosen visual rows, the original positions.

Nothing of the model is touched. The shortened prompt and the encoder's chosen rows (``mm_encoder_outputs``)
are ordinary arguments of ``forward`` and ``generate``.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlm_bridge.errors import BridgeError
from vlm_bridge.families import PIXELS, VIDEO, base_of, placeholder_id

POSITIONS = ("keep", "compact")
_FILL = {"token_type_ids": 0, "mm_token_type_ids": 0, "labels": -100, "inputs_embeds": 0}


def has_images(inputs: Mapping[str, Any]) -> bool:
    """Whether the call brings an image to prune; video is refused."""
    if any(inputs.get(name) is not None for name in VIDEO):
        raise BridgeError(
            "video inputs are not pruned yet; pass images only, or run the call outside the context."
        )
    given = (inputs.get("mm_encoder_outputs") or {}).get("image")
    return given is not None or any(inputs.get(name) is not None for name in PIXELS)


@dataclass(frozen=True)
class Encoded:
    """The encoder's answer: one (n_i, d) tensor per image, and what the model wants back.

    Attributes
    ----------
    images : list of Tensor (n_i, d)
    output : ModelOutput
    stacked : bool
        Whether the model expects a tensor (images, n, d) instead of a list.
    arguments : frozenset of str
        Inputs that the encoder has consumed.
    """

    images: list[Tensor]
    output: Any
    stacked: bool
    arguments: frozenset[str]

    def replaced(self, rows: list[Tensor]) -> Any:
        """The output with other rows, as the model wants it: a new object, since `generate` changes it."""
        pooled: Any = rows
        if self.stacked:
            same = len({len(r) for r in rows}) == 1
            pooled = torch.stack(rows) if same else torch.cat(rows)[None]
        return type(self.output)(pooler_output=pooled)


def encode(model: Any, inputs: Mapping[str, Any]) -> Encoded:
    """Run the public ``get_image_features`` with the arguments it names, as `generate` itself does."""
    encoder = base_of(model).get_image_features
    names = [p for p in inspect.signature(encoder).parameters if p != "kwargs" and p in inputs]
    output = (inputs.get("mm_encoder_outputs") or {}).get("image")
    if output is None:
        output = encoder(**{name: inputs[name] for name in names}, return_dict=True)
    elif any(inputs.get(name) is not None for name in PIXELS):
        raise BridgeError("pass either pixels or mm_encoder_outputs['image'], not both.")
    if getattr(output, "deepstack_features", None) is not None:
        raise BridgeError(
            f"{type(model).__name__} also feeds visual rows to later layers; that is not pruned yet."
        )
    pooled = output.pooler_output
    if pooled is None or (isinstance(pooled, Tensor) and pooled.ndim != 3):
        raise BridgeError(
            f"{type(model).__name__}.get_image_features gives no list of visual rows per image."
        )
    return Encoded(list(pooled), output, isinstance(pooled, Tensor), frozenset(names))


@dataclass(frozen=True)
class Prompt:
    """The text side of a call.

    Attributes
    ----------
    placeholders : Tensor (B, L) bool
    mask : Tensor (B, L) bool
        Real tokens.
    positions : Tensor (B, L)
        The positions the unpruned model would use: the caller's, else 0, 1, ... over real tokens.
    """

    placeholders: Tensor
    mask: Tensor
    positions: Tensor

    @classmethod
    def of(cls, model: Any, inputs: Mapping[str, Any]) -> Prompt:
        """Read ``input_ids`` or ``inputs_embeds``, ``attention_mask`` and ``position_ids``."""
        ids, embeds = inputs.get("input_ids"), inputs.get("inputs_embeds")
        if ids is not None and (embeds is None or ids.shape[1] == embeds.shape[1]):
            placeholders = ids == placeholder_id(model)
        elif embeds is not None:
            table = model.get_input_embeddings()
            marker = table(torch.tensor(placeholder_id(model), device=embeds.device))
            placeholders = (embeds == marker.to(embeds)).all(-1)
        else:
            raise BridgeError("inputs hold an image but neither input_ids nor inputs_embeds.")
        given = inputs.get("attention_mask")
        if given is not None and tuple(given.shape) != tuple(placeholders.shape):
            raise BridgeError(
                f"attention_mask of shape {tuple(given.shape)}: expected the prompt's, "
                f"{tuple(placeholders.shape)}."
            )
        mask = torch.ones_like(placeholders) if given is None else given.to(placeholders.device).bool()
        return cls(placeholders, mask, _positions(inputs.get("position_ids"), mask))

    def places(self, sizes: list[int], token_id: int) -> list[tuple[int, Tensor]]:
        """(row, columns (n_i,)) of every image, in placeholder order.

        Raises
        ------
        BridgeError
            As many placeholders as visual rows are needed, and no image may straddle two prompts.
        """
        where = self.placeholders.nonzero()
        if len(where) != sum(sizes):
            raise BridgeError(
                f"the prompts hold {len(where)} placeholders (id {token_id}), the images give {sum(sizes)} "
                f"visual rows ({sizes}); the processor and the images do not match."
            )
        spans = []
        for i, span in enumerate(where.split(sizes)):
            if (span[:, 0] != span[0, 0]).any():
                raise BridgeError(
                    f"image {i} has {len(span)} visual rows, but the placeholders of row {int(span[0, 0])} "
                    f"end before."
                )
            spans.append((int(span[0, 0]), span[:, 1]))
        return spans


def _positions(given: Tensor | None, mask: Tensor) -> Tensor:
    if given is None:
        return (mask.long().cumsum(-1) - 1).masked_fill(~mask, 0)
    if given.ndim != 2:
        raise BridgeError(f"position_ids of shape {tuple(given.shape)}: only (B, L) is pruned so far.")
    return given.to(mask.device).expand(mask.shape)


@dataclass(frozen=True)
class Layout:
    """How a pruned prompt lies in the original one.

    Attributes
    ----------
    source : Tensor (B, L')
        Original column behind each new one; −1 where there is padding.
    length : int
        L, columns of the original prompt.
    mask, positions : Tensor (B, L')
    """

    source: Tensor
    length: int
    mask: Tensor
    positions: Tensor

    @classmethod
    def of(cls, prompt: Prompt, dropped: Tensor, positions: str) -> Layout:
        """Take the `dropped` (B, L) columns out; padding stays on the side where it was, left by default."""
        stay = prompt.mask & ~dropped
        length = prompt.mask.shape[1]
        width = int(stay.sum(1).max()) if dropped.any() else length
        right = bool((~prompt.mask[:, -1]).any()) and bool(prompt.mask[:, 0].all())
        order = torch.argsort((~stay if right else stay).long(), dim=1, stable=True)
        order = order[:, :width] if right else order[:, length - width :]
        mask = stay.gather(1, order)
        source = torch.where(mask, order, -1)
        found = prompt.positions.gather(1, order)
        if positions == "compact":
            found = mask.long().cumsum(-1) - 1
        return cls(source, length, mask.long(), found.masked_fill(~mask, 0))

    @property
    def dropped(self) -> int:
        """Columns fewer than before."""
        return self.length - self.source.shape[1]

    @property
    def following(self) -> Tensor:
        """Position (B, 1) of the first token after the prompt."""
        return (self.positions * self.mask).amax(1, keepdim=True) + 1

    def gather(self, tensor: Tensor, fill: float) -> Tensor:
        """The columns of `tensor` (B, L, ...) that stay."""
        index = self.source.clamp(min=0).to(tensor.device)
        empty = (self.source < 0).to(tensor.device)
        extra = tensor.ndim - 2
        index = index.reshape(*index.shape, *[1] * extra).expand(*index.shape, *tensor.shape[2:])
        return tensor.gather(1, index).masked_fill(empty.reshape(*empty.shape, *[1] * extra), fill)


def shortened(
    inputs: Mapping[str, Any], layout: Layout, encoded: Encoded, rows: list[Tensor], pad_id: int
) -> dict[str, Any]:
    """The new inputs: everything of prompt length cut by `layout`, pixels replaced by the chosen `rows`."""
    new = {name: value for name, value in inputs.items() if name not in encoded.arguments}
    for name, fill in {"input_ids": pad_id, **_FILL}.items():
        value = new.get(name)
        if isinstance(value, Tensor) and value.ndim >= 2 and value.shape[1] == layout.length:
            new[name] = layout.gather(value, fill)
    others = {k: v for k, v in (inputs.get("mm_encoder_outputs") or {}).items() if k != "image"}
    new["attention_mask"] = layout.mask
    new["position_ids"] = layout.positions
    new["mm_encoder_outputs"] = {**others, "image": encoded.replaced(rows)}
    return new


def padding_id(model: Any, inputs: Mapping[str, Any], mask: Tensor) -> int:
    """An id for padding: the one in use, else the model's, never the placeholder. It is masked out anyway."""
    ids = inputs.get("input_ids")
    if isinstance(ids, Tensor) and ids.shape == mask.shape and (~mask).any():
        used = int(ids[~mask.to(ids.device)][0])
        if used != placeholder_id(model):
            return used
    for config in (getattr(model, "generation_config", None), model.config, model.config.get_text_config()):
        found = getattr(config, "pad_token_id", None)
        if isinstance(found, int) and found != placeholder_id(model):
            return found
    return 0 if placeholder_id(model) != 0 else 1
