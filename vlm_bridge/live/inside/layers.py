"""Prune inside the LLM, by hooks on the decoder layers of a live model.

The prompt stays whole. From a stage's layer on the decoder works on fewer of its columns, in decoding too, so that the KV
cache is shorter in those layers. Behind the last layer the hidden states are put back, so that logits have the prompt's
full length: at a dropped token's place the final norm and head are applied to the state in which it was dropped, and a
merged token stands at the place of its cluster's centre.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from vlm_bridge.errors import BridgeError
from vlm_bridge.live.calls import check_generate
from vlm_bridge.live.filled import check_cropped, remember, remembered
from vlm_bridge.live.full_view import show_in_full
from vlm_bridge.live.inside.image import Image
from vlm_bridge.live.inside.passage import Passage
from vlm_bridge.live.inside.terms import InsideSettings, check_cache, check_decoding, check_model, kernel_form
from vlm_bridge.live.session import Call, Session, check_checkpointing, named
from vlm_bridge.model.encoding import Encoded, encode
from vlm_bridge.model.families import IMAGE, PIXELS, base_of, placeholder_id
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
        Kept on a `forward`; on a `generate` without a cache, whose steps begin it anew each time, on that too.
    prompts : int
        Number of prompts that a `generate` was given, of which the model may see copies; 0 on a `forward`.
    """

    passage: Passage | None = None
    prompts: int = 0


