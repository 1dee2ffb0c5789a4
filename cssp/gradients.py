"""Coefficients and reconstruction with gradients: the chosen columns fixed, A, weights and target live torch tensors.

With independent chosen columns C = QR the coefficients are R⁻¹QᴴB and the projection is QQᴴB, smooth functions of C and B.
Dependent columns make both discontinuous. The derivative is then that along matrices of the same rank: of the pseudoinverse
for the coefficients; for the projection through the independent columns alone, as the others change no span.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import array_api_compat

from cssp import linalg
from cssp.problem import Problem
from cssp.scaling import shifted

__all__ = ["Live", "coefficients", "projection", "sources", "transformed"]

Array = Any


@dataclass(frozen=True, eq=False)
class Live:
    """What a call of `cssp.select` was given, with its graph."""

    A: Array
    weights: Any
    target: Array | None
    unit: bool  # whether columns are divided by their norms

    def item(self, place: tuple[int, ...]) -> Live:
        """Return what one item of the batch was given."""
        w, B = self.weights, self.target
        return Live(
            self.A[place],
            w if w is None or w.ndim == 1 else w[place],
            B if B is None or B.ndim == 2 else B[place],
            self.unit,
        )

    def matrices(self, p: Problem, picks: Sequence[int]) -> tuple[Array, Array]:
        """Return the chosen columns and the matrix to be reconstructed, in the units of the problem and the widest precision."""
        X, w = linalg.widen(self.A), self.weights
        if p.columns is not None:
            X, w = linalg.take_columns(X, p.columns), w if w is None else w[..., p.columns]
        if self.unit:
            X = _unit_columns(X)
        if w is not None:
            X = X * w.to(X.device, X.real.dtype)
        X = shifted(X, -p.exponent)
        B = X if self.target is None else shifted(linalg.widen(self.target), -p.target_exponent)
        return linalg.take_columns(X, list(picks)), B


def _unit_columns(X: Array) -> Array:
    """Return every column over its norm; zero columns stay zero, and so do their derivatives."""
    xp = array_api_compat.array_namespace(X)
    top = xp.max(xp.abs(X), axis=0).detach()
    X = X / xp.where(top > 0, top, xp.ones_like(top))
    norms2 = linalg.column_norms2(X)
    return X / xp.sqrt(xp.where(norms2 > 0, norms2, xp.ones_like(norms2)))


def sources(A: Any, weights: Any, target: Any, unit: bool) -> Live | None:
    """Return the arguments as they came, if A is a torch tensor and one of them carries a derivative, backward or forward."""
    if not array_api_compat.is_torch_array(A):
        return None
    import torch
    from torch.autograd.forward_ad import unpack_dual

    tensors = [x for x in (A, weights, target) if isinstance(x, torch.Tensor)]
    backward = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    if not backward and all(unpack_dual(x).tangent is None for x in tensors):
        return None
    return Live(A, None if weights is None else torch.as_tensor(weights), target, unit)


def transformed(*arguments: Any) -> bool:
    """Return whether one of these is a torch tensor and a transform of ``torch.func`` is at work."""
    if not any(array_api_compat.is_torch_array(x) for x in arguments):
        return False
    import torch

    return torch._C._functorch.peek_interpreter_stack() is not None


def coefficients(C: Array, B: Array, independent: list[bool], cut: float) -> Array:
    """Return C⁺B, singular values up to the cut being rounding."""
    xp = array_api_compat.array_namespace(C)
    if not all(independent):
        largest = float(xp.linalg.matrix_norm(C.detach(), ord=2))
        least = max(C.shape) * float(xp.finfo(C.dtype).eps)
        return xp.linalg.pinv(C, rtol=max(least, cut / largest) if largest > 0 else 1.0) @ B
    Q, R = xp.linalg.qr(C)
    return xp.linalg.solve(R, linalg.adjoint(Q) @ B)


def projection(C: Array, B: Array, independent: list[bool]) -> Array:
    """Return P_C B."""
    xp = array_api_compat.array_namespace(C)
    if not all(independent):
        C = linalg.take_columns(C, [j for j, yes in enumerate(independent) if yes])
    Q, _ = xp.linalg.qr(C)
    return Q @ (linalg.adjoint(Q) @ B)
