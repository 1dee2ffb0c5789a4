"""What looks at the prompt while `generate` works on a shorter one is shown the full prompt.

Logits processors and stopping criteria, the caller's and those that `generate` makes itself from its arguments
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
    """Turns a pruned prompt with its continuation into the full prompt with the same continuation.

    Parameters
    ----------
    full : Tensor (B, L)
        Token ids of the full prompts.
    pruned_length : int
        L', columns of the pruned prompt.
    mask : Tensor (B, L), optional
        Real tokens of the full prompts; None where all are real.
    """

    def __init__(self, full: Tensor, pruned_length: int, mask: Tensor | None = None) -> None:
        self.full, self.pruned_length, self.mask = full, pruned_length, mask

    def __call__(self, ids: Tensor) -> Tensor:
        """(B·e, L' + t) → (B·e, L + t); a prompt's e beams or samples are neighbours."""
        return torch.cat([self.repeated(self.full, ids), ids[:, self.pruned_length :]], dim=1)

    def repeated(self, prompts: Tensor, like: Tensor) -> Tensor:
        """(B, L) → (B·e, L), as many rows as `like` has, and on its device."""
        if like.shape[0] % prompts.shape[0]:
            raise BridgeError(
                f"{like.shape[0]} sequences for {prompts.shape[0]} prompts: cannot put the prompts back."
            )
        return prompts.to(like.device).repeat_interleave(like.shape[0] // prompts.shape[0], dim=0)

    def longer(self, config: Any) -> Any:
        """A copy of the prepared generation config with lengths that count the full prompt."""
        found = copy.copy(config)
        dropped = self.full.shape[1] - self.pruned_length
        for name in ("max_length", "min_length"):
            if getattr(found, name, None):
                setattr(found, name, getattr(found, name) + dropped)
        return found


class Internals:
    """Replaces what makes the processors and stopping criteria of a call, so that all see the full prompt.

    A call is known by the lists that `shown_in_full` has put into its arguments; other calls are left alone.
    """

    def __init__(self, model: Any) -> None:
        replaced = {"_get_logits_processor": self.processors, "_get_stopping_criteria": self.criteria}
        self.own = {name: getattr(model, name, None) for name in replaced}
        self.replaced = [
            Replaced(model, name, value) for name, value in replaced.items() if self.own[name] is not None
        ]

    def remove(self) -> None:
        """Take them back."""
        for one in self.replaced:
            one.remove()

    def processors(self, **kwargs: Any) -> Any:
        """What `generate` makes of its arguments, told and shown the full prompt."""
        make, given = self.own["_get_logits_processor"], kwargs.get("logits_processor")
        assert make is not None
        if not isinstance(given, _Processors):
            return make(**kwargs)
        view, like = given.view, kwargs["encoder_input_ids"]
        told: dict[str, Any] = {
            "logits_processor": LogitsProcessorList(given.inner),
            "generation_config": view.longer(kwargs["generation_config"]),
            "input_ids_seq_length": view.full.shape[1],
        }
        if like.ndim == 2 and not like.is_floating_point():
            told["encoder_input_ids"] = view.full.to(like.device)
        arguments = kwargs.get("model_kwargs") or {}
        mask = arguments.get("attention_mask")
        if mask is not None:
            full = torch.ones_like(view.full) if view.mask is None else view.mask
            told["model_kwargs"] = {**arguments, "attention_mask": view.repeated(full, mask)}
        return LogitsProcessorList([_Processor(one, view) for one in make(**{**kwargs, **told})])

    def criteria(self, **kwargs: Any) -> Any:
        """The same for stopping criteria; lengths stay those of the pruned prompt."""
        make, given = self.own["_get_stopping_criteria"], kwargs.get("stopping_criteria")
        assert make is not None
        if not isinstance(given, _Criteria):
            return make(**kwargs)
        shown = [_Shown(one, given.view) for one in given.inner]
        found = make(**{**kwargs, "stopping_criteria": StoppingCriteriaList(shown)})
        return StoppingCriteriaList(
            [_Shown(one, given.view) if isinstance(one, StopStringCriteria) else one for one in found]
        )


class _Marked:
    """The caller's list on its way to `Internals`, which takes it apart; used as a list it would see too little."""

    def __init__(self, inner: Iterable[Any], view: FullView) -> None:
        super().__init__()
        self.inner, self.view = list(inner), view

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise BridgeError(
            "generate of this release of transformers, or of this model, does not make its logits processors in "
            "_get_logits_processor and its stopping criteria in _get_stopping_criteria, so that they would see the "
            "pruned prompt; use prune_inputs, and read its lengths and ids as those of the pruned prompt."
        )

    def __len__(self) -> int:
        return 1  # an empty list may be left out unseen

    def __iter__(self) -> Any:
        return iter([self])


class _Processors(_Marked, LogitsProcessorList):
    pass


class _Criteria(_Marked, StoppingCriteriaList):
    pass


class _Shown:
    """A function of the caller's, or of `generate`'s own: shown the full prompt where there is a view.

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


class _Streamer(_Shown):
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


def shown_in_full(arguments: dict[str, Any], view: FullView | None) -> None:
    """Wrap what the caller passed and what looks at the prompt.

    With a view `Internals` must be on the model, which takes the marked lists; without one the prompt is in full
    already, or of embeddings.
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
    """The answer with the full prompts in front, in whichever form `generate` returns it."""
    if isinstance(output, Tensor):
        return view(output)
    output.sequences = view(output.sequences)
    return output
