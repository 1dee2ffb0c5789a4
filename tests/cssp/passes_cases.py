"""Matrices in every storage that is read in passes, chunkings, and what equal picks mean."""

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import aslinearoperator

#: One piece, rows, columns, both, odd sizes.
CHUNKS = ((100, 100), (7, 100), (100, 11), (13, 17), ((5, 1, 9, 25), (1, 40, 19)))


def chunked(A, chunks):
    import dask.array as da

    return da.from_array(np.ascontiguousarray(A), chunks=chunks)


STORAGES = {
    "rows": lambda A: chunked(A, (7, A.shape[1])),
    "columns": lambda A: chunked(A, (A.shape[0], 11)),
    "both": lambda A: chunked(A, (13, 17)),
    "csr_matrix": sp.csr_matrix,
    "csc_array": sp.csc_array,
    "operator": aslinearoperator,
}


def decaying(rng, m, n, dtype=np.float64):
    A = 0.9 ** np.arange(m)[:, None] * rng.standard_normal((m, n)) * rng.lognormal(0, 0.3, n)
    return A.astype(dtype)


def height2(A, before, j):
    """Squared residual norm of column j behind these, in double precision."""
    A = A.astype(np.complex128 if A.dtype.kind == "c" else np.float64)
    Q = np.linalg.qr(A[:, list(before)])[0] if len(before) else A[:, :0]
    e = A[:, j]
    for _ in range(2):
        e = e - Q @ (Q.conj().T @ e)
    return float(np.vdot(e, e).real)


def assert_same_picks(A, picks, expected, rank, eps):
    """Equal up to the rank; where they part, the two columns tie to rounding in the precision of A."""
    for t in range(rank):
        i, j = int(picks[t]), int(expected[t])
        if i == j:
            continue
        assert A.dtype in (np.float32, np.complex64), f"pick {t}: {i}, not {j}"
        norms2 = [float(np.linalg.norm(A[:, x].astype(np.float64)) ** 2) for x in (i, j)]
        heights = [height2(A, expected[:t], x) for x in (i, j)]
        assert abs(heights[0] - heights[1]) <= 80 * eps * max(heights) + 24 * eps * max(norms2)
        return
