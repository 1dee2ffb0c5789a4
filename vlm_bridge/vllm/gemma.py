"""Gemma 3, with compact positions: it has rotary embeddings of two kinds and sliding windows."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from vllm.model_executor.models import gemma3_mm

from vlm_bridge.vllm.model import Pruned, TowerNames, served_by
from vlm_bridge.vllm.positions import Grid
from vlm_bridge.vllm.processor import PrunedProcessor


class Processor(PrunedProcessor, gemma3_mm.Gemma3MultiModalProcessor):
    """The processor of Gemma 3 with fewer placeholders."""

    def _grids(self, kind: str, items: Any, outputs: Any) -> list[Grid]:
        length = self.info.get_hf_processor().image_seq_length
        return [Grid((crops * length,)) for crops in outputs["num_patches"].tolist()]

    def _around(self) -> tuple[str, str]:
        own = self.info.get_hf_processor()
        return own.boi_token, own.full_image_sequence.replace(own.tokenizer.image_token, "")


@served_by(Processor, gemma3_mm.Gemma3ProcessingInfo, gemma3_mm.Gemma3DummyInputsBuilder)
class PrunedGemma3(Pruned, TowerNames, gemma3_mm.Gemma3ForConditionalGeneration):
    """Gemma 3 whose images keep the rows that a pruner chooses."""

    entries = MappingProxyType({"pixel_values": "num_patches"})
