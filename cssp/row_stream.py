"""Rows that arrive in blocks: the triangular factor R of all rows so far, merged with each block, and a choice of columns on R.

RᴴR = AᴴA, so that errors, coefficients and the certificate of columns of R are those of A. R is merged by orthogonal
transformations: a sum of products AᴴA would lose the half of the digits that its squares take.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from cssp import arguments as check
from cssp import linalg
from cssp.finish import solved, warn_of_dependence
from cssp.frames import Named
from cssp.in_memory import InMemory
from cssp.pivoting import floor
from cssp.request import requested
from cssp.scaling import default_floating_errors
from cssp.select import _record
from cssp.selection import Selection

__all__ = ["ROWS", "RowStream"]

#: Rows that are merged at a time: so the answer does not depend on how rows are cut into blocks.
ROWS = 1024


class RowStream:
    """The rows of a matrix seen so far, as far as they matter for its columns.

    Attributes
    ----------
    dtype : numpy.dtype
        Precision that the rows came in.
    R : array, shape (n, n)
        Upper triangular, in double precision: of the rows merged so far.
    block : array, shape (ROWS, n)
        The rows that wait to be merged, the first `waiting` of it.
    seen : int
        Number of rows.
    names : list of str or None
        Names of the columns, where the first rows came in a data frame.
    """

    def __init__(self, n: int, dtype: np.dtype, names: list[str] | None = None) -> None:
        self.dtype, self.seen, self.names = dtype, 0, names
        wide = np.promote_types(dtype, np.float64)
        self.R = np.zeros((n, n), dtype=wide, order="F")
        self.block = np.empty((ROWS, n), dtype=dtype)

    @property
    def waiting(self) -> int:
        """Rows that are not merged yet."""
        return self.seen % ROWS

    def take(self, rows: np.ndarray) -> None:
        """Take in rows, shape (b, n)."""
        while len(rows):
            have = self.waiting
            now = min(len(rows), ROWS - have)
            self.block[have : have + now] = rows[:now]
            self.seen += now
            if have + now == ROWS:
                self.R = linalg.folded(self.R, self.block)
            rows = rows[now:]

    def triangle(self) -> np.ndarray:
        """Return R of all rows, upper triangular or trapezoidal, shape (min(seen, n), n)."""
        R = self.R
        if self.waiting:
            R = linalg.folded(R.copy(order="F"), self.block[: self.waiting])
        return R[: min(self.seen, len(R))]

    @default_floating_errors
    def select(self, k: int, method: str, rng: np.random.Generator) -> Selection:
        """Return columns chosen on R, dependence being judged as of the matrix of all rows in their own precision."""
        row, R = check.find_method(method), self.triangle()
        matrices = InMemory(R if self.names is None else Named(R, self.names), row, {}, None, False)
        p = matrices.problem(
            (), requested((), R.shape[1], k=k, tol=None, include=None, exclude=None).item(()), rng
        )
        ratio = floor(self.seen, p.n, 1.0, 1.0) / floor(p.m, p.n, 1.0, 1.0)
        p = replace(p, data_eps=float(np.finfo(self.dtype).eps) * ratio)
        part, short = solved(p, row, {}, "fill", True)
        if short:
            warn_of_dependence([part], 0)
        found: Any = _record([part], matrices, {})
        return replace(found, _rows_at_hand=False)
