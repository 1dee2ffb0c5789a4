"""`Selection.certificate()`: the numbers against definitions, and when a theorem is claimed."""

import itertools
import math
import warnings

import numpy as np
import oracles
import pytest
from optional import torch

from cssp import METHODS, Certificate, RankDeficientWarning, bounds, matrices, select
from cssp.matrices import MATRICES

EPS = np.finfo(float).eps
ROWS = list(METHODS)
PROMISING = [m for m, row in METHODS.items() if row.guarantee and row.guarantee.frobenius]


def able(feature):
    return [name for name, row in METHODS.items() if feature in row.supports]


def gaussian(m, n, seed=0):
    return np.random.default_rng(seed).standard_normal((m, n))


def slack(A):
    return 30 * max(A.shape) * EPS * np.linalg.norm(A, 2)


def quiet(*args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankDeficientWarning)
        return select(*args, **options)


SIZES = [(7, 6, 2), (5, 9, 3), (11, 10, 4), (12, 3, 3), (2, 6, 1)]


def family_members(seed=0):
    """One matrix of each family, at the first size that it exists in, the sizes taking turns."""
    for i, family in enumerate(MATRICES.values()):
        turn = (i + seed) % len(SIZES)
        size = next((s for s in SIZES[turn:] + SIZES[:turn] if family.fits(*s)), None)
        if size:
            yield family(*size, rng=seed + i), size[2]


# ---------------------------------------------------------------- the numbers


@pytest.mark.parametrize("method", ROWS)
def test_numbers_are_those_of_the_definitions(method):
    for i, (A, k) in enumerate(family_members()):
        w = np.random.default_rng(i).uniform(0.1, 10, A.shape[1]) if i % 2 else None
        X = A if w is None else A * w
        s = np.append(np.linalg.svd(X, compute_uv=False), np.zeros(X.shape[1]))
        chosen = quiet(A, k, method, weights=w, rng=i)
        c = chosen.certificate()
        assert isinstance(c, Certificate)
        E = oracles.residual_matrix(X, chosen.indices)
        d = slack(X)
        for error, optimum, ratio, want, best in (
            (c.squared_error, c.squared_optimum, c.ratio, np.linalg.norm(E), math.sqrt(np.sum(s[k:] ** 2))),
            (
                c.spectral_squared_error,
                c.spectral_squared_optimum,
                c.spectral_ratio,
                np.linalg.norm(E, 2),
                s[k],
            ),
        ):
            assert abs(math.sqrt(error) - want) <= d + 1e-9 * want
            assert abs(math.sqrt(optimum) - best) <= d + 1e-9 * best
            assert 0 <= optimum <= error
            assert ratio >= 1
            if optimum > d**2:
                assert ratio == pytest.approx(error / optimum, rel=1e-12)
        assert c.rank == chosen.rank
        assert c.squared_error == pytest.approx(chosen.errors[-1])
        if s[k - 1] > d and s[k - 1] - s[k] > 1e-6 * s[0]:
            V = np.linalg.svd(X)[2][:k, chosen.indices]
            smallest = np.linalg.svd(V, compute_uv=False)[-1]
            if smallest > 1e-6:
                assert c.a_posteriori == pytest.approx(max(1, smallest**-2), rel=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.complex128])
@pytest.mark.parametrize("method", ROWS)
def test_error_is_never_below_the_optimum(method, dtype):
    if np.dtype(dtype).kind == "c" and "complex" not in METHODS[method].supports:
        return
    for i, (A, k) in enumerate(family_members(seed=np.dtype(dtype).itemsize)):
        X = A.astype(dtype) * (1 + 1j if np.dtype(dtype).kind == "c" else 1)
        for j in (k, min(A.shape)):  # at k = min(m, n) nothing is left: 0 / 0
            c = quiet(X, j, method, rng=i).certificate()
            assert c.squared_error >= c.squared_optimum >= 0
            assert c.spectral_squared_error >= c.spectral_squared_optimum >= 0
            assert c.ratio >= 1
            assert c.spectral_ratio >= 1
            assert not math.isnan(c.a_posteriori)
            assert c.a_posteriori >= 1


