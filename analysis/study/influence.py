"""How much the unpruned model makes of every visual token: attention received from the text, and the gradient of the answer's loss."""

from __future__ import annotations

import torch
from torch import Tensor

from analysis.study.answering import Prefix, side_by_side
from analysis.study.encoding import Checkpoint, EncodedImage


def influence(checkpoint: Checkpoint, encoded: EncodedImage) -> tuple[Tensor, Tensor]:
    """Return attention received (n,) and the norm of the gradient (n,) of every token, both means over questions.

    Attention is the mean over layers, heads and the tokens of question and answer. The loss is the cross entropy of the right answer's words,
    given those before; its gradient is taken with respect to the token.
    """
    b, n = len(encoded.before), len(encoded.tokens)
    rows = [encoded.tokens.clone().requires_grad_() for _ in encoded.questions]
    prefixes = [Prefix(one, torch.arange(n), (q,)) for q, one in enumerate(rows)]
    inputs = side_by_side(checkpoint, encoded, prefixes)
    found, out = inputs.run(checkpoint.explaining, output_attentions=True)
    loss = sum(
        torch.nn.functional.cross_entropy(one, right)
        for one, right in zip(found, encoded.answers, strict=True)
    )
    gradients = torch.autograd.grad(loss, rows)
    with torch.no_grad():
        text = (inputs.segments >= 0).double()
        paid = torch.stack([layer.double().mean(1)[:, :, b : b + n] for layer in out.attentions]).mean(0)
        received = (paid * text[:, :, None]).sum(1) / text.sum(1, keepdim=True)
        return received.mean(0), torch.stack(gradients).double().norm(dim=-1).mean(0)
