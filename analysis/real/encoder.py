"""The encoder of DECIMER: EfficientNetV2-M, from 512 x 512 pixels to a grid of 16 x 16 tokens of 512 features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from analysis.real.efficientnet import Block, Convolution, Gate

#: Of each stage: blocks, stride of the first, whether channels are expanded, whether that and the spatial convolution are one.
STAGES = (
    (3, 1, False, True),
    (5, 2, True, True),
    (5, 2, True, True),
    (7, 2, True, False),
    (14, 1, True, False),
    (18, 2, True, False),
    (5, 1, True, False),
)
#: Variables of the stem: weight, and the four of batch normalisation.
STEM = 5


class Encoder:
    """The convolutional network that forms the visual tokens.

    Parameters
    ----------
    variables : sequence of arrays
        In the order of the checkpoint: what training changes in the blocks, the means and variances of their batch
        normalisation, then the stem.
    """

    def __init__(self, variables: Sequence[np.ndarray]):
        tensors = [_as_torch(v) for v in variables]
        normalised = sum(n * (3 if not fused else 1 + expanded) for n, _, expanded, fused in STAGES)
        first = len(tensors) - STEM - 2 * normalised
        trained, moving = iter(tensors[:first]), iter(tensors[first:-STEM])
        weight, *norm = tensors[-STEM:]
        stem = Convolution.folded(weight, norm, 2, F.silu)
        blocks = [
            _block(trained, moving, stride if i == 0 else 1, expanded, fused)
            for repeats, stride, expanded, fused in STAGES
            for i in range(repeats)
        ]
        if left := len(list(trained)):
            raise ValueError(f"expected the variables of EfficientNetV2-M, got {left} too many.")
        self.layers = (stem, *blocks)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Return the tokens (B, 256, 512) of images (B, 3, 512, 512), one row of the grid after another."""
        for layer in self.layers:
            images = layer(images)
        return images.flatten(2).mT.contiguous()


def _block(
    trained: Iterator[Tensor], moving: Iterator[Tensor], stride: int, expanded: bool, fused: bool
) -> Block:
    def convolution(stride: int = 1, activation=F.silu) -> Convolution:
        weight, scale, shift = (next(trained) for _ in range(3))
        return Convolution.folded(weight, (scale, shift, next(moving), next(moving)), stride, activation)

    def biased(activation) -> Convolution:
        return Convolution(next(trained), next(trained), 1, activation)

    if not expanded:
        return Block((convolution(stride),))
    project = partial(convolution, activation=None)
    if fused:
        return Block((convolution(stride), project()))
    return Block((convolution(), convolution(stride), Gate(biased(F.silu), biased(torch.sigmoid)), project()))


def _as_torch(variable: np.ndarray) -> Tensor:
    """Return a weight with TensorFlow's axes (height, width, in, out or one per channel) in torch's order."""
    if variable.ndim == 4:
        axes = (2, 3, 0, 1) if variable.shape[3] == 1 else (3, 2, 0, 1)
        variable = variable.transpose(axes)
    return torch.tensor(np.ascontiguousarray(variable))
