"""Folding: the merging twin of any selector.

Each kept token becomes the mean of its cluster, the dropped tokens for which it is the nearest kept one by
cosine, and attention to it is raised by log(cluster size) in every layer and head. A key with bias log c
draws exactly the attention of c copies of itself at the same position, so a folded run equals one over the
full-length sequence in which every token has been replaced by its cluster's mean and stands at the position
of the kept one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vlm_bridge.errors import BridgeError
from vlm_bridge.relevance import unit_rows

_IMPLEMENTATIONS = ("sdpa", "eager")


def cluster_means(features: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and size of each kept token's cluster.

    Parameters
    ----------
    features : Tensor (n, d)
    kept : Tensor (k,) of int64, distinct

    Returns
    -------
    means : Tensor (k, d), in the dtype of `features`
    sizes : Tensor (k,) of int64, summing to n
    """
    kept = kept.to(features.device)
    unit = unit_rows(features.detach())
    owner = (unit @ unit[kept].mT).argmax(-1)
    owner[kept] = torch.arange(len(kept), device=features.device)  # a duplicate never takes a kept token away
    sizes = torch.bincount(owner, minlength=len(kept))
    wide = features.to(torch.promote_types(features.dtype, torch.float32))
    sums = torch.zeros(len(kept), features.shape[1], dtype=wide.dtype, device=features.device)
    sums = sums.index_add(0, owner, wide)
    return (sums / sizes[:, None]).to(features.dtype), sizes


def check_attention(model: Any) -> None:
    """Refuse attention kernels that take no additive bias."""
    used = getattr(model.config.get_text_config(), "_attn_implementation", None)
    if used not in _IMPLEMENTATIONS:
        raise BridgeError(
            f"fold=True adds a bias to attention scores, which attn_implementation={used!r} cannot take; "
            f"load the model with one of {', '.join(_IMPLEMENTATIONS)}."
        )


class KeyBias:
    """Adds ``bias[b, j]`` to every attention score of key j while it is switched on.

    Hooks on the decoder's self-attention modules add it to the mask they are given, whatever its form: none
    (plain causal), boolean, or additive. Keys beyond the prompt get no bias.
    """

    def __init__(self, modules: list[nn.Module]) -> None:
        self.value: Tensor | None = None
        self._handles = [m.register_forward_pre_hook(self._hook, with_kwargs=True) for m in modules]

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def _hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.value is None:
            return None
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        mask, cache = kwargs.get("attention_mask"), kwargs.get("past_key_values")
        keys, first, past = hidden.shape[1], 0, 0
        if cache is not None:
            keys, first = cache.get_mask_sizes(hidden.shape[1], module.layer_idx)
            past = int(cache.get_seq_length(module.layer_idx))
        if mask is None:
            mask = causal_mask(hidden.shape[1], keys, past - first, hidden.device)
        bias = self._of_keys(hidden, mask.shape[-1], first)
        return args, {**kwargs, "attention_mask": add_bias(mask, bias)}

    def _of_keys(self, hidden: Tensor, keys: int, first: int) -> Tensor:
        """Bias (B, 1, 1, keys) of the keys from `first` on; a row's bias serves all its beams."""
        assert self.value is not None
        bias = self.value.to(hidden)
        bias = bias.repeat_interleave(hidden.shape[0] // bias.shape[0], dim=0)[:, first : first + keys]
        return nn.functional.pad(bias, (0, keys - bias.shape[1]))[:, None, None]


def causal_mask(queries: int, keys: int, past: int, device: torch.device) -> Tensor:
    """Boolean (1, 1, queries, keys): query i sees the keys up to `past` + i.

    Not aligned with the last key: a static cache has room for more keys than there are.
    """
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(past)[None, None]


def add_bias(mask: Tensor, bias: Tensor) -> Tensor:
    """An additive mask (B, 1, queries, keys) that says what `mask` says, plus `bias` (B, 1, 1, keys)."""
    if mask.dtype == torch.bool:
        return torch.where(mask, bias, torch.finfo(bias.dtype).min)
    return mask + bias
