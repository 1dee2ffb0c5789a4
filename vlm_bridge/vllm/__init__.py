"""A plugin of vLLM: its models with fewer visual tokens; see ``docs/serving.md``.

`register` is the entry point. An engine whose settings do not name ``vlm_bridge`` is left as it is.
"""

from __future__ import annotations

from vlm_bridge.vllm.architectures import ARCHITECTURES


def register() -> None:
    """Add the pruned models to vLLM's table, and let the setting ``vlm_bridge`` choose them; called in each process."""
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    from vlm_bridge.vllm.config import PrunedConfig, choose_by_setting

    for place in ARCHITECTURES.values():
        name = place.partition(":")[2]
        ModelRegistry.register_model(name, place)
        MODELS_CONFIG_MAP[name] = PrunedConfig
    choose_by_setting()
