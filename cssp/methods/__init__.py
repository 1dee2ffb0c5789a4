"""The table of methods. A new method is one file here and one row below.

Writing a method
----------------
A method is a function ``name(p: Problem, *, option=default) -> Picks`` in ``cssp/methods/name.py``. The
module docstring is the citation; the function reads like the paper's algorithm, in the paper's letters.
Keyword-only parameters are the options a caller may pass to `cssp.select`; a bad value raises
`cssp.errors.ArgumentError`.

What is given (see `cssp.problem.Problem`): ``p.A`` (m, n) weighted and scaled, free of padding, NaN and
Inf; ``p.k``; ``p.include`` (chosen already, in order); ``p.candidates`` (may be chosen; included and
excluded columns are False; excluded columns still count in the error); ``p.rng``; ``p.floor`` (residual
norms above it count for the rank) and ``p.noise`` (at or below it, nothing but rounding is left: stop there);
``p.goal`` (squared residual at which a nested method may stop, -1 without tol); ``p.B`` (what is
reconstructed). ``p.argmax(scores, allowed)`` applies the tie rule. ``p.numpy()`` or ``p.numpy("double")``
is the same problem as NumPy arrays, for methods that need LAPACK. All randomness comes from ``p.rng``, on
the host. ``p.progress(done, total)`` tells whoever asked how far the method is; problems handed to another method get
``progress=silent`` (`cssp.progress`, where a `Deadline` ends what may take long).

What is owed: ``Picks(indices, rank)``: the included columns first, then distinct candidates in order of
choice, at most ``p.k`` in all. Fewer only where no independent column is left or the goal is met; never a
wrong or repeated index to make up the number. Nothing else: `select` completes, truncates at the tolerance,
warns, maps indices back, computes errors and certificates.

What the row states (see `Method`): ``supports`` lists the arguments honoured; `select` refuses the others
by name. ``valid``, ``weights``, ``k``, ``deficient`` and batches come for free.
"""

from __future__ import annotations

from cssp import bounds
from cssp.methods._vectors import exact_only
from cssp.methods.adaptive import adaptive
from cssp.methods.adaptive import factor as adaptive_factor
from cssp.methods.arp import arp
from cssp.methods.bss import bss, bss_rank
from cssp.methods.deim import deim
from cssp.methods.exact import exact
from cssp.methods.farthest import farthest
from cssp.methods.greedy import greedy
from cssp.methods.leverage import leverage
from cssp.methods.leverage_top import leverage_top
from cssp.methods.local_search import local_search
from cssp.methods.norm import norm
from cssp.methods.osinsky import osinsky
from cssp.methods.pivoted_qr import pivoted_qr
from cssp.methods.qdeim import qdeim
from cssp.methods.random_pivot import random_pivot
from cssp.methods.residual import residual
from cssp.methods.row import Guarantee, Method
from cssp.methods.sketched_qr import sketched_qr
from cssp.methods.strong_rrqr import LEAST_F, strong_rrqr
from cssp.methods.two_stage import two_stage
from cssp.methods.uniform import uniform
from cssp.methods.volume import volume
from cssp.methods.volume_derandomized import volume_derandomized

__all__ = ["METHODS", "Guarantee", "Method"]


_NATIVE = ("numpy", "torch", "array-api")
_PASSES = ("dask", "sparse", "operator")
_FORCED = frozenset({"include", "exclude"})
_PIVOTED_QR = Guarantee(
    "T <= ((4^k - 1)/3 (n - k) + 1) s_{k+1}², the least upper bound; F <= (n - k)(4^k + 2)/3 OPT_k",
    "kawamura2021",
    "every run",
    frobenius=lambda m, n, k: bounds.pivoted_qr_frobenius(n, k),
    spectral=lambda m, n, k: bounds.pivoted_qr(n, k),
    name="pivoted QR",
)

