"""Answers of many prunings at once, without `generate`.

A pruned model is the unpruned one without the dropped tokens, the others at their places (the oracle of the bridge's
tests). So every set of kept tokens is a prefix of its own in one batch, and the questions follow it side by side,
unable to attend to each other: one forward pass answers them all. Folded tokens add the logarithm of their sizes to the mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from analysis.study.encoding import Checkpoint, EncodedImage
from vlm_bridge.model.families import base_of

BUDGET = 6000  # tokens of one batch, padding included


@dataclass(frozen=True)
class Prefix:
    """Visual tokens as they go in, and who is asked about them.

    Attributes
    ----------
    rows : Tensor (k, d)
    places : Tensor (k,) of int64
        Among the image's tokens.
    asked : tuple of int
        Numbers of the questions.
    sizes : Tensor (k,), optional
        How many tokens each stands for, where attention is told.
    """

    rows: Tensor
    places: Tensor
    asked: tuple[int, ...]
    sizes: Tensor | None = None


def answers(checkpoint: Checkpoint, encoded: EncodedImage, prefixes: Sequence[Prefix]) -> list[list[int]]:
    """Return the most probable next word for every question of every prefix, as ids."""
    return [one.argmax(-1).tolist() for one in logits(checkpoint, encoded, prefixes)]


@torch.no_grad()
def logits(checkpoint: Checkpoint, encoded: EncodedImage, prefixes: Sequence[Prefix]) -> list[Tensor]:
    """Return the logits (questions asked, words) of the next word after every prefix."""
    length = [
        len(encoded.before) + len(p.rows) + sum(len(encoded.questions[q]) for q in p.asked) for p in prefixes
    ]
    order = sorted(range(len(prefixes)), key=length.__getitem__)
    found = [encoded.tokens] * len(prefixes)
    for batch in _batches(order, length):
        for i, one in zip(batch, _batch(checkpoint, encoded, [prefixes[i] for i in batch]), strict=True):
            found[i] = one
    return found


def _batches(order: Sequence[int], length: Sequence[int]) -> Iterator[list[int]]:
    """Yield the runs of similar length, each of at most `BUDGET` tokens."""
    batch: list[int] = []
    for i in order:
        if batch and length[i] * (len(batch) + 1) > BUDGET:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _batch(checkpoint: Checkpoint, encoded: EncodedImage, prefixes: Sequence[Prefix]) -> list[Tensor]:
    b, n = len(encoded.before), len(encoded.tokens)
    texts = [checkpoint.embed(ids) for ids in encoded.questions]
    total = max(b + len(p.rows) + sum(len(texts[q]) for q in p.asked) for p in prefixes)
    x = encoded.tokens.new_zeros(len(prefixes), total, encoded.tokens.shape[1])
    positions = torch.zeros(len(prefixes), total, dtype=torch.int64)
    segment = torch.full((len(prefixes), total), -2)  # -1: the prefix, -2: padding
    bias = torch.zeros(len(prefixes), total)
    last: list[list[int]] = []
    for i, p in enumerate(prefixes):
        at = b + len(p.rows)
        x[i, :at] = torch.cat([encoded.before, p.rows.to(encoded.before)])
        positions[i, :at] = torch.cat([torch.arange(b), b + p.places])
        segment[i, :at] = -1
        if p.sizes is not None:
            bias[i, b:at] = p.sizes.log().to(bias)
        last.append([])
        for q in p.asked:
            end = at + len(texts[q])
            x[i, at:end] = texts[q]
            positions[i, at:end] = torch.arange(b + n, b + n + end - at)
            segment[i, at:end] = q
            last[i].append(end - 1)
            at = end
    causal = torch.ones(total, total, dtype=torch.bool).tril()
    same = (segment[:, :, None] == segment[:, None]) | (segment[:, None] == -1)
    x = x.to(checkpoint.answering.dtype)
    mask = torch.where(same & causal, bias[:, None].to(x), torch.finfo(x.dtype).min)
    decoder = base_of(checkpoint.answering).language_model
    hidden = decoder(
        inputs_embeds=x, attention_mask=mask[:, None], position_ids=positions, use_cache=False
    ).last_hidden_state
    rows = [i for i, ends in enumerate(last) for _ in ends]
    words = checkpoint.answering.lm_head(hidden[rows, [end for ends in last for end in ends]])
    return list(words.split([len(ends) for ends in last]))
