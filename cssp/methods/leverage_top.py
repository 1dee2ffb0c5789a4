"""The columns of largest leverage, deterministically.

Papailiopoulos, Kyrillidis and Boutsidis, "Provable deterministic leverage score sampling", KDD 2014
[papailiopoulos2014]. Their theorem asks for enough columns that the scores sum to more than rank - ε; a
selection cut at k columns has no guarantee.
"""

from __future__ import annotations

import numpy as np

from cssp.errors import check_integer
from cssp.linalg import host
from cssp.methods._shared import first_equal, right_vectors
from cssp.methods.row import Guarantee, Method
from cssp.problem import Picks, Problem
from cssp.sampling import in_order


def leverage_top(p: Problem, *, rank: int | None = None, svd: str = "exact") -> Picks:
    """Choose the k independent columns with the largest ‖V_r[j, :]‖².

    Parameters
    ----------
    rank : int, optional
        The r of V_r, the leading right singular vectors, at most min(m, n); k by default. Never more than the
        numerical rank of A is used.
    svd : {"exact", "sketched"}
        Take V_r from an SVD, or from a Gaussian sketch: a few products with r + 10 vectors.
    """
    h = p.numpy("double")
    r = min(p.k, p.m, p.n) if rank is None else check_integer("rank", rank, high=min(p.m, p.n))
    s, Vh = right_vectors(h.A, first_equal(host(p.A)), r, svd, p.rng, r)
    r = min(r, int(np.sum(s > max(p.m, p.n) * p.eps * s[0])))
    leverage = Vh[:r].norms2()
    leverage[leverage <= (p.n * h.eps) ** 2] = 0
    order: list[int] = []
    open_ = h.candidates.copy()
    while len(order) < p.free and np.any(leverage[open_] > 0):
        order.append(h.argmax(leverage, open_))
        open_[order[-1]] = False
    rest = np.flatnonzero(open_ & (leverage > 0))
    return in_order(p, [*order, *rest[np.argsort(-leverage[rest], kind="stable")].tolist()])


ROW = Method(
    name="leverage_top",
    function=leverage_top,
    summary="largest leverage scores of the leading right singular vectors",
    citation="papailiopoulos2014",
    cost="SVD",
    guarantee=Guarantee(
        "F <= OPT_r/(1 - ε), T <= s_{r+1}²/(1 - ε) where the chosen scores sum to r - ε > r - 1; "
        "no factor without that, for k columns at rank r = k in particular",
        "papailiopoulos2014",
        "every run",
    ),
)
