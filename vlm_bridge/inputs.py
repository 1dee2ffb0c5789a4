"""Rewriting a call's inputs: fewer placeholders, the chosen visual rows, the original positions.

Nothing of the model is touched. The shortened prompt and the encoder's chosen rows (``mm_encoder_outputs``)
are ordinary arguments of ``forward`` and ``generate``.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vlm_bridge.errors import BridgeError
from vlm_bridge.families import (
    IMAGE,
    KINDS,
    VIDEO,
    Family,
    Kind,
    base_of,
    find_family,
    layer_kinds,
    placeholder_id,
    window_of,
)

POSITIONS = ("keep", "compact")
_FILL = {"labels": -100, "inputs_embeds": 0, "per_layer_inputs": 0}


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
    put : callable
        ``put(output, rows, planes)`` writes others into a copy of the output.
    stacked : bool
        Whether the model takes a tensor (entries, n, d) instead of a list.
    arguments : frozenset of str
        Inputs that the encoder has consumed.
    sizes : list of int, optional
        Rows of each image or video, where the pixels tell.
    embeds : Tensor (B, L, d), optional
        The prompt with its images written in, of a model that is given nothing else.
    """

    entries: list[Tensor]
    planes: list[list[Tensor]]
    output: Any
    put: Callable[[Any, list[Tensor], list[list[Tensor]]], None]
    stacked: bool
    arguments: frozenset[str]
    sizes: list[int] | None = None
    embeds: Tensor | None = None

    def replaced(self, rows: list[Tensor], planes: Sequence[list[Tensor]]) -> Any:
        """The output with other rows: a new object, since `generate` changes it. Always with a list of rows."""
        output: Any = copy.copy(self.output)
        if any(field.default is MISSING for field in getattr(output, "__dataclass_fields__", {}).values()):
            output = (
                BaseModelOutputWithPooling()
            )  # timm's answer cannot be made of rows alone, as `generate` does
        self.put(output, rows, list(planes))
        return output

    @property
    def listed(self) -> bool:
        """Whether the rows lie where `generate` looks for them when it copies a prompt."""
        return getattr(self.output, "pooler_output", None) is not None or self.embeds is not None

    @property
    def whole(self) -> str:
        """Why a prompt with these rows cannot be read in chunks; empty where it can."""
        if self.embeds is not None:
            return "they are embeddings, and transformers would cut the token ids"
        beside = [
            name for name in self.output or () if name.endswith("_features") and name != "deepstack_features"
        ]
        if beside or not self.listed:
            return "transformers does not find all that its encoder gives, to cut it"
        return ""


def encode(model: Any, inputs: Mapping[str, Any], kind: Kind = IMAGE) -> Encoded:
    """Run the public encoder of `kind` with the arguments it names, as `generate` itself does."""
    rate = getattr(model.config, "video_pruning_rate", None)
    if kind is VIDEO and rate:
        raise BridgeError(
            f"{type(model).__name__} drops rows of a video by itself (config.video_pruning_rate = {rate}): set it to 0 to "
            "choose them here, or leave videos to it."
        )
    if find_family(model).embeds:
        return _written_in(model, inputs, find_family(model).embeds)
    name = f"get_{kind.name}_features"
    encoder: Any = getattr(base_of(model), name, None)
    pixels: dict[str, str] = {}
    if encoder is None and kind is VIDEO and VIDEO.pixels[0] in inspect.signature(model.forward).parameters:
        encoder = base_of(model).get_image_features  # Perception LM encodes frames as images
        pixels = {VIDEO.pixels[0]: IMAGE.pixels[0]}
    if encoder is None:
        raise BridgeError(f"{type(model).__name__} takes no {kind.name}: it has no {name}.")
    wanted = inspect.signature(encoder).parameters
    names = [
        name
        for name in inputs
        if name not in pixels.values() and pixels.get(name, name) in wanted and name != "kwargs"
    ]
    output = kind.encoded(inputs)
    if output is None:
        output = encoder(**{pixels.get(name, name): inputs[name] for name in names}, return_dict=True)
    elif any(inputs.get(name) is not None for name in kind.pixels):
        raise BridgeError(f"pass either pixels or mm_encoder_outputs[{kind.name!r}], not both.")
    entries, planes, put = _read(model, output)
    stay = inputs.get("video_compression_mask") if kind is VIDEO else None
    if stay is not None:  # VideoLLaMA 3 leaves out what hardly changes from frame to frame
        sizes = [len(rows) for rows in entries]
        entries = [
            rows[own] for rows, own in zip(entries, stay.to(entries[0].device).split(sizes), strict=True)
        ]
        names.append("video_compression_mask")
    for plane in planes:
        if [getattr(rows, "shape", ())[:1] for rows in plane] != [rows.shape[:1] for rows in entries]:
            raise BridgeError(
                f"{type(model).__name__} also feeds visual rows to later layers, and not as one list per layer of one "
                f"tensor per {kind.name}; these cannot be cut."
            )
    one = isinstance(getattr(output, "pooler_output", None), Tensor)
    told = _sizes(model, inputs, kind, entries)
    return Encoded(entries, planes, output, put, one, frozenset(names), told)


