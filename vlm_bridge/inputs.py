"""Rewriting a call's inputs: fewer placeholders, the chosen visual rows, the original positions.

Nothing of the model is touched. The shortened prompt and the encoder's chosen rows (``mm_encoder_outputs``)
are ordinary arguments of ``forward`` and ``generate``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlm_bridge.errors import BridgeError
from vlm_bridge.families import IMAGE, KINDS, VIDEO, Family, Kind, base_of, placeholder_id, window_of

POSITIONS = ("keep", "compact")
_FILL = {"token_type_ids": 0, "mm_token_type_ids": 0, "labels": -100, "inputs_embeds": 0}


def has_visuals(inputs: Mapping[str, Any]) -> bool:
    """Whether the call brings an image or a video."""
    return any(kind.given(inputs) for kind in KINDS)


def has_images(inputs: Mapping[str, Any]) -> bool:
    """Whether the call brings an image; video is refused."""
    if VIDEO.given(inputs):
        raise BridgeError(
            "video inputs are not pruned inside the LLM yet; pass images only, use a pruner that acts before it, or "
            "run the call outside the context."
        )
    return IMAGE.given(inputs)


@dataclass(frozen=True)
class Encoded:
    """The encoder's answer for one kind of input.

    Attributes
    ----------
    entries : list of Tensor (n_i, d)
        As the encoder divides its rows: into images, tiles, videos or prompts, in placeholder order.
    planes : list of list of Tensor (n_i, d)
        Rows that the decoder adds behind its first layers, divided alike.
    output : ModelOutput
    stacked : bool
        Whether the model takes a tensor (entries, n, d) instead of a list.
    arguments : frozenset of str
        Inputs that the encoder has consumed.
    """

    entries: list[Tensor]
    planes: list[list[Tensor]]
    output: Any
    stacked: bool
    arguments: frozenset[str]

    def replaced(self, rows: list[Tensor], planes: Sequence[list[Tensor]]) -> Any:
        """The output with other rows: a new object, since `generate` changes it. Always with a list of rows."""
        deep = {"deepstack_features": list(planes)} if self.planes else {}
        return type(self.output)(pooler_output=rows, **deep)


def encode(model: Any, inputs: Mapping[str, Any], kind: Kind = IMAGE) -> Encoded:
    """Run the public encoder of `kind` with the arguments it names, as `generate` itself does."""
    name = f"get_{kind.name}_features"
    encoder = getattr(base_of(model), name, None)
    if encoder is None:
        raise BridgeError(f"{type(model).__name__} takes no {kind.name}: it has no {name}.")
    names = [p for p in inspect.signature(encoder).parameters if p != "kwargs" and p in inputs]
    output = kind.encoded(inputs)
    if output is None:
        output = encoder(**{name: inputs[name] for name in names}, return_dict=True)
    elif any(inputs.get(name) is not None for name in kind.pixels):
        raise BridgeError(f"pass either pixels or mm_encoder_outputs[{kind.name!r}], not both.")
    pooled = output.pooler_output
    if pooled is None or (isinstance(pooled, Tensor) and pooled.ndim != 3):
        raise BridgeError(f"{type(model).__name__}.{name} gives no list of visual rows per {kind.name}.")
    entries = list(pooled)
    planes = [list(plane) for plane in getattr(output, "deepstack_features", None) or ()]
    for plane in planes:
        if [getattr(rows, "shape", ())[:1] for rows in plane] != [rows.shape[:1] for rows in entries]:
            raise BridgeError(
                f"{type(model).__name__} also feeds visual rows to later layers, and not as one list per layer of one "
                f"tensor per {kind.name}; these cannot be cut."
            )
    return Encoded(entries, planes, output, isinstance(pooled, Tensor), frozenset(names))


def stacked(outputs: Mapping[str, Any], kinds: frozenset[str]) -> dict[str, Any]:
    """The encoder outputs of a pruned call as the model wants them: of `kinds`, one tensor (entries, n, d)."""
    found = dict(outputs)
    for name in kinds & found.keys():
        rows = found[name].pooler_output
        if not isinstance(rows, Tensor):
            same = len({len(r) for r in rows}) == 1
            rows = torch.stack(rows) if same else torch.cat(rows)[:, None]
            found[name] = type(found[name])(**{**found[name], "pooler_output": rows})
    return found


@dataclass(frozen=True)
class Visual:
    """An image or a video in a prompt.

    Attributes
    ----------
    kind : Kind
    row : int
        Of the batch.
    columns : Tensor (n,)
        Of the prompt.
    rows : Tensor (n, d)
    planes : tuple of Tensor (n, d)
        Its rows for later layers.
    tiles : Tensor (n,)
        Of the encoder's entry, and of the unbroken run of placeholders, that each row stands in.
    """

    kind: Kind
    row: int
    columns: Tensor
    rows: Tensor
    planes: tuple[Tensor, ...]
    tiles: Tensor


@dataclass(frozen=True)
class Prompt:
    """The text side of a call.

    Attributes
    ----------
    of_kind : mapping from the name of a kind to Tensor (B, L) bool
        Placeholders.
    mask : Tensor (B, L) bool
        Real tokens.
    """

    of_kind: Mapping[str, Tensor]
    mask: Tensor

    @classmethod
    def of(cls, model: Any, inputs: Mapping[str, Any]) -> Prompt:
        """Read ``input_ids`` or ``inputs_embeds``, and ``attention_mask``."""
        found = _placeholders(model, inputs)
        like = found[IMAGE.name]
        given = inputs.get("attention_mask")
        if given is not None and tuple(given.shape) != tuple(like.shape):
            raise BridgeError(
                f"attention_mask of shape {tuple(given.shape)}: expected the prompt's, {tuple(like.shape)}."
            )
        mask = torch.ones_like(like) if given is None else given.to(like.device).bool()
        return cls(found, mask)

    @property
    def placeholders(self) -> Tensor:
        """(B, L) bool, of all kinds."""
        return torch.stack(list(self.of_kind.values())).any(0)

    def places(self, sizes: list[int], token_id: int, kind: Kind = IMAGE) -> list[tuple[int, Tensor]]:
        """(row, columns (n_i,)) of every image, in placeholder order.

        Raises
        ------
        BridgeError
            As many placeholders as visual rows are needed, and no image may straddle two prompts.
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
                    f"{name} {i} has {len(span)} visual rows, but the placeholders of row {int(span[0, 0])} "
                    f"end before."
                )
            spans.append((int(span[0, 0]), span[:, 1]))
        return spans

    def units(self, kind: Kind, unit: str) -> list[int]:
        """Numbers of placeholders in each unbroken run, or in each prompt that has any."""
        rows, columns = self.of_kind[kind.name].nonzero().T
        group = _run(rows, columns) if unit == "run" else rows
        return torch.unique_consecutive(group, return_counts=True)[1].tolist()

    def visuals(self, model: Any, family: Family, encoded: Mapping[Kind, Encoded]) -> list[Visual]:
        """What the encoders gave, image by image and video by video, in placeholder order."""
        found = []
        for kind, answer in encoded.items():
            sizes = [len(rows) for rows in answer.entries if len(rows)]
            entry = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes, dtype=torch.long))
            if family.unit != "entry" and self.of_kind[kind.name].sum() == sum(sizes):
                sizes = self.units(kind, family.unit)
            places = self.places(sizes, placeholder_id(model, kind), kind)
            rows = torch.cat(answer.entries).split(sizes) if sizes else ()
            planes = [torch.cat(plane).split(sizes) for plane in answer.planes]
            for i, ((row, columns), tile) in enumerate(zip(places, entry.split(sizes), strict=True)):
                tiles = _run(tile.to(columns.device), columns)
                found.append(Visual(kind, row, columns, rows[i], tuple(p[i] for p in planes), tiles))
        return sorted(found, key=lambda visual: (visual.row, int(visual.columns[0])))


