"""Which checkpoints are served with fewer visual tokens, and by which class."""

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
