"""EfficientNet-Lite0, a pretrained classifier of photographs: its 100 tokens pruned in front of the pooling, without training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from analysis.real import weights
from analysis.real.efficientnet import Block, Convolution

SIDE = 320
#: Of each stage: blocks, and stride of the first.
STAGES = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1))


class Lite0:
    """The classifier.

    Parameters
    ----------
    state : mapping of str to Tensor
        Weights by the names of the published file.
    """

    def __init__(self, state: Mapping[str, Tensor]):
        self.state = state
        strides = [stride if i == 0 else 1 for repeats, stride in STAGES for i in range(repeats)]
        self.layers = (
            self._convolution("_conv_stem", "_bn0", 2),
            *(self._block(f"_blocks.{i}.", stride) for i, stride in enumerate(strides)),
        )
        self.head = self._convolution("_conv_head", "_bn1")

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """Return the tokens (B, 100, 320) of images (B, 3, 320, 320) with values in [-1, 1]."""
        for layer in self.layers:
            images = layer(images)
        return images.flatten(2).mT.contiguous()

    def logits(self, tokens: Tensor, keep: Tensor | None = None) -> Tensor:
        """Return the logits (B, 1000) of ImageNet's classes, from kept tokens (B, k) of indices pooled."""
        head = self.features(tokens)
        if keep is not None:
            head = head.expand(len(keep), -1, -1).gather(1, keep[:, :, None].expand(-1, -1, head.shape[2]))
        return F.linear(head.mean(1), self.state["_fc.weight"], self.state["_fc.bias"])

    def features(self, tokens: Tensor) -> Tensor:
        """Return what is pooled, (B, n, 1280)."""
        return self.head(tokens.mT[..., None]).squeeze(-1).mT

    def contributions(self, tokens: Tensor) -> Tensor:
        """Return what each token adds to the logit of the winning class, over the mean of all tokens, (B, n)."""
        head = self.features(tokens)
        winner = self.logits(tokens).argmax(-1)
        return ((head - head.mean(1, keepdim=True)) @ self.state["_fc.weight"][winner][:, :, None])[..., 0]

    def _convolution(self, name: str, norm: str, stride: int = 1, activation=F.relu6) -> Convolution:
        four = [self.state[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")]
        return Convolution.folded(self.state[f"{name}.weight"], four, stride, activation)

    def _block(self, prefix: str, stride: int) -> Block:
        layers = [
            self._convolution(f"{prefix}_depthwise_conv", f"{prefix}_bn1", stride),
            self._convolution(f"{prefix}_project_conv", f"{prefix}_bn2", activation=None),
        ]
        if f"{prefix}_expand_conv.weight" in self.state:
            layers.insert(0, self._convolution(f"{prefix}_expand_conv", f"{prefix}_bn0"))
        return Block(tuple(layers))


def load(path: Path | None = None) -> Lite0:
    """Return the pretrained model; a FileNotFoundError says where the weights are to be had."""
    path = weights.lite0_file() if path is None else path
    return Lite0(torch.load(path, map_location="cpu", weights_only=True))
