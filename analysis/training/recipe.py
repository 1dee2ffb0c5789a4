"""The recipe, in three stages; the first two need nothing of each other and run side by side.

1. ``language``: the language model learns to answer from *perfect* visual tokens (the codes of what each patch truly
   shows, with noise), mostly those of objects. Binding, counting and comparing are learnt without waiting for vision.
2. ``vision``: the vision tower and projector learn to produce those codes from pixels.
3. ``whole``: the language model learns to answer from the real tokens; tower and projector stay as they are. Scenes of
   objects are those that allow a question of two hops, which is learnt last.
   (End-to-end training at the language model's rate was tried and undid the tower within a hundred steps.)

A finished model goes on from where it was in two other stages:

* ``project``, where codes are to be neutral: the projector learns to give the tokens it gave, with norms that carry no information; the
  vision tower stays as it is.
* ``transcribe``: the language model learns words for patches, and transcriptions; tower and projector stay as they are.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn import functional as F

from analysis import reference
from analysis.scenes import GRID
from analysis.training import data, joint, packed, places
from analysis.training.codes import READ, Codes, kinds, neutral, normalise, quantiles
from analysis.training.model import EOS, PAD, WIDTH, build, build_joint, config, name_places
from analysis.training.optimise import Stage, run

HEADS = {"places": 2, "counts": 1, "kinds": places.KINDS}  # thrown away, and how many numbers each gives
LANGUAGE = ("model.language_model", "lm_head", *HEADS)
PROJECTOR = ("model.multi_modal_projector",)
VISION = ("model.vision_tower", *PROJECTOR, "joint")
NOISE = 0.03
CODES = ("summed", "neutral")
SEEN = 400  # scenes that codes are fitted to
CONTRAST = 0.3  # weight of the contrastive loss beside that of the codes
# Visual tokens shown in the first stage, from which share of its steps on. With one token an object, a head that looks
# everywhere already gives the right token a tenth of its weight: binding is learnt there, and kept when tokens multiply.
CURRICULUM = ((0.0, 14), (0.35, 28), (0.6, 56))
# How many times as strong as they will be places are in the first stage: held until the first share of its steps, let down to
# once until the second. Two lookups hand a place on (object to noun, noun to answer); each is learnt at the pace that the other
# passes on, and at their own strength places stayed at guessing for six thousand steps.
PLACES = (0.5, 0.75), 3.0


class Batch:
    """Tensors of one batch of scenes, on a device."""

    def __init__(self, arrays: data.Arrays, device: str = "cpu"):
        names = ("factors", "tokens", "segments", "targets", "captions")
        integers = (torch.from_numpy(getattr(arrays, name).astype(np.int64)).to(device) for name in names)
        self.factors, self.tokens, self.segments, self.targets, self.captions = integers
        self.pixels = normalise(torch.from_numpy(arrays.pixels).to(device))


class Recipe:
    """The stages for one seed; ``codes`` is frozen, and ``norms`` those of `token_norms` of the model that ``project`` starts from."""

    projector: torch.nn.Module  # that the stage ``project`` starts from

    def __init__(self, seed: int, codes: Codes, scale: float = 1.0):
        self.codes, self.scale = codes, scale
        self.noise = torch.Generator().manual_seed(seed)
        steps = lambda n: max(2, round(n * scale))  # noqa: E731
        self.stages = {
            "language": Stage("language", self.language, LANGUAGE, steps(2800), 1e-3, batch=12),
            "vision": Stage("vision", self.vision, VISION, steps(3800), 1.2e-3),
            "whole": Stage("whole", self.whole, LANGUAGE, steps(2600), 8e-4),
            "project": Stage("project", self.project, PROJECTOR, steps(1000), 1e-3, batch=16),
            "transcribe": Stage("transcribe", self.transcribe, LANGUAGE, steps(900), 6e-4, batch=16),
        }

    @staticmethod
    def before(name: str, codes: str = "summed") -> tuple[str, ...]:
        """Return the stages whose weights a stage starts from."""
        if name == "transcribe":
            return ("project",) if codes == "neutral" else ()
        return ("language", "vision") if name == "whole" else ()

    def language(self, model, batch: Batch, step: int) -> tuple[Tensor, dict[str, float]]:
        """Return the loss and the figures of the language model's stage."""
        done = step / self.stages["language"].steps
        strength = float(np.interp(done, PLACES[0], (PLACES[1], 1.0)))
        target = self.codes.target(batch.factors, batch.pixels, strength)
        target = target + NOISE * torch.randn(target.shape, generator=self.noise).to(target.device)
        keep = self._shown(batch, done, CURRICULUM)
        image = target.gather(1, keep[..., None].expand(-1, -1, target.shape[-1]))
        return self._answers(model, image, batch, keep)

    def vision(self, model, batch: Batch, step: int) -> tuple[Tensor, dict[str, float]]:
        """Return the loss and the figures of the vision tower's stage."""
        seen = model.model.vision_tower(batch.pixels.to(model.dtype))
        tokens = model.model.multi_modal_projector(seen.last_hidden_state[:, 1:])
        loss, right = self.codes.loss(tokens, batch.factors, batch.pixels)
        contrast, matched = joint.contrast(
            model.joint, seen.pooler_output, batch.captions[:, step % data.CAPTIONS]
        )
        return loss + CONTRAST * contrast, {
            **dict(zip(READ, right.tolist(), strict=True)),
            "contrast": contrast.item(),
            "matched": matched,
        }

    def whole(self, model, batch: Batch, step: int) -> tuple[Tensor, dict[str, float]]:
        """Return the loss and the figures of the stage that trains all parts."""
        with torch.no_grad():
            image = packed.visual_tokens(model, batch.pixels.to(model.dtype))
        keep = self._shown(batch, step / self.stages["whole"].steps, ((0.0, 72), (0.5, GRID * GRID)))
        image = image.gather(1, keep[..., None].expand(-1, -1, image.shape[-1]))
        return self._answers(model, image, batch, keep, last=True)

    def go_on_from(self, model, batch: Batch) -> None:
        """Note the tokens that a finished model gives, for the stage ``project``."""
        self.projector = deepcopy(model.model.multi_modal_projector).requires_grad_(False)
        with torch.no_grad():
            tokens = packed.visual_tokens(model, batch.pixels.to(model.dtype)).float()
        self.norms = quantiles(tokens.norm(dim=-1), kinds(batch.factors))

    def project(self, model, batch: Batch, step: int) -> tuple[Tensor, dict[str, float]]:
        """Return the loss and the figures of the stage that makes norms neutral."""
        with torch.no_grad():
            seen = model.model.vision_tower(batch.pixels.to(model.dtype)).last_hidden_state[:, 1:]
            target = self.projector(seen).float()
            norm, kind = target.norm(dim=-1), kinds(batch.factors)
            wanted = neutral(norm, kind, self.norms)
            target *= (wanted / norm)[..., None]
        tokens = model.model.multi_modal_projector(seen).float()
        off, far = tokens.norm(dim=-1) - wanted, (tokens - target).square().sum(-1)
        thing = off[kind > 0].mean() - off[kind == 0].mean()
        figures = {"distance": far.mean().item(), "norm off": off.abs().mean().item(), "things": thing.item()}
        return far.mean() + 3 * off.square().mean(), figures

    def transcribe(self, model, batch: Batch, step: int) -> tuple[Tensor, dict[str, float]]:
        """Return the loss and the figures of the stage that adds transcriptions to a finished model."""
        with torch.no_grad():
            image = packed.visual_tokens(model, batch.pixels.to(model.dtype))
        return self._answers(model, image, batch)

    def _shown(self, batch: Batch, done: float, curriculum: tuple[tuple[float, int], ...]) -> Tensor:
        """Return the places (B, v) of the visual tokens the language model sees: objects first, then random others."""
        count = [tokens for start, tokens in curriculum if done >= start][-1]
        centre = (batch.factors[..., 3:5] > 0).any(-1)  # the middle of an object, or the digit
        chance = torch.rand(centre.shape, generator=self.noise).to(centre.device)
        order = 2.0 * centre + (batch.factors[..., 0] > 0) + chance
        return order.topk(count).indices.sort().values

    def _answers(self, model, image: Tensor, batch: Batch, keep: Tensor | None = None, last: bool = False):
        hops = about_hops(batch)
        patch, transcribed = places.asked_patches(batch.tokens, batch.segments)
        targets = batch.targets
        if keep is not None:  # nobody can tell what a patch shows that is not there
            there = torch.zeros(batch.factors.shape[:2], dtype=torch.bool, device=image.device)
            there.scatter_(1, keep, True)
            targets = torch.where((patch < 0) | there.gather(1, patch.clamp(min=0)), targets, PAD)
        weight = WEIGHT.to(image.device)[targets] * torch.where(hops, HOPS_WEIGHT, 1.0)
        weight = torch.where(transcribed, TRANSCRIBED, weight)
        loss, right, skills, states = packed.answer_loss(
            model, image, batch.tokens, batch.segments, targets, keep, weight
        )
        early, late = (F.rms_norm(states[i], (WIDTH,)) for i in (FIRST_HOP, -2))
        ends, wanted, named = places.named(batch.tokens, batch.factors)
        off = (model.places(late[ends]).float() - wanted).square().mean()
        numbers = {"right": right.float().mean().item(), "off": off.item()}
        if last:
            unknown = F.binary_cross_entropy_with_logits(model.kinds(early[ends]).float(), named)
            off, numbers["unknown"] = off + 2 * unknown, unknown.item()
            said, many = places.counted(batch.tokens, batch.factors)
            miscounted = (model.counts(late[said]).float() - many).square().mean()
            off, numbers["miscounted"] = off + miscounted, miscounted.item()
        answered = (targets != PAD) & (targets != EOS)
        about = {"hops": hops, "sides": (patch >= 0) & ~transcribed, "transcribed": transcribed}
        for name, here in about.items():
            some = right[here[answered]]
            numbers[name] = some.float().mean().item() if len(some) else float("nan")
        plain = patch[answered] < 0
        right, skills = right[plain].cpu(), skills[plain].cpu()
        for name, words in GROUPS.items():
            asked = torch.isin(skills, words)
            numbers[name] = right[asked].float().mean().item() if asked.any() else float("nan")
        return loss + off, numbers