def _sizes(model: Any, inputs: Mapping[str, Any], kind: Kind, entries: list[Tensor]) -> list[int] | None:
    """Rows of each image or video, where the family tells them from pixels and there are any."""
    sizes, given = find_family(model).sizes, (inputs.get(name) for name in kind.pixels)
    pixels = next((one for one in given if one is not None), None)
    return None if sizes is None or pixels is None else sizes(pixels, inputs, sum(map(len, entries)))


def _written_in(model: Any, inputs: Mapping[str, Any], writer: str) -> Encoded:
    """The rows of a model that encodes images only while it writes them into a prompt's embeddings."""
    ids, base = inputs.get("input_ids"), base_of(model)
    if ids is None:
        raise BridgeError(f"{type(model).__name__} finds its images by input_ids: expected them, got none.")
    write = getattr(base, writer)
    names = [
        p for p in inspect.signature(write.forward).parameters if p not in ("input_ids", "inputs_embeds")
    ]
    given = {name: inputs[name] for name in names if inputs.get(name) is not None}
    embeds = write(ids, base.embed_tokens(ids), **given)
    rows = embeds[ids == placeholder_id(model)]
    sizes = _sizes(model, inputs, IMAGE, [rows])
    return Encoded([rows], [], None, _nothing, False, frozenset(names), sizes, embeds)


def _nothing(output: Any, rows: list[Tensor], planes: list[list[Tensor]]) -> None:
    """There is no output to write into."""


def _read(model: Any, output: Any) -> tuple[list[Tensor], list[list[Tensor]], Callable[..., None]]:
    """Visual rows of each entry, those for later layers, and how others are put in their place."""
    pooled, deep = getattr(output, "pooler_output", None), getattr(output, "deepstack_features", None) or ()
    if pooled is not None and not (isinstance(pooled, Tensor) and pooled.ndim != 3):

        def pool(output: Any, rows: list[Tensor], planes: list[list[Tensor]]) -> None:
            output.pooler_output = rows
            if planes:
                output.deepstack_features = planes

        return list(pooled), [list(plane) for plane in deep], pool
    if pooled is None and deep and all(isinstance(pair, tuple) and len(pair) == 2 for pair in deep):
        layers = [layer for layer, _ in deep]  # Granite 4: nothing but rows for layers, each with its number

        def stack(output: Any, rows: list[Tensor], planes: list[list[Tensor]]) -> None:
            output.deepstack_features = list(zip(layers, [rows, *planes], strict=True))

        return list(deep[0][1]), [list(rows) for _, rows in deep[1:]], stack
    hidden = getattr(output, "last_hidden_state", None)
    projector = getattr(base_of(model), "multi_modal_projector", None)
    if pooled is None and projector is None and isinstance(hidden, Tensor) and hidden.ndim == 2:

        def hide(output: Any, rows: list[Tensor], planes: list[list[Tensor]]) -> None:
            output.last_hidden_state = torch.cat(rows)

        return [hidden], [], hide  # Fuyu: patches of all images, one behind the other
    if pooled is None and projector is not None and isinstance(hidden, Tensor) and hidden.ndim == 3:

        def unproject(output: Any, rows: list[Tensor], planes: list[list[Tensor]]) -> None:
            output.last_hidden_state = torch.cat(planes[0])[None]

        return [projector(rows) for rows in hidden], [list(hidden)], unproject  # Llama 4: forward projects
    raise BridgeError(f"{type(model).__name__}: the encoder gives no list of visual rows per image.")


