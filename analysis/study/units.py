"""One unit of work: all cells of a plan on one image. What it gives is one small file, written in one step."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

import vlm_bridge
from analysis.study.answering import Prefix, answers
from analysis.study.arms import BLIND, FULL, Arm
from analysis.study.encoding import Checkpoint, EncodedImage, encode_image
from analysis.study.influence import influence
from analysis.study.kept_tokens import kept
from analysis.study.predictors import Measure

Cell = tuple[str, float]


@dataclass(frozen=True)
class Unit:
    """Results of one image.

    Attributes
    ----------
    cells : tuple of (arm, keep)
    said : array (cells, questions) of str
    score : array (cells, questions)
        Share of the answer's words that are right, given those before; NaN where nothing was asked.
    tokens : array (cells,)
        Mean number of visual tokens kept.
    seconds : array (cells,)
        To choose, mean over the questions that share a choice.
    predictors : array (cells, predictors)
        As in `predictors.NAMES`, mean over questions.
    skills, texts, gold : arrays (questions,) of str
    norm_and_thing : float
        Rank correlation of a token's norm and whether a thing covers it; NaN where that is not known.
    made_from : str
        Digest of the model and the release of cssp; empty where nothing is known.
    """

    cells: tuple[Cell, ...]
    said: np.ndarray
    score: np.ndarray
    tokens: np.ndarray
    seconds: np.ndarray
    predictors: np.ndarray
    skills: np.ndarray
    texts: np.ndarray
    gold: np.ndarray
    norm_and_thing: float = float("nan")
    made_from: str = ""

    def save(self, path: Path) -> None:
        """Write the whole file or none of it."""
        arrays = {name: value for name, value in vars(self).items() if name != "cells"}
        names, keeps = zip(*self.cells, strict=True)
        write(path, arms=np.array(names), keeps=np.array(keeps), **arrays)

    @classmethod
    def load(cls, path: Path) -> Unit:
        """Read the unit that `save` wrote."""
        with np.load(path) as file:
            found = dict(file)
        names, keeps = found.pop("arms").tolist(), found.pop("keeps").tolist()
        found |= {"made_from": str(found["made_from"]), "norm_and_thing": float(found["norm_and_thing"])}
        return cls(cells=tuple(zip(names, keeps, strict=True)), **found)


def write(path: Path, **arrays: np.ndarray) -> None:
    """Write the whole file of arrays or none of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as file:
        np.savez_compressed(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


@dataclass(frozen=True)
class _Choice:
    """Tokens kept in a cell for some of its questions.

    Attributes
    ----------
    cell : int
        Number of the cell.
    prefix : Prefix
        What goes into the language model, and the questions that follow it.
    places : Tensor (k,) of int64
        Tokens kept.
    seconds : float
        To choose them.
    """

    cell: int
    prefix: Prefix
    places: Tensor
    seconds: float


def study_image(
    checkpoint: Checkpoint,
    image: Any,
    questions: Sequence[Any],
    arms: Sequence[Arm],
    keeps: Sequence[float],
    rng: Sequence[int],
    things: Tensor | None = None,
    done: Callable[[float], Any] = lambda share: None,
) -> Unit:
    """Evaluate all cells on one image.

    Parameters
    ----------
    questions : sequence
        They have skill, text and answer.
    rng : sequence of int
        Seeds what is drawn.
    things : Tensor (n,) of bool, optional
        Tokens that a thing covers.
    done : callable, optional
        Called again and again with the share of the work that has been done since the last call: choosing, arm by arm, is one half, and
        answering the other.
    """
    encoded = encode_image(checkpoint, image, questions, things)
    measure = Measure.of(encoded, *influence(checkpoint, encoded))
    every = tuple(range(len(questions)))
    whole = torch.arange(len(encoded.tokens))
    cells: list[Cell] = [(FULL, 1.0), (BLIND, 0.0)]
    choices = [
        _Choice(cell, Prefix(encoded.tokens[rows], rows, every), rows, 0.0)
        for cell, rows in enumerate((whole, whole[:0]))
    ]
    ready: dict[int, list[str]] = {}  # answers of the cells that act inside the language model
    for arm in arms:
        done(0.5 / len(arms))
        if arm.inside:
            for keep in keeps:
                if not arm.can_keep(keep, len(whole), len(checkpoint.decoder.layers)):
                    continue
                words, places, spent = _inside(checkpoint, encoded, questions, arm, keep, image)
                cell = len(cells)
                cells.append((arm.name, keep))
                ready[cell] = words
                choices += [
                    _Choice(cell, Prefix(encoded.tokens[:0], rows, (q,)), rows, spent / len(every))
                    for q, rows in zip(every, places, strict=True)
                ]
            continue
        for keep, found in zip(keeps, kept(arm, encoded, keeps, rng), strict=True):
            choices += [_Choice(len(cells), each.prefix, each.places, each.seconds) for each in found]
            cells.append((arm.name, keep))
    said = np.empty((len(cells), len(questions)), dtype=object)
    live = [c for c in choices if c.cell not in ready]
    for c, words in zip(live, _words(checkpoint, encoded, [c.prefix for c in live], done), strict=True):
        for q, one in zip(c.prefix.asked, words, strict=True):
            said[c.cell, q] = one
    for cell, words in ready.items():
        said[cell] = words
    numbers = measure([c.places for c in choices], [c.prefix.asked for c in choices]).numpy()
    owner = [c.cell for c in choices]
    gold = np.array([q.answer for q in questions])
    return Unit(
        tuple(cells),
        said.astype(str),
        np.array([[_score(one, right) for one, right in zip(row, gold, strict=True)] for row in said], np.float32),
        _mean(np.array([len(c.places) for c in choices], float)[:, None], owner)[:, 0],
        _mean(np.array([c.seconds for c in choices])[:, None], owner)[:, 0],
        _mean(numbers, owner).astype(np.float32),
        np.array([q.skill for q in questions]),
        np.array([q.text for q in questions]),
        gold,
        _rank_correlation(encoded),
    )  # fmt: skip


def _score(said: str, right: str) -> float:
    """Return the share of right words; nothing said where nothing was asked is NaN."""
    words, gold = said.split(), right.split()
    return sum(a == b for a, b in zip(words, gold, strict=True)) / len(gold) if words else float("nan")


def _rank_correlation(encoded: EncodedImage) -> float:
    if encoded.things is None or encoded.things.all() or not encoded.things.any():
        return float("nan")
    return float(spearmanr(encoded.tokens.norm(dim=1).numpy(), encoded.things.numpy()).statistic)


def _words(
    checkpoint: Checkpoint,
    encoded: EncodedImage,
    prefixes: Sequence[Prefix],
    done: Callable[[float], Any],
) -> list[list[str]]:
    """Return the answers after each prefix; tokens that several arms keep go through the model once for all their questions."""
    same: dict[tuple[int, ...], list[int]] = {}
    alone = [i for i, p in enumerate(prefixes) if not _plain(encoded, p)]
    for i, p in enumerate(prefixes):
        if _plain(encoded, p):
            same.setdefault(tuple(p.places.tolist()), []).append(i)
    groups = [*same.values(), *([i] for i in alone)]
    joint = [
        replace(prefixes[group[0]], asked=tuple(sorted({q for i in group for q in prefixes[i].asked})))
        for group in groups
    ]
    found: list[list[str]] = [[] for _ in prefixes]
    replies = answers(checkpoint, encoded, joint, lambda count: done(0.5 * count / len(joint)))
    for group, one, ids in zip(groups, joint, replies, strict=True):
        words = {q: _text(checkpoint, row) for q, row in zip(one.asked, ids, strict=True)}
        for i in group:
            found[i] = [words[q] for q in prefixes[i].asked]
    return found


def _text(checkpoint: Checkpoint, ids: Tensor) -> str:
    return " ".join(checkpoint.processor.tokenizer.convert_ids_to_tokens(ids.tolist()))


def _plain(encoded: EncodedImage, p: Prefix) -> bool:
    """Return whether tokens go in as they were."""
    return p.sizes is None and torch.equal(p.rows, encoded.tokens[p.places])


def _mean(values: np.ndarray, owner: Sequence[int]) -> np.ndarray:
    """Return the means (cells, ...) of the rows that belong to each cell."""
    total = np.zeros((max(owner) + 1, values.shape[1]))
    np.add.at(total, owner, values)
    return total / np.bincount(owner)[:, None]


@torch.no_grad()
def _inside(
    checkpoint: Checkpoint, encoded: EncodedImage, questions: Sequence[Any], arm: Arm, keep: float, image: Any
) -> tuple[list[str], list[Tensor], float]:
    """Run a system inside the language model, on the live model; questions with answers of several words are not asked (empty)."""
    texts = [f"<image> {q.text}" for q in questions]
    inputs = checkpoint.processor(images=[image] * len(texts), text=texts, padding=True, return_tensors="pt")
    del inputs["pixel_values"]
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    features = encoded.tokens[None].expand(len(texts), -1, -1)
    inputs["mm_encoder_outputs"] = {"image": _Encoded(pooler_output=list(features))}
    with vlm_bridge.prune(checkpoint.model, keep, arm.method, **arm.options) as report:
        logits = checkpoint.model(**inputs).logits[:, -1]
    words = checkpoint.processor.tokenizer.convert_ids_to_tokens(logits.argmax(-1).tolist())
    words = [word if encoded.words(q) == 1 else "" for q, word in enumerate(words)]
    return words, [row.cpu() for row in report.kept], sum(report.seconds)


def _Encoded(**values: Any) -> Any:
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    return BaseModelOutputWithPooling(**values)
