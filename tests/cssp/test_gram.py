"""Picks from the Gram matrix against picks from the columns: the same where they are given, and none where in doubt."""

import tracemalloc

import numpy as np
import oracles
import pytest
from optional import torch
from test_speculation import KINDS, check_family, problem, tokens

from cssp import select
from cssp.linalg import column_norms2, project_off
from cssp.matrices import MATRICES
from cssp.methods.residual import textbook
from cssp.pivoting import gram as _gram
from cssp.pivoting import memory
from cssp.pivoting.gram import DenseColumns, gram_picks


@pytest.fixture
def forced(monkeypatch):
    """The default way for matrices of every size."""
    monkeypatch.setattr(memory, "GRAM_FROM", 0)
    monkeypatch.setattr(memory, "GRAM", 1 << 20)
    monkeypatch.setattr(memory, "GRAM_IN_CACHE", 1 << 20)
    monkeypatch.setattr(memory, "GRAM_SQUARE", 1 << 40)


def gram(p, A):
    """The run on a matrix in memory."""
    return gram_picks(p, DenseColumns(A))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
@pytest.mark.parametrize("kind", KINDS)
def test_the_picks_are_those_of_the_textbook(kind, dtype):
    rng = np.random.default_rng(KINDS.index(kind))
    for m, n, k in ((300, 200, 60), (500, 300, 120)):
        A = tokens(rng, m, n, kind)
        if np.dtype(dtype).kind == "c":
            A = A + 1j * tokens(rng, m, n, kind)
        A = A.astype(dtype)
        found = gram(problem(A, k), A)
        picks = list(found.picks.indices)
        assert len(picks) == found.picks.rank == len(found.heights) >= k // 2
        expected = list(textbook(problem(A, k)).indices)[: len(picks)]
        if np.dtype(dtype).type in (np.float64, np.complex128):
            assert picks == expected
            assert len(picks) == k
        else:  # near-ties late in the run
            assert picks[: k // 2] == expected[: k // 2]
            ours, theirs = oracles.squared_error(A, picks), oracles.squared_error(A, expected)
            assert ours <= theirs * (1 + 1e-2)


@pytest.mark.filterwarnings("ignore::cssp.RankDeficientWarning")
@pytest.mark.parametrize("name", MATRICES)
def test_on_every_family(name, forced):
    check_family(name)


def test_it_stops_where_the_gram_matrix_says_nothing(forced):
    """Graded to 1e-14: √ε of the Gram matrix is reached half way, and the columns decide from there on."""
    for seed in range(20):
        A = oracles.graded(50, 30, 14, np.random.default_rng(seed))
        picks = list(gram(problem(A, 25), A).picks.indices)
        expected = oracles.greedy_residual(A.astype(np.longdouble), 25)
        assert 3 <= len(picks) < 20
        assert picks == expected[: len(picks)]
        assert select(A, 25).indices.tolist() == expected


def test_growth_of_errors_is_seen():
    """Kahan's matrix multiplies errors like 4^k while pivots hardly fall: without the estimate of that, wrong picks."""
    A = oracles.kahan(60, nudge=1e-13)
    picks = list(gram(problem(A, 59), A).picks.indices)
    assert picks == list(range(len(picks)))


@pytest.mark.parametrize("kind", ["decay", "mean", "spread"])
def test_errors_are_as_large_as_they_are_taken_for(kind):
    """Estimates of them hold for every column that may be picked, and are never a hundred times too large."""
    A = tokens(np.random.default_rng(6), 500, 300, kind).astype(np.float32)
    wide = A.astype(np.float64)
    s = _gram._Steps(problem(A, 200), DenseColumns(A), column_norms2(A))
    looked = 0
    while len(s.S) < 200 and s.advance():
        Q, _ = np.linalg.qr(wide[:, s.S])
        right = column_norms2(wide - Q @ (Q.T @ wide))
        right[s.S] = 0
        near = right > 0.7 * right.max()
        off = np.abs(s.N - right)[near] / s.E[near]
        assert 0.01 < off.max() < 1
        looked += 1
    assert looked >= 2


def test_ties(forced):
    Q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((60, 40)))
    assert select(Q, 39).indices.tolist() == list(range(39))
    for seed in range(20):
        X = np.random.default_rng(seed).standard_normal((60, 15)) * 0.7 ** np.arange(15)
        for dtype in (np.float64, np.float32):
            twice = np.hstack([X, X, X]).astype(dtype)
            once = select(X.astype(dtype), 14).indices
            np.testing.assert_array_equal(select(twice, 14).indices, once)


