"""Prune the prompt of one call, for `prune` and `prune_inputs`: choose tokens of its encoded images, and shorten it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlm_bridge.errors import BridgeError
from vlm_bridge.live.encoded_call import EncodedCall, encode_call
from vlm_bridge.live.settings import Settings
from vlm_bridge.model.encoding import Encoded
from vlm_bridge.model.families import find_family
from vlm_bridge.model.layout import Layout, check_window, padding_id, shortened
from vlm_bridge.model.prompt import has_visuals
from vlm_bridge.reporting.cost import cost_of
from vlm_bridge.reporting.report import Report
from vlm_bridge.selection.cache import Memory, fingerprint
from vlm_bridge.selection.choose import Choice, choose_all, reconstruction_error
from vlm_bridge.selection.fold import FOLDS, merged_rows
from vlm_bridge.selection.given import signals_of_images

_SPAWNING = threading.Lock()
"""Held while generators are spawned: NumPy counts them without a lock, and two calls could draw the same numbers."""


@dataclass(frozen=True)
class Rewritten:
    """A pruned call.

    Attributes
    ----------
    inputs : dict
        Arguments of the pruned call; ``mm_encoder_outputs`` holds lists of rows.
    layout : Layout
    bias : Tensor (B, L'), optional
        log(cluster size) of folded tokens, in nats.
    stacked : frozenset of str
        Kinds of input of which the model takes one tensor instead of a list; see `vlm_bridge.model.encoding.stacked`.
    copied : mapping from a kind to callable
        ``copied[kind](copies)`` gives the encoder's output for that many copies of each prompt, where `generate` does
        not copy it.
    whole : str
        Why the prompt cannot be read in chunks; empty where it can.
    """

    inputs: dict[str, Any]
    layout: Layout
    bias: Tensor | None
    stacked: frozenset[str]
    copied: Mapping[str, Callable[[int], Any]] = field(default_factory=dict)
    whole: str = ""


@dataclass(frozen=True)
class Kept:
    """What remains of one image or video.

    Attributes
    ----------
    indices : Tensor (k,)
        Ascending indices of the kept tokens.
    rows : Tensor (k, d)
    planes : tuple of Tensor (k, d)
        Rows that the decoder adds behind its first layers.
    sizes : Tensor (k,), optional
        How many tokens each row stands for, where attention is weighted by it.
    coefficients : Tensor (k, n) or (k, n + 1), optional
        What merged rows are made of.
    """

    indices: Tensor
    rows: Tensor
    planes: tuple[Tensor, ...]
    sizes: Tensor | None = None
    coefficients: Tensor | None = None


def rewrite(
    model: Any,
    inputs: Mapping[str, Any],
    settings: Settings,
    rng: np.random.Generator,
    report: Report,
    ahead: int = 0,
    memory: Memory | None = None,
) -> Rewritten | None:
    """Prune the images and videos of a call, and enter what was done in `report`; None where it shows none.

    Parameters
    ----------
    model : PreTrainedModel
    inputs : mapping
        Arguments of the call; not modified.
    settings : Settings
    rng : numpy.random.Generator
        Image i draws from the i-th generator spawned from it.
    report : Report
        Written last, so that a call that fails leaves no half entry.
    ahead : int
        Number of tokens that may follow the prompt.
    memory : Memory, optional
        Choices of earlier calls.

    Raises
    ------
    BridgeError
        As in `prune`.
    """
    family = find_family(model)
    if not has_visuals(inputs):
        return None
    call = encode_call(model, family, inputs, settings)
    start = perf_counter()
    choices = _choose(call, settings, rng, memory)
    seconds = perf_counter() - start
    kept = _kept(call, choices, settings)
    layout = _layout(call, kept, settings.positions)
    check_window(model, layout, ahead)
    new, copied = _new_inputs(model, inputs, layout, call, kept)
    bias = _bias(layout, call, kept) if settings.fold else None

    sizes, reused = [len(image) for image in call.images], [choice.reused for choice in choices]
    work = sizes if all(reused) else [0 if again else n for n, again in zip(sizes, reused, strict=True)]
    counts = (sum(sizes), sum(len(one.indices) for one in kept))
    report.enter(
        cost_of(model, counts, call.prompt.mask.sum(1).tolist(), layout.mask.sum(1).tolist()),
        errors=[_error(image, one.indices, memory) for image, one in zip(call.images, kept, strict=True)],
        kept=[one.indices for one in kept],
        merges=[one.coefficients for one in kept],
        sizes=sizes,
        seconds=[seconds * n / sum(work) for n in work],
        reused=reused,
        rows=[visual.item for visual in call.visuals],
    )
    stacks = frozenset(kind.name for kind, output in call.encoded.items() if output.stacked)
    whole = next((output.whole for output in call.encoded.values() if output.whole), "")
    return Rewritten(new, layout, bias, stacks, copied, whole)


def _choose(
    call: EncodedCall, settings: Settings, rng: np.random.Generator, memory: Memory | None
) -> list[Choice]:
    """Choose what to keep of every image, protected rows included; errors name the image."""
    factors, read, request = [], [], call.request
    scores = settings.scores(len(call.visuals))
    for i, (image, given, signals) in enumerate(zip(call.images, scores, call.signals, strict=True)):
        try:
            weighing = request if given is None else replace(request, relevance=given)
            factors.append(weighing.weights(image, signals))
            read.append(signals_of_images(request.pruner.reads, signals, image)[0])
        except BridgeError as error:
            raise BridgeError(f"image {i}: {error}") from error
    with _SPAWNING:
        generators = rng.spawn(len(call.images))
    choices = choose_all(request, call.images, factors, read, call.parts, settings.tol, generators, memory)
    return [_with(choice, rows) for choice, rows in zip(choices, call.protected, strict=True)]


def _with(choice: Choice, protected: Tensor) -> Choice:
    """Add the protected rows, unchanged, to a choice."""
    if not len(protected):
        return choice
    merge = choice.merge
    if merge is not None:
        merge = torch.cat([merge, torch.nn.functional.one_hot(protected, merge.shape[1]).to(merge)])
    return replace(choice, indices=(*choice.indices, *protected.tolist()), merge=merge)


def _error(image: Tensor, kept: Tensor, memory: Memory | None) -> float:
    """Return the relative reconstruction error of an image from its rows `kept`, computed once for each image."""
    if memory is None:
        return reconstruction_error(image, kept)
    key = (fingerprint(image), fingerprint(kept))
    error = memory.recall(key)
    if error is None:
        error = reconstruction_error(image, kept)
        memory.store(key, error)
    return error


def _kept(call: EncodedCall, choices: list[Choice], settings: Settings) -> list[Kept]:
    """Form the rows that stay: unchanged, merged by the pruner, or folded; rows for later layers likewise."""
    kept = []
    for visual, choice, signals in zip(call.visuals, choices, call.signals, strict=True):
        image = visual.rows
        indices, coefficients = choice.ascending()
        sizes = None
        if coefficients is not None:
            before = call.request.pruner.before_projector
            rows = merged_rows(image, indices, coefficients, signals if before else {}, call.project)
        elif settings.fold:
            folded = FOLDS[str(settings.fold)](image, indices)
            rows, sizes, coefficients = folded.rows, folded.sizes, folded.coefficients
        else:
            rows = image[indices.to(image.device)]
        if coefficients is None:
            planes = tuple(plane[indices.to(plane.device)] for plane in visual.planes)
        else:
            planes = tuple(merged_rows(plane, indices, coefficients, {}, None) for plane in visual.planes)
        kept.append(Kept(indices, rows, planes, sizes, coefficients))
    return kept


def _layout(call: EncodedCall, kept: list[Kept], positions: str) -> Layout:
    """Lay out the prompt without the placeholders of dropped tokens."""
    dropped = call.prompt.placeholders
    for one, visual in zip(kept, call.visuals, strict=True):
        dropped[visual.item, visual.columns[one.indices.to(visual.columns.device)]] = False
    visuals = [(visual.item, visual.columns) for visual in call.visuals]
    return Layout.of(call.prompt.mask, dropped, call.positions, positions, visuals, call.text_axis)


def _new_inputs(
    model: Any, inputs: Mapping[str, Any], layout: Layout, call: EncodedCall, kept: list[Kept]
) -> tuple[dict[str, Any], dict[str, Callable[[int], Any]]]:
    """Put what is kept in place of what was encoded; return the inputs, and `Rewritten.copied`.

    The encoder's output gets one entry for each prompt: with several, older releases of transformers mix up their order
    when `generate` copies prompts.
    """
    outputs, embeds = {}, None
    copied: dict[str, Callable[[int], Any]] = {}
    for kind, output in call.encoded.items():
        if output.embeds is not None:
            embeds = output.embeds.clone()
            for one, visual in zip(kept, call.visuals, strict=True):
                embeds[visual.item, visual.columns[one.indices.to(visual.columns.device)]] = one.rows
            continue
        prompts: dict[int, list[Kept]] = {}
        for one, visual in zip(kept, call.visuals, strict=True):
            if visual.kind is kind:
                prompts.setdefault(visual.item, []).append(one)
        rows = [torch.cat([one.rows for one in shown]) for shown in prompts.values()]
        planes = [
            [torch.cat([one.planes[layer] for one in shown]) for shown in prompts.values()]
            for layer in range(len(output.planes))
        ]
        outputs[kind.name] = output.replaced(rows, planes)
        if not output.listed:
            copied[kind.name] = partial(_copied, output, rows, planes)
    consumed = frozenset(name for output in call.encoded.values() for name in output.arguments)
    pad = padding_id(model, inputs, call.prompt.mask)
    new = shortened(inputs, layout, outputs, consumed, pad, embeds)
    embeds = new.get("inputs_embeds")
    if embeds is not None:  # padding of zeros could equal the embedding of a placeholder
        padding = model.get_input_embeddings()(torch.tensor(pad, device=embeds.device)).to(embeds)
        new["inputs_embeds"] = torch.where((layout.source < 0).to(embeds.device)[..., None], padding, embeds)
    return new, copied


def _copied(output: Encoded, rows: list[Tensor], planes: list[list[Tensor]], copies: int) -> Any:
    """Return the encoder's output for `copies` of each prompt, copies of one prompt next to each other."""

    def repeated(entries: list[Tensor]) -> list[Tensor]:
        return [entry for entry in entries for _ in range(copies)]

    return output.replaced(repeated(rows), [repeated(plane) for plane in planes])


def _bias(layout: Layout, call: EncodedCall, kept: list[Kept]) -> Tensor:
    """Return log(number of tokens that each token of the new prompt stands for), (B, L')."""
    mask = call.prompt.mask
    counts = torch.ones(mask.shape, device=mask.device)
    for one, visual in zip(kept, call.visuals, strict=True):
        if one.sizes is not None:
            counts[visual.item, visual.columns[one.indices.to(counts.device)]] = one.sizes.to(counts)
    return layout.gather(counts, 1).log()
