"""Form the tokens that go to the LLM in place of an image's, without a model: `merge_tokens`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlm_bridge.pruners import find_pruner
from vlm_bridge.selection.fold import FOLDS, fold_name, merged_rows
from vlm_bridge.selection.given import signals_and_options
from vlm_bridge.selection.tokens import choose


@dataclass(frozen=True)
class Merged:
    """The tokens that one image has become.

    Attributes
    ----------
    indices : Tensor (k,) of int64
        Ascending indices of the tokens at whose places the rows stand.
    rows : Tensor (k, d)
    coefficients : Tensor (k, n) or (k, n + 1)
        ``rows = coefficients @ features``. Where a pruner merges in front of the projector, the coefficients are those
        of the vision tower's rows, with its CLS row last where it is used.
    sizes : Tensor (k,)
        Number of tokens that each row stands for where attention is weighted by it, else ones.
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
        As in `select_tokens`. A pruner that merges in front of the projector needs the signals `vision_clip` and
        `projector` for that; without them it merges the features.

    Returns
    -------
    list of Merged, one per image

    Raises
    ------
    BridgeError
        As in `select_tokens`; also `fold` with a pruner that merges by itself.

    Examples
    --------
    >>> import torch
    >>> [merged] = merge_tokens(torch.eye(3).repeat_interleave(2, 0), 3, fold=True)
    >>> merged.indices.tolist(), merged.sizes.tolist()
    ([0, 2, 4], [2.0, 2.0, 2.0])
    """
    way = fold_name(fold, method)
    before_projector = find_pruner(method).before_projector
    given, options = signals_and_options(signals)
    features, read, choices = choose(features, keep, method, relevance, tol, rng, given, options)
    images = features.reshape(-1, *features.shape[-2:])
    results = []
    for image, vision, choice in zip(images, read, choices, strict=True):
        indices, coefficients = choice.ascending()
        sizes = torch.ones(len(indices), device=image.device)
        if way:
            folded = FOLDS[way](image, indices)
            results.append(Merged(indices, folded.rows, folded.coefficients, folded.sizes))
            continue
        if coefficients is None:
            coefficients = torch.nn.functional.one_hot(indices, len(image)).to(image)
        project = given.get("projector") if before_projector else None
        rows = merged_rows(image, indices, coefficients, vision if project else {}, project)
        results.append(Merged(indices, rows, coefficients, sizes))
    return results
