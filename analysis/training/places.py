"""What auxiliary heads read from the states of a question's words in training: where a thing lies, what it is, and how many
there are.

The heads are thrown away afterwards. Without them nothing rewards a noun for holding a place until two lookups hand it on to
the answer, and questions about places stayed at guessing; questions of two hops, whose first one finds what a named thing is,
came last of all.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from analysis.scenes import COLOURS, GRID, SHAPES
from analysis.scenes.questions import DIGITS
from analysis.training.data import TOKEN
from analysis.training.model import VOCABULARY

PAIRS = len(COLOURS) * len(SHAPES)
DIGIT = PAIRS  # first number of the names of a kind; those of a colour and a shape come before
SHAPE = DIGIT + len(DIGITS)
COLOUR = SHAPE + len(SHAPES)
KINDS = len(SHAPES) + len(COLOURS)
#: Of every word of the vocabulary, the number of the name that it is by itself; -1 where it is none.
_ALONE = torch.full((len(VOCABULARY) + 8,), -1)
for _i, _word in enumerate((*DIGITS, *SHAPES, *COLOURS)):
    _ALONE[TOKEN[_word]] = DIGIT + _i


def named(tokens: Tensor, factors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return which of the words (B, L) end a name that one thing or digit of the scene (B, 144, 8) has, its place, and what it is.

    Names are a colour and a shape, a shape or a colour alone, and a digit.

    Returns
    -------
    ends : Tensor (B, L) of bool
    places : Tensor (ends, 2)
        Row and column of its middle, from -1 to 1.
    kinds : Tensor (ends, KINDS)
        One at its shape, if it has one, and at its colour.
    """
    alone = _ALONE.to(tokens.device)[tokens]
    before = F.pad(alone[:, :-1], (1, 0), value=-1)
    pair = (before >= COLOUR) & (alone >= SHAPE) & (alone < COLOUR)
    key = torch.where(pair, (before - COLOUR) * len(SHAPES) + alone - SHAPE, alone)
    shown = _shown(factors)
    at = 2 * (factors[..., 6:].float() + 0.5) / GRID - 1
    shape, ink, _ = _middles(factors)
    kind = torch.cat([_one_hot(shape, len(SHAPES)), _one_hot(ink, len(COLOURS))], -1)
    place, kinds, count = shown.mT @ at, shown.mT @ kind, shown.sum(1)
    scene = torch.arange(len(tokens), device=tokens.device)[:, None].expand_as(key)
    ends = (key >= 0) & (count[scene, key] == 1)
    return ends, place[scene, key][ends], kinds[scene, key][ends]


def asked_patches(tokens: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
    """Return, of every word (B, L), the patch that the answer after it is about (-1: none), and whether it is in a transcription.

    Of transcriptions and of questions for the brighter side of a patch, see `analysis.scenes.questions`.
    """
    index = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    starts = F.pad(segments[:, 1:] != segments[:, :-1], (1, 0), value=True)
    begin = torch.where(starts, index, 0).cummax(1).values
    at = index - begin

    def word(place: int) -> Tensor:
        return tokens.gather(1, (begin + place).clamp(max=tokens.shape[1] - 1))

    whole = (word(0) == TOKEN["transcribe"]) & (at >= 1) & (at <= GRID)
    single = (word(0) == TOKEN["brighter"]) & (at >= 4) & (at <= 5)  # at the column's word and at the mark
    in_row = GRID * (word(1) - TOKEN["r1"]) + at - 1
    named = GRID * (word(3) - TOKEN["r1"]) + word(4) - TOKEN["c1"]
    return torch.where(whole, in_row, torch.where(single, named, -1)), whole


def _shown(factors: Tensor) -> Tensor:
    """Return which names what is in the middle of each patch has: (B, 144, names)."""
    shape, ink, digit = _middles(factors)
    pair = torch.where((shape > 0) & (ink > 0), (ink - 1) * len(SHAPES) + shape, 0)
    kinds = ((pair, PAIRS), (digit, len(DIGITS)), (shape, len(SHAPES)), (ink, len(COLOURS)))
    return torch.cat([_one_hot(kind, size) for kind, size in kinds], -1)


def _one_hot(kind: Tensor, size: int) -> Tensor:
    """Return the numbers 1 .. size as rows of the identity, 0 as zeros."""
    return F.one_hot(kind, size + 1)[..., 1:].float()


def counted(tokens: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """Return which of the words (B, L) are a colour, a shape or a digit, and how many things or digits of the scene have it.

    Returns
    -------
    words : Tensor (B, L) of bool
    counts : Tensor (words, 1)
        Up to four.
    """
    key = _ALONE.to(tokens.device)[tokens]
    count = _shown(factors).sum(1).clamp(max=4)
    words = key >= 0
    return words, count.gather(1, key.clamp(min=0))[words][:, None]


def _middles(factors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return shape, colour and digit (B, 144) at the middles of things and at digits; 0 elsewhere. The digit among objects has no colour."""
    shape, ink, _, centre, digit = factors[..., :5].unbind(-1)
    thing = centre > 0
    return shape * thing, ink * (thing | (digit > 0)), digit
