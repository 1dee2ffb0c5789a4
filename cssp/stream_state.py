"""The state of a `StreamingSelector` in a file, and what a stream can have left there."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cssp import checkpoints
from cssp.checkpoints import reading, require
from cssp.nodes import Node, norm
from cssp.row_stream import RowStream

if TYPE_CHECKING:
    from cssp.streaming import StreamingSelector

__all__ = ["load", "save"]

#: What the file is of; the number is that of the format.
KIND = "StreamingSelector 2"

#: The same where rows arrive.
ROWS_KIND = "StreamingSelector of rows 1"

#: Relative rounding of the norms of a stream, at most.
ROUNDING = 1e-3


def save(stream: StreamingSelector, path: Path) -> None:
    """Write the state; the file is replaced in one step."""
    if stream.axis == "rows":
        return _save_rows(stream, path)
    state: dict[str, Any] = {name: getattr(stream, name) for name in ("k", "method", "oversample", "buffer")}
    state |= {"seed": stream._seed, "n_seen": stream.n_seen_, "norm": stream._norm}
    if stream._block is not None:
        state |= {"block": stream._block[:, : stream.n_seen_ % stream.buffer], "sketch": stream._sketch}
    for level, node in enumerate(stream._nodes):
        if node is not None:
            state |= {f"{name}{level}": getattr(node, name) for name in ("C", "W", "place", "lost")}
    checkpoints.save(path, KIND, {name: np.asarray(value) for name, value in state.items()})


def _save_rows(stream: StreamingSelector, path: Path) -> None:
    state: dict[str, Any] = {"k": stream.k, "method": stream.method, "seed": stream._seed}
    if (rows := stream._rows) is not None:
        state |= {"n_seen": rows.seen, "R": rows.R, "block": rows.block[: rows.waiting]}
        state |= {} if rows.names is None else {"names": rows.names}
    checkpoints.save(path, ROWS_KIND, {name: np.asarray(value) for name, value in state.items()})


def load(cls: type[StreamingSelector], path: Path) -> StreamingSelector:
    """Return the stream that was saved; anything else is refused."""
    if checkpoints.kind_of(path) == ROWS_KIND:
        return _load_rows(cls, path)
    state = checkpoints.load(path, KIND)
    with reading(path, KIND):
        stream = cls(**{name: _plain(state, name) for name in ("k", "method", "oversample", "buffer")}, rng=0)
        stream._seed, stream.n_seen_ = _plain(state, "seed"), _plain(state, "n_seen")
        stream._norm = _plain(state, "norm")
        require(type(stream._seed) is int and 0 <= stream._seed < 2**63, f"seed = {stream._seed}")
        require(type(stream.n_seen_) is int and stream.n_seen_ >= 0, f"n_seen = {stream.n_seen_}")
        require(type(stream._norm) is float and 0 <= stream._norm < math.inf, f"norm = {stream._norm}")
        if "block" in state:
            _take_block(stream, state.pop("block"), state.pop("sketch"))
        full = stream.n_seen_ // stream.buffer
        require(stream._block is not None or not stream.n_seen_, "block is missing")
        stream._nodes = [_node(stream, state, level) for level in range(full.bit_length())]
        require(not state, f"it holds {', '.join(sorted(state))} too")
    return stream


def _load_rows(cls: type[StreamingSelector], path: Path) -> StreamingSelector:
    """Return a stream of rows."""
    state = checkpoints.load(path, ROWS_KIND)
    with reading(path, ROWS_KIND):
        stream = cls(_plain(state, "k"), method=_plain(state, "method"), axis="rows", rng=0)
        stream._seed = _plain(state, "seed")
        require(type(stream._seed) is int and 0 <= stream._seed < 2**63, f"seed = {stream._seed}")
        if state:
            n_seen, R, block = _plain(state, "n_seen"), state.pop("R"), state.pop("block")
            require(type(n_seen) is int and n_seen > 0, f"n_seen = {n_seen}")
            require(
                block.dtype in map(np.dtype, "fdFD") and block.ndim == 2, f"block has dtype {block.dtype}"
            )
            names = state.pop("names", None)
            require(
                names is None or (names.dtype.kind == "U" and names.shape == R.shape[1:]), "names are no text"
            )
            rows = RowStream(block.shape[1], block.dtype, None if names is None else names.tolist())
            rows.seen = stream.n_seen_ = n_seen
            for name, x, shape, dtype in (
                ("R", R, rows.R.shape, rows.R.dtype),
                ("block", block, (rows.waiting, len(R)), block.dtype),
            ):
                require(x.shape == shape and x.dtype == dtype, f"{name} has shape {x.shape}, dtype {x.dtype}")
                require(np.isfinite(x).all(), f"{name} is not finite")
            require(not np.tril(R, -1).any(), "R is not upper triangular")
            rows.R, rows.block[: rows.waiting] = np.asfortranarray(R), block
            stream._rows = rows
        require(not state, f"it holds {', '.join(sorted(state))} too")
    return stream


def _plain(state: dict[str, np.ndarray], name: str) -> Any:
    """Return a single number or word as Python has it."""
    x = state.pop(name)
    require(x.shape == (), f"{name} has shape {x.shape}")
    return x.item()


def _take_block(stream: StreamingSelector, block: np.ndarray, sketch: np.ndarray) -> None:
    """Restore the buffer and the sketch of a stream whose counts are known."""
    m, rest = len(block), stream.n_seen_ % stream.buffer
    require(block.dtype in map(np.dtype, "fdFD") and m > 0, f"block has dtype {block.dtype}, {m} rows")
    _check(stream, "block", block, (m, rest), block.dtype)
    stream._begin(m, block.dtype)
    assert stream._block is not None
    assert stream._sketch is not None
    _check(stream, "sketch", sketch, stream._sketch.shape, block.dtype, bounded=False)
    stream._block[:, :rest], stream._sketch = block, sketch


def _node(stream: StreamingSelector, state: dict[str, np.ndarray], level: int) -> Node | None:
    """Return the node of a level: there is one where the number of full buffers has a 1 in binary, and it covers that many columns."""
    full = stream.n_seen_ // stream.buffer
    if not full >> level & 1:
        return None
    C, W, place = (state.pop(f"{name}{level}") for name in ("C", "W", "place"))
    lost = _plain(state, f"lost{level}")
    assert stream._block is not None
    m, dtype, kept = len(stream._block), stream._block.dtype, stream.kept
    _check(stream, f"C{level}", C, (m, kept), dtype)
    require(W.ndim == 2 and 1 <= W.shape[1] <= kept, f"W{level} has shape {W.shape}")
    _check(stream, f"W{level}", W, (m, W.shape[1]), dtype)
    first = (full >> (level + 1) << (level + 1)) * stream.buffer  # what nodes of higher levels cover
    _check(stream, f"place{level}", place, (kept,), np.dtype(np.int64), bounded=False)
    require((np.diff(place) > 0).all(), f"place{level} does not ascend")
    require(first <= place[0] and place[-1] < first + (stream.buffer << level), f"place{level} is elsewhere")
    require(type(lost) is float and 0 <= lost < math.inf, f"lost{level} = {lost}")
    return Node(C, place, W, lost)


def _check(
    stream: StreamingSelector,
    name: str,
    x: np.ndarray,
    shape: tuple[int, ...],
    dtype: np.dtype,
    bounded: bool = True,
) -> None:
    """Check shape, type and finiteness, and that no part of the stream is larger than all of it."""
    require(x.shape == shape and x.dtype == dtype, f"{name} has shape {x.shape}, dtype {x.dtype}")
    require(np.isfinite(x).all(), f"{name} is not finite")
    require(not bounded or norm(x) <= (1 + ROUNDING) * stream._norm, f"{name} exceeds the norm of the stream")
