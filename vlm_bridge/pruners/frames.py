"""Shared by pruners of videos: the frames of a sequence of tokens."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vlm_bridge.errors import BridgeError


def by_frame(rows: Tensor, frames: Any) -> tuple[Tensor, Tensor]:
    """Divide rows (n, d) into F frames of equal size (F, ⌊n/F⌋, d) and the fewer than F rows behind them."""
    n, count = len(rows), int(frames)
    if not 1 <= count <= n or count != float(frames):
        raise BridgeError(
            f"frames = {float(frames):g}: expected a whole number from 1 to {n}, the number of tokens; give the frames of the video "
            "as its tokens have them (pairs of frames that share tokens count once)."
        )
    size = n // count
    return rows[: count * size].unflatten(0, (count, size)), rows[count * size :]
