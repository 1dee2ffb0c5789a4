"""The shipped reference vision-language model: weights, processor and card lie beside this file."""

from __future__ import annotations

import json
from pathlib import Path

HERE = Path(__file__).parent


def folder_of(path: str | Path | None = None) -> Path:
    """Return the folder of a checkpoint: the shipped one by default; ``"neutral"`` and ``"transcribe"`` are those beside it."""
    if path is None or path == "":
        return HERE
    beside = HERE / path
    return beside if not Path(path).is_dir() and beside.is_dir() else Path(path)


def clip_folder(path: str | Path | None = None) -> Path:
    """Return where the text tower of a checkpoint is; checkpoints beside the shipped one share its vision tower, and so its text tower."""
    folder = folder_of(path)
    shared = folder.parent == HERE and not (folder / "clip").is_dir()
    return (HERE if shared else folder) / "clip"


def load(path: str | Path | None = None):
    """Return the model (float32, evaluation mode) and the processor of a local checkpoint, the shipped one by default.

    Parameters
    ----------
    path : str or Path, optional
        A folder written by ``save_pretrained``, or the name of one beside the shipped model, see `folder_of`.

    Raises
    ------
    FileNotFoundError
        The folder has no configuration or no weights; the message says which and how to get them.
    """
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = folder_of(path)
    for name, what in {"config.json": "configuration", "model.safetensors": "weights"}.items():
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"reference model: no {what} ({name}) in {folder}. The repository ships it: restore the file with git, "
                f"or train a new one with `python -m analysis train`."
            )
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return model.eval(), AutoProcessor.from_pretrained(folder, local_files_only=True)


def clip(path: str | Path | None = None):
    """Return the joint space of the model's vision tower with a text tower: (CLIPModel in float32, tokenizer).

    What ``vlm_bridge.prune(..., clip=...)`` takes for relevance in CLIP's space.

    Raises
    ------
    FileNotFoundError
        The folder of the checkpoint has no ``clip/`` beside the weights.
    """
    import torch
    from transformers import AutoTokenizer, CLIPModel

    folder = clip_folder(path)
    if not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(
            f"reference model: no text tower in {folder}. The repository ships it: restore it with git, or train a new one "
            "with `python -m analysis train`."
        )
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return model.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True)


def measured() -> dict[str, dict]:
    """Return what `analysis.training.evaluate` measured of the shipped model and, in ``seeds/``, of those of other seeds, by name."""
    cards = [HERE / "measured.json", *sorted((HERE / "seeds").glob("*.json"))]
    found = [json.loads(path.read_text()) for path in cards]
    return {f"seed {one['seed']}": one for one in found}
