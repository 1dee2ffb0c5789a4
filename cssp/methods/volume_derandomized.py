"""Volume sampling by the method of conditional expectations: k + 1 times the optimum, without chance.

Deshpande and Rademacher, "Efficient volume sampling for row/column subset selection", FOCS 2010 [deshpande2010]. In
every run F(S) ≤ (k + 1) e_{k+1}(σ²) / e_k(σ²) ≤ (k + 1) OPT_k, e_j the elementary symmetric polynomials. Stable
evaluation after Cortinovis and Kressner, "Low-rank approximation in the Frobenius norm by column and row subset
selection", SIAM J. Matrix Anal. Appl. 41(4), 2020 [cortinovis2020], here with positive terms only.
Of a wide matrix all scores are bounded in half precision, and only those that may be the least are evaluated.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from cssp import bounds, linalg
from cssp.linalg import blocks, column_norms2
from cssp.linalg import squares as sq
from cssp.methods._shared import TIES, Rest, completed, rest, shortest
from cssp.methods.row import FORCED, Guarantee, Method
from cssp.problem import Picks, Problem
from cssp.vectors import Vectors

#: Columns of a wide matrix are screened in half precision where no singular value is below this share of the largest.
LEAST_SINGULAR = 1e-5

#: Scores that are formed to begin with; a better bar is sought where more than a share of 1/`MANY` of the columns stays below the first.
FEW, MANY = 32, 16

#: Rows of positive weight that count each with its own, and what is left of a column that is likely to be the next.
APART, LITTLE = 8, 0.01

#: Probability, relative to the largest, at which a column is not considered.
NEGLIGIBLE = 1e-20


def volume_derandomized(p: Problem) -> Picks:
    """Choose argmin_j (r + 1) e_{r+1}(E_j) / e_r(E_j), k times: E_j what j leaves, r the picks still to come."""
    return shortest(p, _derandomized)


def _derandomized(p: Problem) -> Picks:
    a = rest(p)
    V: _Screened | _Rotated = _Screened.of(a) or _Rotated(a)
    s, k = V.s, min(a.k, int(np.sum(V.s > a.zero)))
    total = float(np.sum(s**2))
    open_ = a.open.copy()
    S: list[int] = []
    while len(S) < k:
        s = s[s > a.zero]
        r = min(k - len(S), s.size) - 1
        if r < 0:
            break
        slack = a.problem.eps**2 * total
        place = V.contenders(s**2, r, open_, slack)
        Vh = V.columns(place)[: s.size]
        norms2, expected, chance = _conditional(s**2, sq(Vh), r)
        allowed = open_[place] & (norms2 > a.noise**2)
        if not allowed.any():
            break
        # Columns of no chance under volume sampling, above all those equal to chosen ones but for rounding: without
        # them the mean, which the least expectation does not exceed, rises by no more than n·NEGLIGIBLE.
        allowed &= chance > NEGLIGIBLE * np.max(chance[allowed])
        # Scores that differ by rounding only go to the column that volume sampling would most likely draw: it is the
        # one farthest from dependence. Then to the lowest index.
        near = allowed & (expected <= np.min(expected[allowed]) * (1 + TIES) + slack)
        t = a.best(chance, near)
        S.append(int(np.arange(open_.size)[place][t]))
        p.progress(len(S), k)
        open_[S[-1]] = False
        if len(S) == k:
            break
        q = s * Vh[:, t] / np.sqrt(norms2[t])
        # In the basis of the left singular vectors (I - q qᴴ) diag(s) Vᴴ is left: the SVD of the small factor says how V rotates.
        _, s, Zh = np.linalg.svd((np.eye(s.size) - np.outer(q, q.conj())) * s)
        V.rotate(Zh)
    return completed(p, S)


class _Rotated:
    """The right singular vectors of what is left, as rows."""

    def __init__(self, a: Rest) -> None:
        self.s, V, _ = a.svd(every=True)
        self.V = Vectors(V.formed(), None, V.first)

    def contenders(self, *_: Any) -> slice:
        """Return the columns whose score may be the least."""
        return slice(None)

    def columns(self, place: Any) -> np.ndarray:
        """Return these columns of V."""
        return self.V.columns(place)

    def rotate(self, Zh: np.ndarray) -> None:
        """Replace V by Zh V; rows that V has beyond those are dropped."""
        self.V = replace(self.V, F=Zh @ self.V.F[: len(Zh)])


class _Screened:
    """The same of a wide matrix, known in half of the precision, and in full for the columns that may be the best.

    V is T V₀, where T (r, m) is the product of all rotations and M A = V₀. A score is a quotient of two weighted sums of |V_ij|², so
    it is above a bar where a third sum is positive, most of whose weights are. The largest of these count through the norm of the
    column, that is with the least among them. What the roundings of V₀ and of T V₀ do is bounded by the norm of the column of V₀.
    """

    def __init__(self, E: np.ndarray, first: np.ndarray, s: np.ndarray, M: np.ndarray) -> None:
        self.E, self.first, self.s, self.M = E, first, s, M
        self.T = np.eye(len(s), dtype=M.dtype)
        self.half = np.empty(E.shape, dtype=np.float32 if M.dtype.kind == "f" else np.complex64)
        for part in blocks(E):
            self.half[:, part] = M @ E[:, part]
        self.now = self.start = column_norms2(self.half)
        self.likely = np.argsort(-self.start)[:FEW]

    @classmethod
    def of(cls, a: Rest) -> _Screened | None:
        """Return what is known of a wide matrix whose singular values are far above rounding, None for others."""
        m, n = a.E.shape
        if n < linalg.WIDE * m or m * n < linalg.LARGE or a.k >= m:
            return None
        _, s, Wh = linalg.svd(linalg.triangle(a.E))
        if not s[-1] > max(LEAST_SINGULAR * s[0], a.zero):
            return None
        return cls(a.E, a.first, s, Wh / s[:, None])

    def contenders(self, x: np.ndarray, r: int, open_: np.ndarray, slack: float) -> Any:
        """Return the columns whose score may be the least."""
        low, high, scale = _weights(x, r)
        if not scale > 0:
            return slice(None)
        for _ in range(2):
            _, exact, chances = _conditional(x, sq(self.columns(self.likely)[: len(x)]), r)
            exact = exact[open_[self.likely] & (chances > NEGLIGIBLE * chances.max())]
            if not exact.size:
                return slice(None)
            sums, error = self._sums(scale * high - (exact.min() * (1 + TIES) + slack) * low)
            place = np.flatnonzero(open_ & (sums <= error * self.start))
            ratio = np.where(open_, sums / np.maximum(self.now, LITTLE * self.start), np.inf)
            self.likely = np.argpartition(ratio, min(FEW, ratio.size - 1))[:FEW]
            if MANY * place.size < self.now.size:
                break
        return place

    def _sums(self, w: np.ndarray) -> tuple[np.ndarray, float]:
        """Return Σ w_i |V_ij|² or less, for every column, up to a common factor, and the rounding of that, in units of `start`.

        As many rows of V as there are weights are left.
        """
        m, left = len(self.s), len(w)
        w = w / np.abs(w).max()
        order = np.argsort(w)
        rows = min(int(np.count_nonzero(w < 0)) + APART, left)
        rest = w[order[rows]] if rows < left else 0.0
        T = np.concatenate([self.T[order[:rows]], self.T[left:]])  # the rows that are dropped lower the norms
        C = np.zeros((2, len(T)))
        C[0, :rows], C[1, rows:] = w[order[:rows]] - rest, 1
        self.T = self.T[:left]
        T, C = T.astype(self.half.dtype), C.astype(self.now.dtype)
        sums = np.empty((2, self.now.size), self.now.dtype)
        for part in blocks(self.half):
            sums[:, part] = C @ sq(T @ self.half[:, part])
        self.now = self.now - sums[1]
        error = m * float(np.finfo(self.now.dtype).eps)
        error = 2 * error * (float(np.linalg.norm(w)) + 2 * math.sqrt(m)) + 4 * m * error**2
        return sums[0] + rest * self.now, error

    def columns(self, place: Any) -> np.ndarray:
        """Return these columns of V."""
        return self.T @ (self.M @ self.E[:, self.first[place]])

    def rotate(self, Zh: np.ndarray) -> None:
        """Replace V by Zh V."""
        self.T = Zh @ self.T[: len(Zh)]


def _conditional(x: np.ndarray, V2: np.ndarray, r: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, for every column j, ‖e_j‖², E[F | j chosen] = (r + 1) e_{r+1}(E_j) / e_r(E_j), and ‖e_j‖² e_r(E_j) up to a factor.

    V2 holds the squares of the right singular vectors, as rows, so that c_j with |c_ij|² = x_i V2_ij stands for e_j. With
    q = c_j / ‖c_j‖ in the eigenbasis of E Eᴴ, whose eigenvalues are x, the characteristic polynomial of the
    compression to q's complement is Σ_i |q_i|² Π_{l≠i} (λ - x_l). Hence e_r(E_j) = Σ_i |q_i|² e_r(x without x_i), a
    sum of positive terms, from one SVD for all columns.
    """
    low, high, scale = _weights(x, r)
    norms2, chance, ratio = np.stack([x, low, high]) @ V2
    return norms2, scale * ratio / np.where(chance > 0, chance, 1.0), chance


def _weights(x: np.ndarray, r: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Return x_i e_r and x_i e_{r+1} of all x but x_i, up to factors, and r + 1 times the quotient of these; 0 where k columns span all."""
    low, high = _leave_one_out(x, r)
    least, top = float(low.max()), float(high.max())
    spanned = top == -np.inf
    scale = 0.0 if spanned else (r + 1) * math.exp(top - least)
    return x * np.exp(low - least), x * (0 if spanned else np.exp(high - top)), scale


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
