"""Dask arrays: the picks of memory in few passes, whatever the chunks and the scheduler."""

import dataclasses
import os
import re
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import strategies
from passes_cases import CHUNKS, STORAGES, assert_same_picks, chunked, decaying

import cssp
from cssp import METHODS, CsspError, RankDeficientWarning, passes, select
from cssp.errors import RankDeficientError
from cssp.matrices import MATRICES

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")

FAMILIES = {name: (lambda g, f=f: f(40, 60, 20, g)) for name, f in MATRICES.items() if f.fits(40, 60, 20)}
FAMILIES |= {
    f.__name__: (lambda g, f=f: f(g, 40, 60))
    for f in (strategies.integers, strategies.few, strategies.graded_columns, strategies.graded_rows)
}


@pytest.fixture(autouse=True)
def _one_thread():
    with dask.config.set(scheduler="sync"):
        yield


class Counted:
    """A matrix that counts how often each entry is read."""

    def __init__(self, A):
        self.A, self.shape, self.dtype, self.ndim = A, A.shape, A.dtype, 2
        self.reads = np.zeros(A.shape)

    def __getitem__(self, place):
        self.reads[place] += 1
        return self.A[place]


# ---------------------------------------------------------------- the picks of memory


@pytest.mark.filterwarnings("ignore::cssp.RankDeficientWarning")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("family", FAMILIES)
def test_residual_picks_what_memory_picks(family, dtype):
    """Three matrices a family and precision, two hundred in all, in two chunkings each."""
    for seed in range(3):
        A = FAMILIES[family](np.random.default_rng(seed))
        with np.errstate(all="ignore"):
            A = np.asarray(A).astype(dtype)
        if not np.isfinite(A).all():
            continue
        expected = select(A, 30)
        for i in (seed, seed + 2):
            s = select(chunked(A, CHUNKS[i % len(CHUNKS)]), 30)
            assert s.rank == expected.rank
            assert_same_picks(A, s.indices, expected.indices, s.rank, np.finfo(dtype).eps)


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("dtype", [np.complex128, np.float16, np.int16])
def test_other_types(dtype, chunks):
    rng = np.random.default_rng(0)
    A = decaying(rng, 40, 60)
    A = A + 1j * decaying(rng, 40, 60) if dtype == np.complex128 else (100 * A).astype(dtype)
    assert np.array_equal(select(chunked(A, chunks), 12).indices, select(A, 12).indices)


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e30, 1e200])
def test_scale_does_not_matter(scale):
    A = decaying(np.random.default_rng(0), 40, 60)
    s, expected = select(chunked(scale * A, (13, 17)), 12), select(A, 12)
    assert np.array_equal(s.indices, expected.indices)
    assert s.relative_error == pytest.approx(expected.relative_error, rel=1e-10)
    assert s.error == pytest.approx(scale * expected.error, rel=1e-10)


@pytest.mark.filterwarnings("ignore::cssp.RankDeficientWarning")
@pytest.mark.parametrize(
    ("dtype", "scale"), [(np.float64, 1e-312), (np.float64, 1e305), (np.float32, 1e-41), (np.float32, 1e36)]
)
def test_the_ends_of_the_range(dtype, scale):
    """The power of two that scales it is no number itself."""
    A = np.round(8 * decaying(np.random.default_rng(0), 12, 60)).astype(dtype) * dtype(scale)
    for storage in ("both", "csc_array", "operator"):
        s, expected = select(STORAGES[storage](A), 6), select(A, 6)
        assert np.array_equal(s.indices, expected.indices)
        assert s.relative_error == pytest.approx(expected.relative_error, rel=1e-6)


@pytest.mark.filterwarnings("ignore::cssp.RankDeficientWarning")
def test_single_precision_goes_on_in_double():
    A = (10.0 ** -np.arange(0, 6, 0.15)[:, None] * np.random.default_rng(0).standard_normal((40, 80))).astype(
        np.float32
    )
    s, expected = select(chunked(A, (13, 17)), 38), select(A.astype(np.float64), 38)
    assert np.array_equal(s.indices[:12], expected.indices[:12])
    assert s.relative_error < 1.1 * expected.relative_error


