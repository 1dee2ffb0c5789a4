"""What is claimed of a selection, as scores at most 1.

Rows of `cssp.METHODS` bring their own factors; what papers state beyond them is in `STATEMENTS`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np

from analysis.theory.instances import EPS, Instance, Run, chosen
from cssp import METHODS, bounds
from cssp.residuals import p_norm

#: Pivots may fall short of the largest residual norm by what downdated norms lose, half of the digits.
NEARLY = 1 + 1e-6

Value = float | None


def _worst(values) -> Value:
    return max((v for v in values if v is not None), default=None)


def promise(norm: str) -> Callable[[Run], Value]:
    """Return the row's own factor."""

    def evaluate(run: Run) -> Value:
        at, law = run.at, METHODS[run.method].guarantee
        size = (at.m, at.n, at.k)
        factor = getattr(law, norm)(*size, **run.options)
        if factor is None:
            return None
        r = at.k if law.rank is None else law.rank(*size, **run.options)
        if norm == "frobenius":
            return at.score(run.F, factor * at.optimum(r))
        return at.score(run.T, factor * (at.s[r] ** 2 if r < at.n else 0.0))

    return evaluate


def _eckart_young(run: Run) -> Value:
    at = run.at
    tail = at.s[at.k] ** 2 if at.k < at.n else 0.0
    return _worst([at.score(at.optimum(at.k), run.F), at.score(tail, run.T)])


def _oblique(run: Run) -> Value:
    at, c = run.at, run.a_posteriori
    if math.isinf(c):
        return None
    tail = at.s[at.k] ** 2 if at.k < at.n else 0.0
    slack = at.slack * math.sqrt(c)  # V_k is that of a matrix within rounding of X
    return _worst([at.score(run.F, c * at.optimum(at.k), slack), at.score(run.T, c * tail, slack)])


def _pivots_fall(run: Run) -> Value:
    """Evaluate that |r_tt| is the largest residual norm."""
    at = run.at
    steps = []
    for t, S in run.prefixes():
        e2 = np.sum(at.residual(S) ** 2, axis=0) if S else np.sum(at.X**2, axis=0)
        steps.append(at.score(float(e2.max()), float(e2[run.S[t]]) * NEARLY))
    return _worst(steps)


def _trailing(factor: Callable[[Run], float]) -> Callable[[Run], Value]:
    """Evaluate σ_j(R22)² ≤ factor·s_{k+j}² for all j."""

    def evaluate(run: Run) -> Value:
        at = run.at
        if at.k == at.n or at.k >= run.R.shape[0]:
            return None
        tail = np.linalg.svd(run.R[at.k :, at.k :], compute_uv=False)
        return _worst(
            at.score(float(x) ** 2, factor(run) * float(at.s[at.k + j]) ** 2) for j, x in enumerate(tail)
        )

    return evaluate


def _leading(factor: Callable[[Run], float], *, every: bool) -> Callable[[Run], Value]:
    """Evaluate s_i² ≤ factor·σ_i(R11)²."""

    def evaluate(run: Run) -> Value:
        at = run.at
        if at.k == at.n:
            return None
        front = np.linalg.svd(run.R[: at.k, : at.k], compute_uv=False)
        return _worst(
            at.score(float(at.s[i]) ** 2, factor(run) * float(front[i]) ** 2)
            for i in range(0 if every else at.k - 1, at.k)
        )

    return evaluate


def _coefficients(run: Run) -> Value:
    """Evaluate |R11⁻¹R12| ≤ f."""
    at, f = run.at, max(run.options.get("f", 2.0), 1.001)
    front = run.R[: at.k, : at.k]
    if at.k == at.n or at.s[at.k - 1] < 1e-6 * at.s[0]:
        return None
    if np.linalg.matrix_rank(front) < at.k:
        return math.inf
    return float(np.max(np.abs(np.linalg.solve(front, run.R[: at.k, at.k :])))) ** 2 / (f * f * NEARLY)


def _no_growth(run: Run) -> Value:
    """Evaluate that no exchange multiplies the volume by more than f: all k (n - k) of them, by determinants."""
    at, f = run.at, max(run.options.get("f", 2.0), 1.001)
    if at.k == at.n or at.s[at.k - 1] < 1e-5 * at.s[0]:
        return None
    rest = [j for j in range(at.n) if j not in run.S]
    swapped = max(at.volume2([*run.S[:i], j, *run.S[i + 1 :]]) for i in range(at.k) for j in rest)
    return at.score(swapped, at.volume2(run.S) * f * f * NEARLY, 0.0)


def _best_volume(run: Run) -> Value:
    at = run.at
    if math.comb(at.n, at.k) > 60 or at.s[at.k - 1] < 1e-4 * at.s[0]:
        return None
    best = max(at.volume2(S) for S in itertools.combinations(range(at.n), at.k))
    return at.score(best, bounds.greedy_volume(at.k) ** 2 * at.volume2(run.S), 0.0)


