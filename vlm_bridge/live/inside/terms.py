"""What is asked of pruning inside the LLM, and what is refused before and during a call.

Layers of different lengths need a cache that lets them, attention without windows, kernels whose masks can be
cut, and the whole prompt in one call.
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
from vlm_bridge.model.families import (
    STATELESS,
    Family,
    check_contract,
    decoder_of,
    is_bidirectional,
    layer_kinds,
    unscored_layers,
)
from vlm_bridge.model.layout import POSITIONS
from vlm_bridge.pruners import find_pruner
from vlm_bridge.pruners.inside import Stage
from vlm_bridge.pruners.plan import SIGNALS, Pruner

_KERNELS = ("sdpa", "eager")


@dataclass(frozen=True)
class InsideSettings:
    """What the caller asked for, checked before anything is touched."""

    keep: Any
    method: str
    positions: str = "keep"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.positions not in POSITIONS:
            raise BridgeError(f"positions = {self.positions!r}: allowed are {', '.join(POSITIONS)}.")
        if isinstance(self.keep, (PerTile, Shared, Spectral)):
            raise BridgeError(
                f"keep = {self.keep!r}: pruner {self.method!r} acts inside the LLM, where an image is one piece; "
                "give tokens, a share, AtMost, or one of these per image."
            )
        if self.keep is not None:
            check_keep(self.keep)
        for name in self.options:
            if name in SIGNALS:
                raise BridgeError(
                    f"{name}: pruner {self.method!r} reads its signals from the model; give them to "
                    "select_tokens instead."
                )
            if name not in self.allowed:
                raise BridgeError(
                    f"pruner {self.method!r} has no option {name!r}. Its options: {', '.join(self.allowed)}."
                )

    @property
    def pruner(self) -> Pruner:
        """The row."""
        return find_pruner(self.method)

    @property
    def allowed(self) -> tuple[str, ...]:
        """Options of the schedule and of the plan."""
        return tuple(dict.fromkeys([*self._of_schedule, *self.pruner.options]))

    @property
    def of_plan(self) -> dict[str, Any]:
        """Options that the plan is given."""
        return {name: value for name, value in self.options.items() if name in self.pruner.options}

    @property
    def _of_schedule(self) -> tuple[str, ...]:
        assert self.pruner.inside is not None
        found = inspect.signature(self.pruner.inside.schedule).parameters.values()
        return tuple(p.name for p in found if p.kind is p.KEYWORD_ONLY)

    def stages(self, layers: int, n: int, keep: Any) -> tuple[Stage, ...]:
        """The schedule of an image of n tokens."""
        assert self.pruner.inside is not None
        own = {name: value for name, value in self.options.items() if name in self._of_schedule}
        return self.pruner.inside.schedule(layers, n, keep, **own)

    def budgets(self, images: int) -> list[Any]:
        """`keep` of each image."""
        keep = self.keep.tolist() if hasattr(self.keep, "tolist") else self.keep
        if not isinstance(keep, (list, tuple)):
            return [keep] * images
        if len(keep) != images:
            raise BridgeError(
                f"keep lists {len(keep)} budgets for {images} images; give one, or one per image."
            )
        return list(keep)


def check_model(model: Any) -> Any:
    """The model's text decoder, if pruning inside it can be made right.

    Raises
    ------
    BridgeError
        With the reason.
    """
    name = type(model).__name__
    kind = str(getattr(getattr(model, "config", None), "model_type", None))
    check_contract(model)
    if is_bidirectional(model):
        raise BridgeError(f"{name} is not pruned inside the LLM: tokens of an image see those behind them.")
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
        raise BridgeError(f"{name}: the decoder's layers and final norm cannot be found.")
    if kinds - {"full_attention"} or (not kinds and getattr(config, "sliding_window", None) is not None):
        raise BridgeError(
            f"{name} has layers with {', '.join(sorted(kinds - {'full_attention'})) or 'a sliding window'}: "
            "windows are counted in tokens of the cache and would reach further after pruning."
        )
    for layer in layers:
        check_layer(layer)
    kernel_form(model)
    if len({parameter.device for parameter in layers.parameters()}) > 1:
        raise BridgeError(
            f"{name}: the decoder lies on several devices, which pruning inside it does not follow."
        )
    if model.training and any(getattr(layer, "gradient_checkpointing", False) for layer in layers):
        raise BridgeError("gradient checkpointing runs layers twice; switch it off to prune inside the LLM.")
    return decoder


def kernel_form(model: Any) -> str:
    """Form of a mask for the model's attention kernel."""
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
    """Refuse ways to generate under which layers of different lengths would go wrong."""
    configs = [arguments.get("generation_config"), getattr(model, "generation_config", None)]
    for name, reason in (
        ("prompt_lookup_num_tokens", "candidates that are refused are cut off by absolute lengths"),
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
            f"cache_implementation={kind!r}: layers then have one length; pruning inside the LLM needs a "
            "dynamic cache."
        )


def check_cache(cache: Any) -> None:
    """Only a cache whose layers grow by themselves can have layers of different lengths."""
    layers = getattr(cache, "layers", ()) or ()
    if cache is not None and (
        not hasattr(cache, "layers") or any(type(x) is not DynamicLayer for x in layers)
    ):
        raise BridgeError(
            f"{type(cache).__name__}: pruning inside the LLM needs a DynamicCache without sliding windows or "
            "quantisation."
        )
