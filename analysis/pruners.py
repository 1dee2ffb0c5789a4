"""The table of pruners: what each row of `PRUNERS` needs, does and costs on a model of LLaVA-1.5-7B's shape.

``python -m analysis pruners --docs docs`` writes it, a table of which pruners read which vision
towers, and that of `analysis.field`. Tokens, FLOPs and KV bytes follow from the rows and the
model's sizes; the time to choose is measured here, on tokens of that shape with a common mean and a decaying
spectrum.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from analysis.benchmarks.tables import table
from analysis.field import field
from vlm_bridge import PRUNERS, BridgeError, select_tokens
from vlm_bridge.model.tower import CAPTURED
from vlm_bridge.pruners.inside import tokens_per_layer
from vlm_bridge.pruners.plan import Pruner
from vlm_bridge.reporting.cost import Decoder

#: LLaVA-1.5-7B in bfloat16: the decoder is Vicuna-7B.
SHAPE = Decoder(
    layers=32, width=4096, heads=32, key_heads=32, head_width=128, mlp_width=11008, bytes_per_value=2
)
TOKENS, TEXT, VISION, CLIP, HEADS = 576, 64, 1024, 768, 16

#: Methods of cssp that are shown; all others are pruners by their names, too.
OF_CSSP = ("residual", "greedy", "strong_rrqr", "osinsky", "volume", "leverage_top", "norm", "adaptive")

HEADER = ("pruner", "acts", "reads", "text", "ViT", "what is not kept", "tokens a layer", "FLOPs", "KV", "ms")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("--keep", type=int, nargs="+", default=[64, 192], help="tokens of 576")
    parser.add_argument("--names", nargs="+", help="only these")
    parser.add_argument("--docs", type=Path, help="put the table into this folder, too")
    parser.add_argument("--out", type=Path, default=Path("out/pruners"))


def main(arguments: argparse.Namespace) -> int:
    """Measure, print and write a table for every budget."""
    out, docs = arguments.out, arguments.docs
    out.mkdir(parents=True, exist_ok=True)
    text = "\n".join(page(keep, arguments.names) for keep in arguments.keep)
    print(text)
    (out / "pruners.md").write_text(text)
    if docs is not None:
        (docs / "pruners.inc").write_text(text)
        (docs / "towers.inc").write_text(towers())
        (docs / "field.inc").write_text(field())
    return 0


def towers() -> str:
    """Return which pruners read which vision towers, and who published the rule for towers other than CLIP, as Markdown."""
    lines = [
        (
            "pruner",
            "reads of the tower",
            "CLIP (LLaVA)",
            "all others",
            "who published the rule for towers other than CLIP",
        )
    ]
    for row in PRUNERS.values():
        if row.elsewhere:
            read = [
                name
                for name in dict.fromkeys([*row.needs, *row.reads])
                if name in (*CAPTURED, "clip_patches")
            ]
            clip = "clip_patches" in row.needs
            lines.append(
                (
                    f"`{row.name}`",
                    ", ".join(f"`{name}`" for name in read),
                    "with `clip=`" if clip else "yes",
                    "refused, unless signals are given" if clip else "yes",
                    row.elsewhere,
                )
            )
    return f"{table(lines)}\n"


def page(keep: int, names: list[str] | None = None) -> str:
    """Return the table as Markdown, published systems and baselines first, then the methods of cssp."""
    given = signals()
    rows = [
        row
        for row in PRUNERS.values()
        if (not row.open_options or row.name in OF_CSSP if names is None else row.name in names)
    ]
    lines = [HEADER]
    for row in sorted(rows, key=lambda row: row.open_options):
        lines.append(line(row, keep, given))
    return (
        f"{keep} of {TOKENS} tokens, {TEXT} of text, {SHAPE.layers} layers of width {SHAPE.width}. FLOPs (prefill of "
        f"the decoder) and KV bytes are shares of the unpruned prompt's; ms is the time to choose, the median "
        f"of up to 5, {torch.get_num_threads()} threads of a CPU, float32.\n\n{table(lines)}\n"
    )


def line(row: Pruner, keep: int, given: Mapping[str, Any]) -> tuple[str, ...]:
    """Return one row of the table."""
    try:
        layers = per_layer(row, keep)
    except BridgeError as error:
        least = str(error).split(". Give")[0].split("so that ")[-1]
        return (f"`{row.name}`", "cannot", least, *["–"] * (len(HEADER) - 3))
    own = {name: given[name] for name in row.accepts if name in row.needs or name in row.requires}
    return (
        f"`{row.name}`",
        "before the LLM" if row.inside is None else f"at {stages(row, keep)}",
        ", ".join(f"`{name}`" for name in row.needs) or "–",
        "yes" if row.uses_text else "no",
        "yes" if {"cls_attention", "received"} & set(row.needs) else "no",
        row.merges or "dropped",
        f"{sum(layers) / len(layers):.4g}",
        f"{share(layers, SHAPE.prefill_flops):.1%}",
        f"{share(layers, SHAPE.kv_bytes):.1%}",
        f"{milliseconds(row, keep, own):.3g}",
    )


def stages(row: Pruner, keep: int) -> str:
    """Return the layers of the cuts in words."""
    assert row.inside is not None
    cuts = [cut.layer for cut in row.inside.schedule(SHAPE.layers, TOKENS, keep)]
    return f"layer{'s' if len(cuts) > 1 else ''} {', '.join(map(str, cuts))}"


def per_layer(row: Pruner, keep: int) -> list[int]:
    """Return visual tokens that each layer works on."""
    if row.inside is None:
        return [keep] * SHAPE.layers
    cuts = row.inside.schedule(SHAPE.layers, TOKENS, keep)
    return tokens_per_layer(SHAPE.layers, [cut.layer for cut in cuts], TOKENS, [cut.keep for cut in cuts])


def share(layers: list[int], cost: Any) -> float:
    """Return the cost of a prompt with so many visual tokens in each layer, over that of the unpruned one."""
    return sum(cost(n + TEXT) for n in layers) / (len(layers) * cost(TOKENS + TEXT))


def milliseconds(row: Pruner, keep: int, given: Mapping[str, Any]) -> float:
    """Return the median time to choose; slow rules are run once."""
    seconds: list[float] = []
    while len(seconds) < 5 and sum(seconds) < 3:
        start = time.perf_counter()
        select_tokens(features(), keep, row.name, rng=0, **given)
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds)


@cache
def features() -> Tensor:
    """Return visual tokens (576, 4096) with a common mean and a decaying spectrum, always the same."""
    g = torch.Generator().manual_seed(0)
    left = torch.randn(TOKENS, 256, generator=g) / torch.arange(1, 257).sqrt()
    return left @ torch.randn(256, SHAPE.width, generator=g) + torch.randn(SHAPE.width, generator=g)


def signals() -> dict[str, Any]:
    """Return every signal, random, in the shapes of LLaVA-1.5-7B with CLIP ViT-L/14 at 336 pixels."""
    g = torch.Generator().manual_seed(1)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    project = torch.nn.Sequential(
        torch.nn.Linear(VISION, SHAPE.width), torch.nn.GELU(), torch.nn.Linear(SHAPE.width, SHAPE.width)
    ).requires_grad_(False)
    prompt = TOKENS + TEXT
    return {
        "clip_patches": randn(TOKENS, CLIP),
        "clip_text": randn(1, CLIP),
        "llm_text": randn(TEXT, SHAPE.width),
        "vision_clip": randn(TOKENS, VISION),
        "vision_mean": randn(TOKENS, VISION),
        "vision_cls": randn(VISION),
        "vision_keys": randn(HEADS, TOKENS, VISION // HEADS),
        "cls_attention": randn(HEADS, TOKENS).softmax(-1),
        "received": randn(HEADS, TOKENS).softmax(-1),
        "received_early": randn(HEADS, TOKENS).softmax(-1),
        "projector": project,
        "hidden": randn(prompt, SHAPE.width),
        "keys": randn(SHAPE.key_heads, prompt, SHAPE.head_width),
        "attention": randn(SHAPE.heads, TEXT, TOKENS).softmax(-1),
        "image_start": 35,
        "frames": 16,
    }
