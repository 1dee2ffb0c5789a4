"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL, whose images have grids of any shape and positions on three axes."""

from __future__ import annotations

from typing import Any

from vllm.model_executor.models import qwen2_5_vl, qwen2_vl, qwen3_vl

from vlm_bridge.vllm.model import Pruned, served_by
from vlm_bridge.vllm.positions import Grid
from vlm_bridge.vllm.processor import PrunedProcessor

ENTRIES = {"pixel_values": "image_grid_thw", "pixel_values_videos": "video_grid_thw"}


class _Processor(PrunedProcessor):
    """The grids of all, in tokens."""

    def _grids(self, kind: str, items: Any, outputs: Any) -> list[Grid]:
        merge = self.info.get_hf_config().vision_config.spatial_merge_size
        return [Grid((t, h // merge, w // merge)) for t, h, w in outputs[f"{kind}_grid_thw"].tolist()]


class Processor2(_Processor, qwen2_vl.Qwen2VLMultiModalProcessor):
    """The processor of Qwen2-VL with fewer placeholders."""


class Processor25(_Processor, qwen2_5_vl.Qwen2_5_VLMultiModalProcessor):
    """The processor of Qwen2.5-VL with fewer placeholders."""


class Processor3(_Processor, qwen3_vl.Qwen3VLMultiModalProcessor):
    """The processor of Qwen3-VL with fewer placeholders."""


@served_by(Processor2, qwen2_vl.Qwen2VLProcessingInfo, qwen2_vl.Qwen2VLDummyInputsBuilder, videos=True)
class PrunedQwen2VL(Pruned, qwen2_vl.Qwen2VLForConditionalGeneration):
    """Qwen2-VL whose images and videos keep the rows that a pruner chooses."""

    entries = ENTRIES


@served_by(Processor25, qwen2_5_vl.Qwen2_5_VLProcessingInfo, qwen2_5_vl.Qwen2_5_VLDummyInputsBuilder)
class PrunedQwen2_5_VL(Pruned, qwen2_5_vl.Qwen2_5_VLForConditionalGeneration):
    """Qwen2.5-VL whose images keep the rows that a pruner chooses."""

    entries = ENTRIES


@served_by(Processor3, qwen3_vl.Qwen3VLProcessingInfo, qwen3_vl.Qwen3VLDummyInputsBuilder)
class PrunedQwen3VL(Pruned, qwen3_vl.Qwen3VLForConditionalGeneration):
    """Qwen3-VL whose images keep the rows that a pruner chooses, and with them those for later layers."""

    entries = ENTRIES