def test_the_optimum_is_lowered_by_rounding_only():
    """Where the error is above rounding the optimum is that of the SVD, to the last digits."""
    for A, k in family_members(seed=3):
        best = math.sqrt(np.sum(np.linalg.svd(A, compute_uv=False)[k:] ** 2))
        c = quiet(A, k).certificate()
        assert abs(math.sqrt(c.squared_optimum) - best) <= 4 * max(A.shape) * EPS * np.linalg.norm(A, 2)


def test_weights_are_those_of_the_scaled_matrix():
    A, w = gaussian(6, 9), np.random.default_rng(1).uniform(0, 3, 9)
    for method in ROWS:
        one, other = (
            select(A, 3, method, weights=w, rng=4).certificate(),
            select(A * w, 3, method, rng=4).certificate(),
        )
        assert one == other
    s = np.linalg.svd(A * w, compute_uv=False)
    assert one.squared_optimum == pytest.approx(np.sum(s[3:] ** 2))
    assert one.spectral_squared_optimum == pytest.approx(s[3] ** 2)


def test_the_back_of_the_scale():
    A = gaussian(6, 8)
    one = select(A, 3).certificate()
    for scale in (1e-200, 1e-100, 1e100, 1e200):
        c = select(A * scale, 3).certificate()
        assert c.ratio == pytest.approx(one.ratio, rel=1e-9)
        assert c.spectral_ratio == pytest.approx(one.spectral_ratio, rel=1e-9)
        assert c.a_posteriori == pytest.approx(one.a_posteriori, rel=1e-9)
        assert c.factor == one.factor
        assert c.squared_error >= c.squared_optimum  # both 0 or inf where their squares leave float64
    assert c.squared_error == math.inf


@pytest.mark.parametrize("method", ROWS)
def test_nothing_over_nothing_is_one(method):
    for A, k in [
        (np.zeros((4, 6)), 2),
        (gaussian(6, 2) @ gaussian(2, 7), 2),
        (gaussian(6, 2) @ gaussian(2, 7), 4),
        (gaussian(3, 7), 3),
        (gaussian(3, 7), 5),
        (gaussian(7, 4), 4),
        (np.ones((1, 1)), 1),
    ]:
        c = quiet(A, k, method, rng=0).certificate()
        if c.rank == np.linalg.matrix_rank(A):
            assert c.ratio == 1
            assert c.spectral_ratio == 1
            assert c.squared_error <= slack(A) ** 2
        assert c.a_posteriori >= 1
        if c.rank < k:
            assert (c.factor, c.source, c.holds, c.spectral_factor, c.spectral_source) == (None,) * 5


def test_dependent_columns_have_an_infinite_ratio_where_others_would_do():
    A = np.array([[1.0, 0, 0], [0, 1.0, 0]])
    with pytest.warns(RankDeficientWarning, match="column 1 depends on those included before"):
        c = select(A[:, [0, 0, 1]], 2, include=[0, 1]).certificate()
    assert c.ratio == math.inf
    assert c.a_posteriori == math.inf
    assert c.squared_optimum == 0
    assert c.squared_error == 1


# ---------------------------------------------------------------- a posteriori


