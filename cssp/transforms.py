"""Choosing under ``torch.compile`` and the transforms of ``torch.func``.

Under a transform tensors are wrappers, and what is made of plain ones is wrapped as well: the choice is made beneath, in the
``forward`` of a `torch.autograd.Function`, which is given plain values whatever the nesting.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cssp.errors import UnsupportedError
from cssp.gradients import Live, transformed
from cssp.part import Part
from cssp.selection import Selection

__all__ = ["attached", "under_transform"]


def attached(parts: list[Part], live: Live | None, items: Sequence[tuple[int, ...]]) -> list[Part]:
    """Return the parts, each with its share of what carries a graph."""
    if live is None:
        return parts
    return [replace(part, live=live.item(item)) for part, item in zip(parts, items, strict=True)]


def under_transform(A: Any, weights: Any, target: Any) -> Callable[..., Selection] | None:
    """Return how to choose where ``torch.compile`` or a transform of ``torch.func`` is at work; None elsewhere."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.compiler.is_compiling():
        return untraced
    return beneath if transformed(A, weights, target) else None


def untraced(
    choose: Callable[[Any, Any, Any], Selection], A: Any, weights: Any, target: Any, unit: bool
) -> Selection:
    """Return ``choose(A, weights, target)`` after a break of the graph that ``torch.compile`` traces."""
    import torch

    return torch.compiler.disable(choose)(A, weights, target)


def beneath(
    choose: Callable[[Any, Any, Any], Selection], A: Any, weights: Any, target: Any, unit: bool
) -> Selection:
    """Return ``choose(A, weights, target)`` on the values beneath all transforms, with results that carry the same transforms.

    What is computed from plain values later, errors and the certificate, is computed on the host: NumPy knows no transforms.
    """
    import torch

    class Choice(torch.autograd.Function):
        @staticmethod
        def forward(A: Any, weights: Any, target: Any, place: Any) -> Any:
            chosen = choose(A, weights, target)
            parts = [replace(part, problem=part.problem.numpy()) for part in chosen._parts]
            place(replace(chosen, _parts=tuple(parts)))
            return torch.empty(0)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.mark_non_differentiable(output)

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            return None, None, None, None

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Any:
            return None

        @staticmethod
        def vmap(info: Any, dimensions: Any, *arguments: Any) -> Any:
            raise UnsupportedError(
                "A is mapped by torch.func.vmap: expected one tensor; pass the batch (b, m, n) to select itself, "
                "which chooses in each matrix"
            )

    found: list[Selection] = []
    Choice.apply(A, weights, target, found.append)
    (chosen,) = found
    live = Live(A, None if weights is None else torch.as_tensor(weights), target, unit)
    items = list(np.ndindex(chosen._batch))
    return replace(chosen, _parts=tuple(attached(list(chosen._parts), live, items)))
