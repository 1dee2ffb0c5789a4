"""Shorten a prompt: which columns remain, at which positions, and the arguments that are cut with it.

The model is not touched: the shortened prompt and the chosen rows are ordinary arguments of ``forward`` and ``generate``.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlm_bridge.errors import BridgeError
from vlm_bridge.model.decoder import layer_kinds, window_of
from vlm_bridge.model.families import KINDS, base_of, placeholder_id
from vlm_bridge.model.prompt import Prompt

POSITIONS = ("keep", "compact")


_FILL = {"labels": -100, "inputs_embeds": 0, "per_layer_inputs": 0}


def positions_of(model: Any, inputs: Mapping[str, Any], prompt: Prompt) -> tuple[Tensor, bool]:
    """Return the positions that the unpruned model would use, and whether axis 0 is one of text positions.

    They are the caller's, else those of the model's ``get_rope_index`` on the full prompt, else 0, 1, ... over real tokens.
    In front of time, height and width transformers expects an axis of text positions, which no rotary embedding reads.

    Returns
    -------
    positions : Tensor (B, L) or (axes, B, L)
    text_axis : bool

    Raises
    ------
    BridgeError
        The call lacks what ``get_rope_index`` reads, or positions have another shape.
    """
    mask, given = prompt.mask, inputs.get("position_ids")
    rope = getattr(base_of(model), "get_rope_index", None)
    text = (mask.long().cumsum(-1) - 1).masked_fill(~mask, 0)
    if given is not None:
        given = given.to(mask.device)
        if given.ndim == 2:
            return given.expand(mask.shape), False
        if not callable(rope) or given.ndim != 3 or given.shape[0] not in (3, 4):
            raise BridgeError(
                f"position_ids of shape {tuple(given.shape)}: expected (B, L), or (axes, B, L) of a model with get_rope_index."
            )
        positions = given.expand(-1, *mask.shape)
        if axes_of(model) == 4:
            return positions, False
        return torch.cat([text[None], positions[-3:]]), True
    if not callable(rope):
        return text, False
    names = inspect.signature(rope).parameters
    known = {**inputs, **_as_named_there(inputs)}
    needed = ["input_ids", "mm_token_type_ids"]
    needed += [f"{kind.name}_grid_thw" for kind in KINDS if kind.given(inputs)]
    missing = [name for name in needed if name in names and known.get(name) is None]
    if missing:
        raise BridgeError(
            f"{type(model).__name__} places visual tokens on a grid, which is read from {', '.join(missing)}: pass what "
            "the processor gives, or position_ids."
        )
    arguments = {name: known[name] for name in names if known.get(name) is not None}
    positions = rope(**{**arguments, "attention_mask": mask.long()})[0]
    if not isinstance(positions, Tensor) or positions.ndim != 3 or positions.shape[1:] != mask.shape:
        raise BridgeError(f"{type(model).__name__}.get_rope_index gives no positions (axes, B, L).")
    positions = positions.to(mask.device)
    return (torch.cat([text[None], positions]), True) if len(positions) == 3 else (positions, False)


def _as_named_there(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the arguments that Omni models call by one name in `forward` and by another in ``get_rope_index``."""
    renamed = {"second_per_grids": inputs.get("video_second_per_grid"), "audio_seqlens": None}
    if inputs.get("audio_feature_lengths") is not None:
        renamed["audio_seqlens"] = inputs["audio_feature_lengths"]
    elif inputs.get("feature_attention_mask") is not None:
        renamed["audio_seqlens"] = inputs["feature_attention_mask"].sum(1)
    return {name: value for name, value in renamed.items() if value is not None}


def axes_of(model: Any) -> int:
    """Count the axes of the model's rotary positions: one, or as many as its ``mrope_section`` has parts."""
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    return len(rope.get("mrope_section") or (0,))


