"""Choose visual tokens from their features alone, without a model: `select_tokens`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlm_bridge.budget import parts_of
from vlm_bridge.errors import BridgeError
from vlm_bridge.selection.choose import Choice, choose_all
from vlm_bridge.selection.given import as_tensor, check_finite, signals_and_options, signals_of_images
from vlm_bridge.selection.request import Request


def select_tokens(
    features: Any,
    keep: Any,
    method: str = "spare",
    relevance: Any = None,
    *,
    tol: float | None = None,
    rng: Any = None,
    order: str = "ascending",
    **signals: Any,
) -> Tensor:
    """Choose the visual tokens to keep.

    Parameters
    ----------
    features : Tensor or array (n, d) or (..., n, d)
        One row for each token.
    keep : int, float, AtMost, one per image, PerTile, Shared, Spectral, or None with `tol`
        Token count, or share of an image's tokens in (0, 1], rounded half to even and at least 1. ``AtMost(64)``
        keeps all tokens of an image that has fewer than 64.
    method : str
        A name in `PRUNERS`.
    relevance : None, "anti", "normal", Relevance, or scores (..., n)
        ``None`` takes the pruner's own, if it has one. ``"anti"`` and ``"normal"`` set the sign of the pruner's own
        definition, or of the mean cosine in CLIP's joint space where it has none. Scores multiply the columns as they
        are: they must be finite and not negative.
    tol : float, optional
        Stop once the relative reconstruction error of the weighted columns is at most this, in (0, 1].
    rng : None, int or numpy.random.Generator
        For pruners that draw random numbers. Image i of a batch draws from the i-th generator spawned from it.
    order : {"ascending", "chosen"}
        Ascending indices, or the order of choice.
    **signals
        Signals, named in `vlm_bridge.pruners.plan.SIGNALS`, and the pruner's own options, such as ``alpha`` or
        ``grid``. A signal has the shape for one image, and is then shared by all, or the leading axes of `features`.

    Returns
    -------
    Tensor (..., k) of int64, on the device of `features`
        k is the largest number kept of an image; −1 fills the rows of images of which fewer are kept. Where a pruner
        merges, these are the places of the merged tokens; `merge_tokens` also gives the tokens.

    Raises
    ------
    BridgeError
        An unknown pruner or option, a missing signal, a budget out of range, NaN, or shapes that do not fit. The
        message names the argument.

    Examples
    --------
    >>> import torch
    >>> select_tokens(torch.tensor([[3.0, 0.0], [3.0, 0.1], [0.0, 1.0]]), keep=2).tolist()
    [1, 2]
    """
    if order not in ("ascending", "chosen"):
        raise BridgeError(f"order = {order!r}: expected 'ascending' or 'chosen'.")
    features, _, choices = choose(features, keep, method, relevance, tol, rng, *signals_and_options(signals))
    picks = [sorted(one.indices) if order == "ascending" else list(one.indices) for one in choices]
    longest = max(map(len, picks))
    result = torch.full((len(picks), longest), -1, dtype=torch.int64)
    for row, pick in zip(result, picks, strict=True):
        row[: len(pick)] = torch.tensor(pick)
    return result.reshape(*features.shape[:-2], longest).to(features.device)


def choose(
    features: Any,
    keep: Any,
    method: str,
    relevance: Any,
    tol: float | None,
    rng: Any,
    signals: Mapping[str, Any],
    options: Mapping[str, Any],
) -> tuple[Tensor, list[dict[str, Any]], list[Choice]]:
    """Return the checked features (..., n, d), the signals of each image, and what was chosen of it."""
    features = as_tensor("features", features)
    if features.ndim < 2 or 0 in features.shape:
        raise BridgeError(
            f"features of shape {tuple(features.shape)}: expected (n, d) or (..., n, d), none empty."
        )
    request = Request.of(method, relevance, options)
    lead, (n, d) = features.shape[:-2], features.shape[-2:]
    images = list(features.reshape(-1, n, d))
    for i, image in enumerate(images):
        check_finite(image, f"image {i}: " if lead else "")
    request.check(signals)
    factors = request.weights(features, signals)
    split = [None] * len(images) if factors is None else list(factors.reshape(-1, n))
    read = signals_of_images(request.of_plan, signals, features)
    choices = choose_all(
        request, images, split, read, parts_of(keep, images, tol), tol, generators(rng, lead)
    )
    return features, read, choices


def generators(rng: Any, lead: tuple[int, ...]) -> list[np.random.Generator]:
    """Return a generator for each image: the caller's own for a single image, spawned ones for a batch."""
    root = rng if isinstance(rng, np.random.Generator) else np.random.default_rng(rng)
    return root.spawn(int(np.prod(lead))) if lead else [root]
