"""Hypothesis looks for a matrix, a method and options that break the contract, one property a promise.

``python -m analysis deep`` runs each property on 20,000 examples.
"""

import warnings
from fractions import Fraction

import numpy as np
import oracles
import pytest
from answers import EPS, check_contract, host, listed, precision, weighted
from hypothesis import assume, event, given
from hypothesis import strategies as st
from strategies import (
    COMPLEX,
    KINDS,
    PLAIN,
    Call,
    able,
    calls,
    cast,
    deterministic,
    matrices,
    names,
    ordered,
    seeds,
    wrong,
    wrong_matrix,
)

from cssp import METHODS, CsspError, RankDeficientWarning, select

# --- any call -------------------------------------------------------------------------------------------


@given(calls())
def test_any_call_keeps_the_contract(call):
    before = call.A.copy()
    s = call.run()
    event(call.method)
    check_contract(call, s)
    assert call.A.tobytes() == before.tobytes(), "A untouched"
    rng = np.random.default_rng(call.options["rng"]) if "rng" in call.options else None
    again = call.run(rng=rng)
    assert listed(again) == listed(s), "same rng, same answer"
    assert host(again.errors).tobytes() == host(s.errors).tobytes()


@given(calls(dtypes=("float64", "float32", "complex128"), tol=False, padded=True), st.booleans())
def test_padding_may_hold_anything(call, poison):
    valid = call.options["valid"]
    dirty = call.A.copy()
    dirty[:, ~valid] = np.nan if poison else np.finfo(dirty.dtype).max
    one, other = call.run(), Call(dirty, call.method, call.options, call.backend).run()
    assert listed(one) == listed(other)
    assert host(one.errors).tobytes() == host(other.errors).tobytes()
    with np.errstate(over="ignore"):  # a target may be beyond what coefficients of the matrix can say
        np.testing.assert_array_equal(host(one.coefficients()), host(other.coefficients()))
        R = host(one.reconstruct())
        np.testing.assert_array_equal(R, host(other.reconstruct()))
    if "target" not in call.options:
        assert not R[:, ~valid].any()


# --- ties, nesting, equivariance, scale -----------------------------------------------------------------

TIED = st.sampled_from(
    sorted(name for name, row in METHODS.items() if row.deterministic and name != "pivoted_qr")
)


@given(calls(TIED, tol=False))
def test_of_equal_columns_the_first_is_chosen_first(call):
    call = call.but(weights=None, start=None)
    s = call.run()
    indices = listed(s)
    forbidden = set(call.options.get("exclude", ())) | set(
        np.flatnonzero(~call.options.get("valid", np.ones(call.A.shape[1], dtype=bool))).tolist()
    )
    for t, j in enumerate(
        indices[len(call.options.get("include", ())) :], len(call.options.get("include", ()))
    ):
        for i in set(range(j)) - set(indices[:t]) - forbidden:
            assert not np.array_equal(call.A[:, i], call.A[:, j]), (i, j)


@given(calls(ordered), st.data())
def test_prefixes_are_nested(call, data):
    call = call.but(tol=None, k=call.options.get("k", 1))
    i = len(call.options.get("include", ()))
    assume(call.options["k"] > max(1, i))
    k = data.draw(st.integers(max(1, i), call.options["k"] - 1))
    assert listed(call.run(k=k)) == listed(call.run())[:k]


def same_picks(method):
    """A nested method's picks have an order; others find a set."""
    return list if METHODS[method].nested else sorted


def generic(*dtypes, methods=deterministic):
    """Calls without ties."""
    return calls(methods, PLAIN, dtypes, plain=True, shape=st.tuples(st.integers(3, 7), st.integers(3, 8)))


@given(generic("float64"), st.randoms(use_true_random=False))
def test_picks_move_with_the_columns(call, random):
    order = list(range(call.A.shape[1]))
    random.shuffle(order)
    same = same_picks(call.method)
    moved = Call(call.A[:, order], call.method, call.options, call.backend)
    assume(call.options["k"] < call.A.shape[0])  # the last direction is one that all columns offer
    assert same([order[j] for j in listed(moved.run())]) == same(listed(call.run()))


