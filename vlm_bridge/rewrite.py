"""One call, pruned: encode, choose, shorten. Shared by `prune_inputs` and `prune`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlm_bridge.budget import Part, PerTile, check_keep, parts_of
from vlm_bridge.cost import cost_of
from vlm_bridge.errors import BridgeError
from vlm_bridge.families import find_family, placeholder_id
from vlm_bridge.fold import FOLDS, merged_rows
from vlm_bridge.inputs import (
    POSITIONS,
    Encoded,
    Layout,
    Prompt,
    encode,
    has_images,
    padding_id,
    shortened,
)
from vlm_bridge.pruners.plan import SIGNALS
from vlm_bridge.report import Report
from vlm_bridge.select import (
    Choice,
    Request,
    as_tensor,
    check_finite,
    choose_all,
    reconstruction_error,
    signals_of_images,
)
from vlm_bridge.signals import Live, Sources
from vlm_bridge.tower import projection, watched


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
    given: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_keep(self.keep, self.tol)
        if self.positions not in POSITIONS:
            raise BridgeError(f"positions = {self.positions!r}: allowed are {', '.join(POSITIONS)}.")
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
    layout : Layout
    bias : Tensor (B, L'), optional
        log(cluster size) of folded tokens.
    images : int
    """

    inputs: dict[str, Any]
    layout: Layout
    bias: Tensor | None
    images: int


@dataclass(frozen=True)
class Kept:
    """What stays of one image.

    Attributes
    ----------
    indices : Tensor (k,)
        Ascending.
    rows : Tensor (k, d)
    sizes : Tensor (k,), optional
        How many tokens each row stands for, where attention is told.
    coefficients : Tensor (k, n) or (k, n + 1), optional
        Of the tokens in the rows, where they are merged.
    """

    indices: Tensor
    rows: Tensor
    sizes: Tensor | None = None
    coefficients: Tensor | None = None


def rewrite(
    model: Any, inputs: Mapping[str, Any], settings: Settings, rng: np.random.Generator, report: Report
) -> Rewritten | None:
    """Prune the images of `inputs`, entering what was done in `report`; None when there are none.

    The report is written last, so that a call that fails leaves no half entry.
    """
    family = find_family(model)
    if not has_images(inputs):
        return None
    request = settings.request()
    given = {k: v for k, v in settings.given.items() if k in SIGNALS and v is not None}
    tiled = ("vision_clip",) if isinstance(settings.keep, PerTile) else ()
    watch = tuple(name for name in request.wants if name not in given) + tiled
    with watched(model, family, inputs, watch) as tower:
        encoded = encode(model, inputs)
    prompt = Prompt.of(model, inputs)
    places = prompt.places([len(image) for image in encoded.images], placeholder_id(model))
    for i, (image, (row, _)) in enumerate(zip(encoded.images, places, strict=True)):
        check_finite(image, f"image {i} (row {row}): ")
    images = [image.detach() for image in encoded.images]
    sources = Sources(given, settings.processor, settings.clip, settings.clean)
    live = Live(model, family, inputs, prompt, places, tower, sources)
    tiles = live.tiles() if tiled else None
    parts = parts_of(settings.keep, images, settings.tol, [row for row, _ in places], tiles)
    signals = live.gather(request)
    start = perf_counter()
    choices = _choose(request, images, signals, settings, parts, rng)
    seconds = perf_counter() - start
    kept = _kept(encoded.images, choices, signals, settings, request, projection(model, family))
    return _assemble(model, inputs, settings, report, encoded, prompt, places, kept, seconds)


def _choose(
    request: Request,
    images: list[Tensor],
    signals: list[dict[str, Any]],
    settings: Settings,
    parts: list[Part],
    rng: np.random.Generator,
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
    return choose_all(request, images, factors, read, parts, settings.tol, rng.spawn(len(images)))


def _kept(
    images: list[Tensor],
    choices: list[Choice],
    signals: list[dict[str, Any]],
    settings: Settings,
    request: Request,
    project: Callable[[Tensor], Tensor] | None,
) -> list[Kept]:
    """The rows that stay: as they were, merged by the pruner, or folded."""
    found = []
    for image, choice, read in zip(images, choices, signals, strict=True):
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
        found.append(Kept(indices, rows, sizes, coefficients))
    return found


def _assemble(
    model: Any,
    inputs: Mapping[str, Any],
    settings: Settings,
    report: Report,
    encoded: Encoded,
    prompt: Prompt,
    places: list[tuple[int, Tensor]],
    kept: list[Kept],
    seconds: float,
) -> Rewritten:
    """Shorten the prompt to what is kept and write the report."""
    dropped = prompt.placeholders.clone()
    multiplicity = torch.ones(prompt.mask.shape, device=prompt.mask.device)
    for one, (row, columns) in zip(kept, places, strict=True):
        stay = columns[one.indices.to(columns.device)]
        dropped[row, stay] = False
        if one.sizes is not None:
            multiplicity[row, stay] = one.sizes.to(multiplicity)
    layout = Layout.of(prompt, dropped, settings.positions)
    rows = [one.rows for one in kept]
    new = shortened(inputs, layout, encoded, rows, padding_id(model, inputs, prompt.mask))
    bias = layout.gather(multiplicity, 1).log() if settings.fold else None

    sizes = [len(image) for image in encoded.images]
    report.errors += [
        reconstruction_error(image, one.indices) for image, one in zip(encoded.images, kept, strict=True)
    ]
    report.kept += [one.indices for one in kept]
    report.merges += [one.coefficients for one in kept]
    report.sizes += sizes
    report.seconds += [seconds * n / sum(sizes) for n in sizes]
    report.rows += [row for row, _ in places]
    report.calls += 1
    visual = (sum(sizes), sum(len(one.indices) for one in kept))
    report.cost += cost_of(model, visual, prompt.mask.sum(1).tolist(), layout.mask.sum(1).tolist())
    return Rewritten(new, layout, bias, len(kept))
