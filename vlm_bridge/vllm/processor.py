"""In front of vLLM's processors: fewer placeholders, and settings and question in the hash of an image."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from vllm.multimodal.hasher import MultiModalHasher
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.processing import PromptReplacement, PromptUpdateDetails, cached_encode

from vlm_bridge.errors import BridgeError
from vlm_bridge.vllm.choice import Asked, question_of, seed_of
from vlm_bridge.vllm.metrics import DROPPED, KEPT
from vlm_bridge.vllm.positions import Grid
from vlm_bridge.vllm.settings import NAME, Serving, parse

FIELDS = {"image": f"{NAME}_asked", "video": f"{NAME}_asked_of_videos"}
"""Name of the argument of the model that says what is asked of each image, or video."""


class ImagesOnly:
    """Processing information of a model that takes images alone, of as many as it wants."""

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """Refuse videos, which are not pruned yet."""
        return {"image": None, **{name: 0 for name in super().get_supported_mm_limits() if name != "image"}}  # type: ignore[misc]


@dataclass
class Fewer(PromptUpdateDetails):
    """What stands in a prompt for an image of which not all tokens stay.

    Attributes
    ----------
    total : int
        Number of its tokens without pruning.
    """

    total: int = 0

    @property
    def kept(self) -> int:
        """Number of its tokens that stay."""
        return len(self.full) if self.is_embed is None else int(self.is_embed(self.full).sum())


class PrunedProcessor:
    """Mixed in before a processor of vLLM; a family adds `_grids`, and `_around` where it writes text around images."""

    info: Any

    def _grids(self, kind: str, items: Any, outputs: Any) -> list[Grid]:
        """Return the grid of each image, or video, from vLLM's `items` and the `outputs` of the model's processor."""
        raise NotImplementedError

    def _around(self) -> tuple[str, str] | None:
        """Return the token that stands for an image in a prompt, and the text that comes to stand around the image."""
        return None

    def get_dummy_inputs(self, *args: Any, **kwargs: Any) -> Any:
        """Add a word to the prompt of the profiling run, since a pruner may read the question."""
        inputs = super().get_dummy_inputs(*args, **kwargs)  # type: ignore[misc]
        vocabulary, special = self.info.get_tokenizer().get_vocab().values(), self._special()
        word = max(token for token in vocabulary if token not in special)
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
                question = question_of(self._with_text_around_images(inputs.prompt), self._special())
                if not question:
                    raise BridgeError(
                        f"pruner {serving.method!r} reads the question, and the prompt holds no text besides special "
                        "tokens: add a question, or use a pruner that reads the image alone, such as 'spare'."
                    )
                given[NAME]["question"] = question
        return super().apply(replace(inputs, hf_processor_mm_kwargs=given), timing_ctx)  # type: ignore[misc]

    def _with_text_around_images(self, prompt: Sequence[int]) -> list[int]:
        """Write the text around images into a prompt, as transformers has it there when `prune` reads the question."""
        around = self._around()
        if around is None:
            return list(prompt)
        tokenizer = self.info.get_tokenizer()
        token, ids = (
            tokenizer.get_vocab()[around[0]],
            cached_encode(tokenizer, around[1], add_special_tokens=False),
        )
        images = range(list(prompt).count(token))
        update = PromptReplacement(modality="image", target=[token], replacement=ids)
        return self._apply_token_matches(list(prompt), {"image": [[update.resolve(i)] for i in images]})[0]  # type: ignore[attr-defined]

    def _special(self) -> set[int]:
        """Return the ids of special tokens and placeholders."""
        config, tokenizer = self.info.get_hf_config(), self.info.get_tokenizer()
        found = set(tokenizer.all_special_ids)
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        visual = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")
        for one, wanted in ((config, names + visual), (config.get_text_config(), names)):
            for name in wanted:
                value = getattr(one, name, None)
                found.update(value if isinstance(value, (list, tuple)) else [value])
        return {token for token in found if isinstance(token, int)}

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, Any]) -> Any:
        others = _without(hf_kwargs)
        found = super()._apply_hf_processor_main(mm_items, others)  # type: ignore[misc]
        serving, question = _asked(hf_kwargs)
        algorithm = self.info.ctx.get_mm_config().mm_hasher_algorithm
        for kind, count in mm_items.get_all_counts().items():
            if kind not in FIELDS or not count:
                continue
            contents = mm_items[kind].get_all_items_for_hash()
            hashes = [MultiModalHasher.hash_kwargs(algorithm, **{kind: one}) for one in contents]
            found[FIELDS[kind]] = asked = []
            for own, grid in zip(hashes, self._grids(kind, mm_items[kind], found), strict=True):
                if serving is None:
                    asked.append(Asked(grid=grid).pack())
                    continue
                # The pixels depend on the other arguments of the processor, too, such as their number.
                image = MultiModalHasher.hash_kwargs(algorithm, **{**others, "own": own}) if question else ""
                asked.append(Asked(serving, question, seed_of(own, serving), grid, image).pack())
        return found

    def _get_mm_fields_config(self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, Any]) -> Any:
        fields = super()._get_mm_fields_config(hf_inputs, _without(hf_processor_mm_kwargs))  # type: ignore[misc]
        own = {name: MultiModalFieldConfig.batched(kind, keep_on_cpu=True) for kind, name in FIELDS.items()}
        return {**fields, **own}

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, Any], out_mm_kwargs: Any
    ) -> Sequence[Any]:
        updates = super()._get_prompt_updates(  # type: ignore[misc]
            mm_items, _without(hf_processor_mm_kwargs), out_mm_kwargs
        )
        serving, _ = _asked(hf_processor_mm_kwargs)
        return [replace(update, replacement=_fewer(update.replacement, serving)) for update in updates]

    def _maybe_apply_prompt_updates(self, mm_items: Any, mm_res: Any) -> Any:
        for kind in FIELDS:
            for update in mm_res.prompt_updates.get(kind, ()):
                visual = update[0].content
                KEPT.inc(visual.kept)
                DROPPED.inc(visual.total - visual.kept)
        return super()._maybe_apply_prompt_updates(mm_items, mm_res)  # type: ignore[misc]


def _without(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is meant for the model's own processor."""
    return {name: value for name, value in kwargs.items() if name != NAME}


def _asked(kwargs: Mapping[str, Any]) -> tuple[Serving | None, tuple[int, ...]]:
    """Return the settings and the question that `apply` has put into the arguments of a processor."""
    found = kwargs.get(NAME)
    if found is None:
        return None, ()
    return parse(json.loads(found["settings"])), tuple(found["question"])


def _fewer(replacement: Any, serving: Serving | None) -> Any:
    """Let what replaces an image in a prompt, given by a function of its number, hold as many placeholders as stay."""

    def of(item: int) -> Fewer:
        content = replacement(item) if callable(replacement) else replacement
        if not isinstance(content, PromptUpdateDetails):
            content = PromptUpdateDetails(content)
        full = content.full
        places = (
            torch.arange(len(full)) if content.is_embed is None else content.is_embed(full).nonzero()[:, 0]
        )
        n = len(places)
        k = n if serving is None else serving.kept(n)
        if k < n and int(places[-1] - places[0]) >= n:
            raise BridgeError(
                "this image is cut into crops with text between them, which is not served: switch that off "
                "(do_pan_and_scan), or let the image keep all its tokens by keep = 1.0."
            )
        dropped = set(places[k:].tolist())
        full = [token for i, token in enumerate(full) if i not in dropped]
        return Fewer(full, content.is_embed, n)

    return of