@pytest.mark.filterwarnings("ignore::cssp.RankDeficientWarning")
@pytest.mark.parametrize("storage", STORAGES)
def test_arguments(storage):
    rng = np.random.default_rng(1)
    A = decaying(rng, 40, 60)
    valid = rng.random(60) < 0.8
    valid[[3, 5, 30]] = True
    for arguments in (
        {"k": 12, "weights": rng.random(60)},
        {"k": 12, "weights": 10.0 ** rng.uniform(-100, 100, 60)},
        {"k": 12, "include": [5, 3], "exclude": [0, 1, 30]},
        {"k": 12, "include": [5, 3], "exclude": [0, 1, 30], "valid": valid, "weights": rng.random(60)},
        {"tol": 0.3},
        {"tol": 0.2, "k": 40},
        {"tol": 1e-3, "k": 5},
    ):
        s, expected = select(STORAGES[storage](A), **arguments), select(A, **arguments)
        assert np.array_equal(s.indices, expected.indices)
        assert (s.rank, s.k) == (expected.rank, expected.k)
        assert np.allclose(s.errors, expected.errors, rtol=1e-9, atol=1e-25 * float(expected.errors[0]))
        assert np.array_equal(s.mask(), expected.mask())
        if s.rank < s.k:  # then coefficients are as good as the precision lets them be
            continue
        assert np.allclose(s.coefficients(), expected.coefficients(), rtol=1e-7, atol=1e-9)
        assert np.allclose(s.reconstruct(), expected.reconstruct(), rtol=1e-9, atol=1e-12)


def test_padding_may_hold_anything():
    A = decaying(np.random.default_rng(1), 40, 60)
    valid = np.arange(60) % 3 > 0
    B = np.where(valid, A, np.nan)
    for storage in ("both", "csc_array", "operator"):
        s = select(STORAGES[storage](B if storage != "operator" else np.where(valid, A, 7.0)), 9, valid=valid)
        assert np.array_equal(s.indices, select(A, 9, valid=valid).indices)


@pytest.mark.parametrize("storage", STORAGES)
def test_beyond_the_rank(storage):
    rng = np.random.default_rng(2)
    A = STORAGES[storage](rng.standard_normal((40, 5)) @ rng.standard_normal((5, 60)))
    with pytest.warns(RankDeficientWarning, match="only 5 of 8"):
        s = select(A, 8)
    assert s.rank == 5
    assert len(set(s.indices.tolist())) == 8
    assert select(A, 8, deficient="truncate").indices.size == 5
    with pytest.raises(RankDeficientError):
        select(A, 8, deficient="raise")


@pytest.mark.parametrize("storage", STORAGES)
def test_ties_go_to_the_lowest_index(storage):
    A = STORAGES[storage](np.hstack([np.eye(12)] * 4))
    assert select(A, 12).indices.tolist() == list(range(12))


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("family", ["ties", "noise", "decay"])
def test_a_wrong_guess_is_not_taken(family, storage, monkeypatch):
    """Guesses in the wrong order, of which only the first is right: a tie in them goes to a higher index, too."""
    from cssp.pivoting.run import Run

    guess = Run.guess

    def reversed_(self, length):
        found, _ = guess(self, length)
        found = np.concatenate([found[:1], found[:0:-1]])
        E = self.matrix.take(found.tolist())
        return found, np.linalg.qr(E - self.basis @ (self.basis.conj().T @ E))[0]

    rng = np.random.default_rng(3)
    A = np.hstack([np.eye(12)] * 4) if family == "ties" else rng.standard_normal((12, 48))
    A = A * 0.8 ** np.arange(12)[:, None] if family == "decay" else A
    expected = select(A, 9).indices
    monkeypatch.setattr(Run, "guess", reversed_)
    assert np.array_equal(select(STORAGES[storage](A), 9).indices, expected)


def test_stale_norms_end_a_guess(monkeypatch):
    """Guesses as long as they like, through all grades: norms are formed anew before they decide."""
    from cssp.pivoting import run

    monkeypatch.setattr(run, "DROP", 1e-40)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        U, W = (np.linalg.qr(rng.standard_normal((n, 40)))[0] for n in (40, 60))
        A = (U * 10.0 ** -np.linspace(0, 13, 40)) @ W.T
        assert np.array_equal(
            select(chunked(A, (13, 17)), 30).indices, select(A, 30, speculate=False).indices
        )


