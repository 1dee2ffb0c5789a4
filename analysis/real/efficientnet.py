"""Inverted residual blocks of EfficientNets, for inference: batch normalisation is folded into the convolutions.

References: Tan and Le, EfficientNet (ICML 2019) and EfficientNetV2 (ICML 2021). Both models here were trained with
TensorFlow's padding, which puts the odd pixel at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

EPS = 1e-3


@dataclass(frozen=True)
class Convolution:
    """A convolution with batch normalisation and activation.

    Attributes
    ----------
    weight : Tensor, (out, in / groups, size, size)
    bias : Tensor, (out,)
    stride : int
    activation : callable, optional
    """

    weight: Tensor
    bias: Tensor
    stride: int = 1
    activation: Callable[[Tensor], Tensor] | None = None

    @classmethod
    def folded(
        cls,
        weight: Tensor,
        norm: Sequence[Tensor],
        stride: int = 1,
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> Convolution:
        """Return the convolution followed by batch normalisation with (scale, shift, mean, variance)."""
        scale, shift, mean, variance = norm
        scale = scale / (variance + EPS).sqrt()
        return cls(weight * scale[:, None, None, None], shift - mean * scale, stride, activation)

    def __call__(self, x: Tensor) -> Tensor:
        groups = x.shape[1] // self.weight.shape[1]
        x = F.conv2d(
            _pad(x, self.weight.shape[-1], self.stride), self.weight, self.bias, self.stride, groups=groups
        )
        return x if self.activation is None else self.activation(x)


@dataclass(frozen=True)
class Gate:
    """Squeeze and excitation: each channel is scaled by a number from the means of all."""

    squeeze: Convolution
    excite: Convolution

    def __call__(self, x: Tensor) -> Tensor:
        return x * self.excite(self.squeeze(x.mean((2, 3), keepdim=True)))


@dataclass(frozen=True)
class Block:
    """Convolutions (and a gate) one after another; the input is added where the shapes agree."""

    layers: tuple[Convolution | Gate, ...]

    def __call__(self, x: Tensor) -> Tensor:
        y = x
        for layer in self.layers:
            y = layer(y)
        return x + y if y.shape == x.shape else y


def _pad(x: Tensor, size: int, stride: int) -> Tensor:
    """Pad a square image so that a convolution returns one value per stride."""
    side = x.shape[-1]
    total = max((math.ceil(side / stride) - 1) * stride + size - side, 0)
    before, after = total // 2, total - total // 2
    return F.pad(x, (before, after, before, after)) if total else x
