"""`select_tokens`: features in, indices out. No model needed.

Tokens are rows here and columns in cssp: an image's plan hands `features.mT` over.
"""

from __future__ import annotations

import copy
import threading
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

import cssp
from cssp.errors import RankDeficientError
from vlm_bridge.budget import Part, parts_of
from vlm_bridge.errors import BridgeError
from vlm_bridge.pruners import PRUNERS, Plan, Pruner, find_pruner
from vlm_bridge.pruners.plan import SIGNALS, WANTED
from vlm_bridge.relevance import Relevance, weights

TOKEN_AXIS = {
    "clip_patches": -2,
    "vision_clip": -2,
    "cls_attention": -1,
    "vision_keys": -2,
    "vision_values": -2,
    "attention": -1,
}
"""Where a signal has one entry per visual token."""

_QUIET = threading.Lock()
"""`warnings.catch_warnings` changes the whole process, so that one thread at a time may use it."""


def select_tokens(
    features: Any,
    keep: Any,
    method: str = "spare",
    relevance: Any = None,
    *,
    tol: float | None = None,
    rng: Any = None,
    order: str = "ascending",
    **signals: Any,
) -> Tensor:
    """Choose the visual tokens to keep.

    Parameters
    ----------
    features : Tensor or array (n, d) or (..., n, d)
        One row a token.
    keep : int, float, or one per image
        Token count, or share in (0, 1] (rounded half to even, at least 1).
    method : str
        A name in `PRUNERS`.
    relevance : None, "anti", "normal", Relevance, or scores (..., n)
        ``None``: the pruner's own, if it has one. ``"anti"``/``"normal"``: the pruner's own definition,
        else the mean cosine in CLIP's joint space, with that sign. Scores multiply the columns as they are
        given: they must be finite and not negative.
    tol : float, optional
        Stop earlier, once the relative reconstruction error of the weighted columns is at most this.
    rng : None, int or numpy.random.Generator
        For pruners that draw. Image i of a batch draws from the i-th generator spawned from it.
    order : {"ascending", "chosen"}
        Ascending indices, or the order of choice.
    **signals
        Signals (`vlm_bridge.pruners.plan.SIGNALS`) and the pruner's own options, such as ``alpha`` or
        ``grid``. A signal is one image's, then shared by all, or has the leading axes of `features`.

    Returns
    -------
    Tensor (..., keep) of int64, on the device of `features`. Images with fewer tokens than others are filled
    with −1 at the end. Of a pruner that merges these are the places of the merged tokens; `merge_tokens` also
    gives the tokens.

    Raises
    ------
    BridgeError
        Unknown pruner or option, missing signal, budget out of range, NaN, shapes that do not fit; named.
    """
    if order not in ("ascending", "chosen"):
        raise BridgeError(f"order = {order!r}: allowed are 'ascending' and 'chosen'.")
    features, _, choices = choose(features, keep, method, relevance, tol, rng, signals)
    picks = [sorted(one.indices) if order == "ascending" else list(one.indices) for one in choices]
    longest = max(map(len, picks))
    result = torch.full((len(picks), longest), -1, dtype=torch.int64)
    for row, pick in zip(result, picks, strict=True):
        row[: len(pick)] = torch.tensor(pick)
    return result.reshape(*features.shape[:-2], longest).to(features.device)


@dataclass(frozen=True)
class Choice:
    """What was chosen of one image, or of several that share a budget.

    Attributes
    ----------
    indices : tuple of int
        Kept tokens in order of choice.
    merge : Tensor (k, n) or (k, n + 1), optional
        As in `Plan`.
    """

    indices: tuple[int, ...]
    merge: Tensor | None = None

    def ascending(self) -> tuple[Tensor, Tensor | None]:
        """Indices (k,) in ascending order, and the merge matrix in that order."""
        order = sorted(range(len(self.indices)), key=self.indices.__getitem__)
        indices = torch.tensor([self.indices[j] for j in order], dtype=torch.int64)
        return indices, None if self.merge is None else self.merge[order]


def choose(
    features: Any, keep: Any, method: str, relevance: Any, tol: float | None, rng: Any, given: dict[str, Any]
) -> tuple[Tensor, list[dict[str, Any]], list[Choice]]:
    """The checked features (..., n, d), each image's signals, and what was chosen of it."""
    features = as_tensor("features", features)
    if features.ndim < 2 or 0 in features.shape:
        raise BridgeError(
            f"features of shape {tuple(features.shape)}: expected (n, d) or (..., n, d), none empty."
        )
    request = Request.of(method, relevance, given)
    signals = {k: v for k, v in given.items() if k in SIGNALS and v is not None}
    lead, (n, d) = features.shape[:-2], features.shape[-2:]
    images = list(features.reshape(-1, n, d))
    for i, image in enumerate(images):
        check_finite(image, f"image {i}: " if lead else "")
    request.check(signals)
    factors = request.weights(features, signals)
    split = [None] * len(images) if factors is None else list(factors.reshape(-1, n))
    read = signals_of_images(request.of_plan, signals, features)
    choices = choose_all(
        request, images, split, read, parts_of(keep, images, tol), tol, generators(rng, lead)
    )
    return features, read, choices


