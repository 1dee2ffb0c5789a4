"""Check what the caller of `prune` or `prune_inputs` asks for, before the model is touched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlm_bridge.budget import check_keep
from vlm_bridge.errors import BridgeError
from vlm_bridge.model.layout import POSITIONS
from vlm_bridge.selection.fold import fold_name
from vlm_bridge.selection.given import as_tensor
from vlm_bridge.selection.request import Request

SEPARATORS = ("prune", "keep")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The arguments of `prune`, checked; `signals` and `options` are its further keyword arguments, separated.

    Raises
    ------
    BridgeError
        A value that no model could make right.
    """

    keep: Any
    method: str
    relevance: Any = None
    positions: str = "keep"
    fold: bool | str = False
    tol: float | None = None
    processor: Any = None
    clip: Any = None
    clean: Callable[[str], str] | None = None
    separators: str = "prune"
    signals: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_keep(self.keep, self.tol)
        for name, allowed in (("positions", POSITIONS), ("separators", SEPARATORS)):
            if getattr(self, name) not in allowed:
                raise BridgeError(f"{name} = {getattr(self, name)!r}: expected one of {', '.join(allowed)}.")
        object.__setattr__(self, "fold", fold_name(self.fold, self.method))
        if self.clean is not None and not callable(self.clean):
            raise BridgeError(
                f"clean = {self.clean!r}: expected a function of the prompt's text, such as clean_prompt."
            )
        self.request()

    def request(self) -> Request:
        """Return the pruner with its options; scores, which differ by image, are left to `scores`."""
        return Request.of(self.method, torch.ones(1) if self.has_scores else self.relevance, self.options)

    @property
    def has_scores(self) -> bool:
        """Whether `relevance` holds scores, one vector for each image."""
        return isinstance(self.relevance, (list, tuple, np.ndarray, Tensor))

    def scores(self, images: int) -> list[Tensor | None]:
        """Return the caller's relevance scores (n_i,) of each image; None where there are none."""
        if not self.has_scores:
            return [None] * images
        given = self.relevance
        if not isinstance(given, (list, tuple)):
            tensor = as_tensor("relevance", given)
            given = list(tensor) if tensor.ndim == 2 else [tensor] * images
        if len(given) != images:
            raise BridgeError(
                f"relevance lists {len(given)} score vectors for {images} images; give one for each."
            )
        return [as_tensor("relevance", one) for one in given]
