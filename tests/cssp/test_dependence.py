"""One notion of dependence: picks, rank, errors, coefficients, included columns and refusals go by the same threshold."""

import warnings
from contextlib import nullcontext

import array_api_strict
import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp
from optional import torch

from analysis import dependence
from cssp import METHODS, RankDeficientError, RankDeficientWarning, linalg, select
from cssp.errors import CsspError
from cssp.passes.source import SparseSource
from cssp.pivoting import gram, memory
from cssp.pivoting.run import Run
from cssp.problem import Problem

BASES = {name: kind(6, 40, np.random.default_rng(1)) for name, kind in dependence.KINDS.items()}


def with_copies(rng):
    X = rng.standard_normal((30, 14))
    return np.hstack([X, X[:, :4], X[:, :1] - 2 * X[:, 1:2]])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", BASES)
def test_no_dependent_pick_on_orthonormal_rows(kind, method):
    for dtype in (np.float64, np.float32):
        for k in (3, 6):
            A = BASES[kind].astype(dtype)
            assert not dependence.faults(A, select(A, k, method, rng=0))


@pytest.mark.parametrize("method", [name for name in METHODS if name != "exact"])
def test_no_dependent_pick_on_larger_bases(method):
    for i, kind in enumerate(dependence.KINDS.values()):
        A = kind(30, 300, np.random.default_rng(i))
        assert not dependence.faults(A, select(A, 30, method, rng=0))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor, array_api_strict.asarray])
def test_copies_are_left_out_while_others_are_there(method, make):
    """In a batch of two as well where the method takes torch."""
    A = with_copies(np.random.default_rng(0))
    sel = select(make(A), 14, method, rng=0)
    assert not dependence.faults(A, select(A, 14, method, rng=0))
    assert sel.rank == 14
    both = select(np.stack([A, A[:, ::-1]]), 14, method, rng=0)
    assert both.rank.tolist() == [14, 14]


def test_the_reported_case():
    """Cosines: all gains of greedy tie, and the lowest index took columns that span nothing new."""
    x = (np.arange(400) + 0.5) / 400
    B = np.array([np.cos(np.pi * j * x) for j in range(12)])
    B /= np.linalg.norm(B, axis=1, keepdims=True)
    s = select(B, 12, "greedy", deficient="raise")
    assert s.rank == 12
    assert np.linalg.norm(B - B[:, s.indices] @ s.coefficients()) < 1e-10


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", [11, 18, 42])
def test_an_equal_column_in_a_table(seed, method):
    """A row number, the same as time index, and a price: coefficients used to raise LinAlgError."""
    rng = np.random.default_rng(seed)
    a = np.sort(rng.choice(np.arange(1, 1114), 1074, replace=False)).astype(float)
    Z = np.stack([a, a, 300 + 5 * np.cumsum(rng.standard_normal(1074))], axis=1)
    with nullcontext() if METHODS[method].oversamples else pytest.warns(RankDeficientWarning):
        s = select(Z, 3, method, rng=0)
    assert s.rank == 2
    assert np.linalg.norm(Z - Z[:, s.indices] @ s.coefficients()) < 1e-12 * np.linalg.norm(Z)


def test_a_small_residual_gets_no_direction_of_rounding():
    """Behind a and a + 1e-13 b, taken one after the other, b would count as a third dimension."""
    rng = np.random.default_rng(0)
    a, b = np.linalg.qr(rng.standard_normal((50, 2)))[0].T
    C = np.stack([a, a + 1e-13 * b, b], axis=1)
    Q, independent = linalg.basis(C, 50 * np.finfo(float).eps)
    assert independent == [True, False, True]
    assert Q.shape == (50, 2)


