"""Greedy gain against the definition: at every step no column lowers the Frobenius error more."""

import sys

import mpmath
import numpy as np
import oracles
import pytest

from cssp import linalg, select, select_gram
from cssp.methods.greedy import largest_gain
from cssp.pivoting import gains, norm_slack
from cssp.problem import Problem


def worst_step(A, S, B=None):
    """Smallest ratio of the gain taken to the best gain there was."""
    ratios = []
    for t in range(len(S)):
        gains = oracles.gains(A, list(S[:t]), B)
        ratios.append(gains[S[t]] / gains.max())
    return min(ratios)


CASES = {
    "wide": lambda rng: rng.standard_normal((12, 20)),
    "tall": lambda rng: rng.standard_normal((30, 12)),
    "complex": lambda rng: rng.standard_normal((10, 14)) + 1j * rng.standard_normal((10, 14)),
    "scaled columns": lambda rng: rng.standard_normal((12, 15)) * 10.0 ** rng.uniform(-3, 3, 15),
    "graded": lambda rng: oracles.graded(20, 16, 5, rng),
    "copies": lambda rng: np.repeat(rng.standard_normal((12, 9)), 2, axis=1),
    "zero columns": lambda rng: rng.standard_normal((12, 15)) * (np.arange(15) % 3 > 0),
}


@pytest.mark.parametrize("name", CASES)
def test_every_step_is_the_best(name):
    for seed in range(8):
        A = CASES[name](np.random.default_rng(seed))
        assert worst_step(A, select(A, 8, "greedy").indices) > 1 - 1e-7


def nuclear_score(K, S, j):
    """What the nuclear norm of K - K_S loses to j, by the definition: singular values of both residuals."""

    def left(T):
        return np.linalg.norm(K - K[:, T] @ np.linalg.pinv(K[np.ix_(T, T)], hermitian=True) @ K[T], "nuc")

    return left(S) - left([*S, j])


@pytest.mark.parametrize("kind", ["real", "complex"])
def test_its_picks_are_those_of_the_largest_nuclear_score(kind):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        A = rng.standard_normal((7, 9)) + (1j * rng.standard_normal((7, 9)) if kind == "complex" else 0)
        K, S = A.conj().T @ A, []
        while len(S) < 4:
            S.append(max((j for j in range(9) if j not in S), key=lambda j: nuclear_score(K, S, j)))
        assert select(A, 4, "greedy").indices.tolist() == S
        assert select_gram(K, 4, "greedy").indices.tolist() == S


@pytest.mark.parametrize("p", [1, 4, 30])
@pytest.mark.parametrize("kind", ["real", "complex"])
def test_every_step_is_the_best_for_a_target(p, kind):
    for seed in range(6):
        rng = np.random.default_rng(seed)
        A, B = rng.standard_normal((12, 15)), rng.standard_normal((12, p))
        if kind == "complex":
            A, B = A + 1j * rng.standard_normal(A.shape), B + 1j * rng.standard_normal(B.shape)
        s = select(A, 7, "greedy", target=B)
        assert worst_step(A, s.indices, B) > 1 - 1e-8
        assert s.errors[-1] == pytest.approx(oracles.squared_error(A, s.indices, B), rel=1e-9)


def test_the_steps_after_included_columns_are_the_best():
    A = np.random.default_rng(0).standard_normal((12, 15))
    S = select(A, 6, "greedy", include=[9, 3], exclude=[0, 1]).indices.tolist()
    for t in range(2, 6):
        gains = oracles.gains(A, S[:t])
        gains[[0, 1]] = -np.inf
        assert gains[S[t]] == pytest.approx(gains.max(), rel=1e-9)


