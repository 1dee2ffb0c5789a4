"""Choose tokens of the images of a call, part by part of its budget, by a pruner's plan and `cssp.select`.

Tokens are rows here and columns in cssp: a plan passes on ``features.mT``.
"""

from __future__ import annotations

import copy
import threading
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

import cssp
from cssp.errors import RankDeficientError
from vlm_bridge.budget import Part
from vlm_bridge.errors import BridgeError
from vlm_bridge.pruners import Plan
from vlm_bridge.selection.cache import Memory, fingerprint
from vlm_bridge.selection.given import TOKEN_AXIS
from vlm_bridge.selection.request import Request

_QUIET = threading.Lock()
"""Held around `warnings.catch_warnings`, which changes the whole process."""


@dataclass(frozen=True)
class Choice:
    """The tokens chosen of one image, or of several that share a budget.

    Attributes
    ----------
    indices : tuple of int
        Kept tokens in order of choice.
    merge : Tensor (k, n) or (k, n + 1), optional
        As in `Plan`.
    reused : bool
        Whether the choice was recalled from an earlier call.
    """

    indices: tuple[int, ...]
    merge: Tensor | None = None
    reused: bool = False

    def ascending(self) -> tuple[Tensor, Tensor | None]:
        """Return the indices (k,) in ascending order, and the merge matrix in that order."""
        order = sorted(range(len(self.indices)), key=self.indices.__getitem__)
        indices = torch.tensor([self.indices[j] for j in order], dtype=torch.int64)
        return indices, None if self.merge is None else self.merge[order]


def choose_all(
    request: Request,
    images: Sequence[Tensor],
    factors: Sequence[Tensor | None],
    signals: Sequence[Mapping[str, Any]],
    parts: Sequence[Part],
    tol: float | None,
    rngs: Sequence[np.random.Generator],
    memory: Memory | None = None,
) -> list[Choice]:
    """Choose tokens of each image.

    Parameters
    ----------
    request : Request
    images : sequence of Tensor (n_i, d)
    factors : sequence of Tensor (n_i,) or None
        Weights of the tokens.
    signals : sequence of mapping
    parts : sequence of Part
        Sets of rows with the number to keep of each.
    tol : float, optional
        Relative reconstruction error at which to stop.
    rngs : sequence of numpy.random.Generator
        One for each image; a part draws from that of its first image.
    memory : Memory, optional
        Choices of earlier calls.

    Returns
    -------
    list of Choice
        One for each image; it counts as reused where the choices of all its parts are.
    """
    kept: list[list[int]] = [[] for _ in images]
    merged: list[list[Tensor]] = [[] for _ in images]
    reused = [True] * len(images)
    for part in parts:
        first = part.rows[0][0]
        if len(part.rows) == 1 and part.n == len(images[first]):
            choice = choose_one(
                request, images[first], part.k, factors[first], tol, rngs[first], signals[first], memory
            )
            kept[first], merged[first] = list(choice.indices), [] if choice.merge is None else [choice.merge]
            reused[first] = choice.reused
            continue
        choice, owners = _choose_part(request, images, factors, signals, part, tol, rngs[first], memory)
        for image, _ in part.rows:
            reused[image] &= choice.reused
        for position, j in enumerate(choice.indices):
            image, row = owners[j]
            kept[image].append(row)
            if choice.merge is not None:
                spread = choice.merge.new_zeros(len(images[image]))
                spread[part.rows[0][1].to(spread.device)] = choice.merge[position]
                merged[image].append(spread[None])
    return [
        Choice(tuple(k), torch.cat(m) if m else None, again)
        for k, m, again in zip(kept, merged, reused, strict=True)
    ]


def _choose_part(
    request: Request,
    images: Sequence[Tensor],
    factors: Sequence[Tensor | None],
    signals: Sequence[Mapping[str, Any]],
    part: Part,
    tol: float | None,
    rng: np.random.Generator,
    memory: Memory | None,
) -> tuple[Choice, list[tuple[int, int]]]:
    """Choose among the rows of a part; return the choice, and (image, row) of each of its rows."""
    if len(part.rows) > 1 and request.pruner.merges:
        raise BridgeError(
            f"pruner {request.pruner.name!r} merges tokens of one image at a time: expected a budget for each image, got "
            "Shared."
        )
    if "frames" in request.pruner.reads:
        raise BridgeError(
            f"pruner {request.pruner.name!r} compares the frames of a whole video: expected a budget for each image or "
            "video, got one for parts of it or for several together."
        )

    def joined(name: str, values: list[Any]) -> Any:
        axis = TOKEN_AXIS.get(name)
        return values[0] if axis is None else torch.cat(values, dim=axis)

    def rows_of(name: str, value: Any, rows: Tensor) -> Any:
        axis = TOKEN_AXIS.get(name)
        return value if axis is None else value.index_select(axis, rows.to(value.device))

    names = [name for name in signals[part.rows[0][0]] if name != "vision_cls"]
    read = {
        name: joined(name, [rows_of(name, signals[i][name], rows) for i, rows in part.rows]) for name in names
    }
    features = torch.cat([images[i][rows.to(images[i].device)] for i, rows in part.rows])
    factor = None
    if factors[part.rows[0][0]] is not None:
        factor = torch.cat([f[rows.to(f.device)] for i, rows in part.rows if (f := factors[i]) is not None])
    owners = [(i, int(row)) for i, rows in part.rows for row in rows]
    choice = choose_one(request, features, part.k, factor, tol, rng, read, memory)
    return _at_least_one(choice, owners, features.norm(dim=-1)), owners


