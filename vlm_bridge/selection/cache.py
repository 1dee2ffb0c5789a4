"""Choices that need not be made again: those of an image that comes back with the next question.

Choosing is a function of what is chosen from, unless it draws random numbers. So a choice is found again by
the features, weights, signals and budget that it was made of: a second question on the same image finds it
where the pruner does not read the question, and does not find it where the pruner does.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor


class Memory:
    """The `size` results asked for last, by what they were made of. Threads may share it."""

    def __init__(self, size: int = 128) -> None:
        self.size = size
        self._found: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._found)

    def recall(self, key: Hashable) -> Any:
        """What was stored under `key`; None where nothing was, or not lately."""
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
            return self._found.get(key)

    def store(self, key: Hashable, value: Any) -> None:
        """Keep `value`, and drop what was not asked for longest."""
        with self._lock:
            self._found[key] = value
            self._found.move_to_end(key)
            while len(self._found) > self.size:
                self._found.popitem(last=False)


def fingerprint(value: Any) -> Hashable:
    """Shape, dtype, device and SHA-256 of a tensor's bits; any other value stands for itself."""
    if not isinstance(value, Tensor):
        return value
    bits = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return tuple(value.shape), value.dtype, value.device, hashlib.sha256(bits.numpy().data).digest()
