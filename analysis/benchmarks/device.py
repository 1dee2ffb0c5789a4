"""Selection on a GPU: the fused kernel against published loops, naive deflation and the floor, in one run.

The floor is the larger of reading A once at the measured bandwidth and multiplying AᵀA at the measured rate; it says
nothing of the k dependent steps, which no version avoids.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from analysis.benchmarks import published
from analysis.benchmarks.speed import tokens
from cssp.kernels import pivoted_cholesky, residual_select

#: (width, tokens, kept, images): largest microseconds an image may take by the project's own aim.
AIMS = {(4096, 576, 64, 1): 150.0, (4096, 576, 64, 64): 8.0, (4096, 2880, 320, 1): 1200.0}
TINY = {(48, 40, 6, 1): None, (48, 40, 6, 2): None}

#: Least ratio to the loops of CDPruner and DivPrune.
AHEAD = 20.0


def seconds(
    runs: dict[str, Callable[[], object]], device: str, repeats: int, budget: float = 60.0
) -> dict[str, float]:
    """Return the median seconds of each run; they take turns, after one round to warm up, until repeats or budget end."""
    spent: dict[str, list[float]] = {name: [] for name in runs}
    start = time.perf_counter()
    for repeat in range(repeats + 2):
        for name, run in runs.items():
            took = _once(run, device)
            if repeat > 1:
                spent[name].append(took)
        if repeat > 2 and time.perf_counter() - start > budget:
            break
    return {name: statistics.median(times) for name, times in spent.items()}


def _once(run: Callable[[], object], device: str) -> float:
    if device == "cpu":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def captured(run: Callable[[], object]) -> Callable[[], object]:
    """Return the run captured as a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def ceilings(device: str, tiny: bool) -> dict[str, float]:
    """Return the bytes a second of a copy, read and written, and bfloat16 operations a second of a large product."""
    size = 64 if tiny else 8192
    block = torch.empty(1 << (10 if tiny else 30), dtype=torch.int32, device=device)
    other = torch.empty_like(block)
    x, y = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    took = seconds({"copy": lambda: other.copy_(block), "product": lambda: x @ y}, device, 10)
    return {"bytes": 2 * 4 * block.numel() / took["copy"], "flops": 2 * size**3 / took["product"]}


def images(d: int, n: int, B: int, device: str) -> Tensor:
    """Return B images of n bfloat16 tokens of width d as rows, (B, n, d): as a projector gives them."""
    return (
        torch.stack([torch.from_numpy(tokens(d, n, seed).T.copy()) for seed in range(B)])
        .bfloat16()
        .to(device)
    )


def implementations(features: Tensor, k: int) -> dict[str, Callable[[], object]]:
    """Return what is timed; every one takes the same features."""
    A = features.mT
    relevance = torch.rand(
        features.shape[:2], device=A.device, generator=torch.Generator(A.device).manual_seed(0)
    )
    runs: dict[str, Callable[[], object]] = {
        "residual_select": lambda: residual_select(A, k),
        "residual_select, first pass only": lambda: residual_select(A, k, repair=False),
        "gram and norms": lambda: pivoted_cholesky.gram_and_norms(A, None),
        "plain torch path": lambda: residual_select(A, k, path="torch"),
        "cdpruner loop": lambda: published.cdpruner(features, relevance, k),
        "divprune loop": lambda: [published.divprune(x, k) for x in features],
        "naive deflation": lambda: published.deflation(A, k),
    }
    if A.is_cuda:
        runs["residual_select, CUDA graph"] = captured(runs["residual_select"])
        runs["first pass only, CUDA graph"] = captured(runs["residual_select, first pass only"])
    return runs


def speed(out: Path, device: str, tiny: bool) -> dict:
    """Return the table; a size measured in an earlier call is not measured again."""
    part = out / "speed_parts.json"
    found: dict = json.loads(part.read_text()) if part.exists() else {}
    if "ceilings" not in found:
        found["ceilings"] = ceilings(device, tiny)
    for (d, n, k, B), aim in (TINY if tiny else AIMS).items():
        key = f"{d}x{n} keep {k} batch {B}"
        if key in found:
            continue
        features = images(d, n, B, device)
        took = seconds(implementations(features, k), device, 3 if tiny else 30)
        indices, _, safe = residual_select(features.mT, k)
        _, _, first = residual_select(features.mT, k, repair=False)
        exact, _, _ = residual_select(features.mT.double(), k, path="torch")
        best = took.get("residual_select, CUDA graph", took["residual_select"])
        floor = max(
            features.numel() * 2 / found["ceilings"]["bytes"], 2 * B * d * n**2 / found["ceilings"]["flops"]
        )
        found[key] = {
            "microseconds": {name: 1e6 * s for name, s in took.items()},
            "floor": 1e6 * floor,
            "per image": 1e6 * took["residual_select"] / B,
            "per image, CUDA graph": 1e6 * best / B,
            "aim per image": aim,
            "met": aim and 1e6 * best / B <= aim,
            "ratio to floor": best / floor,
            "ahead of cdpruner": took["cdpruner loop"] / best,
            "ahead of divprune": took["divprune loop"] / best,
            "ahead enough": min(took["cdpruner loop"], took["divprune loop"]) >= AHEAD * best,
            "share safe": float(safe.float().mean()),
            "share safe after the first pass": float(first.float().mean()),
            "share of picks as in double precision": float((indices == exact).float().mean()),
            "gigabytes at peak": torch.cuda.max_memory_allocated() / 1e9 if device != "cpu" else None,
        }
        part.write_text(json.dumps(found, indent=1) + "\n")
        print(f"\n{key}: {json.dumps(found[key], indent=1)}")
    return found
