"""One exponent p from the sum of residual norms to the largest: errors, greedy choice and swaps, against the definition."""

import copy
import math
import pickle

import array_api_strict
import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spla
from optional import torch

from cssp import METHODS, CsspError, select, select_gram
from cssp.passes import greedy as greedy_in_passes
from cssp.passes.table import source_of
from cssp.pivoting import exponents
from cssp.problem import Problem

PS = [1, 1.5, 3, 4, 16, 300, math.inf]


def residuals(A, S, B=None):
    """Residual norms by the definition, projected twice; the columns S are independent."""
    R = A if B is None else B
    Q = np.linalg.qr(A[:, list(S)])[0]
    for _ in range(2):
        R = R - Q @ (Q.conj().T @ R)
    return np.linalg.norm(R, axis=0)


def p_norm(x, p):
    top = np.max(x)
    return top * np.linalg.norm(x / top, p) if top > 0 else 0.0


def host(x):
    return x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)


def gaussian(m, n, seed=0, kind="real"):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((m, n))
    return A + 1j * rng.standard_normal((m, n)) if kind == "complex" else A


STORAGES = {
    "numpy": np.asarray,
    "torch": torch.as_tensor,
    "strict": array_api_strict.asarray,
    "sparse": sp.csc_array,
    "operator": spla.aslinearoperator,
    "dask": lambda A: da.from_array(A, chunks=(5, 4)),
}


@pytest.mark.parametrize("method", METHODS)
def test_residual_norms_of_every_method(method):
    A = gaussian(9, 12)
    w = np.linspace(0.5, 2, 12)
    s = select(A, 4, method, weights=w, rng=1)
    np.testing.assert_allclose(s.residuals, residuals(A * w, s.indices), atol=1e-13)
    assert np.sum(s.residuals**2) == pytest.approx(s.squared_error)
    before = np.linalg.norm(A * w, axis=0)
    for p in (1, 2, 7.5, math.inf):
        assert s.error_p(p) == pytest.approx(p_norm(s.residuals, p) / p_norm(before, p))
    assert s.error_p(2) == pytest.approx(s.relative_error, rel=1e-13)
    assert s.max_error == s.error_p(np.inf) == pytest.approx(s.residuals.max() / before.max())
    assert isinstance(s.max_error, float)


@pytest.mark.parametrize("storage", STORAGES)
def test_residual_norms_of_every_storage(storage):
    A = gaussian(12, 14)
    s = select(STORAGES[storage](A), 5)
    assert type(s.residuals) is type(s.indices)
    np.testing.assert_allclose(host(s.residuals), residuals(A, host(s.indices)), atol=1e-13)
    assert s.error_p(2) == pytest.approx(s.relative_error, rel=1e-13)


def test_residual_norms_of_a_batch_with_padding():
    A = np.stack([gaussian(8, 6), gaussian(8, 6, 1)])
    valid = np.array([[1, 1, 0, 1, 1, 1], [1, 1, 1, 1, 1, 0]], dtype=bool)
    A[~valid[:, None, :] & np.ones((2, 8, 6), dtype=bool)] = np.nan
    s = select(torch.as_tensor(A), [2, 3], valid=valid)
    assert s.residuals.shape == (2, 6)
    assert s.residuals.dtype == torch.float64
    for i in range(2):
        left = host(s.residuals)[i]
        assert np.all(left[~valid[i]] == 0)
        S = [j for j in host(s.indices)[i] if j >= 0]
        known = residuals(np.where(valid[i], A[i], 0.0), S)
        np.testing.assert_allclose(left, known, atol=1e-13)
    np.testing.assert_allclose(host(s.error_p(2)), host(s.relative_error))
    assert s.max_error.shape == (2,)
    assert select(np.zeros((0, 3, 4)), 2).max_error.shape == (0,)


def test_residual_norms_of_a_target():
    A, B = gaussian(9, 7), gaussian(9, 4, 1)
    s = select(A, 3, "greedy", target=B)
    np.testing.assert_allclose(s.residuals, residuals(A, s.indices, B))


@pytest.mark.parametrize("scale", [1e-250, 1e200])
def test_no_power_leaves_the_range(scale):
    A = gaussian(9, 12)
    one, other = select(A, 4, "greedy", p=9), select(A * scale, 4, "greedy", p=9)
    assert one.indices.tolist() == other.indices.tolist()
    np.testing.assert_allclose(other.residuals / scale, one.residuals, atol=1e-13)
    for p in (1, 3, 2000, math.inf):
        assert other.error_p(p) == pytest.approx(one.error_p(p))
    assert one.error_p(1e6) == pytest.approx(one.max_error, rel=1e-4)


