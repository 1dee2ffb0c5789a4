"""Groups chosen whole, choices under a constraint, and choices within a budget.

f(S) = ||P_S B||_F^2 is what chosen columns capture of what is to be reconstructed, B = A by default. The proofs are in
docs/theory/conditions.md; `block_eigenvalues` are the numbers that the shares need.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from cssp.bounds._record import check_int, check_real, theorem


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


@theorem("frobenius", "every run", "farahat2011", "F <= (1 - spent/total) ||A||_F^2", derived=True)
def share_left(total: float, spent: float) -> float:
    """Return the share of ||A||_F^2 that is left at most, by residuals or by gain, per cost: 1 - spent/total.

    Without costs total is the number of groups, or of columns, and spent how many of them are chosen; with costs both are
    sums of costs, as long as every unit left can be afforded. Attained by orthogonal groups of one norm.

    Examples
    --------
    >>> share_left(4, 1)
    0.75
    """
    total = check_real("total", total, 0.0, open_low=True)
    return 1 - check_real("spent", spent, 0.0, total) / total


def block_eigenvalues(A: ArrayLike, groups: ArrayLike | None = None) -> tuple[float, float]:
    """Return the least and the largest eigenvalue of UᴴU, U being orthonormal bases of the groups of columns side by side.

    Of single columns, by default, U are the columns divided by their norms. The least is what `weak_submodularity`,
    `budget_greedy` and `constrained_greedy` call gamma or low: of all columns, or of only those of the choice and of what it is
    compared with. It is 0 where groups depend on each other. Zero columns are left out.

    Examples
    --------
    >>> import numpy as np
    >>> low, high = block_eigenvalues([[1.0, 1.0], [0.0, 1.0]])
    >>> round(low, 3), round(high, 3), block_eigenvalues(np.eye(2), [0, 0])
    (0.293, 1.707, (1.0, 1.0))
    """
    A = np.asarray(A)
    labels = np.arange(A.shape[1]) if groups is None else np.asarray(groups)
    if A.ndim != 2 or labels.shape != A.shape[1:]:
        raise ValueError(
            f"groups must be one label for each column of a matrix, got {labels.shape} for {A.shape}"
        )
    bases = []
    for label in np.unique(labels):
        W, s, _ = np.linalg.svd(A[:, labels == label], full_matrices=False)
        bases.append(W[:, s > max(A.shape) * np.finfo(s.dtype).eps * s[0]])
    U = np.concatenate(bases, axis=1)
    if not U.shape[1]:
        return 1.0, 1.0
    values = np.linalg.eigvalsh(U.conj().T @ U)
    rounding = U.shape[1] * float(np.finfo(values.dtype).eps)
    least = float(values[0]) if values[0] > rounding else 0.0
    return min(1.0, least), max(1.0, float(values[-1]))


@theorem(
    "captured energy",
    "every run",
    "das2011",
    "f(S) >= (1 - e^(-gamma s)) max f within the budget",
    derived=True,
)
def budget_greedy(gamma: float, share: float) -> float:
    """Return the share of the best f within the budget that gain per cost captures: 1 - e^(-gamma s).

    s is the share of the budget spent while no candidate was too dear; it is at least 1 - (dearest cost)/budget. gamma is the
    least of `block_eigenvalues`. No other submodularity is assumed; `budget_greedy_submodular` is about the case that has it.

    Examples
    --------
    >>> round(budget_greedy(1.0, 1.0), 4), budget_greedy(0.5, 0.0)
    (0.6321, 0.0)
    """
    gamma = check_real("gamma", gamma, 0.0, 1.0)
    return -math.expm1(-gamma * check_real("share", share, 0.0, 1.0))


@theorem(
    "captured energy",
    "every run",
    "leskovec2007",
    "f(S) >= (1 - 1/e)/2 max f where f is submodular",
    derived=True,
)
def budget_greedy_submodular() -> float:
    """Return the share of the best f within the budget that the better of two greedy choices captures: (1 - 1/e)/2.

    One is by gain per cost, the other by gain [leskovec2007]. Hypothesis: f is submodular, as it is for orthogonal columns. In
    general it is not: of two columns each may capture nothing, and both together everything.

    Examples
    --------
    >>> round(budget_greedy_submodular(), 4)
    0.3161
    """
    return -math.expm1(-1.0) / 2


@theorem(
    "captured energy",
    "every run",
    "das2011",
    "f(S) >= share max f over what the constraint allows",
    derived=True,
)
def constrained_greedy(low: float, high: float, r: int, p: int = 1) -> float:
    """Return the share of the best f under a constraint that greedy gain captures, at most r columns being allowed together.

    The larger of low/r and low/(low + (sqrt(p) + sqrt(u))^2), where u is the smaller of r and high (1 + ceil(log2 r))^2. low and
    high are the `block_eigenvalues`. p = 1 for a matroid, such as `cssp.AtMost`; for a p-extendible system p is how many chosen
    columns one more can displace: for `cssp.MinDistance` 2 on a line, 5 in the plane, 12 in space. Where f is submodular the
    share is 1/(1 + p) [fisher1978].

    Examples
    --------
    >>> constrained_greedy(1.0, 1.0, 1), round(constrained_greedy(1.0, 1.0, 40), 4)
    (1.0, 0.025)
    """
    low, high = check_real("low", low, 0.0, 1.0), check_real("high", high, 1.0)
    r, p = check_int("r", r, 1), check_int("p", p, 1)
    u = min(float(r), high * (1 + math.ceil(math.log2(r))) ** 2)
    return max(low / r, low / (low + (math.sqrt(p) + math.sqrt(u)) ** 2))


@theorem(
    "captured energy", "every run", "fisher1978", "f(S) >= max f/(1 + p) where f is submodular", derived=True
)
def constrained_greedy_submodular(p: int = 1) -> float:
    """Return the share of the best f under a constraint that greedy gain captures where f is submodular: 1/(1 + p) [fisher1978].

    p as in `constrained_greedy`. Orthogonal columns have a submodular f.

    Examples
    --------
    >>> constrained_greedy_submodular()
    0.5
    """
    return 1 / (1 + check_int("p", p, 1))
