"""`generate` on a pruned prompt that looks, from outside, like `generate` on the full one.

The prompt that `generate` works on is shorter; lengths are moved accordingly, streamers, logits processors
and stopping criteria are shown the full prompt, and it is put back in front of the answer.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation import utils as generation

from vlm_bridge.borrow import apart
from vlm_bridge.errors import BridgeError
from vlm_bridge.families import is_bidirectional

_REFUSED = {
    "assistant_model": "an assistant would have to see the same pruned prompt",
    "custom_generate": "a custom decoding loop sees the pruned prompt",
    "negative_prompt_ids": "the negative prompt would have to be pruned alike",
}


def check_generate(arguments: Mapping[str, Any]) -> None:
    """Refuse what cannot be made right, with the reason."""
    for name, reason in _REFUSED.items():
        if arguments.get(name) is not None:
            raise BridgeError(f"generate({name}=...) is not supported while pruning: {reason}.")
    config = arguments.get("generation_config")
    chunk = arguments.get("prefill_chunk_size", getattr(config, "prefill_chunk_size", None))
    if chunk is not None and not hasattr(generation, "_slice_mm_encoder_output"):
        raise BridgeError(
            "generate(prefill_chunk_size=...) drops images in this release; upgrade transformers."
        )
    cache = arguments.get("past_key_values")
    if cache is not None and cache.get_seq_length() > 0:
        raise BridgeError(
            "generate with images and a filled cache: pruning rewrites whole prompts; pass none."
        )


def inferred_mask(model: Any, arguments: Mapping[str, Any]) -> Tensor | None:
    """The mask `generate` would infer from padding ids; None where it would not."""
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
    """Move lengths that count the prompt by `dropped`, so that the answer may be as long as before."""
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


def check_chunks(model: Any, arguments: Mapping[str, Any]) -> None:
    """Refuse chunks of a prompt whose visual tokens see those behind them, which are in a later chunk."""
    if is_bidirectional(model) and _set(model, arguments, "prefill_chunk_size"):
        raise BridgeError(
            f"generate(prefill_chunk_size=...): visual tokens of {type(model).__name__} see those behind them, so that "
            "its prompts cannot be read in chunks."
        )


def expected_tokens(model: Any, arguments: Mapping[str, Any]) -> int:
    """How many tokens `generate` will add at most."""
    new = _set(model, arguments, "max_new_tokens")
    if new is not None:
        return int(new)
    longest = _set(model, arguments, "max_length")
    if longest is None or longest == GenerationConfig().max_length:
        return 20  # the default counts new tokens
    tokens = arguments.get("input_ids")
    return int(longest) - (0 if tokens is None else tokens.shape[1])


def _set(model: Any, arguments: Mapping[str, Any], name: str) -> Any:
    """What the call, its generation config or the model's own says."""
    if arguments.get(name) is not None:
        return arguments[name]
    return _first([arguments.get("generation_config"), getattr(model, "generation_config", None)], name)


def _first(configs: list[Any], name: str) -> Any:
    return next((v for v in (getattr(c, name, None) for c in configs) if v is not None), None)


class FullView:
    """Turns a pruned prompt with its continuation into the full prompt with the same continuation."""

    def __init__(self, full: Tensor, pruned_length: int) -> None:
        self.full = full
        self.pruned_length = pruned_length

    def __call__(self, ids: Tensor) -> Tensor:
        """(B·e, L' + t) → (B·e, L + t); a prompt's e beams or samples are neighbours."""
        full = self.full.to(ids.device)
        if ids.shape[0] % full.shape[0]:
            raise BridgeError(
                f"{ids.shape[0]} sequences for {full.shape[0]} prompts: cannot put the prompts back."
            )
        full = full.repeat_interleave(ids.shape[0] // full.shape[0], dim=0)
        return torch.cat([full, ids[:, self.pruned_length :]], dim=1)

    def of(self, prompt: int, ids: Tensor) -> Tensor:
        """(L' + t,) → (L + t,), of one sequence of a prompt."""
        return torch.cat([self.full[prompt].to(ids.device), ids[self.pruned_length :]])


class _Apart:
    """What the caller passed: it runs apart from the call, and is shown the full prompt where there is a view."""

    def __init__(self, inner: Any, view: FullView | None) -> None:
        self._inner, self._view = inner, view

    def __call__(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        ids = input_ids if self._view is None else self._view(input_ids)
        with apart():
            return self._inner(ids, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _Processor(_Apart):
    """A logits processor."""

    def __init__(self, inner: Any, view: FullView | None) -> None:
        if len(inspect.signature(inner.__call__).parameters) > 2:
            name = type(inner).__name__
            raise BridgeError(
                f"logits processor {name} takes more than (input_ids, scores), which is not supported."
            )
        super().__init__(inner, view)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return super().__call__(input_ids, scores)


class _Streamer(_Apart):
    """A streamer whose first chunk is the full prompt."""

    def __init__(self, inner: Any, view: FullView | None) -> None:
        super().__init__(inner, view)
        self._first = view is not None

    def put(self, value: Tensor) -> None:
        """Pass on; the prompt, which comes first, in full."""
        if self._first and self._view is not None:
            value = self._view.full.cpu()
        self._first = False
        with apart():
            self._inner.put(value)

    def end(self) -> None:
        """Pass on."""
        with apart():
            self._inner.end()


def set_apart(arguments: dict[str, Any], view: FullView | None) -> None:
    """Wrap the caller's own functions: they see the full prompt, and may call the model themselves."""
    for name, wrap in (("logits_processor", _Processor), ("stopping_criteria", _Apart)):
        given = arguments.get(name)
        if given:
            arguments[name] = type(given)([wrap(one, view) for one in given])
    allowed: Callable[[int, Tensor], list[int]] | None = arguments.get("prefix_allowed_tokens_fn")
    if allowed is not None:

        def apart_allowed(prompt: int, ids: Tensor) -> list[int]:
            with apart():
                return allowed(prompt, ids if view is None else view.of(prompt, ids))

        arguments["prefix_allowed_tokens_fn"] = apart_allowed
    if arguments.get("streamer") is not None:
        arguments["streamer"] = _Streamer(arguments["streamer"], view)


def restored(output: Any, view: FullView) -> Any:
    """The answer with the full prompts in front, in whichever form `generate` returns it."""
    if isinstance(output, Tensor):
        return view(output)
    output.sequences = view(output.sequences)
    return output
