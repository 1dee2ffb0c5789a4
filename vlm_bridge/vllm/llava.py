"""LLaVA-1.5, LLaVA-NeXT and LLaVA-OneVision, with towers of CLIP or SigLIP."""

from __future__ import annotations

from typing import Any

from vllm.model_executor.models import llava, llava_next, llava_onevision

from vlm_bridge.errors import BridgeError
from vlm_bridge.vllm.model import Pruned, TowerNames, served_by
from vlm_bridge.vllm.positions import Grid
from vlm_bridge.vllm.processor import PrunedProcessor

TOWERS = ("clip_vision_model", "siglip_vision_model")


class _Processor(PrunedProcessor):
    """The grids of all: lines, in which separators are tokens like others, as in `prune`."""

    def _grids(self, kind: str, items: Any, outputs: Any) -> list[Grid]:
        sizes = [items.get_image_size(i) for i in range(len(items))]
        count = self.info.get_num_image_tokens
        return [Grid((count(image_width=size.width, image_height=size.height),)) for size in sizes]


class Processor(_Processor, llava.LlavaMultiModalProcessor):
    """The processor of LLaVA-1.5 with fewer placeholders."""


class ProcessorNext(_Processor, llava_next.LlavaNextMultiModalProcessor):
    """The processor of LLaVA-NeXT with fewer placeholders."""


class ProcessorOnevision(_Processor, llava_onevision.LlavaOnevisionMultiModalProcessor):
    """The processor of LLaVA-OneVision with fewer placeholders."""


@served_by(Processor, llava.LlavaProcessingInfo, llava.LlavaDummyInputsBuilder)
class PrunedLlava(Pruned, TowerNames, llava.LlavaForConditionalGeneration):
    """LLaVA-1.5 whose images keep the rows that a pruner chooses."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        tower = vllm_config.model_config.hf_config.vision_config
        if tower.model_type not in TOWERS:
            raise BridgeError(
                f"PrunedLlava: vision tower of type {tower.model_type!r}; expected one of {', '.join(TOWERS)}."
            )
        super().__init__(vllm_config=vllm_config, prefix=prefix)


@served_by(ProcessorNext, llava_next.LlavaNextProcessingInfo, llava.LlavaDummyInputsBuilder)
class PrunedLlavaNext(Pruned, TowerNames, llava_next.LlavaNextForConditionalGeneration):
    """LLaVA-NeXT whose images, of tiles and separators, keep the rows that a pruner chooses."""


@served_by(
    ProcessorOnevision,
    llava_onevision.LlavaOnevisionProcessingInfo,
    llava_onevision.LlavaOnevisionDummyInputsBuilder,
)
class PrunedLlavaOnevision(Pruned, TowerNames, llava_onevision.LlavaOnevisionForConditionalGeneration):
    """LLaVA-OneVision whose images, of tiles and separators, keep the rows that a pruner chooses."""
