"""Adapt the arguments of `generate` to a pruned prompt: correct lengths, and refuse what cannot be made right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from transformers import GenerationConfig
from transformers.generation import utils as generation

from vlm_bridge.errors import BridgeError
from vlm_bridge.live.session import Session
from vlm_bridge.model.decoder import is_bidirectional

_LOOP = "its decoding loop has left transformers; it is fetched from the hub and would see the pruned prompt"

_REFUSED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "custom_generate": (lambda v: True, "a custom decoding loop would see the pruned prompt"),
    "penalty_alpha": (lambda v: v > 0, _LOOP),
    "dola_layers": (lambda v: True, _LOOP),
    "num_beam_groups": (lambda v: v > 1, _LOOP),
    "constraints": (lambda v: True, _LOOP),
    "force_words_ids": (lambda v: True, _LOOP),
    "token_healing": (bool, "the prompt would be decoded and tokenized again, without its images"),
    "assistant_early_exit": (bool, "it drafts with this model's own generate, which is running already"),
    "use_mtp": (
        bool,
        "its drafting layers have a cache of their own, of which it is not known whether it follows",
    ),
    "speculation_type": (
        bool,
        "its drafts read hidden states of the prompt, of which it is not known whether they fit",
    ),
    "cache_implementation": (
        lambda v: v == "paged",
        "continuous batching takes token ids alone and would answer without the image",
    ),
}
"""Arguments of `generate`, which values of them are refused, and why."""


def check_generate(model: Any, arguments: Mapping[str, Any], folding: bool = False) -> None:
    """Refuse arguments of `generate` under which a pruned prompt would be answered differently; name the reason."""
    for name, (wrong, reason) in _REFUSED.items():
        value = _set(model, arguments, name)
        if value is not None and wrong(value):
            raise BridgeError(f"generate({name}={value!r}) is not supported while pruning: {reason}.")
    assistant = arguments.get("assistant_model")
    ours = getattr(assistant, "__dict__", {}).get("generate")
    if assistant is model or isinstance(getattr(ours, "__self__", None), Session):
        raise BridgeError(
            "generate(assistant_model=...): this assistant is a model that is being pruned, and it would prune the "
            "pruned prompt again; pass an assistant that is not."
        )
    guidance = _set(model, arguments, "guidance_scale")
    if folding and guidance is not None and guidance != 1:
        raise BridgeError(
            f"generate(guidance_scale={guidance!r}) cannot be used with fold: the bias of folded tokens would also "
            "reach the call without the prompt. Use fold=False."
        )
    config = arguments.get("generation_config")
    chunk = arguments.get("prefill_chunk_size", getattr(config, "prefill_chunk_size", None))
    if chunk is not None and not hasattr(generation, "_slice_mm_encoder_output"):
        raise BridgeError(
            "generate(prefill_chunk_size=...) drops images in this release of transformers: upgrade it, or leave it out."
        )
    cache = arguments.get("past_key_values")
    if cache is not None and cache.get_seq_length() > 0:
        raise BridgeError(
            "generate with images and a filled cache: expected an empty cache or none, since pruning rewrites whole "
            "prompts. Pass the whole prompt again."
        )


def inferred_mask(model: Any, arguments: Mapping[str, Any]) -> Tensor | None:
    """Return the mask that `generate` would infer from padding ids; None where it would infer none."""
    ids = arguments.get("input_ids")
    if arguments.get("attention_mask") is not None or not isinstance(ids, Tensor):
        return None
    configs = [arguments.get("generation_config"), getattr(model, "generation_config", None)]
    pad = arguments.get("pad_token_id", _first(configs, "pad_token_id"))
    end = arguments.get("eos_token_id", _first(configs, "eos_token_id"))
    ends = end if isinstance(end, (list, tuple)) else [end]
    if pad is None or pad in ends or not (ids == pad).any():
        return None
    return (ids != pad).long()


def moved_lengths(model: Any, arguments: dict[str, Any], dropped: int) -> None:
    """Reduce lengths that count the prompt by the `dropped` tokens, so that the answer may be as long as before."""
    configs = [arguments.get("generation_config"), getattr(model, "generation_config", None)]
    for name, newer in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        if arguments.get(newer, _first(configs, newer)) is not None:
            continue  # counts new tokens, and takes precedence
        value = arguments.get(name)
        if value is None:
            value = _first(configs, name)
            if value == getattr(GenerationConfig(), name):
                continue  # the library's default counts new tokens
        if value:
            arguments[name] = max(int(value) - dropped, 0)


def check_chunks(model: Any, arguments: Mapping[str, Any], reason: str = "") -> None:
    """Refuse to read a prompt in chunks, for a `reason` or where visual tokens see those behind them."""
    if not reason and is_bidirectional(model):
        reason = "its visual tokens see those behind them, which are in a later chunk"
    if reason and _set(model, arguments, "prefill_chunk_size"):
        raise BridgeError(
            f"generate(prefill_chunk_size=...): prompts of {type(model).__name__} cannot be read in chunks, since {reason}. Leave it out."
        )


def expected_tokens(model: Any, arguments: Mapping[str, Any]) -> int:
    """Return how many tokens `generate` will add at most."""
    new = _set(model, arguments, "max_new_tokens")
    if new is not None:
        return int(new)
    longest = _set(model, arguments, "max_length")
    if longest is None or longest == GenerationConfig().max_length:
        return 20  # the default counts new tokens
    tokens = arguments.get("input_ids")
    return int(longest) - (0 if tokens is None else tokens.shape[1])


def _set(model: Any, arguments: Mapping[str, Any], name: str) -> Any:
    """Return an argument of the call, else of its generation config, else of the model's."""
    if arguments.get(name) is not None:
        return arguments[name]
    return _first([arguments.get("generation_config"), getattr(model, "generation_config", None)], name)


def _first(configs: list[Any], name: str) -> Any:
    """Return the first value of that name that is not None."""
    return next((v for v in (getattr(c, name, None) for c in configs) if v is not None), None)