def _run(group: Tensor, column: Tensor) -> Tensor:
    """Number of the unbroken run, inside of one group, that each of some places, in order, belongs to."""
    starts = torch.zeros_like(column)
    starts[1:] = (group.diff() != 0) | (column.diff() != 1)
    return starts.cumsum(0)


def _placeholders(model: Any, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Where each kind's placeholders are. The model looks for them in the embeddings where it is given any."""
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
        raise BridgeError("inputs hold an image but neither input_ids nor inputs_embeds.")
    none = torch.zeros_like(like, dtype=torch.bool)
    found = {
        kind.name: test(placeholder_id(model, kind)) if kind is IMAGE or kind.given(inputs) else none
        for kind in KINDS
    }
    if embeds is not None and ids is not None:
        _check_same_prompt(model, ids, found)
    return found


def _check_same_prompt(model: Any, ids: Tensor, of_embeds: Mapping[str, Tensor]) -> None:
    """Refuse ids beside embeddings of another prompt. Without a grid, ids of another length are a mere record."""
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


def positions_of(model: Any, inputs: Mapping[str, Any], prompt: Prompt) -> Tensor:
    """The positions that the unpruned model would use, (B, L) or (4, B, L): text, time, height and width.

    The caller's, else those of the model's ``get_rope_index`` on the full prompt, else 0, 1, ... over real tokens.
    """
    mask, given = prompt.mask, inputs.get("position_ids")
    rope = getattr(base_of(model), "get_rope_index", None)
    text = (mask.long().cumsum(-1) - 1).masked_fill(~mask, 0)
    if given is not None:
        given = given.to(mask.device)
        if given.ndim == 2:
            return given.expand(mask.shape)
        if not callable(rope) or given.ndim != 3 or given.shape[0] not in (3, 4):
            raise BridgeError(f"position_ids of shape {tuple(given.shape)}: expected (B, L).")
        return torch.cat([text[None], given[-3:].expand(3, *mask.shape)])
    if not callable(rope):
        return text
    names = inspect.signature(rope).parameters
    needed = ["input_ids", "mm_token_type_ids"]
    needed += [f"{kind.name}_grid_thw" for kind in KINDS if kind.given(inputs)]
    missing = [name for name in needed if name in names and inputs.get(name) is None]
    if missing:
        raise BridgeError(
            f"{type(model).__name__} places visual tokens on a grid, which is read from {', '.join(missing)}: pass what "
            "the processor gives, or position_ids."
        )
    arguments = {name: inputs[name] for name in names if inputs.get(name) is not None}
    found = rope(**{**arguments, "attention_mask": mask.long()})[0]
    if not isinstance(found, Tensor) or found.shape != (3, *mask.shape):
        raise BridgeError(f"{type(model).__name__}.get_rope_index gives no positions (3, B, L).")
    return torch.cat([text[None], found.to(mask.device)])


@dataclass(frozen=True)
class Layout:
    """How a pruned prompt lies in the original one.

    Attributes
    ----------
    source : Tensor (B, L')
        Original column behind each new one; −1 where there is padding.
    length : int
        L, columns of the original prompt.
    mask : Tensor (B, L')
    positions : Tensor (B, L') or (4, B, L')
    longest : int
        Real tokens of the longest original prompt.
    gaps : bool
        Whether positions skip what was dropped.
    """

    source: Tensor
    length: int
    mask: Tensor
    positions: Tensor
    longest: int
    gaps: bool

    @classmethod
    def of(cls, real: Tensor, dropped: Tensor, places: Tensor, positions: str) -> Layout:
        """Take the `dropped` columns out; padding stays on the side where it was, left by default.

        Parameters
        ----------
        real, dropped : Tensor (B, L) bool
        places : Tensor (B, L) or (4, B, L)
            Original positions.
        positions : {"keep", "compact"}
        """
        stay = real & ~dropped
        length = real.shape[1]
        width = int(stay.sum(1).max()) if dropped.any() else length
        right = bool((~real[:, -1]).any()) and bool(real[:, 0].all())
        order = torch.argsort((~stay if right else stay).long(), dim=1, stable=True)
        order = order[:, :width] if right else order[:, length - width :]
        mask = stay.gather(1, order)
        source = torch.where(mask, order, -1)
        compact = mask.long().cumsum(-1) - 1
        found = places.gather(-1, order.expand(*places.shape[:-1], width))
        if positions == "compact":
            found = compact.expand_as(found)
        elif (
            found.ndim == 3
        ):  # a gap in the text row, which turns nothing, would be read as a packed sequence
            found = torch.cat([compact[None], found[1:]])
        found = found.masked_fill(~mask, 0)
        gaps = positions == "keep" and bool(dropped.any())
        return cls(source, length, mask.long(), found, int(real.sum(1).max()), gaps)

    @property
    def dropped(self) -> int:
        """Columns fewer than before."""
        return self.length - self.source.shape[1]

    def following(self, start: int, count: int) -> Tensor:
        """Positions (B, count) or (4, B, count) of tokens after the prompt, from the `start`-th on."""
        last = (self.positions * self.mask).amax(-1, keepdim=True)
        if last.ndim == 3:
            last = torch.cat([last[:1], last[1:].amax(0, keepdim=True).expand(3, -1, -1)])
        return last + 1 + torch.arange(start, start + count, device=last.device)

    def gather(self, tensor: Tensor, fill: float) -> Tensor:
        """The columns of `tensor` (B, L, ...) that stay."""
        index = self.source.clamp(min=0).to(tensor.device)
        empty = (self.source < 0).to(tensor.device)
        extra = tensor.ndim - 2
        index = index.reshape(*index.shape, *[1] * extra).expand(*index.shape, *tensor.shape[2:])
        return tensor.gather(1, index).masked_fill(empty.reshape(*empty.shape, *[1] * extra), fill)


def check_window(model: Any, layout: Layout, ahead: int) -> None:
    """Refuse gaps where a sliding window, which is counted in tokens of the cache, would reach over them."""
    window, length = window_of(model), layout.longest + ahead
    if layout.gaps and window is not None and length > window:
        raise BridgeError(
            f"{type(model).__name__} has layers that see {window} tokens, and prompt and answer have {length}: behind "
            "a gap these layers would see further than before. Use positions='compact', which counts both anew."
        )


def shortened(
    inputs: Mapping[str, Any],
    layout: Layout,
    outputs: Mapping[str, Any],
    consumed: frozenset[str],
    pad_id: int,
) -> dict[str, Any]:
    """The new inputs: everything of prompt length cut by `layout`, what the encoders read replaced by `outputs`."""
    new = {name: value for name, value in inputs.items() if name not in consumed}
    for name, fill in {"input_ids": pad_id, **_FILL}.items():
        value = new.get(name)
        if isinstance(value, Tensor) and value.ndim >= 2 and value.shape[1] == layout.length:
            new[name] = layout.gather(value, fill)
    new["attention_mask"] = layout.mask
    new["position_ids"] = layout.positions
    new["mm_encoder_outputs"] = {**(inputs.get("mm_encoder_outputs") or {}), **outputs}
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
