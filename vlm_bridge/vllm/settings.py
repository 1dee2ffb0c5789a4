"""Read and check what an engine or a request asks of the bridge, in the words of `prune`.

The settings arrive as JSON: ``--hf-overrides '{"vlm_bridge": {"keep": 64}}'`` for the engine, and
``"mm_processor_kwargs": {"vlm_bridge": {"keep": 32}}`` for a request. An error inside the engine would end it, so
everything that can be known is checked here; vLLM answers a `BridgeError`, a kind of `ValueError`, by HTTP 400.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from vlm_bridge.budget import AtMost, check_keep, count_of, read_keep
from vlm_bridge.errors import BridgeError
from vlm_bridge.model.layout import POSITIONS
from vlm_bridge.pruners import PRUNERS, Pruner, find_pruner
from vlm_bridge.pruners.plan import SIGNALS
from vlm_bridge.selection.request import Request, missing_signals
from vlm_bridge.selection.tokens import select_tokens

NAME = "vlm_bridge"
SERVED = ("llm_text",)
"""Signals that are at hand in an engine beside the features: the question's rows of the embedding table."""
ON_ERROR = ("refuse", "full")
FEATURE_CACHE = 64
"""MiB that an engine keeps features of images in, where it is not told otherwise."""
WIDTH, FEW = 256, 32
"""Largest width of the random features on which a request is tried, and their number for a method of cssp, some of
which are slow on many columns."""

_COMMON = ("keep", "method", "relevance", "positions", "on_error", "rng")
_PRUNE_ONLY = {
    "tol": "the number of placeholders is fixed before the image is encoded; choose keep",
    "fold": "the engine's attention takes no bias; leave it out",
    "clip": "the engine has no CLIP text tower; choose a pruner that needs none",
    "processor": "the engine's own tokenizer is used; leave it out",
    "clean": "a function cannot be sent in a request; clean the prompt before it is sent",
    "separators": "an engine keeps no rows that are not chosen; leave it out",
    "order": "the kept tokens stay in the order of the image; leave it out",
}

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Serving:
    """How the images of a request are pruned; checked, so that it holds for any image but for the count of its tokens.

    Attributes
    ----------
    keep : int, float or AtMost
        As in `prune`; in JSON ``64``, ``0.25`` or ``"at-most-64"``.
    method : str
        A name in `PRUNERS` that drops tokens in front of the LLM, and reads the features or the question alone.
    relevance : None, "anti" or "normal"
    positions : {"keep", "compact"}
        As in `prune`; the same for all requests of an engine.
    on_error : {"refuse", "full"}
        What becomes of an image that cannot be pruned as asked, such as one of fewer than `keep` tokens: the request is
        refused by HTTP 400, or the image keeps all its tokens, and the log says so.
    rng : int
        For pruners that draw random numbers, which also depend on the image's content.
    options : mapping
        The pruner's own options.

    Raises
    ------
    BridgeError
        A value that no image could make right.

    Examples
    --------
    >>> Serving(keep=0.25, method="divprune").kept(576)
    144
    """

    keep: Any
    method: str = "spare"
    relevance: str | None = None
    positions: str = "keep"
    on_error: str = "refuse"
    rng: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_served(self.method)
        object.__setattr__(self, "keep", _keep(self.keep))
        for name, allowed in (("positions", POSITIONS), ("on_error", ON_ERROR)):
            if getattr(self, name) not in allowed:
                raise BridgeError(f"{name} = {getattr(self, name)!r}: expected one of {', '.join(allowed)}.")
        if isinstance(self.rng, bool) or not isinstance(self.rng, int) or self.rng < 0:
            raise BridgeError(f"rng = {self.rng!r}: expected an int of 0 or more.")
        if self.relevance is not None and not isinstance(self.relevance, str):
            raise BridgeError(f"relevance = {self.relevance!r}: expected 'anti' or 'normal'.")
        for name in self.options:
            if name in _PRUNE_ONLY:
                raise BridgeError(f"{name} is not served: {_PRUNE_ONLY[name]}.")
            if name in SIGNALS:
                raise BridgeError(
                    f"{name} is a signal, and a request cannot bring its own: the engine has {', '.join(SERVED)}."
                )
        self._request().check(SERVED)

    @property
    def reads_question(self) -> bool:
        """Whether the choice depends on the text of the prompt."""
        return bool(set(self._request().needs) & set(SERVED))

    def kept(self, n: int) -> int:
        """Return how many of an image's `n` tokens stay.

        Raises
        ------
        BridgeError
            The image cannot be pruned as asked, and `on_error` is "refuse".
        """
        kept, problem = _tried(self.text(), n)
        if problem and self.on_error == "refuse":
            raise BridgeError(problem)
        if problem:
            log.warning("%s on_error is 'full': the image keeps all its %d tokens.", problem, n)
        return kept

    def text(self) -> str:
        """Return the settings as JSON, which `parse` reads; the same text for the same settings."""
        keep = f"at-most-{self.keep.tokens}" if isinstance(self.keep, AtMost) else self.keep
        common = {name: getattr(self, name) for name in _COMMON}
        return json.dumps({**self.options, **common, "keep": keep}, sort_keys=True)

    def _request(self) -> Request:
        return Request.of(self.method, self.relevance, self.options)


