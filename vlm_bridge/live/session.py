"""Replace ``forward`` and ``generate`` of a live model for the length of a block, and restore them.

Any number of threads may use the model meanwhile. What belongs to one call is kept on a `Call`, which a context variable
shows to its own thread only; the `Session` holds what all calls share.
"""

from __future__ import annotations

import functools
import inspect
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import FrameType
from typing import Any, Generic, TypeVar

import torch

from vlm_bridge.errors import BridgeError
from vlm_bridge.live.stack import callers, layers_of, running_elsewhere, runs
from vlm_bridge.model.families import base_of
from vlm_bridge.model.prompt import has_visuals

_CURRENT: ContextVar[Any] = ContextVar("the innermost call of a pruned model in this thread", default=None)


@dataclass(eq=False)
class Call:
    """One `generate` or one `forward` of a pruned model, while it runs.

    Attributes
    ----------
    session : Session
    whole : Call, optional
        The `generate` of which this `forward` is a step.
    forward : bool
        Whether this is a `forward`, and not a `generate`.
    steps : bool
        Whether this is a `generate` that has begun to decode, so that each `forward` inside it is one of its steps.
    outer : Call, optional
        The call, of this or another model, inside which this one was made.
    depth : int
        Number of calls of the same model that this one is nested in, in the same thread.
    """

    session: Any
    whole: Any = None
    forward: bool = False
    steps: bool = False
    outer: Any = None
    depth: int = 0


C = TypeVar("C", bound=Call)