METHODS: dict[str, Method] = {
    row.name: row
    for row in (
        Method(
            name="residual",
            function=residual,
            summary="largest residual norm first: column-pivoted QR with safe norms, stopped at k",
            citation="businger1965",
            cost="2mnk",
            nested=True,
            backends=(*_NATIVE, *_PASSES),
            supports=_FORCED | {"tol", "complex"},
            guarantee=_PIVOTED_QR,
        ),
        Method(
            name="pivoted_qr",
            function=pivoted_qr,
            summary="LAPACK's column-pivoted QR (geqp3), the reference",
            citation="businger1965",
            cost="4mn min(m, n)",
            nested=True,
            supports=_FORCED | {"tol", "complex"},
            guarantee=_PIVOTED_QR,
        ),
        Method(
            name="greedy",
            function=greedy,
            summary="largest decrease of the Frobenius error first, of A or of a target",
            citation="farahat2011",
            cost="2mn min(m, n) + 6mnk",
            nested=True,
            backends=(*_NATIVE, *_PASSES),
            supports=_FORCED | {"tol", "target", "complex"},
            guarantee=Guarantee(
                "f(S) >= (1 - e^-γ) max f, f = ‖P_S A‖_F², γ the least 2k-sparse eigenvalue; no factor on the error",
                "das2011",
                "every run",
            ),
        ),
        Method(
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
        ),
        Method(
            name="farthest",
            function=farthest,
            summary="farthest-point traversal, Euclidean k-center",
            citation="gonzalez1985",
            cost="3mnk",
            nested=True,
            backends=_NATIVE,
            supports=_FORCED | {"tol"},
        ),
        Method(
            name="norm",
            function=norm,
            summary="sampling without replacement, probability proportional to the squared norm",
            citation="frieze2004",
            cost="2mn",
            deterministic=False,
            nested=True,
            backends=(*_NATIVE, *_PASSES),
            supports=_FORCED | {"tol"},
            guarantee=Guarantee(
                "one column: E F = Σs² - Σs⁴/Σs² <= 2 OPT_1; "
                "k columns: E err_j <= OPT_j + (j/k)‖A‖_F² for the best rank j in their span",
                "frieze2004",
                "expectation",
                frobenius=lambda m, n, k: bounds.volume(1) if k == 1 else None,
                name="length-squared sampling",
            ),
        ),
        Method(
            name="uniform",
            function=uniform,
            summary="uniform sampling without replacement",
            citation="",
            cost="n",
            deterministic=False,
            nested=True,
            backends=(*_NATIVE, *_PASSES),
            supports=_FORCED | {"tol"},
        ),
        Method(
            name="volume",
            function=volume,
            summary="volume sampling: exact k-DPP on the Gram matrix",
            citation="deshpande2006",
            cost="SVD + 2nk²",
            deterministic=False,
            backends=("numpy", *_PASSES),
            supports=_FORCED | {"complex"},
            guarantee=Guarantee(
                "E F = (k + 1) e_{k+1}(s²)/e_k(s²) <= (k + 1) OPT_k",
                "deshpande2006",
                "expectation",
                frobenius=lambda m, n, k: bounds.volume(k),
                spectral=lambda m, n, k: bounds.volume_spectral(m, n, min(m, n, k)),
                name="volume sampling",
            ),
        ),
        Method(
            name="arp",
            function=arp,
            summary="adaptive randomized pivoting: projection DPP of the leading right singular vectors",
            citation="cortinovis2024",
            cost="SVD + 2nk²",
            deterministic=False,
            supports=_FORCED | {"complex"},
            guarantee=Guarantee(
                "E F <= (k + 1) OPT_k; E T <= min{(k + 1)(min(m, n) - k), k (n - k + 1)} s_{k+1}²",
                "cortinovis2024",
                "expectation",
                frobenius=exact_only(lambda m, n, k: bounds.arp(k)),
                spectral=exact_only(
                    lambda m, n, k: min(bounds.volume_spectral(m, n, min(m, n, k)), bounds.arp_inverse(n, k))
                ),
                name="adaptive randomized pivoting",
            ),
        ),
        Method(
            name="random_pivot",
            function=random_pivot,
            summary="randomly pivoted QR, one by one or in blocks with rejection",
            citation="chen2025",
            cost="2mnk",
            deterministic=False,
            nested=True,
            backends=("numpy", *_PASSES),
            supports=_FORCED | {"tol", "complex"},
            guarantee=Guarantee(
                "E F <= 2^k OPT_k",
                "chen2025",
                "expectation",
                frobenius=lambda m, n, k, **options: bounds.random_pivot(k),
                name="randomly pivoted QR",
            ),
        ),
        Method(
            name="adaptive",
            function=adaptive,
            summary="rounds of columns drawn by squared residual norm",
            citation="deshpande2006",
            cost="2mnk",
            deterministic=False,
            supports=_FORCED | {"tol", "complex"},
            guarantee=Guarantee(
                "E F <= 2^k OPT_k where a round is one column",
                "chen2025",
                "expectation",
                frobenius=adaptive_factor,
                name="adaptive sampling",
            ),
        ),
        Method(
            name="leverage",
            function=leverage,
            summary="leverage-score sampling without replacement",
            citation="drineas2008",
            cost="SVD",
            deterministic=False,
            backends=("numpy", *_PASSES),
            supports=_FORCED | {"complex"},
        ),
        Method(
            name="two_stage",
            function=two_stage,
            summary="leverage sample of about k log k columns, then a rank-revealing QR of it",
            citation="boutsidis2009",
            cost="SVD + 4k³ log k",
            deterministic=False,
            supports=_FORCED | {"complex"},
        ),
        Method(
            name="sketched_qr",
            function=sketched_qr,
            summary="column-pivoted QR of a Gaussian sketch",
            citation="duersch2017",
            cost="2mn(k + 10)",
            deterministic=False,
            backends=("numpy", *_PASSES),
            supports=_FORCED | {"tol", "complex"},
        ),
        Method(
            name="strong_rrqr",
            function=strong_rrqr,
            summary="Gu and Eisenstat's strong rank-revealing QR: swaps while the volume grows by more than f",
            citation="gu1996",
            cost="(2 + swaps) 4mnk",
            supports=_FORCED | {"tol", "complex"},
            guarantee=Guarantee(
                "s_i(R11) >= s_i/q, s_j(R22) <= q s_{k+j}, |R11⁻¹R12| <= f with q² = 1 + f²k(n - k); F <= q² OPT_k",
                "gu1996",
                "every run",
                frobenius=lambda m, n, k, f=2.0, **limits: bounds.strong_rrqr_frobenius(
                    n, k, max(f, LEAST_F)
                ),
                spectral=lambda m, n, k, f=2.0, **limits: bounds.strong_rrqr(n, k, max(f, LEAST_F)),
                name="strong rank-revealing QR",
            ),
        ),
        Method(
            name="osinsky",
            function=osinsky,
            summary="adaptive pivoting derandomised: rows of V_k against columns of the SVD residual",
            citation="osinsky2023",
            cost="SVD + 4nk min(m, n)",
            backends=("numpy", *_PASSES),
            supports=_FORCED | {"tol", "complex"},
            guarantee=Guarantee(
                "F <= (k + 1) OPT_k, hence T <= (k + 1)(min(m, n) - k) s_{k+1}²",
                "osinsky2023",
                "every run",
                frobenius=exact_only(lambda m, n, k: bounds.osinsky(k)),
                spectral=exact_only(lambda m, n, k: bounds.volume_spectral(m, n, k)),
                name="derandomised adaptive pivoting",
            ),
        ),
        Method(
            name="volume_derandomized",
            function=volume_derandomized,
            summary="volume sampling by conditional expectations",
            citation="deshpande2010",
            cost="(k + 1) SVD",
            supports=_FORCED | {"tol", "complex"},
            guarantee=Guarantee(
                "F <= (k + 1) e_{k+1}(s²)/e_k(s²) <= (k + 1) OPT_k, hence T <= (k + 1)(min(m, n) - k) s_{k+1}²",
                "deshpande2010",
                "every run",
                frobenius=lambda m, n, k: bounds.volume_derandomized(k),
                spectral=lambda m, n, k: bounds.volume_spectral(m, n, k),
                name="derandomised volume sampling",
            ),
        ),
        Method(
            name="deim",
            function=deim,
            summary="discrete empirical interpolation on the right singular vectors",
            citation="sorensen2016",
            cost="SVD + nk²",
            nested=True,
            supports=_FORCED | {"tol", "complex"},
            guarantee=Guarantee(
                "F <= (nk/3) 4^k OPT_k, T <= (nk/3) 4^k s_{k+1}²",
                "sorensen2016",
                "every run",
                frobenius=exact_only(lambda m, n, k: bounds.deim(n, k)),
                spectral=exact_only(lambda m, n, k: bounds.deim(n, k)),
                name="DEIM",
            ),
        ),
        Method(
            name="qdeim",
            function=qdeim,
            summary="pivoted QR of the transposed right singular vectors",
            citation="drmac2016",
            cost="SVD + 2nk²",
            supports=_FORCED | {"tol", "complex"},
            guarantee=Guarantee(
                "F <= c OPT_k and T <= c s_{k+1}² with c = (n - k + 1)(4^k + 6k - 1)/9",
                "drmac2016",
                "every run",
                frobenius=exact_only(lambda m, n, k: bounds.qdeim(n, k)),
                spectral=exact_only(lambda m, n, k: bounds.qdeim(n, k)),
                name="Q-DEIM",
            ),
        ),
        Method(
            name="bss",
            function=bss,
            summary="dual-set sparsification: k columns for the error of a lower rank",
            citation="boutsidis2014",
            cost="SVD + 2nk rank²",
            supports=_FORCED | {"tol", "complex"},
            guarantee=Guarantee(
                "F <= (1 + 1/(1 - √(rank/k))²) OPT_rank, rank < k",
                "boutsidis2014",
                "every run",
                frobenius=lambda m, n, k, rank=None: (
                    bounds.bss_frobenius(bss_rank(k, rank), k) if bss_rank(k, rank) < k else None
                ),
                rank=lambda m, n, k, rank=None: bss_rank(k, rank),
                name="dual-set sparsification",
            ),
        ),
        Method(
            name="local_search",
            function=local_search,
            summary="best swaps from any start until none lowers the error by more than 0.1 %",
            citation="zou2024",
            cost="start + swaps (4mn min(m, n) + 6mnk)",
            supports=_FORCED | {"tol", "target", "complex"},
            guarantee=Guarantee(
                "F never rises: the Frobenius bound of the start holds; from pivoted QR F <= (n - k)(4^k + 2)/3 OPT_k",
                "kawamura2021",
                "every run",
                frobenius=lambda m, n, k, start="residual", **limits: (
                    bounds.pivoted_qr_frobenius(n, k) if start == "residual" else None
                ),
                name="pivoted QR",
            ),
        ),
        Method(
            name="exact",
            function=exact,
            summary="the best k columns by branch and bound, n up to about 30",
            citation="arai2015",
            cost="exponential in n; at most nodes SVDs",
            supports=_FORCED | {"tol", "target", "complex"},
            guarantee=Guarantee(
                "min over all k columns; F <= (k + 1) OPT_k, hence T <= (k + 1)(min(m, n) - k) s_{k+1}²",
                "deshpande2006",
                "every run",
                frobenius=lambda m, n, k, **options: bounds.exact(k),
                spectral=lambda m, n, k, **options: bounds.volume_spectral(m, n, k),
                name="the best choice",
            ),
        ),
    )
}