@given(generic("float64", "complex128"), seeds, st.integers(0, 3))
def test_picks_do_not_see_rotations(call, seed, more):
    m, same = call.A.shape[0], same_picks(call.method)
    g = np.random.default_rng(seed)
    Q = g.standard_normal((m + more, m)).astype(call.A.dtype)
    Q = Q + 1j * g.standard_normal(Q.shape) if call.A.dtype.kind == "c" else Q
    assume(call.options["k"] < m)
    turned = Call(np.linalg.qr(Q)[0] @ call.A, call.method, call.options, call.backend)
    assert same(listed(turned.run())) == same(listed(call.run()))


LIMIT = {"float64": 660, "float32": 98, "complex128": 660, "float16": 12}


@given(calls(dtypes=tuple(LIMIT), plain=True), st.integers(-660, 660))
def test_powers_of_two_change_nothing(call, e):
    limit = LIMIT[str(call.A.dtype)]
    e = e * limit // 660
    with np.errstate(all="ignore"):
        scaled = call.A * np.ldexp(1.0, e).astype(call.A.real.dtype)
        back = scaled * np.ldexp(1.0, -e).astype(call.A.real.dtype)
    assume(np.array_equal(back, call.A) and np.all(np.isfinite(scaled)))
    one, other = call.run(), Call(scaled, call.method, call.options, call.backend).run()
    assert listed(one) == listed(other)
    assert one.rank == other.rank
    # Not to the bit: squares of entries far below the largest may be subnormal, and lose bits at one scale alone.
    assert one.relative_error == pytest.approx(other.relative_error, rel=1e-9, abs=1e-15)


@given(generic("float64", methods=names), st.floats(-200, 200))
def test_scale_does_not_matter(call, x):
    assume(call.options["k"] < call.A.shape[0])  # see test_picks_move_with_the_columns
    scale = 10.0**x
    one, other = call.run(), Call(call.A * scale, call.method, call.options, call.backend).run()
    assert listed(one) == listed(other)
    assert other.error == pytest.approx(one.error * scale, rel=1e-9, abs=1e-13 * scale * np.abs(call.A).max())


@given(calls(dtypes=("float64", "float32"), plain=True), st.data())
def test_weights_scale_the_columns(call, data):
    w = data.draw(
        st.lists(
            st.sampled_from([0.0, 1e-3, 0.3, 1.0, 7.0]), min_size=call.A.shape[1], max_size=call.A.shape[1]
        )
    )
    with np.errstate(all="ignore"):
        product = call.A * np.asarray(w, dtype=call.A.dtype)
    top = np.abs(product).max()
    nothing = not np.any((call.A != 0) & (np.asarray(w) != 0))  # a product may also underflow to nothing
    tiny = float(np.finfo(call.A.dtype).tiny)
    assume(np.isfinite(top) and (top > tiny * 2.0**60 or nothing))
    sizes = np.abs(product).max(axis=0)  # squares of much smaller columns are zero at one scale alone
    assume(np.all((sizes > np.sqrt(tiny) * top * 16) | (sizes == 0)))
    one = call.but(weights=w).run()
    other = Call(product, call.method, call.options, call.backend).run()
    assert listed(one) == listed(other)
    rounding = 1e-13 * float(
        top
    )  # the two are scaled by different powers of two, and products may be subnormal
    assert one.error == pytest.approx(other.error, rel=1e-9, abs=rounding)


# --- precisions, backends, memory, batches --------------------------------------------------------------


@given(calls(dtypes=("float16", "bfloat16", "int64", "int8", "bool")))
def test_a_narrow_type_is_worked_on_in_a_wide_one(call):
    wide = Call(
        call.A.astype(np.float32 if call.A.dtype.kind == "f" else float),
        call.method,
        call.options,
        call.backend,
    )
    one, other = call.run(), wide.run()
    assert listed(one) == listed(other)
    assert host(one.errors).tobytes() == host(other.errors).tobytes()


def certain(call, indices):
    """Whether each chosen column is clearly independent of those before, or clearly not."""
    X = weighted(call)
    largest = np.linalg.norm(np.delete(X, list(call.options.get("exclude", ())), axis=1), axis=0).max()
    noise, Q = 2 * np.sqrt(min(X.shape)) * EPS * largest, X[:, :0]
    for j in indices:
        e = X[:, j] - Q @ (Q.conj().T @ X[:, j])
        e = e - Q @ (Q.conj().T @ e)
        height = np.linalg.norm(e)
        if noise / 64 < height < 64 * noise:
            return False
        if height > noise:
            Q = np.column_stack([Q, e / height])
    return True


