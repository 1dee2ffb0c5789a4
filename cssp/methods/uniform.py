"""Columns uniformly at random without replacement, the baseline any method has to beat."""

from __future__ import annotations

from cssp.linalg import host
from cssp.problem import Picks, Problem


def uniform(p: Problem) -> Picks:
    """Draw k distinct columns, all subsets being equally likely."""
    order = p.rng.permutation(p.n)
    order = order[host(p.candidates)[order]]
    return Picks([*p.include, *order[: p.free].tolist()])