@dataclass(frozen=True)
class Layout:
    """Which columns of a prompt remain after pruning, and at which positions.

    Attributes
    ----------
    source : Tensor (B, L')
        Original column of each new one; −1 at padding.
    length : int
        L, the number of columns of the original prompt.
    mask : Tensor (B, L') of int64
        1 at tokens, 0 at padding.
    positions : Tensor (B, L') or (axes, B, L')
    longest : int
        Number of tokens of the longest original prompt, without padding.
    gaps : bool
        Whether positions skip those of dropped tokens.
    text_axis : bool
        Whether axis 0 of the positions holds text positions, which no rotary embedding reads.
    """

    source: Tensor
    length: int
    mask: Tensor
    positions: Tensor
    longest: int
    gaps: bool
    text_axis: bool = False

    @classmethod
    def of(
        cls,
        real: Tensor,
        dropped: Tensor,
        places: Tensor,
        positions: str,
        visuals: Sequence[tuple[int, Tensor]],
        text_axis: bool = False,
    ) -> Layout:
        """Take the `dropped` columns out; padding stays on the side where it was, on the left where there was none.

        Parameters
        ----------
        real, dropped : Tensor (B, L) bool
        places : Tensor (B, L) or (axes, B, L)
            Original positions.
        positions : {"keep", "compact"}
        visuals : sequence of (int, Tensor (n,))
            Item of the batch and columns of each image or video.
        text_axis : bool
            Whether axis 0 of `places` holds text positions.
        """
        stay = real & ~dropped
        length = real.shape[1]
        width = int(stay.sum(1).max()) if dropped.any() else length
        right = bool((~real[:, -1]).any()) and bool(real[:, 0].all())
        order = torch.argsort((~stay if right else stay).long(), dim=1, stable=True)
        order = order[:, :width] if right else order[:, length - width :]
        mask = stay.gather(1, order)
        source = torch.where(mask, order, -1)
        if positions == "compact":
            places = without_gaps(places.masked_fill(~real, -1), stay, visuals, text_axis)
        kept = places.gather(-1, order.expand(*places.shape[:-1], width))
        if text_axis:  # a gap in it would be read as the border of a packed sequence
            kept = torch.cat([mask.long().cumsum(-1)[None] - 1, kept[1:]])
        kept = kept.masked_fill(~mask, 0)
        gaps = positions == "keep" and bool(dropped.any())
        return cls(source, length, mask.long(), kept, int(real.sum(1).max()), gaps, text_axis)

    @property
    def dropped(self) -> int:
        """Number of columns that were taken out."""
        return self.length - self.source.shape[1]

    def following(self, start: int, count: int) -> Tensor:
        """Return positions (B, count) or (axes, B, count) of tokens after the prompt, from the `start`-th on."""
        return following(self.positions, self.mask, self.text_axis, start, count)

    def positions_at(self, start: int, count: int, copies: int) -> Tensor:
        """Return positions of tokens `start` to `start + count` of prompt and answer, each prompt `copies` times."""
        behind = start + count - self.source.shape[1]
        later = self.following(max(behind - count, 0), min(max(behind, 0), count))
        if behind < count:
            later = torch.cat([self.positions[..., start : start + count], later], dim=-1)
        return later.repeat_interleave(copies, dim=-2)

    def gather(self, tensor: Tensor, fill: float) -> Tensor:
        """Gather the columns of `tensor` (B, L, ...) that remain; padding is filled with `fill`."""
        index = self.source.clamp(min=0).to(tensor.device)
        empty = (self.source < 0).to(tensor.device)
        extra = tensor.ndim - 2
        index = index.reshape(*index.shape, *[1] * extra).expand(*index.shape, *tensor.shape[2:])
        return tensor.gather(1, index).masked_fill(empty.reshape(*empty.shape, *[1] * extra), fill)


def without_gaps(
    places: Tensor, stay: Tensor, visuals: Sequence[tuple[int, Tensor]], text_axis: bool = False
) -> Tensor:
    """Return positions of which none is left to tokens that were dropped.

    Up to the first image that lost tokens a prompt has its own positions. From there on tokens are counted one by one, on
    all axes alike, but for images that lost none: each has the shape of its own positions, from where the count stands.

    Parameters
    ----------
    places : Tensor (B, L) or (axes, B, L)
        Original positions; −1 at padding.
    stay : Tensor (B, L) bool
        Tokens that remain.
    visuals : sequence of (int, Tensor (n,))
        Item of the batch and columns of each image or video.
    text_axis : bool
        Whether axis 0 of `places` is to be left as it is.

    Examples
    --------
    >>> grid = torch.tensor([[[0, 1, 1, 1, 1, 3]], [[0, 1, 1, 2, 2, 3]]])  # a word, two by two tokens, a word
    >>> without_gaps(grid, torch.ones(1, 6).bool(), [(0, torch.arange(1, 5))])[:, 0].tolist()
    [[0, 1, 1, 1, 1, 3], [0, 1, 1, 2, 2, 3]]
    >>> without_gaps(grid, torch.tensor([[True] * 4 + [False, True]]), [(0, torch.arange(1, 5))])[:, 0].tolist()
    [[0, 1, 2, 3, 3, 4], [0, 1, 2, 3, 3, 4]]
    """
    axes = places.reshape(-1, *stay.shape)[int(text_axis) :]
    shaped = torch.ones_like(stay)
    spans = [(item, slice(int(columns.min()), int(columns.max()) + 1)) for item, columns in visuals]
    lost = [not bool(stay[item, columns].all()) for item, columns in visuals]
    for (item, span), some in zip(spans, lost, strict=True):
        if some:
            shaped[item, span.start :] = False
    whole = [place for place, some in zip(spans, lost, strict=True) if not some]
    for item, span in whole:
        shaped[item, span] = True
    front = axes.amax(0).cummax(-1).values
    steps = torch.where(shaped, front.diff(dim=-1, prepend=front.new_full((len(front), 1), -1)), stay.long())
    count = steps.cumsum(-1) - 1
    new = torch.where(shaped, axes + count - front, count)
    for item, span in whole:  # HunyuanVL counts columns and rows from 0 in every image
        fixed = axes[:, item, span.start] < front[item, span.start]
        new[fixed, item, span] = axes[fixed, item, span]
    return torch.cat([places[:1], new]) if text_axis else new.reshape(places.shape)


