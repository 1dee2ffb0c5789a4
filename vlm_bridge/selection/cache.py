"""Remember choices, so that an image that comes back with the next question is not chosen from again.

Unless it draws random numbers, a choice depends on features, weights, signals and budget alone, and these are its key. So
a second question on the same image finds the earlier choice unless the pruner reads the question.
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
    """The `size` results that were used last, by their keys. Threads may share it.

    >>> memory = Memory(size=1)
    >>> memory.store("a", 1)
    >>> memory.store("b", 2)
    >>> memory.recall("a"), memory.recall("b")
    (None, 2)
    """

    def __init__(self, size: int = 128) -> None:
        self.size = size
        self._results: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._results)

    def recall(self, key: Hashable) -> Any:
        """Return what was stored under `key`; None where nothing was, or it has been dropped since."""
        with self._lock:
            if key in self._results:
                self._results.move_to_end(key)
            return self._results.get(key)

    def store(self, key: Hashable, value: Any) -> None:
        """Store `value`, and drop what has not been used for the longest time."""
        with self._lock:
            self._results[key] = value
            self._results.move_to_end(key)
            while len(self._results) > self.size:
                self._results.popitem(last=False)


def fingerprint(value: Any) -> Hashable:
    """Return a key for a value: of a tensor, its shape, dtype, device and SHA-256; of others, the value itself."""
    if not isinstance(value, Tensor):
        return value
    bits = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return tuple(value.shape), value.dtype, value.device, hashlib.sha256(bits.numpy().data).digest()
