"""Measure how relevant each visual token is to the question, with every choice of the definition explicit.

Published pruners differ in four choices that their papers tend to leave implicit: the *space* in which text and image are
compared, the *reduction* over text tokens, the *sign*, and the *exponent*. The sign is a property of the space: in CLIP's joint space patches that match the prompt tend to have a low cosine with it
(TRIM, CDPruner and LiteLVLM negate it in their code), in the LLM's embedding space they do not (ResPrune,
MMTok).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vlm_bridge.errors import BridgeError

EPS = 1e-6
"""Added to the numerator of the min-max scale, as in CDPruner's code: no weight is ever exactly zero."""

SIGNALS_OF_SPACE = {
    "clip": ("clip_patches", "clip_text"),
    "llm": ("llm_text",),
    "attention": ("attention",),
}
"""The signals that each space reads; in the LLM's space the visual side is the features themselves."""

_SPACES = {
    "clip": "CLIP's joint space",
    "llm": "the LLM's embedding space",
    "attention": "the LLM's attention",
}

_CHOICES = {
    "space": tuple(SIGNALS_OF_SPACE),
    "reduction": ("mean", "max", "pooled"),
    "sign": ("normal", "anti"),
    "scale": ("minmax", "clip"),
    "scope": ("image", "batch"),
}


@dataclass(frozen=True)
class Relevance:
    """A definition of relevance; `weights` turns it into one non-negative weight per token.

    Attributes
    ----------
    space : {"clip", "llm", "attention"}
        ``"clip"``: `clip_patches` against `clip_text` in CLIP's joint space. ``"llm"``: the visual features
        against `llm_text`, the prompt's rows of the LLM's embedding table. ``"attention"``: what text tokens
        pay to the image in a layer of the LLM, averaged over its heads.
    reduction : {"mean", "max", "pooled"}
        Over text tokens or segments: mean cosine, largest cosine, or cosine with the mean text vector. Attention, which
        has no vectors, allows mean or max.
    sign : {"normal", "anti"}
        ``"anti"`` negates the cosine before scaling.
    exponent : float
        Applied to the scaled weight; a pruner's own ``alpha`` is applied in addition.
    scale : {"minmax", "clip"}
        ``"minmax"``: (s − min + 1e-6) / (max − min), all ones where max = min. ``"clip"``: max(s, 1e-6),
        which leaves positive cosines as they are.
    scope : {"image", "batch"}
        What min and max run over: each image by itself, or all images of the call (CDPruner: the tiles of one image).

    Raises
    ------
    BridgeError
        A value that is none of these.

    Examples
    --------
    >>> Relevance(space="llm", reduction="max", sign="normal").signals
    ('llm_text',)
    """

    space: Literal["clip", "llm", "attention"] = "clip"
    reduction: Literal["mean", "max", "pooled"] = "mean"
    sign: Literal["normal", "anti"] = "anti"
    exponent: float = 1.0
    scale: Literal["minmax", "clip"] = "minmax"
    scope: Literal["image", "batch"] = "image"

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise BridgeError(
                    f"Relevance({name}={getattr(self, name)!r}): expected one of {', '.join(allowed)}."
                )
        if (self.space, self.reduction) == ("attention", "pooled"):
            raise BridgeError("Relevance(reduction='pooled'): attention is reduced by 'mean' or 'max'.")
        if not 0 <= self.exponent < float("inf"):
            raise BridgeError(
                f"Relevance(exponent={self.exponent!r}): expected a finite number of at least 0."
            )

    @property
    def signals(self) -> tuple[str, ...]:
        """Names of the signals that this relevance reads."""
        return SIGNALS_OF_SPACE[self.space]

    @property
    def where(self) -> str:
        """The space in words."""
        return _SPACES[self.space]


def cosines(visual: Tensor, text: Tensor) -> Tensor:
    """Compute the cosine of every visual with every text vector; zero where one of them is the zero vector.

    Parameters
    ----------
    visual : Tensor (..., n, d)
    text : Tensor (..., M, d) or (M, d), shared

    Returns
    -------
    Tensor (..., n, M), at least float32.
    """
    return unit_rows(visual) @ unit_rows(text.to(visual.device)).mT


