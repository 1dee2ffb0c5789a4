"""One picture each: its tokens, what each of them means to the answer, and what the model answers from fewer of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.stats import spearmanr
from torch import Tensor

from analysis.real import decimer, drawings, lite0, photographs

#: Probability of its class, among a thousand, from which a photograph counts.
SURE = 0.3


class Case(Protocol):
    """A picture that a model looked at.

    Attributes
    ----------
    tokens : Tensor (n, d)
    signals : mapping of str to Tensor (n,)
        What each token means to the answer: known only to oracles.
    facts : dict
        What is noted of the picture itself.
    """

    tokens: Tensor
    signals: Mapping[str, Tensor]
    facts: dict[str, Any]

    def answer(self, keep: Tensor) -> list[dict[str, float]]:
        """Return what the model makes of each row of kept tokens (B, k): loss, accuracy, whether the answer is the same."""


class Model(Protocol):
    """A pretrained model with its pictures, numbers of tokens kept, and what rows must have to be complete."""

    budgets: tuple[int, ...]
    columns: tuple[str, ...]

    def names(self) -> list[dict[str, Any]]:
        """Return what names each picture, ``group`` and ``number`` among it."""

    def picture(self, name: Mapping[str, Any]) -> Image.Image:
        """Return the picture of that name."""

    def look(self, name: Mapping[str, Any], picture: Image.Image) -> Case:
        """Return the case of a picture."""


@dataclass
class Reading:
    """DECIMER on one drawing. The answer is what it reads with all tokens, as a canonical string has other symbols."""

    model: decimer.Decimer
    tokens: Tensor
    signals: Mapping[str, Tensor]
    facts: dict[str, Any]
    written: list[int]
    smiles: str
    strings: bool

    def answer(self, keep: Tensor) -> list[dict[str, float]]:
        """Return loss and accuracy of a symbol, and whether the string is the same; with `strings`, also what is read.

        The same string is written just where every symbol is predicted from the true ones before it, so only other strings
        have to be written, which takes most of the time.
        """
        tokens = self.tokens.expand(len(keep), -1, -1)
        losses = self.model.losses(tokens, keep, [self.written] * len(keep))
        same = losses.accuracy == 1
        rows = [
            {"loss": loss, "accuracy": accuracy, "same": float(accuracy == 1)}
            for loss, accuracy in zip(losses.mean.tolist(), losses.accuracy.tolist(), strict=True)
        ]
        if self.strings:
            texts = [self.model.symbols.text(self.written)] * len(keep)
            if len(others := (~same).nonzero()[:, 0]):
                limit = len(self.written) + 10
                for i, answer in zip(
                    others, self.model.answers(tokens[others], keep[others], limit), strict=True
                ):
                    texts[i] = self.model.symbols.text(answer)
            for row, text in zip(rows, texts, strict=True):
                row["exact"] = float(drawings.canonical(text) == self.smiles)
                row["tanimoto"] = drawings.tanimoto(text, self.smiles)
        return rows


class Drawings:
    """DECIMER on drawings of molecules.

    Parameters
    ----------
    styles : tuple of str
    count : int
        Molecules.
    first : int
        Number of the first of them.
    strings : bool
        Whether strings are written from fewer tokens, and compared with the molecule.
    in_turn : bool
        Whether each molecule is drawn in one style alone, the next molecule in the next style.
    """

    budgets = (128, 64, 28, 16)

    def __init__(
        self,
        styles: tuple[str, ...],
        count: int,
        strings: bool = False,
        first: int = 0,
        in_turn: bool = False,
    ):
        self.styles, self.count, self.strings, self.first = styles, count, strings, first
        self.in_turn = in_turn
        self.columns = ("same", "tanimoto") if strings else ("same",)
        self.model = decimer.load()

    def names(self) -> list[dict[str, Any]]:
        """Return styles, numbers and answers, molecule by molecule."""
        every = drawings.molecules()
        numbers = range(self.first, min(self.first + self.count, len(every)))
        return [
            {"group": style, "number": i, "answer": every[i]}
            for i in numbers
            for style in ([self.styles[i % len(self.styles)]] if self.in_turn else self.styles)
        ]

    def picture(self, name: Mapping[str, Any]) -> Image.Image:
        """Draw a molecule."""
        return drawings.draw(name["answer"], name["group"], name["number"])

    def look(self, name: Mapping[str, Any], picture: Image.Image) -> Reading:
        """Read a drawing with all tokens, and find out which of them matter."""
        image = decimer.prepare(picture)
        tokens = self.model.encode(image[None]).clone()
        (written,) = self.model.answers(tokens)
        attention = self.model.attention_received(tokens, [written])[0]
        slope = (self.model.gradients(tokens, [written]) * tokens).sum(-1)[0].abs()
        text = self.model.symbols.text(written)
        ink = F.avg_pool2d(-image[:1], image.shape[-1] // 16).flatten()
        ink = ink - ink.min()
        facts = {
            "exact": float(drawings.canonical(text) == name["answer"]),
            "tanimoto": drawings.tanimoto(text, name["answer"]),
            "symbols": len(written),
            **_relations(tokens[0], {"attention": attention, "gradient": slope, "ink": ink}),
        }
        signals = {"attention": attention, "gradient": slope}
        return Reading(self.model, tokens[0], signals, facts, written, name["answer"], self.strings)


@dataclass
class Naming:
    """EfficientNet-Lite0 on one crop. The answer is the class that it names with all tokens."""

    model: lite0.Lite0
    tokens: Tensor
    signals: Mapping[str, Tensor]
    facts: dict[str, Any]
    winner: int

    @torch.inference_mode()
    def answer(self, keep: Tensor) -> list[dict[str, float]]:
        """Return the loss of the class, and whether it still wins."""
        logits = self.model.logits(self.tokens[None], keep)
        loss = F.cross_entropy(logits, torch.full((len(keep),), self.winner), reduction="none")
        same = (logits.argmax(-1) == self.winner).float()
        return [
            {"loss": a, "accuracy": b, "same": b} for a, b in zip(loss.tolist(), same.tolist(), strict=True)
        ]


class Photographs:
    """EfficientNet-Lite0 on crops of photographs."""

    budgets, columns = (50, 25, 11, 6), ("same",)

    def __init__(self) -> None:
        self.model = lite0.load()

    def names(self) -> list[dict[str, Any]]:
        """Return photographs and crops."""
        return [{"group": name, "number": crop} for name in photographs.paths() for crop in photographs.CROPS]

    def picture(self, name: Mapping[str, Any]) -> Image.Image:
        """Crop a photograph."""
        with Image.open(photographs.paths()[name["group"]]) as image:
            return photographs.crop(image, name["number"], lite0.SIDE)

    @torch.inference_mode()
    def look(self, name: Mapping[str, Any], picture: Image.Image) -> Naming:
        """Name what is seen with all tokens, and what each of them adds."""
        tokens = self.model.encode(photographs.prepare(picture)[None])
        chance = self.model.logits(tokens).softmax(-1)[0]
        contribution = self.model.contributions(tokens)[0]
        signals = {"attention": contribution, "gradient": contribution.abs()}
        sure = float(chance.max())
        facts = {
            "exact": float(sure >= SURE),
            "chance": sure,
            **_relations(tokens[0], {"contribution": contribution}),
        }
        return Naming(self.model, tokens[0], signals, facts, int(chance.argmax()))


def _relations(tokens: Tensor, others: Mapping[str, Tensor]) -> dict[str, float]:
    """Rank correlations of tokens' norms with other numbers, and those of their distances from the mean."""
    norms = {"norm": tokens.norm(dim=1), "centred norm": (tokens - tokens.mean(0)).norm(dim=1)}
    pairs = [(a, b, x, y) for a, x in norms.items() for b, y in others.items()]
    if {"attention", "ink"} <= set(others):
        pairs.append(("attention", "ink", others["attention"], others["ink"]))
    return {f"{a} and {b}": float(spearmanr(x, y).statistic) for a, b, x, y in pairs}


def content(picture: Image.Image) -> str:
    """Return a fingerprint of the pixels."""
    return hashlib.sha256(repr(picture.size).encode() + np.asarray(picture).tobytes()).hexdigest()[:16]
