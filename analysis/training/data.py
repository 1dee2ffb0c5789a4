"""Scenes as arrays: pixels, what every patch shows, and all questions of a scene packed after one image."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from tqdm import tqdm

from analysis import scenes
from analysis.scenes import COLOURS, GRID, PATCH, SHAPES, SIZES
from analysis.scenes.backgrounds import NAMES as BACKGROUNDS
from analysis.training.captions import caption
from analysis.training.model import BOS, CAPTION, EOS, PAD, VOCABULARY

TOKEN = {word: i for i, word in enumerate(VOCABULARY)}
PREFIX = 1 + GRID * GRID  # <s> and the image
PACKED = 200  # question tokens a scene, at the most
SHARD = 1000
TRAINING_QUESTIONS = {
    "existence": 2,
    "colour": 2,
    "shape": 2,
    "count": 4,
    "spatial": 5,
    "comparison": 5,
    "two hops": 5,
    "fine detail": 1,
    "background": 1,
    "size": 2,
    "place": 3,
    "reading": 3,
    "ink": 2,
    "presence": 3,
    "tally": 5,
    "order": 5,
    "layout": 5,
    "ground": 1,
    "spot": 3,
    "shading": 3,
    "light": 3,
    "transcription": 5,
    "transcript": 5,
}
FIRST = (
    "two hops",
    *scenes.TRANSCRIPTIONS,
)  # packed first, in this order: few scenes allow the one, the others are long
CAPTIONS = 2  # a scene
# What a patch can show: the factors of the code that a visual token is trained to carry, and their sizes.
FACTORS = {
    "shape": len(SHAPES) + 1,
    "colour": len(COLOURS) + 1,
    "size": len(SIZES) + 1,
    "centre": 2,
    "digit": 11,
    "background": len(BACKGROUNDS),
    "row": GRID,
    "column": GRID,
}


@dataclass(frozen=True)
class Arrays:
    """A batch of scenes.

    pixels uint8 (N, 96, 96, 3); factors int8 (N, 144, 8); tokens int16, segments int8 and targets int16, each (N, 200):
    question words, the number of the question (-1: padding) and the word to predict there (0: none). captions int16
    (N, 2, 32): true statements about the scene, between <s> and </s>.
    """

    pixels: np.ndarray
    factors: np.ndarray
    tokens: np.ndarray
    segments: np.ndarray
    targets: np.ndarray
    captions: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index) -> Arrays:
        return Arrays(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    @staticmethod
    def join(parts: list[Arrays]) -> Arrays:
        """Return the arrays of several parts as one."""
        return Arrays(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Arrays)})


def factors(scene: scenes.Scene) -> np.ndarray:
    """Return what every patch shows, int8 (144, 8); 0 means "nothing" for shape, colour, size and digit."""
    out = np.zeros((GRID, GRID, len(FACTORS)), np.int8)
    for i, t in enumerate(scene.things):
        here = scene.owner == i
        out[here, :3] = SHAPES.index(t.shape) + 1, COLOURS.index(t.colour) + 1, SIZES.index(t.size) + 1
        out[int(t.y) // PATCH, int(t.x) // PATCH, 3] = 1
    for mark in scene.marks:
        out[(*mark.patch, 4)] = mark.value + 1
        out[(*mark.patch, 1)] = 0 if mark.colour is None else COLOURS.index(mark.colour) + 1
    out[..., 5] = BACKGROUNDS.index(scene.background)
    out[..., 6], out[..., 7] = np.indices((GRID, GRID))
    return out.reshape(GRID * GRID, -1)


def pack(questions: tuple[scenes.Question, ...], rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Return the tokens, segments and targets of as many questions as fit, in random order behind those of `FIRST`."""
    tokens = np.full(PACKED, PAD, np.int16)
    segments = np.full(PACKED, -1, np.int8)
    targets = np.zeros(PACKED, np.int16)
    at = 0
    rank = {skill: i for i, skill in enumerate(FIRST)}
    order = sorted(rng.permutation(len(questions)), key=lambda i: rank.get(questions[i].skill, len(FIRST)))
    for number, i in enumerate(order):
        words = [TOKEN[w] for w in questions[i].text.split()]
        answer = [TOKEN[w] for w in questions[i].answer.split()]
        end = at + len(words) + len(answer)
        if end > PACKED:
            break
        tokens[at:end] = [*words, *answer]
        segments[at:end] = number
        targets[end - 1 - len(answer) : end] = [*answer, EOS]
        if words[-1] == TOKEN["?"]:
            targets[end - 3] = answer[0]  # asked before the mark, too: a lookup less
        at = end
    return tokens, segments, targets


def describe(scene: scenes.Scene, rng: np.random.Generator) -> np.ndarray:
    """Return the captions of a scene as token ids, int16 (2, 32)."""
    out = np.full((CAPTIONS, CAPTION), PAD, np.int16)
    for line in out:
        ids = [BOS, *(TOKEN[w] for w in caption(scene, rng).split()[: CAPTION - 2]), EOS]
        line[: len(ids)] = ids
    return out


def row(scene: scenes.Scene, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Return what `Arrays` holds of one scene."""
    return scene.pixels, factors(scene), *pack(scene.questions, rng), describe(scene, rng)


def _shard(folder: str, split: str, number: int) -> None:
    path = Path(folder) / f"{split}-{number:04d}.npz"
    if path.exists():
        return
    rows = []
    for seed in range(number * SHARD, (number + 1) * SHARD):
        scene = scenes.make(seed, split, TRAINING_QUESTIONS, "digits" if seed % 5 > 2 else "objects")
        rows.append(row(scene, np.random.default_rng(seed)))
    part = path.with_suffix(".part.npz")
    np.savez(
        part, **dict(zip(Arrays.__dataclass_fields__, map(np.stack, zip(*rows, strict=True)), strict=True))
    )
    os.replace(part, path)  # a shard is whole or not there


def generate(folder: Path, split: str, shards: int, workers: int = 2) -> None:
    """Make the shards that are missing, with a progress bar."""
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(workers) as pool:
        jobs = [pool.submit(_shard, str(folder), split, i) for i in range(shards)]
        for job in tqdm(jobs, desc=f"{split} scenes", unit="k"):
            job.result()


def load(folder: Path, split: str) -> Arrays:
    """Return all shards of a split that are on disk."""
    paths = sorted(p for p in folder.glob(f"{split}-*.npz") if ".part" not in p.name)
    if not paths:
        raise FileNotFoundError(
            f"no {split} scenes under {folder}; run `python -m analysis train` to make them"
        )
    return Arrays.join([Arrays(**np.load(p)) for p in paths])
