"""Estimate tokens, KV-cache bytes and prefill FLOPs from the model's config, and when pruning pays.

The estimate covers the decoder only, since the vision tower runs either way. A multiply-add counts as two FLOPs. Attention
is counted in full, without causal halving and windows, as the pruning papers do. Norms, softmax, rotary embedding,
embedding and head are left out.

Pruning takes the time to choose, ``seconds``. It saves ``flops_saved`` once, in the prefill, at the device's FLOP/s. It saves
``kv_bytes_saved`` with every generated token, since a decoding step reads the whole KV cache, at the device's bytes/s.
Weights, activations and kernel launches cost the same either way; prompts of a batch decode together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from vlm_bridge.errors import BridgeError


@dataclass(frozen=True)
class Cost:
    """Cost of the decoder before and after pruning, summed over prompts; costs add up with ``+``.

    Attributes
    ----------
    tokens_before, tokens_after : int
        Number of visual tokens.
    prompt_before, prompt_after : int
        Number of all tokens of the prompts, padding excluded.
    kv_bytes_before, kv_bytes_after : int
        Bytes of the prompts' keys and values in the model's dtype.
    flops_before, flops_after : float
        FLOPs of the prefill.
    seconds : float
        Time to choose, without encoder and signals. It is measured, and hence not compared by ``==``.
    """

    tokens_before: int = 0
    tokens_after: int = 0
    prompt_before: int = 0
    prompt_after: int = 0
    kv_bytes_before: int = 0
    kv_bytes_after: int = 0
    flops_before: float = 0.0
    flops_after: float = 0.0
    seconds: float = field(default=0.0, compare=False)

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def flops_saved(self) -> float:
        """FLOPs that the prefill saves."""
        return self.flops_before - self.flops_after

    @property
    def kv_bytes_saved(self) -> int:
        """Bytes of KV cache that are saved: in memory, and in traffic with every decoding step."""
        return self.kv_bytes_before - self.kv_bytes_after

    @property
    def break_even_rate(self) -> float:
        """FLOP/s below which the prefill alone pays for choosing; infinite where no time was measured."""
        if self.seconds == 0:
            return math.inf if self.flops_saved > 0 else 0.0
        return self.flops_saved / self.seconds

    def break_even(self, flops_per_second: float, bytes_per_second: float = math.inf) -> float:
        """Return the number of generated tokens, for every prompt, from which pruning pays for the time to choose.

        Parameters
        ----------
        flops_per_second : float
            Rate that the device reaches in a prefill, not its peak.
        bytes_per_second : float
            Memory bandwidth that it reaches in decoding; by default reading the cache costs nothing.

        Returns
        -------
        float
            0 where the prefill alone pays, infinite where pruning never pays; a fraction means within the next token.

        Raises
        ------
        BridgeError
            A rate is not positive.

        Examples
        --------
        >>> Cost(kv_bytes_before=3000, kv_bytes_after=1000, flops_before=2e9, flops_after=1e9, seconds=2).break_even(1e9, 1e3)
        0.5
        """
        for name, rate in (("flops_per_second", flops_per_second), ("bytes_per_second", bytes_per_second)):
            if not rate > 0:
                raise BridgeError(f"{name} = {rate!r}: expected a positive rate.")
        missing = self.seconds - self.flops_saved / flops_per_second
        if missing <= 0:
            return 0.0
        per_token = self.kv_bytes_saved / bytes_per_second
        return missing / per_token if per_token > 0 else math.inf

    def __str__(self) -> str:
        prompt = f"prompt {self.prompt_before} -> {self.prompt_after} tokens"
        if not self.flops_before:
            return f"{prompt} (the config does not name the decoder's sizes)"
        cache = f"KV cache {_scaled(self.kv_bytes_before, 'B')} -> {_scaled(self.kv_bytes_after, 'B')}"
        work = f"prefill {_scaled(self.flops_before, 'FLOP')} -> {_scaled(self.flops_after, 'FLOP')}"
        rate = _scaled(self.break_even_rate, "FLOP/s")
        return (
            f"{prompt}, {cache}, {work}; below {rate} the shorter prefill makes up for the time of choosing"
        )


def _scaled(value: float, unit: str) -> str:
    """Format a value with three digits and a decimal prefix, as in 1.25 GB."""
    if not math.isfinite(value) or value <= 0:
        return f"{value:g} {unit}"
    power = min(max(int(math.log10(value) // 3), 0), 5)
    return f"{value / 1000**power:.3g} {('', 'k', 'M', 'G', 'T', 'P')[power]}{unit}"


@dataclass(frozen=True)
class Decoder:
    """The sizes of a decoder that its cost depends on.

    Attributes
    ----------
    layers, width, heads, key_heads, head_width : int
    mlp_width : int
        Width of a gated MLP (three matrices), or of all experts together that a token is sent to.
    bytes_per_value : int
    window, windowed : int
        Number of tokens that the cache of a layer with a sliding window holds, and number of such layers.
    experts : int
        Width of the router in front of experts.
    """

    layers: int
    width: int
    heads: int
    key_heads: int
    head_width: int
    mlp_width: int
    bytes_per_value: int
    window: int = 0
    windowed: int = 0
    experts: int = 0

    @classmethod
    def of(cls, model: Any) -> Decoder | None:
        """Read the sizes from ``config.get_text_config()``; None where it does not name them or layers differ."""
        config = model.config.get_text_config()
        if getattr(config, "is_heterogeneous", False):
            return None
        kinds = _layer_kinds(config)
        if set(kinds) - {"full_attention", "sliding_attention"}:
            return None
        try:
            heads, width = config.num_attention_heads, config.hidden_size
            sizes = cls(
                layers=config.num_hidden_layers,
                width=width,
                heads=heads,
                key_heads=getattr(config, "num_key_value_heads", None) or heads,
                head_width=getattr(config, "head_dim", None) or width // heads,
                mlp_width=_mlp_width(config),
                bytes_per_value=torch.finfo(model.dtype).bits // 8,
                window=(getattr(config, "sliding_window", None) or 1) - 1,
                windowed=kinds.count("sliding_attention"),
                experts=(getattr(config, "num_experts", None) or 0) if _has_experts(config) else 0,
            )
        except (AttributeError, TypeError):
            return None
        return sizes if all(isinstance(size, int) for size in vars(sizes).values()) else None

    def kv_bytes(self, n: int) -> int:
        """Return the KV-cache bytes of n tokens."""
        stored = (self.layers - self.windowed) * n + self.windowed * min(n, self.window)
        return 2 * self.key_heads * self.head_width * self.bytes_per_value * stored

    def prefill_flops(self, n: int) -> float:
        """Return the FLOPs of a prefill of n tokens."""
        attention = self.width * self.head_width * (2 * self.heads + 2 * self.key_heads)
        linear = 2 * n * (attention + self.width * (3 * self.mlp_width + self.experts))
        return float(self.layers * (linear + 4 * n * n * self.heads * self.head_width))


def _layer_kinds(config: Any) -> list[str]:
    """List the kind of attention of every layer, by the rule by which transformers builds its cache."""
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return list(kinds)
    windows = getattr(config, "sliding_window", None) is not None
    return ["sliding_attention"] * config.num_hidden_layers if windows else []


def _has_experts(config: Any) -> bool:
    """Tell whether tokens are sent to experts."""
    return bool(
        getattr(config, "num_experts_per_tok", None) and getattr(config, "moe_intermediate_size", None)
    )


def _mlp_width(config: Any) -> int:
    """Return the width of a dense MLP, or of the experts of a token; raise AttributeError where layers differ."""
    if not _has_experts(config):
        return config.intermediate_size
    mixed = getattr(config, "mlp_only_layers", None) or getattr(config, "first_k_dense_replace", 0)
    if mixed or getattr(config, "decoder_sparse_step", 1) != 1 or getattr(config, "n_shared_experts", None):
        raise AttributeError("layers with and without experts")
    return config.num_experts_per_tok * config.moe_intermediate_size


def cost_of(model: Any, visual: tuple[int, int], before: Sequence[int], after: Sequence[int]) -> Cost:
    """Estimate the cost of one call.

    Parameters
    ----------
    model : PreTrainedModel
    visual : (int, int)
        Number of visual tokens before and after.
    before, after : sequences of int
        Number of tokens of every prompt, padding excluded.
    """
    decoder = Decoder.of(model)
    if decoder is None:
        return Cost(*visual, sum(before), sum(after))
    kv = [sum(decoder.kv_bytes(n) for n in prompts) for prompts in (before, after)]
    flops = [sum(decoder.prefill_flops(n) for n in prompts) for prompts in (before, after)]
    return Cost(*visual, sum(before), sum(after), *kv, *flops)


def cost_of_layers(
    model: Any, lengths: list[int], items: list[int], layers: list[tuple[int, ...]], visual: int
) -> Cost:
    """Estimate the cost of one call in which layers work on different numbers of tokens.

    Parameters
    ----------
    model : PreTrainedModel
    lengths : list of int
        Number of tokens of every prompt, padding excluded.
    items : list of int
        Index of the prompt of each image.
    layers : list of tuples of int
        Number of tokens of each image in every layer; all of them in the first.
    visual : int
        Number of tokens of all images before pruning.

    Returns
    -------
    Cost
        KV cache and FLOPs are summed over the layers; tokens and prompts "after" are those of the last layer. Computing
        the attention that a pruner reads is not counted.
    """
    per_layer = [list(lengths) for _ in layers[0]]
    for item, counts in zip(items, layers, strict=True):
        for index, count in enumerate(counts):
            per_layer[index][item] -= counts[0] - count
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
