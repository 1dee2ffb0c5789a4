"""Sparse matrices and linear operators: the picks of memory, without a dense copy."""

import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from cssp import CsspError, passes, select
from cssp.passes import products
from cssp.passes.blocks import gaussian_rows
from cssp.passes.operator import OperatorSource
from cssp.passes.source import SparseSource


def scattered(rng, m, n, density=0.2, dtype=np.float64):
    A = sp.random_array((m, n), density=density, rng=rng, format="csc", dtype=np.float64)
    A.data *= rng.lognormal(0, 1, A.nnz)
    if np.dtype(dtype).kind == "c":
        A = A.astype(dtype)
        A.data *= np.exp(2j * np.pi * rng.random(A.nnz))
    return A.astype(dtype)


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "lil", "dok", "bsr", "dia"])
@pytest.mark.parametrize("kind", ["array", "matrix"])
def test_every_format(kind, form):
    A = scattered(np.random.default_rng(0), 30, 50)
    S = getattr(sp, f"{form}_{kind}")(A)
    assert np.array_equal(select(S, 9).indices, select(A.toarray(), 9).indices)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.complex128, np.complex64, np.int32, np.bool_])
@pytest.mark.parametrize("method", ["residual", "greedy"])
def test_every_type(method, dtype):
    A = scattered(np.random.default_rng(1), 30, 50, 0.4)
    A = (
        (10 * A).astype(dtype)
        if np.dtype(dtype).kind in "ib"
        else scattered(np.random.default_rng(1), 30, 50, 0.4, dtype)
    )
    A.eliminate_zeros()
    expected = select(A.toarray(), 9, method)
    for S in (A, sp.csr_matrix(A), aslinearoperator(A)):
        s = select(S, 9, method)
        assert np.array_equal(s.indices, expected.indices)
        assert s.relative_error == pytest.approx(expected.relative_error, rel=1e-5)


def test_entries_given_twice_add_up():
    A = scattered(np.random.default_rng(2), 30, 50).tocoo()
    i, j = A.coords
    twice = sp.coo_array(
        (np.tile(A.data, 2) * np.repeat([0.75, 0.25], A.nnz), (np.tile(i, 2), np.tile(j, 2))), A.shape
    )
    before = twice.data.copy()
    assert np.array_equal(select(twice, 9).indices, select(A.toarray(), 9).indices)
    csc = sp.csc_array((np.ones(4), np.array([0, 0, 1, 0]), np.array([0, 2, 3, 4])), shape=(2, 3))
    assert select(csc, 2).indices.tolist() == [0, 1]
    assert csc.nnz == 4
    assert np.array_equal(twice.data, before)


@pytest.mark.parametrize("method", ["residual", "greedy"])
def test_recursions_survive_graded_columns(method):
    """Stale norms and gains are formed anew from the columns."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        A = scattered(rng, 40, 60, 0.5).toarray() * 10.0 ** -rng.uniform(0, 5, (40, 1))
        A[:, 40:] = A[:, :20] + 1e-6 * rng.standard_normal((40, 20))
        expected = select(A, 30, method)
        for S in (sp.csc_array(A), aslinearoperator(A)):
            s = select(S, 30, method)
            assert np.array_equal(s.indices, expected.indices)
            assert s.rank == expected.rank


def exact_gains(A, S):
    """How much each column takes off the squared error after S, in rational arithmetic."""
    R = np.array([[Fraction(float(x)) for x in row] for row in A])
    for j in S:
        q = R[:, j].copy()
        R = R - np.outer(q, q @ R) / (q @ q)
    G, heights = R.T @ R, np.sum(R * R, axis=0)
    return np.array([float(sum(G[j] ** 2) / h) if h else 0.0 for j, h in enumerate(heights)])


@pytest.mark.parametrize("form", [sp.csc_array, aslinearoperator])
@pytest.mark.parametrize("seed", [3, 38, 39])
def test_greedy_gain_is_the_largest_where_residuals_are_1e_9_of_the_columns(seed, form):
    """After two picks residuals are 2**-30 of the columns; products with the columns themselves round by more than gains differ."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(5, 9))
    A = rng.choice([-1.0, 0.0, 1.0], (8, n)) * 2.0**-30
    A[:2] = rng.choice([-1.0, 1.0, 2.0, 3.0], (2, n))
    A = scipy.linalg.hadamard(8) @ A
    picks = select(form(A), n, "greedy", deficient="truncate").indices.tolist()
    for t, j in enumerate(picks):
        gains = exact_gains(A, picks[:t])
        assert gains[j] >= (1 - 1e-5) * gains.max(), t