def parse(given: Any, engine: Mapping[str, Any] | None = None) -> Serving | None:
    """Read the settings of a request over those of the engine; None where neither has a `keep`.

    A request that names another method leaves the engine's relevance and options behind, which belong to its method. The
    engine may list the `methods` that its requests may name, since a slow one delays all requests of a step, and say how large
    its `feature_cache` is.

    Raises
    ------
    BridgeError
        A wrong setting, positions that are not the engine's, or a method that is not among its `methods`.

    Examples
    --------
    >>> parse({"keep": "at-most-32"}, {"keep": 64, "method": "divprune"}).method
    'divprune'
    """
    own, default = _mapping(given), _mapping(engine)
    of_engine = own if engine is None else default
    feature_cache(of_engine)
    allowed = of_engine.pop("methods", None)
    of_engine.pop("feature_cache", None)
    for name in ("methods", "feature_cache"):
        if name in own:
            raise BridgeError(f"{name} is a setting of the engine, not of a request: leave it out.")
    if allowed is not None and not isinstance(allowed, (list, tuple)):
        raise BridgeError(f'methods = {allowed!r}: expected a list of pruners, such as ["spare", "auto"].')
    for method in allowed or ():
        check_served(method)
    if engine is not None and own.get("positions", engine_positions(default)) != engine_positions(default):
        raise BridgeError(
            f"positions = {own['positions']!r}: this engine was started with {engine_positions(default)!r}, which holds for "
            "all its requests; leave positions out."
        )
    if own.get("method", default.get("method")) != default.get("method"):
        default = {
            name: value
            for name, value in default.items()
            if name in _COMMON and name not in ("method", "relevance")
        }
    merged = {**default, **own}
    if "keep" not in merged:
        unused = [name for name in merged if name not in ("positions", "on_error")]
        if unused:
            raise BridgeError(f"{NAME} sets {', '.join(unused)} without keep: expected a keep, such as 64.")
        Serving(keep=1.0, **merged)
        return None
    method = merged.get("method", Serving.method)
    if allowed is not None and method not in allowed:
        raise BridgeError(
            f"method = {method!r}: this engine serves {', '.join(allowed)}; its setting methods says so."
        )
    options = {name: value for name, value in merged.items() if name not in _COMMON}
    return Serving(**{name: merged[name] for name in _COMMON if name in merged}, options=options)


def check_served(method: str) -> Pruner:
    """Return the row of a pruner that an engine can serve.

    Raises
    ------
    BridgeError
        There is no such pruner, or it merges tokens, acts inside the LLM, or reads what an engine does not have.
    """
    pruner = find_pruner(method)
    if pruner.inside is not None:
        reason = "acts inside the LLM, by hooks on the model, which an engine does not allow"
    elif pruner.merges:
        reason = "merges tokens into others, and an engine can only drop them"
    else:
        missing = [name for name in pruner.needs if name not in SERVED]
        if not missing:
            return pruner
        problem = missing_signals(pruner, missing, SERVED).partition(" Pass ")[0]
        raise BridgeError(f"{problem} An engine cannot serve it; served are {', '.join(served())}.")
    raise BridgeError(f"pruner {method!r} {reason}. Served are {', '.join(served())}.")


