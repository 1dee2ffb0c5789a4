"""Say how many tokens to keep, and of what: an image, a tile, or several images together.

A budget is a token count, a share, an `AtMost`, one of these for each image, or a `PerTile`, `Shared` or `Spectral`. It
comes down to *parts*: sets of rows, each with the number of rows to keep.
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
    """Keep this many tokens of an image, and all tokens of an image that has fewer.

    A plain count is refused where an image has fewer tokens. `AtMost` is for dynamic resolutions, under which some images
    are small.

    Parameters
    ----------
    tokens : int
        At least 1.

    Raises
    ------
    BridgeError
        `tokens` is no whole number, or below 1.

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
        """Return the number of tokens to keep of `n`."""
        return min(int(self.tokens), n)


@dataclass(frozen=True)
class PerTile:
    """Keep this many tokens, or this share, or at most so many, of every tile; separator rows are dropped.

    Parameters
    ----------
    tokens : int, float or AtMost

    Raises
    ------
    BridgeError
        A count below 1, or a share outside (0, 1].
    """

    tokens: int | float | AtMost

    def __post_init__(self) -> None:
        _check_one(self.tokens)


@dataclass(frozen=True)
class Shared:
    """Keep this many tokens, or this share, or at most so many, of all images of a prompt together, but one of each.

    Parameters
    ----------
    tokens : int, float or AtMost

    Raises
    ------
    BridgeError
        A count below 1, or a share outside (0, 1].
    """

    tokens: int | float | AtMost

    def __post_init__(self) -> None:
        _check_one(self.tokens)


@dataclass(frozen=True)
class Spectral:
    """Keep as many tokens as singular directions are needed for this share of an image's squared norm.

    Parameters
    ----------
    energy : float
        In (0, 1].

    Raises
    ------
    BridgeError
        `energy` is outside (0, 1].

    Examples
    --------
    >>> Spectral(0.8).count(torch.diag(torch.tensor([3.0, 1.0, 0.1])))
    1
    """

    energy: float

    def __post_init__(self) -> None:
        if not (isinstance(self.energy, numbers.Real) and 0 < float(self.energy) <= 1):
            raise BridgeError(f"Spectral(energy={self.energy!r}): expected a share of the energy in (0, 1].")

    def count(self, features: Tensor) -> int:
        """Return the smallest r >= 1 with σ₁² + … + σ_r² ≥ energy · ‖X‖², for the rows X (n, d) of an image."""
        wide = features.detach().double()
        wide = wide.mT if wide.shape[0] > wide.shape[1] else wide
        peak = wide.abs().max()
        wide = wide / torch.where(peak > 0, peak, 1)
        energies = torch.linalg.eigvalsh(wide @ wide.mT).flip(0).clamp(min=0)
        reached = energies.cumsum(0) >= (1 - 1e-12) * self.energy * energies.sum()
        return int(reached.int().argmax()) + 1


@dataclass(frozen=True)
class Part:
    """Rows of which `k` are kept.

    Attributes
    ----------
    rows : tuple of (int, Tensor)
        Pairs (image, indices of its rows); one pair unless images share a budget.
    k : int
    """

    rows: tuple[tuple[int, Tensor], ...]
    k: int

    @property
    def n(self) -> int:
        """Number of rows of all images together."""
        return sum(len(rows) for _, rows in self.rows)