def agree(call, one, other):
    """The same picks, except where they are a matter of rounding: then the errors agree."""
    same = listed(one) == listed(other)
    event(f"{'same' if same else 'near-tie'}: {call.method}")
    if certain(call, listed(one)) and (same or certain(call, listed(other))):
        rounding = 1e-12 if same else 64 * precision(call)
        assert abs(one.relative_error - other.relative_error) <= 1e-6 * one.relative_error + rounding
    assert one.k == other.k or "tol" in call.options


@given(calls(backends=("numpy",)))
def test_torch_gives_what_numpy_gives(call):
    agree(call, call.run(), Call(call.A, call.method, call.options, "torch").run())


@given(calls(backends=("numpy",)), st.sampled_from(["fortran", "strided", "backwards", "frozen", "list"]))
def test_memory_does_not_matter(call, layout):
    A = call.A
    if layout == "fortran":
        A = np.asfortranarray(A)
    elif layout == "strided":
        A = np.repeat(np.repeat(A, 2, axis=0), 3, axis=1)[::2, ::3]
    elif layout == "backwards":
        A = np.ascontiguousarray(A[::-1, ::-1])[::-1, ::-1]
    elif layout == "frozen":
        A = A.copy()
        A.setflags(write=False)
    elif A.dtype in (np.float64, np.bool_):
        A = A.tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankDeficientWarning)
        other = select(A, method=call.method, **call.options)
    agree(call, call.run(), other)


@given(
    calls(dtypes=("float64", "float32"), plain=True),
    st.lists(st.sampled_from(KINDS), min_size=1, max_size=3),
    seeds,
    st.data(),
)
def test_an_item_of_a_batch_is_the_item_alone(call, kinds, seed, data):
    m, n = call.A.shape
    g, dtype = np.random.default_rng(seed), str(call.A.dtype)
    items = [call.A, *(cast(kind(g, m, n), dtype) for kind in kinds)]
    data.draw(st.randoms(use_true_random=False)).shuffle(items)
    A = np.stack(items)
    valid = g.random((len(items), n)) < data.draw(st.sampled_from([1.0, 0.7]))
    valid[np.arange(len(items)), g.integers(0, n, len(items))] = True
    k = [int(g.integers(1, c + 1)) for c in valid.sum(axis=1)]
    A = np.where(valid[:, None, :], A, np.nan).astype(dtype)
    w = g.integers(0, 3, (len(items), n)) * 0.7 if data.draw(st.booleans()) else None
    options = {"k": k, "valid": valid, "rng": seed} | ({} if w is None else {"weights": w})
    batch = Call(A, call.method, options, call.backend).run()
    for i, rng in enumerate(np.random.default_rng(seed).spawn(len(items))):
        own = {"k": k[i], "valid": valid[i], "rng": rng} | ({} if w is None else {"weights": w[i]})
        alone = Call(A[i].copy(), call.method, own, call.backend).run()
        assert host(batch.indices)[i, : k[i]].tolist() == listed(alone)
        assert np.all(host(batch.indices)[i, k[i] :] == -1)
        assert int(batch.rank[i]) == alone.rank
        assert host(batch.errors)[i, : k[i] + 1].tobytes() == host(alone.errors).tobytes()
        assert float(batch.error[i]) == alone.error


# --- rank, errors, the best -----------------------------------------------------------------------------


