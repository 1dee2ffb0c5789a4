"""The recipe, in three stages; the first two need nothing of each other and run side by side.

1. ``language``: the language model learns to answer from *perfect* visual tokens (the codes of what each patch truly
   shows, with noise), mostly those of objects. Binding, counting and comparing are learnt without waiting for vision.
2. ``vision``: the vision tower and projector learn to produce those codes from pixels.
3. ``whole``: the language model learns to answer from the real tokens; tower and projector stay as they are. Scenes of
   objects are those that allow a question of two hops, which is learnt last.
   (End-to-end training at the language model's rate was tried and undid the tower within a hundred steps.)
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn import functional as F

from analysis.scenes import GRID
from analysis.training import data, joint, packed, places
from analysis.training.codes import READ, Codes, normalise
from analysis.training.model import EOS, PAD, WIDTH, build, build_joint, config
from analysis.training.optimise import Stage, run

HEADS = {"places": 2, "counts": 1, "kinds": places.KINDS}  # thrown away, and how many numbers each gives
LANGUAGE = ("model.language_model", "lm_head", *HEADS)
VISION = ("model.vision_tower", "model.multi_modal_projector", "joint")
NOISE = 0.03
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
    """The stages for one seed; ``codes`` is frozen."""

    def __init__(self, seed: int, codes: Codes, scale: float = 1.0):
        self.codes, self.scale = codes, scale
        self.noise = torch.Generator().manual_seed(seed)
        steps = lambda n: max(2, round(n * scale))  # noqa: E731
        self.stages = {
            "language": Stage("language", self.language, LANGUAGE, steps(2800), 1e-3, batch=12),
            "vision": Stage("vision", self.vision, VISION, steps(3800), 1.2e-3),
            "whole": Stage("whole", self.whole, LANGUAGE, steps(2600), 8e-4),
        }

    @staticmethod
    def before(name: str) -> tuple[str, ...]:
        """Return the stages whose weights a stage starts from."""
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
        seen = model.model.vision_tower(batch.pixels.bfloat16())
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
            image = packed.visual_tokens(model, batch.pixels.bfloat16())
        keep = self._shown(batch, step / self.stages["whole"].steps, ((0.0, 72), (0.5, GRID * GRID)))
        image = image.gather(1, keep[..., None].expand(-1, -1, image.shape[-1]))
        return self._answers(model, image, batch, keep, last=True)

    def _shown(self, batch: Batch, done: float, curriculum: tuple[tuple[float, int], ...]) -> Tensor:
        """Return the places (B, v) of the visual tokens the language model sees: objects first, then random others."""
        count = [tokens for start, tokens in curriculum if done >= start][-1]
        centre = (batch.factors[..., 3:5] > 0).any(-1)  # the middle of an object, or the digit
        chance = torch.rand(centre.shape, generator=self.noise).to(centre.device)
        order = 2.0 * centre + (batch.factors[..., 0] > 0) + chance
        return order.topk(count).indices.sort().values

    def _answers(self, model, image: Tensor, batch: Batch, keep: Tensor | None = None, last: bool = False):
        hops = about_hops(batch)
        weight = WEIGHT.to(image.device)[batch.targets] * torch.where(hops, HOPS_WEIGHT, 1.0)
        loss, right, skills, states = packed.answer_loss(
            model, image, batch.tokens, batch.segments, batch.targets, keep, weight
        )
        early, late = (F.rms_norm(states[i], (WIDTH,)) for i in (FIRST_HOP, -2))
        ends, wanted, kinds = places.named(batch.tokens, batch.factors)
        off = (model.places(late[ends]).float() - wanted).square().mean()
        numbers = {"right": right.float().mean().item(), "off": off.item()}
        if last:
            unknown = F.binary_cross_entropy_with_logits(model.kinds(early[ends]).float(), kinds)
            off, numbers["unknown"] = off + 2 * unknown, unknown.item()
            said, many = places.counted(batch.tokens, batch.factors)
            miscounted = (model.counts(late[said]).float() - many).square().mean()
            off, numbers["miscounted"] = off + miscounted, miscounted.item()
        twice = right[hops[(batch.targets != PAD) & (batch.targets != EOS)]]
        numbers["hops"] = twice.float().mean().item() if len(twice) else float("nan")
        right, skills = right.cpu(), skills.cpu()
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
GROUPS = {name: torch.tensor([data.TOKEN[w] for w in words]) for name, words in _ANSWERS.items()}


def about_hops(batch: Batch) -> Tensor:
    """Return which words (B, 200) are of a question of two hops."""
    number = batch.segments.clamp(min=0)
    said = (batch.tokens == HOPS).long()
    asked = torch.zeros_like(number).scatter_add(1, number, said) > 0
    return asked.gather(1, number) & (batch.segments >= 0)


def batches(arrays: data.Arrays, stage: Stage, seed: int, rank: int, world: int, device: str = "cpu"):
    """Return a function of the first step: endless batches, a new order every epoch, the same for the same seed."""

    def of(first: int) -> Iterator[Batch]:
        share = stage.batch // world
        per_epoch = len(arrays) // (share * world)
        step = first
        while True:
            order = np.random.default_rng([seed, step // per_epoch]).permutation(len(arrays))
            for i in range(step % per_epoch, per_epoch):
                at = (i * world + rank) * share
                yield Batch(arrays[np.sort(order[at : at + share])], device)
                step += 1

    return of


def train_stage(name: str, out: Path, seed: int, world: int, scale: float = 1.0, device: str = "cpu") -> None:
    """Run one stage on the scenes in ``out``, in ``world`` processes of one thread each; the result is ``<stage>.pt`` in the
    seed's `folder_of`."""
    folder = folder_of(out, seed)
    folder.mkdir(parents=True, exist_ok=True)
    if world == 1:
        _worker(0, name, out, seed, 1, scale, device)
    else:
        (folder / f"{name}.meet").unlink(missing_ok=True)  # left behind by a run that was killed
        mp.spawn(_worker, (name, out, seed, world, scale, device), nprocs=world)