def unit_rows(rows: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Divide rows by their norms, rounded as x/‖x‖ is, at least in float32; zero rows stay zero.

    Official code computes x/‖x‖, and where cosines differ by little more than rounding the last bit decides. Scaling by a
    power of two first changes no bit, and keeps norms from overflowing.
    """
    rows = rows.to(dtype or torch.promote_types(rows.dtype, torch.float32))
    exponent = torch.frexp(rows.abs().amax(-1, keepdim=True)).exponent
    half = exponent // 2  # 2^exponent itself may be beyond range
    one = torch.ones_like(rows[..., :1])
    rows = rows * torch.ldexp(one, -half) * torch.ldexp(one, half - exponent)
    norms = rows.norm(dim=-1, keepdim=True)
    return rows / torch.where(norms > 0, norms, 1)


def scores(relevance: Relevance, features: Tensor, signals: Mapping[str, Tensor]) -> Tensor:
    """Compute the signed relevance of every token before scaling.

    An all-zero patch embedding marks a row without a patch, as the separators of LLaVA-NeXT are; it gets the mean score of
    the image's other rows.

    Parameters
    ----------
    relevance : Relevance
    features : Tensor (..., n, d)
    signals : mapping with the keys of ``relevance.signals``

    Returns
    -------
    Tensor (..., n)
    """
    if relevance.space == "attention":
        score = _of_attention(signals["attention"], features, relevance.reduction)
        return -score if relevance.sign == "anti" else score
    visual = signals["clip_patches"] if relevance.space == "clip" else features
    text = signals["clip_text"] if relevance.space == "clip" else signals["llm_text"]
    check_shapes(relevance, features, visual, text)
    if relevance.reduction == "pooled":
        text = unit_rows(text).mean(-2, keepdim=True)
    table = cosines(visual, text)
    score = table.amax(-1) if relevance.reduction == "max" else table.mean(-1)
    empty = (visual == 0).all(-1)
    if relevance.space == "clip" and empty.any():
        others = score.masked_fill(empty, 0).sum(-1, keepdim=True) / (~empty).sum(-1, keepdim=True).clamp(
            min=1
        )
        score = torch.where(empty, others, score)
    return -score if relevance.sign == "anti" else score


def _of_attention(attention: Tensor, features: Tensor, reduction: str) -> Tensor:
    """Reduce attention (..., heads, queries, n): mean over heads, then mean or largest over queries."""
    n = features.shape[-2]
    if attention.ndim < 3 or attention.shape[-1] != n or 0 in attention.shape:
        raise BridgeError(
            f"attention of shape {tuple(attention.shape)} : expected (heads, queries, {n}) for each image."
        )
    if not torch.isfinite(attention).all():
        raise BridgeError("attention holds NaN or infinity.")
    table = attention.to(torch.promote_types(attention.dtype, torch.float32)).mean(-3)
    score = table.amax(-2) if reduction == "max" else table.mean(-2)
    return score.expand(features.shape[:-1])


def weights(relevance: Relevance, features: Tensor, signals: Mapping[str, Tensor]) -> Tensor:
    """Compute a positive weight for every token: scaled `scores` to the power ``relevance.exponent``.

    No weight is zero, so that the least relevant token is still chosen before none.

    Returns
    -------
    Tensor (..., n)
    """
    score = scores(relevance, features, signals)
    if relevance.scale == "clip":
        return score.clamp(min=EPS) ** relevance.exponent
    if relevance.scope == "batch":
        low, high = score.amin(), score.amax()
    else:
        low, high = score.amin(-1, keepdim=True), score.amax(-1, keepdim=True)
    spread = high - low
    scaled = torch.where(spread > 0, (score - low + EPS) / torch.where(spread > 0, spread, 1), 1)
    return scaled**relevance.exponent


def check_shapes(relevance: Relevance, features: Tensor, visual: Tensor, text: Tensor) -> None:
    """Refuse signals that do not fit the features or each other; the message names them."""
    text_name = "clip_text" if relevance.space == "clip" else "llm_text"
    if visual.shape[:-1] != features.shape[:-1]:
        raise BridgeError(
            f"clip_patches of shape {tuple(visual.shape)} must have one row per token, "
            f"{tuple(features.shape[:-1])} + (dimension,) here."
        )
    if text.ndim < 2 or text.shape[-2] == 0:
        raise BridgeError(
            f"{text_name} of shape {tuple(text.shape)} must be (M, dimension) with M >= 1 text vectors."
        )
    if text.shape[-1] != visual.shape[-1]:
        other = "clip_patches" if relevance.space == "clip" else "features"
        raise BridgeError(f"{text_name} has dimension {text.shape[-1]}, {other} has {visual.shape[-1]}.")
    for name, tensor in (("clip_patches", visual), (text_name, text)):
        if not torch.isfinite(tensor).all():
            raise BridgeError(f"{name if relevance.space == 'clip' else text_name} holds NaN or infinity.")
