"""Schedule cuts inside the LLM, and count how many tokens each layer then works on.

An image of n tokens is cut at *stages*: from decoder layer l on (counted from 0, l >= 1) the model works on
c tokens of it. Layers before the first stage work on all n. The average over all layers,

    (l_1 n + (l_2 - l_1) c_1 + ... + (L - l_S) c_S) / L,

is the budget by which staged systems are compared. It counts what the layers are given, merged tokens included; some
papers count the layer that ranks all tokens as one that works on few.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import Any

from vlm_bridge import budget
from vlm_bridge.errors import BridgeError


@dataclass(frozen=True)
class Stage:
    """A planned cut of one image.

    Attributes
    ----------
    layer : int
        First decoder layer that works on fewer tokens.
    keep : int
        Number of the image's tokens from there on, merged ones included.
    options : mapping
        Options of the plan at this stage, besides the caller's.
    """

    layer: int
    keep: int
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Inside:
    """How a pruner acts inside the LLM.

    Attributes
    ----------
    schedule : callable
        ``schedule(layers, n, keep, *, options) -> tuple of Stage`` for an image of n tokens in a decoder of that many
        layers. The stages' layers do not depend on n and keep. Its keyword-only parameters are options.
    ranks : {"before", "at"}
        Which attention is read: that of the layer before the cut, which has run, or the one that the layer at the cut
        would compute over all tokens.
    raters : callable, optional
        ``raters(features, text) -> Tensor (M,) of bool`` selects the text tokens behind the image whose attention is
        read, by the rows (n, d) and (M, d) that enter the LLM. By default it is the prompt's last token.
    gravity : bool
        Whether the plan has an option of that name: the scores (queries, n) of rotary positions alone.
    """

    schedule: Callable[..., tuple[Stage, ...]]
    ranks: str = "before"
    raters: Callable[..., Any] | None = None
    gravity: bool = False


def single(layers: int, n: int, keep: Any, *, layer: int = 2) -> tuple[Stage, ...]:
    """Schedule one cut: `keep` tokens from `layer` on."""
    return (Stage(check_stages((layer,), layers)[0], count_of(keep, n)),)


def scaled_stages(official: Sequence[int], layers: int, of: int = 32) -> tuple[int, ...]:
    """Move the stages of a published system from a decoder of `of` layers to one of `layers`.

    They remain distinct: none before layer 1, each after the one before.

    >>> scaled_stages((8, 16, 24), layers=24)
    (6, 12, 18)
    """
    moved: list[int] = []
    for layer in official:
        moved.append(max(round(layer * layers / of), moved[-1] + 1 if moved else 1))
    return tuple(moved)


def check_stages(stages: Sequence[int], layers: int) -> tuple[int, ...]:
    """Return stages as a tuple; refuse all but ascending layers in [1, layers)."""
    given = tuple(stages)
    whole = all(isinstance(s, numbers.Integral) and not isinstance(s, bool) for s in given)
    if not whole or not given or min(given) < 1 or max(given) >= layers:
        raise BridgeError(
            f"layer or stages = {given}: expected layers from 1 to {layers - 1} of this decoder; to prune before "
            "layer 0 use a pruner that acts before the LLM."
        )
    if list(given) != sorted(set(given)):
        raise BridgeError(f"stages = {given}: expected layers in ascending order, each once.")
    return tuple(int(s) for s in given)


def count_of(keep: Any, n: int) -> int:
    """Return how many of n tokens a count, a share or an `AtMost` keeps."""
    if keep is None:
        raise BridgeError("keep = None: this pruner expects a token count, a share or AtMost for each image.")
    return budget.count_of(keep, n)


def widths(layers: int, stages: Sequence[int]) -> list[int]:
    """Count the layers that work on all tokens, on those of the first stage, and so on."""
    edges = [0, *stages, layers]
    return [b - a for a, b in pairwise(edges)]


def tokens_per_layer(layers: int, stages: Sequence[int], n: int, counts: Sequence[int]) -> list[int]:
    """List the number of tokens that every layer works on.

    Parameters
    ----------
    layers : int
    stages : sequence of S layers
    n : int
        Number of tokens of the image.
    counts : sequence of S int
        Number of tokens from each stage on.

    Examples
    --------
    >>> tokens_per_layer(4, stages=(1, 3), n=8, counts=(4, 2))
    [8, 4, 4, 2]
    """
    return [c for c, w in zip([n, *counts], widths(layers, stages), strict=True) for _ in range(w)]


def average_tokens(layers: int, stages: Sequence[int], n: int, counts: Sequence[int]) -> Fraction:
    """Return the mean of `tokens_per_layer`, exactly."""
    return Fraction(sum(tokens_per_layer(layers, stages, n, counts)), layers)


def counts_for_average(
    layers: int, stages: Sequence[int], n: int, shares: Sequence[float], average: Any
) -> tuple[int, ...]:
    """Find counts whose average over all layers is `average`: the inverse of `average_tokens`.

    The counts are the `shares` of n, all multiplied by one factor and limited to n, then rounded down. What is left of the
    budget is given out one token at a time, first where rounding removed most. The budget is never exceeded, and no count
    can grow by one without exceeding it or overtaking the one before.

    Parameters
    ----------
    layers, stages, n
        As in `tokens_per_layer`.
    shares : sequence of S numbers in (0, 1], not ascending
        The system's own proportions.
    average : number
        Average number of tokens, at most n.

    Raises
    ------
    BridgeError
        The average is below that of one token from every stage on.
    """
    full, *rest = widths(layers, stages)
    check_shares(shares, stages)
    budget = Fraction(average) * layers - full * n
    if budget < sum(rest):
        least = Fraction(full * n + sum(rest), layers)
        raise BridgeError(
            f"an average of {float(average):g} tokens over all layers is too few for an image of {n}: layers 0 "
            f"to {full - 1} work on all of them, so that {float(least):.4g} is the least. Give earlier stages, "
            "or more tokens."
        )
    exact = _scaled(rest, n, shares, budget)
    counts = [max(1, min(n, int(c))) for c in exact]
    if sum(w * c for w, c in zip(rest, counts, strict=True)) > budget:  # where 1 was more than its share
        counts = [1] * len(rest)
    order = sorted(range(len(rest)), key=lambda s: (int(exact[s]) - exact[s], s))
    grown = True
    while grown:
        grown = False
        for s in order:
            left = budget - sum(w * c for w, c in zip(rest, counts, strict=True))
            if rest[s] <= left and counts[s] < (n if s == 0 else counts[s - 1]):
                counts[s] += 1
                grown = True
    return tuple(counts)


def check_shares(shares: Sequence[float], stages: Sequence[int]) -> None:
    """Refuse shares that are not one per stage, in (0, 1], not ascending."""
    shares = tuple(shares)
    good = len(shares) == len(stages) and all(0 < s <= 1 for s in shares)
    if not good or list(shares) != sorted(shares, reverse=True):
        raise BridgeError(
            f"shares = {shares}: expected one in (0, 1] for each of the stages {tuple(stages)}, none above the one before."
        )


def _scaled(rest: Sequence[int], n: int, shares: Sequence[float], budget: Fraction) -> list[Fraction]:
    """Return min(n, t · share · n) for the t that spends the budget, exactly, since it is piecewise linear in t."""
    exact = [Fraction(share).limit_denominator(10**6) * n for share in shares]
    full: int = 0
    while full < len(rest):
        room = budget - n * sum(rest[:full])
        slope = sum(w * c for w, c in zip(rest[full:], exact[full:], strict=True))
        t = room / slope
        if t * exact[full] <= n:
            return [Fraction(n)] * full + [t * c for c in exact[full:]]
        full += 1
    return [Fraction(n)] * len(rest)
