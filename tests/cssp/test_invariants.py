"""Hypothesis looks for a matrix with dependent columns, or another form of a matrix, that an invariant does not survive.

``python -m analysis deep`` runs each property on 20,000 examples.
"""

import warnings
from contextlib import ExitStack

import numpy as np
import pytest
from answers import (
    EPS,
    check_contract,
    check_independent,
    check_numbers,
    check_same,
    host,
    listed,
    owes_the_same,
    precision,
)
from hypothesis import assume, event, given
from hypothesis import strategies as st
from storages import STORAGES, small_tiles
from strategies import DEPENDENT, KINDS, Call, calls, names
from test_properties import generic

from cssp import RankDeficientWarning, passes, select
from cssp.errors import RankDeficientError

TYPES = ("float64", "float64", "float32", "complex128", "complex64", "float16")

dependent = calls(
    kinds=DEPENDENT, dtypes=TYPES, tol=False, shape=st.tuples(st.integers(1, 14), st.integers(1, 18))
)


# --- one notion of dependence ---------------------------------------------------------------------------


@given(dependent)
def test_rank_error_and_coefficients_are_those_of_the_picks(call):
    s = call.run()
    event(f"{call.method} {call.backend}")
    check_contract(call, s)
    check_numbers(call, s)


@given(dependent)
def test_no_dependent_pick_while_an_independent_column_is_left(call):
    check_independent(call, call.run())


@given(dependent)
def test_what_is_deficient_goes_by_the_same_rank(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        s = select(call.matrix(), method=call.method, **call.native(call.options))
    assert bool(caught) == (s.rank < s.k)
    short = call.run(deficient="truncate")
    assert (short.k, short.rank) == (max(1, s.rank), s.rank)
    if s.rank == s.k:
        assert listed(call.run(deficient="raise")) == listed(short) == listed(s)
        return
    event("with include" if call.options.get("include") else "without include")
    with pytest.raises(RankDeficientError, match=rf"rank {s.rank}\b"):
        call.run(deficient="raise")
    assert set(listed(short)) <= set(listed(s)) or s.rank == 0
    check_numbers(call, s)
    check_numbers(call, short)


# --- units ----------------------------------------------------------------------------------------------


@given(calls(dtypes=("float64", "float32", "complex128"), tol=False), st.integers(0, 99))
def test_scaling_by_norms_does_not_see_powers_of_two(call, seed):
    """Bit for bit, up to numbers that the scale of a column makes subnormal."""
    call = call.but(scale="norm")
    limit = 500 if call.A.real.dtype == np.float64 else 50
    e = np.random.default_rng(seed).integers(-limit, limit + 1, call.A.shape[1])
    with np.errstate(all="ignore"):
        power = np.ldexp(1.0, e).astype(call.A.real.dtype)
        scaled = call.A * power
        assume(np.array_equal(scaled / power, call.A) and np.isfinite(scaled).all())
    one, other = call.run(), Call(scaled, call.method, call.options, call.backend).run()
    assert listed(one) == listed(other)
    assert one.rank == other.rank
    assert host(one.errors).tobytes() == host(other.errors).tobytes()


@given(generic("float64", "complex128", methods=names))
def test_scaling_by_norms_is_weighting_by_their_inverses(call):
    assume(call.options["k"] < call.A.shape[0])  # the last direction is one that all columns offer
    call = call.but(weights=1 / np.linalg.norm(call.A, axis=0))
    weighted, scaled = call.run(), call.but(weights=None, scale="norm").run()
    if check_same(call, scaled, weighted) == "same":
        assert scaled.relative_error == pytest.approx(weighted.relative_error, rel=1e-9, abs=1e-13)


@given(dependent)
def test_scaled_columns_have_one_notion_of_dependence(call):
    call = call.but(scale="norm")
    s = call.run()
    check_numbers(call, s)
    check_independent(call, s)


# --- storages -------------------------------------------------------------------------------------------


@given(
    calls(
        st.sampled_from(sorted(passes.METHODS)),
        (*KINDS, *DEPENDENT),
        ("float64", "float32", "complex128", "int64", "bool"),
        ("numpy",),
        tol=False,
        shape=st.tuples(st.integers(1, 9), st.integers(1, 12)),
    ),
    st.sampled_from(sorted(STORAGES)),
    st.randoms(use_true_random=False),
)
def test_every_storage_gives_what_memory_gives(call, storage, random):
    sizes, reach = np.abs(call.A[call.A != 0]).astype(float), 1e30 if precision(call) > EPS else 1e100
    assume(
        storage != "operator" or np.all((sizes > 1 / reach) & (sizes < reach))
    )  # its products are the caller's
    call = call.but(target=None, rank=None, oversample=None, accelerated=None)
    expected = call.run()
    with small_tiles(), ExitStack() as stack:
        stored = STORAGES[storage](call.A, random, stack)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RankDeficientWarning)
            s = select(stored, method=call.method, **call.options)
        check_contract(call, s)
        check_numbers(call, s)
        check_independent(call, s)
    if owes_the_same(call, storage):
        event(f"{check_same(call, s, expected)}: {call.method} {storage}")
