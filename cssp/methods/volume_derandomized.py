"""Volume sampling by the method of conditional expectations: k + 1 times the optimum, without chance.

Deshpande and Rademacher, "Efficient volume sampling for row/column subset selection", FOCS 2010 [deshpande2010]. In
every run F(S) ≤ (k + 1) e_{k+1}(σ²) / e_k(σ²) ≤ (k + 1) OPT_k, e_j the elementary symmetric polynomials. Stable
evaluation after Cortinovis and Kressner, "Low-rank approximation in the Frobenius norm by column and row subset
selection", SIAM J. Matrix Anal. Appl. 41(4), 2020 [cortinovis2020], here with positive terms only.
"""

from __future__ import annotations

import numpy as np

from cssp import bounds
from cssp.linalg import squares as sq
from cssp.methods._shared import TIES, alike, completed, rest, shortest
from cssp.methods.row import FORCED, Guarantee, Method
from cssp.problem import Picks, Problem

#: Probability, relative to the largest, at which a column is not considered.
NEGLIGIBLE = 1e-20


def volume_derandomized(p: Problem) -> Picks:
    """Choose argmin_j (r + 1) e_{r+1}(E_j) / e_r(E_j), k times: E_j what j leaves, r the picks still to come."""
    return shortest(p, _derandomized)


def _derandomized(p: Problem) -> Picks:
    a = rest(p)
    s, Vh, k = a.svd(every=True)
    total = float(np.sum(s**2))
    open_ = a.open.copy()
    S: list[int] = []
    while len(S) < k:
        s = s[s > a.zero]
        Vh = Vh[: s.size]
        r = min(k - len(S), s.size) - 1
        if r < 0:
            break
        norms2, expected, chance = _conditional(s**2, sq(Vh), r)
        allowed = open_ & (norms2 > a.noise**2)
        if not allowed.any():
            break
        # Columns of no chance under volume sampling, above all those equal to chosen ones but for rounding: without
        # them the mean, which the least expectation does not exceed, rises by no more than n·NEGLIGIBLE.
        allowed &= chance > NEGLIGIBLE * np.max(chance[allowed])
        # Scores that differ by rounding only go to the column that volume sampling would most likely draw: it is the
        # one farthest from dependence. Then to the lowest index.
        slack = a.problem.eps**2 * total
        near = allowed & (expected <= np.min(expected[allowed]) * (1 + TIES) + slack)
        j = a.best(chance, near)
        S.append(j)
        p.progress(len(S), k)
        open_[j] = False
        if len(S) == k:
            break
        q = s * Vh[:, j] / np.sqrt(norms2[j])
        # In the basis of the left singular vectors (I - q qᴴ) diag(s) Vᴴ is left: the SVD of the small factor says how V rotates.
        _, s, Zh = np.linalg.svd((np.eye(s.size) - np.outer(q, q.conj())) * s)
        Vh = alike(Zh @ Vh, a.first)
    return completed(p, S)


def _conditional(x: np.ndarray, V2: np.ndarray, r: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, for every column j, ‖e_j‖², E[F | j chosen] = (r + 1) e_{r+1}(E_j) / e_r(E_j), and ‖e_j‖² e_r(E_j) up to a factor.

    V2 holds the squares of the right singular vectors, as rows, so that c_j with |c_ij|² = x_i V2_ij stands for e_j. With
    q = c_j / ‖c_j‖ in the eigenbasis of E Eᴴ, whose eigenvalues are x, the characteristic polynomial of the
    compression to q's complement is Σ_i |q_i|² Π_{l≠i} (λ - x_l). Hence e_r(E_j) = Σ_i |q_i|² e_r(x without x_i), a
    sum of positive terms, from one SVD for all columns.
    """
    low, high = _leave_one_out(x, r)
    least = float(low.max())
    spanned = high.max() == -np.inf  # k columns span all there is
    top = 0.0 if spanned else float(high.max())
    norms2, chance, ratio = (x * np.stack([np.ones_like(x), np.exp(low - least), np.exp(high - top)])) @ V2
    if spanned:
        return norms2, np.zeros_like(chance), chance
    return norms2, (r + 1) * np.exp(top - least) * ratio / np.where(chance > 0, chance, 1.0), chance


def _leave_one_out(x: np.ndarray, r: int) -> tuple[np.ndarray, np.ndarray]:
    """Return log e_r and log e_{r+1} of all x but x_i, for every i: prefix times suffix, no division, no range to leave."""
    before, after = _prefixes(np.log(x), r + 1), _prefixes(np.log(x[::-1]), r + 1)[::-1]
    low = np.logaddexp.reduce(before[:, : r + 1] + after[:, r::-1], axis=1)
    return low, np.logaddexp.reduce(before + after[:, ::-1], axis=1)


def _prefixes(log_x: np.ndarray, order: int) -> np.ndarray:
    """Return the row i: log e_0, ..., log e_order of the first i numbers; one row for each number."""
    table = np.full((log_x.size, order + 1), -np.inf)
    table[0, 0] = 0.0
    for i in range(1, log_x.size):
        table[i] = table[i - 1]
        table[i, 1:] = np.logaddexp(table[i, 1:], log_x[i - 1] + table[i - 1, :-1])
    return table


ROW = Method(
    name="volume_derandomized",
    function=volume_derandomized,
    summary="volume sampling by conditional expectations",
    citation="deshpande2010",
    cost="(k + 1) SVD",
    supports=FORCED | {"tol", "complex"},
    guarantee=Guarantee(
        "F <= (k + 1) e_{k+1}(s²)/e_k(s²) <= (k + 1) OPT_k, hence T <= (k + 1)(min(m, n) - k) s_{k+1}²",
        "deshpande2010",
        "every run",
        frobenius=lambda m, n, k: bounds.volume_derandomized(k),
        spectral=lambda m, n, k: bounds.volume_spectral(m, n, k),
        name="derandomised volume sampling",
    ),
)
