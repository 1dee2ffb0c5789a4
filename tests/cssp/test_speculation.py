"""Speculative pivoting against picks made one by one: the same columns in fewer passes, whatever the matrix."""

import numpy as np
import oracles
import pytest
from optional import torch

from cssp import matrices, select
from cssp.matrices import MATRICES
from cssp.methods.residual import textbook
from cssp.pivoting import bases, memory
from cssp.pivoting.memory import speculative
from cssp.pivoting.run import Run
from cssp.problem import Problem


@pytest.fixture(autouse=True)
def _small_matrices_too(monkeypatch):
    monkeypatch.setattr(memory, "CACHE", 0)
    monkeypatch.setattr(memory, "GRAM_FROM", 1 << 30)


def problem(A, k, **fields):
    n = A.shape[1]
    return Problem(A=A, k=k, candidates=np.ones(n, dtype=bool), width=n, **fields)


def passes(monkeypatch, A, k):
    """Sizes of the guesses verified, and how many of each were right."""
    log, verify = [], Run.verify

    def spy(self, guess, V):
        taken = verify(self, guess, V)
        log.append((guess.size, taken))
        return taken

    with monkeypatch.context() as patch:
        patch.setattr(Run, "verify", spy)
        picks = speculative(problem(A, k))
    return log, list(picks.indices)


def tokens(rng, m, n, kind):
    A = rng.standard_normal((m, n))
    if kind == "decay":
        A = rng.standard_normal((m, 60)) * np.arange(1, 61) ** -0.7 @ rng.standard_normal((60, n)) + 0.1 * A
    if kind == "mean":
        A += 3 * rng.standard_normal((m, 1))
    if kind == "clusters":
        A = rng.standard_normal((m, 20))[:, rng.integers(0, 20, n)] + 0.1 * A
    return A * rng.lognormal(0, 0.3, n) if kind == "spread" else A


KINDS = ("noise", "decay", "mean", "clusters", "spread")


