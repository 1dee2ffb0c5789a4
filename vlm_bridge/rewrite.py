"""One call, pruned: encode, choose, shorten. Shared by `prune_inputs` and `prune`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlm_bridge.budget import check_keep, token_counts
from vlm_bridge.cost import cost_of
from vlm_bridge.errors import BridgeError
from vlm_bridge.families import find_family, placeholder_id
from vlm_bridge.fold import cluster_means
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
from vlm_bridge.select import Request, as_tensor, check_finite, reconstruction_error, select_one
from vlm_bridge.signals import Live, Sources, captured_input


@dataclass(frozen=True)
class Settings:
    """What the caller asked for, checked before anything is touched."""

    keep: Any
    method: str
    relevance: Any = None
    positions: str = "keep"
    fold: bool = False
    tol: float | None = None
    processor: Any = None
    clip: Any = None
    given: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_keep(self.keep, self.tol)
        if self.positions not in POSITIONS:
            raise BridgeError(f"positions = {self.positions!r}: allowed are {', '.join(POSITIONS)}.")
        self.request()

    def request(self, scores: Tensor | None = None, signals: Mapping[str, Tensor] | None = None) -> Request:
        """The pruner's request for one image, or, without signals, one that names what it needs."""
        options = {k: v for k, v in self.given.items() if k not in SIGNALS}
        relevance = self.relevance
        if self.listed:
            relevance = torch.ones(1) if scores is None else scores
        return Request.of(self.method, relevance, {**options, **(signals or {})})

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


def rewrite(
    model: Any, inputs: Mapping[str, Any], settings: Settings, rng: np.random.Generator, report: Report
) -> Rewritten | None:
    """Prune the images of `inputs`, entering what was done in `report`; None when there are none.

    The report is written last, so that a call that fails leaves no half entry.
    """
    family = find_family(model)
    if not has_images(inputs):
        return None
    needs = settings.request().needs
    with captured_input(
        model, family, "clip_patches" in needs and "clip_patches" not in settings.given
    ) as tiles:
        encoded = encode(model, inputs)
    prompt = Prompt.of(model, inputs)
    sizes = [len(image) for image in encoded.images]
    places = prompt.places(sizes, placeholder_id(model))
    sources = Sources(
        {k: v for k, v in settings.given.items() if k in SIGNALS}, settings.processor, settings.clip
    )
    for i, (image, (row, _)) in enumerate(zip(encoded.images, places, strict=True)):
        check_finite(image, f"image {i} (row {row}): ")
    counts = token_counts(settings.keep, sizes, settings.tol)
    signals = Live(model, family, inputs, prompt, places, tiles, sources).gather(needs)
    picks, seconds = _choose(encoded.images, counts, signals, settings, rng)
    return _assemble(model, inputs, settings, report, encoded, prompt, places, picks, seconds)


def _choose(
    images: list[Tensor], counts: list[int], signals: list[dict[str, Tensor]], settings: Settings, rng: Any
) -> tuple[list[Tensor], list[float]]:
    """Ascending kept rows and seconds of every image."""
    picks, seconds = [], []
    generators = rng.spawn(len(images))
    for i, (image, k, scores) in enumerate(zip(images, counts, settings.scores(len(images)), strict=True)):
        start = perf_counter()
        try:
            request = settings.request(scores, signals[i])
            rows = image.detach()
            found = select_one(
                request, rows, k, request.weights(rows), settings.tol, generators[i], request.read(rows)[0]
            )
        except BridgeError as error:
            raise BridgeError(f"image {i}: {error}") from error
        picks.append(found.ascending()[0])
        seconds.append(perf_counter() - start)
    return picks, seconds


def _assemble(
    model: Any,
    inputs: Mapping[str, Any],
    settings: Settings,
    report: Report,
    encoded: Encoded,
    prompt: Prompt,
    places: list[tuple[int, Tensor]],
    picks: list[Tensor],
    seconds: list[float],
) -> Rewritten:
    """Shorten the prompt to the picks and write the report."""
    dropped = prompt.placeholders.clone()
    multiplicity = torch.ones(prompt.mask.shape, device=prompt.mask.device)
    rows = []
    for image, pick, (row, columns) in zip(encoded.images, picks, places, strict=True):
        chosen = image[pick.to(image.device)]
        stay = columns[pick.to(columns.device)]
        dropped[row, stay] = False
        if settings.fold:
            chosen, sizes = cluster_means(image, pick)
            multiplicity[row, stay] = sizes.to(multiplicity)
        rows.append(chosen)
    layout = Layout.of(prompt, dropped, settings.positions)
    new = shortened(inputs, layout, encoded, rows, padding_id(model, inputs, prompt.mask))
    bias = layout.gather(multiplicity, 1).log() if settings.fold else None

    report.errors += [
        reconstruction_error(image, pick) for image, pick in zip(encoded.images, picks, strict=True)
    ]
    report.kept += picks
    report.sizes += [len(image) for image in encoded.images]
    report.seconds += seconds
    report.rows += [row for row, _ in places]
    report.calls += 1
    visual = (sum(len(image) for image in encoded.images), sum(map(len, picks)))
    report.cost += cost_of(model, visual, prompt.mask.sum(1).tolist(), layout.mask.sum(1).tolist())
    return Rewritten(new, layout, bias, len(picks))