# ---------------------------------------------------------------- all methods


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("method", passes.METHODS)
def test_every_method_chooses_well(method, storage):
    """No worse than one and a half times what it reaches in memory, on the average of five."""
    mine, theirs = [], []
    for seed in range(5):
        A = decaying(np.random.default_rng(seed), 40, 90)
        s = select(STORAGES[storage](A), 10, method, rng=seed, include=[7], exclude=[0, 1])
        assert s.indices[0] == 7
        assert s.rank == 10
        assert len(set(s.indices.tolist()) - {0, 1}) == 10
        mine.append(s.relative_error)
        theirs.append(select(A, 10, method, rng=seed, include=[7], exclude=[0, 1]).relative_error)
    assert np.mean(mine) <= 1.5 * np.mean(theirs)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize(
    "method", ["norm", "uniform", "sketched_qr", "leverage", "volume", "osinsky", "random_pivot"]
)
def test_the_same_rng_the_same_picks_as_in_memory(method, storage):
    """Sketches of full height have the geometry of A, so that draws and pivots are those of memory."""
    A = decaying(np.random.default_rng(3), 20, 60)
    there = {"accelerated": True} if method == "random_pivot" else {}
    here = {"oversample": 20} if method in ("leverage", "volume", "osinsky") else {}
    s = select(STORAGES[storage](A), 8, method, rng=5, **here)
    assert np.array_equal(s.indices, select(A, 8, method, rng=5, **there).indices)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("method", ["sketched_qr", "random_pivot"])
def test_the_same_with_included_columns_and_a_tolerance(method, storage):
    """Sketches and norms are those of the residual; norms are formed anew before they lie."""
    there = {"accelerated": True} if method == "random_pivot" else {}
    for seed in range(4):
        A = decaying(np.random.default_rng(seed), 30, 60)
        A = 0.5 ** np.arange(30)[:, None] * A
        for arguments in ({"k": 20, "include": [7, 3]}, {"tol": 1e-3}, {"tol": 1e-6, "include": [1]}):
            s = select(STORAGES[storage](A), method=method, rng=seed, **arguments)
            expected = select(A, method=method, rng=seed, **arguments, **there)
            assert np.array_equal(s.indices, expected.indices)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("method", passes.METHODS)
def test_excluded_columns_are_never_chosen(method, storage):
    """The best ones of all, and all of some blocks."""
    A = decaying(np.random.default_rng(0), 40, 90)
    A[:, :30] *= 100
    s = select(STORAGES[storage](A), 10, method, rng=0, exclude=np.arange(30))
    assert s.indices.min() >= 30


@pytest.mark.parametrize("chunks", [(12, 5), (7, 12), (12, 48)])
def test_ties_of_coresets_go_to_the_lowest_index(chunks):
    assert sorted(select(chunked(np.hstack([np.eye(12)] * 4), chunks), 12, "greedy", rng=0).indices) == list(
        range(12)
    )


def test_the_picks_of_a_sketch_do_not_depend_on_the_chunks():
    A = decaying(np.random.default_rng(3), 40, 3000)
    for method in ("leverage", "osinsky", "sketched_qr"):
        found = {
            tuple(select(chunked(A, c), 8, method, rng=5).indices)
            for c in ((40, 3000), (40, 700), (11, 1300))
        }
        assert len(found) == 1


def test_coresets_reconstruct_nearly_as_well_as_greedy():
    """Whatever lies in which block: the same columns next to each other, or the best ones all in one block."""
    rng = np.random.default_rng(4)
    A = decaying(rng, 40, 400)
    for order in (np.arange(400), np.argsort(np.linalg.norm(A, axis=0)), rng.permutation(400)):
        s = select(chunked(A[:, order], (40, 23)), 10, "greedy", rng=0)
        assert s.relative_error <= 1.1 * select(A, 10, "greedy").relative_error