@pytest.mark.parametrize("layout", [np.ascontiguousarray, np.asfortranarray])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
@pytest.mark.parametrize("kind", KINDS)
def test_the_picks_are_those_of_the_textbook(kind, dtype, layout):
    rng = np.random.default_rng(KINDS.index(kind))
    for m, n, k in ((80, 300, 60), (300, 200, 150), (40, 500, 39)):
        A = tokens(rng, m, n, kind)
        if np.dtype(dtype).kind == "c":
            A = A + 1j * tokens(rng, m, n, kind)
        A = layout(A.astype(dtype))
        fast, slow = speculative(problem(A, k)), textbook(problem(A, k))
        same = np.asarray(fast.indices) == np.asarray(slow.indices)
        if np.dtype(dtype).itemsize // (2 if np.dtype(dtype).kind == "c" else 1) == 8:
            assert same.all()
        else:  # single precision: near-ties late in the run
            assert same[: k // 2].all()
            ours, theirs = (oracles.squared_error(A, list(p.indices)) for p in (fast, slow))
            assert ours <= theirs * (1 + 1e-2)
        assert fast.rank == slow.rank == k
        assert list(speculative(problem(A, k), guesses=False).indices[: k // 2]) == list(
            slow.indices[: k // 2]
        )


def check_family(name):
    """Up to the numerical rank the picks of the textbook; where rounding decides, errors as small."""
    family = MATRICES[name]
    for m, n, k in ((30, 40, 12), (60, 50, 30), (50, 200, 40)):
        if not family.fits(m, n, k):
            continue
        A = family(m, n, k, rng=1)
        fast, slow = select(A, k).indices, select(A, k, speculate=False).indices
        noise = 1e-24 * np.linalg.norm(A) ** 2  # of residuals that are nothing but rounding
        if not np.array_equal(fast, slow):
            ours, theirs = oracles.squared_error(A, fast), oracles.squared_error(A, slow)
            assert ours <= theirs * (1 + 1e-3) + noise
            assert theirs <= ours * (1 + 1e-3) + noise


@pytest.mark.filterwarnings("ignore::cssp.RankDeficientWarning")
@pytest.mark.parametrize("name", MATRICES)
def test_on_every_family(name):
    check_family(name)


@pytest.mark.parametrize("n", [20, 150, 400])
def test_ties_go_to_the_lowest_index(n):
    """Each guess has hundreds of equals."""
    k = n - 1
    assert select(np.eye(n), k).indices.tolist() == list(range(k))
    Q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((n, n)))
    assert select(Q, k).indices.tolist() == list(range(k))
    assert select(np.hstack([Q[:, :9], Q[:, :9], Q[:, 9:]]), 12).indices.tolist() == [*range(9), 18, 19, 20]
    simplex = np.eye(n) - 1 / n
    assert select(simplex, k).indices.tolist() == list(range(k))
    assert select(oracles.kahan(60), 59).indices.tolist() == list(range(59))


def test_few_passes(monkeypatch):
    """Of a matrix whose products cost far more than blocks."""
    monkeypatch.setattr(memory, "BLOCK_COST", 0)
    rng = np.random.default_rng(0)
    for kind in KINDS:
        A = tokens(rng, 400, 900, kind)
        log, picks = passes(monkeypatch, A, 120)
        assert picks == list(textbook(problem(A, 120)).indices)
        walked = 120 - sum(taken for _, taken in log)
        assert len(log) + walked <= 40, (kind, log)
    log, _ = passes(monkeypatch, tokens(rng, 400, 900, "noise"), 120)
    assert len(log) <= 8


def test_hopeless_guesses_are_given_up(monkeypatch):
    """Blocks are always wrong here: what outshines the others is always a copy of the last pick."""
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((200, 150)) * 0.97 ** np.arange(150)
    A = np.repeat(centres, 140, axis=1)[:, : 150 * 140] + 1e-6 * rng.standard_normal((200, 150 * 140))
    log, picks = passes(monkeypatch, A, 100)
    assert picks == list(textbook(problem(A, 100)).indices)
    assert 0 < len(log) <= 12  # pauses double: about log2(k) guesses, the rest is walked


def test_small_matrices_need_no_guess(monkeypatch):
    A = tokens(np.random.default_rng(0), 60, 90, "noise")
    guessed, _ = passes(monkeypatch, A, 30)
    assert any(size > 1 for size, _ in guessed)
    monkeypatch.setattr(memory, "CACHE", A.nbytes)
    walked, picks = passes(monkeypatch, A, 30)
    assert walked == []
    assert picks == list(textbook(problem(A, 30)).indices)


def test_guesses_use_the_norms_of_the_verification(monkeypatch):
    """Behind a common mean, norms downdated in single precision are off by more than what tells columns apart.

    A guess from residuals' own norms, better as they are, is then wrong half of the time: 24 passes instead of 17.
    """
    verified = 0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        A = (8 * rng.standard_normal((512, 1)) + 0.25 * rng.standard_normal((512, 900))).astype(np.float32)
        log, picks = passes(monkeypatch, A, 150)
        verified += len(log)
        assert picks == textbook(problem(A, 150)).indices
    assert verified <= 19


def test_a_wrong_guess_is_not_taken(monkeypatch):
    """Whatever is guessed, the rule decides."""
    rng = np.random.default_rng(2)
    A = tokens(rng, 60, 300, "decay")
    expected = oracles.greedy_residual(A, 40)
    honest = Run.pivot

    def scrambled(self, G, C, length):
        order, _ = honest(self, G, C, length)
        swapped = np.concatenate([order[:3], order[3:][::-1]])
        return swapped, np.linalg.cholesky(G[np.ix_(swapped, swapped)]).conj().T @ _seat(swapped, C.size)

    def _seat(order, size):
        P = np.zeros((order.size, size))
        P[np.arange(order.size), order] = 1
        return P

    monkeypatch.setattr(Run, "pivot", scrambled)
    assert list(speculative(problem(A, 40)).indices) == expected


def test_norms_that_go_stale_within_a_guess_are_formed_anew():
    """Behind a common mean of 1e4 the order of choice is that of the heights h, twins of which differ by 1e-8 of themselves.

    Downdated norms know 2e-7 of themselves and lose half of their digits while a guess is verified: the guess, which takes
    the lowest index among such equals, is then wrong about twins.
    """
    n = 300
    h2 = np.linspace(1.2, 0.4, n)
    h2[10:40:5] = h2[11:41:5] * (1 - 1e-8)  # the later one of each pair is higher
    order = np.argsort(-h2)
    A = np.concatenate([np.full((1, n), 1e4), np.diag(np.sqrt(h2))])
    assert list(speculative(problem(A, 60), guesses=True).indices) == order[:60].tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_include_exclude_tolerance_and_padding(dtype):
    rng = np.random.default_rng(3)
    A = tokens(rng, 90, 400, "decay").astype(dtype)
    w = rng.random(400) + 0.5
    free = {"weights": w, "include": [7, 300, 5], "exclude": list(range(40, 80))}
    for arguments in (free, {"valid": rng.random(400) < 0.6}, {**free, "tol": 0.2}, {"tol": 0.05}):
        fast = select(A, 60, **arguments)
        slow = select(A, 60, speculate=False, **arguments)
        np.testing.assert_array_equal(fast.indices, slow.indices)
        np.testing.assert_array_equal(select(torch.as_tensor(A), 60, **arguments).indices, fast.indices)
    naive = oracles.greedy_residual(A.astype(np.float64) * w, 20)
    assert select(A, 20, weights=w).indices.tolist() == naive


def test_dependent_directions_end_a_guess():
    """Rank 50 in 300 columns: the fifty-first guess is rounding."""
    rng = np.random.default_rng(4)
    for dtype, gap in ((np.float64, 0.0), (np.float64, 1e-9), (np.float32, 0.0)):
        A = rng.standard_normal((120, 50)) @ rng.standard_normal((50, 300)) + gap * rng.standard_normal(
            (120, 300)
        )
        s = select(A.astype(dtype), tol=1e-6 if gap else None, k=50)
        assert s.rank == 50
        assert s.indices.tolist()[:45] == oracles.greedy_residual(A.astype(dtype).astype(float), 50)[:45]


def test_cancelling_combinations_go_through_householder(monkeypatch):
    """Kahan's matrix: pivots fall slowly, yet R⁻¹ grows like 2^k."""
    calls, qr = [], np.linalg.qr
    monkeypatch.setattr(bases.np.linalg, "qr", lambda X: calls.append(X.shape) or qr(X))
    A = oracles.kahan(60)
    assert speculative(problem(A, 59)).indices == list(range(59))
    assert calls
    assert (
        speculative(problem(matrices.kahan(40), 20)).indices
        == textbook(problem(matrices.kahan(40), 20)).indices
    )


def test_matrices_no_product_reads_in_place():
    A = np.random.default_rng(5).standard_normal((120, 600))
    for X in (A[::2, ::2], A[::-1], A[:, ::-3], A[:, 100:400]):
        np.testing.assert_array_equal(select(X, 30).indices, select(np.ascontiguousarray(X), 30).indices)
