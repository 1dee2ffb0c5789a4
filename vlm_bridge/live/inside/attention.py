"""Attention rows of a decoder layer, recomputed from what the layer is given.

Only the rows that a pruner reads are formed, so that the model may run any attention kernel. The layer's own
projections, norms and rotary function are used.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from vlm_bridge.errors import BridgeError


def check_layer(layer: Any) -> None:
    """Refuse decoder layers whose queries and keys cannot be formed from outside."""
    attention = getattr(layer, "self_attn", None)
    for owner, names in (
        (layer, ("input_layernorm",)),
        (attention, ("q_proj", "k_proj", "head_dim", "scaling")),
    ):
        missing = [name for name in names if not hasattr(owner, name)]
        if missing:
            raise BridgeError(
                f"{type(layer).__name__} has no {missing[0]}: pruning inside the LLM reads attention through "
                "separate query and key projections, as in Llama, Mistral and Qwen."
            )
    if rotary_function(attention) is None:
        raise BridgeError(f"{type(attention).__name__}: its file has no apply_rotary_pos_emb.")


def rotary_function(attention: Any) -> Any:
    """The rotary function of the module's own file; None where there is none."""
    return getattr(sys.modules[type(attention).__module__], "apply_rotary_pos_emb", None)


def key_states(layer: Any, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotated keys (key heads, L, head width) of hidden states (L, d) that enter the layer.

    `rotary` is the cosine and sine (L, head width) of the positions.
    """
    return _states(layer, hidden, rotary, "k")


def attention_rows(
    layer: Any, hidden: Tensor, rotary: tuple[Tensor, Tensor], bias: Tensor, queries: Tensor
) -> Tensor:
    """Softmaxed attention of some tokens to all.

    Parameters
    ----------
    layer : decoder layer
    hidden : Tensor (L, d)
        What enters the layer.
    rotary : (Tensor, Tensor) (L, head width)
    bias : Tensor (Q, L)
        Added to the scores: what the rows may see.
    queries : Tensor (Q,) of int64

    Returns
    -------
    Tensor (heads, Q, L), at least float32
    """
    wide = torch.promote_types(hidden.dtype, torch.float32)
    keys = key_states(layer, hidden, rotary).to(wide)
    rows = _states(layer, hidden[queries], (rotary[0][queries], rotary[1][queries]), "q").to(wide)
    keys = keys.repeat_interleave(rows.shape[0] // keys.shape[0], dim=0)
    scores = rows @ keys.mT * layer.self_attn.scaling
    return torch.softmax(scores + bias.to(wide), dim=-1)


def rotary_gravity(layer: Any, rotary: tuple[Tensor, Tensor], queries: Tensor, keys: Tensor) -> Tensor:
    """Score (Q, K) that vectors of ones would get from their positions alone."""
    turn = rotary_function(layer.self_attn)
    ones = torch.ones_like(rotary[0])[None, None]
    turned = turn(ones, ones, rotary[0][None], rotary[1][None])[0][0, 0]
    turned = turned.to(torch.promote_types(turned.dtype, torch.float32))
    return turned[queries] @ turned[keys].mT * layer.self_attn.scaling


def _states(layer: Any, hidden: Tensor, rotary: tuple[Tensor, Tensor], which: str) -> Tensor:
    attention = layer.self_attn
    states = getattr(attention, f"{which}_proj")(layer.input_layernorm(hidden))
    states = states.reshape(len(hidden), -1, attention.head_dim)
    norm = getattr(attention, f"{which}_norm", None)
    if norm is not None:
        states = norm(states)
    states = states.transpose(0, 1)[None]
    return rotary_function(attention)(states, states, rotary[0][None], rotary[1][None])[0][0]