def stacked(outputs: Mapping[str, Any], kinds: frozenset[str]) -> dict[str, Any]:
    """The encoder outputs of a pruned call as the model wants them: of `kinds`, one tensor (entries, n, d)."""
    found = dict(outputs)
    for name in kinds & found.keys():
        rows = found[name].pooler_output
        if not isinstance(rows, Tensor):
            same = len({len(r) for r in rows}) == 1
            rows = torch.stack(rows) if same else torch.cat(rows)[:, None]
            found[name] = copy.copy(found[name])
            found[name].pooler_output = rows
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
    ids : Tensor (B, L), optional
        The tokens, where they are given.
    """

    of_kind: Mapping[str, Tensor]
    mask: Tensor
    ids: Tensor | None = None

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
        ids = inputs.get("input_ids")
        return cls(found, mask, ids if ids is not None and ids.shape == mask.shape else None)

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
        """Numbers of placeholders in each image or video; `unit` as in `Family`."""
        rows, columns = self.of_kind[kind.name].nonzero().T
        if unit == "prompt":
            return torch.unique_consecutive(rows, return_counts=True)[1].tolist()
        sizes = torch.unique_consecutive(_run(rows, columns), return_counts=True)[1].tolist()
        if unit == "run":
            return sizes
        runs = list(zip(rows.split(sizes), columns.split(sizes), strict=True))
        found: list[int] = []
        for i, (size, (row, own)) in enumerate(zip(sizes, runs, strict=True)):
            same = i > 0 and bool(runs[i - 1][0][0] == row[0])
            if same and self._joined(unit, int(row[0]), int(runs[i - 1][1][-1]), int(own[0]), rows, columns):
                found[-1] += size
            else:
                found.append(size)
        return found

    def _joined(self, unit: str, row: int, last: int, first: int, rows: Tensor, columns: Tensor) -> bool:
        """Whether runs that end at column `last` and begin at `first` are of one image."""
        if unit == "near":
            return first - last <= 2
        if self.ids is None:
            return False
        own = columns[rows == row]
        if unit == "open":
            return bool(self.ids[row, first - 1] != self.ids[row, int(own[0]) - 1])
        behind = int(own[-1]) + 1
        return behind < self.ids.shape[1] and bool(self.ids[row, last + 1] != self.ids[row, behind])

    def visuals(self, model: Any, family: Family, encoded: Mapping[Kind, Encoded]) -> list[Visual]:
        """What the encoders gave, image by image and video by video, in placeholder order."""
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
    if VIDEO.given(inputs) and not found[VIDEO.name].any() and found[IMAGE.name].any():
        found = _frames(model, inputs, found[IMAGE.name])
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


def _frames(model: Any, inputs: Mapping[str, Any], both: Tensor) -> dict[str, Tensor]:
    """Placeholders of images and videos of a model that shows frames with the placeholder of images, as GLM does."""
    ids, find = inputs.get("input_ids"), getattr(base_of(model), "get_placeholder_mask", None)
    if not IMAGE.given(inputs):
        return {IMAGE.name: torch.zeros_like(both), VIDEO.name: both}
    if ids is not None and find is not None and "video_features" in inspect.signature(find).parameters:
        like = torch.zeros(*ids.shape, 1, device=ids.device)
        image, video = (mask[..., 0] for mask in find(ids, like)[:2])
        if not (image & video).any():
            return {IMAGE.name: image, VIDEO.name: video}
    raise BridgeError(
        f"{type(model).__name__} shows frames of a video with the placeholder of images, and tells them apart in no "
        "way: expected images or videos in a call, got both."
    )


def positions_of(model: Any, inputs: Mapping[str, Any], prompt: Prompt) -> tuple[Tensor, bool]:
    """The positions that the unpruned model would use, (B, L) or (axes, B, L), and whether axis 0 turns nothing.

    The caller's, else those of the model's ``get_rope_index`` on the full prompt, else 0, 1, ... over real tokens.
    In front of time, height and width transformers wants a row of text positions, which no rotary embedding reads.
    """
    mask, given = prompt.mask, inputs.get("position_ids")
    rope = getattr(base_of(model), "get_rope_index", None)
    text = (mask.long().cumsum(-1) - 1).masked_fill(~mask, 0)
    if given is not None:
        given = given.to(mask.device)
        if given.ndim == 2:
            return given.expand(mask.shape), False
        if not callable(rope) or given.ndim != 3 or given.shape[0] not in (3, 4):
            raise BridgeError(f"position_ids of shape {tuple(given.shape)}: expected (B, L).")
        found = given.expand(-1, *mask.shape)
        if axes_of(model) == 4:
            return found, False
        return torch.cat([text[None], found[-3:]]), True
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
    found = rope(**{**arguments, "attention_mask": mask.long()})[0]
    if not isinstance(found, Tensor) or found.ndim != 3 or found.shape[1:] != mask.shape:
        raise BridgeError(f"{type(model).__name__}.get_rope_index gives no positions (axes, B, L).")
    found = found.to(mask.device)
    return (torch.cat([text[None], found]), True) if len(found) == 3 else (found, False)


def _as_named_there(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What Omni models call by one name in `forward` and by another in ``get_rope_index``."""
    found = {"second_per_grids": inputs.get("video_second_per_grid"), "audio_seqlens": None}
    if inputs.get("audio_feature_lengths") is not None:
        found["audio_seqlens"] = inputs["audio_feature_lengths"]
    elif inputs.get("feature_attention_mask") is not None:
        found["audio_seqlens"] = inputs["feature_attention_mask"].sum(1)
    return {name: value for name, value in found.items() if value is not None}