@given(calls(tol=False))
def test_what_is_done_about_deficient_rank(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        s = select(call.matrix(), method=call.method, **call.native(call.options))
    warned = any(w.category is RankDeficientWarning for w in caught)
    assert {w.category for w in caught} <= {RankDeficientWarning}
    if s.rank == s.k:
        assert not warned
    short = call.run(deficient="truncate")
    if warned:
        with pytest.raises(CsspError, match="rank"):
            call.run(deficient="raise")
        assert short.k <= s.k
        include = call.options.get("include", ())
        assert short.rank >= min(short.k - len(include), s.rank) or short.k == 1
    else:
        assert listed(short) == listed(s) == listed(call.run(deficient="raise"))


def whole(x, low):
    """x·2**-low as an integer, exactly."""
    numerator, denominator = float(x).as_integer_ratio()
    return (numerator << -low) // denominator if low < 0 else numerator // (denominator << low)


def exact_trace(X, S, noise):
    """Heights of the columns S over those before, and errors after 0, ..., k of them; in exact arithmetic.

    Gram matrix of integers, eliminated without fractions (Bareiss): after independent columns T its diagonal
    is det G[T + j] = ‖e_j‖² det G[T]. Columns of height at most ``noise`` are passed over.
    """
    low = int(np.frexp(np.abs(X[X != 0]))[1].min()) - 53
    columns = [[whole(x, low) for x in column] for column in X.T]
    n, last = len(columns), 1
    G = [[sum(a * b for a, b in zip(x, y, strict=True)) for y in columns] for x in columns]

    def length(square):
        return float(Fraction(square, last) * Fraction(2) ** (2 * low)) ** 0.5

    heights, errors = [], [length(sum(G[i][i] for i in range(n)))]
    for j in S:
        heights.append(length(G[j][j]))
        if heights[-1] > noise:
            pivot, row = G[j][j], G[j]
            G = [[(pivot * G[a][b] - G[a][j] * row[b]) // last for b in range(n)] for a in range(n)]
            last = pivot
        errors.append(length(sum(G[i][i] for i in range(n))))
    return np.array(heights), np.array(errors)


@given(
    calls(
        dtypes=("float64", "float32"),
        kinds=KINDS,
        plain=True,
        shape=st.tuples(st.integers(1, 4), st.integers(1, 5)),
    )
)
def test_errors_and_rank_are_those_of_exact_arithmetic(call):
    s = call.run()
    X, indices = weighted(call), listed(s)
    if not X.any():
        assert (s.rank, s.error, s.relative_error) == (0, 0, 0)
        return
    largest = np.linalg.norm(X, axis=0).max()
    m, n = X.shape
    floor = max(m, n) * precision(call) * largest
    noise = 2 * np.sqrt(min(m, n)) * EPS * largest
    heights, errors = exact_trace(X, indices, noise)
    clear = (heights > 64 * floor) | (heights < noise / 64)
    event("rank is certain" if clear.all() else "rank is a matter of rounding")
    if clear.all():
        assert s.rank == np.sum(heights > floor)
    if np.any((heights > noise / 64) & (heights < 64 * noise)):
        return
    relative = np.sqrt(host(s.errors) / host(s.errors)[0]) if 1e-250 < host(s.errors)[0] < 1e250 else None
    lengths = np.linalg.norm(X[:, indices], axis=0)
    kept = heights > noise
    for t in range(s.k + 1):
        C = X[:, indices[:t]][:, kept[:t]] / lengths[:t][kept[:t]]
        condition = 1 + (np.sum(1 / np.linalg.svd(C, compute_uv=False)) if C.shape[1] else 0)
        allowed = 64 * EPS * condition + 1e-12 * errors[t] / errors[0]
        if relative is not None:
            assert abs(relative[t] - errors[t] / errors[0]) <= allowed, t
    assert abs(s.relative_error - errors[-1] / errors[0]) <= allowed


@given(calls(names, dtypes=("float64", "float32", "float16", "complex128"), tol=False))
def test_never_better_than_the_best(call):
    call = call.but(target=None)
    s = call.run()
    X = weighted(call)
    total = np.linalg.norm(X)
    tail = np.linalg.norm(np.linalg.svd(X, compute_uv=False)[s.k :])
    rounding = max(1e-14, 16 * precision(call))  # weights are multiplied in the precision of the work
    assert s.relative_error * total >= tail * (1 - 1e-9) - rounding * total
    certificate = s.certificate()
    assert certificate.squared_error >= certificate.squared_optimum >= 0 or certificate.squared_error == 0
    assert certificate.ratio >= 1
    assert certificate.spectral_ratio >= 1
    assert certificate.a_posteriori >= 1
    law = METHODS[call.method].guarantee
    if certificate.factor is not None:
        assert law is not None
        if certificate.holds == "every run" and np.isfinite(certificate.factor):
            # In the norm, not its square: that is where rounding enters.
            noise = 30 * max(X.shape) * precision(call) * total
            scale = total / host(s.errors)[0] ** 0.5 if 1e-250 < host(s.errors)[0] < 1e250 else None
            if scale is not None:
                bound = np.sqrt(certificate.factor) * np.sqrt(certificate.squared_optimum)
                assert np.sqrt(certificate.squared_error) * scale <= bound * scale * (1 + 1e-9) + noise


# --- what the greedy methods promise --------------------------------------------------------------------


@given(matrices(), st.data())
def test_residual_takes_the_largest_residual_and_the_first_of_equals(A, data):
    k = data.draw(st.integers(1, A.shape[1]))
    s = Call(A, "residual", {"k": k}).run()
    A = weighted(Call(A, "residual"))
    largest = np.linalg.norm(A, axis=0).max()
    for t in range(s.rank):
        E = np.linalg.norm(oracles.residual_matrix(A, s.indices[:t]), axis=0)
        E[s.indices[:t]] = 0
        height = E[s.indices[t]]
        assert height >= E.max() * (1 - 1e-6) - 1e-12 * largest
        if height > 1e-6 * largest:  # a tie or not, beyond doubt
            assert not np.any(E[: s.indices[t]] >= height * (1 - 1e-16)) or t > 0
            assert not np.any(E[: s.indices[t]] >= height * (1 + 1e-9))


@given(matrices(), st.data())
def test_greedy_takes_the_largest_gain(A, data):
    k = data.draw(st.integers(1, A.shape[1]))
    s = Call(A, "greedy", {"k": k}).run()
    A = weighted(Call(A, "greedy"))
    total = np.linalg.norm(A) ** 2
    for t in range(s.rank):
        E = np.linalg.norm(oracles.residual_matrix(A, s.indices[:t]), axis=0)
        if not E[s.indices[t]] > 1e-3 * E.max():  # the direction of what is left is rounding's
            break
        gains = oracles.gains(A, list(s.indices[:t]))
        largest = np.linalg.norm(A, axis=0).max()
        clear = largest * 1e-13 < E  # what is rounding is not chosen, whatever its gain
        if not clear.any():
            break
        rounding = 1e-9 + 16 * EPS * largest / E[clear]  # of the direction of what is left of a column
        assert gains[s.indices[t]] >= (gains[clear] - rounding * total).max()


# --- wrong arguments ------------------------------------------------------------------------------------


@st.composite
def wrong_calls(draw):
    A = draw(matrices(dtypes=("float64", "float32", "int64")))
    m, n = A.shape
    arguments, words = draw(wrong(m, n))
    options = {"k": draw(st.integers(1, n)), "method": draw(names)}
    return A, options, arguments, words


@given(wrong_calls())
def test_a_wrong_argument_is_named(case):
    A, options, arguments, words = case
    row = METHODS[options["method"]]
    options = {**options, **arguments}
    if arguments.get("k", 1) is None:
        arguments = {"k": None}
    with pytest.raises(CsspError) as caught:
        select(A, **options)
    message = str(caught.value)
    expected = words or tuple(set(arguments) - {"method"})
    assert any(word in message for word in expected), message
    assert len(message) < 600
    unsupported = [
        name for name in arguments if name in {"tol", "include", "exclude"} and name not in row.supports
    ]
    if len(arguments) == 1 and not unsupported:
        (argument, value) = next(iter(arguments.items()))
        if argument in ("k", "tol") and type(value) in (int, float):  # what came
            assert str(value) in message or f"{value:g}" in message, message


@given(matrices(dtypes=("float64", "float32", "int64", "complex128")), names, st.data())
def test_a_wrong_matrix_is_named(A, method, data):
    wrong_one, words = data.draw(wrong_matrix(A))
    if A.dtype.kind == "c" and "complex" not in METHODS[method].supports:
        words = "A"
    with pytest.raises(CsspError) as caught:
        select(wrong_one, 1, method)
    assert words in str(caught.value)


def test_every_method_has_its_day():
    """The strategies know all methods and no others."""
    assert set(able("complex")) <= set(METHODS)
    assert {str(np.dtype(d)) for d in COMPLEX} == set(COMPLEX)
