"""Pruning inside the LLM: hooks on the decoder layers of a live model.

The prompt stays whole. From a stage's layer on the decoder works on fewer columns of it, in decoding too, so
that the KV cache is shorter in those layers; behind the last layer hidden states are put back, and logits
have the prompt's full length. What stands at dropped places is the state in which the token left, through the
final norm and head; a merged token stands at the place of its cluster's centre.

Only instance hooks and the instance attribute ``generate`` are set. Nothing is assigned to a class.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vlm_bridge.errors import BridgeError
from vlm_bridge.live.calls import check_generate
from vlm_bridge.live.full_view import shown_in_full
from vlm_bridge.live.inside.passage import Image, Passage
from vlm_bridge.live.inside.terms import InsideSettings, check_cache, check_decoding, check_model, kernel_form
from vlm_bridge.live.session import Call, Session, check_checkpointing, check_cropped, named
from vlm_bridge.model.families import PIXELS, base_of, placeholder_id
from vlm_bridge.model.layout import positions_of
from vlm_bridge.model.prompt import Prompt, has_images
from vlm_bridge.pruners.inside import Stage, tokens_per_layer
from vlm_bridge.reporting.cost import cost_of_layers
from vlm_bridge.reporting.report import Report
from vlm_bridge.selection.choose import reconstruction_error
from vlm_bridge.selection.given import check_finite


@dataclass(eq=False)
class LayerCall(Call):
    """A call whose prompt may be cut inside the LLM.

    Attributes
    ----------
    passage : Passage, optional
        Of a `forward`; of a whole `generate` where there is no cache, which begins it anew at each step.
    prompts : int
        Of a `generate`: prompts that it was given; the model may see copies of each.
    """

    passage: Passage | None = None
    prompts: int = 0


class LayerSession(Session[LayerCall]):
    """What a model carries while it is pruned inside the LLM, and how it is given back."""

    call_type = LayerCall

    def __init__(self, model: Any, settings: InsideSettings) -> None:
        super().__init__(model)
        self.settings = settings
        self.decoder = check_model(model)
        self.depth = len(self.decoder.layers)
        self.cut_layers = self._stage_layers()
        self._check_positions()
        self.report = Report(settings.method)

    def attach(self, hooked: bool = True) -> None:
        """Put generate and hooks on."""
        super().attach(hooked)
        for index, layer in enumerate(self.decoder.layers):
            hook = partial(self.before_layer, index)
            self.handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
        self.handles.append(self.decoder.layers[-1].register_forward_hook(self.after_last))

    def pruned_generate(self, *args: Any, **kwargs: Any) -> Any:
        """The caller's `generate`, watched."""
        assert self.generate is not None
        arguments = named(self.generate, args, kwargs)
        with self.calling() as call:
            if not has_images(arguments):
                return self.generate(*args, **kwargs)
            check_generate(self.model, arguments)
            if arguments.get("inputs_embeds") is not None:
                Prompt.of(self.model, arguments)  # refuses ids of another prompt beside them
            check_decoding(self.model, arguments)
            prompt = next(
                arguments[name]
                for name in ("input_ids", "inputs", "inputs_embeds")
                if arguments.get(name) is not None
            )
            shown_in_full(arguments, None)
            call.prompts, call.steps = prompt.shape[0], True
            return self.generate(**arguments)

    def begun(self, call: LayerCall, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Open a passage for a prompt with images, go on with one whose cache comes back, or stand aside."""
        arguments = named(self.model.forward, args, kwargs)
        cache = arguments.get("past_key_values")
        past = 0 if cache is None else cache.get_seq_length()
        passage = self.remembered(cache)
        if passage is not None and (call.whole is not None or not has_images(arguments)):
            check_cropped(past, passage.prompt.mask.shape[1])
            call.passage = passage
            passage.decoding = True
            return (), self._completed(arguments, passage, past)
        if not has_images(arguments) or (call.whole is None and self.stands_aside()):
            return None
        if past:
            raise BridgeError("a call with images on a filled cache: pruning reads whole prompts; pass none.")
        check_cache(cache)
        check_checkpointing(self.decoder.layers, "pruning inside the LLM")
        arguments = self._encoded(arguments)
        without = {name: value for name, value in arguments.items() if name != "position_ids"}
        prompt = Prompt.of(self.model, without)
        passage = None if call.whole is None else call.whole.passage
        call.passage = passage = passage or self._opened(arguments, prompt, call.whole)
        passage.begin(prompt)
        return (), self._completed(arguments, passage)

    def ended(self, call: LayerCall, output: Any) -> None:
        """Enter what was done in the report, and remember the cache it went into."""
        passage = call.passage
        if passage is None:
            return
        passage.finish()
        if output is None:
            return
        if not passage.reported:
            self._enter(passage)
        cache = getattr(output, "past_key_values", None)
        if cache is not None:
            self.remember(cache, passage)
        elif call.whole is not None:
            call.whole.passage = passage

    def before_layer(
        self, index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Hand the layer what is left of the prompt."""
        call = self.current()
        if call is None or call.passage is None or kwargs is None:
            return None
        check_cache(kwargs.get("past_key_values"))
        rest = dict(kwargs)
        hidden = args[0] if args else rest.pop("hidden_states")
        hidden, rest = call.passage.before(index, module, hidden, rest)
        return (hidden, *args[1:]), rest

    def after_last(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Put hidden states back to full length."""
        call = self.current()
        if call is None or call.passage is None:
            return None
        if isinstance(output, tuple):
            return (call.passage.after_last(output[0]), *output[1:])
        return call.passage.after_last(output)

    def _completed(self, arguments: dict[str, Any], passage: Passage, past: int = 0) -> dict[str, Any]:
        """The call with what the model cannot know or would take from an earlier call.

        The padding of a prompt that a cache goes on from, and positions, which count no padding.
        """
        found = dict(arguments)
        tokens = arguments.get("input_ids")
        tokens = arguments["inputs_embeds"] if tokens is None else tokens
        real, count = passage.prompt.mask, tokens.shape[1]
        if past and arguments.get("attention_mask") is None and not bool(real.all()):
            tail = real.new_ones(len(real), past - real.shape[1] + count)
            found["attention_mask"] = torch.cat([real, tail], dim=1).long()
        if past == 0:
            passage.places = positions_of(self.model, arguments, passage.prompt)
        if arguments.get("position_ids") is None:
            found["position_ids"] = passage.places_at(past, count)
        return found

    def _stage_layers(self) -> tuple[int, ...]:
        """Layers of the stages; they do not depend on the image. Also checks the options."""
        trial = self.settings.keep if self.settings.options.get("budget") == "preset" else 1.0
        return tuple(stage.layer for stage in self.settings.stages(self.depth, 576, trial))

    def _check_positions(self) -> None:
        if self.settings.positions == "keep":
            return
        if callable(getattr(base_of(self.model), "get_rope_index", None)):
            raise BridgeError(
                "positions='compact' would destroy the image grid of multi-dimensional positions."
            )
        if not callable(getattr(self.decoder, "rotary_emb", None)):
            raise BridgeError(f"{type(self.decoder).__name__} has no rotary_emb; use positions='keep'.")

    def _encoded(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The call with the encoder's answer in place of pixels."""
        if (arguments.get("mm_encoder_outputs") or {}).get("image") is not None:
            return dict(arguments)
        encoder = base_of(self.model).get_image_features
        names = [p for p in inspect.signature(encoder).parameters if p != "kwargs" and p in arguments]
        output = encoder(**{name: arguments[name] for name in names}, return_dict=True)
        rest = {name: value for name, value in arguments.items() if name not in PIXELS}
        return {**rest, "mm_encoder_outputs": {**(rest.get("mm_encoder_outputs") or {}), "image": output}}

    def _opened(self, arguments: Mapping[str, Any], prompt: Prompt, whole: LayerCall | None) -> Passage:
        output = arguments["mm_encoder_outputs"]["image"]
        self._check_deepstack(output)
        pooled = output.pooler_output
        if pooled is None or (isinstance(pooled, Tensor) and pooled.ndim != 3):
            raise BridgeError(
                f"{type(self.model).__name__}.get_image_features gives no list of visual rows per image."
            )
        features = [rows.detach() for rows in pooled]
        places = prompt.places([len(rows) for rows in features], placeholder_id(self.model))
        batch = prompt.mask.shape[0]
        copies = 1 if whole is None else batch // whole.prompts
        first = [i for i, (row, _) in enumerate(places) if row % copies == 0]
        budgets = dict(zip(first, self.settings.budgets(len(first)), strict=True))
        images: list[Image] = []
        for i, (rows, (row, columns)) in enumerate(zip(features, places, strict=True)):
            check_finite(rows, f"image {i} (row {row}): ")
            if i in budgets:
                images.append(Image(row, columns, rows, self._scheduled(i, len(rows), budgets[i])))
            else:
                images.append(Image(row, columns))
        settings = self.settings
        return Passage(
            self.decoder,
            settings.pruner,
            settings.of_plan,
            settings.positions,
            kernel_form(self.model),
            images,
            copies,
        )

    def _scheduled(self, image: int, n: int, keep: Any) -> tuple[Stage, ...]:
        try:
            return self.settings.stages(self.depth, n, keep)
        except BridgeError as error:
            raise BridgeError(f"image {image}: {error}") from error

    def _check_deepstack(self, output: Any) -> None:
        """Rows that the model adds behind its first layers must still find all visual tokens there."""
        depth = len(getattr(output, "deepstack_features", None) or ())
        if depth > self.cut_layers[0]:
            raise BridgeError(
                f"{type(self.model).__name__} adds visual rows behind layers 0 to {depth - 1}: prune from layer "
                f"{depth} on."
            )

    def _enter(self, passage: Passage) -> None:
        """Write the report, last of all, so that a call that fails leaves no half entry."""
        passage.reported = True
        images = [image for image in passage.images if image.row % passage.copies == 0]
        cuts = [tuple(image.cuts) for image in images]
        kept = [own[-1].kept for own in cuts]
        sizes = [len(image.columns) for image in images]
        rows = [image.row // passage.copies for image in images]
        layers = [
            tuple(tokens_per_layer(self.depth, self.cut_layers, n, [len(cut.kept) for cut in own]))
            for n, own in zip(sizes, cuts, strict=True)
        ]
        errors = []
        for image, own in zip(images, kept, strict=True):
            assert image.features is not None
            errors.append(reconstruction_error(image.features, own))
            image.features = None
        lengths = passage.prompt.mask[:: passage.copies].sum(1).tolist()
        self.report.enter(
            cost_of_layers(self.model, lengths, rows, layers, sum(sizes)),
            errors=errors,
            kept=kept,
            sizes=sizes,
            seconds=[image.seconds for image in images],
            reused=[False] * len(images),
            merges=[image.merge() for image in images],
            rows=rows,
            cuts=cuts,
            layers=layers,
        )


def inside_session(
    model: Any, keep: Any, method: str, positions: str, options: Mapping[str, Any], **others: Any
) -> LayerSession:
    """The session for a pruner that acts inside the LLM; of the `others` none can be asked for."""
    for name, value in others.items():
        if value is not None and value is not False:
            raise BridgeError(
                f"{name} = {value!r}: pruner {method!r} acts inside the LLM, by a rule of its own; leave it out."
            )
    return LayerSession(model, InsideSettings(keep, method, positions, options))
