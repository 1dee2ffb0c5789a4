"""Folding: the merging twin of any selector; and the rows of pruners that merge by themselves.

Each kept token becomes a mean over the tokens it stands for, and attention to it is raised by the logarithm
of their number in every layer and head. A key with bias log c draws exactly the attention of c copies of
itself at the same position, so a folded run equals one over the full-length sequence in which every token
has been replaced by its cluster's mean and stands at the position of the kept one.

A dropped token is stood for by the nearest kept one by cosine (``"cluster"``), or, in shares, by all that
its interpolation X_j ≈ Σ T_ij X_i adds with a positive coefficient (``"interpolation"``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import cssp
from vlm_bridge.errors import BridgeError
from vlm_bridge.model.decoder import unscored_layers
from vlm_bridge.pruners import find_pruner
from vlm_bridge.pruners.relevance import unit_rows

_IMPLEMENTATIONS = ("sdpa", "eager")


@dataclass(frozen=True)
class Folded:
    """Kept tokens as means.

    Attributes
    ----------
    rows : Tensor (k, d), in the dtype of the features
    sizes : Tensor (k,)
        How many tokens each stands for; they sum to n.
    coefficients : Tensor (k, n)
        ``rows = coefficients @ features``; rows sum to 1.
    """

    rows: Tensor
    sizes: Tensor
    coefficients: Tensor


def by_cluster(features: Tensor, kept: Tensor) -> Folded:
    """Every dropped token goes to the kept one that is nearest by cosine.

    Parameters
    ----------
    features : Tensor (n, d)
    kept : Tensor (k,) of int64, distinct
    """
    return _means(features, nn.functional.one_hot(_owners(features, kept), len(kept)).mT)


def by_interpolation(features: Tensor, kept: Tensor) -> Folded:
    """Every dropped token is shared out by the positive part of its interpolation coefficients.

    One that no kept token adds to goes to the nearest by cosine. Parameters as of `by_cluster`.
    """
    chosen = cssp.select(features.detach().mT, len(kept), include=kept.tolist(), deficient="truncate")
    T = torch.zeros(len(kept), len(features), dtype=torch.float64, device=features.device)
    shares = chosen.coefficients().to(T)  # of kept tokens that depend on others there are none
    rounding = 64 * torch.finfo(T.dtype).eps * shares.abs().amax(0)
    place = {j: i for i, j in enumerate(kept.tolist())}
    T[[place[j] for j in chosen.indices.tolist()]] = shares.where(shares > rounding, 0)
    T[:, kept] = torch.eye(len(kept)).to(T)
    nearest = nn.functional.one_hot(_owners(features, kept), len(kept)).mT
    return _means(features, torch.where(T.sum(0) > 0, T, nearest))


FOLDS: dict[str, Callable[[Tensor, Tensor], Folded]] = {
    "cluster": by_cluster,
    "interpolation": by_interpolation,
}
"""How a dropped token is divided among the kept ones, by the name that `prune` calls it."""


def fold_name(fold: bool | str, method: str) -> str:
    """Return the key of `FOLDS` that `fold` asks for; empty where nothing is folded.

    Raises
    ------
    BridgeError
        There is no such key, or the pruner merges tokens by itself.
    """
    name = "cluster" if fold is True else fold or ""
    if name and name not in FOLDS:
        raise BridgeError(f"fold = {fold!r}: allowed are True, False, {', '.join(map(repr, FOLDS))}.")
    if name and find_pruner(method).merges:
        raise BridgeError(f"pruner {method!r} merges tokens itself; use fold=False.")
    return name


def _owners(features: Tensor, kept: Tensor) -> Tensor:
    """Position among `kept` of the token that stands for each row."""
    kept = kept.to(features.device)
    unit = unit_rows(features.detach())
    owners = (unit @ unit[kept].mT).argmax(-1)
    owners[kept] = torch.arange(
        len(kept), device=features.device
    )  # a duplicate never takes a kept token away
    return owners


def _means(features: Tensor, shares: Tensor) -> Folded:
    """Means for shares (k, n) of the tokens, scaled so that each token is shared out once."""
    wide = features.to(torch.promote_types(features.dtype, torch.float32))
    shares = shares.to(wide)
    shares = shares / shares.sum(0)
    sizes = shares.sum(1)
    coefficients = shares / sizes[:, None]
    return Folded((coefficients @ wide).to(features.dtype), sizes, coefficients)


def merged_rows(
    features: Tensor,
    indices: Tensor,
    coefficients: Tensor,
    vision: Mapping[str, Any],
    project: Callable[[Tensor], Tensor] | None,
) -> Tensor:
    """Rows (k, d) of a pruner that merges: tokens left alone, others by `coefficients` (k, n or n + 1).

    They are merged in front of the projector where `vision` brings the tower's rows, ``vision_clip``; a
    column more than there are tokens stands for ``vision_cls``.
    """
    device, n = features.device, len(features)
    indices, coefficients = indices.to(device), coefficients.to(device)
    alone = nn.functional.one_hot(indices, coefficients.shape[1])
    merged = (coefficients != alone).any(1)
    rows = features[indices].clone()
    if not merged.any():
        return rows
    source = features
    if project is not None and "vision_clip" in vision:
        source = vision["vision_clip"].to(device)
    if coefficients.shape[1] > n:
        if source is features or "vision_cls" not in vision:
            raise BridgeError(
                "the CLS row can be merged in front of the projector only: give vision_clip too."
            )
        source = torch.cat([source, vision["vision_cls"].to(source)[None]])
    wide = torch.promote_types(source.dtype, torch.float32)
    found = coefficients[merged].to(wide) @ source.to(wide)
    if project is not None and "vision_clip" in vision:
        found = project(found)
    rows[merged] = found.to(rows.dtype)
    return rows


def check_attention(model: Any) -> None:
    """Refuse attention kernels that take no additive bias."""
    odd = unscored_layers(model)
    if odd:
        raise BridgeError(
            f"fold=True adds a bias to the scores of every layer; {type(model).__name__} has layers of type "
            f"{', '.join(odd)}, which have none or choose among them. Use fold=False."
        )
    if any(getattr(module, "is_kv_shared_layer", False) for module in model.modules()):
        raise BridgeError(
            f"fold=True counts the keys of every layer; layers of {type(model).__name__} share those of others. Use "
            "fold=False."
        )
    used = getattr(model.config.get_text_config(), "_attn_implementation", None)
    if used not in _IMPLEMENTATIONS:
        raise BridgeError(
            f"fold=True adds a bias to attention scores, which attn_implementation={used!r} cannot take; "
            f"load the model with one of {', '.join(_IMPLEMENTATIONS)}."
        )


class KeyBias:
    """Adds ``bias[b, j]`` to every attention score of key j, where `bias` says so of the call that runs.

    Hooks on the decoder's self-attention modules add it to the mask they are given, whatever its form: none
    (plain causal), boolean, or additive. Keys beyond the prompt get no bias.
    """

    def __init__(self, modules: list[nn.Module], bias: Callable[[], Tensor | None]) -> None:
        self._bias = bias
        self._handles = [m.register_forward_pre_hook(self._hook, with_kwargs=True) for m in modules]

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def _hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Any:
        value = self._bias()
        if value is None or kwargs is None:
            return None
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        mask, cache = kwargs.get("attention_mask"), kwargs.get("past_key_values")
        keys, first, past = hidden.shape[1], 0, 0
        if cache is not None:
            keys, first = cache.get_mask_sizes(hidden.shape[1], module.layer_idx)
            past = int(cache.get_seq_length(module.layer_idx))
        if mask is None:
            mask = causal_mask(hidden.shape[1], keys, past - first, hidden.device)
        bias = _of_keys(value.to(hidden), len(hidden), mask.shape[-1], first)
        return args, {**kwargs, "attention_mask": add_bias(mask, bias)}


def _of_keys(bias: Tensor, batch: int, keys: int, first: int) -> Tensor:
    """Bias (batch, 1, 1, keys) of the keys from `first` on; a row's bias serves all its beams."""
    bias = bias.repeat_interleave(batch // bias.shape[0], dim=0)[:, first : first + keys]
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
