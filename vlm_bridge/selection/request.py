"""Check a pruner together with the caller's relevance and options, and say what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vlm_bridge.errors import BridgeError
from vlm_bridge.pruners import PRUNERS, Pruner, find_pruner
from vlm_bridge.pruners.plan import SIGNALS, WANTED
from vlm_bridge.pruners.relevance import Relevance, weights
from vlm_bridge.selection.given import as_tensor


@dataclass(frozen=True)
class Request:
    """A pruner together with the caller's relevance and options, checked once."""

    pruner: Pruner
    relevance: Relevance | Tensor | None
    options: Mapping[str, Any]

    @classmethod
    def of(cls, method: str, relevance: Any, options: Mapping[str, Any]) -> Request:
        """Look the pruner up, resolve the relevance, and check the options."""
        pruner = find_pruner(method)
        check_options(pruner, options)
        return cls(pruner, resolve_relevance(pruner, relevance), options)

    @property
    def of_relevance(self) -> tuple[str, ...]:
        """Signals that the resolved relevance reads."""
        return self.relevance.signals if isinstance(self.relevance, Relevance) else ()

    @property
    def needs(self) -> tuple[str, ...]:
        """Signals that are required, by the resolved relevance or by the plan."""
        return tuple(dict.fromkeys([*self.of_relevance, *self.pruner.requires]))

    @property
    def of_plan(self) -> tuple[str, ...]:
        """Signals that the plan reads, and the vision tower's rows where it merges them."""
        merged = ("vision_clip",) if self.pruner.before_projector else ()
        return tuple(dict.fromkeys([*self.pruner.reads, *merged]))

    @property
    def wants(self) -> tuple[str, ...]:
        """Signals that are used where they are available."""
        return tuple(dict.fromkeys([*self.needs, *self.of_plan]))

    def check(self, given: Iterable[str]) -> None:
        """Refuse a request of which required signals are not given; name them, and the pruners that would work."""
        for needed, relevance in ((self.of_relevance, self.relevance), (self.pruner.requires, None)):
            missing = [name for name in needed if name not in given]
            if missing:
                raise BridgeError(missing_signals(self.pruner, missing, given, relevance))

    def weights(self, features: Tensor, signals: Mapping[str, Any]) -> Tensor | None:
        """Return the weights (..., n) of the tokens of `features` (..., n, d); None without a relevance."""
        if self.relevance is None:
            return None
        if isinstance(self.relevance, Tensor):
            return check_scores(self.relevance.to(features.device), features)
        read = {name: as_tensor(name, signals[name]).to(features.device) for name in self.of_relevance}
        return weights(self.relevance, features, read)


def resolve_relevance(pruner: Pruner, relevance: Any) -> Relevance | Tensor | None:
    """Turn the caller's `relevance` into a `Relevance` or scores, the pruner's own where it is None."""
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
        raise BridgeError(f"relevance = {relevance!r}: expected 'anti', 'normal', a Relevance or scores.")
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
    """Word the message for signals that were not given and cannot be computed."""
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
    """List the published pruners for which the given signals suffice; every cssp method works with any."""
    have = set(given)
    names = [name for name, row in PRUNERS.items() if set(row.needs) <= have and not row.open_options]
    return f"{', '.join(names)}, or any cssp method"


def check_scores(given: Tensor, features: Tensor) -> Tensor:
    """Refuse relevance scores that cannot serve as column weights; return the others."""
    if given.shape != features.shape[:-1]:
        raise BridgeError(
            f"relevance scores of shape {tuple(given.shape)}: expected {tuple(features.shape[:-1])}, one for each token."
        )
    if not torch.isfinite(given).all() or (given < 0).any():
        raise BridgeError(
            "relevance scores multiply the columns: they must be finite and not negative. Scale signed ones "
            "to [0, 1], or pass a Relevance with its sign and scale."
        )
    return given
