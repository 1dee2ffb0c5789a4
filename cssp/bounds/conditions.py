"""Groups chosen whole, choices under a constraint, and choices within a budget.

f(S) = ||P_S B||_F^2 is what chosen columns capture of what is to be reconstructed, B = A by default. The proofs are in
docs/theory/conditions.md; `submodularity_ratio` gives the numbers that the shares need.
"""

from __future__ import annotations

import math

from cssp.bounds._record import check_int, theorem


@theorem("frobenius", "every run", "businger1965", "F <= (G - k) b M OPT_k for k of G groups", derived=True)
def group_residual(G: int, k: int, b: int) -> float:
    """Return the factor of the groups of largest residual, k of G with at most b columns each, on OPT_k, the best of *rank* k.

    (G - k) b M, where M = sum_{d=0}^k (k + 1 - d) m_d^2 with m_0 = 1 and m_d = sqrt(b) (1 + sqrt(b))^(d-1). Against the best k
    *groups*, which may span b k dimensions, there is no factor. 1 where all groups are chosen.

    Examples
    --------
    >>> group_residual(3, 1, 1), group_residual(2, 2, 5)
    (6.0, 1.0)
    """
    G, b = check_int("G", G, 1), check_int("b", b, 1)
    k = check_int("k", k, 0, G, "G")
    if k == G:
        return 1.0
    tau = math.sqrt(b)
    try:
        M = k + 1 + sum((k + 1 - d) * b * (1 + tau) ** (2 * d - 2) for d in range(1, k + 1))
        return (G - k) * b * M
    except OverflowError:
        return math.inf


@theorem("frobenius", "every run", "farahat2011", "F <= (1 - k/G) ||A||_F^2 for k of G groups", derived=True)
def group_share(G: int, k: int) -> float:
    """Return the share of ||A||_F^2 that k of G groups leave at most, by largest residual or by largest gain: 1 - k/G.

    Attained by orthogonal groups of one norm.

    Examples
    --------
    >>> group_share(4, 1)
    0.75
    """
    G = check_int("G", G, 1)
    return 1 - check_int("k", k, 0, G, "G") / G
