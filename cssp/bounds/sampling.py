"""Volume sampling and its relatives, adaptive randomized pivoting, norm sampling, random pivots.

Every factor multiplies OPT_k (Frobenius) or s_{k+1}^2 (spectral): squared errors throughout.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cssp.bounds._record import check_int, check_real, check_spectrum, theorem, to_float
from cssp.bounds.symmetric import ratio_of_orders, squares, symmetric_table, to_number


def _over_tail(s: NDArray[np.float64], k: int) -> float:
    """Return ||A||_F^2 / OPT_k from the spectrum, scale-free; inf where OPT_k = 0."""
    if s.size <= k or s[k] == 0.0:
        return math.inf
    tail = s[k:] / s[k]
    with np.errstate(over="ignore"):
        return float(1.0 + np.sum((s[:k] / s[k]) ** 2) / np.sum(tail**2))


@theorem(
    "frobenius",
    "identity in expectation",
    "deshpande2006",
    "E F = (k + 1) e_{k+1}(s^2) / e_k(s^2)",
    derived=True,
)
def volume_expectation(s: ArrayLike, k: int) -> float:
    """Return E F / OPT_k of volume sampling, exactly: (k + 1) e_{k+1}(s^2) / (e_k(s^2) OPT_k) [deshpande2006].

    P(S) proportional to det(A_S^T A_S) over all k-subsets; needs rank(A) >= k. Between 1 and k + 1, often far
    below k + 1. With weights (quality-diversity), use the spectrum of A diag(q).

    Parameters
    ----------
    s : array_like
        All singular values of A (missing ones count as zero).
    k : int

    Examples
    --------
    >>> round(volume_expectation(np.ones(12), 8), 12)
    1.0
    >>> volume_expectation([1.0, 1.0, 1e-200], 2)
    3.0
    """
    values = check_spectrum(s)
    k = check_int("k", k, 1)
    if values.size < k or values[k - 1] == 0.0:
        raise ValueError(f"s must hold at least k = {k} positive values: the volume law needs rank >= k")
    if values.size == k or values[k] == 0.0:
        return float(k + 1)  # the limit as the tail goes to zero
    mantissa, exponent = ratio_of_orders(squares(values), k, "s")
    tail_m, tail_x = symmetric_table(*squares(values[k:]), 1)
    return to_number((k + 1) * mantissa / tail_m[1], exponent - int(tail_x[1]))


@theorem("frobenius", "expectation", "deshpande2006", "E F <= (k + 1) OPT_k", derived=True)
def volume(k: int) -> float:
    """Return the factor of volume sampling: E F <= (k + 1) OPT_k, squared [deshpande2006]. Needs rank(A) >= k.

    Examples
    --------
    >>> volume(4)
    5.0
    """
    return float(check_int("k", k, 1) + 1)


@theorem("spectral", "expectation", "deshpande2006", "E T <= (k + 1)(min(m, n) - k) s_{k+1}^2", derived=True)
def volume_spectral(m: int, n: int, k: int) -> float:
    """Return the factor of volume sampling, spectral: E T <= E F <= (k + 1)(min(m, n) - k) s_{k+1}^2, squared [deshpande2006].

    Examples
    --------
    >>> volume_spectral(6, 10, 2)
    12.0
    """
    m, n = check_int("m", m, 1), check_int("n", n, 1)
    k = check_int("k", k, 1, min(m, n), "min(m, n)")
    return float((k + 1) * (min(m, n) - k)) if k < min(m, n) else 1.0


@theorem(
    "frobenius",
    "expectation",
    "guruswami2012",
    "E F(S) <= (r + 1)/(r + 1 - k) OPT_k, |S| = r >= k",
    derived=True,
)
def volume_oversampled(k: int, r: int) -> float:
    """Return the factor of volume sampling of r >= k columns against best rank k: (r + 1)/(r + 1 - k), squared [guruswami2012].

    The law is volume sampling at size r; needs rank(A) >= r. r = k gives k + 1.

    Examples
    --------
    >>> volume_oversampled(4, 9)
    1.6666666666666667
    """
    k = check_int("k", k, 1)
    r = check_int("r", r, k)
    return (r + 1) / (r + 1 - k)


@theorem("frobenius", "expectation", "derezinski2020", "E F <= (1 + 2 eps)^2 Phi_s(k) OPT_k")
def volume_stable_rank(s: ArrayLike, k: int, order: int = 0, eps: float = 0.0) -> float:
    """Return the factor of volume sampling beyond the worst case: (1 + 2 eps)^2 Phi(k), squared [derezinski2020].

    With i = `order`, the stable rank sr_i = sum_{j>i} s_j^2 / s_{i+1}^2 and t = i + sr_i,
    Phi(k) = (1 + i/(k - i)) sqrt(1 + 2 (k - i)/(t - k)). Hypotheses: i + O(ln^2(1/eps)/eps^4) <= k < t; the
    lower end is not checked here (its constant is the paper's), so eps = 0 is a guide, not a guarantee.
    `volume_expectation` is exact and always applies.

    Examples
    --------
    >>> round(volume_stable_rank(np.ones(12), 8), 6)
    2.236068
    """
    values = check_spectrum(s)
    k = check_int("k", k, 1)
    order = check_int("order", order, 0, k - 1, "k - 1")
    eps = check_real("eps", eps, 0.0, 0.5)
    if order >= values.size or values[order] == 0.0:
        return math.inf
    t = order + float(np.sum((values[order:] / values[order]) ** 2))
    if k >= t:
        return math.inf
    return (1 + 2 * eps) ** 2 * (1 + order / (k - order)) * math.sqrt(1 + 2 * (k - order) / (t - k))


@theorem("frobenius", "every run", "deshpande2010", "F <= (k + 1) OPT_k", derived=True)
def volume_derandomized(k: int) -> float:
    """Return the factor of derandomised volume sampling: F <= (k + 1) OPT_k, squared, deterministic [deshpande2010].

    Examples
    --------
    >>> volume_derandomized(4)
    5.0
    """
    return float(check_int("k", k, 1) + 1)


@theorem("frobenius", "every run", "deshpande2010", "F <= (k + 1) e_{k+1}(s^2) / e_k(s^2)", derived=True)
def volume_derandomized_spectrum(s: ArrayLike, k: int) -> float:
    """Return the sharper factor of derandomised volume sampling: F is at most the expectation that `volume_expectation` gives, squared error.

    Examples
    --------
    >>> round(volume_derandomized_spectrum(np.ones(12), 8), 12)
    1.0
    """
    return volume_expectation(s, k)


@theorem("frobenius (cross)", "every run", "cortinovis2020", "||A - cross||_F^2 <= (k + 1)^2 OPT_k")
def cross_derandomized(k: int) -> float:
    """Return the factor of derandomised cross (CUR) approximation with k rows and columns: (k + 1)^2, squared [cortinovis2020].

    The paper states k + 1 for the Frobenius norm itself. It derandomises the proof that such rows and columns exist,
    which is by Zamarashkin and Osinsky [zamarashkin2018].

    Examples
    --------
    >>> cross_derandomized(2)
    9.0
    """
    return float((check_int("k", k, 1) + 1) ** 2)


@theorem(
    "frobenius",
    "expectation",
    "cortinovis2024",
    "E F <= (k + 1)||A - A V V^T||_F^2",
    derived=True,
)
def arp(k: int) -> float:
    """Return the factor of adaptive randomized pivoting: E F <= (k + 1) ||A - A V V^T||_F^2, squared [cortinovis2024].

    Any orthonormal V (n x k); with V = V_k the right-hand side is (k + 1) OPT_k. For the interpolatory error
    ||A - A_J V_J^-T V^T||_F^2 it is an equality when no k x k minor of V vanishes; else at most that.

    Examples
    --------
    >>> arp(4)
    5.0
    """
    return float(check_int("k", k, 1) + 1)


@theorem(
    "||V_J^-1||_F^2",
    "identity in expectation",
    "cortinovis2024",
    "E||V_J^-1||_F^2 = k (n - k + 1)",
    derived=True,
)
def arp_inverse(n: int, k: int) -> float:
    """Return E ||V_J^-1||_F^2 = k (n - k + 1) under P(J) = det(V_J)^2, exactly, when every V_J is invertible.

    Where some V_J are singular they are never drawn and the expectation is at most this.

    Examples
    --------
    >>> arp_inverse(8, 2)
    14.0
    """
    n = check_int("n", n, 1)
    k = check_int("k", k, 1, n, "n")
    return float(k * (n - k + 1))


@theorem(
    "frobenius",
    "every run",
    "osinsky2023",
    "F <= (k + 1)||A - A V V^T||_F^2",
    derived=True,
)
def osinsky(k: int) -> float:
    """Return the factor of Osinsky's deterministic selection: F <= (k + 1) ||A - A V V^T||_F^2, squared [osinsky2023].

    The rule must see A (or A - A V V^T); a rule that sees V alone cannot have this bound
    (`cssp.matrices.basis_only_killer`).

    Examples
    --------
    >>> osinsky(4)
    5.0
    """
    return float(check_int("k", k, 1) + 1)


@theorem("frobenius", "expectation", "frieze2004", "E err_k <= OPT_k + (k/r)||A||_F^2")
def norm_sampling(s: ArrayLike, k: int, r: int) -> float:
    """Return the factor of length-squared sampling of r i.i.d. columns: 1 + (k/r) ||A||_F^2 / OPT_k, squared [frieze2004].

    Bounds the best rank-k approximation *within the span* of the r columns, in expectation.

    Examples
    --------
    >>> norm_sampling([2.0, 1.0], k=1, r=10)
    1.5
    """
    values = check_spectrum(s)
    k, r = check_int("k", k, 1), check_int("r", r, 1)
    return 1.0 + k / r * _over_tail(values, k)


@theorem(
    "frobenius",
    "identity in expectation",
    "frieze2004",
    "E F = sum s^2 - sum s^4 / sum s^2",
    derived=True,
)
def norm_one_column(s: ArrayLike) -> float:
    """Return the factor of one length-squared column: E F / OPT_1 with E F = sum s^2 - sum s^4 / sum s^2, exactly; at most 2.

    Examples
    --------
    >>> norm_one_column([1.0, 1.0, 1.0])
    1.0
    """
    return volume_expectation(s, 1)  # at k = 1 the volume law is the norm law: 2 e_2 / e_1


@theorem("frobenius", "expectation", "deshpande2006", "E err_k <= OPT_k/(1 - eps) + eps^t ||A||_F^2")
def adaptive(s: ArrayLike, k: int, r: int, rounds: int) -> float:
    """Return the factor of `rounds` rounds of adaptive sampling, r > k columns each: 1/(1 - eps) + eps^rounds ||A||_F^2/OPT_k.

    eps = k / r; squared; bounds the best rank-k approximation within the span of all the columns
    drawn [deshpande2006].

    Examples
    --------
    >>> adaptive([2.0, 1.0], k=1, r=2, rounds=3)
    2.625
    """
    values = check_spectrum(s)
    k = check_int("k", k, 1)
    r = check_int("r", r, k + 1)
    eps = k / r
    return 1 / (1 - eps) + eps ** check_int("rounds", rounds, 1) * _over_tail(values, k)


@theorem("frobenius", "expectation", "chen2025", "E F <= 2^k OPT_k", derived=True)
def random_pivot(k: int) -> float:
    """Return the factor of k random pivots (residual-norm-squared sampling): E F <= 2^k OPT_k, squared [chen2025].

    Examples
    --------
    >>> random_pivot(3)
    8.0
    """
    k = check_int("k", k, 1)
    return to_float(1 << k) if k < 1100 else math.inf


@theorem("number of columns", "expectation", "chen2025", "E F <= (1 + eps) OPT_k after that many pivots")
def random_pivot_columns(k: int, eps: float, eta: float) -> float:
    """Return the number of random pivots that suffice for E F <= (1 + eps) OPT_k [chen2025].

    k/eps + min{k log(1/(eps eta)), k + k log_+(2^k/eps)} with eta = OPT_k / ||A||_F^2, rounded up.

    Examples
    --------
    >>> random_pivot_columns(2, eps=0.5, eta=0.1)
    10.0
    """
    k = check_int("k", k, 1)
    eps = check_real("eps", eps, 0.0, open_low=True)
    eta = check_real("eta", eta, 0.0, 1.0)
    by_eta = math.inf if eta == 0.0 else k * max(0.0, -math.log(eps) - math.log(eta))
    by_rank = k + k * max(0.0, k * math.log(2) - math.log(eps))
    return float(math.ceil(k / eps + min(by_eta, by_rank)))


@theorem("frobenius", "expectation", "zou2024", "E F <= 53 (k + 1) OPT_k")
def local_search(k: int) -> float:
    """Return the factor of sampled local search (LSCSS): E F <= 53 (k + 1) OPT_k, squared [zou2024].

    Of that algorithm, run for its O(k log k) steps from its adaptive start; plain swap refinement of another
    start keeps the start's bound instead, since swaps never raise F.

    Examples
    --------
    >>> local_search(1)
    106.0
    """
    return 53.0 * (check_int("k", k, 1) + 1)


@theorem(
    "||U_k[I]^+||",
    "probability 1 - failure",
    "tropp2011",
    "||U_k[I]^+||^2 <= m/(t r), 1 - t + t log t = (coherence k/r) log(k/failure)",
)
def sampled_rows(m: int, k: int, r: int, coherence: float = 1.0, failure: float = 0.1) -> float:
    """Bound ||U[I]^+||^2 for r of the m rows of an orthonormal basis (m, k), drawn uniformly without replacement [tropp2011].

    Holds with probability at least 1 - `failure`: the smallest eigenvalue of U[I]^T U[I] is at least t r/m unless
    with probability k exp(-(r/(coherence k)) (1 - t + t log t)); inf where r is too small for any t.

    Parameters
    ----------
    m, k, r : int
    coherence : float
        (m/k) max_i ||U_i||^2, between 1 and m/k: 1 where all rows are equally long.
    failure : float
        In (0, 1).

    Examples
    --------
    >>> round(sampled_rows(1000, 5, 100), 2)
    22.53
    >>> sampled_rows(1000, 5, 10), sampled_rows(1000, 5, 1000)
    (inf, 1.0)
    """
    from scipy.special import lambertw  # takes longer to import than all else here

    m = check_int("m", m, 1)
    k, r = check_int("k", k, 1, m, "m"), check_int("r", r, 1, m, "m")
    coherence = check_real("coherence", coherence, 1.0, m / k)
    failure = check_real("failure", failure, 0.0, 1.0, open_low=True, open_high=True)
    if r == m:
        return 1.0
    c = coherence * k / r * math.log(k / failure)
    # 1 - t + t log t = c with t < 1: the lower branch of Lambert's W.
    return m / r * math.exp(-1 - lambertw((c - 1) / math.e, -1).real) if c < 1 else math.inf