class LayerSession(Session[LayerCall]):
    """Cut the images of every call of a model between its decoder layers, and keep one `Report` of them."""

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
        """Replace `forward` and `generate`, and add a hook to every decoder layer."""
        super().attach(hooked)
        for index, layer in enumerate(self.decoder.layers):
            hook = partial(self.before_layer, index)
            self.handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
        self.handles.append(self.decoder.layers[-1].register_forward_hook(self.after_last))

    def pruned_generate(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model's `generate` on the full prompt, whose images are cut on the way."""
        assert self.generate is not None
        arguments = named(self.generate, args, kwargs)
        with self.calling() as call:
            if not has_images(arguments):
                return self.generate(*args, **kwargs)
            check_generate(self.model, arguments)
            if arguments.get("inputs_embeds") is not None:
                Prompt.of(self.model, arguments)  # refuses ids that belong to another prompt
            check_decoding(self.model, arguments)
            prompt = next(
                arguments[name]
                for name in ("input_ids", "inputs", "inputs_embeds")
                if arguments.get(name) is not None
            )
            show_in_full(arguments, None)
            call.prompts, call.steps = prompt.shape[0], True
            return self.generate(**arguments)

    def begun(self, call: LayerCall, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Start on a prompt with images, go on with one whose cache comes back, or leave the call alone."""
        arguments = named(self.model.forward, args, kwargs)
        cache = arguments.get("past_key_values")
        past = 0 if cache is None else cache.get_seq_length()
        passage = remembered(cache, self)
        if passage is not None and (call.whole is not None or not has_images(arguments)):
            check_cropped(past, passage.prompt.mask.shape[1])
            call.passage = passage
            passage.decoding = True
            return (), self._completed(arguments, passage, past)
        if not has_images(arguments) or (call.whole is None and self.stands_aside()):
            return None
        if past:
            raise BridgeError(
                "a call with images on a filled cache: expected an empty cache or none, since pruning reads whole prompts. "
                "Pass the whole prompt again."
            )
        check_cache(cache)
        check_checkpointing(self.decoder.layers, "pruning inside the LLM")
        arguments, answer = self._encoded(arguments)
        without = {name: value for name, value in arguments.items() if name != "position_ids"}
        prompt = Prompt.of(self.model, without)
        passage = None if call.whole is None else call.whole.passage
        call.passage = passage = passage or self._opened(answer, prompt, call.whole)
        passage.begin(prompt)
        return (), self._completed(arguments, passage)

    def ended(self, call: LayerCall, output: Any) -> None:
        """Enter what was done in the report, and note on the cache in the output what is in it."""
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
            remember(cache, self, passage)
        elif call.whole is not None:
            call.whole.passage = passage

    def before_layer(
        self, index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Pass on to a layer what is left of the prompt."""
        call = self.current()
        if call is None or call.passage is None or kwargs is None:
            return None
        check_cache(kwargs.get("past_key_values"))
        rest = dict(kwargs)
        hidden = args[0] if args else rest.pop("hidden_states")
        hidden, rest = call.passage.before(index, module, hidden, rest)
        return (hidden, *args[1:]), rest

    def after_last(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Restore the full length of the last layer's output."""
        call = self.current()
        if call is None or call.passage is None:
            return None
        if isinstance(output, tuple):
            return (call.passage.after_last(output[0]), *output[1:])
        return call.passage.after_last(output)

    def _completed(self, arguments: dict[str, Any], passage: Passage, past: int = 0) -> dict[str, Any]:
        """Complete the arguments of a call: the padding of a prompt in the cache, and positions, which skip padding."""
        completed = dict(arguments)
        tokens = arguments.get("input_ids")
        tokens = arguments["inputs_embeds"] if tokens is None else tokens
        real, count = passage.prompt.mask, tokens.shape[1]
        if past and arguments.get("attention_mask") is None and not bool(real.all()):
            tail = real.new_ones(len(real), past - real.shape[1] + count)
            completed["attention_mask"] = torch.cat([real, tail], dim=1).long()
        if past == 0:
            passage.places = positions_of(self.model, arguments, passage.prompt)
        if arguments.get("position_ids") is None:
            completed["position_ids"] = passage.places_at(past, count)
        return completed

    def _stage_layers(self) -> tuple[int, ...]:
        """Return the layers of the stages, which do not depend on the image, and check the options on the way."""
        trial = self.settings.keep if self.settings.options.get("budget") == "preset" else 1.0
        return tuple(stage.layer for stage in self.settings.stages(self.depth, 576, trial))

    def _check_positions(self) -> None:
        """Refuse compact positions where the decoder cannot compute rotary positions for them."""
        if self.settings.positions == "keep":
            return
        if callable(getattr(base_of(self.model), "get_rope_index", None)):
            raise BridgeError(
                "positions='compact' would destroy the image grid of multi-dimensional positions: use 'keep'."
            )
        if not callable(getattr(self.decoder, "rotary_emb", None)):
            raise BridgeError(f"{type(self.decoder).__name__} has no rotary_emb; use positions='keep'.")

    def _encoded(self, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], Encoded]:
        """Replace the pixels of a call by the encoder's output."""
        answer = encode(self.model, arguments)
        rest = {name: value for name, value in arguments.items() if name not in PIXELS}
        outputs = {**(rest.get("mm_encoder_outputs") or {}), IMAGE.name: answer.output}
        return {**rest, "mm_encoder_outputs": outputs}, answer

    def _opened(self, answer: Encoded, prompt: Prompt, whole: LayerCall | None) -> Passage:
        """Find the images of a prompt, and schedule where each is cut."""
        self._check_deepstack(len(answer.planes))
        if not answer.listed:
            raise BridgeError(
                f"{type(self.model).__name__}.get_image_features gives no list of visual rows for each image. Use a pruner "
                "that acts before the LLM, such as 'spare'."
            )
        features = [rows.detach() for rows in answer.entries]
        places = prompt.places([len(rows) for rows in features], placeholder_id(self.model))
        batch = prompt.mask.shape[0]
        copies = 1 if whole is None else batch // whole.prompts
        first = [i for i, (item, _) in enumerate(places) if item % copies == 0]
        budgets = dict(zip(first, self.settings.budgets(len(first)), strict=True))
        images: list[Image] = []
        for i, (rows, (item, columns)) in enumerate(zip(features, places, strict=True)):
            check_finite(rows, f"image {i} (batch item {item}): ")
            if i in budgets:
                images.append(Image(item, columns, rows, self._scheduled(i, len(rows), budgets[i])))
            else:
                images.append(Image(item, columns))
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
        """Schedule the cuts of an image of n tokens; errors name the image."""
        try:
            return self.settings.stages(self.depth, n, keep)
        except BridgeError as error:
            raise BridgeError(f"image {image}: {error}") from error

    def _check_deepstack(self, depth: int) -> None:
        """Refuse to cut before the last of the `depth` layers behind which the model adds visual rows."""
        if depth > self.cut_layers[0]:
            raise BridgeError(
                f"{type(self.model).__name__} adds visual rows behind layers 0 to {depth - 1}: prune from layer "
                f"{depth} on."
            )

    def _enter(self, passage: Passage) -> None:
        """Enter a call in the report, last of all, so that a call that fails leaves no half entry."""
        passage.reported = True
        images = [image for image in passage.images if image.item % passage.copies == 0]
        cuts = [tuple(image.cuts) for image in images]
        kept = [of_image[-1].kept for of_image in cuts]
        sizes = [len(image.columns) for image in images]
        items = [image.item // passage.copies for image in images]
        layers = [
            tuple(tokens_per_layer(self.depth, self.cut_layers, n, [len(cut.kept) for cut in of_image]))
            for n, of_image in zip(sizes, cuts, strict=True)
        ]
        errors = []
        for image, indices in zip(images, kept, strict=True):
            assert image.features is not None
            errors.append(reconstruction_error(image.features, indices))
            image.features = None
        lengths = passage.prompt.mask[:: passage.copies].sum(1).tolist()
        self.report.enter(
            cost_of_layers(self.model, lengths, items, layers, sum(sizes)),
            errors=errors,
            kept=kept,
            sizes=sizes,
            seconds=[image.seconds for image in images],
            reused=[False] * len(images),
            merges=[image.merge() for image in images],
            rows=items,
            cuts=cuts,
            layers=layers,
        )


def inside_session(model: Any, settings: InsideSettings, **others: Any) -> LayerSession:
    """Return the session of a pruner that acts inside the LLM, and refuse `others`, which it cannot follow."""
    for name, value in others.items():
        if value is not None and value is not False:
            raise BridgeError(
                f"{name} = {value!r}: pruner {settings.method!r} acts inside the LLM by a rule of its own and takes no "
                f"{name}; leave it out."
            )
    return LayerSession(model, settings)
