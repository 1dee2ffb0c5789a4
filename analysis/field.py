"""One picture of the field: where each pruner stands among all, as far as trying it can tell.

What a row of `PRUNERS` does not say is found by experiment, on random inputs: whether the choice depends
on the tokens at all, on the rows of the vision tower and on patches in CLIP's joint space; and whether it changes when every row is given
another length. ``python -m analysis pruners --docs docs`` writes the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analysis.benchmarks.tables import table
from vlm_bridge import PRUNERS, select_tokens
from vlm_bridge.pruners.plan import Plan, Pruner

HEADER = ("pruner", "acts", "chooses by", "length of rows", "weight", "norm p", "rule")
#: The p of Σ_j (residual of column j)^p that every pick of a method lowers most.
NORM_P = {"residual": "∞", "greedy": "2"}
#: Inputs with a row for each token.
ROWS = ("features", "vision_clip", "vision_mean", "clip_patches")
TOKENS, WIDTH, KEEP, TRIES = 48, 12, 26, 4


def field() -> str:
    """Return the table as Markdown: published systems and baselines."""
    rows = (row for row in PRUNERS.values() if not row.open_options)
    return f"{table([HEADER, *(line(row) for row in rows)])}\n"


def line(row: Pruner) -> tuple[str, ...]:
    """Return the line of one pruner."""
    used = [name for name in ("features", *given(0)) if name in ("features", *row.needs, *row.reads)]
    used = [name for name in dict.fromkeys(used) if depends(row, name)]
    lengths = [name for name in used if name in ROWS]
    acts = (
        "inside the LLM"
        if row.inside
        else "before the projector"
        if row.before_projector
        else "before the LLM"
    )
    plan = plan_of(row)
    method = plan.method if plan.indices is None else "own"
    return (
        f"`{row.name}`",
        acts,
        ", ".join("tokens" if name == "features" else f"`{name}`" for name in used) or "places",
        "–"
        if not lengths
        else "counts"
        if any(depends(row, name, rescaled) for name in lengths)
        else "does not count",
        weight(row),
        NORM_P.get(method, "–"),
        "own" if method == "own" else f"`{method}`",
    )


def weight(row: Pruner) -> str:
    """Return the pruner's own relevance in words."""
    if row.relevance is None:
        return "the caller's" if row.weighted else "–"
    of = row.relevance
    return f"{of.reduction} cosine with text, {'negated, ' if of.sign == 'anti' else ''}{of.where}"


def plan_of(row: Pruner) -> Plan:
    """Return the plan of a pruner for random inputs and even weights."""
    signals: dict[str, Any] = {name: value for name, value in given(0).items() if name in row.reads}
    if row.draws:
        signals["rng"] = np.random.default_rng(0)
    features = given(0)["features"]
    return row.plan(features, KEEP, torch.ones(TOKENS) if row.weighted else None, **signals)


def redrawn(inputs: Mapping[str, Any], name: str, seed: int) -> Any:
    """Draw an input again."""
    return given(1000 + seed)[name]


def rescaled(inputs: Mapping[str, Any], name: str, seed: int) -> Tensor:
    """Give every row another length, by powers of two, which change no bit of a direction."""
    g = torch.Generator().manual_seed(seed)
    power = torch.randint(-3, 4, (len(inputs[name]), 1), generator=g)
    return torch.ldexp(inputs[name], power)


def depends(row: Pruner, name: str, change: Any = redrawn) -> bool:
    """Tell whether the choice ever differs after a change of the input `name`."""
    return any(
        kept(row, inputs) != kept(row, {**inputs, name: change(inputs, name, seed)})
        for seed in range(TRIES)
        for inputs in (given(seed),)
    )


def kept(row: Pruner, inputs: Mapping[str, Any]) -> list[int]:
    """Return the choice, with the signals among `inputs` that the pruner takes for its own relevance."""
    names: Iterable[str] = (*row.needs, *row.reads)
    signals = {name: inputs[name] for name in names}
    return select_tokens(inputs["features"], KEEP, row.name, rng=0, **signals).tolist()


@cache
def given(seed: int) -> dict[str, Any]:
    """Return random tokens and all that any pruner reads beside them, in order of the table."""
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    matrix, heads, prompt = draw(WIDTH, WIDTH), 3, TOKENS + 4
    return {
        "features": draw(TOKENS, WIDTH) + 0.5,
        "vision_clip": draw(TOKENS, WIDTH),
        "vision_mean": draw(TOKENS, WIDTH),
        "clip_patches": draw(TOKENS, 8),
        "clip_text": draw(2, 8),
        "llm_text": draw(3, WIDTH),
        "vision_cls": draw(WIDTH),
        "vision_keys": draw(heads, TOKENS, 5),
        "vision_values": draw(heads, TOKENS, 5),
        "cls_attention": draw(heads, TOKENS).softmax(-1),
        "received": draw(heads, TOKENS).softmax(-1),
        "received_early": draw(heads, TOKENS).softmax(-1),
        "projector": lambda rows: torch.tanh(rows @ matrix),
        "hidden": draw(prompt, WIDTH),
        "keys": draw(2, prompt, 6),
        "attention": draw(2, 3, TOKENS).softmax(-1),
        "image_start": 1,
        "frames": 3,
    }