@dataclass(frozen=True)
class Request:
    """A pruner together with the caller's relevance and options, checked once."""

    pruner: Pruner
    relevance: Relevance | Tensor | None
    options: Mapping[str, Any]

    @classmethod
    def of(cls, method: str, relevance: Any, given: Mapping[str, Any]) -> Request:
        """Look the pruner up, resolve the relevance, and tell options from signals."""
        pruner = find_pruner(method)
        options = {k: v for k, v in given.items() if k not in SIGNALS}
        check_options(pruner, options)
        return cls(pruner, resolve_relevance(pruner, relevance), options)

    @property
    def of_relevance(self) -> tuple[str, ...]:
        """Signals that the resolved relevance reads."""
        return self.relevance.signals if isinstance(self.relevance, Relevance) else ()

    @property
    def needs(self) -> tuple[str, ...]:
        """Signals without which nothing goes: the resolved relevance's and the plan's own."""
        return tuple(dict.fromkeys([*self.of_relevance, *self.pruner.requires]))

    @property
    def of_plan(self) -> tuple[str, ...]:
        """Signals that the plan reads, and the rows that it merges."""
        merged = ("vision_clip",) if self.pruner.before_projector else ()
        return tuple(dict.fromkeys([*self.pruner.reads, *merged]))

    @property
    def wants(self) -> tuple[str, ...]:
        """Signals that are used where they can be had."""
        return tuple(dict.fromkeys([*self.needs, *self.of_plan]))

    def check(self, given: Iterable[str]) -> None:
        """Refuse a request whose signals are not given, naming them and the pruners that would work."""
        for needed, relevance in ((self.of_relevance, self.relevance), (self.pruner.requires, None)):
            missing = [name for name in needed if name not in given]
            if missing:
                raise BridgeError(missing_signals(self.pruner, missing, given, relevance))

    def weights(self, features: Tensor, signals: Mapping[str, Any]) -> Tensor | None:
        """Weights (..., n) of the tokens of `features` (..., n, d), or None."""
        if self.relevance is None:
            return None
        if isinstance(self.relevance, Tensor):
            return check_scores(self.relevance.to(features.device), features)
        read = {name: as_tensor(name, signals[name]).to(features.device) for name in self.of_relevance}
        return weights(self.relevance, features, read)


def resolve_relevance(pruner: Pruner, relevance: Any) -> Relevance | Tensor | None:
    """What the caller's `relevance` means for this pruner."""
    if relevance is None:
        return pruner.relevance
    if not pruner.weighted:
        names = ", ".join(sorted(name for name, row in PRUNERS.items() if row.weighted))
        raise BridgeError(f"pruner {pruner.name!r} uses no relevance; these do: {names}.")
    if isinstance(relevance, Relevance):
        return relevance
    if isinstance(relevance, str) and relevance in ("anti", "normal"):
        return replace(pruner.relevance or Relevance(), sign=relevance)  # type: ignore[arg-type]
    if isinstance(relevance, str):
        raise BridgeError(f"relevance = {relevance!r}: allowed are 'anti', 'normal', Relevance or scores.")
    return as_tensor("relevance", relevance)


def check_options(pruner: Pruner, options: Mapping[str, Any]) -> None:
    """Refuse options that the pruner does not have; cssp checks those of its own methods."""
    unknown = [name for name in options if name not in pruner.options]
    if unknown and not pruner.open_options:
        allowed = ", ".join(pruner.options) or "none"
        raise BridgeError(
            f"pruner {pruner.name!r} has no option {unknown[0]!r}. Its options: {allowed}; "
            f"signals: {', '.join(SIGNALS)}."
        )


def missing_signals(
    pruner: Pruner, missing: Sequence[str], given: Iterable[str], relevance: Any = None
) -> str:
    """The message for signals that were not given and could not be had."""
    wanted = " and ".join(dict.fromkeys(WANTED[name] for name in missing))
    where = scores = ""
    if relevance is not None:
        where, scores = f" with relevance in {relevance.where}", "give relevance scores, "
    return (
        f"pruner {pruner.name!r}{where} needs {wanted}; missing: {', '.join(missing)}. Pass "
        f"{'it' if len(missing) == 1 else 'them'} by name, {scores}or use a pruner that works without: "
        f"{workable(given)}."
    )


