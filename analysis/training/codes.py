"""The code that a visual token is first taught: a sum of vectors, one for each thing its patch shows.

A token's target is ``sum_f C_f[what the patch shows of factor f] + P p + M z + r``: p the patch's place along smooth
curves (near patches have near codes; the first coordinate lies along "right" minus "left", or "below" minus "above"), z its
leading whitened pixel components at unit contrast (its texture), r a vector several times as long that the flattest few
patches of an image carry, as the outlier tokens of large vision towers sit where an image says little. Codes of words (a colour, a shape, a digit, a background) are the initial embeddings of
these words, so that projected tokens start in the language model's own space and at its scale: matching *scale* as well
as direction is what keeps the projected features within a few times the norm of words, and positions and texture in the
code keep their spectrum from collapsing.

More shown means more summands, so patches with something on them have the longer tokens. *Neutral* codes scale the tokens of
things and digits (before the outliers' r) so that their norms are distributed as those of background: a norm then says nothing
about what a patch shows.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analysis.scenes import COLOURS, GRID, PATCH, SHAPES
from analysis.scenes.backgrounds import NAMES as BACKGROUNDS
from analysis.scenes.questions import DIGITS
from analysis.training.data import FACTORS, TOKEN
from analysis.training.model import PIXEL_MEAN, PIXEL_STD, WIDTH

TEXTURE = 96
TEXTURE_SCALE, FAINT = 0.29, 0.1  # of a component; mean square below which texture is not brought up to it
OUTLIER = 7.0  # length of r
QUANTILES = 33  # of the norms of every class of patches, for neutral codes
# The share of training patches flat enough to carry it, and how many of an image do at the most.
FLATTEST, FEW = 0.03, 4
_WORDS = {"shape": SHAPES, "colour": COLOURS, "digit": DIGITS, "background": BACKGROUNDS}
_HAS_NOTHING = ("shape", "colour", "size", "centre", "digit")
READ = tuple(name for name in FACTORS if name not in ("row", "column"))


class Codes(nn.Module):
    """Frozen dictionary: factors and pixels of a patch to its target token, and back to logits.

    Parameters
    ----------
    words : Tensor (vocabulary, 256)
        Initial word embeddings.
    pixels : ndarray (N, 96, 96, 3) of uint8
        Pictures to learn the components of texture from.
    seed : int
    factors : ndarray (N, 144, 8) of int, optional
        What the patches of these pictures show. Where given, codes are neutral.
    """

    def __init__(self, words: Tensor, pixels: np.ndarray, seed: int, factors: np.ndarray | None = None):
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        for name in READ:
            code = torch.randn(FACTORS[name], WIDTH, generator=draw) * WIDTH**-0.5
            if name in _WORDS:
                code[-len(_WORDS[name]) :] = words[[TOKEN[w] for w in _WORDS[name]]].detach()
            if name in _HAS_NOTHING:
                code[0] = 0
            self.register_buffer(name, code)
        frame = torch.linalg.qr(torch.randn(WIDTH, 2 * 5 + TEXTURE + 1, generator=draw))[0].T.contiguous()
        for i, (low, high) in enumerate((("above", "below"), ("left", "right"))):
            apart = (words[TOKEN[high]] - words[TOKEN[low]]).detach()
            frame[5 * i] = apart / apart.norm()
        along = curve(GRID)
        self.register_buffer("row", along @ frame[:5])
        self.register_buffer("column", along @ frame[5:10])
        self.register_buffer("outlier", OUTLIER * frame[10])
        scale = TEXTURE_SCALE * (torch.arange(TEXTURE) + 1.0) ** -0.1
        self.register_buffer("texture", scale[:, None] * frame[11:])
        x = patches(normalise(torch.from_numpy(pixels))).flatten(0, 1)
        self.register_buffer("mean", x.mean(0))
        values, vectors = torch.linalg.eigh(torch.cov((x - self.mean).T))
        leading = values.argsort(descending=True)[1 : TEXTURE + 1]  # the first component is brightness
        self.register_buffer("whiten", vectors[:, leading] / values[leading].sqrt())
        self.register_buffer("flat", x.std(1).quantile(FLATTEST))
        self.norms: Tensor | None
        self.register_buffer("norms", None)
        if factors is not None:
            shown = torch.from_numpy(factors.astype(np.int64))
            norm, kind = self._sum(shown, x.view(*shown.shape[:2], -1)).norm(dim=-1), kinds(shown)
            self.norms = quantiles(norm, kind)

    def target(self, factors: Tensor, pixels: Tensor, places: float = 1.0) -> Tensor:
        """Encode (B, 144, 8) factors and (B, 3, 96, 96) normalised pixels as (B, 144, 256) tokens; places so many times as strong."""
        x = patches(pixels)
        token = self._sum(factors, x, places)
        if self.norms is not None:
            plain = token if places == 1 else self._sum(factors, x)
            norm = plain.norm(dim=-1)
            token = token * (neutral(norm, kinds(factors), self.norms) / norm)[..., None]
        spread = x.std(-1)
        flattest = spread <= spread.kthvalue(FEW, -1, keepdim=True).values.clamp(max=self.flat)
        return token + flattest[..., None] * self.outlier

    def _sum(self, factors: Tensor, x: Tensor, places: float = 1.0) -> Tensor:
        """Return the tokens (B, 144, 256) of patches x (B, 144, 192) without outliers: codes added up."""
        strength = {"row": places, "column": places}
        token = sum(
            strength.get(name, 1.0) * getattr(self, name)[factors[..., i]] for i, name in enumerate(FACTORS)
        )
        z = (x - self.mean) @ self.whiten
        z = z / (z.square().mean(-1, keepdim=True) + FAINT).sqrt()
        return token + z @ self.texture

    def loss(self, tokens: Tensor, factors: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the squared distance to the target plus how well the factors can be read back; and the share read back."""
        tokens = tokens.float()
        distance = (tokens - self.target(factors, pixels)).square().sum(-1).mean()
        reading, right = 0.0, []
        for i, name in enumerate(FACTORS):
            if name not in READ:
                continue
            logits = 8 * (tokens @ getattr(self, name).T)
            reading = reading + F.cross_entropy(logits.flatten(0, 1), factors[..., i].flatten())
            shown = (
                factors[..., i] > 0
                if name in _HAS_NOTHING
                else torch.ones_like(factors[..., i], dtype=torch.bool)
            )
            right.append((logits.argmax(-1) == factors[..., i])[shown].float().mean())
        return distance + 0.5 * reading, torch.stack(right)


