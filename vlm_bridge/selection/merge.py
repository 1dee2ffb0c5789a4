"""`merge_tokens`: what goes to the LLM instead of an image's tokens, without a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlm_bridge.errors import BridgeError
from vlm_bridge.pruners import find_pruner
from vlm_bridge.selection.fold import FOLDS, merged_rows
from vlm_bridge.selection.tokens import choose


@dataclass(frozen=True)
class Merged:
    """What one image became.

    Attributes
    ----------
    indices : Tensor (k,) of int64
        Ascending places of the tokens.
    rows : Tensor (k, d)
    coefficients : Tensor (k, n) or (k, n + 1)
        What the rows are made of: ``coefficients @ features``, or, of a pruner that merges in front of the
        projector, of the vision tower's rows (with its CLS row last where it is used).
    sizes : Tensor (k,)
        How many tokens each stands for; ones where the attention is not told.
    """

    indices: Tensor
    rows: Tensor
    coefficients: Tensor
    sizes: Tensor


def merge_tokens(
    features: Any,
    keep: Any,
    method: str = "spare",
    relevance: Any = None,
    *,
    fold: bool | str = False,
    tol: float | None = None,
    rng: Any = None,
    **signals: Any,
) -> list[Merged]:
    """Choose as `select_tokens` does, and form the tokens that stay.

    Parameters
    ----------
    fold : bool, "cluster" or "interpolation"
        As in `prune`: every selector has a merged twin.
    features, keep, method, relevance, tol, rng, **signals
        As in `select_tokens`. A pruner that merges in front of the projector needs `vision_clip` and
        `projector` for that; else it merges the features.

    Returns
    -------
    list of Merged, one per image

    Raises
    ------
    BridgeError
        As `select_tokens`; `fold` with a pruner that merges by itself.
    """
    way = "cluster" if fold is True else fold
    if way and way not in FOLDS:
        raise BridgeError(f"fold = {fold!r}: allowed are True, False, {', '.join(map(repr, FOLDS))}.")
    row = find_pruner(method)
    if way and row.merges:
        raise BridgeError(f"pruner {method!r} merges tokens itself; use fold=False.")
    features, read, choices = choose(features, keep, method, relevance, tol, rng, signals)
    images = features.reshape(-1, *features.shape[-2:])
    found = []
    for image, vision, choice in zip(images, read, choices, strict=True):
        indices, coefficients = choice.ascending()
        sizes = torch.ones(len(indices), device=image.device)
        if way:
            folded = FOLDS[str(way)](image, indices)
            found.append(Merged(indices, folded.rows, folded.coefficients, folded.sizes))
            continue
        if coefficients is None:
            coefficients = torch.nn.functional.one_hot(indices, len(image)).to(image)
        project = vision.get("projector", signals.get("projector")) if row.before_projector else None
        rows = merged_rows(image, indices, coefficients, vision if project else {}, project)
        found.append(Merged(indices, rows, coefficients, sizes))
    return found
