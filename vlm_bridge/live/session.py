"""What every session on a model has in common: ``forward``, ``generate`` and hooks, the calls that run, and giving all of it back.

Any number of threads may use a model in a session. What has to be known of a call hangs on a `Call` that only its own
thread finds, in a context variable; the session holds what all calls share.
"""

from __future__ import annotations

import functools
import inspect
import sys
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any, Generic, TypeVar
from weakref import ref

import torch

from vlm_bridge.errors import BridgeError
from vlm_bridge.model.families import base_of
from vlm_bridge.model.prompt import has_visuals

_CURRENT: ContextVar[Any] = ContextVar(
    "the innermost call of a model in a session in this thread", default=None
)


@dataclass(eq=False)
class Call:
    """One `generate` or one `forward` of a model in a session, while it runs.

    Attributes
    ----------
    session : Session
    whole : Call, optional
        The `generate` of which this `forward` is a step.
    forward : bool
        Whether this is one `forward`.
    steps : bool
        Whether calls of the model that are made now are steps of this `generate`.
    outer : Call, optional
        The call, of any model, in which this one is made.
    depth : int
        How many calls of the same model run around this one, in the same thread.
    """

    session: Any
    whole: Any = None
    forward: bool = False
    steps: bool = False
    outer: Any = None
    depth: int = 0


C = TypeVar("C", bound=Call)


@dataclass(eq=False)
class Filled:
    """On a cache: whose prompt went into it, and how that was pruned. Copies of the cache are filled alike.

    Attributes
    ----------
    session : callable
        A weak reference; None of a cache that was stored and read again.
    known : Any
    """

    session: Any
    known: Any

    def __deepcopy__(self, memo: Any) -> Filled:
        return self

    def __reduce__(self) -> Any:
        return Filled, (None, None)