@pytest.mark.parametrize("length", [64, 3])
def test_columns_in_doubt_are_told_apart_by_residuals(length, monkeypatch):
    """Pairs of columns whose norms differ by more than a tie and less than the Gram matrix can tell, in one run and in several."""
    asked = []
    monkeypatch.setattr(_gram, "LENGTH", length)
    times = DenseColumns.times
    monkeypatch.setattr(DenseColumns, "times", lambda A, W: asked.append(W.shape[1]) or times(A, W))
    rng = np.random.default_rng(1)
    for _ in range(20):
        X = (2 * rng.standard_normal((400, 1)) + rng.standard_normal((400, 30))).astype(np.float32)
        A = np.hstack([X, X * np.float32(1 + 1e-5)])[:, rng.permutation(60)]
        picks = list(gram(problem(A, 12), A).picks.indices)
        assert len(picks) == 12
        assert picks == oracles.greedy_residual(A.astype(float), 12)
    assert 2 <= np.median(asked) <= 2 * 12


def test_tolerance_weights_and_exclusion(forced):
    rng = np.random.default_rng(2)
    A = tokens(rng, 200, 90, "decay")
    w = rng.random(90) + 0.5
    for arguments in ({"weights": w, "exclude": range(20, 40)}, {"tol": 0.3}, {"tol": 0.3, "weights": w}):
        arguments = {k: list(v) if isinstance(v, range) else v for k, v in arguments.items()}
        fast, slow = select(A, 40, **arguments), select(A, 40, speculate=False, **arguments)
        np.testing.assert_array_equal(fast.indices, slow.indices)
        assert fast.rank == slow.rank


def test_it_is_the_default_where_it_is_cheapest(monkeypatch):
    calls = []
    monkeypatch.setattr(memory, "gram_picks", lambda p, A, N: calls.append(A.A.shape) or gram_picks(p, A, N))
    rng = np.random.default_rng(3)
    A = rng.standard_normal((4096, 300)).astype(np.float32)
    np.testing.assert_array_equal(select(A, 60).indices, select(A, 60, speculate=False).indices)
    assert calls == [(4096, 300)]
    select(A, 20)  # too few picks
    select(A[:, :200], 60)  # small
    select(A, 60, speculate=True)
    assert len(calls) == 1


