"""The joint space of images and captions, trained contrastively beside the codes (Radford et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def contrast(clip, pooled: Tensor, captions: Tensor) -> tuple[Tensor, float]:
    """Return the symmetric cross-entropy of matching images (B, 192) with captions (B, 32), and the share matched rightly."""
    image = F.normalize(clip.visual_projection(pooled).float(), dim=-1)
    text = clip.get_text_features(input_ids=captions, attention_mask=(captions > 0).long(), return_dict=True)
    text = F.normalize(text.pooler_output.float(), dim=-1)
    logits = clip.logit_scale.float().exp().clamp(max=50) * image @ text.T
    matching = torch.arange(len(logits), device=logits.device)
    loss = 0.5 * (F.cross_entropy(logits, matching) + F.cross_entropy(logits.T, matching))
    return loss, (logits.argmax(1) == matching).float().mean().item()