class Session(ABC, Generic[C]):
    """A model with another `generate` and some hooks; nothing is assigned to a class.

    Subclasses say in `call_type` what they remember of a call, and what happens before and after a `forward`.
    """

    call_type: type[C]

    def __init__(self, model: Any) -> None:
        self.model = model
        self.handles: list[Any] = []
        self.own_generate = model.__dict__.get("generate")
        self.generate = getattr(model, "generate", None)
        self.running: Counter[threading.Thread] = Counter()
        self.changed = threading.Condition()
        self.left = self.returned = False
        self.earlier: list[FrameType] = []

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise BridgeError(
            "a model cannot be copied or pickled while it is being pruned, since a copy would bring along hooks that "
            "belong to this model; do it before or behind the `with` block (save_pretrained works inside, too)."
        )

    def attach(self, hooked: bool = False) -> None:
        """Lend `forward` and `generate`.

        `forward` is replaced, and not hooked, since wrappers may call it past the hooks, as PEFT's do. Of a compiled model
        the graph breaks here; where modules inside are `hooked`, which compiled code may not notice, calls are not
        compiled.

        Raises
        ------
        BridgeError
            A function that `generate` of this model calls opens the block: what it asks the model could not be told from
            the steps of that `generate`.
        """
        layers = self._generate_layers()
        if any(_runs(frame, layers, self.model) for frame in _outwards(sys._getframe())):
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

        if self.generate is not None:  # first, so that whoever copies the model meets what refuses it
            self.model.__dict__["generate"] = self.pruned_generate
        self.handles.append(
            Replaced(self.model, "forward", torch.compiler.disable(forward) if hooked else forward)
        )
        self.handles.append(self.model.register_forward_pre_hook(self._no_replica))
        base = base_of(self.model)
        if base is not self.model:
            self.handles.append(Replaced(base, "forward", self._guarded(base.forward)))
        layers = {
            torch.nn.Module._call_impl.__code__: None,
            **_layers(type(self.model).forward),
            **self._generate_layers(),
        }
        self.earlier = [
            frame
            for thread, top in sys._current_frames().items()
            if thread != threading.get_ident()
            for frame in _outwards(top)
            if _runs(frame, layers, self.model)
        ]

    def detach(self) -> None:
        """Take everything off, whatever was on, when the calls of other threads have ended."""
        try:
            with self.changed:  # no call begins between the two
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
            while call is not None and call.session is self:  # left behind by an interrupt
                call = call.outer
            _CURRENT.set(call)

    # calls ----------------------------------------------------------------------------------------

    @contextmanager
    def calling(self) -> Iterator[C]:
        """A call of `generate`, from beginning to end."""
        call = self.call_type(self)
        if not self._begin(call):
            raise BridgeError("this `generate` belongs to a `with prune(...)` block that has been left.")
        try:
            yield call
        finally:
            self._end(call)

    def current(self) -> C | None:
        """The `forward` of this model that runs in this thread, if hooks are called for it."""
        call = _CURRENT.get()
        return call if self._mine(call) and call.forward else None

    def remember(self, cache: Any, known: Any, in_order: bool = False) -> None:
        """Note on a cache what a pruned prompt in it has to be gone on with; `in_order` fixes its rows."""
        if cache is not None:
            cache.pruned_prompt = Filled(ref(self), known)
            if in_order:
                cache.reorder_cache = cache.batch_select_indices = in_their_order

    def remembered(self, cache: Any) -> Any:
        """What is known of the pruned prompt in a cache; None where there is no such prompt.

        Raises
        ------
        BridgeError
            The prompt was pruned in another block, or the cache was stored and read again.
        """
        filled = getattr(cache, "pruned_prompt", None)
        if filled is None:
            return None
        if cache.get_seq_length() == 0:  # emptied since
            for name in ("pruned_prompt", "reorder_cache", "batch_select_indices"):
                vars(cache).pop(name, None)
            return None
        if filled.session is None or filled.session() is not self:
            raise BridgeError(
                "past_key_values holds a prompt that was pruned in another `with prune(...)` block: expected a cache that "
                "was filled in this block, or a copy of it. Pass the whole prompt again."
            )
        return filled.known

    def before_forward(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Begin a `forward`."""
        outer = _CURRENT.get()
        call = self.call_type(self, whole=outer if self._mine(outer) and outer.steps else None, forward=True)
        return self.begun(call, args, kwargs) if self._begin(call) else None

    def _no_replica(self, module: Any, args: Any) -> None:
        """Refuse a copy of the model, whose `forward` would be the model's."""
        if module is not self.model:
            raise BridgeError(
                "a copy of the model was called that carries what `prune` has put on it, as torch.nn.DataParallel makes "
                "them; run one process a device, or prune inside of each."
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
        """What the model's `generate` is inside the block."""

    @abstractmethod
    def begun(
        self, call: C, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """What the model is to be called with instead."""

    @abstractmethod
    def ended(self, call: C, output: Any) -> None:
        """What is remembered of a call; `output` is None where it failed."""

    def stands_aside(self) -> bool:
        """Whether this is done for a call, of `generate` or of `forward`, that began before the block.

        Raises
        ------
        BridgeError
            It is done for a `generate` that began since, and went past the one of the session.
        """
        own, ours, past = self._generate_layers(), {type(self).pruned_generate.__code__: None}, False
        for frame in _outwards(sys._getframe()):
            if frame in self.earlier:
                return True
            if _runs(frame, ours, self):
                return False
            if _runs(frame, own, self.model) and own[frame.f_code] is None:
                if past:
                    break
                past = True
        if past:
            raise BridgeError(
                "this `generate` was taken from the model, or from its class, before the block began, and would be pruned "
                "by halves: call model.generate(...) inside the block."
            )
        return False

    def _generate_layers(self) -> dict[CodeType, Any]:
        return _layers(getattr(type(self.model), "generate", None))

    def _guarded(self, own: Any) -> Any:
        """The `forward` of the model below the head, which refuses images that have come past the one of the session."""

        @torch.compiler.disable
        def check(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self.current() is not None or not has_visuals(named(own, args, kwargs)):
                return
            with self.changed:
                if self.left or self.stands_aside():
                    return
            raise BridgeError(
                "this call reached the model past `model.forward`, and would not be pruned: inside the block call "
                "model(...), and no part of it, and no `forward` that was taken from it, or compiled, before the block."
            )

        @functools.wraps(own)
        def forward(*args: Any, **kwargs: Any) -> Any:
            check(args, kwargs)
            return own(*args, **kwargs)

        return forward

    def _begin(self, call: C) -> bool:
        """Whether it is in time: the block may have been left since."""
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
            self.running += Counter()  # forgets threads that have no call
            self.changed.notify_all()

    def _mine(self, call: Any) -> bool:
        return call is not None and call.session is self

    def _others(self) -> list[threading.Thread]:
        me = threading.current_thread()
        return [thread for thread, n in self.running.items() if n and thread is not me and thread.is_alive()]


@contextmanager
def apart() -> Iterator[None]:
    """Where the caller's own functions run in the midst of a call: what they ask the model is no part of it."""
    call = _CURRENT.get()
    token = _CURRENT.set(None)
    try:
        yield
    finally:
        _CURRENT.reset(token)
    if call is not None and call.session.returned:
        raise BridgeError(
            "the `with prune(...)` block was left by a function that `generate` called; go on outside."
        )


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _layers(method: Any) -> dict[CodeType, Any]:
    """The code of a method and of its decorators, and what each of these calls."""
    found = {}
    while method is not None:
        inner = getattr(method, "__wrapped__", None)
        found[method.__code__] = inner
        method = inner
    return found


def _runs(frame: FrameType, layers: Mapping[CodeType, Any], owner: Any) -> bool:
    """Whether the frame is the owner's method or a decorator of it; the decorators' code is that of other functions, too."""
    if frame.f_code not in layers:
        return False
    inner, values = layers[frame.f_code], frame.f_locals
    first = values["self"] if "self" in values else next(iter(values.get("args", ())), None)
    return first is owner and (inner is None or any(value is inner for value in values.values()))


def check_checkpointing(layers: Iterable[Any], what: str) -> None:
    """Refuse gradient checkpointing where hooks act on layers, which it runs again when the call is over."""
    if torch.is_grad_enabled() and any(
        layer.training and getattr(layer, "gradient_checkpointing", False) for layer in layers
    ):
        raise BridgeError(
            f"gradient checkpointing runs layers again in the backward pass, when {what} has ended, and gradients would "
            "be wrong: switch it off, or prune before the LLM and without fold."
        )


def in_their_order(rows: Any) -> None:
    """In place of what reorders a cache of prompts that are pruned each in its own way: refuse to."""
    raise BridgeError(
        "the rows of this cache hold prompts that were pruned differently, and each is gone on with at its own positions: "
        "expected them to stay in their order. Let generate(num_beams=...) reorder them, or fill a cache for each prompt."
    )


def check_cropped(past: int, prompt: int) -> None:
    """Refuse a cache of `past` tokens that has lost some of the pruned prompt's, `prompt` of them."""
    if past < prompt:
        raise BridgeError(
            f"past_key_values was cropped to {past} tokens, fewer than the {prompt} of the pruned prompt in it: expected a "
            "cache that ends behind the prompt. Crop less, or pass the whole prompt again."
        )


def autograd_state() -> tuple[Any, ...]:
    """Changes where a checkpoint begins: it records nothing, or packs what is saved for the backward pass."""
    return torch.is_grad_enabled(), torch._C._autograd._top_saved_tensors_default_hooks(True)


class Replaced:
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