@pytest.mark.parametrize(("dtype", "depth"), [(np.float64, 14), (np.float32, 7)])
def test_graded_to_rounding_in_sixty_digits(dtype, depth):
    """The recursion's scores are right where double precision cannot even check them."""
    A = oracles.graded(20, 14, depth, np.random.default_rng(1), dtype)
    s = select(A, 11, "greedy")
    with mpmath.workdps(60):
        E = [[mpmath.mpf(float(x)) for x in column] for column in A.T]
        for t, j in enumerate(s.indices):
            g = [mpmath.fdot(e, e) for e in E]
            gain = [
                mpmath.mpf(0)
                if i in s.indices[:t]
                else mpmath.fsum(mpmath.fdot(e, E[i]) ** 2 for e in E) / g[i]
                for i in range(14)
            ]
            assert gain[j] > max(gain) * (1 - mpmath.mpf(10) ** -3)
            length = mpmath.sqrt(g[j])
            q = [x / length for x in E[j]]
            E = [[x - mpmath.fdot(q, e) * y for x, y in zip(e, q, strict=True)] for e in E]
            left = float(mpmath.fsum(mpmath.fdot(e, e) for e in E))
            assert s.errors[t + 1] == pytest.approx(left, rel=1e-3)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_wide_graded_matrices(dtype):
    """More columns than twice the rows: residuals are formed anew where there is no Gram matrix of columns."""
    A = np.logspace(0, -9, 10)[:, None] * np.random.default_rng(0).standard_normal((10, 40)).astype(dtype)
    assert worst_step(A, list(select(A, 9, "greedy").indices)) > 1 - 1e-7


def test_the_decoy_that_separates_gain_from_residual():
    """N copies of two directions and one column between them: gain takes the decoy, pivoted QR does not."""
    N, e, d = 50, 0.1, 0.09
    A = np.array([[1, e, 0]] * N + [[1, -e, 0]] * N + [[1, 0, d]]).T
    best = oracles.squared_error(A, [0, N])
    assert select(A, 2, "greedy").errors[-1] / best > 50
    assert select(A, 2, "residual").errors[-1] == pytest.approx(best)


def test_ties_and_nothing_left_to_gain():
    assert select(np.eye(6), 5, "greedy").indices.tolist() == [0, 1, 2, 3, 4]
    A = np.random.default_rng(0).standard_normal((9, 8))
    s = select(A, 5, "greedy", target=A[:, [6]])
    assert s.indices.tolist() == [6, 0, 1, 2, 3]
    s = select(A, 4, "greedy", target=np.zeros((9, 2)))
    assert s.indices.tolist() == [0, 1, 2, 3]
    assert s.relative_error == 0
    assert select(A, method="greedy", target=A[:, [6]] + A[:, [2]], tol=1e-8).k <= 8


def test_tiny_columns_compete_by_direction():
    A = np.random.default_rng(0).standard_normal((9, 8))
    scaled = A * 10.0 ** np.arange(0, -8, -1)
    B = np.random.default_rng(1).standard_normal((9, 3))
    one, other = select(A, 5, "greedy", target=B), select(scaled, 5, "greedy", target=B)
    np.testing.assert_array_equal(one.indices, other.indices)


