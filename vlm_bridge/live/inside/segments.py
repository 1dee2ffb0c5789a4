"""Describe the shortened sequences that runs of decoder layers work on, and cut the masks that go with them.

A segment selects columns of the prompt, for each item of the batch, with padding where items keep different numbers. Masks
are gathered from the one that the decoder has made for the full prompt: what it says of two tokens holds while both remain.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Segment:
    """Columns of the prompt that remain, for each item of the batch.

    Attributes
    ----------
    source : Tensor (B, L')
        Column of the prompt at each place; −1 is padding.
    length : int
        L, the number of columns of the prompt.
    right : bool
        Whether padding stands on the right; else it stands on the left.
    """

    source: Tensor
    length: int
    right: bool

    @classmethod
    def full(cls, mask: Tensor) -> Segment:
        """Select all columns of a prompt whose real tokens are `mask` (B, L) bool."""
        columns = torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)
        right = bool((~mask[:, -1]).any()) and bool(mask[:, 0].all())
        return cls(torch.where(mask, columns, -1), mask.shape[1], right)

    @cached_property
    def valid(self) -> Tensor:
        """Places (B, L') bool that are no padding."""
        return self.source >= 0

    @cached_property
    def ragged(self) -> bool:
        """Whether there is padding."""
        return not bool(self.valid.all())

    @cached_property
    def packed(self) -> Tensor:
        """Positions (B, L') without gaps: 0, 1, ... over the tokens that remain."""
        return (self.valid.long().cumsum(-1) - 1).clamp(min=0)

    def narrowed(self, stay: Tensor) -> tuple[Segment, Tensor]:
        """Select the places `stay` (B, L') bool; return the segment, and the place (B, L'') each comes from, −1 padding."""
        stay = stay & self.valid
        width = int(stay.sum(1).max())
        order = torch.argsort((~stay if self.right else stay).long(), dim=1, stable=True)
        order = order[:, :width] if self.right else order[:, order.shape[1] - width :]
        index = torch.where(stay.gather(1, order), order, -1)
        source = torch.where(index >= 0, self.source.gather(1, order), -1)
        return Segment(source, self.length, self.right), index

    def mask(self, given: Tensor | None, queries: int, keys: int, form: str) -> Tensor | None:
        """Cut the decoder's mask to this segment.

        Parameters
        ----------
        given : Tensor (B or 1, 1, Q, K), (B, K) or None
            The mask for the full prompt: boolean or additive, padding only, or None for plain causal attention.
        queries, keys : int
            Q' new tokens of the segment, and K' keys once they are in. In the prompt itself Q' = K' = L'; later the
            keys are the segment's and those of all tokens that followed.
        form : {"2d", "4d"}
            The form that the kernel takes, for where `given` is None and there is padding.

        Returns
        -------
        Tensor (B, 1, Q', K'), (B, K') or None
            In the form of `given`.
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
        cut = take(given, columns, 3, fill=closed)
        if (
            prompt and self.ragged
        ):  # some kernels return NaN for a query that sees nothing: padding sees itself
            open_ = True if given.dtype == torch.bool else 0
            itself = torch.diag_embed(~self.valid)[:, None]
            cut = cut.masked_fill(itself, open_)
        return cut

    def _columns(self, keys: int) -> Tensor:
        """Return the columns (B, K') in the full mask of the segment's keys and of all that followed the prompt."""
        later = torch.arange(self.length, keys, device=self.source.device).expand(len(self.source), -1)
        return torch.cat([self.source, later], dim=1)

    def _causal(self, queries: int, keys: int, form: str) -> Tensor:
        """Make the mask of plain causal attention with padding."""
        later = torch.ones(len(self.source), keys - self.source.shape[1], device=self.source.device)
        seen = torch.cat([self.valid, later.bool()], dim=1)
        if form == "2d":
            return seen.long()
        causal = torch.ones(queries, keys, dtype=torch.bool, device=seen.device).tril(keys - queries)
        mask = (causal & seen[:, None])[:, None]
        if queries == keys:
            mask = mask | torch.diag_embed(~seen)[:, None]
        return mask


def take(tensor: Tensor, index: Tensor, axis: int, fill: float = 0) -> Tensor:
    """Gather entries `index` (B, K) along `axis` of a tensor (B, ...), item by item; −1 gives `fill`."""
    shape = [len(index)] + [1] * (tensor.ndim - 1)
    shape[axis] = index.shape[1]
    index = index.to(tensor.device).reshape(shape)
    target = list(tensor.shape)
    target[axis] = index.shape[axis]
    entries = tensor.gather(axis, index.clamp(min=0).expand(target))
    return entries.masked_fill(index < 0, fill)


def visible(given: Tensor | None, segment: Segment, item: int, queries: Tensor) -> Tensor:
    """Turn the mask `given` into a bias (Q, L') on what places `queries` (Q,) of an item see: 0, or −∞."""
    if given is not None and given.ndim == 4:
        seen = given[item if given.shape[0] > 1 else 0, 0, queries]
        return seen if seen.dtype != torch.bool else _bias(seen)
    places = torch.arange(segment.source.shape[1], device=queries.device)
    return _bias((places <= queries[:, None]) & segment.valid[item].to(queries.device))


def _bias(seen: Tensor) -> Tensor:
    return torch.zeros(seen.shape, device=seen.device).masked_fill(~seen, float("-inf"))
