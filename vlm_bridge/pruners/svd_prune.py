"""SVD-Prune: the tokens of largest leverage (arXiv 2604.11530, 2026; code announced, not published).

X = U·S·Vᵀ is cut at the smallest rank r that keeps the share `energy` of ‖X‖²_F, and the k tokens with the
largest ‖U_r[i, :]‖² are kept. That is `leverage_top` with this rank: deterministic leverage scores, without
a guarantee at k columns, since copies of one unusual token all score high.

The value of `energy` is not in any text that we could read; 0.9 is a third party's, and ours. The paper
decomposes the rows of the vision encoder, we the rows that the LLM is given; pass the former as `features`
to choose by them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlm_bridge.pruners._greedy import doubles, number
from vlm_bridge.pruners.plan import Plan, Pruner


def svd_prune(features: Tensor, k: int, weights: None, *, energy: float = 0.9) -> Plan:
    """Pick the largest leverage scores at the rank of that spectral energy."""
    energy = number("energy", energy, 0, 1, open_low=True)
    return Plan(features.mT, "leverage_top", options={"rank": rank_of(features, energy)})


def rank_of(features: Tensor, energy: float) -> int:
    """Count the fewest singular values, at least one, whose squares sum to the share `energy` of all."""
    X = doubles(features)
    gram = X @ X.mT if X.shape[0] <= X.shape[1] else X.mT @ X
    squares = torch.linalg.eigvalsh(gram).flip(-1).clamp(min=0)
    if energy == 1:  # all of them: `leverage_top` stops at the numerical rank
        return len(squares)
    reached = squares.cumsum(0) >= energy * squares.sum()
    return int(reached.nonzero()[0]) + 1


ROW = Pruner(
    "svd_prune",
    "largest leverage scores at the rank of a spectral energy",
    "apedo2026svdprune",
    svd_prune,
    weighted=False,
)
