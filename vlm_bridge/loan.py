"""What a model carries while it is pruned, and how it is given back.

*Instance* attributes ``forward`` and ``generate`` and hooks; nothing is assigned to a class.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from vlm_bridge.borrow import Borrowed, check_checkpointing, named
from vlm_bridge.calls import check_chunks, check_generate, expected_tokens, inferred_mask, moved_lengths
from vlm_bridge.errors import BridgeError
from vlm_bridge.fold import KeyBias
from vlm_bridge.full_view import FullView, Internals, restored, shown_in_full
from vlm_bridge.inputs import Layout, check_window, has_visuals, stacked
from vlm_bridge.memory import Memory
from vlm_bridge.report import Report
from vlm_bridge.rewrite import Rewritten, Settings, rewrite


class Loan(Borrowed):
    """What a model carries while it is pruned, and how it is given back."""

    def __init__(self, model: Any, settings: Settings, rng: np.random.Generator) -> None:
        super().__init__(model)
        self.settings, self.rng = settings, rng
        self.report = Report(settings.method)
        self.memory = Memory()
        self.layouts: WeakKeyDictionary[Any, tuple[Layout, Tensor | None]] = WeakKeyDictionary()
        self.bias: KeyBias | None = None
        self.pending: Rewritten | None = None
        self.stacked: frozenset[str] = frozenset()

    def attach(self, modules: list[nn.Module]) -> None:
        """Put generate and hooks on."""
        self.watch(self.before_forward, self.after_forward, hooked=bool(modules))
        if modules:
            self.bias = KeyBias(modules)
            self.handles.append(self.bias)
        self.handles.append(Internals(self.model))
        self.lend(self.pruned_generate)

    def detach(self) -> None:
        """Take everything off, whatever was on."""
        super().detach()
        self.layouts.clear()

    def pruned_generate(self, *args: Any, **kwargs: Any) -> Any:
        """The caller's `generate`, on a pruned prompt."""
        assert self.generate is not None
        arguments = named(self.generate, args, kwargs)
        if arguments.get("inputs") is not None:
            arguments["input_ids"] = arguments.pop("inputs")
        if not has_visuals(arguments):
            cache = arguments.get("past_key_values")
            if cache is not None and cache in self.layouts:
                raise BridgeError(
                    "generate cannot continue on a pruned cache; pass the whole conversation again."
                )
            return self.generate(*args, **kwargs)
        with self.occupied():
            check_generate(self.model, arguments, self.bias is not None)
            check_chunks(self.model, arguments)
            with torch.no_grad():
                mask = inferred_mask(self.model, arguments)
                if mask is not None:
                    arguments["attention_mask"] = mask
                ahead = expected_tokens(self.model, arguments)
                done = rewrite(
                    self.model, arguments, self.settings, self.rng, self.report, ahead, self.memory
                )
            assert done is not None
            return self._generate(done, arguments.get("input_ids"), arguments.get("attention_mask"))

    def _generate(self, done: Rewritten, full: Tensor | None, mask: Tensor | None) -> Any:
        assert self.generate is not None
        arguments, view = done.inputs, None
        moved_lengths(self.model, arguments, done.layout.dropped)
        if full is not None:
            view = FullView(full, arguments["input_ids"].shape[1], mask)
            shown_in_full(arguments, view)
        self.generating, self.stacked = True, done.stacked
        self._set_bias(done.bias)
        try:
            output = self.generate(**arguments)
        finally:
            self.generating = False
            self._set_bias(None)
        self._remember(getattr(output, "past_key_values", None), done)
        return output if view is None else restored(output, view)

    def before_forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Prune a plain call, continue a pruned cache, or leave the call alone."""
        if self.generating:
            return args, self._during_generate(kwargs)
        arguments = named(module.forward, args, kwargs)
        cache = arguments.get("past_key_values")
        if has_visuals(arguments):
            if cache is not None and cache.get_seq_length() > 0:
                raise BridgeError(
                    "a call with images on a filled cache: pruning rewrites whole prompts; pass none."
                )
            if self.bias is not None:
                check_checkpointing(self.model.modules(), "folding")
            self.pending = rewrite(
                self.model, arguments, self.settings, self.rng, self.report, memory=self.memory
            )
            assert self.pending is not None
            self._set_bias(self.pending.bias)
            return (), _with_stacks(self.pending.inputs, self.pending.stacked)
        if cache is not None and cache in self.layouts:
            layout, bias = self.layouts[cache]
            continued = _continued(arguments, layout, cache.get_seq_length())
            check_window(self.model, layout, continued["attention_mask"].shape[1] - layout.mask.shape[1])
            self._set_bias(bias)
            return (), continued
        return None

    def _during_generate(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """What `generate` hands to the model, with the mask and the form of visual rows that it wants.

        `generate` copies lists of rows prompt by prompt, but one tensor as a whole: it was given lists.
        """
        return _with_stacks(_with_mask(kwargs), self.stacked)

    def after_forward(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Remember the cache a pruned prompt went into."""
        if self.generating:
            return
        self._set_bias(None)
        done, self.pending = self.pending, None
        if done is not None:
            self._remember(getattr(output, "past_key_values", None), done)

    def _remember(self, cache: Any, done: Rewritten) -> None:
        if cache is not None:
            self.layouts[cache] = (done.layout, done.bias)

    def _set_bias(self, bias: Tensor | None) -> None:
        if self.bias is not None:
            self.bias.value = bias


def _with_stacks(kwargs: dict[str, Any], kinds: frozenset[str]) -> dict[str, Any]:
    outputs = kwargs.get("mm_encoder_outputs")
    return {**kwargs, "mm_encoder_outputs": stacked(outputs, kinds)} if outputs else kwargs


def _with_mask(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Without cache and mask, gaps in the positions are read as packed sequences: put the mask back."""
    if kwargs.get("attention_mask") is not None or kwargs.get("past_key_values") is not None:
        return kwargs
    tokens = kwargs.get("input_ids")
    tokens = kwargs["inputs_embeds"] if tokens is None else tokens
    return {**kwargs, "attention_mask": torch.ones(tokens.shape[:2], dtype=torch.long, device=tokens.device)}


def _continued(arguments: dict[str, Any], layout: Layout, past: int) -> dict[str, Any]:
    """A decoding step on a pruned cache: the mask of what is in it, and the positions that follow."""
    tokens = arguments.get("input_ids")
    tokens = arguments["inputs_embeds"] if tokens is None else tokens
    batch, new = tokens.shape[:2]
    if batch != layout.mask.shape[0]:
        raise BridgeError(f"{batch} sequences continue a cache of {layout.mask.shape[0]} pruned prompts.")
    width = layout.mask.shape[1]
    given = arguments.get("attention_mask")
    if given is None:
        tail = layout.mask.new_ones(batch, past - width + new)
    elif given.shape[1] == layout.length + past - width + new:
        tail = given[:, layout.length :].to(layout.mask)
    else:
        raise BridgeError(
            f"attention_mask has {given.shape[1]} columns; the full prompt has {layout.length}, and "
            f"{past - width + new} tokens follow it."
        )
    result = {**arguments, "attention_mask": torch.cat([layout.mask, tail], dim=1)}
    if arguments.get("position_ids") is None:
        result["position_ids"] = layout.following(past - width, new)
    return result
