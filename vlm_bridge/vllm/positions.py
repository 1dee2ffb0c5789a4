"""Positions of a prompt whose images were pruned, while which of their tokens stay is not known yet.

With original positions a kept token stands where it would without pruning, and text behind an image begins where it would.
The text's positions are known before the image is encoded. Those of kept tokens are *pending* until then: a pending token
holds −1 − b, where b is the position at which its image begins, so that text and settled tokens, which are not negative,
are told apart from it, and settling a token twice changes nothing. What a token adds to b travels on its row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

AXES, BASE = 3, 256
CHANNELS = 2 * AXES
"""Columns beside a row: two digits to `BASE` of each axis. Whole numbers below 256 are exact in bfloat16, larger ones are not."""


@dataclass(frozen=True)
class Grid:
    """Where the tokens of one image stand before pruning.

    Attributes
    ----------
    shape : tuple of int
        ``(n,)`` for a line of tokens, which counts alike on all axes, or ``(t, h, w)``.

    Examples
    --------
    >>> Grid((1, 3, 2)).extent, Grid((576,)).extent
    (3, 576)
    """

    shape: tuple[int, ...]

    @property
    def n(self) -> int:
        """Number of tokens."""
        return int(torch.tensor(self.shape).prod())

    @property
    def extent(self) -> int:
        """How far positions advance behind the image."""
        return max(self.shape)

    def places(self) -> Tensor:
        """Return the positions (3, n) of the tokens, counted from where the image begins."""
        if len(self.shape) == 1:
            return torch.arange(self.n).expand(AXES, -1)
        return torch.cartesian_prod(*map(torch.arange, self.shape)).mT


@dataclass(frozen=True)
class Placed:
    """An image in a prompt.

    Attributes
    ----------
    offset, kept : int
        Its first token, and the number of tokens that stay.
    grid : Grid
    """

    offset: int
    kept: int
    grid: Grid


def prompt_positions(length: int, images: Sequence[Placed], positions: str) -> tuple[Tensor, int]:
    """Return the positions of a prompt before its images are encoded.

    Parameters
    ----------
    length : int
        Number of tokens, after pruning.
    images : sequence of Placed
        In the order of the prompt.
    positions : {"keep", "compact"}
        As in `prune`: an image that keeps all its tokens has its grid under either.

    Returns
    -------
    Tensor (3, length) of int64
        Pending tokens are negative.
    int
        What must be added to the place of a token of the answer to get its position.

    Examples
    --------
    >>> prompt_positions(4, [Placed(1, 2, Grid((9,)))], "keep")[0][0].tolist()
    [0, -2, -2, 10]
    >>> prompt_positions(4, [Placed(1, 2, Grid((9,)))], "compact")[0][0].tolist()
    [0, 1, 2, 3]
    """
    result, at, end = torch.empty(AXES, length, dtype=torch.int64), 0, 0
    for image in images:
        result[:, end : image.offset] = torch.arange(at, at + image.offset - end)
        at, end = at + image.offset - end, image.offset + image.kept
        if image.kept == image.grid.n:
            result[:, image.offset : end] = at + image.grid.places()
            at += image.grid.extent
        elif positions == "compact":
            result[:, image.offset : end] = torch.arange(at, at + image.kept)
            at += image.kept
        else:
            result[:, image.offset : end] = -1 - at
            at += image.grid.extent
    result[:, end:] = torch.arange(at, at + length - end)
    return result, at + length - end - length


def with_places(rows: Tensor, grid: Grid, kept: Tensor) -> Tensor:
    """Return the rows (k, d) of the tokens `kept` (k,) of an image with their places behind them, (k, d + `CHANNELS`)."""
    places = grid.places().to(rows.device)[:, kept].mT
    return torch.cat([rows, (places // BASE).to(rows), (places % BASE).to(rows)], dim=1)


def settle(
    positions: Tensor, image_tokens: Tensor, rows: Sequence[Tensor], computed: int
) -> tuple[list[Tensor], Tensor, int]:
    """Give pending tokens their positions, and take the places off their rows.

    Parameters
    ----------
    positions : Tensor (3, length)
    image_tokens : Tensor (length,) of bool
        Where the prompt has tokens of images.
    rows : sequence of Tensor (m_i, d + `CHANNELS`)
        Rows of the tokens of images from the place `computed` on, in the order of the prompt, as far as they are known.
    computed : int
        Number of tokens that earlier steps have computed.

    Returns
    -------
    list of Tensor (m_i, d), Tensor (3, length), int
        Rows and positions, and what the answer's places must be shifted by.

    Raises
    ------
    AssertionError
        There are more rows than tokens.
    """
    left = image_tokens.nonzero()[:, 0]
    left = left[left >= computed]
    positions = positions.clone()
    for image in rows:
        at, left = left[: len(image)], left[len(image) :]
        assert len(at) == len(image), (len(at), len(image))
        high, low = image[:, -CHANNELS:].long().to(positions).mT.split(AXES)
        now = positions[:, at]
        positions[:, at] = torch.where(now < 0, high * BASE + low - 1 - now, now)
    return [image[:, :-CHANNELS] for image in rows], positions, int(positions.max()) + 1 - positions.shape[1]