def test_an_operator_needs_its_products_only():
    A = scattered(np.random.default_rng(3), 30, 50).toarray()
    calls = {"A": 0, "Aᴴ": 0}

    def matvec(x):
        calls["A"] += 1
        return A @ np.ravel(x)

    def rmatvec(y):
        calls["Aᴴ"] += 1
        return A.T @ np.ravel(y)

    L = LinearOperator(shape=A.shape, matvec=matvec, rmatvec=rmatvec, dtype=A.dtype)
    s = select(L, 5)
    assert np.array_equal(s.indices, select(A, 5).indices)
    assert calls["A"] <= 2 * 50 + 5
    assert calls["Aᴴ"] <= 6 * 5


def test_composed_operators():
    rng = np.random.default_rng(4)
    X, Y = rng.standard_normal((30, 8)), rng.standard_normal((8, 50))
    L = aslinearoperator(X) @ aslinearoperator(Y) + 0.5 * aslinearoperator(np.ones((30, 50)))
    A = X @ Y + 0.5
    assert np.array_equal(select(L, 7).indices, select(A, 7).indices)


@pytest.mark.parametrize("method", sorted(passes.METHODS.keys() - {"leverage", "osinsky", "volume"}))
def test_nothing_is_densified(method):
    """Dense it would take 1.6 GB; methods on singular vectors keep 2(k + 10) vectors of length n."""
    m, n = 10_000, 20_000
    A = scattered(np.random.default_rng(5), m, n, 1e-4)
    tracemalloc.start()
    try:
        s = select(A, 8, method, rng=0)
        assert s.relative_error < 1
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 150e6
    with pytest.raises(CsspError, match="blocks of columns"):
        select(sp.csc_array((100_000, 100_000)), 1, deficient="truncate").reconstruct()


def test_sources_are_linear_algebra():
    """QᴴA, AX, AAᴴQ, AG and residual norms, with a factor that no single power of two can be."""
    rng = np.random.default_rng(6)
    A = scattered(rng, 20, 30, 0.4, np.complex128)
    w, e = rng.random(30), rng.integers(-40, 40, 30)
    X = A.toarray() * np.ldexp(w, e)
    Q = np.linalg.qr(rng.standard_normal((20, 4)) + 1j * rng.standard_normal((20, 4)))[0]
    import dask
    import dask.array as da

    from cssp.passes.chunks import ChunkSource

    chunked = [ChunkSource(da.from_array(A.toarray(), chunks=c), A.dtype) for c in ((20, 7), (7, 30), (6, 7))]
    with dask.config.set(scheduler="sync"):
        for source in (SparseSource(A, A.dtype), OperatorSource(aslinearoperator(A), A.dtype), *chunked):
            S = source.view(factor=(w, e))
            scale = np.linalg.norm(X)
            assert np.allclose(S.sweep(Q)[0].whole(), Q.conj().T @ X, atol=1e-13 * scale)
            assert np.allclose(S.sweep(Q, [3, 1])[1], X[:, [3, 1]], rtol=1e-14, atol=0)
            assert np.allclose(S.take([29, 0, 7]), X[:, [29, 0, 7]], rtol=1e-14, atol=0)
            B = rng.standard_normal((30, 3))
            assert np.allclose(S.right(B), X @ B, atol=1e-13 * scale)
            assert np.allclose(S.outer(Q), X @ (X.conj().T @ Q), atol=1e-13 * scale**2)
            G = gaussian_rows(int(np.random.default_rng(1).integers(2**63)), 0, 30, 2)
            assert np.allclose(S.gaussian(2, np.random.default_rng(1)), X @ G, atol=1e-13 * scale)
            residual = np.linalg.norm(X - Q @ (Q.conj().T @ X), axis=0) ** 2
            assert np.allclose(S.residual_norms2(Q), residual, atol=1e-13 * scale**2)
            scan = source.scan()
            assert np.allclose(
                np.ldexp(scan.norms2, 2 * scan.exponent), np.linalg.norm(A.toarray(), axis=0) ** 2
            )


def test_columns_that_are_kept_are_those_that_were_read(monkeypatch):
    import dask
    import dask.array as da

    from cssp.passes import chunks

    monkeypatch.setattr(chunks, "KEPT", 10)
    A = np.random.default_rng(0).standard_normal((5, 40))
    source = chunks.ChunkSource(da.from_array(A, chunks=(5, 8)), A.dtype)
    with dask.config.set(scheduler="sync"):
        for columns in ([3, 1, 4], [1, 5, 9, 2, 6], [5, 3, 5, 8, 9, 7, 0], range(40), [9, 3]):
            assert np.array_equal(source.take(columns), A[:, list(columns)])
            assert len(source.kept) <= 10


def test_gaussian_rows_do_not_depend_on_the_cut():
    whole = gaussian_rows(7, 0, 2500, 3)
    for a, b in ((0, 10), (1000, 1050), (1023, 2049), (2499, 2500)):
        assert np.array_equal(gaussian_rows(7, a, b, 3), whole[a:b])
    assert abs(whole.mean()) < 0.06  # five standard deviations of the mean of 7,500


