"""Ask a model how its text decoder works: where its layers are, of which types, and what tokens see."""

from __future__ import annotations

from inspect import getsource
from typing import Any

from torch import nn

from vlm_bridge.errors import BridgeError
from vlm_bridge.model.families import Family, base_of

STATELESS = {"moe", "mlp", "sparse", "dense"}
"""Layer types that work on single tokens."""

_SCORED = {"full_attention", "sliding_attention", "chunked_attention"}
"""Layer types in which a query scores every key that the mask lets it see."""

_ATTENTION = STATELESS | _SCORED | {"indexed_attention", "minimax_m3_sparse"}
"""Layer types without a state: masking a token out is the same as dropping it."""


def decoder_of(model: Any, family: Family) -> Any:
    """Return the text decoder.

    Raises
    ------
    BridgeError
        It is in none of the usual places.
    """
    base = base_of(model)
    for name in (family.decoder, "language_model", "text_model"):
        module = getattr(base, name, None)
        if isinstance(module, nn.Module):
            below = getattr(module, "model", None)  # Llama 4, Fuyu: a text model with its head
            return below if not hasattr(module, "layers") and isinstance(below, nn.Module) else module
    if isinstance(getattr(base, "layers", None), nn.ModuleList):  # Chameleon: the base is the decoder
        return base
    raise BridgeError(f"{type(model).__name__} has no {family.decoder}: its text decoder cannot be found.")


def attention_modules(model: Any, family: Family) -> list[nn.Module]:
    """Return the self-attention module of every decoder layer.

    Raises
    ------
    BridgeError
        A layer has none.
    """
    layers = getattr(decoder_of(model, family), "layers", None)
    modules: list[Any] = [getattr(layer, "self_attn", None) for layer in layers or ()]
    if not modules or None in modules:
        raise BridgeError(f"{type(model).__name__}: the decoder's self-attention modules cannot be found.")
    return modules


def layer_kinds(model: Any) -> set[str]:
    """Return the types of the decoder's layers, as far as the configuration names them."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None) or ()
    return {"full_attention" if kind == "attention" else kind for kind in kinds}


def recurrent_layers(model: Any) -> tuple[str, ...]:
    """Return the types of layers that carry a state from token to token: convolutions, linear attention, Mamba.

    With such layers dropping a token means that it is never fed: the pruned model equals the model given the shorter
    sequence. Without any, it equals also the model with that token masked out.
    """
    kinds = tuple(sorted(layer_kinds(model) - _ATTENTION))
    if kinds:
        return kinds
    stateful = any(getattr(module, "_is_stateful", False) for module in model.modules())
    return ("recurrent",) if stateful else ()


def unscored_layers(model: Any) -> tuple[str, ...]:
    """Return the types of layers that carry a state, or that choose which keys they score."""
    return tuple(sorted((layer_kinds(model) - STATELESS - _SCORED) | set(recurrent_layers(model))))


def is_bidirectional(model: Any) -> bool:
    """Tell whether visual tokens see those behind them, so that a prompt cannot be read in chunks.

    Such a model builds masks from the token types, some only where the configuration says so.
    """
    own = getattr(type(model), "create_masks_for_generate", None)
    if own is None or "token_type" not in (source := getsource(own)):
        return False
    used = getattr(model.config.get_text_config(), "use_bidirectional_attention", None)
    return "use_bidirectional_attention" not in source or used == "vision"


def window_of(model: Any) -> int | None:
    """Return how many tokens a layer with a sliding window, or with chunks, sees; None without such layers."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    sizes = []
    for kind, name in (
        ("sliding_attention", "sliding_window"),
        ("chunked_attention", "attention_chunk_size"),
    ):
        size = getattr(config, name, None)
        if size and (kinds is None or kind in kinds) and getattr(config, f"use_{name}", True):
            sizes.append(int(size))
    return min(sizes, default=None)