def axes_of(model: Any) -> int:
    """How many axes the model's rotary positions have: one, or as many as its ``mrope_section`` has parts."""
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    return len(rope.get("mrope_section") or (0,))


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
    positions : Tensor (B, L') or (axes, B, L')
    longest : int
        Real tokens of the longest original prompt.
    gaps : bool
        Whether positions skip what was dropped.
    text_axis : bool
        Whether axis 0 of the positions turns nothing, as in front of time, height and width.
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
        cls, real: Tensor, dropped: Tensor, places: Tensor, positions: str, text_axis: bool = False
    ) -> Layout:
        """Take the `dropped` columns out; padding stays on the side where it was, left by default.

        Parameters
        ----------
        real, dropped : Tensor (B, L) bool
        places : Tensor (B, L) or (axes, B, L)
            Original positions.
        positions : {"keep", "compact"}
        text_axis : bool
            Whether axis 0 of `places` turns nothing.
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
        elif text_axis:  # a gap in it would be read as the border of a packed sequence
            found = torch.cat([compact[None], found[1:]])
        found = found.masked_fill(~mask, 0)
        gaps = positions == "keep" and bool(dropped.any())
        return cls(source, length, mask.long(), found, int(real.sum(1).max()), gaps, text_axis)

    @property
    def dropped(self) -> int:
        """Columns fewer than before."""
        return self.length - self.source.shape[1]

    def following(self, start: int, count: int) -> Tensor:
        """Positions (B, count) or (axes, B, count) of tokens after the prompt, from the `start`-th on."""
        return following(self.positions, self.mask, self.text_axis, start, count)

    def positions_at(self, start: int, count: int, copies: int) -> Tensor:
        """Positions of the tokens `start` to `start + count` of prompt and answer, each prompt `copies` times."""
        behind = start + count - self.source.shape[1]
        found = self.following(max(behind - count, 0), min(max(behind, 0), count))
        if behind < count:
            found = torch.cat([self.positions[..., start : start + count], found], dim=-1)
        return found.repeat_interleave(copies, dim=-2)

    def gather(self, tensor: Tensor, fill: float) -> Tensor:
        """The columns of `tensor` (B, L, ...) that stay."""
        index = self.source.clamp(min=0).to(tensor.device)
        empty = (self.source < 0).to(tensor.device)
        extra = tensor.ndim - 2
        index = index.reshape(*index.shape, *[1] * extra).expand(*index.shape, *tensor.shape[2:])
        return tensor.gather(1, index).masked_fill(empty.reshape(*empty.shape, *[1] * extra), fill)


def following(places: Tensor, mask: Tensor, text_axis: bool, start: int, count: int) -> Tensor:
    """Positions (B, count) or (axes, B, count) of tokens after a prompt, from the `start`-th on.

    Behind the largest of all axes that turn; `places` (B, L) or (axes, B, L) and `mask` (B, L) are the prompt's.
    """
    last = (places * mask).amax(-1, keepdim=True)
    if last.ndim == 3:
        first = int(text_axis)
        last = torch.cat([last[:first], last[first:].amax(0, keepdim=True).expand(len(last) - first, -1, -1)])
    return last + 1 + torch.arange(start, start + count, device=last.device)


def check_window(model: Any, layout: Layout, ahead: int) -> None:
    """Refuse gaps where a sliding window, which is counted in tokens of the cache, would reach over them."""
    if layout.gaps and "minimax_m3_sparse" in layer_kinds(model):
        raise BridgeError(
            f"{type(model).__name__} has layers that choose blocks of keys by the positions of tokens, which must be their "
            "places in the cache: there can be no gaps. Use positions='compact', which counts both anew."
        )
    window, length = window_of(model), layout.longest + ahead
    if layout.gaps and window is not None and length > window:
        raise BridgeError(
            f"{type(model).__name__} has layers that see {window} tokens, and prompt and answer have {length}: behind "
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
    """The new inputs: everything of prompt length cut by `layout`, what the encoders read replaced by `outputs`.

    Or by `embeds` (B, L, d), the whole prompt's, which are cut alike.
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
