"""Large mapped files: the picks and numbers of memory, and little memory."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
import strategies
from passes_cases import assert_same_picks, decaying

from cssp import METHODS, CsspError, linalg, passes, select
from cssp.passes import mapped, problem, source

LAYOUTS = {
    "rows": lambda A, path: stored(path, A),
    "columns": lambda A, path: stored(path, np.asfortranarray(A)),
    "transposed": lambda A, path: stored(path, np.ascontiguousarray(A.T)).T,
    "every other": lambda A, path: stored(path, np.repeat(np.repeat(A, 2, axis=0), 3, axis=1))[::2, ::3],
    "reversed": lambda A, path: stored(path, A[::-1, ::-1])[::-1, ::-1],
    "a part": lambda A, path: stored(path, np.pad(A, 5))[5:-5, 5:-5],
    "of a part": lambda A, path: stored(path, np.pad(A, 5))[2:, 2:][3:-5, 3:-5],
    "behind an odd offset": lambda A, path: raw(path, A, 3),
    "swapped bytes": lambda A, path: stored(path, A.astype(A.dtype.newbyteorder())),
}


def stored(path, A):
    np.save(path, A)
    return np.load(path, mmap_mode="r")


def raw(path, A, offset):
    path.write_bytes(b"\0" * offset + A.tobytes())
    return np.memmap(path, dtype=A.dtype, mode="r", offset=offset, shape=A.shape)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Every mapped file is a large one, and has many tiles."""
    monkeypatch.setattr(passes, "MAPPED", 0)
    for module in (mapped, source):
        monkeypatch.setattr(module, "BLOCK", 700)
        monkeypatch.setattr(module, "SLAB", 17)
    monkeypatch.setattr(mapped, "PRODUCT", 250)


def assert_same(s, expected, rtol=1e-9):
    """Picks, errors and certificate; factor and source too."""
    assert np.array_equal(s.indices, expected.indices)
    assert (s.rank, s.k) == (expected.rank, expected.k)
    floor = 1e-24 * float(expected.errors[0])
    np.testing.assert_allclose(s.errors, expected.errors, rtol=rtol, atol=floor)
    mine, theirs = s.certificate(), expected.certificate()
    for name in ("factor", "source", "holds", "spectral_source", "rank"):
        assert getattr(mine, name) == getattr(theirs, name)
    for name in ("squared_error", "squared_optimum", "spectral_squared_error", "spectral_squared_optimum"):
        assert getattr(mine, name) == pytest.approx(getattr(theirs, name), rel=rtol, abs=floor)
    if theirs.squared_optimum > 1e-18 * float(expected.errors[0]):  # beyond, both are rounding
        for name in ("ratio", "spectral_ratio", "a_posteriori"):
            assert getattr(mine, name) == pytest.approx(getattr(theirs, name), rel=1e-8)