def test_a_posteriori_holds_on_ten_thousand_random_selections():
    """All of them against the definition at once; include is how an arbitrary selection gets a certificate."""
    rng = np.random.default_rng(11)
    count = 0
    for trial in itertools.count():
        m, n = (int(x) for x in rng.integers(3, 12, 2))
        k = int(rng.integers(1, min(m, n)))
        names = [name for name, f in MATRICES.items() if f.fits(m, n, k)]
        A = MATRICES[names[trial % len(names)]](m, n, k, rng) * rng.uniform(0.1, 10, n)
        _, s, Vh = np.linalg.svd(A, full_matrices=False)
        if s[k - 1] < 1e-8 * s[0] or s[k] < 1e-9 * s[0]:
            continue
        S = np.argsort(rng.random((250, n)), axis=1)[:, :k]
        V_S = np.swapaxes(Vh[:k][:, S], 0, 1)
        smallest = np.linalg.svd(V_S, compute_uv=False)[:, -1]
        good = smallest > 1e-6
        Q = np.linalg.qr(np.swapaxes(A[:, S[good]] / np.linalg.norm(A, axis=0).clip(1e-300)[S[good]], 0, 1))[
            0
        ]
        E = A - Q @ (np.swapaxes(Q, 1, 2) @ A)
        E = E - Q @ (np.swapaxes(Q, 1, 2) @ E)
        factor = smallest[good] ** -1
        d = slack(A) * factor  # V_k is that of a matrix within rounding of A
        assert np.all(np.linalg.norm(E, axis=(1, 2)) <= factor * np.sqrt(np.sum(s[k:] ** 2)) + d)
        assert np.all(np.linalg.norm(E, 2, axis=(1, 2)) <= factor * s[k] + d)
        # and what the certificate says of some of them
        for i in np.flatnonzero(good)[:4]:
            c = quiet(A, k, include=S[i]).certificate()
            unit = slack(A) * math.sqrt(c.a_posteriori)
            assert c.a_posteriori == pytest.approx(smallest[i] ** -2, rel=1e-4) or s[k - 1] < s[k] * (
                1 + 1e-6
            )
            assert math.sqrt(c.squared_error) <= math.sqrt(c.a_posteriori * c.squared_optimum) + unit
            assert (
                math.sqrt(c.spectral_squared_error)
                <= math.sqrt(c.a_posteriori * c.spectral_squared_optimum) + unit
            )
            assert c.factor is None
        count += int(good.sum())
        if count >= 10_000:
            break
    assert trial < 500


@pytest.mark.parametrize("method", able("exclude"))
def test_a_posteriori_holds_with_include_and_exclude(method):
    for seed in range(20):
        A = gaussian(6, 9, seed=seed) * 10 ** np.random.default_rng(seed).uniform(-2, 2, 9)
        for forced in ({"include": [2, 7]}, {"exclude": [0, 4]}, {"include": [8], "exclude": [1]}):
            c = select(A, 3, method, rng=seed, **forced).certificate()
            assert c.ratio <= c.a_posteriori * (1 + 1e-9)
            assert c.spectral_ratio <= c.a_posteriori * (1 + 1e-9)
            assert (c.factor, c.source, c.holds, c.spectral_factor, c.spectral_source) == (None,) * 5


# ---------------------------------------------------------------- when a theorem is claimed


@pytest.mark.parametrize("method", ROWS)
def test_factor_is_the_rows_own(method):
    A, k = gaussian(7, 9), 4
    c, law = select(A, k, method, rng=0).certificate(), METHODS[method].guarantee
    s2 = np.linalg.svd(A, compute_uv=False) ** 2
    for norm, factor, source, tail in (
        ("frobenius", c.factor, c.source, lambda r: np.sum(s2[r:])),
        ("spectral", c.spectral_factor, c.spectral_source, lambda r: s2[r]),
    ):
        promised = getattr(law, norm)(7, 9, k) if law and getattr(law, norm) else None
        if promised is None:
            assert factor is None
            assert source is None
            continue
        if law.rank:
            promised *= tail(law.rank(7, 9, k)) / tail(k)
        assert factor == pytest.approx(promised, rel=1e-9)
        assert source == law.source
        assert c.holds == law.holds
        if c.holds == "every run":
            assert (c.ratio if norm == "frobenius" else c.spectral_ratio) <= factor * (1 + 1e-9)
    assert c.holds in (None, "every run", "expectation")
    assert (c.holds is None) == (c.factor is None and c.spectral_factor is None)


