"""Turn what the caller gives into checked tensors: features, and signals split over images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlm_bridge.errors import BridgeError
from vlm_bridge.pruners.plan import SIGNALS

TOKEN_AXIS = {
    "clip_patches": -2,
    "vision_clip": -2,
    "vision_mean": -2,
    "cls_attention": -1,
    "received": -1,
    "received_early": -1,
    "vision_keys": -2,
    "vision_values": -2,
    "attention": -1,
}
"""Where a signal has one entry per visual token."""


def signals_and_options(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split keyword arguments into signals, named in `SIGNALS`, and options of the pruner; None is no signal.

    >>> signals_and_options({"llm_text": [[1.0]], "clip_text": None, "alpha": 2})
    ({'llm_text': [[1.0]]}, {'alpha': 2})
    """
    signals = {name: value for name, value in given.items() if name in SIGNALS and value is not None}
    return signals, {name: value for name, value in given.items() if name not in SIGNALS}


def as_tensor(name: str, value: Any) -> Tensor:
    """Convert an array, a list of tensors or a tensor to a floating-point tensor without gradients.

    Raises
    ------
    BridgeError
        `value` is no array of real numbers; the message calls it `name`.
    """
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], Tensor):
        value = torch.stack(list(value))
    try:
        tensor = value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
    except (TypeError, ValueError) as error:
        raise BridgeError(
            f"{name} : expected a tensor or an array of numbers, got {type(value).__name__}."
        ) from error
    if tensor.is_complex():
        raise BridgeError(f"{name}: expected real numbers, got {tensor.dtype}.")
    return tensor.detach() if tensor.is_floating_point() else tensor.detach().to(torch.float64)


def check_finite(features: Tensor, where: str) -> None:
    """Refuse NaN and infinity, naming the first bad token."""
    bad = (~torch.isfinite(features)).any(-1)
    if bad.any():
        raise BridgeError(f"{where}token {int(bad.nonzero()[0])} of features holds NaN or infinity.")


def signals_of_images(
    names: Iterable[str], signals: Mapping[str, Any], features: Tensor
) -> list[dict[str, Any]]:
    """Return the signals `names`, as far as they are given, for each image of `features` (..., n, d)."""
    lead, n = features.shape[:-2], features.shape[-2]
    split: list[dict[str, Any]] = [{} for _ in range(int(np.prod(lead)))]
    for name in names:
        if name in signals:
            values = _split(name, signals[name], lead, features.device)
            for image, value in zip(split, values, strict=True):
                image[name] = value
                check_signal(name, value, n)
    return split


def _split(name: str, value: Any, lead: tuple[int, ...], device: Any) -> list[Any]:
    """Divide a signal among images: shared where it has the dimensions of one image's, else split."""
    dimensions, images = SIGNALS[name], int(np.prod(lead))
    if dimensions is None:
        return [value] * images
    tensor = as_tensor(name, value).to(device)
    if name == "cls_attention" and tensor.ndim == 1:
        tensor = tensor[None]
    if tensor.ndim == dimensions:
        return [tensor] * images
    if lead and tensor.ndim == dimensions + len(lead) and tensor.shape[: len(lead)] == lead:
        return list(tensor.reshape(images, *tensor.shape[len(lead) :]))
    raise BridgeError(
        f"{name} of shape {tuple(tensor.shape)}: expected {dimensions} dimensions for one image"
        + (f", or {tuple(lead)} in front of them." if lead else ".")
    )


def check_signal(name: str, value: Any, n: int) -> None:
    """Refuse a signal that does not fit an image of n tokens."""
    if SIGNALS[name] is None:
        if not callable(value):
            raise BridgeError(f"{name}: expected a callable, got {type(value).__name__}.")
        return
    axis = TOKEN_AXIS.get(name)
    if axis is not None and value.shape[axis] != n:
        raise BridgeError(
            f"{name} of shape {tuple(value.shape)} must have one entry per token, {n}, along axis {axis}."
        )
    if not torch.isfinite(value).all():
        raise BridgeError(f"{name} holds NaN or infinity.")
