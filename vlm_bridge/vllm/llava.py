"""LLaVA-1.5 with a tower of CLIP or SigLIP."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor
from vllm.model_executor.models.llava import (
    LlavaDummyInputsBuilder,
    LlavaForConditionalGeneration,
    LlavaMultiModalProcessor,
    LlavaProcessingInfo,
)
from vllm.model_executor.models.vision import get_num_selected_vision_tokens, get_vision_encoder_info
from vllm.multimodal import MULTIMODAL_REGISTRY

from vlm_bridge.errors import BridgeError
from vlm_bridge.vllm.model import Pruned
from vlm_bridge.vllm.positions import Grid
from vlm_bridge.vllm.processor import ImagesOnly, PrunedProcessor

TOWERS = ("clip_vision_model", "siglip_vision_model")


class Info(ImagesOnly, LlavaProcessingInfo):
    """Processing information of a model that takes images alone."""


class Processor(PrunedProcessor, LlavaMultiModalProcessor):
    """The processor with fewer placeholders."""


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=LlavaDummyInputsBuilder)
class PrunedLlava(Pruned, LlavaForConditionalGeneration):
    """LLaVA whose images keep the rows that a pruner chooses."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        tower = vllm_config.model_config.hf_config.vision_config
        if tower.model_type not in TOWERS:
            raise BridgeError(
                f"PrunedLlava: vision tower of type {tower.model_type!r}; expected one of {', '.join(TOWERS)}."
            )
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        patches = get_vision_encoder_info(self.config).get_num_image_tokens(
            image_width=tower.image_size, image_height=tower.image_size
        )
        strategy = self.config.vision_feature_select_strategy
        self.grid = Grid((get_num_selected_vision_tokens(patches, strategy),))

    def grid_of(self, feature: Any) -> Grid:
        """Return a line, since every image has the same number of tokens."""
        return self.grid

    def grids(self, kwargs: Any) -> list[Grid]:
        """Return a line for each image."""
        images = kwargs["pixel_values"] if "pixel_values" in kwargs else kwargs["image_embeds"]
        return [self.grid] * len(images)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load weights; transformers 5 writes towers without ``vision_model.``, which vLLM's modules have."""

        def renamed() -> Iterator[tuple[str, Tensor]]:
            for name, weight in weights:
                if "vision_tower." in name and ".vision_model." not in name:
                    name = name.replace("vision_tower.", "vision_tower.vision_model.", 1)
                yield name, weight

        return super().load_weights(renamed())