def test_a_zero_matrix_and_an_exact_reconstruction():
    with pytest.warns(match="rank"):
        s = select(np.zeros((3, 4)), 1, "greedy", p=4)
    assert (s.indices.tolist(), s.error_p(3), s.max_error) == ([0], 0.0, 0.0)
    s = select(np.eye(3), 3, "greedy", p=math.inf)
    assert (s.indices.tolist(), s.residuals.tolist()) == ([0, 1, 2], [0, 0, 0])


def test_residual_norms_are_kept_in_a_copy_and_in_a_pickle_where_asked_for():
    s = select(gaussian(9, 12), 4)
    with pytest.raises(CsspError, match="pickled"):
        _ = pickle.loads(pickle.dumps(s)).max_error
    for other in (copy.deepcopy(s), pickle.loads(pickle.dumps((s, s.residuals)[0]))):
        assert other.residuals.tobytes() == s.residuals.tobytes()


def test_residual_norms_of_landmarks_are_those_of_the_factor():
    A = gaussian(9, 12)
    w = np.linspace(0.5, 2, 12)
    s, K = select(A * 1e30, 4, weights=w), select_gram(1e60 * A.T @ A, 4, weights=w)
    assert s.indices.tolist() == K.indices.tolist()
    np.testing.assert_allclose(K.residuals, s.residuals, rtol=1e-6, atol=1e24)
    assert K.residuals[K.indices].tolist() == [0] * 4
    assert K.error_p(2) ** 2 == pytest.approx(K.relative_error)
    assert K.error_p(5) == pytest.approx(s.error_p(5))
    assert K.max_error == pytest.approx(s.max_error)
    assert isinstance(select_gram(torch.as_tensor(A.T @ A), 4).residuals, torch.Tensor)


@pytest.mark.parametrize("p", [0.5, 0, -1, math.nan, True, "2", None, [2], 1j])
def test_an_exponent_that_is_none_is_refused(p):
    A = gaussian(5, 6)
    calls = [
        lambda: select(A, 2).error_p(p),
        lambda: select_gram(A.T @ A, 2).error_p(p),
        lambda: select(A, 2, "greedy", p=p),
        lambda: select(A, 2, "local_search", p=p),
        lambda: select(sp.csc_array(A), 2, "greedy", p=p),
    ]
    for call in calls:
        with pytest.raises(CsspError, match=r"^p = .*expected a number from 1 to infinity"):
            call()


def assert_every_pick_is_the_best(A, S, p, B=None, given=0, excluded=()):
    """No column that adds to the chosen ones leaves a smaller norm; the first of those that leave the smallest is taken."""
    longest = np.linalg.norm(A, axis=0).max()
    for t in range(given, len(S)):
        scores = np.full(A.shape[1], np.inf)
        own = residuals(A, S[:t])
        for i in range(A.shape[1]):
            if i not in S[:t] and i not in excluded and own[i] > 1e-10 * longest:
                scores[i] = p_norm(residuals(A, [*S[:t], i], B), p)
        scores = np.maximum(scores, 1e-12 * longest)  # what is less is rounding
        assert S[t] == np.flatnonzero(scores <= scores.min() * (1 + 1e-11))[0]


CASES = {
    "wide": lambda rng: rng.standard_normal((12, 20)),
    "tall": lambda rng: rng.standard_normal((30, 12)),
    "complex": lambda rng: rng.standard_normal((10, 14)) + 1j * rng.standard_normal((10, 14)),
    "scaled columns": lambda rng: rng.standard_normal((12, 15)) * 10.0 ** rng.uniform(-2, 2, 15),
    "copies": lambda rng: np.repeat(rng.standard_normal((12, 9)), 2, axis=1),
    "small integers": lambda rng: rng.integers(-1, 2, (6, 10)).astype(float),
    "decaying": lambda rng: (
        rng.standard_normal((14, 9)) * 4.0 ** -np.arange(9) @ rng.standard_normal((9, 12))
    ),
}


@pytest.mark.parametrize("p", PS)
@pytest.mark.parametrize("name", CASES)
def test_every_pick_of_greedy_is_the_best(name, p):
    for seed in range(2):
        A = CASES[name](np.random.default_rng(seed))
        k = min(7, np.linalg.matrix_rank(A))
        S = select(A, k, "greedy", p=p).indices.tolist()
        assert_every_pick_is_the_best(A, S, p)


@pytest.mark.parametrize("p", [1, 2, 5, math.inf])
def test_every_pick_of_greedy_is_the_best_for_a_target(p):
    for seed, kind in enumerate(["real", "complex", "real"]):
        A, B = gaussian(12, 15, seed, kind), gaussian(12, 5, seed + 9, kind)
        S = select(A, 7, "greedy", p=p, target=B).indices.tolist()
        assert_every_pick_is_the_best(A, S, p, B)
    s = select(A.real, 4, "greedy", p=p, target=A.real[:, [6]])
    assert s.indices.tolist() == [6, 0, 1, 2]