def test_what_all_offers_span_is_no_worse_than_what_each_spans_of_its_part():
    from cssp.passes.greedy import _merged, _offer

    A = decaying(np.random.default_rng(4), 40, 90)
    every = np.ones(90, dtype=bool)
    ask = {"Y": A, "k": 8, "C": A[:, :0]}
    offers = [_offer(A[:, a : a + 30], a, candidates=every, **ask) for a in (0, 30, 60)]
    assert (
        [offer[0].min() // 30 for offer in offers] == [offer[0].max() // 30 for offer in offers] == [0, 1, 2]
    )
    assert all(np.array_equal(A[:, place], C) for place, C in offers)

    def left(columns, part):
        Q = np.linalg.qr(A[:, columns])[0]
        return np.linalg.norm(part - Q @ (Q.T @ part)) ** 2

    union = np.concatenate([place for place, _ in offers])
    parts = sum(left(place, A[:, 30 * i : 30 * i + 30]) for i, (place, _) in enumerate(offers))
    assert left(union, A) <= parts
    best = select(A[:, np.sort(union)], 8, "greedy", target=A).indices
    assert np.array_equal(_merged(offers, **ask)[0], np.sort(union)[best])


def test_the_page_in_the_docs_runs(tmp_path):
    page = Path(__file__).parents[2] / "docs" / "beyond_memory.md"
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.S):
        exec(block.replace("/tmp/", f"{tmp_path}/"), names)
    assert isinstance(names["T"], da.Array)
    assert not list(tmp_path.iterdir())


def test_the_table_says_where_a_method_works():
    for name, row in METHODS.items():
        for kind in ("dask", "sparse", "operator"):
            assert (kind in row.backends) == (name in passes.METHODS)


# ---------------------------------------------------------------- passes and memory


def test_passes_are_counted():
    """As the source itself counts them, chunk by chunk."""
    A = decaying(np.random.default_rng(5), 60, 400)
    for method in passes.METHODS:
        source = Counted(A)
        s = select(da.from_array(source, chunks=(30, 50), asarray=False), 10, method, rng=0)
        assert source.reads.mean() == pytest.approx(s.passes)


@pytest.mark.parametrize("kind", ["polynomial", "exponential"])
def test_few_passes(kind):
    """At most k/8 on decaying spectra."""
    rng, k = np.random.default_rng(6), 120
    s = {"polynomial": 1 / (1.0 + np.arange(256)), "exponential": 0.96 ** np.arange(256) + 1e-3}[kind]
    A = s[:, None] * rng.standard_normal((256, 4000)) * rng.lognormal(0, 0.3, 4000)
    found = select(chunked(A, (256, 400)), k)
    assert np.array_equal(found.indices, select(A, k).indices)
    assert found.passes <= k / 8


def test_one_pass_for_sketched_qr():
    source = Counted(decaying(np.random.default_rng(5), 60, 400))
    s = select(da.from_array(source, chunks=(60, 4), asarray=False), 10, "sketched_qr", rng=0)
    assert s.passes <= 2 + 10 * 4 / 400  # norms, the sketch, and the chunks of the chosen columns
    assert source.reads.mean() == pytest.approx(s.passes)


def test_a_chunk_is_not_held_for_long():
    """Of a matrix made on the fly no more than a few chunks exist at a time."""
    alive, most, lock = set(), [0], threading.Lock()

    class Block(np.ndarray):
        def __del__(self):
            with lock:
                alive.discard(id(self))

    def made(block_info=None):
        where = block_info[None]["chunk-location"]
        X = np.random.default_rng(where).standard_normal((64, 50)).view(Block)
        with lock:
            alive.add(id(X))
            most[0] = max(most[0], len(alive))
        return X

    A = da.map_blocks(made, chunks=((64,), (50,) * 40), dtype=float, meta=np.empty((0, 0)))
    for method in ("residual", "sketched_qr", "greedy"):
        select(A, 10, method, rng=0)
    assert most[0] <= 4


def test_unknown_chunks():
    A = decaying(np.random.default_rng(7), 40, 60)
    D = chunked(A, (13, 17))
    unknown = D[:, da.from_array(np.arange(60) % 2 == 0, chunks=17)]
    chunks = unknown.chunks
    assert np.array_equal(select(unknown, 9).indices, select(A[:, ::2], 9).indices)
    assert str(unknown.chunks) == str(chunks)  # the caller's array is as it was


