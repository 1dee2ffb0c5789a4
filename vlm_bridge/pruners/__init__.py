"""The table of pruners.

`PRUNERS` maps names to rows of the table. A published system has a small file, which says which columns it forms, how it
weights them and which cssp method picks. Every cssp method is also a pruner on raw tokens under its own name, with
`relevance` as column weights and with its own options.
"""

from __future__ import annotations

import difflib
from functools import partial
from typing import Any

from torch import Tensor

import cssp
from vlm_bridge.errors import BridgeError
from vlm_bridge.pruners import (
    anchorprune,
    auto,
    average_pool,
    cdpruner,
    cen_prune,
    dart,
    divprune,
    evs,
    family,
    fastervlm,
    fastv,
    hiprune,
    holov,
    id_selection,
    idpruner,
    litelvlm,
    lrcp,
    mmtok,
    norm_top,
    otprune,
    prumerge,
    prunesid,
    pyramiddrop,
    random,
    resprune,
    script,
    spare,
    sparsevlm,
    svd_prune,
    todre,
    top_relevance,
    trim,
    uniform_grid,
    vidcom2,
    visionzip,
    vispruner,
    zoo_prune,
)
from vlm_bridge.pruners.plan import Plan, Pruner


def _columns(features: Tensor, k: int, weights: Tensor | None, /, method: str, **options: Any) -> Plan:
    """Plan to pick raw tokens by a cssp method."""
    return Plan(features.mT, method, weights, options=options)


def _row_of_method(name: str) -> Pruner:
    """Make the row of a cssp method."""
    method = cssp.METHODS[name]
    plan = partial(_columns, method=name)
    return Pruner(name, f"cssp: {method.summary}", method.citation, plan, open_options=True)


_BEFORE = (
    auto,
    spare,
    resprune,
    cdpruner,
    divprune,
    family,
    svd_prune,
    cen_prune,
    lrcp,
    mmtok,
    zoo_prune,
    otprune,
)
_OF_THE_TOWER = (
    vispruner, fastervlm, hiprune, visionzip, prumerge, trim, holov, litelvlm, anchorprune, idpruner, id_selection, todre, prunesid, script,
)  # fmt: skip
_OF_VIDEOS = (evs, vidcom2)
_INSIDE = (fastv, sparsevlm, pyramiddrop, dart)
_BASELINES = (random, uniform_grid, average_pool, norm_top, top_relevance)

PRUNERS: dict[str, Pruner] = {
    module.ROW.name: module.ROW for module in (*_BEFORE, *_OF_THE_TOWER, *_OF_VIDEOS, *_INSIDE, *_BASELINES)
}
PRUNERS |= {name: _row_of_method(name) for name in cssp.METHODS if name not in PRUNERS}


def find_pruner(name: str) -> Pruner:
    """Return the row of that name.

    Raises
    ------
    BridgeError
        There is none; the message suggests the nearest names.

    Examples
    --------
    >>> find_pruner("divprune").summary
    'max-min cosine distance'
    """
    if isinstance(name, str) and name in PRUNERS:
        return PRUNERS[name]
    near = difflib.get_close_matches(str(name), PRUNERS, n=3)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise BridgeError(f"unknown pruner {name!r}.{hint} Known: {', '.join(sorted(PRUNERS))}.")


__all__ = ["PRUNERS", "Plan", "Pruner", "find_pruner"]
