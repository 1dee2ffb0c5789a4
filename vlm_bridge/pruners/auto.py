"""Auto: greedy residual selection whose relevance exponent grows as the budget shrinks.

ResPrune's columns r_i^α · x_i (its own α is twice this one), r the largest cosine between the token and a word of the
question in the LLM's input embedding space, with an exponent that follows the share s = k/n of tokens kept:

    α(s) = min(1, max(1/4, 1/(18 s))).

It is a quarter from 22 % of the tokens on, one half at 11 %, and one at 1/18 and below. Where many tokens stay, there is
room for what the question names and for the rest of the image; where few do, there is not. Form and numbers were found on
scenes that the study does not use, and confirmed on a held-out set (docs/study).
"""

from __future__ import annotations

from torch import Tensor

from vlm_bridge.pruners.plan import Plan, Pruner
from vlm_bridge.pruners.resprune import ROW as RESPRUNE
from vlm_bridge.pruners.spare import spare

SCARCE = 1 / 18
"""Share of the tokens at and below which the exponent is 1."""
LEAST = 0.25
"""Smallest exponent, where many tokens are kept."""


def exponent(share: float) -> float:
    """Return α for the share k/n of tokens that are kept.

    >>> [exponent(share) for share in (0.5, 1 / 9, 0.01)]
    [0.25, 0.5, 1.0]
    """
    return min(1.0, max(LEAST, SCARCE / share))


def auto(features: Tensor, k: int, weights: Tensor) -> Plan:
    """Pick by greedy residual on r_i^α · x_i."""
    return spare(features, k, weights, alpha=exponent(k / features.shape[-2]))


ROW = Pruner(
    "auto",
    "greedy residual, weighted by the best cosine with a prompt token the more, the fewer tokens stay",
    "resprune2026",
    auto,
    RESPRUNE.relevance,
)
