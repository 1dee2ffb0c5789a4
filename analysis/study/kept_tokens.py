"""Which tokens an arm keeps of an image, at all budgets, and what goes in instead of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
    given: dict[str, Any] = {**encoded.signals, **encoded.asked[asked[0]]}
    row = PRUNERS[arm.method]
    options = {name: given[name] for name in {*arm.signals, *row.reads} if name in given} | dict(arm.options)
    if row.before_projector:
        options |= {name: given[name] for name in ("vision_clip", "projector")}
    counts = [token_counts(keep, [len(encoded.tokens)])[0] for keep in keeps]

    def choose(k: int, order: str = "ascending") -> Tensor:
        (generator,) = np.random.default_rng(list(rng)).spawn(1)  # what `prune` gives a call's first image
        return vlm_bridge.select_tokens(
            encoded.tokens, k, arm.method, arm.relevance, rng=generator, order=order, **options
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
    return [Kept(places, _prefix(arm, encoded, places, asked), seconds) for places in sets]


def _merged(arm: Arm, encoded: EncodedImage, k: int, asked: tuple[int, ...], options: dict[str, Any]) -> Kept:
    start = perf_counter()
    (one,) = vlm_bridge.merge_tokens(encoded.tokens, k, arm.method, arm.relevance, **options)
    seconds = perf_counter() - start
    return Kept(one.indices, Prefix(one.rows, one.indices, asked), seconds)


def _prefix(arm: Arm, encoded: EncodedImage, places: Tensor, asked: tuple[int, ...]) -> Prefix:
    if arm.fold:
        folded = FOLDS[arm.fold](encoded.tokens, places)
        return Prefix(folded.rows, places, asked, folded.sizes)
    if arm.fill:
        return Prefix(filled(encoded.tokens, places), torch.arange(len(encoded.tokens)), asked)
    return Prefix(encoded.tokens[places], places, asked)


def filled(tokens: Tensor, places: Tensor) -> Tensor:
    """Return the tokens (n, d) with the dropped ones replaced by their projection on the span of the kept ones."""
    chosen = cssp.select(tokens.mT, len(places), include=places.tolist(), deficient="truncate")
    span = torch.as_tensor(chosen.indices)
    return (tokens[span].double().mT @ chosen.coefficients().double()).mT.to(tokens)