@pytest.mark.parametrize(("dtype", "rest"), [(np.float64, 1e-9), (np.float32, 3e-4)])
def test_nearly_dependent_columns_of_which_one_has_all_that_is_left(dtype, rest):
    """Columns 0 to 2 differ by little; one difference is the target's other direction, the others are not."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        A = rng.standard_normal((20, 16))
        A[:, 0] *= 10
        A[:, 1:3] = A[:, [0]] + rest * rng.standard_normal((20, 2))
        A = A.astype(dtype)
        d = (A[:, 1] - A[:, 0]).astype(np.float64)
        B = np.stack([A[:, 0], d / np.linalg.norm(d)], axis=1).astype(dtype)
        S = select(A, 2, "greedy", target=B).indices.tolist()
        assert S[0] in (0, 1, 2)
        gains = oracles.gains(A, S[:1], B)
        assert gains[S[1]] > 0.99 * gains.max()


@pytest.mark.parametrize("dtype", ["float64", "complex64"])
def test_gram_by_blocks(monkeypatch, dtype):
    """A product with its own transpose in pieces: threaded OpenBLAS crashes beyond some 15,000 columns."""
    A = np.random.default_rng(0).standard_normal((5, 23)).astype(dtype) * (1 + 0.5j if dtype[0] == "c" else 1)
    whole = linalg.gram(A)
    for width in (1, 7, 22, 23):
        monkeypatch.setattr(linalg, "WIDEST", width)
        np.testing.assert_allclose(linalg.gram(A), A.conj().T @ A, rtol=1e-5)
        np.testing.assert_allclose(linalg.gram(A), whole, rtol=1e-5)
        assert select(A, 4, "greedy").indices.tolist() == select(A.copy(), 4, "greedy").indices.tolist()
    asked = []
    monkeypatch.setattr(
        sys.modules["cssp.methods.greedy"], "gram", lambda X: asked.append(X.shape) or linalg.gram(X)
    )
    select(A, 3, "greedy")
    select(A.T.copy(), 3, "greedy")
    assert asked == [(23, 5), (23, 5)], "no product of an array with itself goes another way"


def tokens(seed, m=300, n=240, noise=0.05):
    """A large common mean over a decaying spectrum and noise: all but a few digits of f go in the first picks."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((m, 40)) * np.arange(1, 41) ** -1.0 @ rng.standard_normal((40, n))
    return (A + noise * rng.standard_normal((m, n)) + 4 * rng.standard_normal((m, 1))).astype(np.float32)


def test_runs_on_the_gram_matrix_in_single_precision():
    """Where rounding of the Gram matrix hides which gain is larger, residuals of the columns in doubt decide.

    A norm that downdating has left half of its digits is known to 8·√eps of its size, and so are both sides of a tie.
    """
    left = []
    for seed in range(6):
        A = tokens(seed)
        E, worst = A.astype(float), 1.0
        for j in select(A, 90, "greedy").indices.tolist():
            norms2 = np.sum(E**2, axis=0)
            gains = np.sum((E.T @ E) ** 2, axis=0) / np.where(norms2 > 1e-12 * norms2.max(), norms2, np.inf)
            worst = min(worst, gains[j] / gains.max())
            q = E[:, [j]] / np.linalg.norm(E[:, j])
            E = E - q @ (q.T @ E)
        left.append(1 - worst)
    assert max(left) < 16 * np.finfo(np.float32).eps ** 0.5
    assert np.median(left) < 1e-4


