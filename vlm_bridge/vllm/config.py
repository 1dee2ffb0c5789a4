"""Check the settings of an engine when it starts."""

from __future__ import annotations

from typing import Any

from vllm.config import ModelConfig
from vllm.model_executor.models.config import VerifyAndUpdateConfig

from vlm_bridge.errors import BridgeError
from vlm_bridge.vllm.architectures import pruned_architecture
from vlm_bridge.vllm.settings import NAME, engine_positions, parse


def choose_by_setting() -> None:
    """Let an engine whose settings name ``vlm_bridge`` load the pruned model of its checkpoint's architecture."""
    if hasattr(ModelConfig, "_vlm_bridge"):
        return
    own = ModelConfig.get_model_arch_config

    def get_model_arch_config(self: Any) -> Any:
        # The parts of a model get configurations made from the whole one, with architectures of their own.
        whole = getattr(self, "multimodal_config", None) is None
        if whole and getattr(self.hf_config, NAME, None) is not None:
            self.hf_config.architectures = [pruned_architecture(self.hf_config.architectures)]
        return own(self)

    ModelConfig._vlm_bridge = True
    ModelConfig.get_model_arch_config = get_model_arch_config


class PrunedConfig(VerifyAndUpdateConfig):
    """Check the engine's settings when it starts, and switch on positions that depend on the choice."""

    @staticmethod
    def verify_and_update_config(vllm_config: Any) -> None:
        """Refuse adapters of the vision tower, whose engine counts the tower's tokens by those that stay.

        Raises
        ------
        BridgeError
            ``--enable-tower-connector-lora``.
        """
        adapters = vllm_config.lora_config
        if adapters is not None and adapters.enable_tower_connector_lora:
            raise BridgeError(
                "enable_tower_connector_lora does not work with vlm_bridge: vLLM counts the tokens of the tower by those that "
                "stay. Leave it out; adapters of the language model are served."
            )

    @staticmethod
    def verify_and_update_model_config(model_config: Any) -> None:
        """Refuse wrong settings; for original positions, let the engine ask the model for them.

        Raises
        ------
        BridgeError
            A wrong setting, or original positions with a scaled rotary embedding, with one for each kind of layer, or
            with a sliding window.
        """
        settings = getattr(model_config.hf_config, NAME, None)
        parse(settings)
        if engine_positions(settings) == "compact":
            return
        text = model_config.hf_config.get_text_config()
        rope = dict(text.rope_parameters)
        advice = 'use "positions": "compact".'
        if any(isinstance(value, dict) for value in rope.values()):
            raise BridgeError(
                "positions = 'keep' needs one rotary embedding for all layers, and this model has several "
                f"({', '.join(rope)}): {advice}"
            )
        window = getattr(text, "sliding_window", None) if getattr(text, "use_sliding_window", True) else None
        if window is not None and window < model_config.max_model_len:
            raise BridgeError(
                f"positions = 'keep' leaves gaps, behind which layers with a window of {window} tokens would see too far, "
                f"and prompts may have {model_config.max_model_len} tokens: {advice}"
            )
        if "mrope_section" not in rope:
            if rope.get("rope_type", "default") != "default":
                raise BridgeError(
                    f"positions = 'keep' needs an unscaled rotary embedding, and this model's is {rope['rope_type']!r}: "
                    f"{advice}"
                )
            half = int(model_config.get_head_size() * rope.get("partial_rotary_factor", 1)) // 2
            # The axes of a line of tokens are alike, so that any division of the frequencies among them is right.
            text.rope_parameters = {**rope, "mrope_section": [half - 2 * (half // 3), half // 3, half // 3]}
        # vLLM asks a model for positions again, when rows are known, only where videos are pruned by a rate above 0; the
        # rate itself is not used: Qwen2-VL, the only one of these models that takes videos, does not read it.
        model_config.multimodal_config.video_pruning_rate = 0.5
