"""Matrices built to defeat one rule or all of them, each with the constant it forces.

A bound tested only on random matrices passes even when the last k columns are returned; these have power.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from cssp.matrices.spectra import Matrix, Rng, check_size, haar


def kahan(n: int, theta: float = 0.3, *, nudge: float = 1e-9) -> Matrix:
    """Return Kahan's n x n matrix diag(s^i)(I - c triu(1, 1)), c = cos theta, s = sin theta [kahan1966].

    All columns have unit norm and every residual ties; column j is multiplied by 1 - nudge * j so that
    exact pivoting keeps the identity order. Then |r_nn| = s^(n-1) while s_n is exponentially smaller: at
    theta = 0.3 the ratio is 2.4e2 for n = 10, 2.0e5 for n = 20. Separates pivoted QR from strong RRQR.
    From n = 30 on rounding overtakes the default nudge.

    Examples
    --------
    >>> A = kahan(10)
    >>> round(A[-1, -1] / np.linalg.svd(A, compute_uv=False)[-1])
    240
    """
    n = check_size("n", n)
    c, s = np.cos(theta), np.sin(theta)
    K = s ** np.arange(n)[:, None] * (np.eye(n) - c * np.triu(np.ones((n, n)), 1))
    return K * (1.0 - nudge * np.arange(n))


def duplicated_tail_kahan(n: int, k: int, theta: float = 5e-3, *, nudge: float = 1e-9) -> Matrix:
    """Return Kahan's matrix of order k + 1 with its last column repeated n - k times: (k + 1) x n.

    As theta -> 0 the spectral error of pivoted QR tends to sqrt((4^k - 1)/3 (n - k) + 1) s_{k+1}, the least
    upper bound of [kawamura2021]: at theta = 5e-3 the ratio is 2.0000 of 2, 4.5825 of 4.5826, 12.9997 of 13
    for (k, n - k) = (1, 3), (2, 4), (3, 8). The triangular form keeps the tiny singular values accurate.

    Examples
    --------
    >>> duplicated_tail_kahan(5, 2).shape
    (3, 5)
    """
    k = check_size("k", k)
    n = check_size("n", n, k + 1)
    K = kahan(k + 1, theta, nudge=0.0)
    columns = np.minimum(np.arange(n), k)
    return K[:, columns] * (1.0 - nudge * np.arange(n))


def simplex(k: int, alpha: float = 1e-3) -> Matrix:
    """Return k + 1 columns: alpha on a common axis, plus the vertices of a regular unit k-simplex: (k+1) x (k+1).

    s_1 = ... = s_k = sqrt((k+1)/k), s_{k+1} = alpha sqrt(k+1) for alpha^2 <= 1/k. *Every* k-subset has
    F / OPT_k = (k+1)/(1 + k^2 alpha^2): no method beats k + 1, volume sampling attains it [deshpande2006b].

    Examples
    --------
    >>> np.linalg.svd(simplex(3, 0.5), compute_uv=False).round(6).tolist()
    [1.154701, 1.154701, 1.154701, 1.0]
    """
    k = check_size("k", k)
    centred = np.eye(k + 1) - 1 / (k + 1)
    vertices = np.linalg.svd(centred)[2][:k] @ centred * np.sqrt((k + 1) / k)
    return np.vstack([np.full(k + 1, float(alpha)), vertices])


def multi_peak(
    sizes: Sequence[int] = (2, 2), scales: Sequence[float] = (1.0, 1e-3), alpha: float = 0.05
) -> Matrix:
    """Return a block diagonal matrix of simplices of the given sizes at falling scales.

    The best-subset ratio F / OPT_k peaks near k_i + 1 where k stops one short of the end of a block (k =
    k_1, k_1 + 1 + k_2, ...) and falls to about 1 between: the multiple-descent curve of
    [derezinski2020]. The scales must fall faster than alpha.

    Examples
    --------
    >>> multi_peak((2, 3)).shape
    (7, 7)
    """
    if len(sizes) != len(scales):
        raise ValueError(f"scales must have one entry per block ({len(sizes)}), got {len(scales)}")
    total = sum(check_size("sizes", k) + 1 for k in sizes)
    A = np.zeros((total, total))
    at = 0
    for k, scale in zip(sizes, scales, strict=True):
        A[at : at + k + 1, at : at + k + 1] = scale * simplex(k, alpha)
        at += k + 1
    return A


def star(n: int, alpha: float = 1.0) -> Matrix:
    """Return the columns e_1 + alpha e_{j+1}, j = 1..n: (n+1) x n [boutsidis2014].

    s_1^2 = n + alpha^2, all others alpha^2. Any r columns have T / s_2^2 = (n + alpha^2)/(r + alpha^2) and
    F / OPT_1 = (n-r)/(n-1) (1 + 1/(r + alpha^2)): the spectral factor n/r is unavoidable.

    Examples
    --------
    >>> star(2, 0.5).tolist()
    [[1.0, 1.0], [0.5, 0.0], [0.0, 0.5]]
    """
    n = check_size("n", n)
    return np.vstack([np.ones(n), alpha * np.eye(n)])


def gks(n: int) -> Matrix:
    """Return Golub, Klema and Stewart's n x n triangular matrix: +-1/sqrt(j) in column j [golub1976].

    a_jj = 1/sqrt(j), a_ij = -1/sqrt(j) for i < j. All columns have unit norm, so it is a pure
    test of ties. Unpivoted, |r_nn|/s_n is 9e4 at n = 20; with pivoting it stays below 2.

    Examples
    --------
    >>> np.linalg.norm(gks(5), axis=0).round(12).tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    n = check_size("n", n)
    return (2 * np.eye(n) - np.triu(np.ones((n, n)))) / np.sqrt(np.arange(1, n + 1))


