"""`select_tokens`: features in, indices out. No model needed.

Tokens are rows here and columns in cssp: an image's plan hands `features.mT` over.
"""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

import cssp
from cssp.errors import RankDeficientError
from vlm_bridge.budget import token_counts
from vlm_bridge.errors import BridgeError
from vlm_bridge.pruners import PRUNERS, Plan, Pruner, find_pruner
from vlm_bridge.pruners.plan import SIGNALS, WANTED
from vlm_bridge.relevance import Relevance, weights

TOKEN_AXIS = {"clip_patches": -2, "vision_clip": -2, "cls_attention": -1, "vision_keys": -2, "attention": -1}
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
    features, choices = choose(features, keep, method, relevance, tol, rng, signals)
    picks = [sorted(one.indices) if order == "ascending" else list(one.indices) for one in choices]
    longest = max(map(len, picks))
    result = torch.full((len(picks), longest), -1, dtype=torch.int64)
    for row, pick in zip(result, picks, strict=True):
        row[: len(pick)] = torch.tensor(pick)
    return result.reshape(*features.shape[:-2], longest).to(features.device)


@dataclass(frozen=True)
class Choice:
    """What was chosen of one image.

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
) -> tuple[Tensor, list[Choice]]:
    """The checked features (..., n, d), and what was chosen of each image."""
    features = as_tensor("features", features)
    if features.ndim < 2 or 0 in features.shape:
        raise BridgeError(
            f"features of shape {tuple(features.shape)}: expected (n, d) or (..., n, d), none empty."
        )
    request = Request.of(method, relevance, given)
    lead, (n, d) = features.shape[:-2], features.shape[-2:]
    items = features.reshape(-1, n, d)
    for i, item in enumerate(items):
        check_finite(item, f"image {i}: " if lead else "")
    counts = token_counts(keep, [n] * len(items), tol)
    factors = request.weights(features)
    split = [None] * len(items) if factors is None else list(factors.reshape(-1, n))
    read = request.read(features)
    return features, [
        select_one(request, item, k, factor, tol, generator, signals)
        for item, k, factor, generator, signals in zip(
            items, counts, split, generators(rng, lead), read, strict=True
        )
    ]


@dataclass(frozen=True)
class Request:
    """A pruner together with the caller's relevance, signals and options, checked once."""

    pruner: Pruner
    relevance: Relevance | Tensor | None
    signals: Mapping[str, Tensor]
    options: Mapping[str, Any]

    @classmethod
    def of(cls, method: str, relevance: Any, given: Mapping[str, Any]) -> Request:
        """Look the pruner up, resolve the relevance, and tell signals from options."""
        pruner = find_pruner(method)
        options = {k: v for k, v in given.items() if k not in SIGNALS}
        check_options(pruner, options)
        signals = {k: v for k, v in given.items() if k in SIGNALS and v is not None}
        return cls(pruner, resolve_relevance(pruner, relevance), signals, options)

    @property
    def needs(self) -> tuple[str, ...]:
        """Signals without which nothing goes: the resolved relevance's and the plan's own."""
        own = (name for name in self.pruner.reads if name in self.pruner.needs)
        return tuple(dict.fromkeys([*self._of_relevance, *own]))

    @property
    def wants(self) -> tuple[str, ...]:
        """Signals that are used where they can be had: `needs`, and what the plan can do without."""
        return tuple(dict.fromkeys([*self.needs, *self.pruner.reads]))

    @property
    def _of_relevance(self) -> tuple[str, ...]:
        return self.relevance.signals if isinstance(self.relevance, Relevance) else ()

    def read(self, features: Tensor) -> list[dict[str, Any]]:
        """The plan's own signals for each image of `features` (..., n, d)."""
        missing = [name for name in self.pruner.reads if name in self.needs and name not in self.signals]
        if missing:
            raise BridgeError(missing_signals(self.pruner, missing, self.signals))
        lead, n = features.shape[:-2], features.shape[-2]
        images: list[dict[str, Any]] = [{} for _ in range(int(np.prod(lead)))]
        for name in self.pruner.reads:
            if name in self.signals:
                values = of_images(name, self.signals[name], lead, n, features.device)
                for image, value in zip(images, values, strict=True):
                    image[name] = value
        return images

    def weights(self, features: Tensor) -> Tensor | None:
        """Weights (..., n) of the tokens, or None."""
        if self.relevance is None:
            return None
        if isinstance(self.relevance, Tensor):
            return check_scores(self.relevance.to(features.device), features)
        missing = [name for name in self._of_relevance if name not in self.signals]
        if missing:
            raise BridgeError(missing_signals(self.pruner, missing, self.signals, self.relevance))
        read = {name: as_tensor(name, self.signals[name]).to(features.device) for name in self._of_relevance}
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
    pruner: Pruner, missing: Iterable[str], given: Iterable[str], relevance: Relevance | None = None
) -> str:
    """The message for signals that were not given and could not be had."""
    missing = list(missing)
    wanted = " and ".join(dict.fromkeys(WANTED[name] for name in missing))
    where = ""
    if relevance is not None:
        space = {"clip": "CLIP's joint space", "llm": "the LLM's embedding space"}[relevance.space]
        where = f" with relevance in {space}"
    return (
        f"pruner {pruner.name!r}{where} needs {wanted}; missing: {', '.join(missing)}. Pass "
        f"{'it' if len(missing) == 1 else 'them'} by name, "
        + ("give relevance scores, " if relevance is not None else "")
        + f"or use a pruner that works without: {workable(given)}."
    )


def workable(given: Iterable[str]) -> str:
    """Names of the published pruners for which the given signals suffice, and a word on the others."""
    have = set(given)
    names = [name for name, row in PRUNERS.items() if set(row.needs) <= have and not row.open_options]
    return f"{', '.join(names)}, or any cssp method"


def of_images(name: str, value: Any, lead: tuple[int, ...], n: int, device: Any) -> list[Any]:
    """One signal for each image: shared where it has the dimensions of one image's, else split."""
    dimensions, images = SIGNALS[name], int(np.prod(lead))
    if dimensions is None:
        if not callable(value):
            raise BridgeError(f"{name} must be a callable, not {type(value).__name__}.")
        return [value] * images
    tensor = as_tensor(name, value).to(device)
    if name == "cls_attention" and tensor.ndim == 1:
        tensor = tensor[None]
    if tensor.ndim == dimensions:
        found = [tensor] * images
    elif lead and tensor.ndim == dimensions + len(lead) and tensor.shape[: len(lead)] == lead:
        found = list(tensor.reshape(images, *tensor.shape[len(lead) :]))
    else:
        raise BridgeError(
            f"{name} of shape {tuple(tensor.shape)}: expected {dimensions} dimensions for one image"
            + (f", or {lead} in front of them." if lead else ".")
        )
    axis = TOKEN_AXIS.get(name)
    if axis is not None and tensor.shape[axis] != n:
        raise BridgeError(
            f"{name} of shape {tuple(tensor.shape)} must have one entry per token, {n}, along axis {axis}."
        )
    if not torch.isfinite(tensor).all():
        raise BridgeError(f"{name} holds NaN or infinity.")
    return found


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


def select_one(
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
    plan = pruner.plan(features, k, factor, **signals, **drawn, **request.options)
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