def _largest_gain(run: Run) -> Value:
    """Evaluate that each pick lowers the error most; differences of errors are right to ε times the error."""
    at = run.at
    steps = []
    for t, S in run.prefixes():
        before = at.F(S)
        if before <= (4 * at.slack) ** 2:
            break
        gains = {j: before - at.F([*S, j]) for j in range(at.n) if j not in S}
        rounding = at.n * EPS * before
        steps.append((max(gains.values()) - rounding) / (gains[run.S[t]] * NEARLY + rounding))
    return _worst(steps)


def _captured(run: Run) -> Value:
    """Evaluate f(S) ≥ (1 - e^-γ) max f, a share of the energy, which needs no slack."""
    at = run.at
    if math.comb(at.n, at.k) > 40 or math.comb(at.n, min(at.n, 2 * at.k)) > 80:
        return None
    norms = np.linalg.norm(at.X, axis=0)
    if norms.min() < 1e-8 * norms.max():
        return None
    G = (at.X / norms).T @ (at.X / norms)
    sets = itertools.combinations(range(at.n), min(at.n, 2 * at.k))
    gamma = max(0.0, min(float(np.linalg.eigvalsh(G[np.ix_(S, S)])[0]) for S in sets))
    total = float(np.sum(at.X**2))
    best = total - min(at.F(S) for S in itertools.combinations(range(at.n), at.k))
    return bounds.weak_submodularity(min(1.0, gamma)) * best / (total - run.F)


def _leverage_sum(run: Run) -> Value:
    at, r = run.at, run.options.get("rank") or run.at.k
    if r > min(at.m, at.n) or at.s[r - 1] <= 2 * at.slack:
        return None
    captured = float(np.sum(at.svd[1][run.S, :r] ** 2))
    if captured < r - 1 + 1e-6:  # no factor, or one that hangs on rounding
        return None
    c = bounds.leverage_deterministic(r, min(float(r), captured))
    slack = at.slack * math.sqrt(c)
    tail = at.s[r] ** 2 if r < at.n else 0.0
    return _worst([at.score(run.F, c * at.optimum(r), slack), at.score(run.T, c * tail, slack)])


def _top_scores(run: Run) -> Value:
    """Evaluate that no column left out has a larger score than one chosen, but for those that depend on the chosen."""
    at, r = run.at, run.options.get("rank") or run.at.k
    if r > min(at.m, at.n) or at.k == at.n or at.s[r - 1] <= 2 * at.slack:
        return None
    if r < at.n and at.s[r - 1] - at.s[r] < 1e-6 * at.s[0]:
        return None
    scores = np.sum(at.svd[1][:, :r] ** 2, axis=1)
    left = np.linalg.norm(run.E, axis=0) > 64 * max(at.m, at.n) * np.finfo(float).eps * at.s[0]
    out = max((scores[j] for j in np.flatnonzero(left) if j not in run.S), default=0.0)
    return float(max(0.0, out - 1e-8) / min(scores[run.S])) if min(scores[run.S]) > 0 else None


def _against_volume_sampling(run: Run) -> Value:
    """Evaluate F ≤ D_l + (1 - 1/l)^k (‖A‖² - D_l), the least over l."""
    at = run.at
    factor = bounds.greedy_spectrum(at.s, at.k)
    return None if math.isinf(factor) else at.score(run.F, factor * at.optimum(at.k))


def _fewer_columns(run: Run) -> Value:
    """Evaluate F ≤ (1 + ε) OPT_r for the least ε at which k columns suffice, for every r < k."""
    at, worst = run.at, []
    for r in range(1, at.k):
        best = at.optimum(r)
        eta = min(1.0, best / float(np.sum(at.s**2)))
        enough = [e for e in np.geomspace(0.1, 100, 40) if bounds.greedy_columns(r, float(e), eta) <= at.k]
        worst += [at.score(run.F, (1 + enough[0]) * best)] if enough else []
    return _worst(worst)


def _by_spectrum(run: Run) -> Value:
    at = run.at
    return at.score(run.F, bounds.volume_derandomized_spectrum(at.s, at.k) * at.optimum(at.k))


def _by_polynomial(run: Run) -> Value:
    at = run.at
    if at.k >= min(at.m, at.n) or at.s[at.k] <= at.slack:
        return None
    return at.score(run.T, bounds.interlacing_spectrum(at.s, at.k) * float(at.s[at.k]) ** 2)


