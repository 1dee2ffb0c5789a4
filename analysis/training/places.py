"""Where the things lie that a question names: what an auxiliary head reads from the states of their nouns in training.

The head is thrown away afterwards. Without it, nothing rewards a noun for holding a place until two lookups hand it on to
the answer, and questions about places stayed at guessing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..scenes import COLOURS, GRID, SHAPES
from ..scenes.questions import DIGITS
from .data import TOKEN
from .model import VOCABULARY

PAIRS = len(COLOURS) * len(SHAPES)
_COLOUR, _NAME = (torch.full((len(VOCABULARY) + 8,), -1) for _ in range(2))
for _i, _word in enumerate(COLOURS):
    _COLOUR[TOKEN[_word]] = _i
for _i, _word in enumerate((*SHAPES, *DIGITS)):
    _NAME[TOKEN[_word]] = _i


def named(tokens: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """Which of the words (B, L) end a name that one thing or digit of the scene (B, 144, 8) has, and its place.

    Returns
    -------
    ends : Tensor (B, L) of bool
    places : Tensor (ends, 2)
        Row and column of its middle, from -1 to 1.
    """
    colour, name = (table.to(tokens.device)[tokens] for table in (_COLOUR, _NAME))
    before = torch.cat([torch.full_like(colour[:, :1], -1), colour[:, :-1]], 1)
    thing = (name >= 0) & (name < len(SHAPES)) & (before >= 0)
    key = torch.where(thing, before * len(SHAPES) + name, -1)
    key = torch.where(name >= len(SHAPES), PAIRS + name - len(SHAPES), key)
    shape, ink, _, centre, digit = factors[..., :5].unbind(-1)
    own = torch.where((centre > 0) & (shape > 0) & (ink > 0), (ink - 1) * len(SHAPES) + shape - 1, -1)
    own = torch.where(digit > 0, PAIRS + digit - 1, own)
    shown = torch.nn.functional.one_hot(own + 1, PAIRS + len(DIGITS) + 1)[..., 1:].float()
    at = 2 * (factors[..., 6:].float() + 0.5) / GRID - 1
    place, count = shown.mT @ at, shown.sum(1)
    scene = torch.arange(len(tokens), device=tokens.device)[:, None].expand_as(key)
    ends = (key >= 0) & (count[scene, key] == 1)
    return ends, place[scene, key][ends]