# ---------------------------------------------------------------- operators that are not as they should be


@pytest.mark.parametrize("how", ["none", "not implemented", "fails"])
def test_an_operator_without_an_adjoint(how, monkeypatch):
    """A small one is formed; a large one is refused where an adjoint is needed, by what is missing."""
    from cssp.passes import operator

    A = scattered(np.random.default_rng(3), 30, 50).toarray()

    class Forward(LinearOperator):
        def _matvec(self, x):
            return A @ x

    def not_implemented(y):
        raise NotImplementedError

    L = {
        "none": LinearOperator(shape=A.shape, matvec=lambda x: A @ x, dtype=A.dtype),
        "not implemented": Forward(A.dtype, A.shape),
        "fails": LinearOperator(
            shape=A.shape, matvec=lambda x: A @ x, rmatvec=not_implemented, dtype=A.dtype
        ),
    }[how]
    for method in passes.METHODS:
        s = select(L, 5, method, rng=0)
        assert np.array_equal(s.indices, select(aslinearoperator(A), 5, method, rng=0).indices)
        assert s.certificate().ratio >= 1
    assert np.array_equal(select(L, 4, valid=np.arange(50) > 9).indices, 10 + select(A[:, 10:], 4).indices)
    monkeypatch.setattr(operator, "FORMED", 1499)
    assert select(L, 5, "norm", rng=0).k == 5
    with pytest.raises(CsspError, match=r"without rmatvec.*30 x 50.*pass rmatvec="):
        select(L, 5)


