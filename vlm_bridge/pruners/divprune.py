"""DivPrune: max-min diversity (CVPR 2025; vbdi/divprune, 799e2d9).

Distance 1 − cos. The first token is the one whose nearest neighbour is farthest; then, greedily, the token
farthest from those chosen. On unit vectors ‖x − y‖² = 2(1 − cos), so the greedy part is k-center, cssp's
`farthest`, on normalised columns from that seed. Other ports seed with the farthest pair and keep different
tokens.

Distances are formed as the official code forms them, in the precision of the tokens, at least float32: in a
narrow cone, where cosines lie near 1, rounding decides between neighbours, and deciding in double precision
keeps other tokens than the official code does (one image in sixty of such a family).
"""

from __future__ import annotations

from torch import Tensor

from vlm_bridge.pruners.plan import Plan, Pruner
from vlm_bridge.pruners.relevance import unit_rows


def divprune(features: Tensor, k: int, weights: None) -> Plan:
    """Pick by max-min greedy on cosine distance, from the most isolated token."""
    unit = unit_rows(features)
    distances = 1 - unit @ unit.mT
    chosen = [most_isolated(distances)]
    nearest = distances[chosen[0]].clone()
    for _ in range(k - 1):
        nearest[chosen[-1]] = -float("inf")
        chosen.append(int(nearest.argmax()))
        nearest = nearest.minimum(distances[chosen[-1]])
    return Plan(features.mT, indices=tuple(chosen), nested=True)


def most_isolated(distances: Tensor) -> int:
    """Return the token whose distance to its nearest neighbour is largest, for distances (n, n)."""
    if len(distances) == 1:
        return 0
    return int(distances.topk(2, dim=0, largest=False).values[1].argmax())


ROW = Pruner("divprune", "max-min cosine distance", "alvar2025divprune", divprune, weighted=False)
