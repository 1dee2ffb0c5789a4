"""The code that a visual token is first taught: a sum of unit vectors, one for each thing its patch shows.

A token's target is ``sum_f C_f[what the patch shows of factor f] + M z``, z the patch's leading whitened pixel components
(its texture). Codes of words (a colour, a shape, a digit, a background) are the initial embeddings of these words, so that
projected tokens start in the language model's own space and at its scale: matching *scale* as well as direction is what
keeps the projected features within a few times the norm of words, and positions and texture in the code keep their
spectrum from collapsing.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..scenes import COLOURS, GRID, PATCH, SHAPES
from ..scenes.backgrounds import NAMES as BACKGROUNDS
from ..scenes.questions import DIGITS
from .data import FACTORS, TOKEN
from .model import PIXEL_MEAN, PIXEL_STD, WIDTH

TEXTURE = 24
TEXTURE_SCALE = 0.2
_WORDS = {"shape": SHAPES, "colour": COLOURS, "digit": DIGITS, "background": BACKGROUNDS}
_HAS_NOTHING = ("shape", "colour", "size", "centre", "digit")


class Codes(nn.Module):
    """Frozen dictionary: factors and pixels of a patch to its target token, and back to logits."""

    def __init__(self, words: Tensor, pixels: np.ndarray, seed: int):
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        for name, size in FACTORS.items():
            code = torch.randn(size, WIDTH, generator=draw) * WIDTH**-0.5
            if name in _WORDS:
                code[-len(_WORDS[name]) :] = words[[TOKEN[w] for w in _WORDS[name]]].detach()
            if name in _HAS_NOTHING:
                code[0] = 0
            self.register_buffer(name, code)
        self.register_buffer(
            "texture", torch.linalg.qr(torch.randn(WIDTH, TEXTURE, generator=draw))[0].T.contiguous()
        )
        x = patches(normalise(torch.from_numpy(pixels))).flatten(0, 1)
        self.register_buffer("mean", x.mean(0))
        values, vectors = torch.linalg.eigh(torch.cov((x - self.mean).T))
        leading = values.argsort(descending=True)[1 : TEXTURE + 1]  # the first component is brightness
        self.register_buffer("whiten", vectors[:, leading] / values[leading].sqrt())

    def target(self, factors: Tensor, pixels: Tensor) -> Tensor:
        """(B, 144, 8) factors and (B, 3, 96, 96) normalised pixels to (B, 144, 256) tokens."""
        token = sum(getattr(self, name)[factors[..., i]] for i, name in enumerate(FACTORS))
        z = ((patches(pixels) - self.mean) @ self.whiten).clamp(-3, 3)
        return token + TEXTURE_SCALE * (z @ self.texture)

    def loss(self, tokens: Tensor, factors: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Squared distance to the target plus how well the factors can be read back; and the share read back."""
        tokens = tokens.float()
        distance = (tokens - self.target(factors, pixels)).square().sum(-1).mean()
        reading, right = 0.0, []
        for i, name in enumerate(FACTORS):
            logits = 8 * (tokens @ getattr(self, name).T)
            reading = reading + F.cross_entropy(logits.flatten(0, 1), factors[..., i].flatten())
            shown = (
                factors[..., i] > 0
                if name in _HAS_NOTHING
                else torch.ones_like(factors[..., i], dtype=torch.bool)
            )
            right.append((logits.argmax(-1) == factors[..., i])[shown].float().mean())
        return distance + 0.5 * reading, torch.stack(right)


def normalise(pixels: Tensor) -> Tensor:
    """uint8 (B, 96, 96, 3) to what the image processor gives, float32 (B, 3, 96, 96)."""
    return ((pixels.permute(0, 3, 1, 2).float() / 255) - PIXEL_MEAN) / PIXEL_STD


def patches(pixels: Tensor) -> Tensor:
    """(B, 3, 96, 96) to (B, 144, 192)."""
    return F.unfold(pixels, PATCH, stride=PATCH).mT.reshape(len(pixels), GRID * GRID, -1)
