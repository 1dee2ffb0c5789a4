"""One image encoded once for all arms: tokens, signals of the vision tower, states of the first layers, tokens of smaller copies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from analysis.study import digest
from analysis.study.tasks import TRANSCRIPTION, task_of
from vlm_bridge.model.families import base_of, find_family
from vlm_bridge.model.patches import projection
from vlm_bridge.model.tower import watched
from vlm_bridge.selection.signals import clip_patch_embeds, clip_text_embeds, special_ids

TOWER = ("vision_clip", "vision_keys", "cls_attention", "received", "received_early")
LAYERS = (1, 2)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose decoder takes embeddings, positions and an additive mask, as Llama's does.

    ``clip``: (CLIPModel, tokenizer) with the checkpoint's own vision tower, or None. ``learnt``: skills that it answers beyond those
    that every checkpoint here was trained for.
    """

    model: Any
    processor: Any
    clip: tuple[Any, Any] | None = None
    learnt: frozenset[str] = frozenset()

    @property
    def decoder(self) -> Any:
        """The language model without its head."""
        return base_of(self.model).language_model

    @cached_property
    def explaining(self) -> Any:
        """The model with the attention kernel that tells its weights."""
        model = deepcopy(self.model)
        model.set_attn_implementation("eager")
        return model

    @cached_property
    def digest(self) -> str:
        """Of all that answers depend on, see `digest`."""
        parts = [("model", digest.of_model(self.model)), ("processor", digest.of_processor(self.processor))]
        if self.clip is not None:
            model, words = self.clip
            parts += [("clip", digest.of_model(model)), ("words", digest.of_processor(words))]
        return digest.of_parts(parts)

    def embed(self, ids: Sequence[int] | Tensor) -> Tensor:
        """Return the word embeddings (L, d) of ids (L,)."""
        return self.model.get_input_embeddings()(torch.as_tensor(ids)).detach()


@dataclass(frozen=True)
class EncodedImage:
    """An image and the questions about it.

    Attributes
    ----------
    tokens : Tensor (n, d)
        What the projector gives.
    before : Tensor (b, d)
        Embeddings of what precedes the image.
    questions : list of Tensor (L_q,) of int64
        Ids of what follows it.
    signals : dict
        Of the image, by the names of `vlm_bridge.pruners.plan.SIGNALS`.
    asked : list of dict
        Of each question: ``llm_text``, the ``task`` that `auto` is given and, where there is a joint space, ``clip_text``.
    layers : tuple of Tensor (n, d)
        The tokens after the first decoder layers of the unpruned model; the text follows the image and is not attended to.
    attended : Tensor (n, d)
        What the attention of the first decoder layer adds to the tokens.
    smaller : callable
        Rows and columns of patches -> tokens (rows · columns, d) of the image made so small.
    answers : list of Tensor (words,) of int64
        Ids of the right answers.
    things : Tensor (n,) of bool, optional
        Tokens that a thing covers.
    """

    tokens: Tensor
    before: Tensor
    questions: list[Tensor]
    signals: dict[str, Any]
    asked: list[dict[str, Any]]
    layers: tuple[Tensor, ...]
    attended: Tensor
    smaller: Callable[[int, int], Tensor]
    answers: list[Tensor]
    things: Tensor | None = None

    def words(self, q: int) -> int:
        """Return how many words the answer to a question has."""
        return len(self.answers[q])

    def text(self, q: int) -> Tensor:
        """Return the ids of a question and of its right answer without the last word."""
        return torch.cat([self.questions[q], self.answers[q][:-1]])

    def spaces(self) -> dict[str, Tensor]:
        """Return the rows (n, d) whose reconstruction is measured."""
        found = {"tokens": self.tokens, "centred tokens": self.tokens - self.tokens.mean(0)}
        found |= {f"layer {i}": rows for i, rows in zip(LAYERS, self.layers, strict=True)}
        return found | {"attention outputs": self.attended}


@torch.no_grad()
def encode_image(
    checkpoint: Checkpoint,
    image: Any,
    questions: Sequence[Any],
    things: Tensor | None = None,
) -> EncodedImage:
    """Encode an image once and read the questions, which have skill, text and answer: prompts are ``<image> question``."""
    model, family = checkpoint.model, find_family(checkpoint.model)
    inputs = dict(checkpoint.processor(images=[image], text=["<image>"], return_tensors="pt"))
    with watched(model, family, inputs, (*TOWER, "vision_cls", "clip_patches")) as tower:
        answer = base_of(model).get_image_features(inputs["pixel_values"], return_dict=True)
    tokens = answer.pooler_output[0]
    found = {name: tower.signal(name) for name in TOWER}
    signals = {
        "vision_clip": found["vision_clip"],
        "vision_cls": tower.cls_rows()[0],
        "vision_keys": found["vision_keys"].transpose(0, 1),
        **{name: found[name].mT for name in ("cls_attention", "received", "received_early")},
        "projector": projection(model, family),
    }
    if checkpoint.clip is not None:
        signals["clip_patches"] = clip_patch_embeds(checkpoint.clip[0], found["vision_clip"])
    ids = inputs["input_ids"][0]
    places = (ids == model.config.image_token_id).nonzero()[:, 0]
    first = checkpoint.embed(ids[: places[0]])
    tokenizer = checkpoint.processor.tokenizer
    behind, right = (
        [torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
        for texts in ([q.text for q in questions], [q.answer for q in questions])
    )
    whole = torch.cat([first, tokens])[None]
    attended: list[Tensor] = []
    hook = checkpoint.decoder.layers[0].self_attn.register_forward_hook(
        lambda module, given, out: attended.append(out[0][0, len(first) :])
    )
    try:
        out = checkpoint.decoder(inputs_embeds=whole, use_cache=False, output_hidden_states=True)
    finally:
        hook.remove()
    layers = tuple(out.hidden_states[i][0, len(first) :] for i in LAYERS)
    return EncodedImage(
        tokens,
        first,
        behind,
        signals,
        [_asked(checkpoint, q.skill, ids) for q, ids in zip(questions, behind, strict=True)],
        layers,
        attended[0],
        lambda rows, columns: _tokens_of_smaller(checkpoint, image, rows, columns),
        right,
        things,
    )


@torch.no_grad()
def _tokens_of_smaller(checkpoint: Checkpoint, image: Any, rows: int, columns: int) -> Tensor:
    """Return the tokens (rows · columns, d) of the image made so small that it has so many patches; position codes are interpolated."""
    base = base_of(checkpoint.model)
    patch = base.config.vision_config.patch_size
    small = image.resize((columns * patch, rows * patch), Image.Resampling.BICUBIC)
    pixels = checkpoint.processor.image_processor(
        images=[small], do_resize=False, do_center_crop=False, return_tensors="pt"
    )["pixel_values"]
    return base.get_image_features(pixels, return_dict=True, interpolate_pos_encoding=True).pooler_output[0]


def _asked(checkpoint: Checkpoint, skill: str, ids: Tensor) -> dict[str, Any]:
    words = ids[~torch.isin(ids, torch.tensor(sorted(special_ids(checkpoint.model, checkpoint.processor))))]
    found: dict[str, Any] = {"llm_text": checkpoint.embed(words)}
    found["task"] = "transcribe" if task_of(skill) == TRANSCRIPTION else "answer"
    if checkpoint.clip is not None:
        model, tokenizer = checkpoint.clip
        plain = checkpoint.processor.tokenizer.decode(words, skip_special_tokens=True)
        found["clip_text"] = clip_text_embeds(model, tokenizer, plain)
    return found
