"""Randomly pivoted QR by rejection on a matrix read in passes [epperly2024]: one pass for a block of proposals."""

from __future__ import annotations

from cssp.methods.random_pivot import rejecting
from cssp.passes.pool import Swept
from cssp.passes.problem import PassProblem
from cssp.problem import Picks
from cssp.sampling import Residual

__all__ = ["random_pivot"]


def random_pivot(p: PassProblem) -> Picks:
    """Return the picks of ``random_pivot`` with ``accelerated=True`` for the same rng."""
    d = p.numpy("double")
    return Picks(rejecting(Residual(d, Swept(d.A)), p.rng).indices)
