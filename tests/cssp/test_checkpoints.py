"""Kept state: a fingerprint of the whole problem, the same in any chunks; files that are refused before they can do harm."""

import dataclasses
import os
import re

import numpy as np
import pytest
import scipy.sparse as sp
from passes_cases import CHUNKS, STORAGES, chunked, decaying
from scipy.sparse.linalg import aslinearoperator

from cssp import CsspError, StreamingSelector, checkpoints, passes, select
from cssp.errors import MissingFileError
from cssp.passes.checkpoint import State
from cssp.passes.fingerprint import APART, _multipliers, column_sums, fingerprint

pytest.importorskip("dask")
pytestmark = pytest.mark.filterwarnings("ignore::cssp.RankDeficientWarning")


@pytest.fixture(autouse=True)
def _one_thread():
    import dask

    with dask.config.set(scheduler="sync"):
        yield


def sums(X):
    return passes.source_of(X, None, summed=True).scan().sums


def problem(A, **given):
    """The problem that `select` hands to residual."""
    got = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(State, "save", lambda state, path, p: got.append(p))
        select(A, checkpoint="unused", **given)
    return got[0]


# --- the fingerprint ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
def test_sums_are_those_of_the_definition(dtype):
    """Σ_i r_i x_ij over the 32-bit words, in Python's integers."""
    rng = np.random.default_rng(0)
    A = rng.standard_normal((7, 5)).astype(dtype)
    A = A + 1j * A.T[:5, :1].T if A.dtype.kind == "c" else A
    A = A.astype(dtype)
    words = A.itemsize // 4
    x = np.ascontiguousarray(A).view(np.uint32).reshape(7, 5, words)
    r = _multipliers(np.arange(7), words)
    assert np.unique(r).size == r.size
    for s in range(2):
        for j in range(5):
            exact = sum(int(r[w, s, i]) * int(x[i, j, w]) for i in range(7) for w in range(words)) % 2**64
            assert column_sums(A)[s, j] == exact


@pytest.mark.parametrize(
    "dtype", [np.float32, np.float64, np.complex64, np.complex128, np.int16, bool, np.float16]
)
def test_sums_are_the_same_in_every_storage(dtype):
    rng = np.random.default_rng(1)
    A = (3 * rng.standard_normal((40, 60)) * (rng.random((40, 60)) < 0.4)).astype(dtype)
    expected = sums(chunked(A, (40, 60)))
    for chunks in CHUNKS:
        assert np.array_equal(sums(chunked(A, chunks)), expected)
        assert np.array_equal(sums(chunked(A, chunks).map_blocks(np.asfortranarray)), expected)
    if dtype is not np.float16:  # SciPy has none
        stored = sp.coo_array(A)
        stored.data[:3] = 0  # zeros that are stored
        assert np.array_equal(sums(stored), sums(chunked(stored.toarray(), (7, 60))))
        assert np.array_equal(sums(sp.csr_matrix(A)), expected)
    if np.dtype(dtype).kind in "fc" and dtype is not np.float16:
        assert np.array_equal(sums(aslinearoperator(A)), expected)
        assert np.array_equal(sums(chunked(0 - A, (13, 17)).map_blocks(np.negative)), expected)
        assert np.array_equal(sums(chunked(np.where(A == 0, -A, A), (13, 17))), expected)  # -0.0


def test_sums_tell_apart_what_differs_in_one_entry():
    rng = np.random.default_rng(2)
    A = rng.choice([-1.0, 1.0], (6, 5))
    seen = {column_sums(A).tobytes()}
    for place in np.ndindex(A.shape):
        for value in (-A[place], np.nextafter(A[place], 2), 0.0, 1e-300):
            B = A.copy()
            B[place] = value
            seen.add(column_sums(B).tobytes())
    assert len(seen) == 1 + 4 * A.size
    assert len({column_sums(rng.permuted(A, axis=0)).tobytes() for _ in range(200)}) > 190


GIVEN = {"k": 4, "include": [5, 3], "exclude": [7, 9], "weights": 1 + np.arange(60) / 60, "tol": 0.01}


