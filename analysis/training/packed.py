"""The forward pass of training: every question of a scene after one image, unable to attend to the other questions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from analysis.training.data import PREFIX
from analysis.training.model import BOS, EOS, PAD


class Marks(NamedTuple):
    """Ids of what begins a prompt, of "nothing to predict here", and of the end of an answer."""

    begin: int = BOS
    nothing: int = PAD
    end: int = EOS


MARKS = Marks()


def visual_tokens(model, pixels: Tensor) -> Tensor:
    """Return the projected tokens (B, 144, 256): the vision tower's last layer without CLS, through the projector."""
    hidden = model.model.vision_tower(pixels).last_hidden_state[:, 1:]
    return model.model.multi_modal_projector(hidden)


def answer_loss(
    model,
    image: Tensor,
    tokens: Tensor,
    segments: Tensor,
    targets: Tensor,
    kept: Tensor | None = None,
    weight: Tensor | None = None,
    marks: Marks = MARKS,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Return the cross-entropy at the answers (and at the end after them), which answers are right, the answers; and the words' states.

    ``image`` (B, v, 256) visual tokens; ``kept`` (B, v) their places among the 144 where they are not all;
    the others (B, 200) as packed by ``data.pack``; ``weight`` (B, 200) of each answer in the loss; ``marks`` of the words' ids. States
    (B, 200, 256) are those in front of every layer, and the last one's.
    """
    embed = model.get_input_embeddings()
    first = embed(tokens.new_full((len(tokens), 1), marks.begin))
    x = torch.cat([first, image.to(first.dtype), embed(tokens)], 1)
    positions, mask = layout(segments, kept)
    seen = model.model.language_model(
        inputs_embeds=x,
        attention_mask=mask.to(x.dtype),
        position_ids=positions,
        use_cache=False,
        output_hidden_states=True,
    )
    states = [h[:, 1 + image.shape[1] :] for h in seen.hidden_states]
    hidden = seen.last_hidden_state[:, 1 + image.shape[1] :]
    asked = targets != marks.nothing
    logits = F.linear(hidden[asked], embed.weight).float()
    gold = targets[asked]
    each = torch.ones_like(logits[:, 0]) if weight is None else weight[asked]
    loss = (F.cross_entropy(logits, gold, reduction="none") * each).sum() / each.sum()
    is_answer = gold != marks.end  # which follows every answer
    return loss, (logits.argmax(-1) == gold)[is_answer], gold[is_answer], states


def layout(segments: Tensor, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the positions (B, L), restarting after the image for every question, and the additive mask (B, 1, L, L)."""
    (batch, length), device = segments.shape, segments.device
    starts = torch.ones_like(segments, dtype=torch.bool)
    starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
    index = torch.arange(length, device=device).expand(batch, -1)
    begin = torch.where(starts, index, 0).cummax(1).values
    image = torch.arange(PREFIX - 1, device=device).expand(batch, -1) if kept is None else kept
    positions = torch.cat([torch.zeros_like(image[:, :1]), 1 + image, PREFIX + index - begin], 1)
    prefix = 1 + image.shape[1]
    total = prefix + length
    whole = torch.cat([segments.new_full((batch, prefix), -2), segments], 1)
    causal = torch.ones(total, total, dtype=torch.bool, device=device).tril()
    shared = (torch.arange(total, device=device) < prefix)[None, None, :]
    same = whole[:, :, None] == whole[:, None, :]
    seen = (shared | same) & causal
    return positions, torch.zeros(seen.shape, device=device).masked_fill(~seen, -1e9)[:, None]
