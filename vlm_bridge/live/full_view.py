"""Show the full prompt to whatever looks at it while `generate` works on the pruned one.

These are logits processors and stopping criteria, both the caller's and those that `generate` makes from its arguments
(``repetition_penalty``, ``no_repeat_ngram_size``, ``sequence_bias``, ``stop_strings``, ...), streamers, and the answer.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList, StoppingCriteriaList
from transformers.generation.stopping_criteria import StopStringCriteria

from vlm_bridge.errors import BridgeError
from vlm_bridge.live.session import Replaced, apart


class FullView:
    """Turn a pruned prompt with its continuation into the full prompt with the same continuation.

    Parameters
    ----------
    full : Tensor (B, L)
        Token ids of the full prompts.
    pruned_length : int
        L', the number of columns of the pruned prompt.
    mask : Tensor (B, L), optional
        1 at tokens of the full prompts, 0 at padding; None where there is no padding.
    """

    def __init__(self, full: Tensor, pruned_length: int, mask: Tensor | None = None) -> None:
        self.full, self.pruned_length, self.mask = full, pruned_length, mask

    def __call__(self, ids: Tensor) -> Tensor:
        """Map ids (B·e, L' + t) to (B·e, L + t), where each prompt has e neighbouring beams or samples."""
        return torch.cat([self.repeated(self.full, ids), ids[:, self.pruned_length :]], dim=1)

    def repeated(self, prompts: Tensor, like: Tensor) -> Tensor:
        """Repeat prompts (B, L) to (B·e, L), as many sequences as `like` has, on its device."""
        if like.shape[0] % prompts.shape[0]:
            raise BridgeError(
                f"{like.shape[0]} sequences for {prompts.shape[0]} prompts: expected equally many for each, to put the full "
                "prompts back."
            )
        return prompts.to(like.device).repeat_interleave(like.shape[0] // prompts.shape[0], dim=0)

    def longer(self, config: Any) -> Any:
        """Copy a prepared generation config, with lengths that count the full prompt."""
        longer = copy.copy(config)
        dropped = self.full.shape[1] - self.pruned_length
        for name in ("max_length", "min_length"):
            if getattr(longer, name, None):
                setattr(longer, name, getattr(longer, name) + dropped)
        return longer


class Internals:
    """Replace the methods by which `generate` makes logits processors and stopping criteria; these see the full prompt.

    A pruned call is recognised by the lists that `show_in_full` has put into its arguments; other calls are left alone.
    """

    def __init__(self, model: Any) -> None:
        replaced = {"_get_logits_processor": self.processors, "_get_stopping_criteria": self.criteria}
        self.originals = {name: getattr(model, name, None) for name in replaced}
        self.replaced = [
            Replaced(model, name, value)
            for name, value in replaced.items()
            if self.originals[name] is not None
        ]

    def remove(self) -> None:
        """Restore the methods."""
        for one in self.replaced:
            one.remove()

    def processors(self, **kwargs: Any) -> Any:
        """Make the logits processors of a call from the full prompt, and show it to them."""
        make, given = self.originals["_get_logits_processor"], kwargs.get("logits_processor")
        assert make is not None
        if not isinstance(given, _Processors):
            return make(**kwargs)
        view, like = given.view, kwargs["encoder_input_ids"]
        full_prompt: dict[str, Any] = {
            "logits_processor": LogitsProcessorList(given.inner),
            "generation_config": view.longer(kwargs["generation_config"]),
            "input_ids_seq_length": view.full.shape[1],
        }
        if like.ndim == 2 and not like.is_floating_point():
            full_prompt["encoder_input_ids"] = view.full.to(like.device)
        arguments = kwargs.get("model_kwargs") or {}
        mask = arguments.get("attention_mask")
        if mask is not None:
            full = torch.ones_like(view.full) if view.mask is None else view.mask
            full_prompt["model_kwargs"] = {**arguments, "attention_mask": view.repeated(full, mask)}
        return LogitsProcessorList([_Processor(one, view) for one in make(**{**kwargs, **full_prompt})])

    def criteria(self, **kwargs: Any) -> Any:
        """Make the stopping criteria of a call; they see the full prompt, while lengths count the pruned one."""
        make, given = self.originals["_get_stopping_criteria"], kwargs.get("stopping_criteria")
        assert make is not None
        if not isinstance(given, _Criteria):
            return make(**kwargs)
        shown = [_Shown(one, given.view) for one in given.inner]
        criteria = make(**{**kwargs, "stopping_criteria": StoppingCriteriaList(shown)})
        return StoppingCriteriaList(
            [_Shown(one, given.view) if isinstance(one, StopStringCriteria) else one for one in criteria]
        )


class _Marked:
    """A list of the caller's on its way to `Internals`, which unpacks it; calling it would show the pruned prompt."""

    def __init__(self, inner: Iterable[Any], view: FullView) -> None:
        super().__init__()
        self.inner, self.view = list(inner), view

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise BridgeError(
            "`generate` of this model, or of this release of transformers, does not make its logits processors in "
            "_get_logits_processor and its stopping criteria in _get_stopping_criteria, so that they would see the "
            "pruned prompt: use prune_inputs, where lengths and ids are those of the pruned prompt."
        )

    def __len__(self) -> int:
        return 1  # `generate` skips empty lists

    def __iter__(self) -> Any:
        return iter([self])


class _Processors(_Marked, LogitsProcessorList):
    """Marked logits processors."""


class _Criteria(_Marked, StoppingCriteriaList):
    """Marked stopping criteria."""


class _Shown:
    """A function that `generate` calls, the caller's or its own, wrapped to see the full prompt where there is a view.

    It runs apart from the call, so that it may call the model itself.
    """

    def __init__(self, inner: Any, view: FullView | None) -> None:
        self._inner, self._view = inner, view

    def __call__(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        ids = input_ids if self._view is None else self._view(input_ids)
        with apart():
            return self._inner(ids, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _Processor(_Shown):
    """A wrapped logits processor."""

    def __init__(self, inner: Any, view: FullView | None) -> None:
        if len(inspect.signature(inner.__call__).parameters) > 2:
            name = type(inner).__name__
            raise BridgeError(
                f"logits processor {name} takes more than (input_ids, scores): expected these two arguments."
            )
        super().__init__(inner, view)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return super().__call__(input_ids, scores)


class _Streamer(_Shown):
    """A wrapped streamer, whose first chunk is the full prompt."""

    def __init__(self, inner: Any, view: FullView | None) -> None:
        super().__init__(inner, view)
        self._first = view is not None

    def put(self, value: Tensor) -> None:
        """Pass tokens on; in place of the first chunk, the prompt, the full one."""
        if self._first and self._view is not None:
            value = self._view.full.cpu()
        self._first = False
        with apart():
            self._inner.put(value)

    def end(self) -> None:
        """Pass the end on."""
        with apart():
            self._inner.end()


def show_in_full(arguments: dict[str, Any], view: FullView | None) -> None:
    """Wrap, among the arguments of `generate`, whatever looks at the prompt.

    With a view, `Internals` must be on the model to unpack the marked lists. Without one the prompt is in full already, or
    consists of embeddings.
    """
    if arguments.get("streamer") is not None:
        arguments["streamer"] = _Streamer(arguments["streamer"], view)
    if view is not None:
        arguments["logits_processor"] = _Processors(arguments.get("logits_processor") or (), view)
        arguments["stopping_criteria"] = _Criteria(arguments.get("stopping_criteria") or (), view)
        return
    for name, wrap in (("logits_processor", _Processor), ("stopping_criteria", _Shown)):
        given = arguments.get(name)
        if given:
            arguments[name] = type(given)([wrap(one, None) for one in given])
    allowed = arguments.get("prefix_allowed_tokens_fn")
    if allowed is not None:

        def apart_allowed(prompt: int, ids: Tensor) -> Any:
            with apart():
                return allowed(prompt, ids)

        arguments["prefix_allowed_tokens_fn"] = apart_allowed


def restored(output: Any, view: FullView) -> Any:
    """Put the full prompts in front of an answer, in whichever form `generate` returns it."""
    if isinstance(output, Tensor):
        return view(output)
    output.sequences = view(output.sequences)
    return output
