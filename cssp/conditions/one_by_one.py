"""A method that picks one column after the other, under a constraint.

The method makes several picks with what is allowed now. As many of them stay as it would have made if the constraint had
been asked after each: those before the first that is no longer allowed, while nothing has become allowed that was not.
For the largest score among more columns is the largest among fewer if it is one of these; and a column drawn from more,
drawn again from fewer where it is not one of these, has the law of one drawn from fewer. The method then goes on, with the
picks so far included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cssp.linalg import host
from cssp.methods import Method
from cssp.problem import Problem
from cssp.progress import silent

__all__ = ["one_by_one"]

#: Picks that are tried first; twice as many after all of them have stayed.
FIRST = 8


def one_by_one(
    p: Problem,
    row: Method,
    options: Mapping[str, Any],
    allowed: Callable[[Sequence[int]], np.ndarray],
) -> tuple[list[int], bool]:
    """Return the picks, the included columns first, and whether the constraint ended them.

    Parameters
    ----------
    allowed : callable
        ``allowed(chosen)``: which columns may follow, bool, shape (n,).
    """
    chosen, length = list(p.include), FIRST
    candidates = host(p.candidates)
    while len(chosen) < p.k:
        open_ = candidates & allowed(chosen)
        if not open_.any():
            return chosen, True
        k = min(p.k, len(chosen) + min(length, int(open_.sum())))
        q = replace(
            p,
            include=tuple(chosen),
            candidates=p.xp.asarray(open_, device=p.device),
            k=k,
            progress=silent,
        )
        vars(q)["largest"] = p.largest  # one threshold of dependence for the whole choice
        picks = list(row.function(q, **options).indices)[len(chosen) :]
        if not picks:
            return chosen, False
        taken = 0
        for j in picks:
            now = candidates & allowed(chosen)
            if taken and (not now[j] or np.any(now & ~open_)):
                break
            chosen.append(int(j))
            taken += 1
            p.progress(len(chosen), p.k)
        length = 2 * length if taken == len(picks) else max(1, taken)
    return chosen, False
