"""Checkpoints as the command line loads them: from safetensors only, and without running their code unless that is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from vlm_bridge.errors import BridgeError

__all__ = ["device_of", "load", "load_clip"]


def device_of(name: str | None) -> str:
    """Return the device that was asked for, else cuda where there is one, else cpu."""
    return name or ("cuda" if torch.cuda.is_available() else "cpu")


def load(path: str, device: str, dtype: str = "auto", trust_remote_code: bool = False) -> tuple[Any, Any]:
    """Load a model, in evaluation mode, and its processor; for a folder nothing is looked up on the hub.

    Raises
    ------
    BridgeError
        There is no such folder, or the processor takes no images.
    OSError, ValueError
        Raised by transformers: no safetensors, an architecture without image input, or code of the checkpoint's own.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    common = {"local_files_only": Path(path).is_dir(), "trust_remote_code": trust_remote_code}
    if path.startswith((".", "/", "~")) and not Path(path).is_dir():
        raise BridgeError(f"--model {path}: no such folder.")
    stored: Any = getattr(torch, dtype, "auto")
    if dtype == "auto" and torch.device(device).type == "cpu":
        stored = torch.float32
    processor = AutoProcessor.from_pretrained(path, **common)
    if getattr(processor, "image_processor", None) is None:
        raise BridgeError(
            f"--model {path}: {type(processor).__name__} takes no images: expected a vision-language model."
        )
    loader: Any = AutoModelForImageTextToText
    model = loader.from_pretrained(path, dtype=stored, use_safetensors=True, **common)
    return model.to(device).eval(), processor


def load_clip(path: str, device: str) -> tuple[Any, Any]:
    """Load a CLIP model, in evaluation mode, and its tokenizer."""
    from transformers import AutoTokenizer, CLIPModel

    local = Path(path).is_dir()
    model: Any = CLIPModel.from_pretrained(path, use_safetensors=True, local_files_only=local)
    return model.to(device).eval(), AutoTokenizer.from_pretrained(path, local_files_only=local)