def _at_least_one(choice: Choice, owners: list[tuple[int, int]], norms: Tensor) -> Choice:
    """Replace the last picks so that every image keeps a token, its row of largest norm."""
    chosen = list(choice.indices)
    for image in dict.fromkeys(i for i, _ in owners):
        if all(owners[j][0] != image for j in chosen):
            counts = Counter(owners[j][0] for j in chosen)
            spare = max(p for p, j in enumerate(chosen) if counts[owners[j][0]] > 1)
            chosen[spare] = max((j for j, (i, _) in enumerate(owners) if i == image), key=norms.__getitem__)
    return replace(choice, indices=tuple(chosen))


def choose_one(
    request: Request,
    features: Tensor,
    k: int,
    factor: Tensor | None,
    tol: float | None,
    rng: np.random.Generator,
    signals: Mapping[str, Any],
    memory: Memory | None = None,
) -> Choice:
    """Choose k tokens of one image (n, d), or fewer where `tol` or the pruner's own rule stops earlier.

    A choice that has been made before comes from `memory`, which belongs to one request and tolerance, unless it draws
    random numbers.
    """
    n = features.shape[-2]
    if k == n and tol is None:
        return Choice(tuple(range(n)))
    read = {name: signals[name] for name in request.pruner.reads if name in signals}
    if memory is None:
        return _chosen(request, features, k, factor, tol, rng, read)
    key = (k, fingerprint(features), fingerprint(factor), *((name, fingerprint(read[name])) for name in read))
    known = memory.recall(key)
    if known is not None:
        return known
    before = _next(rng)
    choice = _chosen(request, features, k, factor, tol, rng, read)
    if _next(rng) == before:
        memory.store(key, replace(choice, reused=True))
    return choice


def _next(rng: np.random.Generator) -> int:
    """Return the 64 bits that `rng` will draw next, without drawing them."""
    return int(copy.deepcopy(rng.bit_generator).random_raw())


def _chosen(
    request: Request,
    features: Tensor,
    k: int,
    factor: Tensor | None,
    tol: float | None,
    rng: np.random.Generator,
    read: Mapping[str, Any],
) -> Choice:
    """Run the pruner's plan."""
    pruner = request.pruner
    drawn = {"rng": rng} if pruner.draws else {}
    plan = pruner.plan(features, k, factor, **read, **drawn, **request.options)
    if plan.indices is None:
        return Choice(tuple(run(plan, k, tol, rng)))
    if tol is not None and not (plan.nested and plan.columns is not None):
        raise BridgeError(
            f"pruner {pruner.name!r} chooses by a rule of its own and cannot honour tol; leave tol out."
        )
    if tol is not None:
        return Choice(_first_within(plan, tol))
    if not 0 < len(set(plan.indices)) == len(plan.indices) <= k:
        raise BridgeError(
            f"pruner {pruner.name!r} returned {len(plan.indices)} tokens for keep = {k}: expected 1 to {k} distinct ones."
        )
    return Choice(plan.indices, plan.merge)


def _first_within(plan: Plan, tol: float) -> tuple[int, ...]:
    """Return the fewest of a nested plan's indices whose reconstruction error is at most `tol`; all if none do."""
    assert plan.indices is not None
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore", cssp.RankDeficientWarning)
        errors = cssp.select(plan.columns, len(plan.indices), include=list(plan.indices)).errors
    reached = (errors.sqrt() <= tol * errors[0].sqrt()).nonzero()
    return plan.indices[: max(1, int(reached[0]))] if len(reached) else plan.indices


def run(plan: Plan, k: int, tol: float | None, rng: np.random.Generator) -> list[int]:
    """Let `cssp.select` choose k columns of a plan.

    A budget above the numerical rank is common in pruning: the set is then completed without cssp's warning.
    """
    assert plan.columns is not None
    columns = plan.columns.detach()
    n = columns.shape[-1]
    if k == n and tol is None:
        return list(range(n))

    def chosen(deficient: str) -> list[int]:
        selection = cssp.select(
            columns,
            None if k == n else k,
            method=plan.method,
            weights=plan.weights,
            tol=tol,
            include=list(plan.include) or None,
            deficient=deficient,
            rng=rng,
            **plan.options,
        )
        return [int(j) for j in torch.as_tensor(selection.indices).tolist()]  # one transfer from the device

    before = rng.bit_generator.state
    try:
        return chosen("raise")
    except RankDeficientError:
        rng.bit_generator.state = before
        with _QUIET, warnings.catch_warnings():
            warnings.simplefilter("ignore", cssp.RankDeficientWarning)
            return chosen("fill")
    except cssp.CsspError as error:
        raise BridgeError(str(error)) from error


def reconstruction_error(features: Tensor, kept: Any) -> float:
    """Return ‖X − P_S X‖_F / ‖X‖_F for the rows `kept` of `features` (n, d); 0 where all are kept."""
    kept = [int(j) for j in kept]
    if len(kept) == features.shape[0]:
        return 0.0
    chosen = cssp.select(features.detach().mT, len(kept), include=kept, deficient="truncate")
    return float(chosen.relative_error)