EXPECTED = {
    "residual": (bounds.pivoted_qr_frobenius(9, 3), bounds.pivoted_qr(9, 3), "every run"),
    "pivoted_qr": (bounds.pivoted_qr_frobenius(9, 3), bounds.pivoted_qr(9, 3), "every run"),
    "greedy": (None, None, None),
    "farthest": (None, None, None),
    "uniform": (None, None, None),
    "norm": (None, None, None),
    "leverage_top": (None, None, None),
    "leverage": (None, None, None),
    "two_stage": (None, None, None),
    "sketched_qr": (None, None, None),
    "volume": (4, 16, "expectation"),
    "arp": (4, 16, "expectation"),
    "random_pivot": (8, None, "expectation"),
    "adaptive": (8, None, "expectation"),
    "blockwise_pivot": (None, None, None),
    "osinsky": (4, 16, "every run"),
    "volume_derandomized": (4, 16, "every run"),
    "interlacing": (4 * bounds.interlacing(7, 9, 3), bounds.interlacing(7, 9, 3), "every run"),
    "exact": (4, 16, "every run"),
    "strong_rrqr": (1 + 4 * 18, 1 + 4 * 18, "every run"),
    "deim": (9 * 3 * 64 / 3, 9 * 3 * 64 / 3, "every run"),
    "qdeim": (7 * (64 + 17) / 9, 7 * (64 + 17) / 9, "every run"),
    "local_search": (bounds.pivoted_qr_frobenius(9, 3), None, "every run"),
}


@pytest.mark.parametrize("method", [m for m in EXPECTED if m in METHODS])
def test_factors_written_out(method):
    c = select(gaussian(7, 9), 3, method, rng=0).certificate()
    assert (c.factor, c.spectral_factor, c.holds) == pytest.approx(EXPECTED[method])


def test_one_column_by_norm_is_volume_sampling():
    c = select(gaussian(5, 6), 1, "norm", rng=0).certificate()
    assert (c.factor, c.source, c.holds) == (2.0, "frieze2004", "expectation")


def test_options_change_the_theorem():
    A = gaussian(7, 9)
    if "strong_rrqr" in METHODS:
        assert select(A, 3, "strong_rrqr", f=5.0).certificate().factor == 1 + 25 * 18
        assert select(A, 3, "strong_rrqr", f=1.0).certificate().factor == pytest.approx(1 + 1.001**2 * 18)
    if "local_search" in METHODS:
        assert select(A, 3, "local_search", start="greedy").certificate().factor is None
    if "adaptive" in METHODS:
        assert select(A, 3, "adaptive", batch=2, rng=0).certificate().factor is None
        assert select(A, 3, "adaptive", batch=1, rng=0).certificate().factor == 8
    if "bss" in METHODS:
        s2 = np.linalg.svd(A, compute_uv=False) ** 2
        for rank in (1, 2):
            c = select(A, 4, "bss", rank=rank).certificate()
            own = bounds.bss_frobenius(rank, 4) * np.sum(s2[rank:])
            assert c.factor * c.squared_optimum == pytest.approx(own)
            assert c.squared_error <= own
        assert select(A, 1, "bss").certificate().factor is None


def test_bss_against_an_optimum_of_zero_promises_nothing_finite():
    if "bss" not in METHODS:
        pytest.skip("no such row")
    c = select(gaussian(4, 9), 4, "bss", rank=1).certificate()
    assert c.ratio == 1
    assert c.factor == math.inf


@pytest.mark.parametrize("method", [m for m in PROMISING if "tol" in METHODS[m].supports])
def test_a_tolerance_leaves_deterministic_theorems_alone(method):
    A = gaussian(8, 12)
    for tol in (0.8, 0.5, 0.2):
        chosen = select(A, method=method, tol=tol, rng=3)
        c = chosen.certificate()
        if not METHODS[method].deterministic:
            assert c.factor is None
            assert c.holds is None
            continue
        again = select(A, chosen.k, method)
        if again.indices.tolist() == chosen.indices.tolist():
            assert c == again.certificate()
        else:
            assert c.factor is None


def test_picks_cut_from_a_longer_run_are_not_the_methods_own():
    row = METHODS["leverage_top"]
    chosen = select(gaussian(6, 9), 4, "residual")
    (part,) = chosen._parts
    assert part.is_a_run_of(METHODS["residual"])
    cut = type(part)(part.problem, part.picks[:2], 2, part.method_picks)
    assert cut.is_a_run_of(METHODS["residual"])  # nested
    assert not cut.is_a_run_of(row)
    other = min(set(range(9)) - set(part.method_picks))
    filled = type(part)(part.problem, (*part.picks[:3], other), 4, part.method_picks)
    assert not filled.is_a_run_of(METHODS["residual"])
    assert not filled.is_a_run_of(row)
    dependent = type(part)(part.problem, part.picks, 3, part.method_picks)
    assert not dependent.is_a_run_of(METHODS["residual"])


