"""One function per theorem: numbers in, factor out.

Every factor multiplies a **squared** error unless its docstring says otherwise (those on widths do): a Frobenius factor c states
F <= c OPT_k, a spectral one T <= c s_{k+1}^2, where F and T are the squared Frobenius and spectral norms of
A - P_S A, s_i the singular values of A and OPT_k the sum of s_i^2 over i > k. With target weights every
statement holds for A diag(w) and its singular values. Arguments keep the letters m, n, k, f, r (columns
drawn), s (singular values). A wrong argument raises ValueError naming it; a bound beyond float range is inf.

`BOUNDS` is the same list as data: name -> `Bound` (norm, when it holds, source, statement, function).

Examples
--------
>>> from cssp import bounds
>>> bounds.pivoted_qr(8, 3)
106.0
>>> bounds.BOUNDS["arp"].holds
'expectation'
"""

from cssp.bounds._record import BOUNDS, Bound
from cssp.bounds.columns import (
    bss_certificate,
    bss_frobenius,
    bss_spectral,
    gain_greedy_columns,
    greedy_captured,
    greedy_columns,
    greedy_spectrum,
    leverage_deterministic,
    leverage_power_law_columns,
    leverage_sampled,
    ridge_leverage_total,
    supermodular_columns,
    weak_submodularity,
)
from cssp.bounds.conditions import (
    block_eigenvalues,
    budget_greedy,
    budget_greedy_submodular,
    constrained_greedy,
    constrained_greedy_submodular,
    group_residual,
    share_left,
)
from cssp.bounds.interlacing import interlacing, interlacing_spectrum
from cssp.bounds.lower import gain_greedy, simplex, star_frobenius, star_spectral
from cssp.bounds.pivoting import (
    RRQR_CONSTANTS,
    deim,
    eigenvalue_rise,
    greedy_volume,
    maxvol_basis,
    maxvol_cross,
    pivoted_qr,
    pivoted_qr_classical,
    pivoted_qr_frobenius,
    pivoted_qr_leading,
    qdeim,
    rrqr,
    sketched,
    strong_rrqr,
    strong_rrqr_basis,
    strong_rrqr_frobenius,
    strong_rrqr_of_sums,
    triangular,
    unweighted,
    weighted_pivoted_qr,
)
from cssp.bounds.sampling import (
    adaptive,
    arp,
    arp_inverse,
    cross_derandomized,
    local_search,
    norm_one_column,
    norm_sampling,
    osinsky,
    random_pivot,
    random_pivot_columns,
    volume,
    volume_derandomized,
    volume_derandomized_spectrum,
    volume_expectation,
    volume_oversampled,
    volume_spectral,
    volume_stable_rank,
)
from cssp.bounds.symmetric import elementary_symmetric, symmetric_ratio
from cssp.bounds.universal import a_posteriori, completion, entrywise_norm, exact, exact_spectral
from cssp.bounds.widths import (
    adaptive_p_norm,
    greedy_algebraic,
    greedy_exponential,
    greedy_width,
    greedy_widths,
    volume_p_norm,
    volume_width,
    width_lower,
    width_of_columns,
    width_p_norm,
    width_upper,
)

__all__ = [
    "BOUNDS",
    "RRQR_CONSTANTS",
    "Bound",
    "a_posteriori",
    "adaptive",
    "adaptive_p_norm",
    "arp",
    "arp_inverse",
    "block_eigenvalues",
    "bss_certificate",
    "bss_frobenius",
    "bss_spectral",
    "budget_greedy",
    "budget_greedy_submodular",
    "completion",
    "constrained_greedy",
    "constrained_greedy_submodular",
    "cross_derandomized",
    "deim",
    "eigenvalue_rise",
    "elementary_symmetric",
    "entrywise_norm",
    "exact",
    "exact_spectral",
    "gain_greedy",
    "gain_greedy_columns",
    "greedy_algebraic",
    "greedy_captured",
    "greedy_columns",
    "greedy_exponential",
    "greedy_spectrum",
    "greedy_volume",
    "greedy_width",
    "greedy_widths",
    "group_residual",
    "interlacing",
    "interlacing_spectrum",
    "leverage_deterministic",
    "leverage_power_law_columns",
    "leverage_sampled",
    "local_search",
    "maxvol_basis",
    "maxvol_cross",
    "norm_one_column",
    "norm_sampling",
    "osinsky",
    "pivoted_qr",
    "pivoted_qr_classical",
    "pivoted_qr_frobenius",
    "pivoted_qr_leading",
    "qdeim",
    "random_pivot",
    "random_pivot_columns",
    "ridge_leverage_total",
    "rrqr",
    "share_left",
    "simplex",
    "sketched",
    "star_frobenius",
    "star_spectral",
    "strong_rrqr",
    "strong_rrqr_basis",
    "strong_rrqr_frobenius",
    "strong_rrqr_of_sums",
    "supermodular_columns",
    "symmetric_ratio",
    "triangular",
    "unweighted",
    "volume",
    "volume_derandomized",
    "volume_derandomized_spectrum",
    "volume_expectation",
    "volume_oversampled",
    "volume_p_norm",
    "volume_spectral",
    "volume_stable_rank",
    "volume_width",
    "weak_submodularity",
    "weighted_pivoted_qr",
    "width_lower",
    "width_of_columns",
    "width_p_norm",
    "width_upper",
]
