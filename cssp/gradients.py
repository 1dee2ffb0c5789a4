"""Coefficients and reconstruction with gradients: the chosen columns fixed, A, weights and target live torch tensors.

With independent chosen columns C = QR the coefficients are R⁻¹QᴴB and the projection is QQᴴB, smooth functions of C and B.
Dependent columns make both discontinuous. The derivative is then that along matrices of the same rank: of the pseudoinverse
for the coefficients; for the projection through the independent columns alone, as the others change no span.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import array_api_compat

from cssp import linalg
from cssp.scaling import shifted

if TYPE_CHECKING:
    from cssp.selection import Part

__all__ = ["Live", "attached", "sources"]

Array = Any


@dataclass(frozen=True, eq=False)
class Live:
    """What a call of `cssp.select` was given, with its graph."""

    A: Array
    weights: Any
    target: Array | None

    def item(self, place: tuple[int, ...]) -> Live:
        """What one item of the batch was given."""
        w, B = self.weights, self.target
        return Live(
            self.A[place],
            w if w is None or w.ndim == 1 else w[place],
            B if B is None or B.ndim == 2 else B[place],
        )

    def matrices(self, part: Part) -> tuple[Array, Array]:
        """The chosen columns and the matrix to be reconstructed, in the units of the problem and the widest precision."""
        p, X = part.problem, linalg.widen(self.A)
        if self.weights is not None:
            X = X * self.weights.to(X.device, X.real.dtype)
        if p.columns is not None:
            X = linalg.take_columns(X, p.columns)
        X = shifted(X, -p.exponent)
        B = X if self.target is None else shifted(linalg.widen(self.target), -p.target_exponent)
        return linalg.take_columns(X, list(part.picks)), B


def sources(A: Any, weights: Any, target: Any) -> Live | None:
    """The arguments as they came, if A is a torch tensor, one of them requires a gradient, and gradients are on."""
    if not array_api_compat.is_torch_array(A):
        return None
    if not any(getattr(x, "requires_grad", False) for x in (A, weights, target)):
        return None
    import torch

    if not torch.is_grad_enabled():
        return None
    return Live(A, None if weights is None else torch.as_tensor(weights), target)


def attached(parts: list[Part], live: Live | None, items: Sequence[tuple[int, ...]]) -> list[Part]:
    """The parts, each with its share of what carries a graph."""
    if live is None:
        return parts
    return [replace(part, live=live.item(item)) for part, item in zip(parts, items, strict=True)]


def coefficients(C: Array, B: Array, independent: list[bool], cut: float) -> Array:
    """C⁺B, singular values up to the cut being rounding."""
    xp = array_api_compat.array_namespace(C)
    if not all(independent):
        largest = float(xp.linalg.matrix_norm(C.detach(), ord=2))
        least = max(C.shape) * float(xp.finfo(C.dtype).eps)
        return xp.linalg.pinv(C, rtol=max(least, cut / largest) if largest > 0 else 1.0) @ B
    Q, R = xp.linalg.qr(C)
    return xp.linalg.solve(R, linalg.adjoint(Q) @ B)


def projection(C: Array, B: Array, independent: list[bool]) -> Array:
    """P_C B."""
    xp = array_api_compat.array_namespace(C)
    if not all(independent):
        C = linalg.take_columns(C, [j for j, yes in enumerate(independent) if yes])
    Q, _ = xp.linalg.qr(C)
    return Q @ (linalg.adjoint(Q) @ B)
