"""Qwen2-VL and Qwen2.5-VL, whose images have grids of any shape and positions on three axes."""

from __future__ import annotations

from typing import Any

from vllm.model_executor.models import qwen2_5_vl, qwen2_vl
from vllm.multimodal import MULTIMODAL_REGISTRY

from vlm_bridge.vllm.model import Pruned
from vlm_bridge.vllm.positions import Grid
from vlm_bridge.vllm.processor import ImagesOnly, PrunedProcessor


class _Qwen(Pruned):
    """The grids of both."""

    def grid_of(self, feature: Any) -> Grid:
        """Return the grid of an image in a prompt, in tokens."""
        return self._merged(feature.data["image_grid_thw"].data)

    def grids(self, kwargs: Any) -> list[Grid]:
        """Return the grids of the images of a call."""
        return [self._merged(one) for one in kwargs["image_grid_thw"]]

    def _merged(self, patches: Any) -> Grid:
        merge = self.config.vision_config.spatial_merge_size
        t, h, w = (int(side) for side in patches)
        return Grid((t, h // merge, w // merge))


class Info2(ImagesOnly, qwen2_vl.Qwen2VLProcessingInfo):
    """Processing information of Qwen2-VL for images alone."""


class Processor2(PrunedProcessor, qwen2_vl.Qwen2VLMultiModalProcessor):
    """The processor of Qwen2-VL with fewer placeholders."""


@MULTIMODAL_REGISTRY.register_processor(
    Processor2, info=Info2, dummy_inputs=qwen2_vl.Qwen2VLDummyInputsBuilder
)
class PrunedQwen2VL(_Qwen, qwen2_vl.Qwen2VLForConditionalGeneration):
    """Qwen2-VL whose images keep the rows that a pruner chooses."""


class Info25(ImagesOnly, qwen2_5_vl.Qwen2_5_VLProcessingInfo):
    """Processing information of Qwen2.5-VL for images alone."""


class Processor25(PrunedProcessor, qwen2_5_vl.Qwen2_5_VLMultiModalProcessor):
    """The processor of Qwen2.5-VL with fewer placeholders."""


@MULTIMODAL_REGISTRY.register_processor(
    Processor25, info=Info25, dummy_inputs=qwen2_5_vl.Qwen2_5_VLDummyInputsBuilder
)
class PrunedQwen2_5_VL(_Qwen, qwen2_5_vl.Qwen2_5_VLForConditionalGeneration):
    """Qwen2.5-VL whose images keep the rows that a pruner chooses."""