def test_progress_is_dask_s_own(capsys):
    from dask.diagnostics import ProgressBar

    A = chunked(decaying(np.random.default_rng(7), 40, 60), (13, 17))
    select(A, 5)
    assert capsys.readouterr().out == ""
    with dask.config.set(scheduler="threads"), ProgressBar():
        select(A, 5)
    assert "Completed" in capsys.readouterr().out


# ---------------------------------------------------------------- results


def test_results_are_lazy():
    A = decaying(np.random.default_rng(8), 40, 60)
    w = np.random.default_rng(8).random(60)
    s = select(chunked(A, (13, 17)), 9, weights=w)
    for X in (s.coefficients(), s.reconstruct()):
        assert isinstance(X, da.Array)
        assert X.chunks[1] == (17, 17, 17, 9)


@pytest.mark.filterwarnings("ignore::cssp.RankDeficientWarning")
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (40, 40)])
def test_certificates_are_those_of_memory(shape, storage):
    rng = np.random.default_rng(8)
    m, n = shape
    A = decaying(rng, m, n)
    low = rng.standard_normal((m, 6)) @ rng.standard_normal((6, n))
    for X, call in (
        (A, {"k": 9}),
        (A, {"k": 9, "weights": rng.random(n)}),
        (A, {"k": 9, "valid": np.arange(n) % 3 > 0, "include": [4]}),
        (1e-200 * A, {"k": 9}),
        (A + 1j * decaying(rng, m, n), {"k": 9}),
        (low, {"k": 6}),
        (low, {"k": 8}),
        (0 * A, {"k": 2}),
        (np.vander(np.linspace(0, 1, m), n), {"k": 12}),
    ):
        s, expected = select(STORAGES[storage](X), **call), select(X, **call)
        assert np.array_equal(s.indices, expected.indices)
        mine, theirs = s.certificate(), expected.certificate()
        total = float(expected.errors[0])
        for field in dataclasses.fields(mine):
            x, y = getattr(mine, field.name), getattr(theirs, field.name)
            if not isinstance(y, float):
                assert x == y
            elif "ratio" in field.name and not theirs.squared_optimum > 1e-20 * total:
                assert np.isfinite(x) == np.isfinite(y)  # both of rounding
            else:
                rounding = (
                    1e-24 * total
                    if "squared" in field.name
                    else 1e-12 * total**0.5
                    if "error" in field.name or field.name == "width"
                    else 0
                )
                assert x == pytest.approx(y, rel=1e-8, abs=rounding)


def test_a_theorem_holds_for_the_method_not_for_its_sketch():
    """In passes osinsky goes by a sketch, and greedy by core-sets."""
    A = decaying(np.random.default_rng(8), 40, 60)
    assert select(chunked(A, (13, 17)), 4).certificate().factor == select(A, 4).certificate().factor
    assert select(A, 4, "osinsky").certificate().factor == 5
    assert select(chunked(A, (13, 17)), 4, "osinsky").certificate().factor is None


@pytest.mark.parametrize("storage", STORAGES)
def test_the_optimum_is_estimated(storage):
    A = decaying(np.random.default_rng(9), 40, 60)
    best = float(np.sum(np.linalg.svd(A, compute_uv=False)[8:] ** 2))
    assert best * (1 - 1e-9) <= passes.sketched_optimum(STORAGES[storage](A), 8, rng=0) <= 1.02 * best


# ---------------------------------------------------------------- blocks of every kind


def blocks(A, f, **given):
    """A in four blocks, f applied to each."""
    return da.from_array(A, chunks=(20, 30)).map_blocks(f, **({"dtype": A.dtype, "meta": A[:0, :0]} | given))


FORMS = {
    "csr_array": sp.csr_array,
    "coo_matrix": sp.coo_matrix,
    "matrix": np.asmatrix,
    "an empty mask": np.ma.asarray,
    "long double": lambda B: B.astype(np.longdouble),
    "single": lambda B: np.round(B * 64).astype(np.float32),
    "integer": lambda B: np.round(B * 64).astype(np.int16),
}


