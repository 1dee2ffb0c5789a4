"""Captions: true statements about a scene, in the words that questions use, for the contrastive text tower."""

from __future__ import annotations

import numpy as np

from analysis.scenes import Scene


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Return some of what is on the picture, in random order, sometimes after the opening of a question."""
    seen = [_thing(t, rng) for t in scene.things] + [_mark(m, rng) for m in scene.marks]
    few = [seen[i] for i in rng.permutation(len(seen))[: int(rng.integers(1, 6))]]
    words = " and ".join(few)
    if rng.random() < 0.6:
        words += f" on {scene.background}"
    return f"{_OPENINGS[int(rng.integers(len(_OPENINGS)))]} {words}".strip()


_OPENINGS = (
    "", "a picture of", "there is", "is there a", "what colour is the", "what shape is the", "where is the",
    "how many", "how large is the", "which digit is", "what is behind the",
)  # fmt: skip


def _thing(thing, rng: np.random.Generator) -> str:
    words = [thing.size] * (rng.random() < 0.5) + [thing.colour] * (rng.random() < 0.85)
    return " ".join([*words, thing.shape if rng.random() < 0.85 else "object"])


def _mark(mark, rng: np.random.Generator) -> str:
    colour = [mark.colour] if mark.colour is not None and rng.random() < 0.85 else []
    return " ".join([*colour, f"d{mark.value}" if rng.random() < 0.85 else "digit"])
