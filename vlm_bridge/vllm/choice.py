"""Choose rows inside the engine, where an error would end it: always as many as the scheduler expects."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlm_bridge.vllm.positions import Grid
from vlm_bridge.vllm.settings import Serving, parse, select

POINT = Grid((1,))

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asked:
    """What is asked of one image: settings, the ids of the question where the pruner reads it, a seed, and its grid.

    `image` stands for its content where its features are worth keeping for another question, and is empty elsewhere.
    It reaches the model as bytes beside the pixels, and stays when the image itself is in the prefix cache.
    """

    serving: Serving | None = None
    question: tuple[int, ...] = ()
    seed: int = 0
    grid: Grid = POINT
    image: str = ""

    def pack(self) -> Tensor:
        """Return it as a tensor of bytes."""
        settings = None if self.serving is None else self.serving.text()
        text = json.dumps([settings, self.question, self.seed, self.grid.shape, self.image])
        return torch.tensor(list(text.encode()), dtype=torch.uint8)

    @classmethod
    def unpack(cls, packed: Tensor) -> Asked:
        """Read what `pack` wrote.

        >>> asked = Asked(Serving(keep=9, method="auto"), (5, 8), 3, Grid((1, 4, 6)), "0f3a")
        >>> Asked.unpack(asked.pack()) == asked
        True
        """
        settings, question, seed, shape, image = json.loads(bytes(packed.tolist()))
        serving = None if settings is None else parse(json.loads(settings))
        return cls(serving, tuple(question), seed, Grid(tuple(shape)), image)


def seed_of(image: str, serving: Serving) -> int:
    """Return a seed of 63 bits from the hash of an image and the request's `rng`: the same image draws the same tokens."""
    return int.from_bytes(hashlib.sha256(f"{serving.rng} {image}".encode()).digest()[:8], "big") >> 1


def question_of(prompt: Sequence[int], special: set[int]) -> tuple[int, ...]:
    """Return the ids of a prompt's text, without special tokens and placeholders, as `prune` reads it."""
    return tuple(int(token) for token in prompt if token not in special)


def choose(rows: Tensor, asked: Asked, embed: Any) -> Tensor:
    """Return the indices of the rows (n, d) that stay, ascending; `embed` maps ids (M,) to rows of the LLM (M, d).

    Where the choice fails, which only features that are not finite should bring about, an even share of the rows stays,
    and the log has an error: the number of placeholders is settled by then, and no request can be refused here.
    """
    n = len(rows)
    if asked.serving is None or (k := asked.serving.kept(n)) == n:
        return torch.arange(n, device=rows.device)
    try:
        question = embed(torch.tensor(asked.question, device=rows.device)) if asked.question else None
        chosen = select(asked.serving, rows, k, question, asked.seed)
        if chosen.shape == (k,) and int(chosen.min()) >= 0:
            return chosen
        problem: Any = f"{tuple(chosen.shape)} indices"
    except Exception as error:
        problem = error
    log.error(
        "pruner %r failed on an image of %d tokens, of which an even share of %d stays: %s",
        asked.serving.method,
        n,
        k,
        problem,
    )
    return (torch.arange(k, device=rows.device) * n) // k
