"""Columns uniformly at random without replacement, the baseline any method has to beat."""

from __future__ import annotations

from cssp.linalg import host
from cssp.methods.row import FORCED, NATIVE, PASSES, Method
from cssp.problem import Picks, Problem
from cssp.sampling import in_order


def uniform(p: Problem) -> Picks:
    """Draw k distinct columns in random order, dependent ones last; all independent subsets of a generic matrix are equally likely."""
    order = p.rng.permutation(p.n)
    order = order[host(p.candidates)[order]]
    return in_order(p, order.tolist())


ROW = Method(
    name="uniform",
    function=uniform,
    summary="uniform sampling without replacement",
    citation="",
    cost="n",
    deterministic=False,
    nested=True,
    backends=(*NATIVE, *PASSES),
    supports=FORCED | {"tol"},
)
