"""More than k columns, or another yardstick: captured energy, leverage scores, dual-set sparsification."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from cssp.bounds._record import check_int, check_real, check_spectrum, theorem
from cssp.bounds.sampling import volume_expectation


@theorem("captured energy", "every run", "das2011", "f(S_k) >= (1 - e^-gamma) max f over k-subsets")
def weak_submodularity(gamma: float) -> float:
    """Return the share of the best k-subset's captured energy f(S) = ||P_S A||_F^2 that gain-greedy keeps [das2011].

    1 - e^-gamma: a *lower* bound on the captured energy, never a bound on the error, which can exceed the
    best pair's by any factor (`gain_greedy`). gamma is at least the smallest 2k-sparse eigenvalue of the
    Gram matrix of the normalised columns. Holds for any target B as well.

    Examples
    --------
    >>> round(weak_submodularity(1.0), 4)
    0.6321
    """
    return -math.expm1(-check_real("gamma", gamma, 0.0, 1.0))


@theorem("number of columns", "every run", "altschuler2016", "f >= (1 - eps) max f, 16k/(eps s_min) steps")
def gain_greedy_columns(k: int, eps: float, smin: float) -> float:
    """Return the number of greedy steps that capture (1 - eps) of the best k-subset's energy: 16 k / (eps smin) [altschuler2016].

    smin is the smallest *squared* singular value of the best k columns, all columns having unit norm.

    Examples
    --------
    >>> gain_greedy_columns(2, eps=0.5, smin=0.5)
    128.0
    """
    k = check_int("k", k, 1)
    eps = check_real("eps", eps, 0.0, 1.0, open_low=True)
    smin = check_real("smin", smin, 0.0, 1.0, open_low=True)
    return float(math.ceil(16 * k / (eps * smin)))


@theorem(
    "captured energy",
    "every run",
    "fornace2024",
    "f(S_r) >= (1 - (1 - 1/l)^r) E f of volume sampling of l columns",
    derived=True,
)
def greedy_captured(r: int, l: int) -> float:
    """Return the share of E f of l volume-sampled columns that r gain-greedy ones capture: 1 - (1 - 1/l)^r.

    Derived here; [fornace2024] announce such a bound. f(S) = ||P_S A||_F^2; every run, any l >= 1, any A of rank at least l. At r = l = 1 greedy is at least the mean.

    Examples
    --------
    >>> greedy_captured(2, 2)
    0.75
    """
    r, l = check_int("r", r, 1), check_int("l", l, 1)
    return -math.expm1(r * math.log1p(-1 / l)) if l > 1 else 1.0


@theorem(
    "frobenius",
    "every run",
    "fornace2024",
    "F(S_r) <= D_l + (1 - 1/l)^r (||A||_F^2 - D_l), D_l = E F of volume sampling of l columns",
    derived=True,
)
def greedy_spectrum(s: ArrayLike, r: int) -> float:
    """Return the factor of r gain-greedy columns on OPT_r, from the spectrum: the best of `greedy_captured`, squared.

    F <= D_l + (1 - 1/l)^r (||A||_F^2 - D_l) for every l, D_l being the error that `volume_expectation` gives. No
    factor holds for every spectrum (`gain_greedy`), so this one is unbounded; inf where OPT_r = 0.

    Parameters
    ----------
    s : array_like
        All singular values of A (missing ones count as zero).
    r : int

    Examples
    --------
    >>> round(greedy_spectrum(np.ones(12), 1), 12)
    1.0
    >>> round(greedy_spectrum([2.0, 1.0, 1.0], 2), 12)
    2.5
    """
    values = check_spectrum(s)
    r = check_int("r", r, 1)
    if values[0] == 0.0 or r >= values.size or values[r] == 0.0:
        return math.inf
    squares = (values / values[0]) ** 2
    total, tails = float(squares.sum()), np.cumsum(squares[::-1])[::-1]
    least = total
    for l in range(1, int(np.count_nonzero(values)) + 1):
        mean = volume_expectation(values, l) * float(tails[l]) if l < values.size else 0.0
        least = min(least, mean + (1 - greedy_captured(r, l)) * max(0.0, total - mean))
    return least / float(tails[r]) if tails[r] > 0 else math.inf


@theorem(
    "number of columns",
    "every run",
    "chen2025",
    "F <= (1 + eps) OPT_k after that many gain-greedy columns",
    derived=True,
)
def greedy_columns(k: int, eps: float, eta: float) -> float:
    """Return the number of gain-greedy columns that suffice for F <= (1 + eps) OPT_k, in every run [chen2025].

    k/eps + k log_+(1/(eps eta)) with eta = OPT_k / ||A||_F^2, rounded up: the count of `random_pivot_columns` that
    has eta in it. A greedy gain is at least the mean gain of a column drawn by its squared residual norm, which is
    all that the proof uses.

    Examples
    --------
    >>> greedy_columns(2, eps=0.5, eta=0.1)
    10.0
    """
    k = check_int("k", k, 1)
    eps = check_real("eps", eps, 0.0, open_low=True)
    eta = check_real("eta", eta, 0.0, 1.0)
    return (
        math.inf if eta == 0.0 else float(math.ceil(k / eps + k * max(0.0, -math.log(eps) - math.log(eta))))
    )


@theorem(
    "number of columns",
    "every run",
    "boutsidis2015",
    "1 + eps after ceil(alpha k ln(rho/eps)) steps",
)
def supermodular_columns(k: int, alpha: float, rho: float, eps: float) -> float:
    """Return the number of greedy steps from a rho-approximate start to 1 + eps: ceil(alpha k ln(rho/eps)) [boutsidis2015].

    For a weakly alpha-supermodular objective (the squared Frobenius error is one); alpha >= 1.

    Examples
    --------
    >>> supermodular_columns(2, alpha=1.0, rho=3.0, eps=0.5)
    4.0
    """
    k = check_int("k", k, 1)
    alpha = check_real("alpha", alpha, 1.0)
    rho = check_real("rho", rho, 1.0)
    eps = check_real("eps", eps, 0.0, open_low=True)
    return float(max(0, math.ceil(alpha * k * math.log(rho / eps))))


@theorem("both", "every run", "papailiopoulos2014", "||A - P A||^2 < ||A - A_k||^2 / (1 - eps)", derived=True)
def leverage_deterministic(k: int, captured: float) -> float:
    """Return the factor of deterministic leverage scores: 1/(1 - eps) with eps = k - captured, squared, both norms.

    `captured` is the sum of the rank-k leverage scores of the chosen c >= k columns [papailiopoulos2014].
    inf where eps >= 1: exactly k columns need not have any guarantee. The 1 - eps is a lower bound of
    s_min(V_S)^2, so `a_posteriori` is never worse.

    Examples
    --------
    >>> leverage_deterministic(2, 1.5)
    2.0
    """
    k = check_int("k", k, 1)
    eps = max(0.0, k - check_real("captured", captured, 0.0, k * (1 + 1e-9)))
    return 1 / (1 - eps) if eps < 1 else math.inf


@theorem("number of columns", "every run", "papailiopoulos2014", "columns that capture k - eps")
def leverage_power_law_columns(k: int, eps: float, eta: float) -> float:
    """Return the number of columns that suffice when the sorted scores decay as l_1 / i^(1 + eta) [papailiopoulos2014].

    max{(2k/eps)^(1/(1+eta)) - 1, (2k/(eta eps))^(1/eta) - 1, k}, rounded up.

    Examples
    --------
    >>> leverage_power_law_columns(2, eps=0.5, eta=1.0)
    7.0
    """
    k = check_int("k", k, 1)
    eps = check_real("eps", eps, 0.0, 1.0, open_low=True)
    eta = check_real("eta", eta, 0.0, open_low=True)
    first = (2 * k / eps) ** (1 / (1 + eta)) - 1
    try:
        second = (2 * k / (eta * eps)) ** (1 / eta) - 1
    except OverflowError:
        second = math.inf
    most = max(first, second, float(k))
    return most if math.isinf(most) else float(math.ceil(most))


@theorem("frobenius", "probability 0.7", "drineas2008", "F <= (1 + eps)^2 OPT_k, r = 3200 k^2/eps^2")
def leverage_sampled(k: int, r: int) -> float:
    """Return the factor of sampling r columns by leverage: (1 + eps)^2 with eps = sqrt(3200 k^2 / r), squared [drineas2008].

    With probability at least 0.7; inf where eps > 1. A theorem for thousands of columns.

    Examples
    --------
    >>> leverage_sampled(1, 3200)
    4.0
    """
    k, r = check_int("k", k, 1), check_int("r", r, 1)
    eps = math.sqrt(3200 * k * k / r)
    return (1 + eps) ** 2 if eps <= 1 else math.inf


@theorem(
    "sum of scores",
    "every run",
    "cohen2017",
    "sum of scores <= 2k at lambda = OPT_k/k",
    derived=True,
)
def ridge_leverage_total(k: int) -> float:
    """Return the sum of the ridge leverage scores at lambda = OPT_k / k: at most 2 k [cohen2017].

    Examples
    --------
    >>> ridge_leverage_total(3)
    6.0
    """
    return 2.0 * check_int("k", k, 1)


@theorem("s_min(V^T S D)^2", "every run", "boutsidis2014", "s_k(V_k^T S D)^2 >= (1 - sqrt(k/r))^2")
def bss_certificate(k: int, r: int) -> float:
    """Return the least s_k(V_k^T S D)^2 that dual-set sparsification leaves: (1 - sqrt(k/r))^2, r > k [boutsidis2014].

    Examples
    --------
    >>> bss_certificate(1, 4)
    0.25
    """
    k = check_int("k", k, 1)
    r = check_int("r", r, k + 1)
    return (1 - math.sqrt(k / r)) ** 2


@theorem("frobenius", "every run", "boutsidis2014", "F <= (1 + 1/(1 - sqrt(k/r))^2) OPT_k, r > k columns")
def bss_frobenius(k: int, r: int) -> float:
    """Return the factor of dual-set sparsification, r > k columns: 1 + 1/(1 - sqrt(k/r))^2, squared [boutsidis2014].

    Examples
    --------
    >>> bss_frobenius(1, 4)
    5.0
    """
    return 1 + 1 / bss_certificate(k, r)


@theorem(
    "spectral",
    "every run",
    "boutsidis2014",
    "T <= (1 + (1+sqrt((rho-k)/r))^2/(1-sqrt(k/r))^2) s_{k+1}^2",
    derived=True,
)
def bss_spectral(k: int, r: int, rho: int) -> float:
    """Return the factor of dual-set sparsification, spectral: 1 + ((1 + sqrt((rho-k)/r))/(1 - sqrt(k/r)))^2, squared.

    rho = rank(A). This is about the spectral variant, whose second set is the trailing right singular vectors. It is derived
    from the lemma of [boutsidis2014], which states the un-squared sum.

    Examples
    --------
    >>> bss_spectral(1, 4, 5)
    17.0
    """
    lower = bss_certificate(k, r)
    rho = check_int("rho", rho, k)
    return 1 + (1 + math.sqrt((rho - k) / r)) ** 2 / lower


@theorem(
    "both",
    "every run",
    "kozyrev2025",
    "||A - P A||^2 <= (n/r)((a - 1)/(k - a))^2 ||A - A_r||^2, a^2 = (k - 1) r + 1, k >= r columns",
    derived=True,
)
def barrier(n: int, k: int, r: int) -> float:
    """Return the factor of k >= r columns along a barrier, no weights: (n/r)((a - 1)/(k - a))^2, squared, both norms.

    As the authors' code states it [kozyrev2025]; proved in the theory pages. a^2 = (k - 1) r + 1; it bounds 1/s_min(V_r[S, :])^2, then `a_posteriori`. n/k at r = 1; about 4 n k at r = k, and
    5.8 n/r at k = 2 r.

    Examples
    --------
    >>> barrier(12, 4, 1)
    3.0
    >>> round(barrier(20, 6, 3), 9)
    15.0
    """
    n = check_int("n", n, 1)
    k = check_int("k", k, 1, n, "n")
    r = check_int("r", r, 1, k, "k")
    if k == 1:
        return float(n)
    a = math.sqrt((k - 1) * r + 1)
    return n / r * ((a - 1) / (k - a)) ** 2
