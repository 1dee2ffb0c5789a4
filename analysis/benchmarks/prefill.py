"""Prefill of a random model of the shape of LLaVA-1.5-7B, unpruned and pruned, with and without selection.

From pixels to the logits of the last token: vision tower, projector, selection, language model, in bfloat16. Random
weights cost what trained ones cost. Kept tokens keep their positions.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from analysis.benchmarks.device import seconds
from cssp.kernels import residual_select

KEEPS, BATCHES = (192, 64, 32), (1, 8)

#: Tokens of text before and after the image.
BEFORE, AFTER = 35, 40

#: Selection may take this share of the unpruned prefill.
AIM = 0.02


def model(device: str, tiny: bool):
    """Build a model of LLaVA-1.5-7B's shape, or a toy of it, with random weights in bfloat16 (float32 for the toy)."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 336,
        "patch_size": 14,
        "projection_dim": 768,
    }
    text = {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32064,
        "max_position_embeddings": 4096,
    }
    if tiny:
        small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        vision |= small | {"image_size": 84}
        text |= small | {"num_key_value_heads": 4, "vocab_size": 200}
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=3)
    with torch.device(device):
        built = LlavaForConditionalGeneration._from_config(
            config, dtype=torch.float32 if tiny else torch.bfloat16
        )
    return built.eval()


def prefill(llava, pixels: Tensor, text: Tensor, choose: Callable[[Tensor], Tensor] | None) -> Tensor:
    """Return the logits of the last token; ``choose`` maps features (B, n, d) to ascending indices (B, k)."""
    body = llava.model
    states = body.vision_tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    features = body.multi_modal_projector(states)
    n = features.shape[1]
    words = body.get_input_embeddings()(text)
    positions = torch.arange(text.shape[1] + n, device=text.device).expand(text.shape[0], -1)
    if choose is not None:
        kept = choose(features)
        features = torch.gather(features, 1, kept.unsqueeze(2).expand(-1, -1, features.shape[2]))
        positions = torch.cat([positions[:, :BEFORE], BEFORE + kept, positions[:, BEFORE + n :]], 1)
    x = torch.cat([words[:, :BEFORE], features.to(words.dtype), words[:, BEFORE:]], 1)
    hidden = body.language_model(inputs_embeds=x, position_ids=positions, use_cache=True).last_hidden_state
    return llava.lm_head(hidden[:, -1])


def spread(features: Tensor, k: int) -> Tensor:
    """Return k indices known beforehand: pruning without selection."""
    B, n, _ = features.shape
    return (torch.arange(k, device=features.device) * n // k).expand(B, k)


def residual(features: Tensor, k: int) -> Tensor:
    """Return k indices by the kernel, ascending."""
    return residual_select(features.mT, k)[0].sort(1).values


def implementations(
    llava, pixels: Tensor, text: Tensor, features: Tensor, keeps: tuple[int, ...]
) -> dict[str, Callable[[], object]]:
    """Return what is timed."""

    def pruned(rule: Callable[[Tensor, int], Tensor], k: int) -> Callable[[], object]:
        return lambda: prefill(llava, pixels, text, lambda x: rule(x, k))

    def alone(k: int) -> Callable[[], object]:
        return lambda: residual(features, k)

    runs: dict[str, Callable[[], object]] = {"unpruned": lambda: prefill(llava, pixels, text, None)}
    for k in keeps:
        runs |= {f"{k} given": pruned(spread, k), f"{k} selected": pruned(residual, k)}
        runs[f"{k} selection alone"] = alone(k)
    return runs


@torch.no_grad()
def measure(out: Path, device: str, tiny: bool) -> dict:
    """Return the table; a batch size measured in an earlier call is not measured again."""
    part = out / "prefill_parts.json"
    found: dict = json.loads(part.read_text()) if part.exists() else {}
    keeps = (8, 4) if tiny else KEEPS
    llava = None
    for B in (1, 2) if tiny else BATCHES:
        key = f"batch {B}"
        if key in found:
            continue
        llava = llava or model(device, tiny)
        side = llava.config.vision_config.image_size
        dtype = next(llava.parameters()).dtype
        pixels = torch.randn(B, 3, side, side, device=device).to(dtype)
        text = torch.randint(4, 200, (B, BEFORE + AFTER), device=device)
        states = llava.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        features = llava.model.multi_modal_projector(states)
        runs = implementations(llava, pixels, text, features, keeps)
        took = seconds(runs, device, 2 if tiny else 20, budget=120.0)
        shares = {k: took[f"{k} selection alone"] / took["unpruned"] for k in keeps}
        found[key] = {
            "milliseconds": {name: 1e3 * s for name, s in took.items()},
            "selection as a share of the unpruned prefill": shares,
            "difference as a share": {
                k: (took[f"{k} selected"] - took[f"{k} given"]) / took["unpruned"] for k in keeps
            },
            "met": max(shares.values()) <= AIM,
            "share safe": {k: float(residual_select(features.mT, k)[2].float().mean()) for k in keeps},
        }
        part.write_text(json.dumps(found, indent=1) + "\n")
        print(f"\n{key}: {json.dumps(found[key], indent=1)}")
    return found
