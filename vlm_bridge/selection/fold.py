"""Fold dropped tokens into kept ones, and form the rows of pruners that merge by themselves.

Each kept token becomes a mean over the tokens it stands for, and attention to it is raised by the logarithm of their number
in every layer and head. A key with bias log c draws exactly the attention of c copies of itself at the same position. So a
folded run equals one over the full-length sequence in which every token is replaced by its cluster's mean, at the position
of the kept token.

A dropped token belongs to the kept one of largest cosine (``"cluster"``), or in shares to all kept ones that its
interpolation X_j ≈ Σ T_ij X_i adds with a positive coefficient (``"interpolation"``).
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
    """Kept tokens, each the mean of the tokens it stands for.

    Attributes
    ----------
    rows : Tensor (k, d), in the dtype of the features
    sizes : Tensor (k,)
        Number of tokens that each row stands for, fractions included; they sum to n.
    coefficients : Tensor (k, n)
        ``rows = coefficients @ features``; each row of coefficients sums to 1.
    """

    rows: Tensor
    sizes: Tensor
    coefficients: Tensor


def by_cluster(features: Tensor, kept: Tensor) -> Folded:
    """Assign every dropped token to the kept one of largest cosine.

    Parameters
    ----------
    features : Tensor (n, d)
    kept : Tensor (k,) of int64, distinct
    """
    return _means(features, nn.functional.one_hot(_owners(features, kept), len(kept)).mT)


def by_interpolation(features: Tensor, kept: Tensor) -> Folded:
    """Divide every dropped token among the kept ones by the positive part of its interpolation coefficients.

    A token without a positive coefficient goes to the kept one of largest cosine. Parameters are those of `by_cluster`.
    """
    chosen = cssp.select(features.detach().mT, len(kept), include=kept.tolist(), deficient="truncate")
    T = torch.zeros(len(kept), len(features), dtype=torch.float64, device=features.device)
    shares = chosen.coefficients().to(T)  # kept tokens that depend on other kept ones have none
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
        raise BridgeError(f"fold = {fold!r}: expected one of True, False, {', '.join(map(repr, FOLDS))}.")
    if name and find_pruner(method).merges:
        raise BridgeError(f"pruner {method!r} merges tokens itself; use fold=False.")
    return name


def _owners(features: Tensor, kept: Tensor) -> Tensor:
    """Return for each row the index in `kept` of the token that stands for it."""
    kept = kept.to(features.device)
    unit = unit_rows(features.detach())
    owners = (unit @ unit[kept].mT).argmax(-1)
    owners[kept] = torch.arange(len(kept), device=features.device)  # also where kept tokens are duplicates
    return owners


def _means(features: Tensor, shares: Tensor) -> Folded:
    """Form means by shares (k, n) of the tokens, scaled so that the shares of each token sum to 1."""
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
    """Form the rows of a pruner that merges.

    Parameters
    ----------
    features : Tensor (n, d)
    indices : Tensor (k,) of int64
        Tokens at whose places the rows stand.
    coefficients : Tensor (k, n) or (k, n + 1)
        What the rows are made of; a last column more belongs to ``vision_cls``.
    vision : mapping
        With the signal ``vision_clip``, and a `project`, the vision tower's rows are merged, in front of the projector.
    project : callable, optional
        Maps rows of the vision tower to rows of the LLM.

    Returns
    -------
    Tensor (k, d)
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
                "the CLS row can only be merged in front of the projector: expected the signals vision_clip and vision_cls."
            )
        source = torch.cat([source, vision["vision_cls"].to(source)[None]])
    wide = torch.promote_types(source.dtype, torch.float32)
    means = coefficients[merged].to(wide) @ source.to(wide)
    if project is not None and "vision_clip" in vision:
        means = project(means)
    rows[merged] = means.to(rows.dtype)
    return rows


def check_attention(model: Any) -> None:
    """Refuse a model whose layers or attention kernel take no additive bias."""
    odd = unscored_layers(model)
    if odd:
        raise BridgeError(
            f"fold=True adds a bias to the scores of every layer; {type(model).__name__} has layers of type "
            f"{', '.join(odd)}, which have none or choose among them: use fold=False."
        )
    if any(getattr(module, "is_kv_shared_layer", False) for module in model.modules()):
        raise BridgeError(
            f"fold=True counts the keys of every layer; layers of {type(model).__name__} share those of others: use "
            "fold=False."
        )
    used = getattr(model.config.get_text_config(), "_attn_implementation", None)
    if used not in _IMPLEMENTATIONS:
        raise BridgeError(
            f"fold=True adds a bias to attention scores, which attn_implementation={used!r} cannot take; "
            f"load the model with one of {', '.join(_IMPLEMENTATIONS)}."
        )


class KeyBias:
    """Add a bias to every attention score of a key, by hooks on the decoder's self-attention modules.

    The hooks add it to the mask of whatever form: none (plain causal), boolean, or additive. Keys behind the prompt get
    no bias.

    Parameters
    ----------
    modules : list of nn.Module
    bias : callable
        ``bias()`` returns the bias (B, L') of the call that runs, in nats; None for none.
    """

    def __init__(self, modules: list[nn.Module], bias: Callable[[], Tensor | None]) -> None:
        self._bias = bias
        self._handles = [m.register_forward_pre_hook(self._hook, with_kwargs=True) for m in modules]

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def _hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Any:
        """Replace the mask in a call of an attention module."""
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
    """Cut the bias to the keys from `first` on, (batch, 1, 1, keys), and repeat each prompt's for all its beams."""
    bias = bias.repeat_interleave(batch // bias.shape[0], dim=0)[:, first : first + keys]
    return nn.functional.pad(bias, (0, keys - bias.shape[1]))[:, None, None]


def causal_mask(queries: int, keys: int, past: int, device: torch.device) -> Tensor:
    """Return a boolean mask (1, 1, queries, keys) in which query i sees the keys up to `past` + i.

    The last query need not see the last key, since a static cache has room for more keys than there are.
    """
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(past)[None, None]


def add_bias(mask: Tensor, bias: Tensor) -> Tensor:
    """Turn a boolean or additive mask into an additive one (B, 1, queries, keys), plus `bias` (B, 1, 1, keys)."""
    if mask.dtype == torch.bool:
        return torch.where(mask, bias, torch.finfo(bias.dtype).min)
    return mask + bias