@pytest.mark.filterwarnings("ignore:the matrix subclass")
@pytest.mark.parametrize("method", passes.METHODS)
@pytest.mark.parametrize("form", FORMS)
def test_blocks_may_have_any_form(form, method):
    """As good as the same blocks as plain arrays, whatever the array says of them."""
    f, A = FORMS[form], decaying(np.random.default_rng(1), 40, 60)
    plain = blocks(A, lambda B: np.asarray(f(B).todense() if sp.issparse(f(B)) else f(B), dtype=float))
    s, expected = select(blocks(A, f), 6, method, rng=0), select(plain, 6, method, rng=0)
    assert np.array_equal(s.indices, expected.indices)
    assert s.relative_error == pytest.approx(expected.relative_error, rel=1e-12)
    assert s.certificate().ratio == pytest.approx(expected.certificate().ratio, rel=1e-9)
    assert np.allclose(s.coefficients().compute(), expected.coefficients().compute(), atol=1e-12)
    assert np.allclose(s.reconstruct().compute(), expected.reconstruct().compute(), atol=1e-12)


@pytest.mark.parametrize("dtype", [np.longdouble, np.clongdouble])
def test_long_double_is_worked_on_in_double(dtype):
    A = decaying(np.random.default_rng(1), 40, 60).astype(dtype)
    s = select(da.from_array(A, chunks=(13, 17)), 6)
    assert np.array_equal(s.indices, select(A, 6).indices)
    with pytest.raises(CsspError, match="Inf in column 0"):
        select(da.from_array(A * np.longdouble("1e4000"), chunks=(13, 17)), 6)


@pytest.mark.parametrize("method", passes.METHODS)
def test_empty_blocks(method):
    """Of a filter that leaves nothing of some blocks; and of chunks of no columns or rows."""
    A = decaying(np.random.default_rng(7), 40, 60)
    rows, columns = np.arange(40) // 13 != 1, np.arange(60) // 17 != 2
    part = A[rows][:, columns]
    D = chunked(A, (13, 17))
    filtered = D[da.from_array(rows, chunks=13)][:, da.from_array(columns, chunks=17)]
    expected = select(chunked(part, (13, 17)), 6, method, rng=0)
    last = da.from_array(np.vstack([part, part[:1]]), chunks=(27, 9))[da.arange(28, chunks=27) < 27]
    for X in (filtered, last, da.from_array(part, chunks=((0, 13, 0, 14), (0, 17, 17, 0, 9)))):
        s = select(X, 6, method, rng=0)
        if method != "greedy":  # its core-sets are those of the blocks
            assert np.array_equal(s.indices, expected.indices)
            assert s.relative_error == pytest.approx(expected.relative_error)
        assert s.rank == 6
        assert s.certificate().ratio > 1
        assert s.coefficients().compute().shape == (6, part.shape[1])
        assert s.reconstruct().compute().shape == part.shape
    with pytest.raises(CsspError, match=r"\(0, 60\)"):
        select(D[da.zeros(40, chunks=13, dtype=bool)], 4)


def masked(B):
    return np.ma.masked_greater(B, 2.0)


class Foreign:
    """An array of another library, which converts to NumPy without a word."""

    ndim, dtype = 2, np.dtype(float)

    def __init__(self, B):
        self.B, self.shape = B, B.shape

    def __array__(self, dtype=None, copy=None):
        return self.B

    def __getitem__(self, place):
        return Foreign(self.B[place])


@pytest.mark.parametrize(
    ("f", "given", "words"),
    [
        (masked, {}, ["masked entry", "column 20"]),
        (Foreign, {}, ["test_dask.Foreign", "block"]),
        (lambda B: B[:, 1:], {}, ["shape (20, 29)", "(20, 30)", "compute_chunk_sizes"]),
        (lambda B: B + 1j, {}, ["complex128", "float64", "map_blocks"]),
        (lambda B: B, {"dtype": np.float32}, ["float64", "float32"]),
        (lambda B: B.astype(object), {}, ["object", "float64"]),
        (lambda B: B.astype(str), {}, ["<U", "float64"]),
        (lambda B: np.where(B > 2, np.nan, B), {}, ["NaN", "column"]),
    ],
)
def test_blocks_that_are_not_what_is_said_are_refused(f, given, words):
    A = np.clip(decaying(np.random.default_rng(9), 40, 60), -1, 1)
    A[5, 20] = 3
    with pytest.raises(CsspError) as caught:
        select(blocks(A, f, **given), 4)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_masked_padding_may_be_left_out():
    A = decaying(np.random.default_rng(9), 40, 60)
    valid = ~(A > 2).any(axis=0)
    s = select(blocks(A, masked), 4, valid=valid)
    assert np.array_equal(s.indices, select(A, 4, valid=valid).indices)


