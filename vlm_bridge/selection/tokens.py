"""`select_tokens`: features in, indices out. No model needed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlm_bridge.budget import parts_of
from vlm_bridge.errors import BridgeError
from vlm_bridge.pruners.plan import SIGNALS
from vlm_bridge.selection.choose import Choice, choose_all
from vlm_bridge.selection.given import as_tensor, check_finite, signals_of_images
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
        One row a token.
    keep : int, float, AtMost, one per image, PerTile, Shared, Spectral, or None with `tol`
        Token count, or share in (0, 1] (rounded half to even, at least 1); ``AtMost(64)`` keeps all of an image that
        has fewer.
    method : str
        A name in `PRUNERS`.
    relevance : None, "anti", "normal", Relevance, or scores (..., n)
        ``None``: the pruner's own, if it has one. ``"anti"``/``"normal"``: the pruner's own definition,
        else the mean cosine in CLIP's joint space, with that sign. Scores multiply the columns as they are
        given: they must be finite and not negative.
    tol : float, optional
        Stop earlier, once the relative reconstruction error of the weighted columns is at most this.
    rng : None, int or numpy.random.Generator
        For pruners that draw. Image i of a batch draws from the i-th generator spawned from it.
    order : {"ascending", "chosen"}
        Ascending indices, or the order of choice.
    **signals
        Signals (`vlm_bridge.pruners.plan.SIGNALS`) and the pruner's own options, such as ``alpha`` or
        ``grid``. A signal is one image's, then shared by all, or has the leading axes of `features`.

    Returns
    -------
    Tensor (..., keep) of int64, on the device of `features`. Images with fewer tokens than others are filled
    with −1 at the end. Of a pruner that merges these are the places of the merged tokens; `merge_tokens` also
    gives the tokens.

    Raises
    ------
    BridgeError
        Unknown pruner or option, missing signal, budget out of range, NaN, shapes that do not fit; named.
    """
    if order not in ("ascending", "chosen"):
        raise BridgeError(f"order = {order!r}: allowed are 'ascending' and 'chosen'.")
    features, _, choices = choose(features, keep, method, relevance, tol, rng, signals)
    picks = [sorted(one.indices) if order == "ascending" else list(one.indices) for one in choices]
    longest = max(map(len, picks))
    result = torch.full((len(picks), longest), -1, dtype=torch.int64)
    for row, pick in zip(result, picks, strict=True):
        row[: len(pick)] = torch.tensor(pick)
    return result.reshape(*features.shape[:-2], longest).to(features.device)


def choose(
    features: Any, keep: Any, method: str, relevance: Any, tol: float | None, rng: Any, given: dict[str, Any]
) -> tuple[Tensor, list[dict[str, Any]], list[Choice]]:
    """The checked features (..., n, d), each image's signals, and what was chosen of it."""
    features = as_tensor("features", features)
    if features.ndim < 2 or 0 in features.shape:
        raise BridgeError(
            f"features of shape {tuple(features.shape)}: expected (n, d) or (..., n, d), none empty."
        )
    request = Request.of(method, relevance, given)
    signals = {k: v for k, v in given.items() if k in SIGNALS and v is not None}
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
    """One generator per image: the caller's own for a single image, spawned ones for a batch."""
    root = rng if isinstance(rng, np.random.Generator) else np.random.default_rng(rng)
    return root.spawn(int(np.prod(lead))) if lead else [root]
