"""Check what is asked of pruning inside the LLM, before a block and during its calls.

Layers that work on different numbers of tokens need a cache whose layers may differ in length, attention without windows,
kernels whose masks can be cut, and the whole prompt in one call.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from transformers.cache_utils import DynamicLayer

from vlm_bridge.budget import PerTile, Shared, Spectral, check_keep
from vlm_bridge.errors import BridgeError
from vlm_bridge.live.inside.attention import check_layer
from vlm_bridge.model.decoder import STATELESS, decoder_of, is_bidirectional, layer_kinds, unscored_layers
from vlm_bridge.model.families import Family, check_contract
from vlm_bridge.model.layout import POSITIONS
from vlm_bridge.pruners import find_pruner
from vlm_bridge.pruners.inside import Stage
from vlm_bridge.pruners.plan import Pruner

_KERNELS = ("sdpa", "eager")


@dataclass(frozen=True, kw_only=True)
class InsideSettings:
    """The arguments of `prune` for a pruner inside the LLM, checked before the model is touched.

    Raises
    ------
    BridgeError
        A value that no model could make right.
    """

    keep: Any
    method: str
    positions: str = "keep"
    signals: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.positions not in POSITIONS:
            raise BridgeError(f"positions = {self.positions!r}: expected one of {', '.join(POSITIONS)}.")
        if isinstance(self.keep, (PerTile, Shared, Spectral)):
            raise BridgeError(
                f"keep = {self.keep!r}: pruner {self.method!r} acts inside the LLM, which cuts each image as a whole: expected a "
                "token count, a share, AtMost, or one of these for each image."
            )
        if self.keep is not None:
            check_keep(self.keep)
        for name in self.signals:
            raise BridgeError(
                f"{name}: pruner {self.method!r} reads its signals from the model, and takes none; leave it out, or pass "
                "it to select_tokens."
            )
        for name in self.options:
            if name not in self.allowed:
                raise BridgeError(
                    f"pruner {self.method!r} has no option {name!r}. Its options: {', '.join(self.allowed)}."
                )

    @property
    def pruner(self) -> Pruner:
        """The pruner."""
        return find_pruner(self.method)

    @property
    def allowed(self) -> tuple[str, ...]:
        """Names of the options of the schedule and of the plan."""
        return tuple(dict.fromkeys([*self._of_schedule, *self.pruner.options]))

    @property
    def of_plan(self) -> dict[str, Any]:
        """Options that the plan is called with."""
        return {name: value for name, value in self.options.items() if name in self.pruner.options}

    @property
    def _of_schedule(self) -> tuple[str, ...]:
        assert self.pruner.inside is not None
        parameters = inspect.signature(self.pruner.inside.schedule).parameters.values()
        return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)

    def stages(self, layers: int, n: int, keep: Any) -> tuple[Stage, ...]:
        """Schedule the cuts of an image of n tokens in a decoder with so many layers."""
        assert self.pruner.inside is not None
        options = {name: value for name, value in self.options.items() if name in self._of_schedule}
        return self.pruner.inside.schedule(layers, n, keep, **options)

    def budgets(self, images: int) -> list[Any]:
        """Return the budget of each image."""
        keep = self.keep.tolist() if hasattr(self.keep, "tolist") else self.keep
        if not isinstance(keep, (list, tuple)):
            return [keep] * images
        if len(keep) != images:
            raise BridgeError(
                f"keep lists {len(keep)} budgets for {images} images; give one, or one per image."
            )
        return list(keep)


def check_model(model: Any) -> Any:
    """Return the model's text decoder, if pruning inside it computes what it should.

    Raises
    ------
    BridgeError
        The model is of a kind that cannot be pruned inside; the message says why.
    """
    name = type(model).__name__
    kind = str(getattr(getattr(model, "config", None), "model_type", None))
    check_contract(model)
    if is_bidirectional(model):
        raise BridgeError(
            f"{name} is not pruned inside the LLM: tokens of an image see those behind them. Use a pruner that "
            "acts before the LLM, such as 'spare'."
        )
    config = model.config.get_text_config()
    kinds = layer_kinds(model) - STATELESS
    odd = unscored_layers(model)
    if odd:
        raise BridgeError(
            f"{name} has layers of type {', '.join(odd)}, which carry a state from token to token or choose among "
            "keys by place: dropped tokens would stay in them. Use a pruner that acts before the LLM, such as 'spare'."
        )
    decoder = decoder_of(model, Family(kind))
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList) or len(layers) < 2 or not hasattr(decoder, "norm"):
        raise BridgeError(
            f"{name}: the decoder's layers and final norm cannot be found. Use a pruner that acts before the "
            "LLM, such as 'spare'."
        )
    if kinds - {"full_attention"} or (not kinds and getattr(config, "sliding_window", None) is not None):
        raise BridgeError(
            f"{name} has layers with {', '.join(sorted(kinds - {'full_attention'})) or 'a sliding window'}: "
            "windows are counted in tokens of the cache and would reach further after pruning. Use a pruner that acts "
            "before the LLM, such as 'spare'."
        )
    for layer in layers:
        check_layer(layer)
    kernel_form(model)
    if len({parameter.device for parameter in layers.parameters()}) > 1:
        raise BridgeError(
            f"{name}: the decoder lies on several devices, which pruning inside it does not support: load it on one."
        )
    if model.training and any(getattr(layer, "gradient_checkpointing", False) for layer in layers):
        raise BridgeError("gradient checkpointing runs layers twice; switch it off to prune inside the LLM.")
    return decoder


def kernel_form(model: Any) -> str:
    """Return the form of masks, "2d" or "4d", that the model's attention kernel takes."""
    used = str(getattr(model.config.get_text_config(), "_attn_implementation", "eager"))
    if used in _KERNELS:
        return "4d"
    if used.startswith("flash_attention"):
        return "2d"
    raise BridgeError(
        f"attn_implementation={used!r} takes masks that cannot be cut; load the model with sdpa, eager or "
        "flash_attention_2."
    )


def check_decoding(model: Any, arguments: Mapping[str, Any]) -> None:
    """Refuse ways to generate that fail when layers work on different numbers of tokens."""
    configs = [arguments.get("generation_config"), getattr(model, "generation_config", None)]
    for name, reason in (
        ("prompt_lookup_num_tokens", "rejected candidates are cut off by absolute lengths"),
        ("prefill_chunk_size", "a chunk does not hold the whole prompt"),
        ("assistant_early_exit", "layers are left out"),
    ):
        found = arguments.get(name, next((v for c in configs if (v := getattr(c, name, None))), None))
        if found:
            raise BridgeError(f"generate({name}=...) cannot be used with pruning inside the LLM: {reason}.")
    kind = arguments.get("cache_implementation") or next(
        (v for c in configs if (v := getattr(c, "cache_implementation", None))), None
    )
    if kind not in (None, "dynamic", "dynamic_full"):
        raise BridgeError(
            f"cache_implementation={kind!r}: its layers have one length; pruning inside the LLM expects a "
            "dynamic cache, the default."
        )


def check_cache(cache: Any) -> None:
    """Refuse a cache whose layers cannot differ in length."""
    layers = getattr(cache, "layers", ()) or ()
    if cache is not None and (
        not hasattr(cache, "layers") or any(type(x) is not DynamicLayer for x in layers)
    ):
        raise BridgeError(
            f"{type(cache).__name__}: pruning inside the LLM expects a DynamicCache without sliding windows or "
            "quantisation."
        )