@pytest.mark.parametrize(
    ("dtype", "decades"),
    [(d, s) for d in (np.float64, np.complex128) for s in (0, 1, 3, 5)]
    + [(d, s) for d in (np.float32, np.complex64) for s in (0, 1, 3, 6)],
)
def test_a_basis_by_products_is_as_good_as_any(decades, dtype):
    """Columns of any norms whose condition, at equal norms, is up to ten to that power: prefixes span what the columns span."""
    rng, size = np.random.default_rng(3), np.finfo(dtype).precision // 2
    for _ in range(5):
        left, right = (np.linalg.qr(rng.standard_normal((200, 30)))[0] for _ in range(2))
        C = left * np.logspace(0, -decades, 30) @ right[:30].T * 10.0 ** rng.integers(-size, size, 30)
        C = C.astype(dtype) * np.dtype(dtype).type(1j if np.dtype(dtype).kind == "c" else 1)
        Q, independent = linalg.basis(C, 0.0)
        eps = float(np.finfo(dtype).eps)
        assert independent == [True] * 30
        assert np.abs(Q.conj().T @ Q - np.eye(30)).max() < 100 * eps
        left = C - Q @ (Q.conj().T @ C)
        assert np.all(np.linalg.norm(left, axis=0) < 100 * eps * np.linalg.norm(C, axis=0))
        below = np.tril(Q.conj().T @ C, -1)
        assert np.all(np.abs(below).max(axis=0) < 100 * 10**decades * eps * np.linalg.norm(C, axis=0))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64])
def test_bases_of_many_independent_columns_need_no_householder(dtype, monkeypatch):
    """Nor are dependent ones overlooked: their number is that of a QR decomposition in double precision."""
    slow = []
    qr = np.linalg.qr
    monkeypatch.setattr(np.linalg, "qr", lambda X, **options: slow.append(X.shape) or qr(X, **options))
    rng = np.random.default_rng(4)
    C = rng.standard_normal((400, 300)) * np.logspace(0, 2, 300)
    C = (C @ (np.eye(300) + 0.3 * np.triu(rng.standard_normal((300, 300)) / 17, 1))).astype(dtype)
    Q, independent = linalg.basis(C, 1e-3)
    assert not slow
    assert independent == [True] * 300
    assert np.abs(Q.conj().T @ Q - np.eye(300)).max() < 100 * np.finfo(dtype).eps
    pivots = np.abs(np.diagonal(scipy.linalg.qr(C.astype(complex), mode="r", pivoting=True)[0]))
    for r in (1, 37, 150, 299):
        cut = float(np.sqrt(pivots[r - 1] * pivots[r]))
        assert sum(linalg.basis(C, cut)[1]) == r


def test_equal_columns_of_a_tiny_matrix():
    """Rounding of a QR decomposition does not shrink with the matrix: coefficients used to raise LinAlgError."""
    A = np.array([[-0.1208777946152117] * 2, [0.5130431677105359] * 2])
    rng = np.random.default_rng(0)
    for X in (A, *(np.repeat(rng.standard_normal((m, 1)), m, axis=1) for m in (2, 3, 4) for _ in range(100))):
        with pytest.warns(RankDeficientWarning):
            s = select(X, 2)
        assert s.rank == 1
        assert np.abs(X - X[:, s.indices] @ s.coefficients()).max() < 1e-14


def test_the_earliest_columns_are_kept():
    rng = np.random.default_rng(2)
    X = rng.standard_normal((20, 4))
    C = np.stack([X[:, 0], 3 * X[:, 0], X[:, 1], 1e3 * (X[:, 0] - X[:, 1]), X[:, 2], 0 * X[:, 0]], axis=1)
    for scale in (1.0, 1e-12, 1e6):
        assert linalg.basis(scale * C, scale * 1e-10)[1] == [True, False, True, False, True, False]


def test_a_tie_in_gain_goes_to_the_larger_residual():
    """One direction is left: all gains are equal, and the lowest index would be next to dependent."""
    e, f = np.eye(5)[:2]
    A = np.stack([3 * e, 2.999 * e + 1e-7 * f, 2.9 * e + 0.5 * f], axis=1)
    assert select(A, 2, "greedy", include=[0]).indices.tolist() == [0, 2]


def test_coefficients_are_no_worse_than_least_squares():
    """Columns independent by a hair: large coefficients drown in their own rounding."""
    for seed in range(30):
        rng = np.random.default_rng(seed)
        U = np.linalg.qr(rng.standard_normal((40, 12)))[0]
        A = U * 10.0 ** -np.linspace(0, 13 + seed % 3, 12) @ rng.standard_normal((12, 25))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RankDeficientWarning)
            s = select(A, 12, "uniform", rng=seed)
        C = A[:, s.indices]
        mine = np.linalg.norm(A - C @ s.coefficients(), axis=0)
        theirs = np.linalg.norm(A - C @ np.linalg.lstsq(C, A)[0], axis=0)
        assert np.linalg.norm(mine) <= 1.01 * np.linalg.norm(theirs) + 1e-14 * np.linalg.norm(A)