@pytest.mark.parametrize("p", [1, 5, math.inf])
def test_included_and_excluded_columns_count(p):
    A = gaussian(12, 15)
    A[:, 0] *= 5  # the worst column, which may not be chosen
    S = select(A, 6, "greedy", p=p, include=[9, 3], exclude=[0, 1]).indices.tolist()
    assert S[:2] == [9, 3]
    assert_every_pick_is_the_best(A, S, p, given=2, excluded=(0, 1))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_deep_picks_are_the_best(dtype):
    """Residuals down to 1e-9 of the columns: products that were only downdated would be rounding."""
    rng = np.random.default_rng(0)
    U, V = (np.linalg.qr(rng.standard_normal((n, 10)))[0] for n in (20, 14))
    A = (U * 10.0 ** -np.arange(10.0)) @ V.T if dtype == np.float64 else (U * 2.0 ** -np.arange(10.0)) @ V.T
    A = A.astype(dtype)
    for p in (1, 4, math.inf):
        S = select(A, 9, "greedy", p=p).indices.tolist()
        wide = A.astype(np.float64)
        for t in range(9):
            norms = [np.inf if i in S[:t] else p_norm(residuals(wide, [*S[:t], i]), p) for i in range(14)]
            assert norms[S[t]] <= min(norms) * (1 + 1e-4)


@pytest.mark.parametrize("p", [1, 4, math.inf])
@pytest.mark.parametrize("storage", STORAGES)
def test_every_storage_makes_the_same_picks(storage, p):
    for seed in range(1 if storage == "dask" else 3):
        A = gaussian(12, 14, seed)
        s = select(STORAGES[storage](A), 5, "greedy", p=p)
        assert host(s.indices).tolist() == select(A, 5, "greedy", p=p).indices.tolist()
        assert type(s.residuals) is type(s.indices)


def test_blocks_of_scores_change_nothing(monkeypatch):
    A = gaussian(12, 14)
    whole = [select(A, 6, "greedy", p=p).indices.tolist() for p in PS]
    monkeypatch.setattr(exponents, "ROOM", 30)
    assert [select(A, 6, "greedy", p=p).indices.tolist() for p in PS] == whole


def test_two_is_the_gain_and_infinity_is_not_the_residual_rule():
    A = gaussian(12, 14)
    for X in (A, A.astype(np.float32), torch.as_tensor(A), sp.csc_array(A)):
        one, other = select(X, 6, "greedy"), select(X, 6, "greedy", p=2.0)
        assert host(one.indices).tolist() == host(other.indices).tolist()
        assert host(one.errors).tobytes() == host(other.errors).tobytes()
    # Column 0 is the longest; column 2, between the others, leaves the smaller largest residual.
    A = np.array([[1.1, 0.0, 0.7], [0.0, 1.0, 0.7]])
    assert select(A, 1, "residual").indices.tolist() == [0]
    assert select(A, 1, "greedy", p=math.inf).indices.tolist() == [2]


def many_and_few():
    """200 columns of norm 1 in five dimensions, and four longer ones with a dimension each."""
    X = np.random.default_rng(0).standard_normal((5, 200))
    return np.block(
        [
            [X / np.linalg.norm(X, axis=0), np.zeros((5, 4))],
            [np.zeros((4, 200)), np.diag([4.0, 3.5, 3.0, 2.5])],
        ]
    )


def test_larger_exponents_lower_the_largest_residual():
    """Many similar columns and few outstanding ones: Frobenius keeps to the many, the maximum goes to the few."""
    A = many_and_few()
    few = {p: select(A, 4, "greedy", p=p) for p in (2, math.inf)}
    assert few[2].max_error == 1
    assert few[math.inf].max_error == pytest.approx(1 / 4)
    assert few[math.inf].indices.tolist() == [200, 201, 202, 203]
    assert few[2].relative_error < few[math.inf].relative_error


def test_a_tolerance_ends_every_exponent():
    A = gaussian(12, 5) @ gaussian(5, 20, 1) + 1e-3 * gaussian(12, 20, 2)
    for p in (1, 4, math.inf):
        s = select(A, method="greedy", p=p, tol=0.01)
        assert s.relative_error <= 0.01
        shorter = select(A, s.k - 1, "greedy", p=p)
        assert shorter.relative_error > 0.01
        assert shorter.indices.tolist() == s.indices.tolist()[:-1]


def test_items_of_a_batch():
    A = np.stack([gaussian(12, 14), np.repeat(gaussian(12, 7), 2, axis=1)])
    s = select(A, 5, "greedy", p=6)
    for i in range(2):
        assert s.indices[i].tolist() == select(A[i].copy(), 5, "greedy", p=6).indices.tolist()