@pytest.mark.parametrize(
    "change",
    [
        {"k": 5},
        {"tol": 0.02},
        {"tol": None},
        {"include": [3, 5]},
        {"include": [5]},
        {"exclude": [7]},
        {"exclude": [6, 10]},
        {"weights": None},
        {"weights": 2 + np.arange(60) / 30},
        {"valid": np.arange(60) < 59},
        {"valid": np.arange(60) != 58},
        {"A": decaying(np.random.default_rng(3), 40, 60) * 2},
        {"A": decaying(np.random.default_rng(3), 40, 60).astype(np.float32)},
        {"A": decaying(np.random.default_rng(3), 40, 60).astype(complex)},
        {"A": np.vstack([decaying(np.random.default_rng(3), 40, 60), np.zeros(60)])},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_argument_that_decides_counts(change):
    given = {"A": decaying(np.random.default_rng(3), 40, 60), **GIVEN}
    marks = {
        fingerprint(problem(**{**given, **change, "A": stored((given | change)["A"])}))
        for stored in (STORAGES["both"], STORAGES["csc_array"])
    }
    assert len(marks) == 1
    assert fingerprint(problem(**{**given, "A": STORAGES["rows"](given["A"])})) not in marks


def test_every_field_of_a_problem_counts():
    """Also one that is added some day, unless it is named in APART."""
    p = problem(STORAGES["both"](decaying(np.random.default_rng(3), 40, 60)), **GIVEN)
    for field in dataclasses.fields(p):
        changed = dataclasses.replace(p, **{field.name: np.arange(3)}) if field.name != "A" else p
        assert (fingerprint(changed) == fingerprint(p)) == (field.name in APART)


def test_a_source_whose_scan_takes_no_sums_has_a_fingerprint_too():
    A = decaying(np.random.default_rng(3), 40, 60)
    marks = []
    for X in (A, A * (1 - 1e-15), A.copy()):
        p = problem(STORAGES["both"](X), k=4)
        p.A.content = None
        marks.append(fingerprint(p))
    assert marks[0] == marks[2] != marks[1]


def test_it_costs_no_pass(tmp_path):
    for name, stored in STORAGES.items():
        X = stored(decaying(np.random.default_rng(3), 40, 60))
        assert select(X, 9, checkpoint=tmp_path / f"{name}.npz").passes == select(X, 9).passes


# --- going on -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
def test_a_run_goes_on_in_any_storage(tmp_path, dtype):
    A = decaying(np.random.default_rng(4), 40, 60, dtype)
    right = select(chunked(A, (40, 60)), 12)
    for name, stored in STORAGES.items():
        s = select(stored(A), 12, checkpoint=tmp_path / "state.npz")
        assert np.array_equal(s.indices, right.indices), name
        assert s.rank == right.rank


def test_a_tolerance_that_cannot_be_met_needs_no_other_file(tmp_path):
    """Where the method stops too soon, it is run again without tol, which is no reason to refuse its own checkpoint."""
    rng = np.random.default_rng(5)
    A = rng.standard_normal((40, 3)) @ rng.standard_normal((3, 60))
    for _ in range(2):
        s = select(chunked(A, (13, 17)), 6, tol=1e-300, checkpoint=tmp_path / "state.npz")
        assert np.array_equal(s.indices[:3], select(A, 3).indices)
        assert s.rank == 3


def test_a_checkpoint_is_kept_where_a_link_leads(tmp_path):
    A, (real, link) = decaying(np.random.default_rng(4), 40, 60), (tmp_path / "real", tmp_path / "link")
    link.symlink_to(real)
    right = select(A, 12).indices
    for _ in range(2):
        assert np.array_equal(select(chunked(A, (13, 17)), 12, checkpoint=link).indices, right)
        assert link.is_symlink()
        assert real.is_file()
    stream = StreamingSelector(3, rng=0).partial_fit(A)
    link.unlink()
    link.symlink_to("stream")
    stream.save(link)
    assert np.array_equal(StreamingSelector.load(tmp_path / "stream").indices_, stream.indices_)

    # --- refusals -------------------------------------------------------------------------------------------


def test_what_cannot_be_a_checkpoint_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, content in {"empty": b"", "text": b"nonsense", "zip": b"PK\x03\x04 broken"}.items():
        (tmp_path / name).write_bytes(content)
    np.save(tmp_path / "matrix.npy", np.ones((3, 3)))
    np.savez(tmp_path / "other.npz", a=np.ones(3))
    np.savez(tmp_path / "version.npz", kind=np.array("residual 1"), digest=np.zeros(32))
    (tmp_path / "kept").write_bytes(b"")
    (tmp_path / "kept").chmod(0o444)
    A = chunked(decaying(np.random.default_rng(4), 40, 60), (13, 17))
    for path in sorted(tmp_path.iterdir()):
        before = path.read_bytes() if path.is_file() else None
        for call in (
            lambda path=path: select(A, 4, checkpoint=path),
            lambda path=path: StreamingSelector.load(path),
        ):
            with pytest.raises(CsspError, match=re.escape(path.name)):
                call()
        assert before is None or path.read_bytes() == before
    with pytest.raises(CsspError, match="its kind is 'residual 1'"):
        select(A, 4, checkpoint=tmp_path / "version.npz")


def test_a_checkpoint_that_cannot_be_written_is_refused_before_anything_is_chosen(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(passes.Source, "sweep", None)
    A = chunked(decaying(np.random.default_rng(4), 40, 60), (13, 17))
    for path, why in (("folder", "a folder"), ("no/such", "No such file or directory")):
        with pytest.raises(CsspError, match=f"checkpoint = .*{why}"):
            select(A, 4, checkpoint=tmp_path / path)


def test_an_absent_stream_is_missing(tmp_path):
    with pytest.raises(MissingFileError, match=re.escape("absent.npz")) as caught:
        StreamingSelector.load(tmp_path / "absent.npz")
    assert isinstance(caught.value, CsspError)
    assert isinstance(caught.value, FileNotFoundError)


def test_keys_and_kinds_are_kept_apart(tmp_path):
    path, state = tmp_path / "state.npz", {"x": np.arange(6.0).reshape(2, 3), "word": np.array("ü")}
    checkpoints.save(path, "kind 1", state, b"key")
    back = checkpoints.load(path, "kind 1", b"key")
    assert set(back) == set(state)
    assert all(np.array_equal(back[name], state[name]) for name in state)
    for kind, key, why in (
        ("kind 2", b"key", "its kind is 'kind 1'"),
        ("kind 1", b"other", "belongs to another matrix or other arguments, or is damaged"),
        ("kind 1", b"", "is damaged"),
    ):
        with pytest.raises(CsspError, match=re.escape(why)):
            checkpoints.load(path, kind, key)


def test_digests_tell_types_shapes_and_names_apart():
    x = np.arange(6)
    states = [
        {"x": x},
        {"y": x},
        {"x": x.astype(np.uint64)},
        {"x": x.reshape(2, 3)},
        {"x": x.reshape(3, 2).T},
        {"x": x[:5], "y": x[5:]},
        {"x": x, "y": x[:0]},
    ]
    assert len({checkpoints.digest_of("kind", state, b"").tobytes() for state in states}) == len(states)
    F = np.asfortranarray(x.reshape(2, 3))
    assert np.array_equal(
        checkpoints.digest_of("", {"x": F}, b""), checkpoints.digest_of("", {"x": F.copy("C")}, b"")
    )