_ANSWERS = {
    "exist": ("yes", "no"),
    "colour": data.COLOURS,
    "shape": data.SHAPES,
    "count": ("zero", "one", "two", "three", "four"),
    "where": ("left", "right", "above", "below"),
    "size": ("larger", "smaller", "equal"),
    "digit": tuple(f"d{i}" for i in range(10)),
    "back": data.BACKGROUNDS,
}
# Counting, places and above all two hops, which one question in thirty is about, weigh more in the loss, the end of an answer
# next to nothing.
WEIGHT = torch.ones(config().text_config.vocab_size)
WEIGHT[EOS] = 0.05
WEIGHT[[data.TOKEN[w] for w in (*_ANSWERS["count"], *_ANSWERS["where"])]] = 1.5
# Layers after which a word is asked what it names: two are left to hand that on and to look again.
FIRST_HOP = 2
HOPS, HOPS_WEIGHT = data.TOKEN["shares"], 10.0
TRANSCRIBED = 0.4  # weight of one word of a transcription
GROUPS = {name: torch.tensor([data.TOKEN[w] for w in words]) for name, words in _ANSWERS.items()}


def about_hops(batch: Batch) -> Tensor:
    """Return which words (B, 200) are of a question of two hops."""
    number = batch.segments.clamp(min=0)
    said = (batch.tokens == HOPS).long()
    asked = torch.zeros_like(number).scatter_add(1, number, said) > 0
    return asked.gather(1, number) & (batch.segments >= 0)


