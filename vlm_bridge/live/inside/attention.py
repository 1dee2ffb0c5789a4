"""Recompute rows of a decoder layer's attention from what enters the layer.

Only the rows that a pruner reads are formed, with the layer's own projections, norms and rotary function, so that the
model itself may run any attention kernel.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlm_bridge.errors import BridgeError
from vlm_bridge.live.inside.segments import Segment, visible


def check_layer(layer: Any) -> None:
    """Refuse decoder layers whose queries and keys cannot be computed from outside."""
    attention = getattr(layer, "self_attn", None)
    for owner, names in (
        (layer, ("input_layernorm",)),
        (attention, ("q_proj", "k_proj", "head_dim", "scaling")),
    ):
        missing = [name for name in names if not hasattr(owner, name)]
        if missing:
            raise BridgeError(
                f"{type(layer).__name__} has no {missing[0]}: pruning inside the LLM expects separate query and key "
                "projections, as in Llama, Mistral and Qwen. Use a pruner that acts before the LLM, such as 'spare'."
            )
    if rotary_function(attention) is None:
        raise BridgeError(
            f"{type(attention).__name__}: its file has no apply_rotary_pos_emb, by which attention is recomputed. Use a "
            "pruner that acts before the LLM, such as 'spare'."
        )


def rotary_function(attention: Any) -> Any:
    """Return the rotary function of the module's own file; None where there is none."""
    return getattr(sys.modules[type(attention).__module__], "apply_rotary_pos_emb", None)


def key_states(layer: Any, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Compute the rotated keys (key heads, L, head width) of hidden states (L, d) that enter the layer.

    `rotary` holds cosine and sine (L, head width) of the positions.
    """
    return _states(layer, hidden, rotary, "k")


def attention_rows(
    layer: Any, hidden: Tensor, rotary: tuple[Tensor, Tensor], bias: Tensor, queries: Tensor
) -> Tensor:
    """Compute the attention, after the softmax, that some tokens pay to all.

    Parameters
    ----------
    layer : decoder layer
    hidden : Tensor (L, d)
        States that enter the layer.
    rotary : (Tensor, Tensor) (L, head width)
    bias : Tensor (Q, L)
        Added to the scores; −∞ at tokens that a query does not see.
    queries : Tensor (Q,) of int64
        Places of the tokens that pay attention.

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
    """Compute the scores (Q, K) that vectors of ones would get from their rotary positions alone."""
    turn = rotary_function(layer.self_attn)
    ones = torch.ones_like(rotary[0])[None, None]
    turned = turn(ones, ones, rotary[0][None], rotary[1][None])[0][0, 0]
    turned = turned.to(torch.promote_types(turned.dtype, torch.float32))
    return turned[queries] @ turned[keys].mT * layer.self_attn.scaling


@dataclass(frozen=True)
class Entering:
    """What enters a layer: its segment of the prompt, with hidden states, rotary positions and mask.

    Attributes
    ----------
    layer : decoder layer
    hidden : Tensor (B, L', d)
    rotary : (Tensor, Tensor) (B or 1, L', head width)
        Cosine and sine of the positions.
    mask : Tensor, optional
        In the form of `Segment.mask`.
    segment : Segment
    """

    layer: Any
    hidden: Tensor
    rotary: tuple[Tensor, Tensor]
    mask: Tensor | None
    segment: Segment

    def of_item(self, item: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return hidden states (L', d) and rotary positions (L', head width) of one item of the batch."""
        cos, sin = (part[item if part.shape[0] > 1 else 0] for part in self.rotary)
        return self.hidden[item], (cos, sin)

    def attention(self, item: int, queries: Tensor, keys: Tensor) -> Tensor:
        """Return the attention (heads, Q, K) that places `queries` (Q,) of an item pay to places `keys` (K,)."""
        hidden, rotary = self.of_item(item)
        bias = visible(self.mask, self.segment, item, queries)
        return attention_rows(self.layer, hidden, rotary, bias, queries)[..., keys]


def _states(layer: Any, hidden: Tensor, rotary: tuple[Tensor, Tensor], which: str) -> Tensor:
    """Compute rotated queries (`which` is "q") or keys ("k") of hidden states."""
    attention = layer.self_attn
    states = getattr(attention, f"{which}_proj")(layer.input_layernorm(hidden))
    states = states.reshape(len(hidden), -1, attention.head_dim)
    norm = getattr(attention, f"{which}_norm", None)
    if norm is not None:
        states = norm(states)
    states = states.transpose(0, 1)[None]
    return rotary_function(attention)(states, states, rotary[0][None], rotary[1][None])[0][0]