# ---------------------------------------------------------------- the picks and numbers of memory


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (1, 9), (9, 1)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(layout, shape, tmp_path):
    A = decaying(np.random.default_rng(0), *shape)
    M = LAYOUTS[layout](A, tmp_path / "A.npy")
    assert np.array_equal(M, A)
    assert passes.kind_of(M) == "mapped"
    k = min(*shape, 9)
    s = select(M, k)
    assert s.passes > 1
    assert_same(s, select(A, k))
    assert np.allclose(s.coefficients(), select(A, k).coefficients(), rtol=1e-9, atol=1e-12)
    assert np.allclose(s.reconstruct(), select(A, k).reconstruct(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", ["f4", "f2", ">f4", ">f8", "i2", "i8", "u1", "?", "c8", "c16", "g"])
@pytest.mark.parametrize("order", ["rows", "columns"])
def test_every_type(order, dtype, tmp_path):
    rng = np.random.default_rng(1)
    A = decaying(rng, 40, 60)
    if np.dtype(dtype).kind == "c":
        A = A + 1j * decaying(rng, 40, 60)
    A = (A > 0.5 if dtype == "?" else 50 + 20 * A if dtype == "u1" else 100 * A).astype(dtype)
    s, expected = select(LAYOUTS[order](A, tmp_path / "A.npy"), 12), select(A, 12)
    assert_same(s, expected)


@pytest.mark.filterwarnings("ignore::cssp.RankDeficientWarning")
@pytest.mark.parametrize("order", ["rows", "columns"])
@pytest.mark.parametrize("method", problem.SAME)
def test_every_method(method, order, tmp_path):
    """Included, excluded, weighted, with padding that holds anything, to a tolerance."""
    rng = np.random.default_rng(2)
    A = decaying(rng, 40, 60)
    valid = rng.random(60) < 0.8
    valid[[3, 5, 30]] = True
    M = LAYOUTS[order](np.where(valid, A, np.nan), tmp_path / "A.npy")
    clean = LAYOUTS[order](A, tmp_path / "B.npy")
    there = {"accelerated": True} if method == "random_pivot" else {}  # what a large matrix has by itself
    calls = [
        {"k": 12, "weights": rng.random(60)},
        {"k": 12, "weights": 10.0 ** rng.uniform(-100, 100, 60)},
        {"k": 12, "include": [5, 3], "exclude": [0, 1, 30], "valid": valid, "weights": rng.random(60)},
        {"k": 50, "valid": valid} if valid.sum() > 50 else {"k": 30, "valid": valid},
    ]
    if method in passes.OPEN_ENDED:
        calls += [{"k": 40, "tol": 0.2}, {"tol": 0.3}]
    for call in calls:
        s = select(M if "valid" in call else clean, method=method, rng=3, **call)
        assert s.passes is not None
        assert_same(s, select(A, method=method, rng=3, **call, **there), rtol=1e-7)


FAMILIES = [
    strategies.gaussian,
    strategies.integers,
    strategies.few,
    strategies.low_rank,
    strategies.duplicates,
    strategies.graded_columns,
    strategies.graded_rows,
]


@pytest.mark.filterwarnings("ignore::cssp.RankDeficientWarning")
@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_every_family(family, dtype, tmp_path):
    for seed in range(4):
        A = family(np.random.default_rng(seed), 30, 50)
        with np.errstate(all="ignore"):
            A = A.astype(dtype)
        if not np.isfinite(A).all():
            continue
        expected = select(A, 20)
        for order in ("rows", "columns"):
            s = select(LAYOUTS[order](A, tmp_path / f"{order}{seed}.npy"), 20)
            assert s.rank == expected.rank
            assert_same_picks(A, s.indices, expected.indices, s.rank, np.finfo(dtype).eps)


@pytest.mark.parametrize("order", ["rows", "columns"])
def test_a_source_is_linear_algebra(order, tmp_path):
    """Every request, with a factor that no single power of two can be, and padding left out."""
    rng = np.random.default_rng(6)
    for m, n in ((20, 30), (30, 20)):
        A = rng.standard_normal((m, n + 6)) + 1j * rng.standard_normal((m, n + 6))
        columns = np.sort(rng.choice(n + 6, n, replace=False))
        w, e = rng.random(n), rng.integers(-40, 40, n)
        X = A[:, columns] * np.ldexp(w, e)
        scale = np.linalg.norm(X)
        whole = mapped.MappedSource(LAYOUTS[order](A, tmp_path / f"{m}.npy"), A.dtype)
        S = whole.narrowed(columns).view(factor=(w, e))
        Q = np.linalg.qr(rng.standard_normal((m, 4)) + 1j * rng.standard_normal((m, 4)))[0]
        B = rng.standard_normal((n, 3))
        held, C = S.sweep(Q, [3, 1])
        assert np.allclose(held.whole(), Q.conj().T @ X, atol=1e-13 * scale)
        assert np.allclose(C, X[:, [3, 1]], rtol=1e-14, atol=0)
        assert np.allclose(S.take([19, 0, 7]), X[:, [19, 0, 7]], rtol=1e-14, atol=0)
        assert np.allclose(S.right(B), X @ B, atol=1e-13 * scale)
        residual = np.linalg.norm(X - Q @ (Q.conj().T @ X), axis=0) ** 2
        assert np.allclose(S.residual_norms2(Q), residual, atol=1e-13 * scale**2)
        assert np.allclose(S.gains(), np.linalg.norm(X.conj().T @ X, axis=0) ** 2, rtol=1e-12)
        R = S.triangle()
        assert np.array_equal(R, np.triu(R))
        assert np.allclose(
            R.conj().T @ R, X @ X.conj().T if m <= n else X.conj().T @ X, atol=1e-13 * scale**2
        )
        again = whole.narrowed(columns).narrowed(np.array([2, 5]))
        assert np.array_equal(again.take([1, 0]), A[:, columns[[5, 2]]])


@pytest.mark.parametrize("order", ["rows", "columns"])
def test_the_first_bad_column_is_named(order, tmp_path):
    A = decaying(np.random.default_rng(9), 40, 60)
    A[3, 41], A[38, 20] = np.nan, np.inf
    with pytest.raises(CsspError, match="Inf in column 20"):
        select(LAYOUTS[order](A, tmp_path / "A.npy"), 4)


# ---------------------------------------------------------------- what goes on in memory


@pytest.mark.parametrize("method", METHODS)
def test_all_methods_take_a_mapped_file(method, tmp_path):
    A = decaying(np.random.default_rng(4), 9, 12)
    there = {"accelerated": True} if method == "random_pivot" else {}
    s = select(stored(tmp_path / "A.npy", A), 4, method, rng=1)
    assert np.array_equal(s.indices, select(A, 4, method, rng=1, **there).indices)
    assert (s.passes is not None) == (method in problem.SAME)


def test_what_passes_cannot_do_is_done_in_memory(tmp_path, monkeypatch):
    A = decaying(np.random.default_rng(5), 20, 30)
    M = stored(tmp_path / "A.npy", A)
    for call in (
        {"k": 4, "method": "greedy", "target": A[:, :3] + 1},
        {"k": 4, "speculate": False},
        {"k": 4, "method": "random_pivot", "accelerated": False},
        {"tol": 0.5, "method": "greedy"},
    ):
        s = select(M, rng=0, **call)
        assert s.passes is None
        assert np.array_equal(s.indices, select(A, rng=0, **call).indices)

    monkeypatch.setattr(linalg, "SQUARE", 19)
    assert select(M, 4, "greedy").passes is None


def test_a_private_copy_is_what_it_shows(tmp_path):
    """Of mode "c": what was written is not in the file."""
    A = decaying(np.random.default_rng(5), 20, 30)
    np.save(tmp_path / "A.npy", A)
    M = np.load(tmp_path / "A.npy", mmap_mode="c")
    M[:, 17] *= 1e3
    assert passes.kind_of(M) is None
    assert select(M, 1).indices.tolist() == [17]


def test_a_selection_can_be_pickled(tmp_path):
    s = select(stored(tmp_path / "A.npy", decaying(np.random.default_rng(5), 20, 30)), 4)
    assert pickle.loads(pickle.dumps(s)).relative_error == s.relative_error == copy.deepcopy(s).relative_error


def test_what_was_written_is_kept(tmp_path):
    A = decaying(np.random.default_rng(5), 20, 30)
    np.save(tmp_path / "A.npy", A)
    M = np.load(tmp_path / "A.npy", mmap_mode="r+")
    M[:, 17] *= 1e3
    assert passes.kind_of(M) == "mapped"
    assert select(M, 1).indices.tolist() == [17]
    A[:, 17] *= 1e3
    assert np.array_equal(M, A)
    M.flush()
    assert np.array_equal(np.load(tmp_path / "A.npy"), A)


def test_arrays_made_of_a_mapped_one_are_in_memory(tmp_path, monkeypatch):
    M = stored(tmp_path / "A.npy", decaying(np.random.default_rng(5), 20, 30))
    for A in (M.copy(), M + 1, M[[1, 2]], np.asarray(M), M[None]):
        assert passes.kind_of(A) is None
    monkeypatch.setattr(passes, "MAPPED", M.nbytes)
    assert passes.kind_of(M) is None


def test_the_command_line_is_the_same(tmp_path, capsys):
    from cssp.cli import main

    A = decaying(np.random.default_rng(5), 20, 30)
    np.save(tmp_path / "A.npy", A)
    texts = []
    for limit in (0, 1 << 30):
        passes.MAPPED = limit  # the fixture puts it back
        for method in ("residual", "strong_rrqr"):
            for rows in ([], ["--rows"]):
                assert main(["select", str(tmp_path / "A.npy"), "-k", "4", "--method", method, *rows]) == 0
                texts.append(capsys.readouterr().out)
    assert [t.split('"errors"')[0] for t in texts[:4]] == [t.split('"errors"')[0] for t in texts[4:]]


# ---------------------------------------------------------------- memory and limits


CODE = """
import resource, sys
import numpy as np
import cssp
from cssp import passes

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

passes.MAPPED = 1 << 20
small = np.random.default_rng(0).standard_normal((600, 600))  # BLAS and LAPACK make their buffers
cssp.select(small, 40).certificate()
A = np.load(sys.argv[1], mmap_mode="r")
before = peak()
s = cssp.select(A, 20)
s.relative_error
s.certificate()
print(peak() - before)
"""


@pytest.mark.parametrize("order", ["C", "F"])
def test_resident_memory_is_a_share_of_the_file(order, tmp_path):
    """Pages of the file count. In memory it takes more than five times the file."""
    m, n = 300, 200_000
    shape = (m, n) if order == "C" else (n, m)
    A = np.lib.format.open_memmap(tmp_path / "A.npy", "w+", np.float32, shape)
    rng = np.random.default_rng(0)
    for rows in np.array_split(np.arange(shape[0]), 40):
        A[rows[0] : rows[-1] + 1] = rng.standard_normal((rows.size, shape[1]), dtype=np.float32)
    A.flush()
    del A
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path / "A.npy")], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 0.75 * 4 * m * n


def test_a_certificate_beyond_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(linalg, "SQUARE", 19)
    s = select(stored(tmp_path / "A.npy", decaying(np.random.default_rng(5), 20, 30)), 4)
    with pytest.raises(CsspError, match=r"min\(m, n\) = 20.*19 is the most.*sketched_optimum"):
        s.certificate()
