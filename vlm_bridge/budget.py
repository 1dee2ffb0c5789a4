"""How many tokens to keep: counts, shares, or one of these per image."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from vlm_bridge.errors import BridgeError

_ALLOWED = "a token count (int >= 1), a share (float in (0, 1]) or one of these per image"


def check_keep(keep: Any, tol: float | None = None) -> None:
    """Refuse a `keep` that no number of tokens could make right; ``None`` needs `tol`."""
    if tol is not None and not (isinstance(tol, numbers.Real) and 0 < float(tol) <= 1):
        raise BridgeError(f"tol = {tol!r}: it must be in (0, 1], the relative reconstruction error to reach.")
    if keep is None:
        if tol is None:
            raise BridgeError(f"keep = None needs tol; otherwise keep is {_ALLOWED}.")
        return
    for one in _items(keep) if _is_list(keep) else [keep]:
        _check_one(one)


def token_counts(keep: Any, sizes: Sequence[int], tol: float | None = None) -> list[int]:
    """Tokens to keep of each image.

    Parameters
    ----------
    keep : int, float, sequence of these, or None
        A share is rounded half to even, and is at least 1. ``None`` (with `tol`): all, stop by tolerance.
    sizes : sequence of int
        Rows of each image before pruning.
    tol : float, optional

    Returns
    -------
    list of int

    Raises
    ------
    BridgeError
        0, more than an image has, a share outside (0, 1], or a list of the wrong length; the image is named.
    """
    check_keep(keep, tol)
    if keep is None:
        return list(sizes)
    wanted = _items(keep) if _is_list(keep) else [keep] * len(sizes)
    if len(wanted) != len(sizes):
        raise BridgeError(
            f"keep lists {len(wanted)} budgets for {len(sizes)} images; give one, or one per image."
        )
    return [_count(one, n, i) for i, (one, n) in enumerate(zip(wanted, sizes, strict=True))]


def _count(one: Any, n: int, image: int) -> int:
    if not isinstance(one, numbers.Integral):
        return max(1, round(float(one) * n))
    if int(one) > n:
        raise BridgeError(
            f"keep = {one}, but image {image} has {n} tokens; use at most {n}, or a share such as 0.25."
        )
    return int(one)


def _check_one(one: Any) -> None:
    if isinstance(one, (bool, np.bool_)) or not isinstance(one, numbers.Real):
        raise BridgeError(f"keep = {one!r}: it must be {_ALLOWED}.")
    if isinstance(one, numbers.Integral):
        if int(one) < 1:
            raise BridgeError(f"keep = {one}: at least one token of an image must stay.")
    elif not 0 < float(one) <= 1:
        raise BridgeError(f"keep = {one!r}: a share must be in (0, 1]; for a token count pass an int.")


def _is_list(keep: Any) -> bool:
    if isinstance(keep, (np.ndarray, torch.Tensor)):
        return keep.ndim > 0
    return isinstance(keep, Iterable) and not isinstance(keep, (str, bytes))


def _items(keep: Any) -> list[Any]:
    return list(keep.tolist() if isinstance(keep, (np.ndarray, torch.Tensor)) else keep)
