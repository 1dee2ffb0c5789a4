"""InternVL3 in the format of transformers, whose images are tiles in one run of tokens."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from vllm.model_executor.models import interns1

from vlm_bridge.vllm.model import Pruned, served_by
from vlm_bridge.vllm.positions import Grid
from vlm_bridge.vllm.processor import PrunedProcessor


class Processor(PrunedProcessor, interns1.InternS1MultiModalProcessor):
    """The processor of InternVL3 with fewer placeholders."""

    def _grids(self, kind: str, items: Any, outputs: Any) -> list[Grid]:
        length = self.info.get_hf_processor().image_seq_length
        return [Grid((tiles * length,)) for tiles in outputs["image_num_patches"].tolist()]

    def _around(self) -> tuple[str, str]:
        own = self.info.get_hf_processor()
        return own.image_token, own.start_image_token + own.end_image_token


@served_by(Processor, interns1.InternS1ProcessingInfo, interns1.InternS1DummyInputsBuilder)
class PrunedInternVL(Pruned, interns1.InternS1ForConditionalGeneration):
    """InternVL3 whose images keep the rows that a pruner chooses of all their tiles."""

    entries = MappingProxyType({"pixel_values": "image_num_patches"})