def workable(given: Iterable[str]) -> str:
    """Names of the published pruners for which the given signals suffice, and a word on the others."""
    have = set(given)
    names = [name for name, row in PRUNERS.items() if set(row.needs) <= have and not row.open_options]
    return f"{', '.join(names)}, or any cssp method"


def signals_of_images(
    names: Iterable[str], signals: Mapping[str, Any], features: Tensor
) -> list[dict[str, Any]]:
    """The signals `names`, as far as they are given, for each image of `features` (..., n, d)."""
    lead, n = features.shape[:-2], features.shape[-2]
    found: list[dict[str, Any]] = [{} for _ in range(int(np.prod(lead)))]
    for name in names:
        if name in signals:
            values = _split(name, signals[name], lead, features.device)
            for image, value in zip(found, values, strict=True):
                image[name] = value
                check_signal(name, value, n)
    return found


def _split(name: str, value: Any, lead: tuple[int, ...], device: Any) -> list[Any]:
    """One signal for each image: shared where it has the dimensions of one image's, else split."""
    dimensions, images = SIGNALS[name], int(np.prod(lead))
    if dimensions is None:
        return [value] * images
    tensor = as_tensor(name, value).to(device)
    if name == "cls_attention" and tensor.ndim == 1:
        tensor = tensor[None]
    if tensor.ndim == dimensions:
        return [tensor] * images
    if lead and tensor.ndim == dimensions + len(lead) and tensor.shape[: len(lead)] == lead:
        return list(tensor.reshape(images, *tensor.shape[len(lead) :]))
    raise BridgeError(
        f"{name} of shape {tuple(tensor.shape)}: expected {dimensions} dimensions for one image"
        + (f", or {tuple(lead)} in front of them." if lead else ".")
    )


def check_signal(name: str, value: Any, n: int) -> None:
    """Refuse a signal that does not fit an image of n tokens."""
    if SIGNALS[name] is None:
        if not callable(value):
            raise BridgeError(f"{name} must be a callable, not {type(value).__name__}.")
        return
    axis = TOKEN_AXIS.get(name)
    if axis is not None and value.shape[axis] != n:
        raise BridgeError(
            f"{name} of shape {tuple(value.shape)} must have one entry per token, {n}, along axis {axis}."
        )
    if not torch.isfinite(value).all():
        raise BridgeError(f"{name} holds NaN or infinity.")


def check_scores(given: Tensor, features: Tensor) -> Tensor:
    """Relevance scores as they must be to serve as column weights."""
    if given.shape != features.shape[:-1]:
        raise BridgeError(
            f"relevance scores of shape {tuple(given.shape)}: expected {tuple(features.shape[:-1])}."
        )
    if not torch.isfinite(given).all() or (given < 0).any():
        raise BridgeError(
            "relevance scores multiply the columns: they must be finite and not negative. Scale signed ones "
            "to [0, 1], or pass a Relevance with its sign and scale."
        )
    return given


def choose_all(
    request: Request,
    images: Sequence[Tensor],
    factors: Sequence[Tensor | None],
    signals: Sequence[Mapping[str, Any]],
    parts: Sequence[Part],
    tol: float | None,
    rngs: Sequence[np.random.Generator],
) -> list[Choice]:
    """What is kept of each image (n_i, d), part by part; a part draws from its first image's generator."""
    kept: list[list[int]] = [[] for _ in images]
    merged: list[list[Tensor]] = [[] for _ in images]
    for part in parts:
        first = part.rows[0][0]
        if len(part.rows) == 1 and part.n == len(images[first]):
            found = choose_one(
                request, images[first], part.k, factors[first], tol, rngs[first], signals[first]
            )
            kept[first], merged[first] = list(found.indices), [] if found.merge is None else [found.merge]
            continue
        found, owners = _choose_part(request, images, factors, signals, part, tol, rngs[first])
        for position, j in enumerate(found.indices):
            image, row = owners[j]
            kept[image].append(row)
            if found.merge is not None:
                spread = found.merge.new_zeros(len(images[image]))
                spread[part.rows[0][1].to(spread.device)] = found.merge[position]
                merged[image].append(spread[None])
    return [Choice(tuple(k), torch.cat(m) if m else None) for k, m in zip(kept, merged, strict=True)]


