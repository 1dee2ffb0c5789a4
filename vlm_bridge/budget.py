"""How many tokens to keep, and of what: an image, a tile, or several images together.

A budget is a token count, a share, an `AtMost`, one of these per image, or a `PerTile`, `Shared` or `Spectral`.
It comes down to *parts*: sets of rows of which so many are kept.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlm_bridge.errors import BridgeError

_ALLOWED = "a token count (int >= 1), a share (float in (0, 1]), AtMost(count) or one of these per image, such as [64, 0.25]"


@dataclass(frozen=True)
class AtMost:
    """So many tokens of an image, and all tokens of an image that has fewer.

    A plain count is refused where an image has fewer tokens. Under a dynamic resolution some images are small, and
    an evaluation should not end at them.

    Parameters
    ----------
    tokens : int
        At least 1.

    Raises
    ------
    BridgeError
        No whole number, or one below 1. A share never asks for more than an image has.

    Examples
    --------
    >>> [AtMost(64).of(n) for n in (32, 64, 576)]
    [32, 64, 64]
    >>> read_keep("at-most-64")
    AtMost(tokens=64)
    """

    tokens: int

    def __post_init__(self) -> None:
        if isinstance(self.tokens, (bool, np.bool_)) or not isinstance(self.tokens, numbers.Integral):
            raise BridgeError(
                f"AtMost(tokens={self.tokens!r}): expected a token count (int >= 1); a share such as 0.25 never asks "
                "for more than an image has and needs no AtMost."
            )
        if self.tokens < 1:
            raise BridgeError(f"AtMost(tokens={self.tokens}): at least one token of an image must stay.")

    def of(self, n: int) -> int:
        """Tokens to keep of `n`."""
        return min(int(self.tokens), n)


@dataclass(frozen=True)
class PerTile:
    """So many tokens (or this share, or `AtMost` so many) of every tile; rows that separate tiles' rows go."""

    tokens: int | float | AtMost

    def __post_init__(self) -> None:
        _check_one(self.tokens)


@dataclass(frozen=True)
class Shared:
    """So many tokens (or this share, or `AtMost` so many) of all images of a prompt together, at least one of each."""

    tokens: int | float | AtMost

    def __post_init__(self) -> None:
        _check_one(self.tokens)


@dataclass(frozen=True)
class Spectral:
    """As many tokens as singular directions are needed for this share of an image's squared norm."""

    energy: float

    def __post_init__(self) -> None:
        if not (isinstance(self.energy, numbers.Real) and 0 < float(self.energy) <= 1):
            raise BridgeError(f"Spectral(energy={self.energy!r}): a share of the energy must be in (0, 1].")

    def count(self, features: Tensor) -> int:
        """The fewest r with σ₁² + … + σ_r² ≥ energy · ‖X‖²; at least 1."""
        wide = features.detach().double()
        wide = wide.mT if wide.shape[0] > wide.shape[1] else wide
        peak = wide.abs().max()
        wide = wide / torch.where(peak > 0, peak, 1)
        energies = torch.linalg.eigvalsh(wide @ wide.mT).flip(0).clamp(min=0)
        reached = energies.cumsum(0) >= (1 - 1e-12) * self.energy * energies.sum()
        return int(reached.int().argmax()) + 1


@dataclass(frozen=True)
class Part:
    """Rows of which `k` are kept: pairs (image, its rows), one pair unless images share a budget."""

    rows: tuple[tuple[int, Tensor], ...]
    k: int

    @property
    def n(self) -> int:
        """Rows in all."""
        return sum(len(rows) for _, rows in self.rows)


def check_keep(keep: Any, tol: float | None = None) -> None:
    """Refuse a `keep` that no number of tokens could make right; ``None`` needs `tol`."""
    if tol is not None and not (isinstance(tol, numbers.Real) and 0 < float(tol) <= 1):
        raise BridgeError(f"tol = {tol!r}: it must be in (0, 1], the relative reconstruction error to reach.")
    if keep is None:
        if tol is None:
            raise BridgeError(f"keep = None needs tol; otherwise keep is {_ALLOWED}.")
        return
    if isinstance(keep, (PerTile, Shared, Spectral)):
        return
    for one in _items(keep) if _is_list(keep) else [keep]:
        _check_one(one)


