"""Run a model's own encoder, and put chosen rows in place of its output."""

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
from vlm_bridge.model.families import (
    IMAGE,
    VIDEO,
    Kind,
    base_of,
    find_family,
    placeholder_id,
)


@dataclass(frozen=True)
class Encoded:
    """The encoder's output for one kind of input.

    Attributes
    ----------
    entries : list of Tensor (n_i, d)
        The visual rows as the encoder divides them: into images, tiles, videos or prompts, in placeholder order.
    planes : list of list of Tensor (n_i, d)
        For each of the decoder's first layers, rows that it adds behind that layer, divided likewise.
    output : ModelOutput
        The output itself.
    put : callable
        ``put(output, rows, planes)`` writes other rows into an output.
    stacked : bool
        Whether the model takes a tensor (entries, n, d) instead of a list.
    arguments : frozenset of str
        Names of the inputs that the encoder has consumed.
    sizes : list of int, optional
        Number of rows of each image or video, where they follow from the pixels.
    embeds : Tensor (B, L, d), optional
        Embeddings of the prompt with its images written in, of a model that takes images in no other way.
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
        """Return a copy of the output with other rows, as a list; a new one each time, since `generate` changes it."""
        output: Any = copy.copy(self.output)
        if any(field.default is MISSING for field in getattr(output, "__dataclass_fields__", {}).values()):
            # `generate` makes such an object from its rows alone, which timm's outputs do not allow.
            output = BaseModelOutputWithPooling()
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
            return "transformers does not find everything that its encoder returns, to cut it"
        return ""


def encode(model: Any, inputs: Mapping[str, Any], kind: Kind = IMAGE) -> Encoded:
    """Run the model's encoder of `kind` on the inputs that it names, as `generate` does.

    An output that the caller passes in ``mm_encoder_outputs`` is used as it is.

    Raises
    ------
    BridgeError
        The model takes no such input, its output cannot be cut, or both pixels and an output are passed.
    """
    rate = getattr(model.config, "video_pruning_rate", None)
    if kind is VIDEO and rate:
        raise BridgeError(
            f"{type(model).__name__} drops rows of a video by itself (config.video_pruning_rate = {rate}): set it to 0 to "
            "choose them here, or call the model outside the block."
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
        raise BridgeError(f"expected either pixels or mm_encoder_outputs[{kind.name!r}], got both.")
    entries, planes, put = _read(model, output)
    stay = inputs.get("video_compression_mask") if kind is VIDEO else None
    if stay is not None:  # VideoLLaMA 3 leaves out what hardly changes from frame to frame
        sizes = [len(rows) for rows in entries]
        entries = [
            rows[part] for rows, part in zip(entries, stay.to(entries[0].device).split(sizes), strict=True)
        ]
        names.append("video_compression_mask")
    for plane in planes:
        if [getattr(rows, "shape", ())[:1] for rows in plane] != [rows.shape[:1] for rows in entries]:
            raise BridgeError(
                f"{type(model).__name__} also feeds visual rows to later layers, and not as one list per layer of one "
                f"tensor per {kind.name}; these cannot be cut."
            )
    one = isinstance(getattr(output, "pooler_output", None), Tensor)
    counts = _sizes(model, inputs, kind, entries)
    return Encoded(entries, planes, output, put, one, frozenset(names), counts)


def _sizes(model: Any, inputs: Mapping[str, Any], kind: Kind, entries: list[Tensor]) -> list[int] | None:
    """Count the rows of each image or video by the family's rule; None without a rule or without pixels."""
    sizes, given = find_family(model).sizes, (inputs.get(name) for name in kind.pixels)
    pixels = next((one for one in given if one is not None), None)
    return None if sizes is None or pixels is None else sizes(pixels, inputs, sum(map(len, entries)))


def _written_in(model: Any, inputs: Mapping[str, Any], writer: str) -> Encoded:
    """Encode the images of a model that does so only while it writes them into a prompt's embeddings."""
    ids, base = inputs.get("input_ids"), base_of(model)
    if ids is None:
        raise BridgeError(
            f"{type(model).__name__} finds its images by input_ids: expected them among the inputs, got none."
        )
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
    """Write nothing, since there is no output."""


def _read(model: Any, output: Any) -> tuple[list[Tensor], list[list[Tensor]], Callable[..., None]]:
    """Read visual rows of each entry, rows for later layers, and the function that puts others in their place."""
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
    """Turn the lists of rows of `kinds` into the one tensor (entries, n, d) that the model expects."""
    new = dict(outputs)
    for name in kinds & new.keys():
        rows = new[name].pooler_output
        if not isinstance(rows, Tensor):
            same = len({len(r) for r in rows}) == 1
            rows = torch.stack(rows) if same else torch.cat(rows)[:, None]
            new[name] = copy.copy(new[name])
            new[name].pooler_output = rows
    return new
