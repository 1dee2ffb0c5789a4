"""Auto: for each task the rule whose error should predict its answers.

``task="answer"``, for questions about what stands out: the residual rule, which lowers the largest residual, with a relevance exponent
that grows as the budget shrinks. The columns are ResPrune's, r_i^α · x_i (its own α is twice this one), r the largest cosine between
the token and a word of the question in the LLM's input embedding space, with an exponent that follows the share s = k/n of tokens kept:

    α(s) = min(1, max(1/4, 1/(18 s))).

It is a quarter from 22 % of the tokens on, one half at 11 %, and one at 1/18 and below. Where many tokens stay, there is
room for what the question names and for the rest of the image; where few do, there is not. Form and numbers were found on
scenes that the study does not use (docs/study).

``task="transcribe"``, for writing down all that is there: the rule of least Frobenius error (`greedy`), in which every token counts
alike. The question is not read.
"""

from __future__ import annotations

from torch import Tensor

from vlm_bridge.errors import BridgeError
from vlm_bridge.pruners.plan import Plan, Pruner
from vlm_bridge.pruners.resprune import ROW as RESPRUNE
from vlm_bridge.pruners.spare import spare

TASKS = ("answer", "transcribe")
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


def auto(features: Tensor, k: int, weights: Tensor, *, task: str = "answer") -> Plan:
    """Pick by greedy residual on r_i^α · x_i, or by the least error of x_i."""
    if task not in TASKS:
        raise BridgeError(f"task = {task!r}: expected {' or '.join(map(repr, TASKS))}.")
    if task == "transcribe":
        return Plan(features.mT, "greedy")
    return spare(features, k, weights, alpha=exponent(k / features.shape[-2]))


ROW = Pruner(
    "auto",
    "by task: greedy residual with a relevance exponent that grows as the budget shrinks, or least error",
    "resprune2026",
    auto,
    RESPRUNE.relevance,
)