def test_columns_replaced_by_their_residuals_have_no_part_of_the_picks_before():
    """Four columns lose all of their digits to the first pick, are formed anew, and are picked one after the other for a target."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        u, *V = np.linalg.qr(rng.standard_normal((40, 6)))[0].T
        A = 0.3 * rng.standard_normal((40, 30))
        A[:, 0] = 1e9 * u
        for i in range(4):
            A[:, 1 + i] = 1e9 * u + V[i] + 0.5 * V[4]
        parts = [
            1e3 * u,
            5 * V[0] + 3 * V[1] + 2 * V[4],
            4 * V[1] + V[2] + V[4],
            3 * V[2] - 2 * V[3],
            6 * V[4],
        ]
        B = np.stack(parts, axis=1) @ rng.standard_normal((5, 6))
        expected: list[int] = []
        for _ in range(6):
            bases = [
                np.linalg.qr(A[:, [*expected, j]] / np.linalg.norm(A[:, [*expected, j]], axis=0))[0]
                for j in range(30)
            ]
            left = [np.linalg.norm(B - Q @ (Q.T @ B)) for Q in bases]
            expected.append(int(np.argmin(np.where(np.isin(np.arange(30), expected), np.inf, left))))
        assert select(A, 6, "greedy", target=B).indices.tolist() == expected


def exact(A, S):
    """Squared norms of the columns of the residual Gram matrix, and its diagonal, in double precision."""
    E = linalg.project_off(A.astype(float), np.linalg.qr(A[:, S].astype(float))[0])
    return np.sum((E.T @ E) ** 2, axis=0), np.sum(E**2, axis=0)


def watched(monkeypatch):
    """Lists, filled while greedy runs: the picks so far and what is known when a run begins; whether residuals of few or of all columns are formed."""
    module, runs, repairs, picks = sys.modules["cssp.methods.greedy"], [], [], []

    def run(p, G, known, *rest):
        runs.append((list(picks), known))
        found = gains.certain_run(p, G, known, *rest)
        picks.extend(found.picks)
        return found

    monkeypatch.setattr(module, "certain_run", run)
    settle, deflate = module._State._settle, module._State._deflate
    monkeypatch.setattr(module._State, "_settle", lambda *a: repairs.append("few") or settle(*a))
    monkeypatch.setattr(module._State, "_deflate", lambda *a: repairs.append("all") or deflate(*a))
    return runs, repairs


@pytest.mark.parametrize("off", [0, 1e-5])
def test_errors_of_gains_on_the_gram_matrix_are_as_large_as_they_are_said_to_be(monkeypatch, off):
    """No column is farther off than eight times its estimate, and half of them not a hundred times closer.

    That is so, too, where the coefficients of residuals are a little off.
    """
    module, seen = sys.modules["cssp.methods.greedy"], []
    whole = module._State._combined
    monkeypatch.setattr(module._State, "_combined", lambda self, S, Y: (1 + off) * whole(self, S, Y))
    monkeypatch.setattr(module, "SETTLED", 1)
    for seed in range(2):
        with monkeypatch.context() as patch:
            runs, _ = watched(patch)
            A = tokens(seed, 600, 400, 0.2)
            select(A, 100, "greedy")
        for S, known in runs:
            f, _ = exact(A, S)
            share = (np.abs(known.f - f) / norm_slack(known.f0, float(np.finfo(np.float32).eps)))[known.open]
            assert share.max() < 8
            seen.append(np.median(share))
    assert np.median(seen) > 0.01


def test_a_few_residuals_decide_what_the_gram_matrix_does_not(monkeypatch):
    """One Gram matrix is enough for a large common mean, and the picks are the best to a thousandth."""
    A = tokens(1, 600, 400, 0.5)
    monkeypatch.setattr(sys.modules["cssp.methods.greedy"], "SETTLED", 1)
    _, repairs = watched(monkeypatch)
    S = select(A, 80, "greedy").indices.tolist()
    assert set(repairs) == {"few"}
    for t in range(len(S)):
        f, g = exact(A, S[:t])
        gain = f / np.where(g > 1e-9 * g.max(), g, np.inf)
        assert gain[S[t]] > (1 - 1e-3) * gain.max()


def test_residuals_of_all_columns_are_formed_as_soon_as_many_doubts_are_to_come(monkeypatch):
    """After three doubts their number foretells those to come, which are few where few picks are."""
    A = tokens(0, 600, 400, 0.5)
    monkeypatch.setattr(sys.modules["cssp.methods.greedy"], "SETTLED", 64)
    found = {}
    for k in (84, 250):
        with monkeypatch.context() as patch:
            _, repairs = watched(patch)
            found[k] = select(A, k, "greedy").indices.tolist(), repairs
    assert found[84] == (found[250][0][:84], ["few"] * 3)
    assert found[250][1] == ["few", "few", "all"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64])
def test_picks_are_independent_where_the_gram_matrix_shows_it(dtype):
    """What it says without the columns is right, and something wherever they are far from dependence."""
    said = []
    for decades in (0, 0.5, 1, 1.5, 2, 3, 4, 6, 8):
        for seed in range(5):
            rng = np.random.default_rng(seed)
            left, right = (
                np.linalg.qr(rng.standard_normal((200, 40)))[0],
                np.linalg.qr(rng.standard_normal((40, 40)))[0],
            )
            A = (left * np.logspace(0, -decades, 40) @ right.T).astype(dtype)
            A *= np.exp(1j * np.arange(40)).astype(dtype) if np.dtype(dtype).kind == "c" else 1
            coarse = 1e-4 if seed == 4 else 0.0  # of data in half precision
            p = Problem(A=A, k=40, candidates=np.ones(40, dtype=bool), width=40, data_eps=coarse)
            picks = largest_gain(p)
            least = np.linalg.svd(A[:, list(picks.indices)].astype(np.complex128), compute_uv=False)[-1]
            assert picks.rank is None or (picks.rank == len(picks.indices) and least > p.beyond_doubt)
            said.append(picks.rank is not None)
    assert all(said[:4])
    assert not any(said[-5:])


def test_residuals_that_are_not_orthogonal_enough_are_noticed(monkeypatch):
    """Coefficients that are off by a thousandth do not change the picks: residuals of all columns are formed instead."""
    A = tokens(1, 600, 400, 0.5)
    module = sys.modules["cssp.methods.greedy"]
    whole = module._State._combined
    monkeypatch.setattr(module, "SETTLED", 1)
    _, repairs = watched(monkeypatch)
    S = select(A, 80, "greedy").indices.tolist()
    monkeypatch.setattr(module._State, "_combined", lambda self, S, Y: 1.001 * whole(self, S, Y))
    assert "all" not in repairs
    assert select(A, 80, "greedy").indices.tolist() == S
    assert "all" in repairs


def test_runs_make_the_picks_of_single_steps(monkeypatch):
    """Whatever the run: wide or tall, real or complex, with a tolerance, excluded and equal columns."""
    module = sys.modules["cssp.methods.greedy"]
    for seed in range(4):
        rng = np.random.default_rng(seed)
        for A in (
            rng.standard_normal((60, 90)),
            rng.standard_normal((90, 60)) + 1j * rng.standard_normal((90, 60)),
            np.repeat(rng.standard_normal((70, 40)), 2, axis=1),
            oracles.graded(60, 50, 6, rng),
        ):
            asks = ({"k": 38}, {"k": 36, "exclude": [3, 7]}, {"tol": 0.3}, {"k": 30, "include": [5, 2]})
            runs = [select(A, method="greedy", **ask).indices.tolist() for ask in asks]
            with monkeypatch.context() as patch:
                patch.setattr(module._State, "run", lambda self, open_, most: [])
                steps = [select(A, method="greedy", **ask).indices.tolist() for ask in asks]
            assert runs == steps


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("theta", [0.7, 0.9, 1.1, 1.2, 1.3])
def test_runs_end_where_errors_have_grown(theta, dtype, monkeypatch):
    """Kahan's matrix multiplies errors of its Gram matrix at every pick: without their estimate runs make other picks than single steps."""
    module, c = sys.modules["cssp.methods.greedy"], np.cos(theta)
    for m, n in ((20, 20), (35, 53), (60, 60), (60, 90)):
        A = np.sin(theta) ** np.arange(m)[:, None] * (np.eye(m, n) - c * np.triu(np.ones((m, n)), 1))
        k = m - 5
        run = select(A.astype(dtype), k, "greedy").indices.tolist()
        with monkeypatch.context() as patch:
            patch.setattr(module._State, "run", lambda self, open_, most: [])
            assert run == select(A.astype(dtype), k, "greedy").indices.tolist()


def test_a_column_that_is_nearly_nothing_leads_no_pick_astray():
    """Column 0 lies between rounding and the threshold of dependence, in the direction of the largest gain: the picks are those without it."""
    A = np.zeros((60, 60))
    A[0, 0] = 5e-14
    for i in range(1, 11):
        A[0, 2 * i] = A[0, 2 * i + 1] = A[i, 2 * i] = 5
        A[i, 2 * i + 1] = -5
    found = select(A, 4, "greedy").indices.tolist()
    assert found == select(A, 4, "greedy", exclude=[0]).indices.tolist() == [2, 3, 4, 6]
