"""What holds for any selection: the a-posteriori factor, the best subset, completions of a partial set."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from cssp.bounds._record import check_int, check_real, check_spectrum, theorem


@theorem(
    "both", "every run", "boutsidis2014", "||A - P_S A||^2 <= ||A - A_k||^2 / s_min(V_k[S,:])^2", derived=True
)
def a_posteriori(rows: ArrayLike) -> float:
    """Return the factor of any given selection, computed from V_k: 1 / s_min(V_k[S, :])^2, squared error, both norms.

    ||A - P_S A||_xi^2 <= ||A - A_k||_xi^2 / s_min(V_k[S, :])^2 for xi = 2 and F, any S with |S| >= k and
    V_k[S, :] of full column rank. Sharp: `cssp.matrices.basis_only_killer` attains it for every V_k and S.

    Parameters
    ----------
    rows : array_like, shape (|S|, k)
        V_k[S, :], the chosen rows of the top right singular vectors (any orthonormal basis V of k columns
        gives the same inequality with A - A V V^T in place of A - A_k).

    Returns
    -------
    float
        At least 1; inf where fewer than k rows are given or they are dependent.

    Examples
    --------
    >>> round(a_posteriori([[0.6, 0.0], [0.0, 0.8]]), 9)
    2.777777778
    """
    V_S = np.asarray(rows)
    if V_S.ndim != 2 or V_S.shape[1] == 0:
        raise ValueError(f"rows must be a matrix with one column per singular vector, got shape {V_S.shape}")
    if not np.all(np.isfinite(V_S)):
        raise ValueError("rows must be finite")
    if V_S.shape[0] < V_S.shape[1]:
        return math.inf
    smallest = float(np.linalg.svd(V_S, compute_uv=False)[-1])
    if smallest <= 1e-154:
        return math.inf
    return max(1.0, smallest**-2)


@theorem("frobenius", "some subset", "deshpande2006", "min_S F <= (k + 1) OPT_k", derived=True)
def exact(k: int) -> float:
    """Return the factor of the best k columns: min_S F <= (k + 1) OPT_k, squared error [deshpande2006].

    The minimum is at most the mean under volume sampling. Optimal: see `simplex`.

    Examples
    --------
    >>> exact(4)
    5.0
    """
    return float(check_int("k", k, 1) + 1)


@theorem("spectral", "some subset", "gu1996", "min_S T <= (1 + k (n - k)) s_{k+1}^2")
def exact_spectral(n: int, k: int) -> float:
    """Return the factor of the best k columns in the spectral norm: min_S T <= (1 + k (n - k)) s_{k+1}^2, squared [gu1996].

    The subset of largest volume has it (strong RRQR at f = 1).

    Examples
    --------
    >>> exact_spectral(10, 3)
    22.0
    """
    n = check_int("n", n, 1)
    k = check_int("k", k, 1, n, "n")
    return 1.0 + k * (n - k)


@theorem(
    "frobenius",
    "every run",
    "arai2015",
    "F of a completion >= sum_{i > k-j} s_i(E)^2",
    derived=True,
)
def completion(s: ArrayLike, k: int, j: int) -> float:
    """Return the least squared Frobenius error that any completion of a partial set can reach (an error, not a factor).

    With j columns chosen and `s` the singular values of the residual E, every superset of k columns has
    F >= sum of s_i^2 over i > k - j: the residual loses at most rank k - j. Admissible for branch and bound
    [arai2015].

    Examples
    --------
    >>> completion([3.0, 2.0, 1.0], k=2, j=1)
    5.0
    """
    values = check_spectrum(s)
    k = check_int("k", k, 1)
    j = check_int("j", j, 0, k, "k")
    return float(np.sum(values[k - j :] ** 2))


@theorem(
    "entrywise l_p",
    "some subset",
    "dan2019",
    "(k+1)^{1/p} (p <= 2), (k+1)^{1-1/p} (p >= 2)",
)
def entrywise_norm(k: int, p: float) -> float:
    """Return the factor of the best k columns in the entrywise l_p norm, a factor on the norm itself, not squared [dan2019].

    (k + 1)^{1/p} for 1 <= p <= 2 and (k + 1)^{1 - 1/p} for p >= 2 times the best rank-k error in that norm;
    tight for p >= 2.

    Examples
    --------
    >>> entrywise_norm(3, 2.0)
    2.0
    """
    k = check_int("k", k, 1)
    p = check_real("p", p, 1.0)
    return float((k + 1.0) ** (1 / p if p <= 2 else 1 - 1 / p))
