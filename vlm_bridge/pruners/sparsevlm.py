"""SparseVLM: text raters, stages, recycled tokens (ICML 2025; Gumpest/SparseVLMs, 26a5f488).

*Raters* are the text tokens behind the image on which the image's tokens lay more than the mean weight:
softmax of V Tᵀ over the text, averaged over the image, at the LLM's input. Behind layers 2, 6 and 15 of 32
image tokens are ranked by the attention of the raters in that layer, averaged over heads and raters.

Version 1 recycles: of the dropped tokens the 30 % with the most attention (int(0.3 d) + 1) are clustered by
density peaks into a tenth (int(m/10) + 1), and each cluster's mean goes on. Version 2 (SparseVLM+) recycles
nothing, divides attention by what the rotary positions alone would give (`gravity`), and averages only over
the 14 heads that pay the image the most.

How many stay: the official code knows four lists of counts, for "192", "128", "96" and "64" tokens of 576
(``budget="preset"``; recycled tokens come on top, and the layer that ranks counts as one that works on few).
By default `keep` is the true average over all layers, recycled tokens included, with the proportions of the
list for 192. The paper's rank-adaptive rule, in none of the official code, is ``budget="rank"``: of n tokens
round(scale · (n − rank P)) go, with P the raters' attention to the image.

Otherwise than in the official code: a merged token stands at its cluster centre's place, not behind all image
tokens; clusters are exact means (there divided by count + 1e-6); density ties go to the lower index (there
random noise of 1e-6); with no text token above the mean all rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vlm_bridge.errors import BridgeError
from vlm_bridge.pruners.fastv import mean_attention, ranked
from vlm_bridge.pruners.inside import (
    Inside,
    Stage,
    check_shares,
    check_stages,
    counts_for_average,
    scaled_stages,
)
from vlm_bridge.pruners.plan import Plan, Pruner
from vlm_bridge.pruners.pyramiddrop import average_of

STAGES = (3, 7, 16)
"""First layers that work on fewer tokens: those behind the layers that rank."""

PRESETS = {
    1: {192: (300, 200, 110), 128: (303, 110, 36), 96: (238, 48, 26), 64: (66, 30, 17)},
    2: {192: (300, 200, 118), 128: (238, 108, 60), 96: (246, 54, 28), 64: (66, 34, 20)},
}
"""The official counts at the stages, of 576 tokens, recycled ones not counted."""

_OF = 576
_BUDGETS = ("average", "preset", "rank")


def sparsevlm(
    features: Tensor,
    k: int,
    weights: None,
    *,
    attention: Tensor,
    llm_text: Tensor | None = None,
    hidden: Tensor | None = None,
    image_start: Tensor | int | None = None,
    version: int = 1,
    recycled: int | None = None,
    scale: float | None = None,
    heads: int = 14,
    gravity: Tensor | None = None,
) -> Plan:
    """Pick the tokens with the most attention from the raters; in version 1 the next ones are clustered.

    `k` counts recycled tokens; `recycled` sets their number instead of the rule. `attention` holds rows of
    the raters; with `llm_text` (one row for each of its queries, and `features` as they enter the LLM) the
    raters are found among them. What is clustered are the image's rows of `hidden`, else `features`. With
    `scale` fewer than `k` stay where the rank of attention says so.
    """
    check_version(version)
    n = features.shape[0]
    if llm_text is not None:
        if llm_text.shape[0] != attention.shape[1]:
            raise BridgeError(
                f"llm_text has {llm_text.shape[0]} rows, attention {attention.shape[1]} queries: one for each."
            )
        rating = text_raters(features, llm_text)
        attention = attention[:, rating]
        gravity = None if gravity is None else gravity[rating]
    if version == 2:
        attention = priority_heads(attention if gravity is None else attention / gravity, heads)
    score = mean_attention(attention)
    if scale is not None:
        k = min(k, adaptive_count(attention, scale))
    chosen = ranked(score)
    count = k if version == 2 else selected_count(n, k, recycled)
    if count == k:
        return Plan(indices=chosen[:k])
    rows = features
    if hidden is not None:
        start = int(image_start or 0)
        rows = hidden[start : start + n]
    return _recycled(rows, chosen, count, k - count)


def text_raters(features: Tensor, text: Tensor) -> Tensor:
    """Tell which rows of `text` (M, d) are raters: bool (M,)."""
    wide = torch.promote_types(features.dtype, torch.float32)
    share = torch.softmax(features.to(wide) @ text.to(wide).mT, dim=-1).mean(0)
    rating = share > share.mean()
    return rating if bool(rating.any()) else torch.ones_like(rating)


def priority_heads(attention: Tensor, heads: int) -> Tensor:
    """Select the `heads` heads of `attention` (heads, queries, n) with the largest sums."""
    if not isinstance(heads, int) or heads < 1:
        raise BridgeError(f"heads = {heads!r}: expected an integer of at least 1.")
    total = attention.to(torch.promote_types(attention.dtype, torch.float32)).sum((1, 2))
    return attention[list(ranked(total)[:heads])]


def adaptive_count(attention: Tensor, scale: float) -> int:
    """Return n − round(scale · (n − rank P)), at least 1, for the head mean P (raters, n) of `attention`."""
    if not scale >= 0:
        raise BridgeError(f"scale = {scale!r}: expected a number of at least 0.")
    table = attention.double().mean(0)
    n = table.shape[-1]
    rank = int(torch.linalg.matrix_rank(table, rtol=max(table.shape) * torch.finfo(torch.float32).eps))
    return min(n, max(1, n - round(scale * (n - rank))))


def recycled_pool(dropped: int) -> int:
    """Return how many of the dropped tokens are clustered."""
    return int(0.3 * dropped) + 1 if dropped else 0


def recycled_count(dropped: int) -> int:
    """Return how many clusters the dropped tokens make."""
    return recycled_pool(dropped) // 10 + 1 if dropped else 0


def selected_count(n: int, k: int, recycled: int | None = None) -> int:
    """Return how many of k tokens are selected; the others are clusters, by the rule at most half of them."""
    if recycled is None:
        return next(c for c in range(k, 0, -1) if c + min(recycled_count(n - c), k // 2) <= k)
    count = k - recycled
    if recycled < 0 or count < 1 or recycled > recycled_pool(n - count):
        raise BridgeError(
            f"recycled = {recycled}: of {k} tokens at least one must be selected, and clusters are made of "
            f"{recycled_pool(n - count)} of the dropped ones."
        )
    return count


def _recycled(rows: Tensor, chosen: Sequence[int], count: int, clusters: int) -> Plan:
    """Keep the first `count` of `chosen`, and cluster the next."""
    kept, dropped = chosen[:count], chosen[count:]
    pool = dropped[: recycled_pool(len(dropped))]
    centres, owners = density_peaks(rows[list(pool)], clusters)
    merge = torch.zeros(count + clusters, len(rows), dtype=torch.promote_types(rows.dtype, torch.float32))
    merge[range(count), list(kept)] = 1
    for cluster in range(clusters):
        members = [pool[j] for j, owner in enumerate(owners) if owner == cluster]
        merge[count + cluster, members] = 1 / len(members)
    return Plan(indices=(*kept, *(pool[j] for j in centres)), merge=merge)


def density_peaks(rows: Tensor, clusters: int) -> tuple[list[int], list[int]]:
    """Cluster by density peaks, with as many neighbours as clusters (Rodriguez and Laio, Science 2014).

    A centre has a high density, and is far from rows of higher density.

    Parameters
    ----------
    rows : Tensor (m, d)
    clusters : int, at most m

    Returns
    -------
    centres : list of `clusters` indices
    owners : list of m indices into `centres`
    """
    wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
    distance = torch.cdist(wide, wide, compute_mode="donot_use_mm_for_euclid_dist") / wide.shape[1] ** 0.5
    nearest = distance.sort(-1).values[:, :clusters]
    density = torch.exp(-(nearest**2).mean(-1))
    order = torch.arange(len(rows), device=rows.device)
    denser = (density > density[:, None]) | ((density == density[:, None]) & (order < order[:, None]))
    height = torch.where(denser, distance, distance.max()).amin(-1)
    centres = ranked(height * density)[:clusters]
    owners = distance[list(centres)].argmin(0)
    owners[list(centres)] = torch.arange(clusters, device=rows.device)
    return list(centres), owners.tolist()


def schedule(
    layers: int,
    n: int,
    keep: Any,
    *,
    budget: str = "average",
    version: int = 1,
    stages: Sequence[int] | None = None,
    shares: Sequence[float] | None = None,
    scale: float | None = None,
    recycled: int | None = None,
) -> tuple[Stage, ...]:
    """Schedule the stages by an average over all layers, an official list, or rank.

    ``keep=None`` takes `shares` as they are, or the list for 192.
    """
    check_version(version)
    if budget not in _BUDGETS:
        raise BridgeError(f"budget = {budget!r}: expected one of {', '.join(_BUDGETS)}.")
    if scale is not None and budget != "rank":
        raise BridgeError(f"scale = {scale}: it belongs to budget='rank'.")
    cut = check_stages(scaled_stages(STAGES, layers) if stages is None else stages, layers)
    if budget == "rank":
        return tuple(Stage(layer, n, {"scale": 1.0 if scale is None else scale}) for layer in cut)
    if shares is not None and budget == "preset":
        raise BridgeError("shares belong to budget='average'.")
    if budget == "average" and (keep is not None or shares is not None):
        wanted = [c / _OF for c in PRESETS[version][192]] if shares is None else list(shares)
        check_shares(wanted, cut)
        if keep is None:
            counts: Sequence[int] = [max(1, int(n * share)) for share in wanted]
        else:
            counts = counts_for_average(layers, cut, n, wanted, average_of(keep, n))
        return tuple(Stage(layer, count) for layer, count in zip(cut, counts, strict=True))
    return _preset(cut, n, 192 if keep is None else keep, version, recycled)


def _preset(
    stages: Sequence[int], n: int, keep: Any, version: int, recycled: int | None
) -> tuple[Stage, ...]:
    """Scale an official list for 576 tokens to n."""
    if keep not in PRESETS[version]:
        raise BridgeError(
            f"keep = {keep!r}: the official lists are for {', '.join(map(str, PRESETS[version]))} tokens; use "
            "budget='average' for others."
        )
    counts = PRESETS[version][keep]
    if len(counts) != len(stages):
        raise BridgeError(f"stages = {tuple(stages)}: the official lists have {len(counts)} stages.")
    scaled, now = [], n
    for layer, count in zip(stages, counts, strict=True):
        selected = max(1, min(round(count * n / _OF), now - 1))
        more = recycled_count(now - selected) if recycled is None else recycled
        more = 0 if version == 2 else more
        scaled.append(Stage(layer, selected + more, {"recycled": more}))
        now = selected + more
    return tuple(scaled)


def check_version(version: Any) -> None:
    """Refuse a version that does not exist."""
    if version not in (1, 2):
        raise BridgeError(f"version = {version!r}: expected 1 (recycles) or 2 (SparseVLM+).")


ROW = Pruner(
    "sparsevlm",
    "most attention from text raters, in stages, with recycled clusters",
    "zhang2025sparsevlm",
    sparsevlm,
    weighted=False,
    merges="clusters of the dropped tokens with the most attention go on as their means",
    inside=Inside(schedule, raters=text_raters, gravity=True),
)
