"""MMTok: multimodal coverage (ICLR 2026, arXiv 2508.18264; Ironieser/MMTok, d1522cd).

Every word of the prompt and every visual token spreads one unit over the visual tokens, by a softmax of
cosines: words in the LLM's input space at `text_temperature`, visual tokens in the vision tower's space at
`vision_temperature`. A set of tokens covers a row by its largest entry. Greedily the token is added that
raises the mean coverage of the words plus alpha times the mean coverage of the visual tokens most. The
objective is submodular, so gains only fall: an old gain bounds the new one, and few have to be formed anew
(lazy evaluation, which changes nothing in the choice).

The official code runs in float32 on one image; for Qwen2.5-VL it takes text_temperature = 0.01 and compares
the means of the patches that the merger joins, `vision_mean`, which replace `vision_clip` where they are given. It cleans
the question, and leaves out the beginning-of-text token before it embeds the words. Here everything is decided in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlm_bridge.errors import BridgeError
from vlm_bridge.pruners._greedy import number
from vlm_bridge.pruners.plan import Plan, Pruner
from vlm_bridge.pruners.relevance import unit_rows

_TIE = 1e-14
"""Gains this close are equal; a row's coverage is at most one, so the unit is that of float64 sums."""
_BLOCK = 32
"""Number of gains that are computed again at once."""


def mmtok(
    features: Tensor,
    k: int,
    weights: None,
    *,
    llm_text: Tensor,
    vision_clip: Tensor,
    vision_mean: Tensor | None = None,
    text_temperature: float = 0.02,
    vision_temperature: float = 0.2,
    alpha: float = 0.5,
) -> Plan:
    """Pick by greedy maximal coverage of words and visual tokens."""
    text_temperature = number("text_temperature", text_temperature, 0, open_low=True)
    vision_temperature = number("vision_temperature", vision_temperature, 0, open_low=True)
    alpha = number("alpha", alpha, 0)
    if llm_text.shape[-1] != features.shape[-1] or len(llm_text) == 0:
        raise BridgeError(
            f"llm_text of shape {tuple(llm_text.shape)}: expected (M, {features.shape[-1]}) with M >= 1, "
            "the LLM's space as the features."
        )
    words = spread(llm_text, features, text_temperature)
    rows = vision_clip if vision_mean is None else vision_mean
    patches = spread(rows, rows, vision_temperature)
    return Plan(indices=cover(torch.cat([words, alpha * patches]), k))


def spread(rows: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """Divide one unit equally among rows, and each row's part among tokens, (rows, tokens), by a softmax of cosines."""
    cosines = unit_rows(rows, torch.float64) @ unit_rows(tokens, torch.float64).mT
    return torch.softmax(cosines / temperature, dim=-1) / len(rows)


def cover(table: Tensor, k: int) -> tuple[int, ...]:
    """Pick k columns of a non-negative table (rows, n) greedily by the sum over rows of their largest entry."""
    columns = table.mT.contiguous()
    covered = torch.zeros_like(columns[0])
    gains = columns.sum(-1)
    exact = torch.ones(len(columns), dtype=torch.bool, device=table.device)
    chosen: list[int] = []
    while len(chosen) < k:
        while not exact[best := gains >= gains.max() - _TIE].all():
            old = gains.masked_fill(exact, -1).topk(min(_BLOCK, len(columns))).indices
            old = old[~exact[old]]
            gains[old] = (columns[old] - covered).clamp_(min=0).sum(-1)
            exact[old] = True
        chosen.append(int(best.nonzero()[0]))
        covered = torch.maximum(covered, columns[chosen[-1]])
        gains[chosen[-1]] = -1
        exact[:] = gains < 0  # the chosen ones stay out
    return tuple(chosen)


ROW = Pruner(
    "mmtok",
    "greedy maximal coverage of the prompt's words and of all visual tokens",
    "dong2026mmtok",
    mmtok,
    weighted=False,
    elsewhere="the authors' for Qwen2.5-VL: cosines of the means of the joined patches",
)
