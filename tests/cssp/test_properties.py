"""Hypothesis looks for a matrix, a method and options that break the contract."""

import warnings

import numpy as np
import oracles
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cssp import METHODS, CsspError, select

ENTRIES = {
    "any": st.floats(-1e150, 1e150),
    "moderate": st.floats(-100, 100, allow_subnormal=False).map(lambda x: round(x, 3)),
    "few": st.sampled_from([-1.0, 0.0, 0.0, 1.0, 1e-9]),
}


@st.composite
def matrices(draw, entries=None):
    shape = draw(st.tuples(st.integers(1, 7), st.integers(1, 8)))
    kind = entries or draw(st.sampled_from(sorted(ENTRIES)))
    return draw(hnp.arrays(np.float64, shape, elements=ENTRIES[kind]))


@st.composite
def calls(draw):
    A = draw(matrices())
    n = A.shape[1]
    method = draw(st.sampled_from(sorted(METHODS)))
    supports = METHODS[method].supports
    options = {"method": method, "rng": draw(st.integers(0, 9))}
    columns = draw(st.permutations(range(n)))
    c = draw(st.integers(0, n - 1)) if "exclude" in supports else 0
    i = draw(st.integers(0, n - c)) if "include" in supports else 0
    options["exclude"], options["include"] = columns[:c] or None, columns[c : c + i] or None
    options["k"] = draw(st.integers(max(1, i), n - c))
    if draw(st.booleans()):
        options["weights"] = draw(hnp.arrays(np.float64, n, elements=st.floats(0, 1e100)))
    if "tol" in supports and draw(st.booleans()):
        options["tol"] = draw(st.floats(1e-12, 1))
    return A, options


def quiet(A, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return select(A, **options)


@given(calls())
def test_any_call_keeps_the_contract(call):
    A, options = call
    before = A.copy()
    try:
        s = quiet(A, **options)
    except CsspError:  # a method may refuse a size
        assume(False)
    indices = s.indices.tolist()
    assert len(set(indices)) == len(indices) == s.k
    assert set(indices) <= set(range(A.shape[1]))
    assert not set(indices) & set(options["exclude"] or ())
    include = list(options["include"] or ())
    assert indices[: len(include)] == include
    assert s.k == options["k"] or s.relative_error <= options["tol"]
    assert s.rank <= min(*A.shape, s.k)
    assert np.all(s.errors[1:] <= s.errors[:-1])
    assert 0 <= s.relative_error <= 1
    assert np.all(np.isfinite(s.coefficients()))
    np.testing.assert_array_equal(A, before)
    again = quiet(A, **options)
    np.testing.assert_array_equal(again.indices, s.indices)


@given(matrices("moderate"), st.sampled_from(sorted(METHODS)), st.data())
def test_never_better_than_the_best(A, method, data):
    k = data.draw(st.integers(1, A.shape[1]))
    try:
        s = quiet(A, k=k, method=method, rng=0)
    except CsspError:
        assume(False)
    rounding = (1e-13 * np.linalg.norm(A)) ** 2
    tail = np.sum(np.linalg.svd(A, compute_uv=False)[k:] ** 2)
    assert s.errors[-1] >= tail * (1 - 1e-8) - rounding
    np.testing.assert_allclose(
        s.errors[-1], oracles.squared_error(A, s.indices), rtol=1e-5, atol=100 * rounding
    )


@given(matrices(), st.integers(-400, 400), st.sampled_from(["residual", "greedy", "farthest"]), st.data())
def test_powers_of_two_change_nothing(A, e, method, data):
    scaled = np.ldexp(A, e)
    assume(np.array_equal(np.ldexp(scaled, -e), A) and np.all(np.isfinite(scaled)))
    k = data.draw(st.integers(1, A.shape[1]))
    one, other = quiet(A, k=k, method=method), quiet(scaled, k=k, method=method)
    np.testing.assert_array_equal(one.indices, other.indices)
    assert one.relative_error == other.relative_error


@given(matrices(), st.data())
def test_residual_takes_the_largest_residual(A, data):
    k = data.draw(st.integers(1, A.shape[1]))
    s = quiet(A, k=k)
    A = A / max(np.abs(A).max(), 1e-300)
    largest = np.linalg.norm(A, axis=0).max()
    for t in range(s.rank):
        E = np.linalg.norm(oracles.residual_matrix(A, s.indices[:t]), axis=0)
        E[s.indices[:t]] = 0
        assert E[s.indices[t]] >= E.max() * (1 - 1e-6) - 1e-12 * largest
