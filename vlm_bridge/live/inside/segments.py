"""The sequences that runs of decoder layers work on, and the masks that go with them.

A segment is a selection of the prompt's columns, row by row, with padding where rows keep different numbers.
Masks are gathered from the one the decoder has made for the full prompt, so that whatever it says of two
tokens goes on holding while both are there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Segment:
    """Columns of the prompt, per row.

    Attributes
    ----------
    source : Tensor (B, L')
        Column of the prompt behind each place; −1 is padding.
    length : int
        L, columns of the prompt.
    right : bool
        Padding stands on the right; on the left otherwise.
    """

    source: Tensor
    length: int
    right: bool

    @classmethod
    def full(cls, mask: Tensor) -> Segment:
        """All columns of a prompt with `mask` (B, L) bool; its padding counts as padding."""
        columns = torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)
        right = bool((~mask[:, -1]).any()) and bool(mask[:, 0].all())
        return cls(torch.where(mask, columns, -1), mask.shape[1], right)

    @cached_property
    def valid(self) -> Tensor:
        """(B, L') bool: no padding."""
        return self.source >= 0

    @cached_property
    def ragged(self) -> bool:
        """Whether there is padding."""
        return not bool(self.valid.all())

    @cached_property
    def packed(self) -> Tensor:
        """Positions (B, L') without gaps: 0, 1, ... over what is there."""
        return (self.valid.long().cumsum(-1) - 1).clamp(min=0)

    def narrowed(self, stay: Tensor) -> tuple[Segment, Tensor]:
        """The segment of the places `stay` (B, L') bool, and the place (B, L'') each comes from, −1 padding."""
        stay = stay & self.valid
        width = int(stay.sum(1).max())
        order = torch.argsort((~stay if self.right else stay).long(), dim=1, stable=True)
        order = order[:, :width] if self.right else order[:, order.shape[1] - width :]
        index = torch.where(stay.gather(1, order), order, -1)
        source = torch.where(index >= 0, self.source.gather(1, order), -1)
        return Segment(source, self.length, self.right), index

    def mask(self, given: Tensor | None, queries: int, keys: int, form: str) -> Tensor | None:
        """The decoder's mask for this segment.

        Parameters
        ----------
        given : Tensor (B or 1, 1, Q, K), (B, K) or None
            For the full prompt: boolean or additive, padding only, or plain causal.
        queries, keys : int
            Of the segment: Q' new tokens, K' keys after them. In the prompt itself Q' = K' = L'; later the
            keys are the segment's, then all that followed.
        form : {"2d", "4d"}
            What the kernel takes where `given` is None and padding has come in.
        """
        if given is None:
            return self._causal(queries, keys, form) if self.ragged else None
        if given.ndim == 2:
            return take(given, self._columns(given.shape[-1]), 1, fill=0)
        prompt = queries == self.source.shape[1] and keys == queries
        columns = self._columns(given.shape[-1])
        given = given.expand(len(self.source), *given.shape[1:])
        closed = False if given.dtype == torch.bool else torch.finfo(given.dtype).min
        if prompt:
            given = take(given, self.source, 2, fill=closed)
        found = take(given, columns, 3, fill=closed)
        if (
            prompt and self.ragged
        ):  # a row that sees nothing would be NaN in some kernels: padding sees itself
            open_ = True if given.dtype == torch.bool else 0
            itself = torch.diag_embed(~self.valid)[:, None]
            found = found.masked_fill(itself, open_)
        return found

    def _columns(self, keys: int) -> Tensor:
        """Columns of the full mask (B, K') of the segment's keys and all that followed the prompt."""
        later = torch.arange(self.length, keys, device=self.source.device).expand(len(self.source), -1)
        return torch.cat([self.source, later], dim=1)

    def _causal(self, queries: int, keys: int, form: str) -> Tensor:
        later = torch.ones(len(self.source), keys - self.source.shape[1], device=self.source.device)
        seen = torch.cat([self.valid, later.bool()], dim=1)
        if form == "2d":
            return seen.long()
        causal = torch.ones(queries, keys, dtype=torch.bool, device=seen.device).tril(keys - queries)
        found = (causal & seen[:, None])[:, None]
        if queries == keys:
            found = found | torch.diag_embed(~seen)[:, None]
        return found


def take(tensor: Tensor, index: Tensor, axis: int, fill: float = 0) -> Tensor:
    """Entries `index` (B, K), −1 for `fill`, along `axis` of a tensor (B, ...), row by row."""
    shape = [len(index)] + [1] * (tensor.ndim - 1)
    shape[axis] = index.shape[1]
    index = index.to(tensor.device).reshape(shape)
    target = list(tensor.shape)
    target[axis] = index.shape[axis]
    found = tensor.gather(axis, index.clamp(min=0).expand(target))
    return found.masked_fill(index < 0, fill)


def visible(given: Tensor | None, segment: Segment, row: int, queries: Tensor) -> Tensor:
    """What places `queries` (Q,) of a row may see in a prompt under the mask `given`, as a bias (Q, L')."""
    if given is not None and given.ndim == 4:
        found = given[row if given.shape[0] > 1 else 0, 0, queries]
        return found if found.dtype != torch.bool else _bias(found)
    places = torch.arange(segment.source.shape[1], device=queries.device)
    return _bias((places <= queries[:, None]) & segment.valid[row].to(queries.device))


def _bias(seen: Tensor) -> Tensor:
    return torch.zeros(seen.shape, device=seen.device).masked_fill(~seen, float("-inf"))
