"""One call, pruned: encode, choose, shorten. Shared by `prune_inputs` and `prune`."""

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

from vlm_bridge.budget import Part, PerTile, check_keep, parts_of
from vlm_bridge.errors import BridgeError
from vlm_bridge.model.encoding import Encoded, encode
from vlm_bridge.model.families import KINDS, Kind, anyres, find_family, separators_of
from vlm_bridge.model.layout import POSITIONS, Layout, check_window, padding_id, positions_of, shortened
from vlm_bridge.model.patches import patches_per_token, projection
from vlm_bridge.model.prompt import Prompt, Visual, has_visuals
from vlm_bridge.model.tower import watched
from vlm_bridge.pruners.plan import SIGNALS
from vlm_bridge.reporting.cost import cost_of
from vlm_bridge.reporting.report import Report
from vlm_bridge.selection.cache import Memory, fingerprint
from vlm_bridge.selection.choose import Choice, choose_all, reconstruction_error
from vlm_bridge.selection.fold import FOLDS, merged_rows
from vlm_bridge.selection.given import as_tensor, check_finite, signals_of_images
from vlm_bridge.selection.request import Request
from vlm_bridge.selection.signals import Live, Sources

SEPARATORS = ("prune", "keep")

_SPAWNING = threading.Lock()
"""NumPy counts what it has spawned without a lock: two calls could draw the same numbers."""


@dataclass(frozen=True)
class Settings:
    """What the caller asked for, checked before anything is touched."""

    keep: Any
    method: str
    relevance: Any = None
    positions: str = "keep"
    fold: bool | str = False
    tol: float | None = None
    processor: Any = None
    clip: Any = None
    clean: Callable[[str], str] | None = None
    separators: str = "prune"
    given: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_keep(self.keep, self.tol)
        for name, allowed in (("positions", POSITIONS), ("separators", SEPARATORS)):
            if getattr(self, name) not in allowed:
                raise BridgeError(f"{name} = {getattr(self, name)!r}: allowed are {', '.join(allowed)}.")
        if self.fold is True:
            object.__setattr__(self, "fold", "cluster")
        if self.fold and self.fold not in FOLDS:
            raise BridgeError(
                f"fold = {self.fold!r}: allowed are True, False, {', '.join(map(repr, FOLDS))}."
            )
        if self.clean is not None and not callable(self.clean):
            raise BridgeError(f"clean = {self.clean!r}: it must be a function of the prompt's text.")
        if self.fold and self.request().pruner.merges:
            raise BridgeError(f"pruner {self.method!r} merges tokens itself; use fold=False.")
        self.request()

    def request(self) -> Request:
        """The pruner's request; relevance scores are per image, and stand in it for all."""
        options = {k: v for k, v in self.given.items() if k not in SIGNALS}
        return Request.of(self.method, torch.ones(1) if self.listed else self.relevance, options)

    @property
    def listed(self) -> bool:
        """Whether `relevance` is scores, one row per image."""
        return isinstance(self.relevance, (list, tuple, np.ndarray, Tensor))

    def scores(self, images: int) -> list[Tensor | None]:
        """Relevance scores (n_i,) of each image where the caller gave them."""
        if not self.listed:
            return [None] * images
        given = self.relevance
        if not isinstance(given, (list, tuple)):
            tensor = as_tensor("relevance", given)
            given = list(tensor) if tensor.ndim == 2 else [tensor] * images
        if len(given) != images:
            raise BridgeError(f"relevance lists {len(given)} score vectors for {images} images.")
        return [as_tensor("relevance", one) for one in given]