def folder_of(out: Path, seed: int) -> Path:
    """Return where the stages of one seed are; the scenes, in ``out``, are the same for all."""
    return out / f"seed{seed}"


def start_model(folder: Path, seed: int, stages: tuple[str, ...]):
    """Return a float32 model with the weights that the given stages have left in ``folder``, the last one counting."""
    model = build(seed)
    model.joint = build_joint(seed, model)
    with torch.random.fork_rng():
        torch.random.manual_seed(seed + 2)
        for name, size in HEADS.items():
            model.add_module(name, torch.nn.Linear(WIDTH, size))
    for name in stages:
        saved = torch.load(folder / f"{name}.pt", weights_only=True, map_location="cpu")["masters"]
        moving = [
            p for n, p in model.named_parameters() if n.startswith(VISION if name == "vision" else LANGUAGE)
        ]
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


def _worker(rank: int, name: str, out: Path, seed: int, world: int, scale: float, device: str) -> None:
    folder = folder_of(out, seed)
    if device == "cpu":
        torch.set_num_threads(1)
    if world > 1:
        meet = f"file://{(folder / name).resolve()}.meet"
        dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=world)
    arrays = data.load(out, "train")
    codes = Codes(build(seed).get_input_embeddings().weight, arrays.pixels[:400], seed).to(device)
    if name == "whole":
        arrays = arrays[askable(arrays)]
    stage = (recipe := Recipe(seed * 1000 + rank, codes, scale)).stages[name]
    model = start_model(folder, seed, recipe.before(name)).to(device, torch.bfloat16).train()
    if device != "cpu" or shutil.which(os.environ.get("CXX", "g++")):
        compile_parts(model, codes)
    run(model, stage, batches(arrays, stage, seed, rank, world, device), folder / f"{name}.pt", rank)
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()