def served() -> list[str]:
    """Return the names of all pruners that an engine can serve.

    >>> "spare" in served(), "visionzip" in served()
    (True, False)
    """
    return [
        name
        for name, row in PRUNERS.items()
        if row.inside is None and not row.merges and set(row.needs) <= set(SERVED)
    ]


@functools.lru_cache(maxsize=4096)
def _tried(text: str, n: int) -> tuple[int, str]:
    """Try the settings on random features of `n` tokens; return the number that stay, and the problem, if there is one.

    What fails here, such as an option that a method of cssp does not have, would fail in the engine, too, and end it.
    """
    serving = parse(json.loads(text))
    assert serving is not None
    try:
        k = count_of(serving.keep, n)
        few = min(n, FEW) if find_pruner(serving.method).open_options else n
        rows = torch.randn(few, min(few, WIDTH), generator=torch.Generator().manual_seed(0))
        if k < n:
            part = max(1, k * few // n)
            chosen = select(serving, rows, part, rows[:3], 0)
            if chosen.shape != (part,) or int(chosen.min()) < 0:
                raise BridgeError(
                    f"pruner {serving.method!r} chose {int((chosen >= 0).sum())} of {few} tokens where {part} were asked for, "
                    "and an engine needs exactly as many as its scheduler expects: use another method or other options."
                )
    except BridgeError as error:
        spelled = (
            f' In JSON AtMost({serving.keep}) is "at-most-{serving.keep}".' if "AtMost(" in str(error) else ""
        )
        return n, str(error) + spelled
    except (TypeError, ValueError, RuntimeError) as error:  # an option of a wrong type
        return n, f"pruner {serving.method!r} failed with options {dict(serving.options)}: {error}."
    return k, ""


def select(
    serving: Serving, rows: torch.Tensor, k: int, question: torch.Tensor | None, seed: int
) -> torch.Tensor:
    """Return the indices (k,) of the rows (n, d) that stay, ascending."""
    signals: dict[str, Any] = {"llm_text": question} if serving.reads_question else {}
    return select_tokens(
        rows, k, serving.method, serving.relevance, rng=seed, **signals, **dict(serving.options)
    )


def _mapping(given: Any) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise BridgeError(f'{NAME} = {given!r}: expected an object of settings, such as {{"keep": 64}}.')
    return dict(given)


def engine_positions(settings: Mapping[str, Any] | None) -> Any:
    """Return the positions that the settings of an engine ask for."""
    return (settings or {}).get("positions", "keep")


def feature_cache(settings: Mapping[str, Any] | None) -> int:
    """Return the bytes that an engine may keep features of images in, for further questions about them.

    Raises
    ------
    BridgeError
        The setting is no number of MiB.

    Examples
    --------
    >>> feature_cache({"feature_cache": 1}), feature_cache(None) == FEATURE_CACHE * 2**20
    (1048576, True)
    """
    size = (settings or {}).get("feature_cache", FEATURE_CACHE)
    if isinstance(size, bool) or not isinstance(size, (int, float)) or not 0 <= size < float("inf"):
        raise BridgeError(f"feature_cache = {size!r}: expected a number of MiB, such as 64, or 0 for none.")
    return int(size * 2**20)


def _keep(keep: Any) -> int | float | AtMost:
    """Read a budget for any image; in JSON `AtMost` is spelled as on the command line."""
    if isinstance(keep, str):
        return read_keep(keep)
    if isinstance(keep, (list, tuple)):
        raise BridgeError(
            f"keep = {keep!r}: a request has one budget for all its images; expected one such as 64."
        )
    if not isinstance(keep, (int, float, AtMost)):
        raise BridgeError(
            f'keep = {keep!r}: expected a token count (64), a share (0.25; 1.0 keeps all tokens) or "at-most-64"; the '
            "number of placeholders is fixed before the image is encoded."
        )
    check_keep(keep)
    return keep