# ---------------------------------------------------------------- included columns


W = np.array([[1, 2, 0, 0, 0], [1, 2, 1, 0, 0], [0, 0, 0, 1, 1], [0, 0, 0, 0, 2.0]])


@pytest.mark.parametrize("method", METHODS)
def test_included_columns_that_depend_on_each_other(method):
    with pytest.raises(RankDeficientError, match="column 1 depends on those included before"):
        select(W, 3, method, include=[0, 1], deficient="raise", rng=0)
    s = select(W, 3, method, include=[0, 1], deficient="truncate", rng=0)
    assert s.rank == len(s.indices) == 2
    assert s.indices[0] == 0
    assert 1 not in s.indices
    with pytest.warns(RankDeficientWarning, match="column 1 depends on those included before"):
        s = select(W, 3, method, include=[0, 1], rng=0)
    assert s.indices[:2].tolist() == [0, 1]
    assert s.rank == 2


# ---------------------------------------------------------------- units


def test_units_are_named_as_the_cause_with_the_cure():
    A = np.random.default_rng(0).standard_normal((200, 4)) * [1.5e13, 0.02, 3e8, 1]
    with pytest.warns(
        RankDeficientWarning, match=r"largest column.*units.*scale='norm' \(or weights=1/norms\)"
    ):
        assert select(A, 4).rank < 4
    s = select(A, 4, scale="norm")
    assert s.rank == 4
    again = select(A, 4, weights=1 / np.linalg.norm(A, axis=0))
    assert np.array_equal(s.indices, again.indices)
    with pytest.raises(RankDeficientError, match="scale='norm'"):
        select(A, 4, deficient="raise")


def test_columns_that_are_all_short_are_counted():
    """The picks themselves do not show it: they are copies of long columns."""
    A = np.hstack([np.ones((50, 3)), 1e-17 * np.random.default_rng(0).standard_normal((50, 5))])
    with pytest.warns(RankDeficientWarning, match="5 columns are not even that long"):
        select(A, 3)


def test_true_dependence_is_not_blamed_on_units():
    X = np.random.default_rng(0).standard_normal((30, 3))
    with pytest.warns(RankDeficientWarning) as caught:
        select(np.hstack([X, X]), 5)
    assert "units" not in str(caught[0].message)


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor, sp.csc_array])
def test_scaled_columns(make):
    rng = np.random.default_rng(3)
    A = rng.standard_normal((40, 12)) * 10.0 ** rng.integers(-150, 150, 12)
    A[:, 5] = 0
    unit = select(make(A), 6, scale="norm")
    other = select(make(A * 2.0 ** rng.integers(-40, 40, 12)), 6, scale="norm")
    assert np.asarray(unit.indices).tolist() == np.asarray(other.indices).tolist()
    assert unit.relative_error == pytest.approx(other.relative_error, rel=1e-12)
    assert float(unit.errors[0]) == pytest.approx(11)
    w = rng.random(12) + 0.5
    both = select(make(A), 6, scale="norm", weights=w)
    norms = np.array([np.linalg.norm(a / np.abs(a).max()) * np.abs(a).max() if a.any() else 1 for a in A.T])
    assert np.asarray(both.indices).tolist() == select(A / norms * w, 6).indices.tolist()


@pytest.mark.parametrize("scale", [True, 1.0, "std", np.ones(3)])
def test_a_scale_that_is_none(scale):
    with pytest.raises(CsspError, match=r"scale = .*expected None or 'norm'"):
        select(np.eye(3), 2, scale=scale)


# ---------------------------------------------------------------- what dependent columns cost


def test_dependent_columns_need_no_basis_of_their_own(monkeypatch):
    """The Gram way ends by residuals of what is left: no factorisation of A, no pass column by column."""
    rng = np.random.default_rng(0)
    A = rng.standard_normal((1000, 300))
    A[:, -1] = A[:, 0]
    A[:, 50] = A[:, :5].sum(axis=1)
    asked = []
    residuals = gram._Steps.residuals
    monkeypatch.setattr(
        gram._Steps, "residuals", lambda steps, *args: asked.append(len(steps.S)) or residuals(steps, *args)
    )
    monkeypatch.setattr(memory, "Run", None)
    monkeypatch.setattr(linalg, "basis", None)
    s = select(A, 300, deficient="truncate")
    assert s.rank == len(s.indices) == 298
    assert len(asked) <= 8


