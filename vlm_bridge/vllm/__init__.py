"""A plugin of vLLM: its models with fewer visual tokens; see ``docs/serving.md``.

`register` is the entry point. It only adds architectures under names of their own: an engine that does not ask for one
of them is left as it is.
"""

from __future__ import annotations

ARCHITECTURES = {
    "PrunedLlava": "vlm_bridge.vllm.llava:PrunedLlava",
    "PrunedQwen2VL": "vlm_bridge.vllm.qwen:PrunedQwen2VL",
    "PrunedQwen2_5_VL": "vlm_bridge.vllm.qwen:PrunedQwen2_5_VL",
}
"""Name of each architecture for ``--hf-overrides '{"architectures": [...]}'``, and its class."""


def register() -> None:
    """Add the architectures to vLLM's table; called by vLLM in each of its processes."""
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    from vlm_bridge.vllm.config import PrunedConfig

    for name, place in ARCHITECTURES.items():
        ModelRegistry.register_model(name, place)
        MODELS_CONFIG_MAP[name] = PrunedConfig