@pytest.mark.parametrize("method", able("target"))
def test_with_a_target_the_optimum_is_the_targets_and_no_theorem_is_claimed(method):
    A, B = gaussian(7, 9), gaussian(7, 5, seed=1)
    c = select(A, 3, method, target=B).certificate()
    s2 = np.linalg.svd(B, compute_uv=False) ** 2
    assert c.squared_optimum == pytest.approx(np.sum(s2[3:]))
    assert c.spectral_squared_optimum == pytest.approx(s2[3])
    assert c.squared_error >= c.squared_optimum
    assert (c.factor, c.source, c.holds, c.a_posteriori) == (None,) * 4
    scaled = select(A * 1e180, 3, method, target=B * 1e-150).certificate()
    assert scaled.ratio == pytest.approx(c.ratio)


def test_padding_does_not_count_as_columns():
    A = gaussian(6, 12)
    A[:, 8:] = np.nan
    c = select(A, 3, valid=np.arange(12) < 8).certificate()
    assert c == select(A[:, :8], 3).certificate()
    assert c.factor == bounds.pivoted_qr_frobenius(8, 3)


# ---------------------------------------------------------------- batches and backends


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor])
def test_a_batch_is_arrays_of_the_items_numbers(make):
    A = np.stack([gaussian(6, 8, seed=s) for s in range(6)]).reshape(2, 3, 6, 8)
    A[1, 2] = A[1, 2][:, :1] * A[1, 2][:1]
    batch = quiet(make(A), 3).certificate()
    for i in np.ndindex(2, 3):
        alone = quiet(A[i], 3).certificate()
        for name in (
            "error",
            "squared_optimum",
            "ratio",
            "a_posteriori",
            "rank",
            "spectral_error",
            "spectral_ratio",
        ):
            assert getattr(batch, name).shape == (2, 3)
            assert float(getattr(batch, name)[i]) == pytest.approx(getattr(alone, name), nan_ok=True)
        want = math.nan if alone.factor is None else alone.factor
        assert float(batch.factor[i]) == pytest.approx(want, nan_ok=True)
    assert type(batch.error) is type(make(A))
    assert math.isnan(batch.factor[1, 2])
    assert batch.source == "kawamura2021"
    assert batch.holds == "every run"
    assert quiet(make(A), 3, "greedy").certificate().factor is None


def test_items_of_different_length_have_factors_of_their_own():
    A = np.stack([gaussian(6, 8, seed=s) for s in range(2)])
    c = select(A, [2, 4]).certificate()
    assert c.factor.tolist() == [bounds.pivoted_qr_frobenius(8, k) for k in (2, 4)]


def test_an_empty_batch():
    c = select(np.zeros((0, 4, 5)), 2).certificate()
    assert c.squared_error.shape == c.ratio.shape == (0,)
    assert c.source is None


def test_single_precision_is_judged_on_the_exact_data():
    A = gaussian(9, 12).astype(np.float32)
    one, other = select(A, 4).certificate(), select(A.astype(np.float64), 4).certificate()
    assert one == other
    of_torch = vars(select(torch.as_tensor(A), 4).certificate())
    numbers = {name: x for name, x in vars(one).items() if isinstance(x, float)}
    assert {name: of_torch[name] for name in numbers} == pytest.approx(numbers, rel=1e-13)


def test_star_and_simplex_from_their_certificates():
    c = select(matrices.star(10, 0.3), 5).certificate()
    assert c.spectral_ratio == pytest.approx(bounds.star_spectral(10, 5, 0.3))
    c = select(matrices.simplex(4, 1e-2), 4).certificate()
    assert c.ratio == pytest.approx(bounds.simplex(4, 1e-2))
