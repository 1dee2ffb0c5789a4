"""One matrix in every storage that `select` reads in passes, cut into small pieces."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from cssp import passes
from cssp.passes import mapped, source

SPARSE = ("csr", "csc", "coo", "lil", "dok", "bsr", "dia")


@contextmanager
def small_tiles():
    """Every mapped file is a large one, and every matrix has many tiles; dask works in this thread."""
    import dask

    with ExitStack() as stack:
        for module, name, value in (
            (passes, "MAPPED", 0),
            (mapped, "BLOCK", 20),
            (source, "BLOCK", 20),
            (mapped, "SLAB", 3),
            (source, "SLAB", 3),
            (mapped, "PRODUCT", 12),
        ):
            stack.enter_context(mock.patch.object(module, name, value))
        stack.enter_context(dask.config.set(scheduler="sync"))
        yield


def cut(length, random):
    """Lengths of pieces, at least one."""
    ends = sorted({*random.sample(range(1, length), min(length - 1, random.randint(0, 3))), length})
    return tuple(b - a for a, b in zip([0, *ends], ends, strict=False))


def in_chunks(A, random, stack):
    """A dask array; half of them were filtered, so that chunks may be empty and of unknown size."""
    import dask.array as da

    def chunked(X):
        return da.from_array(X, chunks=tuple(cut(length, random) for length in X.shape))

    if random.random() < 0.5:
        return chunked(A)
    wide = np.repeat(A, 2, axis=0)  # every row twice, in pieces: which of the two stays is drawn
    keep = np.zeros(len(wide), dtype=bool)
    keep[[2 * i + random.randint(0, 1) for i in range(len(A))]] = True
    X = da.from_array(wide, chunks=(1, cut(A.shape[1], random)))
    X = X[da.from_array(keep, chunks=1)]
    return X.compute_chunk_sizes() if random.random() < 0.5 else X


def scattered(A, random, stack):
    """A sparse matrix or array of any format; in some, entries come in two halves."""
    form, kind = random.choice(SPARSE), random.choice(["array", "matrix"])
    S = sp.coo_array(A)
    halves = np.ldexp(S.data, -1) if A.dtype.kind == "f" else S.data
    if np.array_equal(halves + halves, S.data) and random.random() < 0.5:
        S = sp.coo_array((np.tile(halves, 2), tuple(np.tile(x, 2) for x in S.coords)), A.shape)
    return getattr(sp, f"{form}_{kind}")(S)


def as_operator(A, random, stack):
    """A LinearOperator: of the matrix, of products with one vector or with many, with its adjoint or without."""
    quiet = np.errstate(all="ignore")
    own = {"matmat": quiet(lambda X: A @ X), "rmatvec": quiet(lambda y: A.conj().T @ y)}
    own["rmatmat"] = own["rmatvec"]
    if random.random() < 0.3:
        return aslinearoperator(A)
    own = {name: f for name, f in own.items() if random.random() < 0.5}
    return LinearOperator(A.shape, matvec=quiet(lambda x: A @ x), dtype=A.dtype, **own)


def in_a_file(A, random, stack):
    """A mapped file of rows or columns, forwards or backwards, every entry or some, behind an offset."""
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    path = Path(folder) / "A.npy"
    step, order = random.choice([1, 2]), random.choice("CF")
    X = np.array(np.repeat(A, step, axis=1), order=order)
    if random.random() < 0.3:
        X = np.array(X.astype(X.dtype.newbyteorder()), order=order)
    if random.random() < 0.5:
        offset = random.randint(0, 9)
        path.write_bytes(bytes(offset) + X.tobytes(order=order))
        M = np.memmap(path, dtype=X.dtype, mode="r", offset=offset, shape=X.shape, order=order)
    else:
        np.save(path, X[:, ::-1] if step == 1 else X)
        M = np.load(path, mmap_mode="r")
        M = M[:, ::-1] if step == 1 else M
    return M[:, ::step]


STORAGES = {"dask": in_chunks, "sparse": scattered, "operator": as_operator, "mapped": in_a_file}
