"""Read the arrays of a TensorFlow 2 checkpoint with NumPy alone.

A checkpoint named ``prefix`` is two files. ``prefix.index`` is a LevelDB table that maps the name of each array to a
protocol buffer `BundleEntryProto` (type, shape, offset, size); ``prefix.data-00000-of-00001`` holds the bytes of all arrays.
References: LevelDB, ``doc/table_format.md``; TensorFlow, ``tensorflow/core/protobuf/tensor_bundle.proto``.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

#: The last eight bytes of every LevelDB table.
MAGIC = bytes.fromhex("57fb808b247547db")
FOOTER, TRAILER = 48, 5

#: Numbers of `tensorflow.DataType`; strings and the like are left out.
TYPES = {1: np.dtype("<f4"), 2: np.dtype("<f8"), 3: np.dtype("<i4"), 9: np.dtype("<i8")}


def load(prefix: Path) -> dict[str, np.ndarray]:
    """Return all numerical arrays of a checkpoint by name.

    Parameters
    ----------
    prefix : Path
        The path without ``.index`` and ``.data-00000-of-00001``.

    Raises
    ------
    ValueError
        The index is no LevelDB table, its blocks are compressed, there are several data files, or an array does not fit.
    """
    table = prefix.with_name(f"{prefix.name}.index").read_bytes()
    if len(table) < FOOTER or not table.endswith(MAGIC):
        raise ValueError(
            f"{prefix}.index is not the index of a TensorFlow checkpoint: expected a LevelDB table, got {len(table)} other bytes."
        )
    data = np.memmap(prefix.with_name(f"{prefix.name}.data-00000-of-00001"), dtype=np.uint8, mode="r")
    arrays = {}
    for name, entry in _entries(table):
        if not name:
            shards = dict(_fields(entry)).get(1, 1)
            if shards != 1:
                raise ValueError(
                    f"expected a checkpoint with one data file, got {shards} of them at {prefix}."
                )
            continue
        array = _array(name.decode(), entry, data)
        if array is not None:
            arrays[name.decode()] = array
    return arrays


def _array(name: str, entry: bytes, data: np.ndarray) -> np.ndarray | None:
    fields = dict(_fields(entry))
    if fields.get(1) not in TYPES:
        return None
    kind = TYPES[fields[1]]
    shape = [dict(_fields(axis)).get(1, 0) for number, axis in _fields(fields.get(2, b"")) if number == 2]
    start, size = fields.get(4, 0), fields.get(5, 0)
    if size != kind.itemsize * math.prod(shape) or start + size > len(data):
        raise ValueError(
            f"the checkpoint's array {name!r} of shape {tuple(shape)} does not fit: expected "
            f"{kind.itemsize * math.prod(shape)} bytes at {start} of {len(data)}, got {size}."
        )
    return np.frombuffer(data[start : start + size].tobytes(), kind).reshape(shape)


def _entries(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of all data blocks, which the index block lists."""
    at = len(table) - FOOTER
    for _ in range(2):  # where the block of metadata is, which TensorFlow leaves empty
        _, at = _varint(table, at)
    for _, handle in _block(table, *_handle(table, at)):
        yield from _block(table, *_handle(handle, 0))


def _handle(buffer: bytes, at: int) -> tuple[int, int]:
    start, at = _varint(buffer, at)
    size, _ = _varint(buffer, at)
    return start, size


def _block(table: bytes, start: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block; a key repeats only what differs from the one before."""
    if start + size + TRAILER > len(table):
        raise ValueError("the index of the checkpoint is cut short.")
    if table[start + size] != 0:
        raise ValueError("expected an uncompressed index of a checkpoint, got a compressed one.")
    block = table[start : start + size]
    (restarts,) = struct.unpack("<I", block[-4:])
    at, key = 0, b""
    while at < size - 4 * (restarts + 1):
        shared, at = _varint(block, at)
        fresh, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + fresh]
        at += fresh
        yield key, block[at : at + length]
        at += length


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Numbers and values of the fields of a protocol buffer."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        value: Any
        match tag & 7:
            case 0:
                value, at = _varint(message, at)
            case 2:
                length, at = _varint(message, at)
                value, at = message[at : at + length], at + length
            case 5:
                value, at = message[at : at + 4], at + 4
            case 1:
                value, at = message[at : at + 8], at + 8
            case kind:
                raise ValueError(f"expected a protocol buffer, got a field of the unknown kind {kind}.")
        yield tag >> 3, value


def _varint(buffer: bytes, at: int) -> tuple[int, int]:
    """Return an integer in groups of seven bits, the lowest first, and where it ends."""
    value = shift = 0
    while True:
        if at >= len(buffer):
            raise ValueError("the index of the checkpoint is cut short.")
        byte = buffer[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