@dataclass(frozen=True)
class Rewritten:
    """A pruned call.

    Attributes
    ----------
    inputs : dict
        With lists of rows in ``mm_encoder_outputs``.
    layout : Layout
    bias : Tensor (B, L'), optional
        log(cluster size) of folded tokens.
    stacked : frozenset of str
        Kinds of which the model takes one tensor instead of a list, see `stacked`.
    copied : mapping from a kind to callable
        ``copied[kind](copies)`` gives the encoder's answer for so many copies of each prompt, where `generate` does
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
    """What stays of one image or video.

    Attributes
    ----------
    indices : Tensor (k,)
        Ascending.
    rows : Tensor (k, d)
    planes : tuple of Tensor (k, d)
        For later layers.
    sizes : Tensor (k,), optional
        How many tokens each row stands for, where attention is told.
    coefficients : Tensor (k, n) or (k, n + 1), optional
        Of the tokens in the rows, where they are merged.
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
    """Prune what `inputs` show, entering what was done in `report`; None when they show nothing.

    `ahead` is how many tokens will follow the prompt; `memory` holds choices of earlier calls. The report is
    written last, so that a call that fails leaves no half entry.
    """
    family = find_family(model)
    if not has_visuals(inputs):
        return None
    request = settings.request()
    given = {k: v for k, v in settings.given.items() if k in SIGNALS and v is not None}
    per_tile = isinstance(settings.keep, PerTile)
    tiled = ("vision_clip",) if per_tile and family.pack is anyres else ()
    watch = tuple(name for name in request.wants if name not in given) + tiled
    encoded, towers = {}, {}
    for kind in KINDS:
        if kind.given(inputs):
            with watched(model, family, inputs, watch, kind) as towers[kind]:
                encoded[kind] = encode(model, inputs, kind)
    prompt = Prompt.of(model, inputs)
    visuals = prompt.visuals(model, family, encoded)
    for i, visual in enumerate(visuals):
        check_finite(visual.rows, f"{visual.kind.name} {i} (row {visual.row}): ")
    places, text_axis = positions_of(model, inputs, prompt)
    images = [visual.rows.detach() for visual in visuals]
    sources = Sources(given, settings.processor, settings.clip, settings.clean)
    live = Live(model, family, inputs, prompt, visuals, towers, sources)
    tiles = live.tiles() if per_tile else None
    parts = parts_of(settings.keep, images, settings.tol, [visual.row for visual in visuals], tiles)
    protected = [_protected(model, image, settings) for image in images]
    parts = [_without(part, protected) for part in parts]
    signals = live.gather(request)
    start = perf_counter()
    choices = _choose(request, images, signals, settings, parts, rng, memory)
    choices = [_with(choice, rows) for choice, rows in zip(choices, protected, strict=True)]
    seconds = perf_counter() - start
    # systems that merge rows of the tower merge tokens where the projector itself joins patches, as VisionZip does
    project = projection(model, family) if patches_per_token(model, family) == 1 else None
    kept = _kept(visuals, choices, signals, settings, request, project)
    dropped = prompt.placeholders
    for one, visual in zip(kept, visuals, strict=True):
        dropped[visual.row, visual.columns[one.indices.to(visual.columns.device)]] = False
    layout = Layout.of(prompt.mask, dropped, places, settings.positions, text_axis)
    check_window(model, layout, ahead)
    new, copied = _new_inputs(model, inputs, layout, prompt, encoded, visuals, kept)
    bias = _bias(layout, prompt, visuals, kept) if settings.fold else None

    sizes = [len(image) for image in images]
    reused = [choice.reused for choice in choices]
    work = sizes if all(reused) else [0 if again else n for n, again in zip(sizes, reused, strict=True)]
    counts = (sum(sizes), sum(len(one.indices) for one in kept))
    report.enter(
        cost_of(model, counts, prompt.mask.sum(1).tolist(), layout.mask.sum(1).tolist()),
        errors=[_error(image, one.indices, memory) for image, one in zip(images, kept, strict=True)],
        kept=[one.indices for one in kept],
        merges=[one.coefficients for one in kept],
        sizes=sizes,
        seconds=[seconds * n / sum(work) for n in work],
        reused=reused,
        rows=[visual.row for visual in visuals],
    )
    stacks = frozenset(kind.name for kind, answer in encoded.items() if answer.stacked)
    whole = next((answer.whole for answer in encoded.values() if answer.whole), "")
    return Rewritten(new, layout, bias, stacks, copied, whole)


def _protected(model: Any, image: Tensor, settings: Settings) -> Tensor:
    """Rows (s,) that stay whatever the pruner says."""
    if settings.separators == "prune":
        return torch.zeros(0, dtype=torch.int64)
    return separators_of(model, image).nonzero()[:, 0].cpu()


def _without(part: Part, protected: list[Tensor]) -> Part:
    """The part with rows that stay taken out, of its budget too."""
    rows = tuple((i, own[~torch.isin(own.cpu(), protected[i]).to(own.device)]) for i, own in part.rows)
    k = part.k - sum(len(own) for _, own in part.rows) + sum(len(own) for _, own in rows)
    if k < 1:
        raise BridgeError(
            f"keep = {part.k} of image {part.rows[0][0]}, but {part.k - k} of its rows are separators, which stay and "
            "count: keep more, or use separators='prune'."
        )
    return Part(rows, k)


def _with(choice: Choice, protected: Tensor) -> Choice:
    """The choice and the rows that stay, as they are."""
    if not len(protected):
        return choice
    merge = choice.merge
    if merge is not None:
        merge = torch.cat([merge, torch.nn.functional.one_hot(protected, merge.shape[1]).to(merge)])
    return replace(choice, indices=(*choice.indices, *protected.tolist()), merge=merge)


def _choose(
    request: Request,
    images: list[Tensor],
    signals: list[dict[str, Any]],
    settings: Settings,
    parts: list[Part],
    rng: np.random.Generator,
    memory: Memory | None,
) -> list[Choice]:
    """What to keep of every image; an error names the image."""
    factors, read = [], []
    for i, (image, scores) in enumerate(zip(images, settings.scores(len(images)), strict=True)):
        try:
            own = request if scores is None else replace(request, relevance=scores)
            factors.append(own.weights(image, signals[i]))
            read.append(signals_of_images(request.pruner.reads, signals[i], image)[0])
        except BridgeError as error:
            raise BridgeError(f"image {i}: {error}") from error
    with _SPAWNING:
        generators = rng.spawn(len(images))
    return choose_all(request, images, factors, read, parts, settings.tol, generators, memory)


