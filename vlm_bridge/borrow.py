"""What every loan of a model has in common: instance attributes ``forward`` and ``generate``, hooks, and giving all back."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

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

    def watch(
        self,
        before: Callable[..., tuple[tuple[Any, ...], dict[str, Any]] | None],
        after: Callable[..., None],
        hooked: bool,
    ) -> None:
        """Let every call pass through ``before(model, args, kwargs)``, which may give other arguments, and end in
        ``after(model, args, output)``, with None where it failed.

        The model's ``forward`` is lent, and no hook set, since wrappers may call ``forward`` past the hooks, as PEFT's do.
        Of a compiled model the graph breaks here; where modules inside are `hooked`, which compiled code may not
        notice, calls are not compiled.
        """
        own, model = self.model.forward, self.model
        before, after = torch.compiler.disable(before), torch.compiler.disable(after)

        @functools.wraps(own)
        def forward(*args: Any, **kwargs: Any) -> Any:
            output = None
            try:
                args, kwargs = before(model, args, kwargs) or (args, kwargs)
                output = own(*args, **kwargs)
                return output
            finally:
                after(model, args, output)

        self.handles.append(Lent(model, "forward", torch.compiler.disable(forward) if hooked else forward))

    def detach(self) -> None:
        """Take everything off, whatever was on."""
        self.model.__dict__.pop("generate", None)
        if self.own_generate is not None:
            self.model.__dict__["generate"] = self.own_generate
        for handle in self.handles:
            handle.remove()
        self.handles.clear()


def check_checkpointing(layers: Iterable[Any], what: str) -> None:
    """Refuse gradient checkpointing where hooks act on layers, which it runs again when the call is over."""
    if torch.is_grad_enabled() and any(
        layer.training and getattr(layer, "gradient_checkpointing", False) for layer in layers
    ):
        raise BridgeError(
            f"gradient checkpointing runs layers again in the backward pass, when {what} has ended, and gradients would "
            "be wrong: switch it off, or prune before the LLM and without fold."
        )


class Lent:
    """An instance attribute of a model that is another for a while."""

    def __init__(self, model: Any, name: str, value: Any) -> None:
        self.model, self.name, self.before = model, name, model.__dict__.get(name)
        model.__dict__[name] = value

    def remove(self) -> None:
        """Put back what was there."""
        self.model.__dict__.pop(self.name, None)
        if self.before is not None:
            self.model.__dict__[self.name] = self.before


def named(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a call by name."""
    signature = inspect.signature(function)
    bound = dict(signature.bind_partial(*args, **kwargs).arguments)
    rest = next((p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD), None)
    others = bound.pop(rest, {}) if rest is not None else {}
    return {**bound, **others}