@pytest.mark.parametrize("kind", ["real", "complex"])
def test_norms_after_one_more_column_are_those_of_the_columns(kind):
    """Columns that one more direction explains almost wholly, or that the chosen ones did, keep the digits of what is left."""
    A = gaussian(12, 14, kind=kind)
    A[:, 5] = A[:, 4] + 1e-7 * A[:, 5]
    A[:, 6] = A[:, 0] + 1e-7 * A[:, 6]
    Q = np.linalg.qr(A[:, :2])[0]
    E = A[:, 2:5] - Q @ (Q.conj().T @ A[:, 2:5])
    E = E - Q @ (Q.conj().T @ E)
    E = E / np.linalg.norm(E, axis=0)
    exact = np.array([residuals(A, [0, 1, i]) for i in (2, 3, 4)])
    read = {name: source_of(STORAGES[name](A)) for name in ("sparse", "dask", "operator")}
    columns = [greedy_in_passes._Read(source, np.linalg.norm(A, axis=0) ** 2) for source in read.values()]
    for M in (exponents.Stored(Problem(A, 3, np.ones(14, dtype=bool))), *columns):
        found = np.sqrt(np.maximum(M.norms2_after(Q, E), 0))
        np.testing.assert_allclose(found, exact, rtol=1e-8, atol=1e-15)


@pytest.mark.parametrize("storage", ["sparse", "operator", "dask"])
def test_ties_of_many_columns_are_told_apart_in_few_passes(storage):
    """Forty equal scores, which for p = 1 only explicit residuals tell apart: once for all, not once for each."""
    A = np.eye(40)[:, np.repeat(np.arange(20), 2)]
    s = select(STORAGES[storage](A), 4, "greedy", p=1)
    assert host(s.indices).tolist() == select(A, 4, "greedy", p=1).indices.tolist() == [0, 2, 4, 6]
    assert s.passes < 30


def test_landmarks_take_no_exponent():
    A = gaussian(6, 8)
    with pytest.raises(CsspError, match=r"option 'p' is unknown: .*p of greedy, with cssp\.select"):
        select_gram(A.T @ A, 3, "greedy", p=3)


def test_an_exponent_beyond_the_range_is_the_maximum():
    s = select(gaussian(6, 8), 3, "greedy", p=10**400)
    assert s.error_p(10**400) == s.max_error
    assert s.indices.tolist() == select(gaussian(6, 8), 3, "greedy", p=math.inf).indices.tolist()


def test_too_many_columns_to_hold_their_products(monkeypatch):
    monkeypatch.setattr(greedy_in_passes, "MOST", 10)
    for storage in ("sparse", "dask", "operator"):
        with pytest.raises(CsspError, match=r"p = 4 .*11 x 11.*method='residual'"):
            select(STORAGES[storage](gaussian(6, 11)), 2, "greedy", p=4)
    assert select(sp.csc_array(gaussian(6, 11)), 2, "greedy").k == 2


@pytest.mark.parametrize("p", [1, 2, 4, 30, math.inf])
@pytest.mark.parametrize("kind", ["real", "complex", "target"])
def test_no_swap_lowers_the_norm(kind, p):
    for seed, start in enumerate(["residual", "greedy", "osinsky"]):
        if kind == "complex" and "complex" not in METHODS[start].supports:
            continue
        A = gaussian(10, 12, seed, kind)
        B = gaussian(10, 5, 7) if kind == "target" else None
        s = select(A, 4, "local_search", p=p, start=start, target=B)
        S = s.indices.tolist()
        here = p_norm(residuals(A, S, B), p)
        rest = [j for j in range(12) if j not in S]
        swaps = [p_norm(residuals(A, [*S[:i], j, *S[i + 1 :]], B), p) for i in range(4) for j in rest]
        share = 1e-3 if p in (2, math.inf) else 1 - 0.999 ** (2 / p)
        assert min(swaps) ** 2 >= here**2 * (1 - share) * (1 - 1e-9)
        if B is None:
            assert here <= p_norm(residuals(A, select(A, 4, start, rng=0).indices), p) * (1 + 1e-12)


def test_swaps_lower_the_norm_they_are_asked_for():
    """From the picks of greedy, exchanges for p = inf lower the largest residual and raise the Frobenius error."""
    A = many_and_few()
    start = select(A, 4, "greedy")
    for p in (8, math.inf):
        s = select(A, 4, "local_search", start="greedy", p=p)
        assert s.error_p(p) < 0.9 * start.error_p(p)
        assert s.relative_error > start.relative_error
    assert s.certificate().factor is None  # the theorem is about the Frobenius error
