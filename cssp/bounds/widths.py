"""The largest residual of a column against the Kolmogorov width: the theory of greedy reduced bases.

sigma_k is the largest residual norm max_j ||(I - P_S) a_j|| after k columns, d_k the width of the columns: the least value of
max_j ||(I - P) a_j|| over all k-dimensional spaces, spans of columns or not. All numbers here are norms, **not squared**. The
algorithm of the theorems, "strong greedy" in that literature, is the residual rule: pivoted QR. A weak greedy algorithm takes
some column whose residual norm is at least gamma times the largest.

Statements: Binev, Cohen, Dahmen, DeVore, Petrova and Wojtaszczyk, SIAM J. Math. Anal. 43, 2011 [binev2011]; DeVore, Petrova and
Wojtaszczyk, Constr. Approx. 37, 2013 [devore2013]. The constants were not compared with the printed papers; the proofs in the
theory pages give exactly these.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from cssp.bounds._record import check_int, check_real, check_spectrum, theorem


def _check_gamma(gamma: float) -> float:
    return check_real("gamma", gamma, 0.0, 1.0, open_low=True)


def _check_widths(d: ArrayLike) -> np.ndarray:
    values = np.asarray(d, dtype=np.float64)
    if values.ndim != 1 or values.size == 0 or not np.all(np.isfinite(values)) or np.any(values < 0):
        raise ValueError(f"d must be a vector of finite widths d_1, d_2, ..., none negative, got {d!r}")
    return values


@theorem("largest residual", "every run", "binev2011", "sigma_k <= sqrt((4^(k+1) - 1)/3) d_k", derived=True)
def greedy_width(k: int, gamma: float = 1.0) -> float:
    """Return the factor of the residual rule on the width: sqrt((4^(k+1) - 1)/3), less than 2^(k+1)/sqrt(3) [binev2011].

    Hypotheses: exact pivoting, any columns. With gamma < 1: of any rule whose every pick has a residual norm of at least gamma
    times the largest; q = 1 + 1/gamma replaces 2, and the factor is sqrt(1 + q^2 + ... + q^(2k))/gamma.

    Examples
    --------
    >>> round(greedy_width(1), 3), greedy_width(2) < 2**3 / 3**0.5
    (2.236, True)
    """
    k, gamma = check_int("k", k, 0), _check_gamma(gamma)
    try:
        q2 = (1 + 1 / gamma) ** 2
        return math.sqrt((q2 ** (k + 1) - 1) / (q2 - 1)) / gamma if math.isfinite(q2) else math.inf
    except OverflowError:
        return math.inf


@theorem(
    "largest residual",
    "every run",
    "devore2013",
    "sigma_n <= sqrt(2)/gamma min_m sigma_0^(m/n) d_m^(1-m/n)",
    derived=True,
)
def greedy_widths(d: ArrayLike, n: int, gamma: float = 1.0, largest: float = 1.0) -> float:
    """Return the bound on sigma_n from the widths before: sqrt(2)/gamma · min over 1 <= m < n of d_m^((n-m)/n) [devore2013].

    Hypotheses: a weak greedy algorithm with factor gamma, columns of norm at most 1; other columns are divided by the largest
    norm, ``largest``. Upper bounds on the widths give a bound as well. No exponential factor: where widths fall fast, so do
    residuals, at half the rate: sigma_2m <= sqrt(2 d_m).

    Parameters
    ----------
    d : array, shape (at least n - 1,)
        d_1, d_2, ..., in the unit of ``largest``.
    n : int
        At least 2.

    Examples
    --------
    >>> round(greedy_widths([0.02, 0.01, 0.0001], 4), 3)
    0.075
    """
    d, n, gamma = _check_widths(d), check_int("n", n, 2), _check_gamma(gamma)
    top = check_real("largest", largest, 0.0, open_low=True)
    if d.size < n - 1:
        raise ValueError(f"d must hold the widths d_1, ..., d_{n - 1} for n = {n}, got {d.size} of them")
    share = np.arange(1, n) / n
    return math.sqrt(2) / gamma * float(np.min(top**share * d[: n - 1] ** (1 - share)))


@theorem(
    "largest residual",
    "every run",
    "devore2013",
    "d_n <= C n^-a for all n gives sigma_n <= 2^(5a+1)/gamma^2 C n^-a",
    derived=True,
)
def greedy_algebraic(alpha: float, constant: float = 1.0, gamma: float = 1.0) -> float:
    """Return the constant C_1 of sigma_n <= C_1 n^-alpha where d_n <= C n^-alpha: 2^(5 alpha + 1) C/gamma^2 [devore2013].

    Hypotheses: a weak greedy algorithm with factor gamma; d_n <= C n^-alpha for all n >= 1, and columns of norm at most C.

    Examples
    --------
    >>> greedy_algebraic(1.0)
    64.0
    """
    alpha = check_real("alpha", alpha, 0.0, open_low=True)
    constant = check_real("constant", constant, 0.0, open_low=True)
    try:
        return 2.0 ** (5 * alpha + 1) * constant / _check_gamma(gamma) ** 2
    except OverflowError:
        return math.inf


@theorem(
    "largest residual",
    "every run",
    "devore2013",
    "d_n <= C e^(-c n^a) gives sigma_n <= sqrt(2C)/gamma e^(-c (n/3)^a / 2), n >= 2",
    derived=True,
)
def greedy_exponential(
    n: int, rate: float, alpha: float = 1.0, constant: float = 1.0, gamma: float = 1.0
) -> float:
    """Return the bound on sigma_n where d_n <= C e^(-c n^alpha): sqrt(2C)/gamma · e^(-c (n/3)^alpha / 2) [devore2013].

    Hypotheses: a weak greedy algorithm with factor gamma, columns of norm at most 1, n >= 2. From sigma_2m <= sqrt(2 d_m)/gamma
    with m = floor(n/2) >= n/3; the paper has a smaller rate for all n.

    Examples
    --------
    >>> round(greedy_exponential(6, rate=2.0), 3)
    0.191
    """
    n = check_int("n", n, 2)
    rate = check_real("rate", rate, 0.0)
    alpha = check_real("alpha", alpha, 0.0, open_low=True)
    constant = check_real("constant", constant, 0.0, open_low=True)
    try:
        decay = math.exp(-rate * (n / 3) ** alpha / 2)
    except OverflowError:
        decay = 0.0 if rate else 1.0
    return math.sqrt(2 * constant) / _check_gamma(gamma) * decay


@theorem("largest residual", "every run", "gu1996", "sigma_k <= (1 + f k) d_k", derived=True)
def volume_width(k: int, f: float = 1.0) -> float:
    """Return the factor on the width of k columns whose volume no exchange of one column multiplies by more than f: 1 + f k.

    f = 1 at the largest volume, f of `strong_rrqr` there. So k columns with sigma_k <= (k + 1) d_k exist always, and strong
    RRQR finds columns with a polynomial factor, which the residual rule does not have.

    Examples
    --------
    >>> volume_width(3), volume_width(3, f=2.0)
    (4.0, 7.0)
    """
    return 1 + check_real("f", f, 1.0) * check_int("k", k, 0)


@theorem(
    "p-norm of residuals", "every run", "binev2011", "||h||_p <= c n^(1/p) min over spaces", derived=True
)
def width_p_norm(n: int, p: float, factor: float) -> float:
    """Return the factor on the p-norm of all residual norms that follows from a factor on the width: n^(1/p) times as much.

    For p from 1 to infinity: ||h||_p <= n^(1/p) sigma_k <= n^(1/p) factor d_k, and no k-dimensional space has a p-norm below d_k.

    Examples
    --------
    >>> width_p_norm(16, 4, factor=3.0)
    6.0
    """
    n, p = check_int("n", n, 1), check_real("p", p, 1.0)
    return check_real("factor", factor, 1.0) * n ** (1 / p)


@theorem(
    "p-norm of residuals",
    "expectation",
    "deshpande2007",
    "E ||h||_p^p <= (k+1)^p min over spaces",
    derived=True,
)
def volume_p_norm(k: int) -> float:
    """Return the factor of volume sampling with exponent p on the best p-norm of any k-dimensional space: k + 1, whatever p.

    Hypotheses: k columns S drawn with probability proportional to vol(A_S)^p, 1 <= p < infinity; then (E ||h||_p^p)^(1/p) is at
    most k + 1 times the least p-norm of the distances from a k-dimensional space. So for every p up to infinity there are k
    columns with ||h||_p <= (k + 1) times it. For p = 2 the factor on ||h||_2 is sqrt(k + 1), see `volume`.

    Examples
    --------
    >>> volume_p_norm(3)
    4.0
    """
    return 1.0 + check_int("k", k, 0)


@theorem(
    "p-norm of residuals",
    "expectation",
    "deshpande2007",
    "E ||h||_p^p <= ((k+1)!)^p min over spaces",
    derived=True,
)
def adaptive_p_norm(k: int) -> float:
    """Return the factor of drawing k columns one after the other, with probability proportional to h_j^p: (k + 1)!, whatever p.

    Hypotheses: h are the residual norms after the columns drawn before, 1 <= p < infinity; then (E ||h||_p^p)^(1/p) is at most
    (k + 1)! times the least p-norm of the distances from a k-dimensional space. For p = 2 this is randomly pivoted QR, for which
    `random_pivot` has a better factor at more columns.

    Examples
    --------
    >>> adaptive_p_norm(2)
    6.0
    """
    k = check_int("k", k, 0)
    return float(math.factorial(k + 1)) if k < 170 else math.inf


@theorem("width", "this matrix", "eckart1936", "d_k >= sqrt(OPT_k/n)", derived=True)
def width_lower(s: ArrayLike, k: int, n: int) -> float:
    """Return a lower bound of the width from the singular values: sqrt(OPT_k/n), n being the number of columns.

    The squares of n residual norms add up to at least OPT_k [eckart1936], so one of them is at least their mean.

    Examples
    --------
    >>> width_lower([3.0, 2.0], 1, 4)
    1.0
    """
    s, n = check_spectrum(s), check_int("n", n, 1)
    k = check_int("k", k, 0)
    return float(np.linalg.norm(s[k:])) / math.sqrt(n)


@theorem("width", "this matrix", "eckart1936", "d_k <= max_j ||(I - V_k V_k^T) a_j||", derived=True)
def width_upper(s: ArrayLike, V: ArrayLike, k: int) -> float:
    """Return an upper bound of the width: the largest residual norm of a column after projecting on the k leading singular vectors.

    Parameters
    ----------
    s : array, shape (r,)
        Singular values, descending.
    V : array, shape (n, r)
        Right singular vectors.

    Examples
    --------
    >>> import numpy as np
    >>> width_upper([3.0, 2.0], np.eye(2), 1)
    2.0
    """
    s, V = check_spectrum(s), np.asarray(V)
    if V.ndim != 2 or V.shape[1] != s.size:
        raise ValueError(
            f"V must have one column for each of the {s.size} singular values, got shape {V.shape}"
        )
    k = check_int("k", k, 0)
    return float(np.max(np.linalg.norm(V[:, k:] * s[k:], axis=1), initial=0.0))


@theorem("width", "this matrix", "binev2011", "d_k >= 1/sum_i 1/dist_i, and s_min/sqrt(k+1)", derived=True)
def width_of_columns(C: ArrayLike) -> float:
    """Return a lower bound of the width d_k of any matrix that has these k + 1 columns; 0 where they are dependent.

    The larger of s_min(C)/sqrt(k + 1) and 1/sum_i 1/dist_i, dist_i being the distance of column i from the span of the others.

    Parameters
    ----------
    C : array, shape (m, k + 1)

    Examples
    --------
    >>> import numpy as np
    >>> round(width_of_columns(np.eye(4)), 3)
    0.5
    """
    C = np.asarray(C)
    if C.ndim != 2 or not C.shape[1]:
        raise ValueError(f"C must be a matrix with at least one column, got shape {C.shape}")
    if not np.all(np.isfinite(C)):
        raise ValueError("C must be finite, got NaN or infinity")
    if C.shape[0] < C.shape[1]:
        return 0.0
    _, s, Vh = np.linalg.svd(C, full_matrices=False)
    if not s[-1] > max(C.shape) * np.finfo(s.dtype).eps * s[0]:
        return 0.0
    duals = np.linalg.norm(
        Vh * (s[0] / s)[:, None], axis=0
    )  # of the dual basis, in units of 1/s_1: s_1/dist_i
    return float(max(s[-1] / math.sqrt(C.shape[1]), s[0] / np.sum(duals)))
