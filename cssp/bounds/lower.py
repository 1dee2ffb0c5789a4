"""Lower bounds: what some matrix forces on every selection, or on one rule. Built in `cssp.matrices`."""

from __future__ import annotations

from cssp.bounds._record import check_int, check_real, theorem


@theorem(
    "frobenius",
    "this matrix",
    "deshpande2006b",
    "every k-subset has F = (k + 1)/(1 + k^2 alpha^2) OPT_k",
    derived=True,
)
def simplex(k: int, alpha: float = 0.0) -> float:
    """Return F / OPT_k of *every* k-subset of the simplex matrix: (k + 1)/(1 + k^2 alpha^2) [deshpande2006b].

    For 0 < alpha^2 <= 1/k (below that height the SVD drops the axis direction). alpha -> 0 shows that no
    method can beat k + 1.

    Examples
    --------
    >>> simplex(3)
    4.0
    """
    k = check_int("k", k, 1)
    alpha = check_real("alpha", alpha, 0.0, k**-0.5)
    return (k + 1) / (1 + (k * alpha) ** 2)


@theorem(
    "spectral",
    "this matrix",
    "boutsidis2014",
    "every r-subset has T = (n + alpha^2)/(r + alpha^2) s_2^2",
    derived=True,
)
def star_spectral(n: int, r: int, alpha: float = 0.0) -> float:
    """Return T / s_2^2 of *every* r-subset of the star matrix: (n + alpha^2)/(r + alpha^2) [boutsidis2014].

    Examples
    --------
    >>> star_spectral(10, 5)
    2.0
    """
    n = check_int("n", n, 2)
    r = check_int("r", r, 1, n - 1, "n - 1")
    a2 = check_real("alpha", alpha, 0.0) ** 2
    return (n + a2) / (r + a2)


@theorem(
    "frobenius",
    "this matrix",
    "boutsidis2014",
    "every r-subset: F = (n-r)/(n-1) (1 + 1/(r + alpha^2)) OPT_1",
    derived=True,
)
def star_frobenius(n: int, r: int, alpha: float = 0.0) -> float:
    """Return F / OPT_1 of *every* r-subset of the star matrix: (n-r)/(n-1) (1 + 1/(r + alpha^2)) [boutsidis2014].

    Examples
    --------
    >>> star_frobenius(10, 1)
    2.0
    """
    n = check_int("n", n, 2)
    r = check_int("r", r, 1, n - 1, "n - 1")
    a2 = check_real("alpha", alpha, 0.0) ** 2
    return (n - r) / (n - 1) * (1 + 1 / (r + a2))


@theorem(
    "frobenius",
    "this matrix",
    "farahat2015",
    "gain-greedy: F = 4 N eps^2/(delta^2 + eps^2 + delta^2 eps^2) min_S F",
    derived=True,
)
def gain_greedy(copies: int, eps: float = 0.1, delta: float = 0.09) -> float:
    """Return F of gain-greedy over F of the best pair on `cssp.matrices.gain_greedy_killer`, squared error, k = 2.

    4 N eps^2 / (delta^2 + eps^2 + delta^2 eps^2): it grows without limit with the number of copies N.
    Needs delta^2/(1 + delta^2) <= eps^2 (1 - eps^2)/(1 + eps^2), so that the decoy wins the first step.

    Examples
    --------
    >>> round(gain_greedy(5), 3)
    11.0
    """
    copies = check_int("copies", copies, 1)
    e2 = check_real("eps", eps, 0.0, 1.0, open_low=True, open_high=True) ** 2
    d2 = check_real("delta", delta, 0.0, open_low=True) ** 2
    if d2 / (1 + d2) > e2 * (1 - e2) / (1 + e2):
        raise ValueError(f"delta must satisfy delta^2/(1+delta^2) <= eps^2(1-eps^2)/(1+eps^2), got {delta}")
    return 4 * copies * e2 / (d2 + e2 + d2 * e2)
