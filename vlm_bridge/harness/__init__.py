"""Adapters for evaluation harnesses; see ``docs/harnesses.md``. Imported by the harness, never by the bridge."""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """What lmms-eval asks for through the entry point: which classes stand behind ``--model vlm_bridge``."""
    from lmms_eval.models.registry_v2 import ModelManifest

    here = "vlm_bridge.harness.lmms"
    return ModelManifest("vlm_bridge", simple_class_path=f"{here}.Simple", chat_class_path=f"{here}.Chat")