def parts_of(
    keep: Any,
    images: Sequence[Tensor],
    tol: float | None = None,
    prompts: Sequence[int] | None = None,
    tiles: Sequence[Tensor] | None = None,
) -> list[Part]:
    """What to keep so many rows of.

    Parameters
    ----------
    keep : int, float, AtMost, sequence of these, PerTile, Shared, Spectral, or None
    images : sequence of Tensor (n_i, d)
    tol : float, optional
    prompts : sequence of int, optional
        Prompt of each image, for `Shared`; by default all belong to one.
    tiles : sequence of Tensor (n_i,), optional
        Tile of each row, negative for separators, for `PerTile`; by default an image is a tile.

    Raises
    ------
    BridgeError
        As `token_counts`.
    """
    check_keep(keep, tol)
    sizes = [len(image) for image in images]
    whole = [torch.arange(n) for n in sizes]
    if isinstance(keep, Shared):
        prompts = [0] * len(images) if prompts is None else prompts
        groups = [[i for i, p in enumerate(prompts) if p == prompt] for prompt in dict.fromkeys(prompts)]
        return [
            Part(tuple((i, whole[i]) for i in group), _shared(keep.tokens, [sizes[i] for i in group], group))
            for group in groups
        ]
    if isinstance(keep, PerTile):
        found = []
        for i, rows in enumerate(whole if tiles is None else tiles):
            of_tile = torch.zeros_like(rows) if tiles is None else rows.cpu()
            for tile in of_tile[of_tile >= 0].unique().tolist():
                inside = (of_tile == tile).nonzero()[:, 0]
                found.append(Part(((i, inside),), count_of(keep.tokens, len(inside), f"a tile of image {i}")))
        return found
    if isinstance(keep, Spectral):
        counts = [keep.count(image) for image in images]
    else:
        counts = token_counts(keep, sizes, tol)
    return [Part(((i, rows),), k) for i, (rows, k) in enumerate(zip(whole, counts, strict=True))]


def token_counts(keep: Any, sizes: Sequence[int], tol: float | None = None) -> list[int]:
    """Tokens to keep of each image.

    Parameters
    ----------
    keep : int, float, AtMost, sequence of these, or None
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
    return [count_of(one, n, f"image {i}") for i, (one, n) in enumerate(zip(wanted, sizes, strict=True))]


def count_of(one: Any, n: int, what: str = "the image") -> int:
    """Tokens to keep of the `n` of `what`, for a count, a share or an `AtMost`."""
    if isinstance(one, AtMost):
        return one.of(n)
    if is_share(one):
        return max(1, round(float(one) * n))
    if int(one) > n:
        raise BridgeError(
            f"keep = {one}, but {what} has {n} tokens; use AtMost({one}), which keeps all tokens where there are "
            f"fewer, at most {n}, or a share such as 0.25."
        )
    return int(one)


def is_share(one: Any) -> bool:
    """Whether a budget is a share, that is a number that is no whole number by its type."""
    return isinstance(one, numbers.Real) and not isinstance(one, numbers.Integral)


def read_keep(text: str) -> int | float | AtMost:
    """A budget as a command line or a harness spells it: ``64``, ``0.25`` or ``at-most-64``.

    Raises
    ------
    BridgeError
        None of these, or out of range.
    """
    found: int | float | AtMost
    try:
        if text.startswith("at-most-"):
            return AtMost(int(text.removeprefix("at-most-")))
        found = int(text) if text.strip().lstrip("+-").isdigit() else float(text)
    except ValueError as error:
        if isinstance(error, BridgeError):
            raise
        raise BridgeError(
            f"keep = {text!r}: expected a token count (64), a share (0.25) or at-most-64, which keeps all tokens of "
            "a smaller image."
        ) from None
    check_keep(found)
    return found


def _shared(tokens: Any, sizes: list[int], group: list[int]) -> int:
    k = count_of(tokens, sum(sizes), f"what images {', '.join(map(str, group))} show together")
    if k < len(group) and not is_share(tokens):
        raise BridgeError(f"Shared({tokens}): {len(group)} images share it, and each must keep a token.")
    return max(k, len(group))


def _check_one(one: Any) -> None:
    if isinstance(one, AtMost):
        return
    if isinstance(one, (bool, np.bool_)) or not isinstance(one, numbers.Real):
        raise BridgeError(f"keep = {one!r}: it must be {_ALLOWED}, PerTile, Shared or Spectral.")
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
