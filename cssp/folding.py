"""A tall matrix as one of few rows with the same inner products of columns: choices and errors depend on these alone.

With [A B] = Q [A' B'], the columns of Q orthonormal, ‖A x - B y‖ = ‖A' x - B' y‖ for all x and y. So projections, residuals,
volumes, singular values and right singular vectors of A' are those of A, and the error of a target B is that of B', if both are
rotated by the same Q. [A' B'] is the triangular factor of a QR decomposition by orthogonal transformations, in double
precision, which is backward stable column by column; see docs/theory/numerics.md.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from cssp import linalg

__all__ = ["Folding", "folding_of"]

Array = Any

#: A matrix is folded from so many rows for each column of A and B on, and from so many entries on.
TALL, LARGE = 8, 1 << 22


class Folding:
    """A', and B' where there is a target, formed when they are first asked for and kept."""

    def __init__(self, A: Array, B: Array | None) -> None:
        self.A, self.B = A, B

    @cached_property
    def factors(self) -> tuple[np.ndarray, np.ndarray | None]:
        """A', shape (n, n), and None; with a target A', shape (n + p, n), and B', shape (n + p, p)."""
        n = int(self.A.shape[1])
        R = linalg.triangle(*(X for X in (self.A, self.B) if X is not None))
        return R[:, :n], None if self.B is None else R[:, n:]

    @property
    def formed(self) -> bool:
        """Whether they were asked for."""
        return "factors" in vars(self)


def folding_of(A: Array, B: Array | None) -> Folding | None:
    """Return how to fold A (m, n) and the target B (m, p), if these are tall and large enough for that to pay; None elsewhere."""
    m, width = int(A.shape[0]), int(A.shape[1]) + (0 if B is None else int(B.shape[1]))
    return Folding(A, B) if m >= TALL * width and m * width >= LARGE else None