class Session(ABC, Generic[C]):
    """Own the instance attributes and hooks that a model carries inside a block; nothing is assigned to a class.

    A subclass names in `call_type` what it keeps of a call, and defines `pruned_generate`, `begun` and `ended`.
    """

    call_type: type[C]

    def __init__(self, model: Any) -> None:
        self.model = model
        self.handles: list[Any] = []
        self.own_generate = model.__dict__.get("generate")
        self.generate = getattr(model, "generate", None)
        self.generate_layers = layers_of(getattr(type(model), "generate", None))
        self.running: Counter[threading.Thread] = Counter()
        self.changed = threading.Condition()
        self.left = self.returned = False
        self.earlier: list[FrameType] = []

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise BridgeError(
            "a model cannot be copied or pickled while it is being pruned, since a copy would bring along hooks that "
            "belong to this model. Copy it before or after the `with` block; save_pretrained works inside, too."
        )

    def attach(self, hooked: bool = False) -> None:
        """Replace `forward` and `generate` of the model.

        `forward` is replaced and not hooked, since wrappers such as PEFT's call it directly, past the hooks. In a compiled
        model the graph breaks here. With `hooked`, modules inside carry hooks, which compiled code may not notice, so
        that calls run uncompiled.

        Raises
        ------
        BridgeError
            The block is opened by a function that `generate` of this model calls. Its calls of the model could not be
            told from the steps of that `generate`.
        """
        if any(runs(frame, self.generate_layers, self.model) for frame in callers()):
            raise BridgeError(
                "prune was called by a function that `generate` of the same model calls, such as a logits processor: begin "
                "the block around that `generate`, or use prune_inputs there."
            )
        own = self.model.forward
        before, after = (
            torch.compiler.disable(self.before_forward),
            torch.compiler.disable(self.after_forward),
        )

        @functools.wraps(own)
        def forward(*args: Any, **kwargs: Any) -> Any:
            output = None
            try:
                args, kwargs = before(args, kwargs) or (args, kwargs)
                output = own(*args, **kwargs)
                return output
            finally:
                after(output)

        if self.generate is not None:  # first, so that a copy made meanwhile meets __reduce_ex__
            self.model.__dict__["generate"] = self.pruned_generate
        self.handles.append(
            Replaced(self.model, "forward", torch.compiler.disable(forward) if hooked else forward)
        )
        self.handles.append(self.model.register_forward_pre_hook(self._no_replica))
        base = base_of(self.model)
        if base is not self.model:
            self.handles.append(Replaced(base, "forward", self._guarded(base.forward)))
        forward_layers = {torch.nn.Module._call_impl.__code__: None, **layers_of(type(self.model).forward)}
        self.earlier = running_elsewhere({**forward_layers, **self.generate_layers}, self.model)

    def detach(self) -> None:
        """Wait until the calls of other threads have ended, then take off whatever has been put on."""
        try:
            with self.changed:  # so that no call begins between restoring and waiting
                self.model.__dict__.pop("generate", None)
                if self.own_generate is not None:
                    self.model.__dict__["generate"] = self.own_generate
                self.left = True
                while self._others():
                    self.changed.wait(1)
        finally:
            self.returned = True
            for handle in self.handles:
                handle.remove()
            self.handles.clear()
            self.earlier.clear()
            call = _CURRENT.get()
            while call is not None and call.session is self:  # an interrupt may have left calls behind
                call = call.outer
            _CURRENT.set(call)

    @contextmanager
    def calling(self) -> Iterator[C]:
        """Run a `generate` inside the ``with`` block of this method."""
        call = self.call_type(self)
        if not self._begin(call):
            raise BridgeError(
                "this `generate` belongs to a `with prune(...)` block that has been left: take model.generate anew."
            )
        try:
            yield call
        finally:
            self._end(call)

    def current(self) -> C | None:
        """Return the `forward` of this model that runs in this thread; None outside of one."""
        call = _CURRENT.get()
        return call if self._mine(call) and call.forward else None

    def before_forward(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Begin a `forward`, and return the arguments that replace its own; None leaves them."""
        outer = _CURRENT.get()
        call = self.call_type(self, whole=outer if self._mine(outer) and outer.steps else None, forward=True)
        return self.begun(call, args, kwargs) if self._begin(call) else None

    def _no_replica(self, module: Any, args: Any) -> None:
        """Refuse a call of a copy of the model: the copied `forward` is bound to the original."""
        if module is not self.model:
            raise BridgeError(
                "a copy of the model was called that carries what `prune` has put on it, as torch.nn.DataParallel makes "
                "them: run one process for each device, or prune inside each of them."
            )

    def after_forward(self, output: Any) -> None:
        """End a `forward`, also one that failed."""
        call = self.current()
        if call is None:
            return
        try:
            self.ended(call, output)
        finally:
            self._end(call)

    @abstractmethod
    def pruned_generate(self, *args: Any, **kwargs: Any) -> Any:
        """Stand in for the model's `generate` inside the block."""

    @abstractmethod
    def begun(
        self, call: C, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Return the arguments that a `forward` gets instead of its own; None leaves them."""

    @abstractmethod
    def ended(self, call: C, output: Any) -> None:
        """Keep what is needed of a `forward` that has ended; `output` is None where it failed."""

    def stands_aside(self) -> bool:
        """Tell whether the current `forward` serves a call, of `generate` or `forward`, that began before the block.

        Raises
        ------
        BridgeError
            The `forward` serves a `generate` that began inside the block but is not the session's.
        """
        ours, bypassed = layers_of(type(self).pruned_generate), False
        for frame in callers():
            if frame in self.earlier:
                return True
            if runs(frame, ours, self):
                return False
            if runs(frame, self.generate_layers, self.model) and self.generate_layers[frame.f_code] is None:
                if bypassed:
                    break
                bypassed = True
        if bypassed:
            raise BridgeError(
                "this `generate` was taken from the model, or from its class, before the block began, and only a part of "
                "its work would be pruned: call model.generate(...) inside the block."
            )
        return False

    def _guarded(self, own: Any) -> Any:
        """Wrap the `forward` of the model below the head: it refuses images that did not come through `forward` above."""

        @torch.compiler.disable
        def check(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self.current() is not None or not has_visuals(named(own, args, kwargs)):
                return
            with self.changed:
                if self.left or self.stands_aside():
                    return
            raise BridgeError(
                "this call did not go through `model.forward` and would not be pruned: inside the block call model(...), "
                "no part of it, and no `forward` that was taken from it, or compiled, before the block."
            )

        @functools.wraps(own)
        def forward(*args: Any, **kwargs: Any) -> Any:
            check(args, kwargs)
            return own(*args, **kwargs)

        return forward

    def _begin(self, call: C) -> bool:
        """Enter a call; return False where the block has been left since and nothing may begin."""
        thread = threading.current_thread()
        with self.changed:
            call.depth = self.running[thread]
            if self.left and not call.depth:
                return False
            self.running[thread] = call.depth + 1
        call.outer = _CURRENT.get()
        _CURRENT.set(call)
        return True

    def _end(self, call: C) -> None:
        _CURRENT.set(call.outer)
        with self.changed:
            self.running[threading.current_thread()] = call.depth
            self.running += Counter()  # drops threads whose count is zero
            self.changed.notify_all()

    def _mine(self, call: Any) -> bool:
        return call is not None and call.session is self

    def _others(self) -> list[threading.Thread]:
        me = threading.current_thread()
        return [thread for thread, n in self.running.items() if n and thread is not me and thread.is_alive()]


@contextmanager
def apart() -> Iterator[None]:
    """Run the caller's own function during a call, so that its calls of the model are not taken for steps of that call."""
    call = _CURRENT.get()
    token = _CURRENT.set(None)
    try:
        yield
    finally:
        _CURRENT.reset(token)
    if call is not None and call.session.returned:
        raise BridgeError(
            "the `with prune(...)` block was left by a function that `generate` called: leave it after `generate`."
        )


def check_checkpointing(layers: Iterable[Any], what: str) -> None:
    """Refuse gradient checkpointing of layers with hooks: it runs them again, without the hooks, in the backward pass."""
    if torch.is_grad_enabled() and any(
        layer.training and getattr(layer, "gradient_checkpointing", False) for layer in layers
    ):
        raise BridgeError(
            f"gradient checkpointing runs layers again in the backward pass, when {what} has ended, and gradients would "
            "be wrong: switch it off, or prune before the LLM and without fold."
        )


def autograd_state() -> tuple[Any, ...]:
    """Return what a checkpoint changes: whether gradients are recorded, and the hooks on what is saved for them."""
    return torch.is_grad_enabled(), torch._C._autograd._top_saved_tensors_default_hooks(True)


class Replaced:
    """Set an instance attribute of a model until `remove` restores what was there."""

    def __init__(self, model: Any, name: str, value: Any) -> None:
        self.model, self.name, self.before = model, name, model.__dict__.get(name)
        model.__dict__[name] = value

    def remove(self) -> None:
        """Restore the attribute."""
        self.model.__dict__.pop(self.name, None)
        if self.before is not None:
            self.model.__dict__[self.name] = self.before


def named(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return all arguments of a call by their names in the function's signature."""
    signature = inspect.signature(function)
    bound = dict(signature.bind_partial(*args, **kwargs).arguments)
    rest = next((p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD), None)
    others = bound.pop(rest, {}) if rest is not None else {}
    return {**bound, **others}
