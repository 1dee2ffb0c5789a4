"""Interlacing polynomials: a spectral error below the largest root of the mean characteristic polynomial.

Cai, Xu and Xu, "Interlacing polynomial method for the column subset selection problem", Int. Math. Res. Not. 2024
[cai2024], after Marcus, Spielman and Srivastava. What volume sampling is to the Frobenius error
(`volume_derandomized`) this is to the spectral one: of the characteristic polynomials of what j and the columns to
come leave, the mean under volume sampling has only real roots, and for some j the largest is no larger than before j
was chosen. For small matrices: a step costs n r³.
"""

from __future__ import annotations

import numpy as np

from cssp import bounds
from cssp.bounds.interlacing import largest_root, secular_roots
from cssp.linalg import column_norms2
from cssp.linalg import squares as sq
from cssp.methods._shared import CLEAR, TIES, completed, rest, shortest
from cssp.methods.row import FORCED, Guarantee, Method
from cssp.problem import Picks, Problem


def interlacing(p: Problem) -> Picks:
    """Choose the column after which the mean characteristic polynomial has the smallest largest root, k times."""
    return shortest(p, _chosen)


def _chosen(p: Problem) -> Picks:
    a = rest(p)
    s, Vh, k = a.svd(every=True)
    total = float(np.sum(s**2))
    C = s[:, None] * Vh.formed()  # E in the basis of its left singular vectors
    open_ = a.open.copy()
    S: list[int] = []
    while len(S) < k:
        s = s[s > a.zero]
        C = C[: s.size]
        norms2 = column_norms2(C)
        allowed = open_ & (norms2 > (CLEAR * a.noise) ** 2)
        if not allowed.any():
            break
        r = min(k - len(S), s.size) - 1
        root = np.full(norms2.size, np.inf)
        root[allowed] = _largest_roots(s**2, sq(C[:, allowed]) / norms2[allowed], r)
        near = allowed & (root <= root.min() * (1 + TIES) + a.problem.eps**2 * total)
        j = a.best(norms2, near)  # of equal ones the farthest from dependence
        S.append(j)
        p.progress(len(S), k)
        open_[j] = False
        q = C[:, j] / np.sqrt(norms2[j])
        _, s, V = np.linalg.svd(C - np.outer(q, q.conj() @ C), full_matrices=False)
        C = s[:, None] * V[:, a.first]
    return completed(p, S)


def _largest_roots(x: np.ndarray, Q2: np.ndarray, r: int) -> np.ndarray:
    """Return, for every column, the largest root of the mean polynomial of what it and r more columns leave.

    The eigenvalues x of E Eᴴ, compressed to the complement of a unit vector q, are those of what the column leaves;
    the columns of Q2 are |q|² in the eigenbasis.
    """
    return largest_root(secular_roots(np.broadcast_to(x, Q2.T.shape), Q2.T), r)


ROW = Method(
    name="interlacing",
    function=interlacing,
    summary="smallest largest root of the mean characteristic polynomial: a bound on the spectral error",
    citation="cai2024",
    cost="k SVD + k²n min(m, n)²",
    supports=FORCED | {"tol", "complex"},
    guarantee=Guarantee(
        "T <= 1/(least root of D^k prod (1 - s_i² t)) <= (1 + k (min(m, n) - k)) s_{k+1}², hence F <= (min(m, n) - k) times that",
        "cai2024",
        "every run",
        frobenius=lambda m, n, k: bounds.interlacing(m, n, k) * max(1, min(m, n) - k),
        spectral=lambda m, n, k: bounds.interlacing(m, n, k),
        name="the method of interlacing polynomials",
    ),
)
