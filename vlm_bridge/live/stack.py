"""Read the call stack: which frames are a model's own methods, and which of them began before a block.

A frame is recognised by its code object and by the object in its first argument. A method may be decorated, as
`generate` of transformers is by ``torch.no_grad``; then each decorator has a frame of its own, whose code it shares with
every other function of that decorator.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from types import CodeType, FrameType
from typing import Any

Layers = Mapping[CodeType, Any]
"""Code of a method and of its decorators, each with the function that it calls; None for the method itself."""


def layers_of(method: Any) -> dict[CodeType, Any]:
    """Unwrap a method into the code of its decorators, outermost first, and its own."""
    layers = {}
    while method is not None:
        inner = getattr(method, "__wrapped__", None)
        layers[method.__code__] = inner
        method = inner
    return layers


def callers(frame: FrameType | None = None) -> Iterator[FrameType]:
    """Yield a frame, by default the caller's, and the frames that called it, from the inside out."""
    frame = sys._getframe(1) if frame is None else frame
    while frame is not None:
        yield frame
        frame = frame.f_back


def runs(frame: FrameType, layers: Layers, owner: Any) -> bool:
    """Tell whether a frame runs the owner's method, or a decorator of it."""
    if frame.f_code not in layers:
        return False
    inner, values = layers[frame.f_code], frame.f_locals
    first = values["self"] if "self" in values else next(iter(values.get("args", ())), None)
    return first is owner and (inner is None or any(value is inner for value in values.values()))


def running_elsewhere(layers: Layers, owner: Any) -> list[FrameType]:
    """List the frames of other threads that run the owner's methods now."""
    here = threading.get_ident()
    return [
        frame
        for thread, top in sys._current_frames().items()
        if thread != here
        for frame in callers(top)
        if runs(frame, layers, owner)
    ]
