"""What every loan of a model has in common: an instance attribute ``generate``, hooks, and giving both back."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from vlm_bridge.errors import BridgeError


class Borrowed:
    """A model with another `generate` and some hooks; nothing is assigned to a class."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.handles: list[Any] = []
        self.own_generate = model.__dict__.get("generate")
        self.generate = getattr(model, "generate", None)
        self.generating = False
        self.busy = threading.Lock()

    @contextmanager
    def occupied(self) -> Iterator[None]:
        """One call of `generate` with images at a time, whichever thread it comes from."""
        if not self.busy.acquire(blocking=False):
            raise BridgeError("generate was called while this model is generating with images.")
        try:
            yield
        finally:
            self.busy.release()

    def lend(self, generate: Callable[..., Any]) -> None:
        """Let the model's `generate` be this one, if it has one."""
        if self.generate is not None:
            self.model.__dict__["generate"] = generate

    def detach(self) -> None:
        """Take everything off, whatever was on."""
        self.model.__dict__.pop("generate", None)
        if self.own_generate is not None:
            self.model.__dict__["generate"] = self.own_generate
        for handle in self.handles:
            handle.remove()
        self.handles.clear()


def named(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a call by name."""
    signature = inspect.signature(function)
    bound = dict(signature.bind_partial(*args, **kwargs).arguments)
    rest = next((p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD), None)
    others = bound.pop(rest, {}) if rest is not None else {}
    return {**bound, **others}
