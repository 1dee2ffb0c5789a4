"""The Gram matrix of a sparse matrix with few entries in a row, such as a one-hot table, by counting pairs of entries."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["sparse_gram"]

#: Pairs of entries that are counted at once.
PAIRS = 1 << 22

#: Pairs are counted where rows padded to the longest have at most so many times the pairs there are.
PADDING = 3


def sparse_gram(A: Any) -> np.ndarray:
    """Return AᴴA as a dense array, A being a canonical `csr_array` (m, n); exact where its entries are 1.

    A product of sparse matrices inserts every pair of entries of a row into a list. Where rows are about equally long,
    entry t of all rows is paired with all later ones at once.

    Examples
    --------
    >>> import numpy as np, scipy.sparse
    >>> sparse_gram(scipy.sparse.csr_array(np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])))
    array([[1., 0., 1.],
           [0., 1., 1.],
           [1., 1., 2.]])
    """
    lengths = np.diff(A.indptr)
    longest = int(lengths.max(initial=0))
    pairs = int(np.sum(lengths.astype(np.int64) ** 2))
    if A.dtype.kind == "c" or longest**2 * A.shape[0] > PADDING * pairs or A.shape[1] ** 2 > pairs:
        return np.asarray((A.conj().T @ A).toarray())
    n, ones = A.shape[1], bool(np.all(A.data == 1))
    U = np.zeros((n + 1) ** 2)  # column n is that of padding
    step = max(1, max(PAIRS, U.size) // longest)
    for a in range(0, A.shape[0], step):
        column, value = _padded(A[a : a + step], longest)
        for t in range(longest):
            place = (column[:, t : t + 1] * (n + 1) + column[:, t:]).ravel()
            weights = None if ones else (value[:, t : t + 1] * value[:, t:]).ravel()
            U += np.bincount(place, weights=weights, minlength=U.size)
    U = U.reshape(n + 1, n + 1)[:n, :n]
    return np.asarray(U + np.triu(U, 1).T)


def _padded(A: Any, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the columns and values of the entries of each row, columns ascending; n and 0 after the last."""
    lengths = np.diff(A.indptr)
    if (lengths == longest).all():
        shape = (A.shape[0], longest)
        return A.indices.reshape(shape).astype(np.int64), A.data.reshape(shape)
    column = np.full((A.shape[0], longest), A.shape[1], dtype=np.int64)
    value = np.zeros(column.shape, dtype=A.dtype)
    there = np.arange(longest) < lengths[:, None]
    column[there], value[there] = A.indices, A.data
    return column, value
