"""What a model of vLLM needs beside its own code to be pruned; `llava` and `qwen` apply it to the families."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from vllm.platforms import current_platform

from vlm_bridge.vllm.choice import Asked, choose
from vlm_bridge.vllm.positions import Grid, Placed, prompt_positions, settle, with_places
from vlm_bridge.vllm.processor import FIELD
from vlm_bridge.vllm.settings import NAME, engine_positions


class Pruned:
    """Mixed in before a model of vLLM; a family adds `grids`, the grid of each image of a call, and `grid_of` a feature."""

    supports_multimodal_pruning = True
    supported_video_pruning_methods = ("evs",)
    supports_mrope = True
    supports_encoder_cudagraph = False  # captured encoders bypass embed_multimodal

    config: Any

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        self.kept_positions = engine_positions(getattr(self.config, NAME, None))
        self.is_multimodal_pruning_enabled = False  # the family's own pruning of videos
        if self.kept_positions == "keep" and current_platform.is_cpu():
            _settle_on_cpu()

    def grid_of(self, feature: Any) -> Grid:
        """Return the grid of an image in a prompt."""
        raise NotImplementedError

    def embed_multimodal(self, **kwargs: Any) -> list[Tensor]:
        """Encode images, and return the rows of each that stay, with their places where positions are kept."""
        asked = [Asked.unpack(one) for one in kwargs.pop(FIELD, ())]
        grids = self.grids(kwargs)
        embed = self.get_language_model().embed_input_ids  # type: ignore[attr-defined]
        found = []
        images = list(super().embed_multimodal(**kwargs))  # type: ignore[misc]
        for image, one, grid in zip(images, asked, grids, strict=True):
            kept = choose(image, one, embed)
            rows = image[kept]
            found.append(with_places(rows, grid, kept) if self.kept_positions == "keep" else rows)
        return found

    def grids(self, kwargs: Any) -> list[Grid]:
        """Return the grids of the images of a call of `embed_multimodal`."""
        raise NotImplementedError

    def get_mrope_input_positions(
        self, input_tokens: Sequence[int], mm_features: Sequence[Any]
    ) -> tuple[Tensor, int]:
        """Return positions (3, length), pending where they depend on the choice."""
        # Of an image in the prefix cache little more than its grid is left: the settings are not.
        images = [
            Placed(one.mm_position.offset, one.mm_position.length, self.grid_of(one))
            for one in sorted(mm_features, key=lambda one: one.mm_position.offset)
        ]
        return prompt_positions(len(input_tokens), images, self.kept_positions)

    def recompute_mrope_positions(
        self,
        input_ids: Any,
        multimodal_embeddings: Sequence[Tensor],
        mrope_positions: Tensor,
        num_computed_tokens: int,
    ) -> tuple[list[Tensor], Tensor, int]:
        """Settle the positions of the tokens whose rows are given."""
        ids = torch.as_tensor(input_ids, device=mrope_positions.device)
        return settle(mrope_positions, ids == self.image_token, multimodal_embeddings, num_computed_tokens)

    @property
    def image_token(self) -> int:
        """Id of the placeholder of an image."""
        return getattr(self.config, "image_token_id", None) or self.config.image_token_index


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
