"""Adapters for evaluation harnesses, imported by the harness and never by the bridge; see ``docs/harnesses.md``."""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """Tell lmms-eval, through the entry point, which classes serve ``--model vlm_bridge``."""
    from lmms_eval.models.registry_v2 import ModelManifest

    here = "vlm_bridge.harness.lmms"
    return ModelManifest("vlm_bridge", simple_class_path=f"{here}.Simple", chat_class_path=f"{here}.Chat")