def check_keep(keep: Any, tol: float | None = None) -> None:
    """Refuse a `keep` that is wrong for any number of tokens; ``None`` needs `tol`."""
    if tol is not None and not (isinstance(tol, numbers.Real) and 0 < float(tol) <= 1):
        raise BridgeError(
            f"tol = {tol!r}: expected a number in (0, 1], the relative reconstruction error to reach."
        )
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
    """Divide the rows of images into parts, each with the number of rows to keep.

    Parameters
    ----------
    keep : int, float, AtMost, sequence of these, PerTile, Shared, Spectral, or None
    images : sequence of Tensor (n_i, d)
    tol : float, optional
        In (0, 1]; needed where `keep` is None.
    prompts : sequence of int, optional
        Number of the prompt that each image belongs to, for `Shared`; by default all belong to one.
    tiles : sequence of Tensor (n_i,), optional
        Number of the tile of each row, negative for separators, for `PerTile`; by default an image is one tile.

    Raises
    ------
    BridgeError
        As in `token_counts`.
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
        parts = []
        for i, rows in enumerate(whole if tiles is None else tiles):
            of_tile = torch.zeros_like(rows) if tiles is None else rows.cpu()
            for tile in of_tile[of_tile >= 0].unique().tolist():
                inside = (of_tile == tile).nonzero()[:, 0]
                parts.append(Part(((i, inside),), count_of(keep.tokens, len(inside), f"a tile of image {i}")))
        return parts
    if isinstance(keep, Spectral):
        counts = [keep.count(image) for image in images]
    else:
        counts = token_counts(keep, sizes, tol)
    return [Part(((i, rows),), k) for i, (rows, k) in enumerate(zip(whole, counts, strict=True))]


def token_counts(keep: Any, sizes: Sequence[int], tol: float | None = None) -> list[int]:
    """Return the number of tokens to keep of each image.

    Parameters
    ----------
    keep : int, float, AtMost, sequence of these, or None
        A share of the tokens is rounded half to even, to at least 1. ``None`` keeps all, until `tol` is reached.
    sizes : sequence of int
        Number of rows of each image before pruning.
    tol : float, optional
        In (0, 1]; needed where `keep` is None.

    Returns
    -------
    list of int

    Raises
    ------
    BridgeError
        A count below 1 or above an image's number of tokens, a share outside (0, 1], or a list of the wrong length. The
        message names the image.

    Examples
    --------
    >>> token_counts([64, 0.25], sizes=[576, 100])
    [64, 25]
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
    """Return how many of the `n` tokens of `what` a count, a share or an `AtMost` keeps."""
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
    """Tell whether a budget is a share: a number whose type is not that of whole numbers."""
    return isinstance(one, numbers.Real) and not isinstance(one, numbers.Integral)


def read_keep(text: str) -> int | float | AtMost:
    """Read a budget as a command line or a harness spells it: ``64``, ``0.25`` or ``at-most-64``.

    Raises
    ------
    BridgeError
        The text is none of these, or out of range.
    """
    try:
        if text.startswith("at-most-"):
            return AtMost(int(text.removeprefix("at-most-")))
        keep: int | float = int(text) if text.strip().lstrip("+-").isdigit() else float(text)
    except ValueError as error:
        if isinstance(error, BridgeError):
            raise
        raise BridgeError(
            f"keep = {text!r}: expected a token count (64), a share (0.25) or at-most-64, which keeps all tokens of "
            "a smaller image."
        ) from None
    check_keep(keep)
    return keep


def _shared(tokens: Any, sizes: list[int], group: list[int]) -> int:
    """Return how many tokens images that share a budget keep together."""
    k = count_of(tokens, sum(sizes), f"what images {', '.join(map(str, group))} show together")
    if k < len(group) and not is_share(tokens):
        raise BridgeError(
            f"Shared({tokens}): {len(group)} images share it, and each must keep a token: expected at least {len(group)}."
        )
    return max(k, len(group))


def _check_one(one: Any) -> None:
    """Refuse a budget for one image that is no count, share or `AtMost`."""
    if isinstance(one, AtMost):
        return
    if isinstance(one, (bool, np.bool_)) or not isinstance(one, numbers.Real):
        raise BridgeError(f"keep = {one!r}: expected {_ALLOWED}, PerTile, Shared or Spectral.")
    if isinstance(one, numbers.Integral):
        if int(one) < 1:
            raise BridgeError(f"keep = {one}: at least one token of an image must stay.")
    elif not 0 < float(one) <= 1:
        raise BridgeError(f"keep = {one!r}: expected a share in (0, 1], or an int for a token count.")


def _is_list(keep: Any) -> bool:
    """Tell whether a budget lists one for each image."""
    if isinstance(keep, (np.ndarray, torch.Tensor)):
        return keep.ndim > 0
    return isinstance(keep, Iterable) and not isinstance(keep, (str, bytes))


def _items(keep: Any) -> list[Any]:
    return list(keep.tolist() if isinstance(keep, (np.ndarray, torch.Tensor)) else keep)