@pytest.mark.filterwarnings("ignore::cssp.RankDeficientWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_it_begins_after_included_columns(kind, forced, monkeypatch):
    """After columns that depend on each other, too: the picks are those of the textbook."""
    calls = []
    monkeypatch.setattr(memory, "gram_picks", lambda p, A, N: calls.append(p.k) or gram_picks(p, A, N))
    monkeypatch.setattr(memory, "INCLUDED", 0)
    for seed in range(3):
        A = tokens(np.random.default_rng([KINDS.index(kind), seed]), 300, 200, kind)
        A[:, 9] = A[:, 5] + A[:, 7]
        for arguments in ({"include": [5, 7, 9, 30]}, {"tol": 0.2, "include": [4], "exclude": [0, 1]}):
            expected, found = select(A, 80, speculate=False, **arguments), select(A, 80, **arguments)
            assert calls.pop(0) == 80 - len(arguments["include"])
            calls.clear()
            assert found.indices.tolist() == expected.indices.tolist()
            assert found.rank == expected.rank


def over_a_floor(seed, dtype, floor, m=400, n=300, r=60):
    """Columns of r strong directions over noise so weak that it is reached when half of the digits are lost."""
    rng = np.random.default_rng(seed)
    strong = rng.standard_normal((m, r)) * 0.9 ** np.arange(r) @ rng.standard_normal((r, n))
    return (strong + floor * rng.standard_normal((m, n))).astype(dtype)


@pytest.mark.parametrize(("dtype", "floor"), [(np.float64, 1e-5), (np.complex128, 1e-5), (np.float32, 2e-2)])
def test_the_gram_matrix_of_the_residuals_goes_on_where_the_first_one_ends(dtype, floor, monkeypatch):
    calls = []
    monkeypatch.setattr(memory, "gram_picks", lambda p, A, N: calls.append(gram_picks(p, A, N)) or calls[-1])
    for seed in range(4):
        A = over_a_floor(seed, dtype, floor)
        calls.clear()
        picks = list(memory.speculative(problem(A, 150)).indices)
        assert len(calls) >= 2
        assert len(calls[-1].heights) >= 40
        assert len(set(picks)) == 150
        expected = list(textbook(problem(A, 150)).indices)
        if np.dtype(dtype).itemsize > 4:
            assert picks == expected
        else:  # near-ties of the noise
            assert picks[:50] == expected[:50]
            ours, theirs = oracles.squared_error(A, picks), oracles.squared_error(A, expected)
            assert ours <= theirs * (1 + 1e-2)


@pytest.mark.parametrize("seed", range(3))
def test_picks_from_residuals_of_residuals_are_those_of_the_rule(seed):
    """What residuals have of the picks before would decide about the last ones, fourteen digits below the first."""
    rng = np.random.default_rng(seed)
    U, V = np.linalg.qr(rng.standard_normal((200, 200)))[0], np.linalg.qr(rng.standard_normal((300, 200)))[0]
    A = (U * 10 ** (-14 * np.linspace(0, 1, 200))) @ V.T
    E = A.copy()
    for j in select(A, 180).indices:
        norms2 = column_norms2(E)
        assert norms2[j] > 0.9 * norms2.max()
        E = project_off(E, E[:, [j]] / np.sqrt(norms2[j]))


def test_picks_outside_the_block_are_seen(monkeypatch):
    """Of many columns a run looks at those of largest norm: here every pick but the first is among the others."""
    monkeypatch.setattr(_gram, "CACHED", 0)
    monkeypatch.setattr(_gram, "MANY", 20)
    rng = np.random.default_rng(4)
    for _ in range(5):
        copies = 5 * rng.standard_normal((80, 1)) + 1e-3 * rng.standard_normal((80, 40))
        A = np.hstack([copies, rng.standard_normal((80, 60))])[:, rng.permutation(100)]
        found = gram(problem(A, 30), A)
        assert list(found.picks.indices) == oracles.greedy_residual(A, 30)


def test_residuals_that_decide_are_those_after_the_picks_so_far(monkeypatch):
    """Columns with a common part of six directions: only what is left of them tells pairs of nearly equal ones apart."""
    monkeypatch.setattr(_gram, "LENGTH", 3)
    decided, decide = [], _gram._Steps.decide
    monkeypatch.setattr(_gram._Steps, "decide", lambda s, *run: decided.append(len(s.S)) or decide(s, *run))
    rng = np.random.default_rng(5)
    for _ in range(10):
        Q, _ = np.linalg.qr(rng.standard_normal((400, 36)))
        height = np.repeat(0.95 ** np.arange(15), 2) * (1 + 9e-5 * np.tile([0, 1], 15))
        A = np.hstack(
            [
                np.arange(25, 19, -1) * Q[:, :6],
                Q[:, :6] @ rng.standard_normal((6, 30)) * 2 + Q[:, 6:] * height,
            ]
        )
        A = A.astype(np.float32)[:, rng.permutation(36)]
        assert list(gram(problem(A, 20), A).picks.indices) == oracles.greedy_residual(A.astype(float), 20)
    assert max(decided) > 3


def batch(items, m=280, n=260):
    """A batch of float32 matrices, one of all kinds after the other, and one that is zero."""
    rng = np.random.default_rng(8)
    made = [tokens(rng, m, n, KINDS[i % len(KINDS)]) for i in range(items - 1)]
    return np.stack([*made, np.zeros((m, n))]).astype(np.float32)


ORDERS = {
    "columns": lambda A: A,
    "tokens as rows": lambda A: np.ascontiguousarray(A.swapaxes(-1, -2)).swapaxes(-1, -2),
    "items last": lambda A: np.moveaxis(np.ascontiguousarray(np.moveaxis(A, 0, -1)), -1, 0),
}


@pytest.mark.filterwarnings("ignore::cssp.RankDeficientWarning")
@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("order", ORDERS)
def test_an_item_of_a_batch_is_the_item_alone(order, kind):
    A = ORDERS[order](batch(7))
    X = torch.from_numpy(A) if kind == "torch" else A
    together = select(X, 50)
    for i in range(len(A)):
        alone = select(X[i], 50)
        assert together.indices[i].tolist() == alone.indices.tolist()
        assert int(together.rank[i]) == alone.rank
        assert np.asarray(together.errors[i]).tobytes() == np.asarray(alone.errors).tobytes()
        assert alone.indices.tolist() == select(A[i], 50).indices.tolist(), "NumPy and torch differ"


@pytest.mark.parametrize("order", ["columns", "tokens as rows"])
def test_a_batch_takes_no_more_memory_than_one_item(order):
    A = ORDERS[order](batch(9)[:8])

    def peak(X):
        select(X, 50)  # what is imported or cached by the first call
        tracemalloc.start()
        select(X, 50)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(A) < peak(A[0]) + A[0].nbytes


def test_errors_within_a_run_hold_what_they_have_of_the_picks_before():
    A = tokens(np.random.default_rng(9), 300, 90, "decay").astype(np.float32)
    s = _gram._Steps(problem(A, 20), DenseColumns(A), problem(A, 20).norms2)
    run = s.guess()
    losses, scores = s.R[:20] ** 2, s.N.astype(float)
    heights, expected, errors = np.zeros(20, dtype=np.float32), np.zeros(20), s.E.astype(float)
    for i, j in enumerate(run):
        heights[i], expected[i] = scores[j], errors[j]
        scores -= losses[i]
        errors += errors[j] * losses[i] / heights[i]
    np.testing.assert_allclose(s.own_errors(run, losses, heights), expected, rtol=1e-4)
    np.testing.assert_allclose(s.table(run).errors[-1], errors, rtol=1e-4)
    assert expected[-1] > 1.1 * s.E[run[-1]]
