"""What a row was made from: SHA-256 digests of a model, its processor and the code, so that a row is used again only for the same.

Digests are of content and know no paths: the same checkpoint in another folder has the same digest, another one in a folder of the same
name has not. Tensors are hashed where they lie in memory, on all cores: 1.5 GB/s a core, less than loading them takes.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import cssp
import vlm_bridge

SOURCES = {"cssp": cssp.__file__, "vlm_bridge": vlm_bridge.__file__, "study": __file__}
LIBRARIES = ("numpy", "pillow", "scipy", "tokenizers", "torch", "transformers")


def of_bytes(data: Any) -> str:
    """Return the SHA-256 digest of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def of_parts(parts: Iterable[tuple[str, Any]]) -> str:
    """Return the digest of named parts, in any order; each is bytes or what `json` can write."""
    known = {name: of_bytes(part) if isinstance(part, bytes) else part for name, part in parts}
    return of_bytes(json.dumps(known, sort_keys=True, default=str).encode())


def of_model(model: Any) -> str:
    """Return the digest of a loaded model: every parameter and buffer, its configuration, and that of `generate`."""
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashlib and torch let other threads run meanwhile
        parts = list(zip(tensors, pool.map(_of_tensor, tensors.values()), strict=True))
    parts.append(("config", _without_paths(model.config.to_dict())))
    generation = getattr(model, "generation_config", None)
    parts.append(("generation", generation and _without_paths(generation.to_dict())))
    return of_parts([("class", type(model).__name__), *parts])


def of_processor(processor: Any) -> str:
    """Return the digest of all that `save_pretrained` writes: sizes and means of images, vocabulary, special tokens, chat template."""
    with tempfile.TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        return _of_files(Path(folder), "*")


def of_code() -> str:
    """Return the digest of the code that makes rows: the sources of the packages and the versions of the libraries that compute."""
    sources = [(name, _of_files(Path(file).parent, "*.py")) for name, file in SOURCES.items()]
    return of_parts([*sources, *((name, version(name)) for name in LIBRARIES)])


def _of_tensor(tensor: torch.Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return f"{tensor.dtype} {tuple(tensor.shape)} {of_bytes(flat.view(torch.uint8).numpy())}"


def _of_files(folder: Path, pattern: str) -> str:
    files = (path for path in folder.rglob(pattern) if path.is_file())
    return of_parts((path.relative_to(folder).as_posix(), path.read_bytes()) for path in files)


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _without_paths(v) for k, v in value.items() if k != "_name_or_path"}
    return value