def block_kahan(k: int, phi: float = 0.8) -> Matrix:
    """Return Gu and Eisenstat's (k+2) x (k+2) matrix on which singular values are revealed but coefficients explode.

    Leading k - 1 columns: Kahan's S K with c = phi; then mu I_3 on the diagonal and -phi S 1 in the last
    column. With mu small the identity order has s_k(R11) = s_k and ||R22|| = s_{k+1}, so Hybrid RRQR stops,
    while max |R11^-1 R12| = phi (1 + phi)^(k-2): only strong RRQR swaps [gu1996].

    Examples
    --------
    >>> M = block_kahan(6, 0.5)
    >>> round(float(np.abs(np.linalg.solve(M[:6, :6], M[:6, 6:])).max()), 6)  # 0.5 * 1.5**4
    2.53125
    """
    k = check_size("k", k, 2)
    p = k - 1
    S = np.sqrt(1 - phi**2) ** np.arange(p)
    SK = S[:, None] * (np.eye(p) - phi * np.triu(np.ones((p, p)), 1))
    mu = 1 / np.sqrt(k) / np.linalg.norm(np.linalg.inv(SK), axis=1).max()
    M = np.zeros((k + 2, k + 2))
    M[:p, :p] = SK
    M[:p, -1] = -phi * S
    M[range(p, k + 2), range(p, k + 2)] = mu
    return M


def gain_greedy_killer(copies: int, eps: float = 0.1, delta: float = 0.09) -> Matrix:
    """Return N copies of (1, eps, 0), N of (1, -eps, 0), last the decoy (1, 0, delta): 3 x (2N + 1), for k = 2.

    Gain-greedy takes the decoy first and ends 4 N eps^2/(delta^2 + eps^2 + delta^2 eps^2) times above the
    best pair (11, 22, 110, 440, 2200 for N = 5, 10, 50, 200, 1000); pivoted QR takes the best pair.
    Derived for this library.

    Examples
    --------
    >>> gain_greedy_killer(2).shape
    (3, 5)
    """
    N = check_size("copies", copies)
    up, down = np.tile([[1.0], [eps], [0.0]], N), np.tile([[1.0], [-eps], [0.0]], N)
    return np.hstack([up, down, [[1.0], [0.0], [delta]]])


def basis_only_osinsky(V: ArrayLike) -> list[int]:
    """Return the rows of V (n x k) chosen by Osinsky's rule run on the identity: a rule that never sees A."""
    W = np.asarray(V, dtype=np.float64).T.copy()
    E = np.eye(W.shape[1])
    picks: list[int] = []
    for _ in range(W.shape[0]):
        w2 = np.sum(W**2, axis=0)
        w2[picks] = 0.0
        score = np.where(w2 > 1e-14, np.sum(E**2, axis=0) / np.where(w2 > 1e-14, w2, 1.0), np.inf)
        j = int(np.argmin(score))
        u = W[:, j] / np.sqrt(w2[j])
        E -= np.outer(E[:, j] / np.sqrt(w2[j]), u @ W)
        W -= np.outer(u, u @ W)
        picks.append(j)
    return picks


def basis_only_killer(
    V: ArrayLike,
    rule: Callable[[ArrayLike], Sequence[int]] = basis_only_osinsky,
    *,
    ratio: float = 1e-4,
) -> Matrix:
    """Defeat any rule that chooses columns from V alone: A = [V^T; ratio e^T], (k+1) x n, V = V_k(A).

    With J = rule(V) and e the unit vector of null(V^T) that maximises ||V_J^-1 e_J||, the columns J have
    F / OPT_k -> 1 / s_min(V_J)^2 as ratio -> 0, so the a-posteriori factor is attained. On an incoherent
    basis s_min(V_J)^2 <= k/n for every J: with n > k (k + 1) no such rule keeps within k + 1. Osinsky's
    rule, which sees A, does [osinsky2023].

    Examples
    --------
    >>> basis_only_killer(haar(8, 2, rng=0)).shape
    (3, 8)
    """
    V = np.asarray(V, dtype=np.float64)
    n, k = V.shape
    if k >= n:
        raise ValueError(f"V must have more rows than columns, got shape {V.shape}")
    J = list(rule(V))
    Z = np.linalg.svd(V)[0][:, k:]
    e = Z @ np.linalg.svd(np.linalg.solve(V[J], Z[J]))[2][0]
    return np.vstack([V.T, ratio * e / np.linalg.norm(e)])


def leverage_killer(n: int, k: int, rng: Rng = None, *, share: float = 0.4) -> Matrix:
    """Return a matrix that attains the deterministic-leverage bound 1/(1 - eps), eps = share < 1/2; (k+1) x n.

    V_k has rows e_1 .. e_{k-1}, then sqrt(1 - eps) e_k and sqrt(eps) e_k; the tail direction joins the last
    two. The k largest scores belong to the first k columns and sum to k - eps; their error tends to
    OPT_k / (1 - eps) as s_{k+1} = 1e-5 -> 0, in both norms. The other columns are zero [papailiopoulos2014].

    Examples
    --------
    >>> leverage_killer(4, 2, share=0.25).round(3).tolist()
    [[1.0, 0.0, 0.0, 0.0], [0.0, 0.866, 0.5, 0.0], [0.0, -0.0, 0.0, 0.0]]
    """
    k = check_size("k", k)
    n = check_size("n", n, k + 1)
    c, s = np.sqrt(1 - share), np.sqrt(share)
    A = np.zeros((k + 1, n))
    A[: k - 1, : k - 1] = np.eye(k - 1)
    A[k - 1, k - 1 : k + 1] = c, s
    A[k, k - 1 : k + 1] = -1e-5 * s, 1e-5 * c
    return A if rng is None else haar(k + 1, k + 1, rng) @ A
