"""Matrices that can refute a claim about column subset selection.

Adversarial families (Kahan, simplex, star, ...), the standard rank-revealing suite, and builders with known
singular values and known alignment. Functions return float64 arrays; randomness enters by `rng` (None, int or
`numpy.random.Generator`). `MATRICES` offers every family through one call ``(m, n, k, rng)``.

Examples
--------
>>> from cssp.matrices import MATRICES
>>> MATRICES["simplex"](6, 5, 3).shape
(6, 5)
"""

from cssp.matrices.adversarial import (
    basis_only_killer,
    basis_only_osinsky,
    block_kahan,
    duplicated_tail_kahan,
    gain_greedy_killer,
    gks,
    kahan,
    leverage_killer,
    multi_peak,
    simplex,
    star,
)
from cssp.matrices.spectra import aligned, coherent, graded, haar, incoherent, spiky, with_spectrum
from cssp.matrices.suite import (
    baart,
    break1,
    break9,
    devils_stairs,
    exponential,
    foxgood,
    hc,
    heat,
    polynomial,
    spiked,
    step,
)
from cssp.matrices.table import MATRICES, Family

__all__ = [
    "MATRICES",
    "Family",
    "aligned",
    "baart",
    "basis_only_killer",
    "basis_only_osinsky",
    "block_kahan",
    "break1",
    "break9",
    "coherent",
    "devils_stairs",
    "duplicated_tail_kahan",
    "exponential",
    "foxgood",
    "gain_greedy_killer",
    "gks",
    "graded",
    "haar",
    "hc",
    "heat",
    "incoherent",
    "kahan",
    "leverage_killer",
    "multi_peak",
    "polynomial",
    "simplex",
    "spiked",
    "spiky",
    "star",
    "step",
    "with_spectrum",
]
