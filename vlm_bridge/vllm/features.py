"""Features of the latest images, for further questions about them: the tower need not run again.

vLLM keeps the rows that entered the LLM by a hash that takes in settings and question, since both decide which rows stay.
Where the pruner reads the question, a second question about an image would therefore encode it anew; what is kept here is
by the image alone, before the choice.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class FeatureCache:
    """Rows of images by their keys, the least recently used of which go first.

    Parameters
    ----------
    limit : int
        Most bytes that the rows take together; 0 keeps none.

    Examples
    --------
    >>> cache = FeatureCache(1000)
    >>> encode = lambda images: [torch.ones(2, 3) for _ in images]
    >>> _ = cache.rows(["a", "a", ""], encode)
    >>> cache.bytes, cache.reused
    (24, 1)
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes, self.reused = limit, 0, 0
        self._rows: OrderedDict[str, Tensor] = OrderedDict()

    def rows(self, keys: Sequence[str], encode: Callable[[list[int]], Sequence[Tensor]]) -> list[Tensor]:
        """Return the rows of each image.

        Parameters
        ----------
        keys : sequence of str
            Equal for images whose features are; an image whose key is empty is encoded, and not kept.
        encode : callable
            Maps indices of images to their rows (n_i, d); called at most once, without images that are at hand, and once
            for equal keys.
        """
        found = {key: self._rows[key] for key in keys if key in self._rows}
        for key in found:
            self._rows.move_to_end(key)
        first = {key or i: i for i, key in reversed(list(enumerate(keys))) if key not in found}
        missing = sorted(first.values())
        fresh = dict(zip(missing, encode(missing) if missing else (), strict=True))
        self.reused += len(keys) - len(missing)
        for i in missing:
            if keys[i]:
                self._keep(keys[i], fresh[i])
        return [found[key] if key in found else fresh[first[key or i]] for i, key in enumerate(keys)]

    def clear(self) -> None:
        """Forget all images."""
        self._rows.clear()
        self.bytes = 0

    def _keep(self, key: str, rows: Tensor) -> None:
        size = rows.numel() * rows.element_size()
        if size > self.limit:
            return
        self._rows[key] = rows.clone()  # the rows of a batch may share memory, which would stay whole
        self.bytes += size
        while self.bytes > self.limit:
            _, old = self._rows.popitem(last=False)
            self.bytes -= old.numel() * old.element_size()


def some_images(
    arguments: Mapping[str, Any], images: Sequence[int], n: int, counts: Mapping[str, str]
) -> dict[str, Any]:
    """Return what a model's arguments say of some of `n` images.

    Parameters
    ----------
    arguments : mapping
        Tensors (n, ...) or lists of n; tensors of entries, one image's behind the other's; others, the same for all images.
    images : sequence of int
        Indices, ascending.
    n : int
    counts : mapping
        Name of an argument with entries to that of the argument whose row i, multiplied, is their number in image i.

    Examples
    --------
    >>> both = {"pixels": torch.arange(7), "grid": torch.tensor([[1, 3], [2, 2]])}
    >>> some_images(both, [1], 2, {"pixels": "grid"})
    {'pixels': tensor([3, 4, 5, 6]), 'grid': tensor([[2, 2]])}
    """
    if len(images) == n:
        return dict(arguments)
    found: dict[str, Any] = {}
    for name, value in arguments.items():
        if name in counts:
            sizes = torch.as_tensor(arguments[counts[name]]).reshape(n, -1).prod(1).tolist()
            parts = torch.split(value, sizes)
            found[name] = torch.cat([parts[i] for i in images])
        elif isinstance(value, Tensor) and value.ndim and len(value) == n:
            found[name] = value[list(images)]
        elif isinstance(value, (list, tuple)) and len(value) == n:
            found[name] = [value[i] for i in images]
        else:
            found[name] = value
    return found