def following(places: Tensor, mask: Tensor, text_axis: bool, start: int, count: int) -> Tensor:
    """Return positions (B, count) or (axes, B, count) of tokens after a prompt, from the `start`-th on.

    They follow the largest position of all axes but the text axis; `places` (B, L) or (axes, B, L) are the prompt's
    positions, `mask` (B, L) its tokens.
    """
    last = (places * mask).amax(-1, keepdim=True)
    if last.ndim == 3:
        first = int(text_axis)
        last = torch.cat([last[:first], last[first:].amax(0, keepdim=True).expand(len(last) - first, -1, -1)])
    return last + 1 + torch.arange(start, start + count, device=last.device)


def check_window(model: Any, layout: Layout, ahead: int) -> None:
    """Refuse gaps in the positions where a layer counts tokens of the cache, as sliding windows do, and would reach too far."""
    if layout.gaps and "minimax_m3_sparse" in layer_kinds(model):
        raise BridgeError(
            f"{type(model).__name__} has layers that choose blocks of keys by the positions of tokens, which must be their "
            "places in the cache: there can be no gaps. Use positions='compact', which counts both anew."
        )
    window, length = window_of(model), layout.longest + ahead
    if layout.gaps and window is not None and length > window:
        raise BridgeError(
            f"{type(model).__name__} has layers that see {window} tokens, and prompt and answer have {length}: after "
            "a gap these layers would see further than before. Use positions='compact', which counts both anew."
        )
    config = model.config.get_text_config()
    turn = getattr(config, "original_max_position_embeddings", None)
    kind = (getattr(config, "rope_parameters", None) or {}).get("rope_type")
    if layout.gaps and kind == "longrope" and turn and layout.longest <= turn < length:
        raise BridgeError(
            f"{type(model).__name__} turns to other rotary frequencies after {turn} tokens, and starts its cache anew "
            f"there: with gaps that would come too late, and prompt and answer have {length}. Ask for a shorter answer, "
            "or use positions='compact'."
        )


def shortened(
    inputs: Mapping[str, Any],
    layout: Layout,
    outputs: Mapping[str, Any],
    consumed: frozenset[str],
    pad_id: int,
    embeds: Tensor | None = None,
) -> dict[str, Any]:
    """Cut everything of prompt length, and replace what the encoders read by their `outputs`.

    Or replace it by `embeds` (B, L, d), the embeddings of the whole prompt, which are cut likewise.
    """
    new = {name: value for name, value in inputs.items() if name not in consumed}
    types = {name: 0 for name in new if name.endswith("token_type_ids")}
    new.update({"inputs_embeds": embeds} if embeds is not None else {})
    for name, fill in {"input_ids": pad_id, **_FILL, **types}.items():
        value = new.get(name)
        if isinstance(value, Tensor) and value.ndim >= 2 and value.shape[1] == layout.length:
            new[name] = layout.gather(value, fill)
    new["attention_mask"] = layout.mask
    new["position_ids"] = layout.positions
    if embeds is None:
        new["mm_encoder_outputs"] = {**(inputs.get("mm_encoder_outputs") or {}), **outputs}
    return new


def padding_id(model: Any, inputs: Mapping[str, Any], mask: Tensor) -> int:
    """Return an id for padding, which is masked out: the one in use, else the model's, never the placeholder."""
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