def test_a_data_frame():
    pd, dd = pytest.importorskip("pandas"), pytest.importorskip("dask.dataframe")
    A = np.round(decaying(np.random.default_rng(9), 40, 6), 3)
    frame = pd.DataFrame(A, columns=list("abcdef")).astype({"b": "float32"})
    frame["c"], frame["d"] = frame["c"] > 0, np.floor(frame["d"]).astype("int64").astype("Int64")
    expected = select(frame.to_numpy(dtype=float), 3)
    for X in (dd.from_pandas(frame, npartitions=3), dd.from_pandas(frame, npartitions=3)[["a", "b"]]):
        k = min(3, X.shape[1])
        s = select(X, k)
        assert s.relative_error == pytest.approx(
            select(frame.to_numpy(dtype=float)[:, : X.shape[1]], k).relative_error
        )
    assert np.array_equal(select(dd.from_pandas(frame, npartitions=3), 3).indices, expected.indices)
    few = dd.from_pandas(frame, npartitions=3)
    few = few[few["a"] > few["a"].max().compute() - 1e-9]  # most partitions are empty
    assert select(few, 1).rank == 1
    frame["name"], frame["day"] = "x", pd.Timestamp(0)
    with pytest.raises(CsspError, match="columns name, day") as caught:
        select(dd.from_pandas(frame, npartitions=3), 3)
    assert "select_dtypes" in str(caught.value)


def test_a_missing_cell_of_a_data_frame_is_named():
    pd, dd = pytest.importorskip("pandas"), pytest.importorskip("dask.dataframe")
    frame = pd.DataFrame({"a": [1.0, 2, 3], "b": pd.array([1, None, 3], dtype="Int64")})
    with pytest.raises(CsspError, match="NaN in column 1"):
        select(dd.from_pandas(frame, npartitions=2), 1)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("storage", ["rows", "columns", "both", "csr_matrix", "operator"])
def test_the_first_bad_column_is_named(storage, bad):
    A = decaying(np.random.default_rng(9), 40, 60)
    A[3, 41], A[38, 20] = np.nan, bad
    with np.errstate(invalid="ignore"), pytest.raises(CsspError, match="column") as caught:
        select(STORAGES[storage](A), 4)
    if storage != "operator":  # 0·NaN: products with unit vectors spread it
        assert ("NaN" if np.isnan(bad) else "Inf") + " in column 20" in str(caught.value)


def test_refusals_name_those_that_can():
    A = chunked(decaying(np.random.default_rng(9), 40, 60), (13, 17))
    for call, words in (
        (lambda: select(A, 4, "strong_rrqr"), ["dask array", "'strong_rrqr'", "'residual'", "compute"]),
        (lambda: select(A, 4, "greedy", target=np.ones((40, 1))), ["target"]),
        (lambda: select(A, tol=0.1, method="norm"), ["k", "'residual'"]),
        (lambda: select(A, 4, "volume", tol=0.1), ["tol", "'residual'"]),
        (lambda: select(A, 4, accelerated=True), ["accelerated", "checkpoint"]),
        (lambda: select(da.ones((3, 40, 60), chunks=10), 4), ["(3, 40, 60)", "matrix"]),
        (lambda: select(A[:0], 4), ["(0, 60)"]),
        (lambda: select(A.astype(object), 4), ["object"]),
        (lambda: select(A + 1j, 4, "norm"), ["complex", "'residual'"]),
        (lambda: select(A, 100), ["k = 100", "60"]),
        (lambda: select(A, 4, checkpoint=3), ["checkpoint", "path"]),
        (lambda: select(A, 4, checkpoint="/nowhere/at/all"), ["checkpoint", "/nowhere/at"]),
    ):
        with pytest.raises(CsspError) as caught:
            call()
        assert all(word in str(caught.value) for word in words), str(caught.value)


