"""The decoder of DECIMER: six transformer layers that attend to the visual tokens and write one symbol after another.

Positions are added to queries and self-attention keys in every layer, and a code of the 16 x 16 grid to the keys of the
visual tokens, so tokens that are kept keep their places.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

LAYERS, WIDTH, HEADS, GRID, LONGEST = 6, 512, 8, 16, 302
EPS = 1e-6

#: Weight and bias.
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Attention:
    """The four linear maps of an attention."""

    query: Pair
    key: Pair
    value: Pair
    out: Pair


@dataclass(frozen=True)
class Layer:
    """Attention to the symbols before, to the visual tokens, and a feed-forward network; a normalisation after each."""

    own: Attention
    visual: Attention
    widen: Pair
    narrow: Pair
    norms: tuple[Pair, Pair, Pair]


@dataclass
class Memory:
    """Keys and values of the visual tokens in every layer, and of the symbols written so far.

    Attributes
    ----------
    visual : list of (keys, values), each (B, heads, tokens, width / heads)
    own : list of the same, of symbols; empty before the first
    received : Tensor (B, tokens), optional
        If there, attention is added to it: of all symbols, the mean over layers and heads.
    """

    visual: list[tuple[Tensor, Tensor]]
    own: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    received: Tensor | None = None

    @property
    def written(self) -> int:
        """How many symbols were written."""
        return self.own[0][0].shape[2] if self.own else 0


class Decoder:
    """The transformer.

    Parameters
    ----------
    variables : sequence of arrays
        In the order of the checkpoint: embeddings, layers, output.
    """

    def __init__(self, variables: Sequence[np.ndarray]):
        queue = iter(variables)
        self.embeddings = torch.tensor(next(queue)) * math.sqrt(WIDTH)
        self.layers = [_layer(queue) for _ in range(LAYERS)]
        self.out = _pair(queue)
        if left := len(list(queue)):
            raise ValueError(f"expected the variables of a decoder of {LAYERS} layers, got {left} too many.")
        self.places = torch.tensor(sinusoid(LONGEST, WIDTH), dtype=torch.float32)
        side = sinusoid(GRID, WIDTH // 2)
        grid = np.concatenate([np.repeat(side, GRID, 0), np.tile(side, (GRID, 1))], 1)
        self.grid = torch.tensor(grid, dtype=torch.float32)

    def look(self, tokens: Tensor, keep: Tensor | None = None) -> Memory:
        """Return the memory of the kept tokens.

        Parameters
        ----------
        tokens : Tensor (B, 256, 512)
        keep : Tensor (B, k) of indices, optional
        """
        grid = self.grid.expand_as(tokens)
        if keep is not None:
            at = keep[:, :, None].expand(-1, -1, WIDTH)
            tokens, grid = tokens.gather(1, at), grid.gather(1, at)
        maps = [layer.visual for layer in self.layers]
        return Memory(
            [(_heads(F.linear(tokens, *m.key) + grid), _heads(F.linear(tokens, *m.value))) for m in maps]
        )

    def write(self, ids: Tensor, memory: Memory) -> Tensor:
        """Return the logits (B, T, symbols) of what follows each of the symbols ids (B, T), which enter the memory.

        Either ids are the first symbols, or one symbol is written.
        """
        start = memory.written
        places = self.places[start : start + ids.shape[1]]
        x = self.embeddings[ids]
        own = []
        for i, layer in enumerate(self.layers):
            query, key = (_heads(F.linear(x, *m) + places) for m in (layer.own.query, layer.own.key))
            value = _heads(F.linear(x, *layer.own.value))
            if memory.own:
                key, value = (torch.cat(pair, 2) for pair in zip(memory.own[i], (key, value), strict=True))
            own.append((key, value))
            mixed = F.scaled_dot_product_attention(query, key, value, is_causal=not memory.own)
            x = _norm(x + _joined(mixed, layer.own.out), layer.norms[0])
            query = _heads(F.linear(x, *layer.visual.query) + places)
            key, value = memory.visual[i]
            if memory.received is not None:
                scores = (query @ key.mT / math.sqrt(query.shape[-1])).softmax(-1)
                memory.received = memory.received + scores.mean(1).sum(1) / LAYERS
            x = _norm(
                x + _joined(F.scaled_dot_product_attention(query, key, value), layer.visual.out),
                layer.norms[1],
            )
            x = _norm(x + F.linear(F.relu(F.linear(x, *layer.widen)), *layer.narrow), layer.norms[2])
        memory.own = own
        return F.linear(x, *self.out)


def sinusoid(places: int, width: int) -> np.ndarray:
    """Return codes (places, width) of positions: sines and cosines of falling frequency (Vaswani et al., NeurIPS 2017)."""
    number = np.arange(width)
    angle = np.arange(places)[:, None] / 10000.0 ** (2 * (number // 2) / width)
    return np.where(number % 2 == 0, np.sin(angle), np.cos(angle))


def _pair(queue: Iterator[np.ndarray]) -> Pair:
    weight, bias = next(queue), next(queue)
    return torch.tensor(np.ascontiguousarray(weight.T)), torch.tensor(bias)


def _layer(queue: Iterator[np.ndarray]) -> Layer:
    own, visual = (Attention(*(_pair(queue) for _ in range(4))) for _ in range(2))
    widen, narrow, *norms = (_pair(queue) for _ in range(5))
    return Layer(own, visual, widen, narrow, tuple(norms))  # type: ignore[arg-type]


def _heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def _joined(heads: Tensor, out: Pair) -> Tensor:
    return F.linear(heads.transpose(1, 2).flatten(2), *out)


def _norm(x: Tensor, norm: Pair) -> Tensor:
    return F.layer_norm(x, (WIDTH,), *norm, EPS)
