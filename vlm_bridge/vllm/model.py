"""What a model of vLLM needs beside its own code to be pruned; `llava`, `qwen` and the others apply it to the families."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from vllm.lora.layers import VocabParallelEmbeddingWithLoRA
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.platforms import current_platform

from vlm_bridge.vllm.choice import Asked, choose
from vlm_bridge.vllm.features import FeatureCache, some_images
from vlm_bridge.vllm.metrics import REUSED, Selections
from vlm_bridge.vllm.positions import Placed, prompt_positions, settle, with_places
from vlm_bridge.vllm.processor import FIELDS, ImagesOnly, PrunedProcessor
from vlm_bridge.vllm.settings import NAME, engine_positions, feature_cache


def served_by(
    processor: type[PrunedProcessor], info: type, dummy_inputs: type, videos: bool = False
) -> Callable[[type], type]:
    """Decorate a pruned model: its processor, vLLM's information and dummy inputs of the family, and whether it takes videos."""
    own = info if videos else type("Info", (ImagesOnly, info), {})
    return MULTIMODAL_REGISTRY.register_processor(processor, info=own, dummy_inputs=dummy_inputs)


class Pruned:
    """Mixed in before a model of vLLM."""

    supports_multimodal_pruning = True
    supported_video_pruning_methods = ("evs",)
    supports_mrope = True
    supports_encoder_cudagraph = False  # captured encoders bypass embed_multimodal

    entries: Mapping[str, str] = MappingProxyType({})  # for `some_images`
    config: Any

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        self.kept_positions = engine_positions(getattr(self.config, NAME, None))
        self.is_multimodal_pruning_enabled = False  # the family's own pruning of videos
        self.selections = Selections()
        self.features = FeatureCache(feature_cache(getattr(self.config, NAME, None)))
        if self.kept_positions == "keep" and current_platform.is_cpu():
            _settle_on_cpu()

    def embed_multimodal(self, **kwargs: Any) -> list[Tensor]:
        """Encode images, or videos, and return the rows of each that stay, with their places where positions are kept."""
        asked = [Asked.unpack(one) for name in FIELDS.values() for one in kwargs.pop(name, ())]
        width = self.config.get_text_config().hidden_size  # behind it, Qwen3-VL has rows for later layers
        own = super().embed_multimodal  # type: ignore[misc]
        # What comes as features already is not encoded.
        keys = ["" if any("embeds" in name for name in kwargs) else one.image for one in asked]
        before = self.features.reused
        images = self.features.rows(
            keys, lambda some: own(**some_images(kwargs, some, len(asked), self.entries))
        )
        REUSED.inc(self.features.reused - before)
        found = []
        with self.selections.step():
            for image, one in zip(images, asked, strict=True):
                kept = choose(image[:, :width], one, self.embed_question)
                self.selections.add(len(kept), len(image))
                rows = image[kept]
                found.append(with_places(rows, one.grid, kept) if self.kept_positions == "keep" else rows)
        return found

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load weights; what others have encoded is forgotten."""
        self.features.clear()
        return super().load_weights(weights)  # type: ignore[misc]

    def embed_question(self, ids: Tensor) -> Tensor:
        """Return the rows (M, d) of a question's `ids` (M,) in the embedding table of the model itself.

        Adapters may change the table for a request; an image that is encoded once serves requests of all adapters.
        """
        for table in self._adapted_tables:
            table.forward = table.base_layer.forward
        try:
            return self.get_language_model().embed_input_ids(ids)  # type: ignore[attr-defined]
        finally:
            for table in self._adapted_tables:
                del table.forward

    @cached_property
    def _adapted_tables(self) -> list[Any]:
        modules = self.get_language_model().modules()  # type: ignore[attr-defined]
        return [module for module in modules if isinstance(module, VocabParallelEmbeddingWithLoRA)]

    def get_mrope_input_positions(
        self, input_tokens: Sequence[int], mm_features: Sequence[Any]
    ) -> tuple[Tensor, int]:
        """Return positions (3, length), pending where they depend on the choice."""
        images = []
        for one in mm_features:
            (first, last), *others = one.mm_position.extract_embeds_range()
            assert not others, "the processor refuses images with other tokens between theirs"
            asked = Asked.unpack(one.data[FIELDS[one.modality]].data)
            images.append(Placed(first, last + 1 - first, asked.grid))
        return prompt_positions(
            len(input_tokens), sorted(images, key=lambda image: image.offset), self.kept_positions
        )

    def recompute_mrope_positions(
        self,
        input_ids: Any,
        multimodal_embeddings: Sequence[Tensor],
        mrope_positions: Tensor,
        num_computed_tokens: int,
    ) -> tuple[list[Tensor], Tensor, int]:
        """Settle the positions of the tokens whose rows are given."""
        ids = torch.as_tensor(input_ids, device=mrope_positions.device)
        names = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")
        tokens = [token for name in names if (token := getattr(self.config, name, None)) is not None]
        visual = torch.isin(ids, torch.tensor(tokens, device=ids.device))
        return settle(mrope_positions, visual, multimodal_embeddings, num_computed_tokens)


class TowerNames:
    """Mixed in before a model with a tower of CLIP or SigLIP, of whose weights transformers 5 changed the names."""

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load weights; transformers 5 writes towers without ``vision_model.``, which vLLM's modules have."""

        def renamed() -> Iterator[tuple[str, Tensor]]:
            for name, weight in weights:
                if "vision_tower." in name and ".vision_model." not in name:
                    name = name.replace("vision_tower.", "vision_tower.vision_model.", 1)
                yield name, weight

        return super().load_weights(renamed())  # type: ignore[misc]


def _settle_on_cpu() -> None:
    """Let the CPU's runner ask for positions: its `load_model` omits the flag that the GPU's sets there (vLLM 0.32)."""
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    if hasattr(CPUModelRunner, "_vlm_bridge"):
        return
    own = CPUModelRunner.initialize_kv_cache

    def initialize_kv_cache(self: Any, *args: Any, **kwargs: Any) -> Any:
        model = self.get_model()
        self.is_multimodal_pruning_enabled = isinstance(model, Pruned) and model.kept_positions == "keep"
        return own(self, *args, **kwargs)

    CPUModelRunner._vlm_bridge = True
    CPUModelRunner.initialize_kv_cache = initialize_kv_cache