def _interpolated(run: Run) -> Value:
    """Evaluate ‖A - A_J V_J⁻ᵀVᵀ‖² ≤ (k + 1) OPT_k."""
    at = run.at
    if not at.has_gap or math.isinf(run.a_posteriori):
        return None
    slack = at.slack * math.sqrt(run.a_posteriori)
    return at.score(at.oblique(run.S), bounds.osinsky(at.k) * at.optimum(at.k), slack)


def _inverse(bound: Callable[[int, int], float]) -> Callable[[Run], Value]:
    """Evaluate ‖V_S⁻¹‖₂² ≤ bound."""

    def evaluate(run: Run) -> Value:
        at = run.at
        return run.a_posteriori / (bound(at.n, at.k) * NEARLY) if at.has_gap else None

    return evaluate


def _not_above_start(run: Run) -> Value:
    start, _ = chosen(run.at, run.options.get("start", "residual"), {}, run.rng)
    return run.at.score(run.F, run.at.F(start) * NEARLY)


def _no_better_swap(run: Run) -> Value:
    at = run.at
    if at.k == at.n:
        return None
    rest = [j for j in range(at.n) if j not in run.S]
    swaps = min(at.F([*run.S[:i], j, *run.S[i + 1 :]]) for i in range(at.k) for j in rest)
    return at.score(run.F * (1 - 1e-3), swaps * NEARLY)


def _best_of_all(run: Run) -> Value:
    at = run.at
    if math.comb(at.n, at.k) > 130:
        return None
    best = min(at.F(S) for S in itertools.combinations(range(at.n), at.k))
    return at.score(run.F, best * (1 + 1e-9))


def _widths(at: Instance) -> list[float]:
    """Return upper bounds of d_0, ..., d_k: what the leading singular vectors reach."""
    s, V = at.svd[0][: min(at.m, at.n)], at.svd[1]
    return [bounds.width_upper(s, V, r) for r in range(at.k + 1)]


def _largest(run: Run) -> float:
    return float(np.max(np.sum(run.E**2, axis=0)))


def _against_width(factor: Callable[[Run], float]) -> Callable[[Run], Value]:
    """Evaluate σ_k ≤ factor·d_k."""
    return lambda run: run.at.score(_largest(run), (factor(run) * _widths(run.at)[-1]) ** 2)


def _rate_of_width(run: Run) -> Value:
    """Evaluate σ_k ≤ √2 min_m σ_0^(m/k) d_m^(1 - m/k)."""
    d = _widths(run.at)
    if run.at.k < 2:
        return None
    return run.at.score(_largest(run), bounds.greedy_widths(d[1:], run.at.k, largest=d[0]) ** 2)


def _width_from_below(run: Run) -> Value:
    """Evaluate that the lower bounds of the width are not above the upper ones, σ_k among these."""
    at, h2 = run.at, np.sum(run.E**2, axis=0)
    low = bounds.width_lower(at.s, at.k, at.n)
    if at.k < at.n:
        rest = [j for j in range(at.n) if j not in run.S]
        worst = max(rest, key=lambda j: float(h2[j]))
        low = max(low, bounds.width_of_columns(at.X[:, [*run.S, worst]]))
    return at.score(low**2, min(_widths(at)[-1], math.sqrt(_largest(run))) ** 2)


def _p_norm(run: Run) -> float:
    h = np.linalg.norm(run.E, axis=0)
    p = run.options["p"]
    return float(p_norm(h**2, p))


def _least_p_norm(run: Run) -> Value:
    """Evaluate that each pick leaves the smallest p-norm of the residual norms, among columns that are clearly independent."""
    at, p, steps = run.at, run.options["p"], []
    for t, S in run.prefixes():
        norms = np.linalg.norm(at.residual(S), axis=0) if S else np.linalg.norm(at.X, axis=0)
        others = [j for j in range(at.n) if j not in S and norms[j] > 1e-6 * at.s[0]]
        if run.S[t] not in others:
            break
        left = {j: float(p_norm(np.sum(at.residual([*S, j]) ** 2, axis=0), p)) for j in others}
        steps.append(at.score(left[run.S[t]] ** 2, (min(left.values()) * NEARLY) ** 2))
    return _worst(steps)


def _no_better_exchange(run: Run) -> Value:
    """Evaluate that no exchange lowers Σ h^p, for p = inf the largest h², by more than 0.1 %."""
    at, p = run.at, run.options["p"]
    if at.k == at.n:
        return None
    share = 1e-3 if math.isinf(p) else 1 - (1 - 1e-3) ** (2 / p)
    rest = [j for j in range(at.n) if j not in run.S]
    swaps = min(
        float(p_norm(np.sum(at.residual([*run.S[:i], j, *run.S[i + 1 :]]) ** 2, axis=0), p))
        for i in range(at.k)
        for j in rest
    )
    return at.score(_p_norm(run) ** 2 * (1 - share), (swaps * NEARLY) ** 2)


