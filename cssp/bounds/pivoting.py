"""Deterministic pivoting: pivoted QR, rank-revealing QR, maximal volume, interpolation on V_k.

Every factor multiplies a squared error: spectral factors multiply s_{k+1}^2, Frobenius factors OPT_k.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cssp.bounds._record import check_int, check_nk, check_real, four_to, theorem, to_float


@theorem("spectral", "every run", "kawamura2021", "T <= ((4^k - 1)/3 (n - k) + 1) s_{k+1}^2")
def pivoted_qr(n: int, k: int) -> float:
    """Return the sharp spectral factor of column-pivoted QR: ((4^k - 1)/3)(n - k) + 1, squared error [kawamura2021].

    Hypotheses: exact pivoting (each step takes a column of largest residual norm), any A with n columns.
    It is the *least* upper bound: `cssp.matrices.duplicated_tail_kahan` attains it in the limit.

    Examples
    --------
    >>> pivoted_qr(5, 2) ** 0.5
    4.0
    """
    n, k = check_nk(n, k)
    if k == n:
        return 1.0
    power = four_to(k)
    return math.inf if power is None else to_float((power - 1) // 3 * (n - k) + 1)


@theorem("frobenius", "every run", "kawamura2021", "F <= (n - k)(4^k + 2)/3 OPT_k", derived=True)
def pivoted_qr_frobenius(n: int, k: int) -> float:
    """Return the Frobenius factor of column-pivoted QR: (n - k)(4^k + 2)/3, squared error.

    Even F <= (n - k)(4^k + 2)/3 s_{k+1}^2. Follows from `pivoted_qr` on the leading k + 1 columns
    [kawamura2021]; the proof is in the theory pages. Not known to be sharp.

    Examples
    --------
    >>> pivoted_qr_frobenius(5, 2)
    18.0
    """
    n, k = check_nk(n, k)
    if k == n:
        return 1.0
    power = four_to(k)
    return math.inf if power is None else to_float((power + 2) // 3 * (n - k))


@theorem("spectral", "every run", "gu1996", "s_j(R22)^2 <= 4^k (n - k) s_{k+j}^2")
def pivoted_qr_classical(n: int, k: int) -> float:
    """Return the classical factor of column-pivoted QR, every trailing singular value: 4^k (n - k), squared [gu1996].

    s_j(R22)^2 <= 4^k (n - k) s_{k+j}(A)^2 for all j; j = 1 is the spectral error. Looser than `pivoted_qr`
    at j = 1, but it holds for every j.

    Examples
    --------
    >>> pivoted_qr_classical(5, 2)
    48.0
    """
    n, k = check_nk(n, k)
    if k == n:
        return 1.0
    power = four_to(k)
    return math.inf if power is None else to_float(power * (n - k))


@theorem("leading singular value", "every run", "gu1996", "s_i^2 <= 4^i (n - i) s_i(R11)^2, i = k < n")
def pivoted_qr_leading(n: int, k: int) -> float:
    """Return the loss of the k-th singular value in the leading block of pivoted QR: 4^k (n - k), squared [gu1996].

    s_i(A)^2 <= 4^i (n - i) s_i(R11)^2 for every i <= k < n: evaluate at k = i.

    Examples
    --------
    >>> pivoted_qr_leading(5, 1)
    16.0
    """
    return pivoted_qr_classical(n, k)


@theorem("last diagonal entry", "every run", "higham1987", "r_nn^2 <= (4^n + 6n - 1)/9 s_n^2")
def triangular(n: int) -> float:
    """Return how far |r_nn| of pivoted QR can lie above s_n: r_nn^2 <= (4^n + 6n - 1)/9 s_n^2 [higham1987].

    Holds for an n x n triangular R with r_ii^2 >= sum of r_hj^2 over h = i..j, for every j > i. Compare
    ``pivoted_qr(n, n - 1)``, which is sharper.

    Examples
    --------
    >>> triangular(1)
    1.0
    """
    n = check_int("n", n, 1)
    power = four_to(n)
    return math.inf if power is None else to_float((power + 6 * n - 1) // 9)


@theorem("volume", "every run", "civril2009", "max_S vol(A_S) <= k! vol(A_greedy)")
def greedy_volume(k: int) -> float:
    """Return the volume lost by greedy pivoting: the best k columns have at most k! times its volume [civril2009].

    A factor on the volume |det R11| itself, not on its square.

    Examples
    --------
    >>> greedy_volume(4)
    24.0
    """
    k = check_int("k", k, 1)
    return float(math.factorial(k)) if k <= 170 else math.inf


def _power_of_two(exponent: int, factor: int) -> float:
    return to_float(factor << exponent) if exponent < 1100 else math.inf


#: Algorithm -> (function of (n, k) giving q^2, citation key); the table of [boutsidis2009].
RRQR_CONSTANTS: dict[str, tuple[Callable[[int, int], float], str]] = {
    "pivoted_qr": (lambda n, k: _power_of_two(2 * k, n - k), "businger1965"),
    "foster": (lambda n, k: _power_of_two(2 * (n - k), n * (n - k)), "foster1986"),
    "high_rrqr": (lambda n, k: _power_of_two(2 * (n - k), n * (n - k)), "chan1987"),
    "low_rrqr": (lambda n, k: _power_of_two(2 * (k + 1), (k + 1) * n), "chan1994"),
    "hong_pan": (lambda n, k: float(k * (n - k) + min(k, n - k)), "hong1992"),
    "hybrid": (lambda n, k: float(max((k + 1) * (n - k), k * (n - k + 1))), "chandrasekaran1994"),
}


@theorem("spectral", "every run", "boutsidis2009", "s_k^2 <= q^2 s_k(R11)^2 and T <= q^2 s_{k+1}^2")
def rrqr(n: int, k: int, algorithm: str = "hong_pan") -> float:
    """Return q(n, k)^2 of a rank-revealing QR: s_k(R11) >= s_k / q and T <= q^2 s_{k+1}^2, squared [boutsidis2009].

    `algorithm` is a key of `RRQR_CONSTANTS`; "hong_pan" is an existence result (some k columns). "hybrid" has
    k (n - k + 1) for s_k(R11) and (k + 1)(n - k) for T; q^2 is the larger one, the first where k > n/2.

    Examples
    --------
    >>> rrqr(10, 3, "hybrid"), rrqr(10, 8, "hybrid")
    (28.0, 24.0)
    """
    n, k = check_nk(n, k)
    if algorithm not in RRQR_CONSTANTS:
        raise ValueError(f"algorithm must be one of {', '.join(RRQR_CONSTANTS)}, got {algorithm!r}")
    return 1.0 if k == n else RRQR_CONSTANTS[algorithm][0](n, k)


@theorem("spectral", "every run", "gu1996", "T <= (1 + f^2 k (n - k)) s_{k+1}^2")
def strong_rrqr(n: int, k: int, f: float = 2.0) -> float:
    """Return the factor of strong rank-revealing QR: q^2 = 1 + f^2 k (n - k), squared [gu1996].

    With no swap left that multiplies the volume by more than f >= 1: s_i(R11)^2 >= s_i^2 / q^2 for i <= k,
    s_j(R22)^2 <= q^2 s_{k+j}^2 for all j, and |R11^-1 R12| <= f entrywise.

    Examples
    --------
    >>> strong_rrqr(10, 3, f=1.0)
    22.0
    """
    n, k = check_nk(n, k)
    f = check_real("f", f, 1.0)
    return 1.0 + f * f * k * (n - k) if k < n else 1.0


@theorem("frobenius", "every run", "gu1996", "F <= (1 + f^2 k (n - k)) OPT_k", derived=True)
def strong_rrqr_frobenius(n: int, k: int, f: float = 2.0) -> float:
    """Return the Frobenius factor of strong rank-revealing QR, 1 + f^2 k (n - k), squared.

    The bound of [gu1996] on each s_j(R22), summed over j.

    Examples
    --------
    >>> strong_rrqr_frobenius(10, 3, f=1.0)
    22.0
    """
    return strong_rrqr(n, k, f)


@theorem(
    "spectral",
    "every run",
    "fakih2025",
    "T <= (q(l, k) (q(c, k) w + 1 + eta)/(1 - eta))^2 s_{k+1}^2, q(n, k)^2 = 1 + f^2 k (n - k)",
    derived=True,
)
def strong_rrqr_of_sums(k: int, l: int, c: int, norm: float, eta: float, f: float = 2.0) -> float:
    """Return the factor of strong RRQR on l sums of columns, then on the c columns in the k sums chosen, squared.

    Derived here; [fakih2025] announce such a bound. B = A Omega^T are the sums. Hypotheses: (1 - eta)||x|| <= ||Omega x|| <= (1 + eta)||x|| on the row space of A;
    `norm` = ||Omega_P||_2 for the rows P of Omega that belong to the sums chosen: where each column is in one sum,
    with sign 1 or -1, that is the root of the number of columns in the largest of them. n enters through c and norm
    alone.

    Examples
    --------
    >>> strong_rrqr_of_sums(1, 1, 1, norm=1.0, eta=0.0)
    4.0
    """
    k = check_int("k", k, 1)
    l, c = check_int("l", l, k), check_int("c", c, k)
    norm = check_real("norm", norm, 0.0)
    eta = check_real("eta", eta, 0.0, 1.0, open_high=True)
    q_sums, q_columns = strong_rrqr(l, k, f) ** 0.5, strong_rrqr(c, k, f) ** 0.5
    return (q_sums * (q_columns * norm + 1 + eta) / (1 - eta)) ** 2


@theorem(
    "both",
    "every run",
    "cortinovis2024b",
    "||A - P A||^2 <= (1 + f^2 k (n - k))(1 + 4 inverse share) ||A - A_k||^2",
    derived=True,
)
def strong_rrqr_of_rows(n: int, k: int, inverse: float, share: float = 1.0, f: float = 2.0) -> float:
    """Return the factor of columns that strong RRQR chose from some of the rows: (1 + f^2 k (n - k))(1 + 4 inverse share), squared.

    Derived here; [cortinovis2024b] have such a bound, which was not at hand. With I the rows, U_k the k leading left singular vectors of A and
    E = A - A_k: `inverse` is ||U_k[I]^+||^2, at least 1, and `share` is ||E[I]||^2 / ||E||^2, at most 1, in the norm that is bounded.

    Examples
    --------
    >>> strong_rrqr_of_rows(10, 3, inverse=1.0, f=1.0)
    110.0
    """
    inverse, share = check_real("inverse", inverse, 1.0), check_real("share", share, 0.0, 1.0)
    return strong_rrqr(n, k, f) * (1.0 + 4.0 * inverse * share if share else 1.0)


@theorem("largest entry", "every run", "goreinov2001", "max|A - C G^-1 R|^2 <= (k + 1)^2 s_{k+1}^2")
def maxvol_cross(k: int) -> float:
    """Return the factor of cross approximation at the k x k submatrix of largest volume: (k + 1)^2, squared entry [goreinov2001].

    max |A - C G^-1 R| <= (k + 1) s_{k+1}(A), where G is a k x k submatrix of globally largest |det|.

    Examples
    --------
    >>> maxvol_cross(3)
    16.0
    """
    return float((check_int("k", k, 1) + 1) ** 2)


@theorem(
    "both", "every run", "goreinov2001", "||A - P A||^2 <= (1 + e^2 k (n - k)) ||A - A_k||^2", derived=True
)
def maxvol_basis(n: int, k: int, e: float = 1.0) -> float:
    """Return the factor of selection by maxvol on V_k: 1 + e^2 k (n - k), squared error, both norms.

    With |V V_S^-1| <= e entrywise (e >= 1), ||V_S^-1||^2 <= 1 + e^2 k (n - k); then `a_posteriori`.

    Examples
    --------
    >>> maxvol_basis(10, 3)
    22.0
    """
    n, k = check_nk(n, k)
    e = check_real("e", e, 1.0)
    return 1.0 + e * e * k * (n - k) if k < n else 1.0


@theorem("both", "every run", "sorensen2016", "||V_S^-1||^2 < n k 4^k / 3")
def deim(n: int, k: int) -> float:
    """Return the factor of DEIM on V_k: n k 4^k / 3, squared error, both norms [sorensen2016].

    ||V_S^-1||_2 < sqrt(n k / 3) 2^k, then `a_posteriori`.

    Examples
    --------
    >>> deim(6, 1)
    8.0
    """
    n, k = check_nk(n, k)
    power = four_to(k)
    if power is None:
        return math.inf
    product = to_float(n * k * power)
    return product if math.isinf(product) else n * k * power / 3


@theorem("both", "every run", "drmac2016", "||V_S^-1||^2 <= (n - k + 1)(4^k + 6k - 1)/9")
def qdeim(n: int, k: int) -> float:
    """Return the factor of Q-DEIM (pivoted QR of V_k^T): (n - k + 1)(4^k + 6k - 1)/9, squared error, both norms [drmac2016].

    ||V_S^-1||_2 <= sqrt(n - k + 1) sqrt(4^k + 6k - 1)/3, then `a_posteriori`.

    Examples
    --------
    >>> qdeim(6, 1)
    6.0
    """
    n, k = check_nk(n, k)
    power = four_to(k)
    return math.inf if power is None else to_float((power + 6 * k - 1) // 9 * (n - k + 1))


@theorem(
    "smallest eigenvalue",
    "every run",
    "ipsen2009",
    "s_min(M + u u^H) >= s_min(M) + (t - sqrt(t^2 - 4 gap |w^H u|^2))/2, t = gap + ||u||^2",
    derived=True,
)
def eigenvalue_rise(gap: Any, norm2: Any, last2: Any) -> Any:
    """Return by how much the smallest eigenvalue of M rises at least where u u^H is added: a lower bound [ipsen2009].

    With t = gap + norm2 it is (t - sqrt(t^2 - 4 gap last2))/2, computed without cancellation. It is attained where M has no
    other eigenvalues than the two smallest.

    Parameters
    ----------
    gap : float or array
        Second smallest minus smallest eigenvalue of the Hermitian M; infinite where M is of order 1.
    norm2 : float or array
        ||u||^2.
    last2 : float or array
        |w^H u|^2 for a unit eigenvector w of the smallest eigenvalue; at most norm2.

    Examples
    --------
    >>> float(eigenvalue_rise(1.0, 0.5, 0.5))
    0.5
    >>> float(eigenvalue_rise(0.0, 2.0, 1.0)), float(eigenvalue_rise(np.inf, 2.0, 2.0))
    (0.0, 2.0)
    """
    gap, norm2, last2 = (np.asarray(x, dtype=np.float64) for x in (gap, norm2, last2))
    finite = np.where(np.isinf(gap), 0.0, gap)
    t = finite + norm2
    root = np.sqrt(np.maximum(t * t - 4 * finite * last2, 0))
    rise = np.where(t > 0, 2 * finite * last2 / np.where(t > 0, t + root, 1.0), 0.0)
    return np.where(np.isinf(gap), last2, rise)


@theorem("both", "every run", "gu1996", "||V_S^-1||^2 <= 1 + f^2 k (n - k)", derived=True)
def strong_rrqr_basis(n: int, k: int, f: float = 2.0) -> float:
    """Return the factor of strong RRQR of V_k^T: 1 + f^2 k (n - k), squared error, both norms [gu1996].

    All k singular values of V_k^T are 1, so s_min(V_S)^2 >= 1 / (1 + f^2 k (n - k)); then `a_posteriori`.

    Examples
    --------
    >>> strong_rrqr_basis(10, 3, f=1.0)
    22.0
    """
    return strong_rrqr(n, k, f)


@theorem(
    "both", "every run", "kawamura2021", "a bound on A diag(w) times (w_max/w_min)^2 bounds A", derived=True
)
def unweighted(factor: float, w: ArrayLike) -> float:
    """Turn a factor for A diag(w) into one for A itself: factor (w_max / w_min)^2, squared, both norms.

    For the same columns S and any factor c with ||(A - P_S A) W||^2 <= c ||AW - (AW)_k||^2. Zero weights
    give inf: the theorem then says nothing about those columns.

    Examples
    --------
    >>> unweighted(3.0, [1.0, 2.0])
    12.0
    """
    factor = check_real("factor", factor, 0.0)
    weights = np.asarray(w, dtype=np.float64)
    if weights.ndim != 1 or weights.size == 0 or not np.all(np.isfinite(weights)) or np.any(weights < 0):
        raise ValueError("w must be a non-empty vector of finite, non-negative weights")
    low, high = float(weights.min()), float(weights.max())
    if low == 0.0:
        return math.inf
    return factor * (high / low) ** 2 if high / low < 1e150 else math.inf


@theorem(
    "spectral",
    "every run",
    "kawamura2021",
    "T <= (w_max/w_min)^2 ((4^k - 1)/3 (n - k) + 1) s_{k+1}^2",
    derived=True,
)
def weighted_pivoted_qr(n: int, k: int, w: ArrayLike) -> float:
    """Return the factor of pivoting on w_j ||e_j||, for the unweighted error: `pivoted_qr` times (w_max/w_min)^2, squared.

    Examples
    --------
    >>> weighted_pivoted_qr(5, 2, [1.0, 1.0, 1.0, 1.0, 2.0])
    64.0
    """
    return unweighted(pivoted_qr(n, k), w)


@theorem(
    "both",
    "every run",
    "kawamura2021",
    "factor ((1 + eta)/(1 - eta))^2 after pivoting on a sketch",
    derived=True,
)
def sketched(factor: float, eta: float) -> float:
    """Inflate a factor when the pivots come from a sketch: factor ((1 + eta)/(1 - eta))^2, squared error.

    If (1 - eta)||x|| <= ||Omega x|| <= (1 + eta)||x|| on range(A) and the method obeys `factor` on Omega A,
    its columns obey the result on A, in the same norm.

    Examples
    --------
    >>> round(sketched(2.0, 0.5), 12)
    18.0
    """
    factor = check_real("factor", factor, 0.0)
    eta = check_real("eta", eta, 0.0, 1.0, open_high=True)
    return factor * ((1 + eta) / (1 - eta)) ** 2