# ---------------------------------------------------------------- interruptions


class Interrupted(Exception):
    pass


def stopped_after(passes_, A):
    """The matrix as a dask array that fails once it was read so often."""
    count = [0]

    def read(block):
        count[0] += 1
        if count[0] > passes_ * 8:
            raise Interrupted
        return block

    return da.from_array(A, chunks=(A.shape[0], A.shape[1] // 8)).map_blocks(read, meta=A[:0, :0])


def test_an_interrupted_run_goes_on(tmp_path):
    A = 1 / (1.0 + np.arange(128))[:, None] * np.random.default_rng(6).standard_normal((128, 1600))
    expected, state = select(A, 100), tmp_path / "state.npz"
    whole = select(stopped_after(99, A), 100)
    with pytest.raises(Interrupted):
        select(stopped_after(5, A), 100, checkpoint=state)
    assert [path.name for path in tmp_path.iterdir()] == ["state.npz"]
    assert state.stat().st_size < 40 * (1600 + 128 * 100)
    s = select(stopped_after(99, A), 100, checkpoint=state)
    assert np.array_equal(s.indices, expected.indices)
    assert s.rank == expected.rank
    again = select(stopped_after(99, A), 100, checkpoint=state)  # nothing is left to be done
    assert np.array_equal(again.indices, expected.indices)
    assert again.passes <= s.passes + 1 <= whole.passes + 4
    best = expected.indices[[2, 50, 99]]
    with pytest.raises(Interrupted):
        select(stopped_after(5, A), 100, exclude=best, checkpoint=tmp_path / "other.npz")
    s = select(stopped_after(99, A), 100, exclude=best, checkpoint=tmp_path / "other.npz")
    assert np.array_equal(s.indices, select(A, 100, exclude=best).indices)
    for A2, k in ((A[:, ::-1], 100), (A, 99)):
        with pytest.raises(CsspError, match="another matrix or other arguments"):
            select(stopped_after(99, np.ascontiguousarray(A2)), k, checkpoint=state)
    state.write_bytes(b"nonsense")
    with pytest.raises(CsspError, match="cannot be read"):
        select(stopped_after(99, A), 100, checkpoint=state)


def test_importing_cssp_imports_no_dask():
    import subprocess
    import sys

    code = "import sys, cssp; sys.exit(any(name in sys.modules for name in ('dask', 'distributed', 'torch', 'sklearn')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_that_loses_a_worker(tmp_path):
    """Two processes; one of them is killed by its process id after the first guess."""
    distributed = pytest.importorskip("distributed")
    zarr = pytest.importorskip("zarr")
    rng = np.random.default_rng(6)
    A = (1 / (1.0 + np.arange(128))[:, None] * rng.standard_normal((128, 3200))).astype(np.float32)
    Z = zarr.create_array(str(tmp_path / "A.zarr"), shape=A.shape, chunks=(128, 400), dtype="float32")
    Z[:] = A
    state = tmp_path / "state.npz"
    with (
        dask.config.set(scheduler="distributed"),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0", local_directory=str(tmp_path)
        ) as cluster,
        distributed.Client(cluster.scheduler_address) as client,
    ):
        D = da.from_zarr(str(tmp_path / "A.zarr"))
        pids = list(client.run(os.getpid).values())
        killed = threading.Event()

        def kill():
            while not state.exists():
                time.sleep(0.001)
            os.kill(pids[0], signal.SIGKILL)
            killed.set()

        thread = threading.Thread(target=kill, daemon=True)
        thread.start()
        s = select(D, 100, checkpoint=state)
        thread.join()
        assert killed.is_set()
        expected = select(A, 100)
        assert_same_picks(A, s.indices, expected.indices, 100, np.finfo(np.float32).eps)
        assert s.relative_error == pytest.approx(expected.relative_error, rel=1e-5)
        sketched = [select(D, 20, "sketched_qr", rng=0).indices for _ in range(2)]
        assert np.array_equal(*sketched)
    assert cssp.passes.kind_of(D) == "dask"