def rows_of_steps(rows: int, size: int, seed: int, first: int) -> Iterator[np.ndarray]:
    """Yield ``size`` of so many rows for each step from ``first`` on, without end, in a new order every epoch."""
    per_epoch, step = rows // size, first
    while True:
        order = np.random.default_rng([seed, step // per_epoch]).permutation(rows)
        for i in range(step % per_epoch, per_epoch):
            yield order[i * size : (i + 1) * size]
            step += 1


def batches(arrays: data.Arrays, stage: Stage, seed: int, rank: int, world: int, device: str = "cpu"):
    """Return a function of the first step: endless batches, a new order every epoch, the same for the same seed."""

    def of(first: int) -> Iterator[Batch]:
        share = stage.batch // world
        for rows in rows_of_steps(len(arrays), share * world, seed, first):
            yield Batch(arrays[np.sort(rows[rank * share : (rank + 1) * share])], device)

    return of


def train_stage(
    name: str,
    out: Path,
    seed: int,
    world: int,
    scale: float = 1.0,
    device: str = "cpu",
    codes: str = "summed",
    start: Path | None = None,
) -> None:
    """Run one stage on the scenes in ``out``, in ``world`` processes of one thread each; the result is ``<stage>.pt`` in the
    seed's `folder_of`. ``start``: the finished model that ``project`` and ``transcribe`` go on from."""
    folder = folder_of(out, seed, codes)
    folder.mkdir(parents=True, exist_ok=True)
    if world == 1:
        _worker(0, name, out, seed, 1, scale, device, codes, start)
    else:
        (folder / f"{name}.meet").unlink(missing_ok=True)  # left behind by a run that was killed
        mp.spawn(_worker, (name, out, seed, world, scale, device, codes, start), nprocs=world)


def folder_of(out: Path, seed: int, codes: str = "summed") -> Path:
    """Return where the stages of one seed are; the scenes, in ``out``, are the same for all."""
    return out / (f"seed{seed}" if codes == "summed" else f"seed{seed}-{codes}")


def start_model(folder: Path, seed: int, stages: tuple[str, ...], start: Path | None = None):
    """Return a float32 model with the weights that the given stages have left in ``folder``, the last one counting.

    Before that with those of the finished model in ``start``, where one is given; words it does not know are new.
    """
    model = build(seed)
    if start is not None:
        known = reference.load(start)[0].state_dict()
        with torch.no_grad():
            for name, own in model.state_dict().items():
                own[: len(known[name])] = known[name]
    model.joint = build_joint(seed, model)
    with torch.random.fork_rng():
        torch.random.manual_seed(seed + 2)
        for name, size in HEADS.items():
            model.add_module(name, torch.nn.Linear(WIDTH, size))
    for name in stages:
        saved = torch.load(folder / f"{name}.pt", weights_only=True, map_location="cpu")["masters"]
        parts = {"vision": VISION, "project": PROJECTOR}.get(name, LANGUAGE)
        moving = [p for n, p in model.named_parameters() if n.startswith(parts)]
        with torch.no_grad():
            for p, value in zip(moving, saved, strict=True):
                p.copy_(value)
    return model


def askable(arrays: data.Arrays) -> np.ndarray:
    """Return which scenes are of digits, or of objects that allow a question of two hops: about half of them do."""
    return (arrays.tokens == HOPS).any(1) | ((arrays.factors[..., 4] > 0).sum(1) > 1)


def compile_parts(model, codes: Codes) -> None:
    """Compile, in place, what takes the time, with attention written out: its fused form on the CPU is slow backwards.

    One and a half times as fast; the first step of every number of visual tokens takes half a minute.
    """
    for part in (model.model.language_model, model.model.vision_tower, model.joint.text_model):
        part.config._attn_implementation = "eager"
        part.compile(dynamic=False)
    codes.loss = torch.compile(codes.loss, dynamic=False)


def precision(device: str) -> torch.dtype:
    """Return what weights are held in: bfloat16, or float32 on a CPU without AVX-512, where bfloat16 is six times slower."""
    slow = device == "cpu" and not torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return torch.float32 if slow else torch.bfloat16


def _worker(
    rank: int,
    name: str,
    out: Path,
    seed: int,
    world: int,
    scale: float,
    device: str,
    kind: str,
    start: Path | None,
) -> None:
    folder = folder_of(out, seed, kind)
    if device == "cpu":
        torch.set_num_threads(1)
    if world > 1:
        meet = f"file://{(folder / name).resolve()}.meet"
        dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=world)
    arrays = data.load(out, "train")
    some = arrays[:SEEN]
    words = build(seed).get_input_embeddings().weight
    codes = Codes(words, some.pixels, seed, some.factors if kind == "neutral" else None).to(device)
    if name in ("whole", "transcribe"):
        arrays = arrays[askable(arrays)]
    stage = (recipe := Recipe(seed * 1000 + rank, codes, scale)).stages[name]
    model = start_model(folder, seed, recipe.before(name, kind), start).to(device, precision(device)).train()
    first = Batch(some, device)
    if name == "project":
        recipe.go_on_from(model, first)
    if name in ("language", "transcribe"):
        with torch.no_grad():
            tokens = (
                codes.target(first.factors, first.pixels)
                if name == "language"
                else packed.visual_tokens(model, first.pixels.to(model.dtype))
            )
        name_places(model, tokens)
    if device != "cpu" or shutil.which(os.environ.get("CXX", "g++")):
        compile_parts(model, codes)
    run(model, stage, batches(arrays, stage, seed, rank, world, device), folder / f"{name}.pt", rank)
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()
