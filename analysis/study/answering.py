"""Answers of many prunings at once, without `generate`; of several words, each is predicted given the right ones before it.

A pruned model is the unpruned one without the dropped tokens, the others at their places (the oracle of the bridge's
tests). So every set of kept tokens is a prefix of its own in one batch, and the questions follow it side by side,
unable to attend to each other: one forward pass answers them all. Folded tokens add the logarithm of their sizes to the mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

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
        How many tokens each stands for, where attention takes it into account.
    """

    rows: Tensor
    places: Tensor
    asked: tuple[int, ...]
    sizes: Tensor | None = None


def answers(
    checkpoint: Checkpoint,
    encoded: EncodedImage,
    prefixes: Sequence[Prefix],
    done: Callable[[int], Any] = lambda count: None,
) -> list[list[Tensor]]:
    """Return the most probable words of the answer to every question of every prefix, as ids (words of the answer,).

    ``done`` is called after each batch with the number of its prefixes.
    """
    return [[one.argmax(-1) for one in rows] for rows in logits(checkpoint, encoded, prefixes, done)]


@torch.no_grad()
def logits(
    checkpoint: Checkpoint,
    encoded: EncodedImage,
    prefixes: Sequence[Prefix],
    done: Callable[[int], Any] = lambda count: None,
) -> list[list[Tensor]]:
    """Return the logits (words of the answer, vocabulary) for every question of every prefix."""
    texts = [len(encoded.text(q)) for q in range(len(encoded.questions))]
    length = [len(encoded.before) + len(p.rows) + sum(texts[q] for q in p.asked) for p in prefixes]
    order = sorted(range(len(prefixes)), key=length.__getitem__)
    found: list[list[Tensor]] = [[] for _ in prefixes]
    for batch in _batches(order, length):
        inputs = side_by_side(checkpoint, encoded, [prefixes[i] for i in batch])
        rows = inputs.run(checkpoint.model)[0]
        for i in batch:
            found[i] = [next(rows) for _ in prefixes[i].asked]
        done(len(batch))
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


@dataclass(frozen=True)
class SideBySide:
    """What goes into the decoder: prefixes of a batch, each with its questions behind it.

    Attributes
    ----------
    embeddings : Tensor (B, L, d)
    positions : Tensor (B, L) of int64
    segments : Tensor (B, L) of int64
        The question that a token belongs to; −1: the prefix, −2: padding.
    bias : Tensor (B, L)
        Added to the attention that a token receives.
    ends : list of (row, first place, words)
        Where the words of the answers are predicted, prefix by prefix and question by question.
    """

    embeddings: Tensor
    positions: Tensor
    segments: Tensor
    bias: Tensor
    ends: list[tuple[int, int, int]]

    def run(self, model: Any, **options: Any) -> tuple[Iterator[Tensor], Any]:
        """Return the logits (words of the answer, vocabulary) of each answer, and the decoder's output."""
        x = self.embeddings.to(model.dtype)
        total = x.shape[1]
        causal = torch.ones(total, total, dtype=torch.bool).tril()
        same = (self.segments[:, :, None] == self.segments[:, None]) | (self.segments[:, None] == -1)
        mask = torch.where(same & causal, self.bias[:, None].to(x), torch.finfo(x.dtype).min)
        out = base_of(model).language_model(
            inputs_embeds=x, attention_mask=mask[:, None], position_ids=self.positions, use_cache=False, **options
        )  # fmt: skip
        rows = [i for i, _, words in self.ends for _ in range(words)]
        places = [first + j for _, first, words in self.ends for j in range(words)]
        words = model.lm_head(out.last_hidden_state[rows, places])
        return iter(words.split([words for *_, words in self.ends])), out


def side_by_side(checkpoint: Checkpoint, encoded: EncodedImage, prefixes: Sequence[Prefix]) -> SideBySide:
    """Return the input of a batch of prefixes."""
    b, n = len(encoded.before), len(encoded.tokens)
    texts = [checkpoint.embed(encoded.text(q)) for q in range(len(encoded.questions))]
    total = max(b + len(p.rows) + sum(len(texts[q]) for q in p.asked) for p in prefixes)
    x = encoded.tokens.new_zeros(len(prefixes), total, encoded.tokens.shape[1])
    positions = torch.zeros(len(prefixes), total, dtype=torch.int64)
    segments = torch.full((len(prefixes), total), -2)
    bias = torch.zeros(len(prefixes), total)
    ends = []
    for i, p in enumerate(prefixes):
        at = b + len(p.rows)
        x[i, :at] = torch.cat([encoded.before, p.rows.to(encoded.before)])
        positions[i, :at] = torch.cat([torch.arange(b), b + p.places])
        segments[i, :at] = -1
        if p.sizes is not None:
            bias[i, b:at] = p.sizes.log().to(bias)
        for q in p.asked:
            end = at + len(texts[q])
            x[i, at:end] = texts[q]
            positions[i, at:end] = torch.arange(b + n, b + n + end - at)
            segments[i, at:end] = q
            ends.append((i, at + len(encoded.questions[q]) - 1, encoded.words(q)))
            at = end
    return SideBySide(x, positions, segments, bias, ends)
