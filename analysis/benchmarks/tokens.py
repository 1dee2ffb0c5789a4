"""Visual tokens of real models as columns: those of several pictures side by side, as of a page or a video."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np

__all__ = ["MODELS", "columns"]


def columns(name: str, m: int, n: int) -> np.ndarray:
    """Return the first n tokens of a model, shape (m, n), float32.

    Raises
    ------
    FileNotFoundError
        The model is not on this machine; the message says how to get it.
    ValueError
        Its tokens are not of length m.
    """
    first = next(MODELS[name][1]())
    if first.shape[0] != m:
        raise ValueError(f"expected m = {first.shape[0]}, the length of {MODELS[name][0]}, got {m}")
    pictures = islice(MODELS[name][1](), -(-n // first.shape[1]))
    return np.concatenate(list(pictures), axis=1)[:, :n]


def _reference() -> Iterator[np.ndarray]:
    import torch

    from analysis import scenes

    model, processor = _loaded("reference")
    for number in range(1000):
        image = scenes.make(number).image
        with torch.inference_mode():
            inputs = processor(images=[image], text=["<image>"], return_tensors="pt")
            yield _columns(
                model.get_image_features(inputs["pixel_values"], return_dict=True).pooler_output[0]
            )


def _lite0() -> Iterator[np.ndarray]:
    from PIL import Image

    from analysis.real import lite0, photographs

    model = _loaded("lite0")
    for path in photographs.paths().values():
        with Image.open(path) as image:
            picture = photographs.crop(image, "square", lite0.SIDE)
        yield _columns(model.encode(photographs.prepare(picture)[None])[0])


def _decimer() -> Iterator[np.ndarray]:
    import torch

    from analysis.real import decimer, drawings

    model = _loaded("decimer")
    for molecule in drawings.molecules():
        with torch.inference_mode():
            yield _columns(model.encode(decimer.prepare(drawings.draw(molecule))[None])[0])


@lru_cache
def _loaded(name: str) -> Any:
    from analysis import reference
    from analysis.real import decimer, lite0

    return {"reference": reference.load, "lite0": lite0.load, "decimer": decimer.load}[name]()


def _columns(tokens: Any) -> np.ndarray:
    """Return tokens (n, d) as columns, in memory of their own."""
    return np.array(tokens.detach().numpy().T, dtype=np.float32, order="C")


#: Name -> (words for the table, its tokens picture by picture).
MODELS: dict[str, tuple[str, Callable[[], Iterator[np.ndarray]]]] = {
    "reference": ("tokens of the reference model", _reference),
    "lite0": ("tokens of EfficientNet-Lite0", _lite0),
    "decimer": ("tokens of DECIMER", _decimer),
}