def _not_above_start_in_p(run: Run) -> Value:
    start, _ = chosen(run.at, run.options.get("start", "residual"), {}, run.rng)
    before = p_norm(np.sum(run.at.residual(start) ** 2, axis=0), run.options["p"])
    return run.at.score(_p_norm(run) ** 2, float(before * NEARLY) ** 2)


def _classical(run: Run) -> float:
    return bounds.pivoted_qr_classical(run.at.n, run.at.k)


def _q2(run: Run) -> float:
    return bounds.strong_rrqr(run.at.n, run.at.k, max(run.options.get("f", 2.0), 1.001))


_PIVOTED: list[tuple[str, str, Callable[[Run], Value]]] = [
    ("|r_tt| is the largest residual norm", "businger1965", _pivots_fall),
    ("σ_j(R22)² <= 4^k (n - k) s_{k+j}², all j", "gu1996", _trailing(_classical)),
    ("s_k² <= 4^k (n - k) σ_k(R11)²", "gu1996", _leading(_classical, every=False)),
    ("best volume <= k! volume", "civril2009", _best_volume),
    ("σ_k <= √((4^(k+1) - 1)/3) d_k", "binev2011", _against_width(lambda run: bounds.greedy_width(run.at.k))),
    ("σ_k <= √2 min_m σ_0^(m/k) d_m^(1 - m/k)", "devore2013", _rate_of_width),
]

#: Method -> (statement, source, score of one run), beyond the factors of its row.
STATEMENTS: dict[str, list[tuple[str, str, Callable[[Run], Value]]]] = {
    "residual": _PIVOTED,
    "pivoted_qr": _PIVOTED,
    "greedy": [
        ("each gain is the largest", "farahat2011", _largest_gain),
        ("f(S) >= (1 - e^-γ) max f", "das2011", _captured),
        ("F <= D_l + (1 - 1/l)^k (‖A‖² - D_l), all l", "fornace2024", _against_volume_sampling),
        ("F <= (1 + ε) OPT_r", "chen2025", _fewer_columns),
    ],
    "leverage_top": [
        ("scores sum to r - ε: 1/(1 - ε), both norms", "papailiopoulos2014", _leverage_sum),
        ("the scores are the largest", "papailiopoulos2014", _top_scores),
    ],
    "strong_rrqr": [
        ("σ_j(R22)² <= q² s_{k+j}², all j", "gu1996", _trailing(_q2)),
        ("s_i² <= q² σ_i(R11)², all i", "gu1996", _leading(_q2, every=True)),
        ("|R11⁻¹R12| <= f", "gu1996", _coefficients),
        ("no swap multiplies the volume by more than f", "gu1996", _no_growth),
        (
            "σ_k <= (1 + f k) d_k",
            "gu1996",
            _against_width(lambda run: bounds.volume_width(run.at.k, max(run.options.get("f", 2.0), 1.001))),
        ),
    ],
    "volume_derandomized": [("F <= (k + 1) e_{k+1}/e_k", "deshpande2010", _by_spectrum)],
    "interlacing": [("T <= 1/(least root of D^k prod (1 - s_i² t))", "cai2024", _by_polynomial)],
    "osinsky": [("‖A - A_J V_J⁻ᵀVᵀ‖_F² <= (k + 1) OPT_k", "osinsky2023", _interpolated)],
    "deim": [("‖V_S⁻¹‖² < n k 4^k/3", "sorensen2016", _inverse(bounds.deim))],
    "qdeim": [("‖V_S⁻¹‖² <= (n - k + 1)(4^k + 6k - 1)/9", "drmac2016", _inverse(bounds.qdeim))],
    "local_search": [
        ("F <= F of the start", "zou2024", _not_above_start),
        ("no swap lowers F by more than 0.1 %", "zou2024", _no_better_swap),
    ],
    "exact": [("F is the least of all k-subsets", "arai2015", _best_of_all)],
}

#: The same where the option p is given.
IN_P_NORM: dict[str, list[tuple[str, str, Callable[[Run], Value]]]] = {
    "greedy": [("each pick leaves the least ‖h‖_p", "farahat2011", _least_p_norm)],
    "local_search": [
        ("‖h‖_p <= that of the start", "zou2024", _not_above_start_in_p),
        ("no swap lowers Σ h^p by more than 0.1 %", "zou2024", _no_better_exchange),
    ],
}

#: What holds for any selection.
UNIVERSAL: list[tuple[str, str, Callable[[Run], Value]]] = [
    ("OPT_k <= F, s_{k+1}² <= T", "eckart1936", _eckart_young),
    ("a posteriori: 1/σ_min(V_k[S,:])², both norms", "boutsidis2014", _oblique),
    ("d_k >= √(OPT_k/n), and 1/Σ 1/dist_i of k + 1 columns", "binev2011", _width_from_below),
]