WRONG = {
    "shape": (lambda A, X: (A @ X)[:-1], lambda A, Y: A.T @ Y, "matmat"),
    "adjoint's shape": (lambda A, X: A @ X, lambda A, Y: (A.T @ Y)[1:], "rmatmat"),
    "one column": (lambda A, X: (A @ X)[:, :1], lambda A, Y: A.T @ Y, r"matmat.*\(30, 1\)"),
    "NaN": (lambda A, X: A @ X * np.nan, lambda A, Y: A.T @ Y, "NaN in column 0"),
    "adjoint's NaN": (lambda A, X: A @ X, lambda A, Y: A.T @ Y * np.nan, "rmatmat returned NaN"),
    "complex": (lambda A, X: A @ X + 1j, lambda A, Y: A.T @ Y, "matmat returned dtype complex128"),
    "object": (lambda A, X: (A @ X).astype(object), lambda A, Y: A.T @ Y, "matmat returned dtype object"),
    "list": (lambda A, X: (A @ X).tolist(), lambda A, Y: A.T @ Y, "builtins.list"),
    "masked": (lambda A, X: np.ma.masked_greater(A @ X, 0.1), lambda A, Y: A.T @ Y, "masked"),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("blockwise", [True, False])
def test_wrong_products_are_refused(what, blockwise):
    A = scattered(np.random.default_rng(3), 30, 50, 0.5).toarray()
    matmat, rmatmat, words = WRONG[what]
    given = {"matmat": lambda X: matmat(A, X), "rmatmat": lambda Y: rmatmat(A, Y)} if blockwise else {}
    L = LinearOperator(
        shape=A.shape,
        matvec=lambda x: matmat(A, np.reshape(x, (-1, 1))),
        rmatvec=lambda y: rmatmat(A, np.reshape(y, (-1, 1))),
        dtype=A.dtype,
        **given,
    )
    if not blockwise and what in ("one column", "list", "masked"):
        select(L, 5)  # SciPy puts columns together, and these are right for one
        return
    with np.errstate(invalid="ignore"), pytest.raises(CsspError, match=words):
        select(L, 5)


@pytest.mark.filterwarnings("ignore:the matrix subclass")
def test_products_may_be_matrices_of_numpy_or_sparse():
    A = scattered(np.random.default_rng(3), 30, 50, 0.5)
    for form in (np.asmatrix, sp.csr_array):
        L = LinearOperator(
            shape=A.shape,
            matvec=lambda x: A @ np.ravel(x),
            rmatvec=lambda y: A.T @ np.ravel(y),
            matmat=lambda X, form=form: form(A @ X),
            rmatmat=lambda Y, form=form: form(A.T @ Y),
            dtype=A.dtype,
        )
        assert np.array_equal(select(L, 5).indices, select(A, 5).indices)


def test_an_operator_without_a_dtype():
    A = scattered(np.random.default_rng(3), 30, 50).toarray()

    class Bare(LinearOperator):
        def _matvec(self, x):
            return A @ x

        def _rmatvec(self, y):
            return A.T @ y

    s = select(Bare(None, A.shape), 5)
    assert np.array_equal(s.indices, select(A, 5).indices)


@pytest.mark.filterwarnings("ignore::cssp.RankDeficientWarning")
@pytest.mark.parametrize("form", [sp.csc_array, aslinearoperator])
def test_a_matrix_of_zeros(form):
    """No direction at all: products with no columns."""
    s = select(form(np.zeros((5, 7))), 2)
    assert (s.rank, s.relative_error) == (0, 0)
    assert s.certificate().ratio == 1


def test_of_included_columns_the_later_one_is_dependent_however_short_the_earlier():
    A = sp.csc_array(np.array([[1.0, 9, 0], [1, 9, 0], [0, 0, 20]]))
    for include in ([0, 1], [1, 0]):
        assert select(A, 3, include=include, deficient="truncate").indices.tolist() == [include[0], 2]


@pytest.mark.filterwarnings("ignore::cssp.RankDeficientWarning")
def test_rank_goes_by_the_largest_of_all_columns():
    """Not of the chosen ones."""
    A = np.diag([1.0, 1e-20])
    for call in ({"k": 1, "include": [1]}, {"k": 2}):
        assert select(sp.csc_array(A), **call).rank == select(A, **call).rank == call["k"] - 1


def test_coefficients_of_columns_close_to_dependence():
    """By a solve: a product with the pseudoinverse loses as many digits as the condition has."""
    g = np.random.default_rng(0)
    A = g.standard_normal((9, 2)) @ g.standard_normal((2, 12)) + 1e-7 * g.standard_normal((9, 12))
    for X in (sp.csc_array(A), aslinearoperator(A)):
        s = select(X, 5, "uniform", rng=0)
        left, best = (
            A - A[:, s.indices] @ T for T in (s.coefficients(), np.linalg.lstsq(A[:, s.indices], A)[0])
        )
        assert np.linalg.norm(left[:, s.indices]) < 1e-14 * np.linalg.norm(A)
        assert np.linalg.norm(left) < 1.01 * np.linalg.norm(best)


@pytest.mark.filterwarnings("ignore::cssp.RankDeficientWarning")
def test_an_adjoint_that_is_none():
    """Twice the adjoint would be believed, and the picks be wrong."""
    A = np.random.default_rng(0).standard_normal((20, 30))
    for scale in (1.0, 1e-20, 1e200, 0.0):
        X = scale * A
        good = LinearOperator(
            X.shape, matvec=lambda v, X=X: X @ v, rmatvec=lambda u, X=X: X.T @ u, dtype=float
        )
        select(good, 1)
    wrong = LinearOperator(A.shape, matvec=lambda v: A @ v, rmatvec=lambda u: 2 * A.T @ u, dtype=float)
    with pytest.raises(CsspError, match="rmatvec is not the adjoint"):
        select(wrong, 5)


def ragged(rng, m, n, longest, values, even=False):
    """Rows of up to ``longest`` entries, some empty, or all of that length."""
    A = np.zeros((m, n))
    for row in A:
        many = longest if even else int(rng.integers(0, longest + 1))
        row[rng.choice(n, many, replace=False)] = 1.0 if values == "ones" else rng.standard_normal(many)
    return A


@pytest.mark.parametrize("values", ["ones", "real", "complex"])
@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("longest", [1, 3, 9])
def test_the_gram_matrix_by_pairs_is_that_of_the_product(monkeypatch, values, even, longest):
    monkeypatch.setattr(products, "PAIRS", 8)
    monkeypatch.setattr(products, "PADDING", 1000)
    rng = np.random.default_rng(0)
    A = ragged(rng, 200, 9, longest, values, even) * (1 + 1j if values == "complex" else 1)
    G = products.sparse_gram(sp.csr_array(A))
    np.testing.assert_allclose(G, A.conj().T @ A, atol=1e-12)
    if values == "ones":
        np.testing.assert_array_equal(G, A.T @ A)
    uneven = ragged(rng, 5, 30, 29, values)
    np.testing.assert_allclose(products.sparse_gram(sp.csr_array(uneven)), uneven.T @ uneven, atol=1e-12)


@pytest.mark.parametrize("size", [1e-220, 1e-70, 1e70, 1e150])
def test_norms_of_sparse_columns_at_any_size(size):
    A = np.array([[3.0, 0.0, 0.0, 1.0], [4.0, 0.0, 2.0, 0.0]]) * [size, 1.0, 1.0, 1 / size]
    scan = SparseSource(sp.csc_array(A), np.float64).scan()
    norms = np.ldexp(np.sqrt(scan.norms2), scan.exponent)
    np.testing.assert_allclose(norms, [5 * size, 0, 2, 1 / size], rtol=1e-15)
    A[1, 2] = np.nan
    assert SparseSource(sp.csc_array(A), np.float64).scan().bad == (2, "NaN")
