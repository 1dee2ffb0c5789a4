"""Prune the prompts of a live model's calls before its LLM sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vlm_bridge.errors import BridgeError
from vlm_bridge.live.calls import check_chunks, check_generate, expected_tokens, inferred_mask, moved_lengths
from vlm_bridge.live.filled import check_cropped, remember, remembered
from vlm_bridge.live.full_view import FullView, Internals, restored, show_in_full
from vlm_bridge.live.rewrite import Rewritten, rewrite
from vlm_bridge.live.session import Call, Session, autograd_state, check_checkpointing, named
from vlm_bridge.live.settings import Settings
from vlm_bridge.model.encoding import stacked
from vlm_bridge.model.layout import Layout, check_window
from vlm_bridge.model.prompt import has_visuals
from vlm_bridge.reporting.report import Report
from vlm_bridge.selection.cache import Memory
from vlm_bridge.selection.fold import KeyBias


@dataclass(eq=False)
class PromptCall(Call):
    """A call whose prompt may have been pruned.

    Attributes
    ----------
    done : Rewritten, optional
        The pruned prompt.
    bias : Tensor (B, L'), optional
        Bias on the keys of folded tokens.
    autograd : tuple
        `autograd_state` when the call began.
    """

    done: Rewritten | None = None
    bias: Tensor | None = None
    autograd: tuple[Any, ...] = ()


class PromptSession(Session[PromptCall]):
    """Prune the prompt of every call of a model, and keep one `Report` of them."""

    call_type = PromptCall

    def __init__(
        self, model: Any, settings: Settings, rng: np.random.Generator, modules: list[nn.Module]
    ) -> None:
        super().__init__(model)
        self.settings, self.rng, self.modules = settings, rng, modules
        self.report = Report(settings.method)
        self.memory = Memory()

    def attach(self, hooked: bool = False) -> None:
        """Replace `forward` and `generate`, and add the hooks of folding and of the full view."""
        super().attach(hooked=bool(self.modules))
        self.handles.append(KeyBias(self.modules, self._bias))
        self.handles.append(Internals(self.model))

    def pruned_generate(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model's `generate` on a pruned prompt."""
        assert self.generate is not None
        arguments = named(self.generate, args, kwargs)
        if arguments.get("inputs") is not None:
            arguments["input_ids"] = arguments.pop("inputs")
        with self.calling() as call:
            filled = remembered(arguments.get("past_key_values"), self)
            if not has_visuals(arguments):
                if filled is not None:
                    raise BridgeError(
                        "generate cannot continue on a pruned cache; pass the whole conversation again."
                    )
                return self.generate(*args, **kwargs)
            check_generate(self.model, arguments, bool(self.modules))
            embedded = arguments.get("inputs_embeds") is not None
            check_chunks(self.model, arguments, "transformers would cut the token ids" if embedded else "")
            with torch.no_grad():
                mask = inferred_mask(self.model, arguments)
                if mask is not None:
                    arguments["attention_mask"] = mask
                call.done = self._rewritten(arguments, expected_tokens(self.model, arguments))
            check_chunks(self.model, arguments, call.done.whole)
            call.steps = True
            return self._generate(call.done, arguments.get("input_ids"), arguments.get("attention_mask"))

    def _generate(self, done: Rewritten, full: Tensor | None, mask: Tensor | None) -> Any:
        assert self.generate is not None
        arguments, view = done.inputs, None
        moved_lengths(self.model, arguments, done.layout.dropped)
        if full is not None:
            view = FullView(full, arguments["input_ids"].shape[1], mask)
        show_in_full(arguments, view)
        output = self.generate(**arguments)
        self._keep(output, done)
        return output if view is None else restored(output, view)

    def begun(self, call: PromptCall, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Prune a plain call, continue a pruned cache, or leave the call alone."""
        call.autograd = autograd_state()
        if call.whole is not None:
            call.bias = call.whole.done.bias
            return args, self._during_generate(kwargs, call.whole.done)
        arguments = named(self.model.forward, args, kwargs)
        cache = arguments.get("past_key_values")
        if has_visuals(arguments):
            if self.stands_aside():
                return None
            if cache is not None and cache.get_seq_length() > 0:
                raise BridgeError(
                    "a call with images on a filled cache: expected an empty cache or none, since pruning rewrites whole "
                    "prompts. Pass the whole prompt again."
                )
            if self.modules:
                check_checkpointing(self.model.modules(), "folding")
            call.done = done = self._rewritten(arguments)
            call.bias = done.bias
            return (), _with_stacks(_either(done.inputs), done.stacked)
        if cache is not None and (known := remembered(cache, self)) is not None:
            layout, call.bias = known
            continued = _continued(arguments, layout, cache.get_seq_length())
            check_window(self.model, layout, continued["attention_mask"].shape[1] - layout.mask.shape[1])
            return (), continued
        return None

    def ended(self, call: PromptCall, output: Any) -> None:
        """Note on the cache in the output that a pruned prompt is in it."""
        if call.done is not None:
            self._keep(output, call.done)

    def _keep(self, output: Any, done: Rewritten) -> None:
        """Note the layout and bias of a pruned prompt on the cache in an output, if there is one."""
        layout, bias = done.layout, done.bias
        by_item = [layout.mask, *layout.positions.reshape(-1, *layout.mask.shape)]
        by_item += [] if bias is None else [bias]
        differ = any(bool((part != part[:1]).any()) for part in by_item)
        remember(getattr(output, "past_key_values", None), self, (layout, bias), fixed_order=differ)

    def _rewritten(self, arguments: dict[str, Any], ahead: int = 0) -> Rewritten:
        done = rewrite(self.model, arguments, self.settings, self.rng, self.report, ahead, self.memory)
        assert done is not None
        return done

    def _during_generate(self, kwargs: dict[str, Any], done: Rewritten) -> dict[str, Any]:
        """Correct positions, mask and the form of visual rows in what `generate` passes to the model.

        Some models prepare their inputs by dropping the positions or counting them anew; here they are the layout's.
        `generate` copies a list of rows prompt by prompt but a tensor as a whole, so that it was given lists.
        """
        outputs = kwargs.get("mm_encoder_outputs")
        if outputs and done.copied:
            copies = _tokens(kwargs).shape[0] // len(done.layout.mask)
            kwargs = {
                **kwargs,
                "mm_encoder_outputs": {**outputs, **{k: of(copies) for k, of in done.copied.items()}},
            }
        return _with_stacks(_with_mask(_with_positions(kwargs, done.layout)), done.stacked)

    def _bias(self) -> Tensor | None:
        """Return the bias on the keys of the call that runs in this thread."""
        call = self.current()
        if call is None or call.bias is None:
            return None
        if call.autograd != autograd_state():
            raise BridgeError(
                "a part of the model runs under no_grad or torch.utils.checkpoint, which would run it again after the call "
                "and without the bias of folded tokens: switch that off, checkpoint the whole call, or use fold=False."
            )
        return call.bias


def _either(inputs: dict[str, Any]) -> dict[str, Any]:
    """Drop the ids where there are embeddings, since a `forward` takes only one of them."""
    embedded = inputs.get("inputs_embeds") is not None
    return {name: value for name, value in inputs.items() if not (embedded and name == "input_ids")}


def _tokens(arguments: dict[str, Any]) -> Tensor:
    """Return the tokens (B, L) of a call, or their embeddings (B, L, d)."""
    tokens = arguments.get("input_ids")
    return arguments["inputs_embeds"] if tokens is None else tokens


def _with_stacks(kwargs: dict[str, Any], kinds: frozenset[str]) -> dict[str, Any]:
    """Stack the visual rows of `kinds`, of which the model takes one tensor."""
    outputs = kwargs.get("mm_encoder_outputs")
    return {**kwargs, "mm_encoder_outputs": stacked(outputs, kinds)} if outputs else kwargs


def _with_positions(kwargs: dict[str, Any], layout: Layout) -> dict[str, Any]:
    """Set the positions of this step to the layout's."""
    tokens = _tokens(kwargs)
    cache = kwargs.get("past_key_values")
    past = 0 if cache is None else int(cache.get_seq_length())
    copies = tokens.shape[0] // len(layout.mask)
    return {**kwargs, "position_ids": layout.positions_at(past, tokens.shape[1], copies).to(tokens.device)}


def _with_mask(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Add a mask of ones where there is neither mask nor cache: transformers would read gaps as packed sequences."""
    if kwargs.get("attention_mask") is not None or kwargs.get("past_key_values") is not None:
        return kwargs
    tokens = _tokens(kwargs)
    return {**kwargs, "attention_mask": torch.ones(tokens.shape[:2], dtype=torch.long, device=tokens.device)}


def _continued(arguments: dict[str, Any], layout: Layout, past: int) -> dict[str, Any]:
    """Complete a decoding step on a pruned cache: the mask of what is in it, and the positions that follow."""
    batch, new = _tokens(arguments).shape[:2]
    if batch != layout.mask.shape[0]:
        raise BridgeError(
            f"{batch} sequences continue a cache of {layout.mask.shape[0]} pruned prompts: expected one for each prompt."
        )
    width = layout.mask.shape[1]
    check_cropped(past, width)
    given = arguments.get("attention_mask")
    if given is None:
        tail = layout.mask.new_ones(batch, past - width + new)
    elif given.shape[1] == layout.length + past - width + new:
        tail = given[:, layout.length :].to(layout.mask)
    else:
        raise BridgeError(
            f"attention_mask has {given.shape[1]} columns: expected {layout.length + past - width + new}, for the "
            f"{layout.length} tokens of the full prompt and {past - width + new} that follow it; or pass none."
        )
    result = {**arguments, "attention_mask": torch.cat([layout.mask, tail], dim=1)}
    if arguments.get("position_ids") is None:
        result["position_ids"] = layout.following(past - width, new)
    return result