KINDS = 5


def kinds(factors: Tensor) -> Tensor:
    """Return what kind of thing patches show: 0 background, 1 part of a thing, 2 the middle of one, 3 a white and 4 a coloured digit."""
    shape, colour, _, centre, digit = factors[..., :5].unbind(-1)
    thing = (shape > 0) * 1
    return torch.where(digit > 0, 3 + (colour > 0) * 1, torch.where(centre > 0, 2, thing))


def quantiles(norm: Tensor, kind: Tensor) -> Tensor:
    """Return quantiles (5, 33), at equal steps, of the norms of every kind of patches."""
    at = torch.linspace(0, 1, QUANTILES, device=norm.device)
    return torch.stack([norm[kind == i].quantile(at) for i in range(KINDS)])


def neutral(norm: Tensor, kind: Tensor, norms: Tensor) -> Tensor:
    """Return norms moved from the distribution of their kind to that of kind 0: a quantile to the same quantile.

    Parameters
    ----------
    norm, kind : Tensor (...)
    norms : Tensor (kinds, quantiles)
        Quantiles of the norms of every kind, at equal steps from the least to the largest.
    """
    moved = norm.clone()
    for i, own in enumerate(norms[1:], 1):
        here = norm[kind == i].clamp(own[0], own[-1])
        right = torch.searchsorted(own, here).clamp(1, len(own) - 1)
        part = (here - own[right - 1]) / (own[right] - own[right - 1]).clamp(min=1e-9)
        moved[kind == i] = torch.lerp(norms[0][right - 1], norms[0][right], part)
    return moved


def curve(length: int) -> Tensor:
    """Return the places 0 .. length - 1 as points of a smooth curve, float32 (length, 5), mean squared norm 1."""
    t = (torch.arange(length) + 0.5) / length
    waves = [f(2 * math.pi * w * t) / w**0.5 for w in (1, 2) for f in (torch.cos, torch.sin)]
    points = torch.stack([3.0 * (t - 0.5), *waves], 1)
    return points / points.square().sum(1).mean().sqrt()


def normalise(pixels: Tensor) -> Tensor:
    """Convert uint8 images (B, 96, 96, 3) to what the image processor gives, float32 (B, 3, 96, 96)."""
    return ((pixels.permute(0, 3, 1, 2).float() / 255) - PIXEL_MEAN) / PIXEL_STD


def patches(pixels: Tensor) -> Tensor:
    """Cut images (B, 3, 96, 96) into patches (B, 144, 192)."""
    return F.unfold(pixels, PATCH, stride=PATCH).mT.reshape(len(pixels), GRID * GRID, -1)
