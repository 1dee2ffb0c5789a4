"""In front of vLLM's processors: fewer placeholders, and settings and question in the hash of an image."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from vllm.multimodal.hasher import MultiModalHasher
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.processing import PromptUpdateDetails

from vlm_bridge.errors import BridgeError
from vlm_bridge.vllm.choice import Asked, question_of, seed_of
from vlm_bridge.vllm.settings import NAME, Serving, parse

FIELD = f"{NAME}_asked"


class ImagesOnly:
    """Processing information of a model that takes images alone, of as many as it wants."""

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """Refuse videos, which are not pruned yet."""
        return {"image": None}


class PrunedProcessor:
    """Mixed in before a processor of vLLM."""

    info: Any

    def get_dummy_inputs(self, *args: Any, **kwargs: Any) -> Any:
        """Add a word to the prompt of the profiling run, since a pruner may read the question."""
        inputs = super().get_dummy_inputs(*args, **kwargs)  # type: ignore[misc]
        word = next(token for token in range(len(inputs.prompt) + 10**6) if token not in self._special())
        return replace(inputs, prompt=[*inputs.prompt, word])

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        """Check the request's settings, and put them where they enter the hash of each image.

        Raises
        ------
        BridgeError
            A wrong setting, or a pruner that reads the question of a prompt that has none.
        """
        given = dict(inputs.hf_processor_mm_kwargs)
        engine = getattr(self.info.get_hf_config(), NAME, None) or {}
        serving = parse(given.pop(NAME, None), engine)
        if serving is not None:
            given[NAME] = {"settings": serving.text(), "question": ()}
            if serving.reads_question:
                question = question_of(inputs.prompt, self._special())
                if not question:
                    raise BridgeError(
                        f"pruner {serving.method!r} reads the question, and the prompt holds no text besides special "
                        "tokens: add a question, or use a pruner that reads the image alone, such as 'spare'."
                    )
                given[NAME]["question"] = question
        return super().apply(replace(inputs, hf_processor_mm_kwargs=given), timing_ctx)  # type: ignore[misc]

    def _special(self) -> set[int]:
        """Return the ids of special tokens and placeholders."""
        config, tokenizer = self.info.get_hf_config(), self.info.get_tokenizer()
        found = set(tokenizer.all_special_ids)
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        visual = ("image_token_id", "image_token_index", "video_token_id")
        for one, wanted in ((config, names + visual), (config.get_text_config(), names)):
            for name in wanted:
                value = getattr(one, name, None)
                found.update(value if isinstance(value, (list, tuple)) else [value])
        return {token for token in found if isinstance(token, int)}

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, Any]) -> Any:
        found = super()._apply_hf_processor_main(mm_items, _without(hf_kwargs))  # type: ignore[misc]
        serving, question = _asked(hf_kwargs)
        images = mm_items.get("image") if mm_items.get_all_counts().get("image") else None
        if images is not None:
            algorithm = self.info.ctx.get_mm_config().mm_hasher_algorithm
            found[FIELD] = [
                Asked(
                    serving,
                    question,
                    0
                    if serving is None
                    else seed_of(MultiModalHasher.hash_kwargs(algorithm, image=image), serving),
                ).pack()
                for image in images.get_all_items_for_hash()
            ]
        return found

    def _get_mm_fields_config(self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, Any]) -> Any:
        fields = super()._get_mm_fields_config(hf_inputs, _without(hf_processor_mm_kwargs))  # type: ignore[misc]
        return {**fields, FIELD: MultiModalFieldConfig.batched("image", keep_on_cpu=True)}

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, Any], out_mm_kwargs: Any
    ) -> Sequence[Any]:
        updates = super()._get_prompt_updates(  # type: ignore[misc]
            mm_items, _without(hf_processor_mm_kwargs), out_mm_kwargs
        )
        serving, _ = _asked(hf_processor_mm_kwargs)
        if serving is None:
            return updates
        return [
            replace(update, replacement=_fewer(update.replacement, serving))
            if update.modality == "image"
            else update
            for update in updates
        ]


def _without(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is meant for the model's own processor."""
    return {name: value for name, value in kwargs.items() if name != NAME}


def _asked(kwargs: Mapping[str, Any]) -> tuple[Serving | None, tuple[int, ...]]:
    """Return the settings and the question that `apply` has put into the arguments of a processor."""
    found = kwargs.get(NAME)
    if found is None:
        return None, ()
    return parse(json.loads(found["settings"])), tuple(found["question"])


def _fewer(replacement: Any, serving: Serving) -> Any:
    """Let a replacement of the prompt, given by a function of the image's number, hold as many placeholders as stay."""

    def of(item: int) -> Any:
        content = replacement(item)
        if isinstance(content, PromptUpdateDetails):
            raise BridgeError("this model has tokens between those of an image, which is not served yet.")
        return content[: serving.kept(len(content))]

    return of