@pytest.mark.parametrize("tol", [None, 1e-8])
def test_one_hot_columns_stay_sparse(tol, monkeypatch):
    """Choice, errors and coefficients from the Gram matrix: the dense columns of A are never asked for together."""
    S = dependence.one_hot(5000, (60, 40, 20), np.random.default_rng(0))
    D = S.toarray()
    densest, columns = [], SparseSource._columns
    monkeypatch.setattr(
        SparseSource, "_columns", lambda self, place: densest.append(place.size) or columns(self, place)
    )
    s = select(S, tol=tol) if tol else select(S, 120, deficient="truncate")
    assert s.rank == len(s.indices) == 118
    assert s.relative_error < 1e-14
    T = s.coefficients()
    assert np.abs(D - D[:, s.indices] @ T).max() < 1e-12
    few = select(S, 30)
    assert few.relative_error == pytest.approx(select(D, 30).relative_error, rel=1e-10)
    assert max(densest) <= (1 << 22) // 5000
    assert np.array_equal(s.indices, select(D, 120, deficient="truncate").indices)


def test_a_rank_beyond_what_the_gram_matrix_can_tell():
    """Graded columns: sparse errors fall back on a dense basis where the Gram matrix is not good enough."""
    rng = np.random.default_rng(4)
    A = np.triu(rng.standard_normal((40, 40))) * 10.0 ** -np.linspace(0, 9, 40)[:, None]
    s, expected = select(sp.csc_array(A), 35), select(A, 35)
    assert np.array_equal(s.indices, expected.indices)
    np.testing.assert_allclose(s.errors, expected.errors, rtol=1e-6)
    left = np.linalg.norm(A - A[:, s.indices] @ s.coefficients())
    best = np.linalg.norm(A - A[:, s.indices] @ scipy.linalg.lstsq(A[:, s.indices], A)[0])
    assert left <= 1.01 * best + 1e-14


# ---------------------------------------------------------------- no widened copy


def test_single_precision_is_widened_block_by_block(monkeypatch):
    """Pivoting goes on in double where single precision is exhausted; of a large matrix only blocks are widened."""
    widest = []

    class Watched(np.ndarray):
        def astype(self, dtype, **options):
            widest.append(self.size)
            return super().astype(dtype, **options)

    rng = np.random.default_rng(0)
    X = (rng.standard_normal((60, 40)) * 10.0 ** -np.linspace(0, 6, 40)) @ rng.standard_normal((40, 500))
    for A in (X.astype(np.float32), (X + 1j * X[::-1]).astype(np.complex64)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RankDeficientWarning)
            expected = select(A, 38)
            monkeypatch.setattr(memory, "WIDENED", 0)
            monkeypatch.setattr(linalg, "BLOCK", 60 * 50)
            p = Problem(A=A, k=38, candidates=np.ones(500, dtype=bool))
            run = Run(p, memory.Matrix(p, A.view(Watched)))
            pace = memory.Pace(run)
            while len(run.indices) < 38 and run.ready():
                pace.advance(run, True)
            monkeypatch.undo()
        assert run.matrix.dtype in (np.float64, np.complex128)
        assert run.indices == expected.indices.tolist()
    assert max(widest) <= 60 * 192


def test_columns_above_the_threshold_come_first():
    """Even where the others are more than rounding: single precision has room between the two."""
    p = Problem(A=np.eye(400, 3, dtype=np.float32), k=3, candidates=np.ones(3, dtype=bool))
    between = (p.floor * p.noise) / p.largest**2
    open_ = np.array([True, True, False])
    assert p.noise < p.floor
    assert p.eligible(np.array([1.0, between, 1.0]), open_).tolist() == [True, False, False]
    assert p.eligible(np.array([between, between, 1.0]), open_).tolist() == [True, True, False]
    assert not p.eligible(np.array([0.0, p.noise**2, 1.0]), open_).any()


def test_small_sparse_errors_keep_their_digits():
    """What energies leave of the total cancels; residuals of the columns do not."""
    rng = np.random.default_rng(5)
    A = np.hstack([X := rng.standard_normal((50, 6)), X @ rng.standard_normal((6, 6))])
    A[:, 6:] += 1e-9 * rng.standard_normal((50, 6))
    s, expected = select(sp.csc_array(A), 6, include=range(6)), select(A, 6, include=range(6))
    assert s.relative_error == pytest.approx(expected.relative_error, rel=1e-5)
