"""Tokens, KV-cache bytes and prefill FLOPs, from the model's own config.

An estimate of the decoder only: the vision tower runs either way. A multiply-add counts two FLOPs;
attention is counted in full (no causal halving), as the pruning papers do; norms, softmax, embedding and
head are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch


@dataclass(frozen=True)
class Cost:
    """Before and after pruning, summed over prompts; adds up with ``+``.

    Attributes
    ----------
    tokens_before, tokens_after : int
        Visual tokens.
    prompt_before, prompt_after : int
        All tokens of the prompts, padding excluded.
    kv_bytes_before, kv_bytes_after : int
        Keys and values of the prompts in the model's dtype.
    flops_before, flops_after : float
        Prefill.
    """

    tokens_before: int = 0
    tokens_after: int = 0
    prompt_before: int = 0
    prompt_after: int = 0
    kv_bytes_before: int = 0
    kv_bytes_after: int = 0
    flops_before: float = 0.0
    flops_after: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


@dataclass(frozen=True)
class Decoder:
    """The sizes that cost depends on."""

    layers: int
    width: int
    heads: int
    key_heads: int
    head_width: int
    mlp_width: int
    bytes_per_value: int

    @classmethod
    def of(cls, model: Any) -> Decoder | None:
        """Read from ``config.get_text_config()``; None where the config does not name them."""
        config = model.config.get_text_config()
        try:
            heads, width = config.num_attention_heads, config.hidden_size
            return cls(
                layers=config.num_hidden_layers,
                width=width,
                heads=heads,
                key_heads=getattr(config, "num_key_value_heads", None) or heads,
                head_width=getattr(config, "head_dim", None) or width // heads,
                mlp_width=config.intermediate_size,
                bytes_per_value=torch.finfo(model.dtype).bits // 8,
            )
        except AttributeError:
            return None

    def kv_bytes(self, n: int) -> int:
        """KV-cache bytes of n tokens."""
        return 2 * self.layers * self.key_heads * self.head_width * self.bytes_per_value * n

    def prefill_flops(self, n: int) -> float:
        """FLOPs of a prefill of n tokens (gated MLP: three matrices)."""
        attention = self.width * self.head_width * (2 * self.heads + 2 * self.key_heads)
        linear = 2 * n * (attention + 3 * self.width * self.mlp_width)
        return float(self.layers * (linear + 4 * n * n * self.heads * self.head_width))


def cost_of(model: Any, visual: tuple[int, int], before: Sequence[int], after: Sequence[int]) -> Cost:
    """Cost of one call.

    Parameters
    ----------
    model : PreTrainedModel
    visual : (int, int)
        Visual tokens before and after.
    before, after : sequences of int
        Real tokens of every prompt of the batch.
    """
    decoder = Decoder.of(model)
    if decoder is None:
        return Cost(*visual, sum(before), sum(after))
    kv = [sum(decoder.kv_bytes(n) for n in prompts) for prompts in (before, after)]
    flops = [sum(decoder.prefill_flops(n) for n in prompts) for prompts in (before, after)]
    return Cost(*visual, sum(before), sum(after), *kv, *flops)


def cost_of_layers(
    model: Any, lengths: list[int], rows: list[int], layers: list[tuple[int, ...]], visual: int
) -> Cost:
    """Cost of one call in which layers work on different numbers of tokens, summed over the layers.

    Parameters
    ----------
    model : PreTrainedModel
    lengths : list of int
        Real tokens of every prompt.
    rows : list of int
        Prompt of each image.
    layers : list of tuples of int
        Tokens of each image in every layer; all of them in the first.
    visual : int
        Tokens of all images before pruning.

    Returns
    -------
    Cost
        "After" for tokens and prompts is what the last layer works on. Reading attention is not counted.
    """
    per_layer = [list(lengths) for _ in layers[0]]
    for row, counts in zip(rows, layers, strict=True):
        for index, count in enumerate(counts):
            per_layer[index][row] -= counts[0] - count
    prompts = (sum(lengths), sum(per_layer[-1]))
    tokens = (visual, sum(counts[-1] for counts in layers))
    decoder = Decoder.of(model)
    if decoder is None:
        return Cost(*tokens, *prompts)
    one = replace(decoder, layers=1)
    depth = len(per_layer)
    kv = (
        depth * sum(map(one.kv_bytes, lengths)),
        sum(one.kv_bytes(n) for layer in per_layer for n in layer),
    )
    flops = (
        depth * sum(map(one.prefill_flops, lengths)),
        sum(one.prefill_flops(n) for layer in per_layer for n in layer),
    )
    return Cost(*tokens, *prompts, *kv, *flops)