def _error(image: Tensor, kept: Tensor, memory: Memory | None) -> float:
    """What the rows `kept` cannot reconstruct of `image`, reckoned once."""
    if memory is None:
        return reconstruction_error(image, kept)
    key = (fingerprint(image), fingerprint(kept))
    error = memory.recall(key)
    if error is None:
        error = reconstruction_error(image, kept)
        memory.store(key, error)
    return error


def _kept(
    visuals: list[Visual],
    choices: list[Choice],
    signals: list[dict[str, Any]],
    settings: Settings,
    request: Request,
    project: Callable[[Tensor], Tensor] | None,
) -> list[Kept]:
    """The rows that stay: as they were, merged by the pruner, or folded; those of later layers alike."""
    found = []
    for visual, choice, read in zip(visuals, choices, signals, strict=True):
        image = visual.rows
        indices, coefficients = choice.ascending()
        sizes = None
        if coefficients is not None:
            before = request.pruner.before_projector
            rows = merged_rows(image, indices, coefficients, read if before else {}, project)
        elif settings.fold:
            folded = FOLDS[str(settings.fold)](image, indices)
            rows, sizes, coefficients = folded.rows, folded.sizes, folded.coefficients
        else:
            rows = image[indices.to(image.device)]
        if coefficients is None:
            planes = tuple(plane[indices.to(plane.device)] for plane in visual.planes)
        else:
            planes = tuple(merged_rows(plane, indices, coefficients, {}, None) for plane in visual.planes)
        found.append(Kept(indices, rows, planes, sizes, coefficients))
    return found


def _new_inputs(
    model: Any,
    inputs: Mapping[str, Any],
    layout: Layout,
    prompt: Prompt,
    encoded: Mapping[Kind, Encoded],
    visuals: list[Visual],
    kept: list[Kept],
) -> tuple[dict[str, Any], dict[str, Callable[[int], Any]]]:
    """The inputs with what is kept in place of what was encoded; and what `generate` does not copy, as `Rewritten.copied`.

    One entry a prompt: when `generate` copies prompts, older releases do not keep the order of several.
    """
    outputs, embeds = {}, None
    copied: dict[str, Callable[[int], Any]] = {}
    for kind, answer in encoded.items():
        if answer.embeds is not None:
            embeds = answer.embeds.clone()
            for one, visual in zip(kept, visuals, strict=True):
                embeds[visual.row, visual.columns[one.indices.to(visual.columns.device)]] = one.rows
            continue
        prompts: dict[int, list[Kept]] = {}
        for one, visual in zip(kept, visuals, strict=True):
            if visual.kind is kind:
                prompts.setdefault(visual.row, []).append(one)
        rows = [torch.cat([one.rows for one in own]) for own in prompts.values()]
        planes = [
            [torch.cat([one.planes[layer] for one in own]) for own in prompts.values()]
            for layer in range(len(answer.planes))
        ]
        outputs[kind.name] = answer.replaced(rows, planes)
        if not answer.listed:
            copied[kind.name] = partial(_copied, answer, rows, planes)
    consumed = frozenset(name for answer in encoded.values() for name in answer.arguments)
    pad = padding_id(model, inputs, prompt.mask)
    new = shortened(inputs, layout, outputs, consumed, pad, embeds)
    embeds = new.get("inputs_embeds")
    if embeds is not None:  # padding must not look like a placeholder, as zeros may
        row = model.get_input_embeddings()(torch.tensor(pad, device=embeds.device)).to(embeds)
        new["inputs_embeds"] = torch.where((layout.source < 0).to(embeds.device)[..., None], row, embeds)
    return new, copied


def _copied(answer: Encoded, rows: list[Tensor], planes: list[list[Tensor]], copies: int) -> Any:
    """The encoder's answer for `copies` of each prompt, one behind the other."""

    def of(own: list[Tensor]) -> list[Tensor]:
        return [one for one in own for _ in range(copies)]

    return answer.replaced(of(rows), [of(plane) for plane in planes])


def _bias(layout: Layout, prompt: Prompt, visuals: list[Visual], kept: list[Kept]) -> Tensor:
    """log(how many tokens each of the new prompt stands for) (B, L')."""
    counts = torch.ones(prompt.mask.shape, device=prompt.mask.device)
    for one, visual in zip(kept, visuals, strict=True):
        if one.sizes is not None:
            counts[visual.row, visual.columns[one.indices.to(counts.device)]] = one.sizes.to(counts)
    return layout.gather(counts, 1).log()
