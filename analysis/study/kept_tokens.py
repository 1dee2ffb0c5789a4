"""Which tokens an arm keeps of an image, at all budgets, and what goes in instead of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

import cssp
import vlm_bridge
from analysis.study.answering import Prefix
from analysis.study.arms import Arm
from analysis.study.encoding import EncodedImage
from vlm_bridge import PRUNERS
from vlm_bridge.budget import token_counts
from vlm_bridge.pruners.relevance import unit_rows
from vlm_bridge.selection.fold import FOLDS


@dataclass(frozen=True)
class Kept:
    """One set of kept tokens: their places (k,) ascending, how it goes in, and the seconds it took to choose."""

    places: Tensor
    prefix: Prefix
    seconds: float


def kept(arm: Arm, encoded: EncodedImage, keeps: Sequence[float], rng: Sequence[int]) -> list[list[Kept]]:
    """Return, for every budget, one set for all questions, or one a question where the arm reads them."""
    every = tuple(range(len(encoded.questions)))
    groups = [(q,) for q in every] if arm.asks else [every]
    found: list[list[Kept]] = [[] for _ in keeps]
    for asked in groups:
        for at, one in zip(found, _of_question(arm, encoded, keeps, asked, rng), strict=True):
            at.append(one)
    return found


def _of_question(
    arm: Arm, encoded: EncodedImage, keeps: Sequence[float], asked: tuple[int, ...], rng: Sequence[int]
) -> list[Kept]:
    if arm.smaller:
        return [_smaller(encoded, keep, asked) for keep in keeps]
    given: dict[str, Any] = {**encoded.signals, **encoded.asked[asked[0]]}
    row = PRUNERS[arm.method]
    names = {*arm.signals, *row.reads, *row.options}
    options = {name: given[name] for name in names if name in given} | dict(arm.options)
    if row.before_projector:
        options |= {name: given[name] for name in ("vision_clip", "projector")}
    columns = columns_of(arm, encoded)
    counts = [token_counts(keep, [len(encoded.tokens)])[0] for keep in keeps]

    def choose(k: int, order: str = "ascending") -> Tensor:
        (generator,) = np.random.default_rng(list(rng)).spawn(1)  # what `prune` gives a call's first image
        return vlm_bridge.select_tokens(
            columns, k, arm.method, arm.relevance, rng=generator, order=order, **options
        )

    if row.merges:
        return [_merged(arm, encoded, k, asked, options) for k in counts]
    start = perf_counter()
    if arm.nested:
        longest = choose(max(counts), "chosen")
        sets = [longest[:k].sort().values for k in counts]
    else:
        sets = [choose(k) for k in counts]
    seconds = (perf_counter() - start) / len(counts)
    return [Kept(places, _prefix(arm, encoded, places, asked, rng), seconds) for places in sets]


def columns_of(arm: Arm, encoded: EncodedImage) -> Tensor:
    """Return what the rule of an arm looks at, (n, d)."""
    tokens, things = encoded.tokens, encoded.things
    if arm.columns == "cosine":
        return unit_rows(tokens)
    if arm.columns == "equal classes" and things is not None and things.any() and not things.all():
        norms = tokens.norm(dim=1)
        return torch.where(
            things[:, None], tokens * (norms[~things].median() / norms[things].median()), tokens
        )
    return tokens


def _merged(arm: Arm, encoded: EncodedImage, k: int, asked: tuple[int, ...], options: dict[str, Any]) -> Kept:
    start = perf_counter()
    (one,) = vlm_bridge.merge_tokens(encoded.tokens, k, arm.method, arm.relevance, **options)
    seconds = perf_counter() - start
    return Kept(one.indices, Prefix(one.rows, one.indices, asked), seconds)


def _smaller(encoded: EncodedImage, keep: float, asked: tuple[int, ...]) -> Kept:
    """Return the tokens of the image made smaller, at the places in the middle of what each of them covers."""
    start = perf_counter()
    side = isqrt(len(encoded.tokens))
    rows, columns = grid_of(token_counts(keep, [side * side])[0])
    tokens = encoded.smaller(rows, columns)
    middles = [[(2 * i + 1) * side // (2 * count) for i in range(count)] for count in (rows, columns)]
    places = torch.tensor([side * r + c for r in middles[0] for c in middles[1]])
    return Kept(places, Prefix(tokens, places, asked), perf_counter() - start)


def grid_of(k: int) -> tuple[int, int]:
    """Return rows and columns of the largest grid of at most k cells whose longer side is at most 1.5 times the other, rounded up."""
    grids = [(a, b) for a in range(1, k + 1) for b in range(a, -(-3 * a // 2) + 1) if a * b <= k]
    return max(grids, key=lambda grid: (grid[0] * grid[1], grid[0]))


def _prefix(
    arm: Arm, encoded: EncodedImage, places: Tensor, asked: tuple[int, ...], rng: Sequence[int]
) -> Prefix:
    if arm.fold:
        folded = FOLDS[arm.fold](encoded.tokens, places)
        return Prefix(folded.rows, places, asked, folded.sizes)
    if arm.fill:
        rows = filled(encoded.tokens, places, arm.fill, rng)
        return Prefix(rows, torch.arange(len(encoded.tokens)), asked)
    return Prefix(encoded.tokens[places], places, asked)


def filled(tokens: Tensor, places: Tensor, fill: str = "fill", rng: Sequence[int] = (0,)) -> Tensor:
    """Return the tokens (n, d) with the dropped ones replaced, see `analysis.study.arms.FILLS`; ``rng`` seeds what is drawn."""
    dropped = torch.ones(len(tokens), dtype=torch.bool)
    dropped[places] = False
    generator = np.random.default_rng([*rng, len(places)])
    rows = tokens.clone()
    if fill == "mean fill":
        rows[dropped] = tokens.mean(0)
    elif fill == "dummy fill":
        one = torch.as_tensor(generator.standard_normal(tokens.shape[1])).to(tokens)
        rows[dropped] = one * (tokens.norm(dim=1).median() / one.norm())
    else:
        rows = projected(tokens, places)
        if fill == "shuffled fill":
            rows[dropped] = rows[dropped][torch.as_tensor(generator.permutation(int(dropped.sum())))]
    return rows


def projected(tokens: Tensor, places: Tensor) -> Tensor:
    """Return the projections (n, d) of all tokens on the span of the kept ones."""
    chosen = cssp.select(tokens.mT, len(places), include=places.tolist(), deficient="truncate")
    span = torch.as_tensor(chosen.indices)
    return (tokens[span].double().mT @ chosen.coefficients().double()).mT.to(tokens)