def _choose_part(
    request: Request,
    images: Sequence[Tensor],
    factors: Sequence[Tensor | None],
    signals: Sequence[Mapping[str, Any]],
    part: Part,
    tol: float | None,
    rng: np.random.Generator,
) -> tuple[Choice, list[tuple[int, int]]]:
    """The choice among the rows of a part, and (image, row) of each of them."""
    if len(part.rows) > 1 and request.pruner.merges:
        raise BridgeError(
            f"pruner {request.pruner.name!r} merges tokens, and cannot across images: no Shared."
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
    found = choose_one(request, features, part.k, factor, tol, rng, read)
    return _at_least_one(found, owners, features.norm(dim=-1)), owners


def _at_least_one(found: Choice, owners: list[tuple[int, int]], norms: Tensor) -> Choice:
    """The choice with a token of every image: the last picks make way for an image's longest row."""
    chosen = list(found.indices)
    for image in dict.fromkeys(i for i, _ in owners):
        if all(owners[j][0] != image for j in chosen):
            counts = Counter(owners[j][0] for j in chosen)
            spare = max(p for p, j in enumerate(chosen) if counts[owners[j][0]] > 1)
            chosen[spare] = max((j for j, (i, _) in enumerate(owners) if i == image), key=norms.__getitem__)
    return Choice(tuple(chosen), found.merge)


def choose_one(
    request: Request,
    features: Tensor,
    k: int,
    factor: Tensor | None,
    tol: float | None,
    rng: np.random.Generator,
    signals: Mapping[str, Any],
) -> Choice:
    """What the pruner keeps of one image (n, d): k tokens, unless `tol` or its own rule stops earlier."""
    pruner, n = request.pruner, features.shape[-2]
    if k == n and tol is None:
        return Choice(tuple(range(n)))
    drawn = {"rng": rng} if pruner.draws else {}
    read = {name: signals[name] for name in pruner.reads if name in signals}
    plan = pruner.plan(features, k, factor, **read, **drawn, **request.options)
    if plan.indices is None:
        return Choice(tuple(run(plan, k, tol, rng)))
    if tol is not None:
        raise BridgeError(f"pruner {pruner.name!r} chooses by a rule of its own and cannot honour tol.")
    if not 0 < len(set(plan.indices)) == len(plan.indices) <= k:
        raise BridgeError(f"pruner {pruner.name!r} gave {len(plan.indices)} tokens for keep = {k}.")
    return Choice(plan.indices, plan.merge)


def run(plan: Plan, k: int, tol: float | None, rng: np.random.Generator) -> list[int]:
    """Let cssp choose.

    A budget above the numerical rank is no fault in pruning: cssp completes the set, without its warning.
    """
    assert plan.columns is not None
    columns = plan.columns.detach()
    n = columns.shape[-1]
    if k == n and tol is None:
        return list(range(n))

    def chosen(deficient: str, generator: np.random.Generator) -> list[int]:
        found = cssp.select(
            columns,
            None if k == n else k,
            method=plan.method,
            weights=plan.weights,
            tol=tol,
            include=list(plan.include) or None,
            deficient=deficient,
            rng=generator,
            **plan.options,
        )
        return [int(j) for j in torch.as_tensor(found.indices).tolist()]  # one transfer from the device

    again = copy.deepcopy(rng)
    try:
        return chosen("raise", rng)
    except RankDeficientError:
        with _QUIET, warnings.catch_warnings():
            warnings.simplefilter("ignore", cssp.RankDeficientWarning)
            return chosen("fill", again)
    except cssp.CsspError as error:
        raise BridgeError(str(error)) from error


def reconstruction_error(features: Tensor, kept: Any) -> float:
    """‖X − P_S X‖_F / ‖X‖_F of the rows `kept` of `features` (n, d); 0 when all stay."""
    kept = [int(j) for j in kept]
    if len(kept) == features.shape[0]:
        return 0.0
    chosen = cssp.select(features.detach().mT, len(kept), include=kept, deficient="truncate")
    return float(chosen.relative_error)


def generators(rng: Any, lead: tuple[int, ...]) -> list[np.random.Generator]:
    """One generator per image: the caller's own for a single image, spawned ones for a batch."""
    root = rng if isinstance(rng, np.random.Generator) else np.random.default_rng(rng)
    return root.spawn(int(np.prod(lead))) if lead else [root]


def as_tensor(name: str, value: Any) -> Tensor:
    """A floating-point tensor of what the caller gave."""
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], Tensor):
        value = torch.stack(list(value))
    try:
        tensor = value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
    except (TypeError, ValueError) as error:
        raise BridgeError(
            f"{name} must be a tensor or an array of numbers, not {type(value).__name__}."
        ) from error
    if tensor.is_complex():
        raise BridgeError(f"{name} must be real.")
    return tensor.detach() if tensor.is_floating_point() else tensor.detach().to(torch.float64)


def check_finite(features: Tensor, where: str) -> None:
    """Refuse NaN and infinity, naming the first bad token."""
    bad = (~torch.isfinite(features)).any(-1)
    if bad.any():
        raise BridgeError(f"{where}token {int(bad.nonzero()[0])} of features holds NaN or infinity.")
