"""One training loop for all stages: bfloat16 weights, float32 masters, data-parallel processes, resumable."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm


@dataclass(frozen=True)
class Stage:
    """A stretch of training: which parameters move, for how many steps, how fast.

    ``loss(model, batch, step)`` gives the loss and a dictionary of numbers to watch; ``rate`` is the peak learning rate,
    reached after ``warmup`` steps and let down along a cosine to a hundredth. ``batch`` is in scenes, of all processes together.
    """

    name: str
    loss: Callable[..., tuple[Tensor, dict[str, float]]]
    parameters: tuple[str, ...]
    steps: int
    rate: float
    batch: int = 32
    warmup: int = 100
    decay: float = 0.01

    def learning_rate(self, step: int) -> float:
        """Return the learning rate at a step: warm-up, then a cosine."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


class Masters:
    """AdamW on float32 copies of the moving parameters of a bfloat16 model."""

    def __init__(self, model: torch.nn.Module, stage: Stage):
        self.low = [p for n, p in model.named_parameters() if n.startswith(stage.parameters)]
        self.high = [p.detach().float().clone().requires_grad_() for p in self.low]
        groups = [
            {"params": [p for p in self.high if p.ndim > 1], "weight_decay": stage.decay},
            {"params": [p for p in self.high if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.adam = torch.optim.AdamW(groups, lr=stage.rate, betas=(0.9, 0.98), fused=True)

    def step(self, rate: float) -> float:
        """Make one step on the float32 weights and return the norm of the gradient."""
        grads = torch.cat(
            [(torch.zeros_like(p) if p.grad is None else p.grad).float().flatten() for p in self.low]
        )
        if dist.is_initialized():
            dist.all_reduce(grads)
            grads /= dist.get_world_size()
        norm = grads.norm()
        grads *= torch.clamp(1 / norm, max=1.0)
        for p, g in zip(self.high, grads.split([p.numel() for p in self.high]), strict=True):
            p.grad = g.view_as(p)
        for group in self.adam.param_groups:
            group["lr"] = rate
        self.adam.step()
        self.publish()
        return norm.item()

    @torch.no_grad()
    def publish(self) -> None:
        """Copy the float32 weights into the model's and clear the gradients."""
        for low, high in zip(self.low, self.high, strict=True):
            low.copy_(high)
            low.grad = None


def run(
    model: torch.nn.Module,
    stage: Stage,
    batches: Callable[[int], Iterator],
    checkpoint: Path,
    rank: int = 0,
    report: Callable[[str], None] = tqdm.write,
    save_every: int = 200,
) -> None:
    """Train ``stage``, from ``checkpoint`` where it exists; leaves the float32 weights there when done.

    ``batches(step)`` yields the batches from that step on; a killed run continues where it was last saved.
    """
    masters, first = Masters(model, stage), 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True, map_location="cpu")
        first = saved["step"]
        masters.adam.load_state_dict(saved["adam"])
        with torch.no_grad():
            for p, value in zip(masters.high, saved["masters"], strict=True):
                p.copy_(value)
        masters.publish()
    start = time.monotonic()
    watched: dict[str, Any] = {}
    bar = tqdm(range(first, stage.steps), initial=first, total=stage.steps, desc=stage.name, disable=rank > 0)
    for step, batch in zip(bar, batches(first), strict=False):
        loss, numbers = stage.loss(model, batch, step)
        loss.backward()
        norm = masters.step(stage.learning_rate(step))
        for key, value in {"loss": loss.item(), "gradient": norm, **numbers}.items():
            watched.setdefault(key, []).append(value)
        last = step + 1 == stage.steps
        if (step + 1) % 50 == 0 or last:
            means = {k: np.nanmean(v) for k, v in watched.items() if not np.isnan(v).all()}
            watched = {}
            if rank == 0:
                line = " ".join(f"{k} {v:.3f}" for k, v in means.items())
                report(f"{stage.name} {step + 1} {time.monotonic() - start:.0f}s {line}")
        if rank == 0 and ((step + 1) % save_every == 0 or last):
            _save(checkpoint, step + 1, masters)


def _save(path: Path, step: int, masters: Masters) -> None:
    part = path.with_suffix(".part")
    state = {"step": step, "masters": [p.detach() for p in masters.high], "adam": masters.adam.state_dict()}
    torch.save(state, part)
    os.replace(part, path)
