"""A plugin of vLLM: its models with fewer visual tokens; see ``docs/serving.md``.

`register` is the entry point. An engine whose settings do not name ``vlm_bridge`` is left as it is.
"""

from __future__ import annotations

from vlm_bridge.errors import BridgeError

ARCHITECTURES = {
    "LlavaForConditionalGeneration": "vlm_bridge.vllm.llava:PrunedLlava",
    "LlavaNextForConditionalGeneration": "vlm_bridge.vllm.llava:PrunedLlavaNext",
    "LlavaOnevisionForConditionalGeneration": "vlm_bridge.vllm.llava:PrunedLlavaOnevision",
    "Qwen2VLForConditionalGeneration": "vlm_bridge.vllm.qwen:PrunedQwen2VL",
    "Qwen2_5_VLForConditionalGeneration": "vlm_bridge.vllm.qwen:PrunedQwen2_5_VL",
    "Qwen3VLForConditionalGeneration": "vlm_bridge.vllm.qwen:PrunedQwen3VL",
    "InternVLForConditionalGeneration": "vlm_bridge.vllm.internvl:PrunedInternVL",
    "Gemma3ForConditionalGeneration": "vlm_bridge.vllm.gemma:PrunedGemma3",
}
"""Architecture of a checkpoint, and the class that serves it with fewer visual tokens."""


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


def pruned_architecture(names: list[str] | None) -> str:
    """Return the architecture that serves a checkpoint of the architectures `names` with fewer visual tokens.

    Raises
    ------
    BridgeError
        There is none; the message lists those that there are.

    Examples
    --------
    >>> pruned_architecture(["Qwen2VLForConditionalGeneration"])
    'PrunedQwen2VL'
    """
    pruned = {own: place.partition(":")[2] for own, place in ARCHITECTURES.items()}
    for name in names or ():
        if name in pruned or name in pruned.values():
            return pruned.get(name, name)
    raise BridgeError(
        f"vlm_bridge is set, and the checkpoint's architecture is {', '.join(names or ['not named'])}: expected one of "
        f"{', '.join(pruned)}. Leave vlm_bridge out to serve the model unpruned."
    )
