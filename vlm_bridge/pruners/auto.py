"""Auto: told what is asked, the rule whose error predicts the answers.

``task="answer"``, questions about what stands out: the residual rule, which lowers the largest residual, guided by the question the more
the fewer tokens may stay. ResPrune's columns r_i^α · x_i (its own α is twice this one), r the largest cosine between the token and a word
of the question in the LLM's input embedding space, with an exponent that follows the share s = k/n of tokens kept:

    α(s) = min(1, max(1/4, 1/(18 s))).

A quarter from 22 % of the tokens on, one half at 11 %, one at 1/18 of them and below. Where many tokens stay, there is room
for what the question names and for the rest of the picture; where few do, there is not. Form and numbers were found on scenes
that the study does not use (docs/study).

``task="transcribe"``, everything that is there has to be written down: the rule of least Frobenius error, in which every token counts
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
"""Share of the tokens at which relevance counts in full."""
LEAST = 0.25


def exponent(share: float) -> float:
    """α of the share of tokens kept."""
    return min(1.0, max(LEAST, SCARCE / share))


def auto(features: Tensor, k: int, weights: Tensor, *, task: str = "answer") -> Plan:
    """Greedy residual on r_i^α · x_i, or the least error of x_i."""
    if task not in TASKS:
        raise BridgeError(f"task = {task!r}: expected {' or '.join(map(repr, TASKS))}.")
    if task == "transcribe":
        return Plan(features.mT, "greedy")
    return spare(features, k, weights, alpha=exponent(k / features.shape[-2]))


ROW = Pruner(
    "auto",
    "told the task: greedy residual, weighted by the best cosine with a prompt token the more, the fewer tokens stay; or least error",
    "resprune2026",
    auto,
    RESPRUNE.relevance,
)
